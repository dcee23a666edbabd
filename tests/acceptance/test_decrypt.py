"""`esgbatch decrypt` with real gpg: plaintext only where it was asked for, and the trail tells of every try."""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.acceptance.desk import Desk, seated
from tests.acceptance.firm import DAY, TestFirm, firm
from tests.keys import gpg, gpg_home, make_key

PASSPHRASE = "open sesame"


@pytest.fixture(scope="module")
def delivered(tmp_path_factory: pytest.TempPathFactory) -> Iterator[TestFirm]:
    with firm(tmp_path_factory.mktemp("decrypt"), 30) as each:
        each.run("run")
        yield each


@pytest.fixture
def desk(
    delivered: TestFirm, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Desk:
    monkeypatch.setenv("GNUPGHOME", str(delivered.desk.home))
    return seated(delivered, tmp_path, monkeypatch, capsys)


def archived(desk: Desk) -> Path:
    return desk.state / "archive" / f"{DAY:%Y%m%d}" / "r1" / f"FirmESGRatings_{DAY:%Y%m%d}.csv.pgp"


def refused(desk: Desk) -> dict[str, object]:
    (record,) = desk.records("decryption_refused")
    assert not desk.records("decrypted")
    details: dict[str, object] = record["details"]
    return details


def to_stdout(desk: Desk, *arguments: str | Path) -> subprocess.CompletedProcess[bytes]:
    command = [
        sys.executable,
        "-m",
        "esgbatch",
        "decrypt",
        *map(str, arguments),
        "--config",
        str(desk.firm.config),
    ]
    return subprocess.run(command, capture_output=True, stdin=subprocess.DEVNULL, timeout=60)


def test_the_bytes_go_to_stdout_and_the_trail_tells_who_opened_what(desk: Desk) -> None:
    done = to_stdout(desk, archived(desk))
    assert done.stdout == desk.firm.expected()
    assert f"It is FirmESGRatings_{DAY:%Y%m%d}.csv, revision 1, all of it as" in done.stderr.decode()
    (record,) = desk.records("decrypted")
    details, manifest = record["details"], desk.firm.manifest()
    assert record["business_date"] == str(DAY)
    assert record["actor"]["user"]
    assert record["actor"]["process"].endswith("decrypt")
    assert details["encrypted_sha256"] == manifest["encrypted"]["sha256"]
    assert details["plaintext_sha256"] == manifest["plaintext"]["sha256"]
    assert (details["revision"], details["vouched"], details["output"]) == (1, True, "stdout")
    assert len(details["key"]) == 40
    desk.call("audit", "verify")


def test_to_a_private_file_that_is_never_overwritten_unasked(desk: Desk) -> None:
    target = desk.folder / "opened.csv"
    out, _ = desk.call("decrypt", archived(desk), "--output", target)
    assert out == ""
    assert target.read_bytes() == desk.firm.expected()
    assert target.stat().st_mode & 0o777 == 0o600
    target.write_text("mine")
    desk.call("decrypt", archived(desk), "--output", target, code=2)
    assert target.read_text() == "mine"
    desk.call("decrypt", archived(desk), "--output", target, "--force")
    assert target.read_bytes() == desk.firm.expected()
    into = desk.folder / "folder"
    into.mkdir()
    desk.call("decrypt", archived(desk), "--output", into)
    assert [path.name for path in into.iterdir()] == [f"FirmESGRatings_{DAY:%Y%m%d}.csv"]
    desk.call("decrypt", archived(desk), "--output", archived(desk), "--force", code=2)
    desk.call("decrypt", archived(desk), "--output", desk.folder / "nowhere" / "x", code=2)


def test_a_link_at_the_output_is_replaced_and_not_followed(desk: Desk) -> None:
    victim, link = desk.folder / "victim", desk.folder / "link"
    victim.write_text("safe")
    link.symlink_to(victim)
    desk.call("decrypt", archived(desk), "--output", link, "--force")
    assert victim.read_text() == "safe"
    assert not link.is_symlink()


def test_the_delivered_file_is_known_by_its_manifest_beside_it_and_a_lost_one_by_the_archive(
    desk: Desk,
) -> None:
    _, err = desk.call("decrypt", desk.firm.sealed, "--output", desk.folder / "1")
    assert str(desk.firm.drop) in err
    alone = desk.folder / desk.firm.sealed.name
    shutil.copy(desk.firm.sealed, alone)
    _, err = desk.call("decrypt", alone, "--output", desk.folder / "2")
    assert str(desk.state) in err
    shutil.rmtree(desk.state / "archive")
    _, err = desk.call("decrypt", alone, "--output", desk.folder / "3")
    assert "no manifest was found to compare it with" in err
    assert [record["details"]["vouched"] for record in desk.records("decrypted")] == [True, True, False]


def test_a_changed_file_is_refused_and_nothing_comes_out(desk: Desk) -> None:
    sealed = archived(desk)
    content = bytearray(sealed.read_bytes())
    content[-40] ^= 1
    sealed.write_bytes(content)
    done = to_stdout(desk, sealed)
    assert (done.returncode, done.stdout) == (15, b"")
    assert b"not the file that the manifest" in done.stderr
    assert refused(desk)["encrypted_sha256"] == hashlib.sha256(content).hexdigest()
    shutil.rmtree(desk.state / "archive" / f"{DAY:%Y%m%d}" / "r1")
    sealed = desk.folder / "other.pgp"
    for broken in (bytes(content), bytes(content[:-100]), b"", b"hello\n"):
        sealed.write_bytes(broken)
        desk.call("decrypt", sealed, "--output", desk.folder / "out", code=15)
        assert not list(desk.folder.glob("out*"))


def test_another_file_under_a_known_name_is_refused(desk: Desk, tmp_path: Path) -> None:
    """Sealed for the right reader by somebody else: it opens, and is not what was delivered."""
    sealed = archived(desk)
    with gpg_home() as home:
        gpg(home, "--trust-model", "always", "--recipient-file", desk.firm.desk.public_key, "--yes",
            "--output", sealed, "--encrypt", data=b"forged\r\n")  # fmt: skip
    done = to_stdout(desk, sealed)
    assert (done.returncode, done.stdout) == (15, b"")
    assert refused(desk)["error"] == "EncryptionError"


def test_without_the_key_it_stays_closed_and_the_trail_tells(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    with gpg_home() as home:
        monkeypatch.setenv("GNUPGHOME", str(home))
        _, err = desk.call("decrypt", archived(desk), code=15)
    assert "Nothing in your keyring opens this file" in err
    assert (refused(desk)["error"], refused(desk)["code"]) == ("EncryptionError", 15)
    monkeypatch.setenv("GNUPGHOME", str(desk.folder / "none"))
    _, err = desk.call("decrypt", archived(desk), code=10)
    assert "There is no keyring" in err
    assert "Next: name a file" in desk.call("decrypt", desk.folder / "no such file", code=2)[1]
    assert len(desk.records("decryption_refused")) == 3


def test_where_the_trail_cannot_be_written_nothing_is_opened(desk: Desk) -> None:
    desk.trail.write_bytes(desk.trail.read_bytes()[:-4] + b'x"}\n')
    done = to_stdout(desk, archived(desk))
    assert (done.returncode, done.stdout) == (22, b"")


def test_with_a_key_file_and_its_passphrase(
    desk: Desk, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    key = make_key(tmp_path, "officer", passphrase=PASSPHRASE)
    other = make_key(tmp_path, "other")
    monkeypatch.setenv("GNUPGHOME", str(tmp_path / "none"))
    sealed = tmp_path / "for-officer.pgp"
    with gpg_home() as home:
        gpg(home, "--trust-model", "always", "--recipient-file", key.public, "--output", sealed,
            "--set-filename", "inside\x1b[2J.csv", "--encrypt", data=b"hello\r\n")  # fmt: skip
    words = tmp_path / "passphrase"
    words.touch(mode=0o600)
    words.write_text(f"{PASSPHRASE}\n")
    with_key = ("--key", key.secret, "--passphrase-file", words)
    _, err = desk.call("decrypt", sealed, "--output", tmp_path / "opened", *with_key)
    assert (tmp_path / "opened").read_bytes() == b"hello\r\n"
    assert r"inside\x1b[2J.csv" in err
    words.write_text("mistaken\n")
    _, err = desk.call("decrypt", sealed, *with_key, code=10)
    assert "passphrase is missing or wrong" in err
    desk.call("decrypt", sealed, "--key", key.secret, code=10)
    desk.call("decrypt", sealed, "--key", other.secret, code=15)
    desk.call("decrypt", sealed, "--key", key.public, code=10)
    words.chmod(0o644)
    desk.call("decrypt", sealed, *with_key, code=10)
    key.secret.chmod(0o644)
    desk.call("decrypt", sealed, *with_key, code=10)
    desk.call("decrypt", sealed, "--passphrase-file", words, code=2)
    assert PASSPHRASE not in desk.trail.read_text()


def test_what_would_act_on_a_terminal_is_shown_as_text(desk: Desk, tmp_path: Path) -> None:
    sealed = tmp_path / "x.pgp"
    with gpg_home() as home:
        gpg(home, "--trust-model", "always", "--recipient-file", desk.firm.desk.public_key,
            "--output", sealed, "--encrypt", data=b"A-1,\x1b]0;owned\x07\x9b2J\r\nA-2,x\r\n")  # fmt: skip
    main, terminal = os.openpty()
    try:
        command = [sys.executable, "-m", "esgbatch", "decrypt", str(sealed), "--config", str(desk.firm.config)]
        done = subprocess.run(
            command, stdin=subprocess.DEVNULL, stdout=terminal, stderr=subprocess.PIPE, timeout=60
        )
        assert done.returncode == 0, done.stderr
        shown = os.read(main, 65536)
    finally:
        os.close(main)
        os.close(terminal)
    assert b"A-1," in shown
    assert all(byte in b"\r\n" or 32 <= byte < 127 for byte in shown.replace("\ufffd".encode(), b""))
