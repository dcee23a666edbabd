"""`esgbatch audit export`: an auditor's steps in docs/compliance.md find what is wrong, and nothing else."""

from __future__ import annotations

import json
import os
import re
import subprocess
import zipfile
from collections.abc import Iterator
from importlib.resources import files
from pathlib import Path

import pytest

from esgbatch.compliance.audit import KEY_FILE
from tests.acceptance.desk import Desk, seated
from tests.acceptance.firm import DAY, TestFirm, firm
from tests.keys import KeyPair, gpg_home, make_key

PAGE = Path(__file__).parents[2] / "docs" / "compliance.md"
PASSPHRASE = "open sesame"
ALL = (1, 2, 3, 4, 5)


@pytest.fixture(scope="module")
def delivered(tmp_path_factory: pytest.TempPathFactory) -> Iterator[TestFirm]:
    with firm(tmp_path_factory.mktemp("bundle"), 20) as each:
        each.run("run")
        each.run("deliver")
        yield each


@pytest.fixture(scope="module")
def signing(tmp_path_factory: pytest.TempPathFactory) -> KeyPair:
    return make_key(tmp_path_factory.mktemp("keys"), "signing", passphrase=PASSPHRASE)


@pytest.fixture
def desk(
    delivered: TestFirm, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Desk:
    return seated(delivered, tmp_path, monkeypatch, capsys)


@pytest.fixture
def auditor() -> Iterator[Path]:
    with gpg_home() as home:
        yield home


def steps() -> list[str]:
    """Unpack, 1 files, 2 signature, 3 chain, 4 anchor, 5 hashes."""
    page = PAGE.read_text()
    part = page[page.index("## For auditors") : page.index("## Who read the file")]
    return re.findall(r"```sh\n(.*?)```", part, re.DOTALL)


def follow(
    folder: Path, home: Path, *, anchor: str, key: str, only: tuple[int, ...] = ALL, unpack: bool = True
) -> str:
    """Do what the page says, in one shell, and return all that is seen."""
    unpacking, *rest = steps()
    script = unpacking if unpack else "cd audit\n"
    script += "".join(rest[number - 1] for number in only)
    script = script.replace("ANCHOR=4711:0123...", f"ANCHOR={anchor}").replace("KEY=00112233...", f"KEY={key}")
    done = subprocess.run(
        ["sh", "-c", script],
        cwd=folder,
        env={"PATH": os.environ["PATH"], "GNUPGHOME": str(home), "LC_ALL": "C"},
        capture_output=True,
        text=True,
        timeout=60,
    )
    return done.stdout + done.stderr


def key_of(desk: Desk) -> str:
    shown = re.search(r"od -An[^\n`]*", PAGE.read_text())
    assert shown
    done = subprocess.run(["sh", "-c", shown[0]], cwd=desk.state, capture_output=True, text=True, check=True)
    assert done.stdout == (desk.state / KEY_FILE).read_bytes().hex()
    return done.stdout


def sign_with(desk: Desk, key: KeyPair) -> None:
    desk.monkeypatch.setenv("SIGNING", PASSPHRASE)
    desk.set(ENCRYPTION__SIGN_WITH=key.secret, ENCRYPTION__PASSPHRASE='{ env = "SIGNING" }')


def test_the_page_and_the_bundle_tell_the_same_steps() -> None:
    inside = (files("esgbatch.compliance") / "VERIFY.txt").read_text()
    for block in steps()[1:]:
        assert "".join(f"    {line}".rstrip() + "\n" for line in block.splitlines()) in inside


def test_an_auditor_checks_a_signed_bundle_without_us(desk: Desk, signing: KeyPair, auditor: Path) -> None:
    sign_with(desk, signing)
    out, err = desk.call("audit", "export", "--output", desk.folder / "audit.zip")
    assert signing.fingerprint in out
    assert err == ""
    seen = follow(desk.folder, auditor, anchor=desk.firm.manifest()["audit_anchor"], key=key_of(desk))
    assert [line for line in seen.splitlines() if not line.startswith("gpg:")] == [
        "files: as they were listed",
        "chain: 5 records without a gap",
        "records: 5 shown, all in the chain",
        "anchor: agrees",
        "records: every hash looked at",
        f"Primary key fingerprint: {' '.join(spaced(signing.fingerprint))}",
    ]
    assert "gpg: Good signature" in seen
    (told,) = desk.records("exported")
    assert told["details"]["signed_by"] == signing.fingerprint
    assert told["details"]["bundle_sha256"] in out
    desk.call("audit", "verify")


def spaced(fingerprint: str) -> list[str]:
    """As gpg prints it: blocks of four, two spaces in the middle."""
    blocks = [fingerprint[at : at + 4] for at in range(0, 40, 4)]
    return [*blocks[:5], "", *blocks[5:]]


def test_what_is_in_it(desk: Desk) -> None:
    desk.call("audit", "export", "--output", desk.folder / "audit.zip")
    assert (desk.folder / "audit.zip").stat().st_mode & 0o777 == 0o600
    with zipfile.ZipFile(desk.folder / "audit.zip") as bundle:
        names = set(bundle.namelist())
        manifest = f"manifests/{DAY:%Y%m%d}/r1/FirmESGRatings_{DAY:%Y%m%d}.manifest.json"
        assert {"records.jsonl", "chain.tsv", manifest, "VERIFY.txt", "SHA256SUMS"} <= names
        assert bundle.read(manifest) == (desk.firm.drop / Path(manifest).name).read_bytes()
        assert bundle.read("records.jsonl") == b"".join(desk.trail.read_bytes().splitlines(keepends=True)[:5])
        everything = b"".join(bundle.read(name) for name in names)
    assert (desk.state / KEY_FILE).read_bytes().hex().encode() not in everything
    assert (desk.state / KEY_FILE).read_bytes() not in everything


@pytest.mark.parametrize(
    ("arguments", "shown"),
    [
        (["--date", str(DAY)], 4),
        (["--since", "2999-01-01"], 0),
        (["--until", "2999-01-01", "--since", "2020-01-01"], 5),
    ],
)
def test_a_part_keeps_the_whole_chain(desk: Desk, auditor: Path, arguments: list[str], shown: int) -> None:
    out, err = desk.call("audit", "export", "--output", desk.folder / "audit.zip", *arguments)
    assert "it is not signed" in err
    seen = follow(
        desk.folder, auditor, anchor=desk.firm.manifest()["audit_anchor"], key=key_of(desk), only=(1, 3, 4, 5)
    )
    assert seen.splitlines() == [
        "files: as they were listed",
        "chain: 5 records without a gap",
        f"records: {shown} shown, all in the chain",
        "anchor: agrees",
        "records: every hash looked at",
    ]
    assert f"{shown:,} records" in out


def test_a_change_in_a_bundle_is_found_by_the_steps(desk: Desk, signing: KeyPair, auditor: Path) -> None:
    sign_with(desk, signing)
    desk.call("audit", "export", "--output", desk.folder / "audit.zip")
    anchor, key = desk.firm.manifest()["audit_anchor"], key_of(desk)
    follow(desk.folder, auditor, anchor=anchor, key=key, only=())
    folder = desk.folder / "audit"
    original = {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()}

    def seen(name: str, content: bytes, *only: int) -> str:
        for each, before in original.items():
            (folder / each).write_bytes(before)
        (folder / name).write_bytes(content)
        return follow(desk.folder, auditor, anchor=anchor, key=key, only=only, unpack=False)

    records, chain = original["records.jsonl"], original["chain.tsv"]
    forged = records.replace(b'"rows":20', b'"rows":21', 1)
    assert forged != records
    assert "records.jsonl: FAILED" in seen("records.jsonl", forged, 1)
    assert "NOT ALL IN THE CHAIN" in seen("records.jsonl", forged, 3)
    assert "records: FORGED" in seen("records.jsonl", forged, 5)
    assert "BAD signature" in seen("SHA256SUMS", original["SHA256SUMS"].replace(b"a", b"b"), 2)
    lines = chain.splitlines(keepends=True)
    assert "BROKEN at record 2" in seen("chain.tsv", b"".join([lines[0], *lines[2:]]), 3)
    assert "BROKEN at record 3" in seen("chain.tsv", b"".join([*lines[:2], lines[3], lines[2], lines[4]]), 3)
    assert "anchor: DIFFERS" in seen("chain.tsv", b"".join(lines[:2]), 4)


def test_a_broken_trail_is_not_exported(desk: Desk) -> None:
    desk.trail.write_bytes(desk.trail.read_bytes().replace(b'"rows":20', b'"rows":21', 1))
    desk.call("audit", "export", "--output", desk.folder / "audit.zip", code=22)
    assert not list(desk.folder.glob("audit.zip*"))


def test_a_bundle_is_never_overwritten_unasked(desk: Desk) -> None:
    (desk.folder / "audit.zip").write_text("mine")
    desk.call("audit", "export", "--output", desk.folder / "audit.zip", code=2)
    assert (desk.folder / "audit.zip").read_text() == "mine"
    desk.call("audit", "export", "--output", desk.folder / "audit.zip", "--force")
    desk.call("audit", "export", "--output", "/nowhere/audit.zip", code=2)
    with zipfile.ZipFile(desk.folder / "audit.zip") as bundle:
        assert json.loads(bundle.read("about.json"))["records"] == 5
