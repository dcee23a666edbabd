"""`esgbatch audit ingest` on what a real sshd's internal-sftp logs of real readers."""

from __future__ import annotations

import gzip
import hashlib
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.acceptance.desk import Desk, seated
from tests.acceptance.firm import DAY, TestFirm, _overrides, firm
from tests.acceptance.sshd import Sshd, make_key
from tests.acceptance.syslog import HOST, syslog

READER = "nobody"  # a real user of its own, on every Unix


@dataclass
class Watched:
    firm: TestFirm
    lines: list[str]
    iso_lines: list[str]


def sftp(server: Sshd, user: str, key: Path, *commands: str) -> None:
    options = [f"-oUserKnownHostsFile={server.known_hosts}", "-oIdentitiesOnly=yes", "-oBatchMode=yes"]
    command = ["sftp", "-qb-", "-i", str(key), "-P", str(server.port), *options, f"{user}@{server.host}"]
    done = subprocess.run(
        command, input="".join(f"{each}\n" for each in commands), text=True, capture_output=True, timeout=60
    )
    assert done.returncode == 0, done.stderr


@pytest.fixture(scope="module", params=["INFO", "VERBOSE"])
def watched(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Watched]:
    """A night delivered and delivered again; two readers, one of them with the job's own user."""
    # Everybody can go there, unlike into pytest's folders.
    public = Path(tempfile.mkdtemp(prefix="esgbatch-drop-", dir="/tmp"))
    public.chmod(0o755)
    try:
        with firm(tmp_path_factory.mktemp("ingest"), 20) as each, syslog() as log:
            server = Sshd(public / "sshd", subsystem=f"internal-sftp -l {request.param}")
            for folder in (server.folder, server.drop):
                folder.chmod(0o755)
            server.configure(f"AllowUsers {READER}")
            reader_key = make_key(public / "reader_key")
            keys = [path.with_suffix(".pub").read_text() for path in (server.client_key, reader_key)]
            (server.folder / "authorized_keys").write_text("".join(keys))
            (server.folder / "authorized_keys").chmod(0o644)
            with server:
                each.environment |= _overrides(server) | {"ESGBATCH_DELIVERY__MODE": "0644"}
                each.sshd = server
                each.run("run")
                name = f"{server.drop}/FirmESGRatings_{DAY:%Y%m%d}"
                mine = public / "mine"
                mine.mkdir()
                sftp(
                    server, READER, reader_key,
                    f"get {name}.csv.pgp {mine}/1", f"get {name}.csv.pgp {mine}/2",
                    f"get {name}.manifest.json {mine}/3", f"-get {server.drop}/other {mine}/4",
                    f"-rm {name}.csv.pgp",
                )  # fmt: skip
                each.run("deliver")
                sftp(server, server.username, server.client_key, f"get {name}.csv.pgp {mine}/5")
                log.wait_for("session closed for local user", 4)
                yield Watched(each, log.lines(), log.iso_lines())
    finally:
        shutil.rmtree(public)


@pytest.fixture
def desk(
    watched: Watched, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Desk:
    return seated(watched.firm, tmp_path, monkeypatch, capsys)


def told(desk: Desk) -> list[tuple[str, str, str, int | None, str | None]]:
    return [
        (record["action"], each["user"], each["file"], each.get("bytes"), each.get("refused"))
        for record in desk.records()
        if record["action"].startswith("drop_")
        for each in [record["details"]]
    ]


def expected(watched: Watched) -> list[tuple[str, str, str, int | None, str | None]]:
    sealed = f"FirmESGRatings_{DAY:%Y%m%d}.csv.pgp"
    manifest = sealed.replace(".csv.pgp", ".manifest.json")
    sizes = {name: (watched.firm.drop / name).stat().st_size for name in (sealed, manifest)}
    read = [
        (f"drop_{kind}", user, name, sizes[name] if kind == "read" else None, None)
        for user, name in [*[(READER, sealed)] * 2, (READER, manifest), (watched.firm.sshd.username, sealed)]
        for kind in ("opened", "read")
    ]
    return [*read, ("drop_removed", READER, sealed, None, "Permission denied")]


def test_each_open_and_read_by_others_is_in_the_trail_once(desk: Desk, watched: Watched) -> None:
    log = desk.folder / "auth.log"
    log.write_text("".join(watched.lines))
    out, err = desk.call("audit", "ingest", log)
    assert err == ""
    assert sorted(told(desk), key=str) == sorted(expected(watched), key=str)
    assert "9 of them new" in out
    record = desk.records("drop_read")[0]
    assert record["business_date"] == str(DAY)
    assert record["details"]["server"] == HOST
    assert record["details"]["address"] == "127.0.0.1"
    assert record["details"]["at"].endswith("Z")
    assert record["details"]["encrypted_sha256"] == hashlib.sha256(watched.firm.sealed.read_bytes()).hexdigest()
    desk.call("audit", "verify")
    content, _ = desk.call("audit", "show", "--account", watched.firm.books.account_id(1))
    assert f"drop_read  {READER}" in content


def test_however_often_and_however_they_come(desk: Desk, watched: Watched) -> None:
    lines = watched.lines
    folder = desk.folder / "log"
    folder.mkdir()
    whole = "".join(lines).encode()
    middle = whole.index(b"open ", len(whole) // 3) + 20  # amid a line
    (folder / "auth.log.2.gz").write_bytes(gzip.compress(whole[:middle]))
    (folder / "auth.log.1").write_bytes(whole[middle:])
    (folder / "auth.log").write_text("")
    (folder / "doubled").write_bytes(whole * 2)
    (folder / "every line twice").write_text("".join(line * 2 for line in lines))
    (folder / "iso").write_text("".join(watched.iso_lines))
    (folder / "torn").write_bytes(whole[: len(whole) * 2 // 3])
    rotated = [folder / name for name in ("auth.log", "auth.log.1", "auth.log.2.gz")]
    desk.call("audit", "ingest", *rotated)
    assert sorted(told(desk), key=str) == sorted(expected(watched), key=str)
    before = desk.trail.read_bytes()
    copies = ([folder / name] for name in ("doubled", "every line twice", "iso"))
    for again in (rotated, reversed(rotated), *copies):
        out, _ = desk.call("audit", "ingest", *again)
        assert " 0 of them new" in out
    desk.call("audit", "ingest", folder / "torn")
    desk.call("audit", "ingest", *sorted(folder.iterdir()))
    assert desk.trail.read_bytes() == before


def test_a_growing_log_read_again_and_again_comes_to_the_same(desk: Desk, watched: Watched) -> None:
    log = desk.folder / "auth.log"
    whole = "".join(watched.lines).encode()
    for part in (3, 2, 1):
        log.write_bytes(whole[: len(whole) // part])
        desk.call("audit", "ingest", log)
    assert sorted(told(desk), key=str) == sorted(expected(watched), key=str)
