"""What an attacker may try from each side, through the command line; docs/security.md says what is left.

The trail itself is attacked in test_audit_command.py, the SFTP log in test_sftplog.py.
"""

from __future__ import annotations

import csv
import http.server
import io
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import unquote

import pytest

from tests.acceptance.firm import DAY, TestFirm, firm
from tests.acceptance.sshd import Sshd
from tests.keys import make_key

pytestmark = pytest.mark.alone

SEALED = f"FirmESGRatings_{DAY:%Y%m%d}.csv.pgp"


@pytest.fixture(scope="module")
def servers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[TestFirm]:
    with firm(tmp_path_factory.mktemp("attacks"), 20) as each:
        yield each


@pytest.fixture
def target(servers: TestFirm, tmp_path: Path) -> Iterator[TestFirm]:
    """The firm with a state, a log and a drop folder of the test's own."""
    before = dict(servers.environment)
    drop = tmp_path / "drop"
    drop.mkdir()
    servers.environment |= {
        "ESGBATCH_JOB__STATE_DIR": str(tmp_path / "state"),
        "ESGBATCH_LOGGING__DIRECTORY": str(tmp_path / "logs"),
        "ESGBATCH_DELIVERY__DIRECTORY": str(drop),
    }
    yield servers
    servers.environment = before


def trail(folder: Path) -> list[dict[str, object]]:
    return [json.loads(line) for line in (folder / "state" / "audit.jsonl").read_text().splitlines()]


# --- keys --------------------------------------------------------------------------------------


def test_an_exchanged_recipient_key_stops_the_run_before_any_account_is_rated(
    target: TestFirm, tmp_path: Path
) -> None:
    mallory = make_key(tmp_path, "compliance")
    target.environment["ESGBATCH_ENCRYPTION__RECIPIENTS"] = f'["{mallory.public}"]'
    asked = target.server.stats()["esg"]["requests"]
    ran = target.run("run", code=10)
    assert mallory.fingerprint in ran.err
    assert "was exchanged" in ran.err
    assert target.server.stats()["esg"]["requests"] == asked
    assert list((tmp_path / "drop").iterdir()) == []
    assert [record["action"] for record in trail(tmp_path)] == ["config_changed", "refused"]


def test_who_stands_between_us_and_the_sftp_server_gets_nothing(target: TestFirm, tmp_path: Path) -> None:
    with Sshd(tmp_path / "mitm") as mallory:
        known = mallory.write_known_hosts(tmp_path / "known_hosts", target.sshd.host_keys[0])
        target.environment |= {
            "ESGBATCH_DELIVERY__PORT": str(mallory.port),
            "ESGBATCH_DELIVERY__KNOWN_HOSTS": str(known),
        }
        ran = target.run("run", code=16)
        assert len(set(re.findall(r"SHA256:\S+?(?=[,.]? )", ran.err))) == 2, "what was shown, what was expected"
        heard = mallory.log.read_text()
        assert "Accepted" not in heard
        assert "publickey" not in heard, "not even the public key was offered"
        assert list(mallory.drop.iterdir()) == []
        target.run("deliver", code=16)
    assert [record["action"] for record in trail(tmp_path)][-3:] == ["sealed", "refused", "refused"]


# --- links -------------------------------------------------------------------------------------


@pytest.fixture
def state(tmp_path: Path) -> Path:
    """A state folder that an attacker was in before us."""
    folder = tmp_path / "state"
    folder.mkdir(mode=0o700)
    return folder


def test_folders_of_the_archive_that_are_links_are_not_written_through(
    target: TestFirm, tmp_path: Path, state: Path
) -> None:
    victim = tmp_path / "victim"
    victim.mkdir()
    for planted in ("archive", f"archive/{DAY:%Y%m%d}", f"archive/{DAY:%Y%m%d}/r1"):
        link = state / planted
        link.parent.mkdir(exist_ok=True)
        link.symlink_to(victim)
        ran = target.run("run", code=15)
        assert "symbolic link" in ran.err
        assert not list(victim.iterdir())
        link.unlink()
    target.run("resume")
    assert not list(victim.iterdir())


def test_files_that_are_links_are_replaced_or_refused_and_never_written_through(
    target: TestFirm, tmp_path: Path, state: Path
) -> None:
    victim = tmp_path / "victim"
    victim.write_text("untouched")
    folder = state / "archive" / f"{DAY:%Y%m%d}" / "r1"
    folder.mkdir(parents=True)
    (state / "keyring").mkdir()
    manifest = SEALED.replace(".csv.pgp", ".manifest.json")
    part = folder / f"{SEALED}.part"
    for link in (part, folder / SEALED, folder / f"{manifest}.part", state / "keyring" / "audit.key.part"):
        link.symlink_to(victim)
    ran = target.run("run", code=15)
    assert "symbolic link" in ran.err
    part.unlink()
    target.run("resume")
    assert victim.read_text() == "untouched"
    assert sorted(path.name for path in folder.iterdir() if not path.is_symlink()) == [SEALED, manifest]


def test_a_trail_that_is_a_link_is_not_followed(target: TestFirm, tmp_path: Path, state: Path) -> None:
    (tmp_path / "victim").write_text("untouched")
    (state / "keyring").mkdir(mode=0o700)
    (state / "keyring" / "audit.key").touch(mode=0o600)
    (state / "keyring" / "audit.key").write_bytes(b"k" * 32)
    (state / "audit.jsonl").symlink_to(tmp_path / "victim")
    target.run("run", code=17)
    assert (tmp_path / "victim").read_text() == "untouched"


@pytest.mark.parametrize("folder", ["/tmp", "/dev/shm"])
def test_a_link_in_the_temporary_folder_is_left_alone(target: TestFirm, tmp_path: Path, folder: str) -> None:
    victim = tmp_path / "victim"
    victim.mkdir()
    (victim / "file").write_text("untouched")
    key = make_key(tmp_path, "signing")
    target.environment |= {"ESGBATCH_ENCRYPTION__SIGN_WITH": str(key.secret)}
    link = Path(folder) / "esgbatch-sign-planted"
    link.symlink_to(victim)
    try:
        target.run("run")
    finally:
        link.unlink()
    assert (victim / "file").read_text() == "untouched"


# --- a compromised account system and API ------------------------------------------------------

EVIL = [
    ("A-1", '=cmd|"/c calc"!A1'),
    ("=A-2", "@SUM(1+1)*cmd"),
    ("../../../etc/passwd", "path"),
    ("..", "dots"),
    (".", "dot"),
    ("/etc/passwd", "absolute"),
    ("a?x=1#y&z", "query"),
    ("%2e%2e%2f", "encoded already"),
    ("A\x1b]0;owned\x07", "\x1b[2J\x1b[31mred\x1b[0m"),
    ("A\nB\rC", 'two\r\nlines,"quoted"'),
    ("A\u202eB", "right\u202eto left \u2066isolated"),
    ("{account_id}", "${jndi:ldap://x} %s %n {0}"),
    ("A'; drop table accounts; --", "Robert'); DROP TABLE accounts;--"),
    ("long", "N" * 10_000_000),
    ("A" * 2000, "a long ID"),
]  # fmt: skip
FORMULA = ("=", "+", "-", "@", "\t", "\r")


class Evil(http.server.BaseHTTPRequestHandler):
    """An account system and an ESG API in the hands of an attacker."""

    protocol_version = "HTTP/1.1"
    asked: list[str]

    def do_GET(self) -> None:
        if self.path.startswith("/accounts"):
            listed = [{"accountId": key, "accountName": name, "status": "active"} for key, name in EVIL]
            self._answer(200, {"accounts": listed, "nextCursor": None})
            return
        account = unquote(self.path.removeprefix("/esg/"))
        self.asked.append(account)
        scores = dict.fromkeys(("environmental", "social", "governance", "overall"), "71.235")
        match len(account) % 5:
            case 0:
                scores["social"] = "=1+1"
            case 1:
                scores["social"] = "1e400"
            case 2:
                self._answer(418, {"error": f"\x1b[2J {account}"})
                return
        self._answer(200, {"accountId": "other", "scores": scores, "x": "\x1b[2J" * 100})

    def _answer(self, status: int, content: object) -> None:
        body = json.dumps(content).encode()
        self.send_response(status, "OK\x1b[2J" if status == 200 else "\x1b[31mteapot")
        self.send_header("Content-Length", str(len(body)))
        self.send_header("Content-Type", "application/json")
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        pass


@contextmanager
def evil_api() -> Iterator[tuple[str, list[str]]]:
    asked: list[str] = []
    handler = type("Handler", (Evil,), {"asked": asked})
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        try:
            yield f"http://127.0.0.1:{server.server_address[1]}", asked
        finally:
            server.shutdown()


def harmless(text: str) -> bool:
    """Nothing in it acts on a terminal."""
    return all(line.isprintable() for line in text.splitlines())


def test_whatever_the_api_says_it_is_only_text(target: TestFirm, tmp_path: Path) -> None:
    with evil_api() as (url, asked):
        target.environment |= {
            "ESGBATCH_ACCOUNTS__URL": f"{url}/accounts",
            "ESGBATCH_RATINGS__URL": f"{url}/esg/{{account_id}}",
            "ESGBATCH_RATINGS__AUTH": '{ kind = "none" }',
            "ESGBATCH_RATINGS__ATTEMPTS": "1",
            "ESGBATCH_QUALITY__MAX_FAILED_PERCENT": "100",
        }
        before = sorted(path for path in tmp_path.rglob("*"))
        ran = target.run("run")
    dots = {"%2E": ".", "%2E%2E": ".."}
    assert sorted(dots.get(each, each) for each in set(asked)) == sorted(key for key, _ in EVIL)
    csv.field_size_limit(20_000_000)
    opened = target.plaintext(tmp_path / "drop" / SEALED).decode()
    _, *rows = csv.reader(io.StringIO(opened, newline=""))
    assert [(row[0].removeprefix("'"), row[1].removeprefix("'")) for row in rows] == EVIL_AS_WRITTEN
    assert not [cell for row in rows for cell in row[:2] if cell.startswith(FORMULA)]
    assert {cell for row in rows for cell in row[2:6]} == {"71.24", "N/A"}
    shown = [ran.out, ran.err]
    for command in (["status"], ["report"], ["report", "--format", "json"], ["status", "--json"]):
        again = target.run(*command)
        shown += [again.out, again.err]
    shown += [target.run("audit", "show").out]
    for text in shown:
        assert harmless(text), text
    for path in (tmp_path / "logs").iterdir():
        text = path.read_text(encoding="ascii")
        assert harmless(text)
        assert [json.loads(line) for line in text.splitlines()]
    made = {path.relative_to(tmp_path).parts[0] for path in tmp_path.rglob("*") if path not in before}
    assert made == {"state", "logs", "drop"}


EVIL_AS_WRITTEN = [(key.removeprefix("'"), name.removeprefix("'")) for key, name in EVIL]


# --- another user on the machine ---------------------------------------------------------------

TRY = """
import os, socket, stat, sys
os.setgroups([]); os.setgid(65534); os.setuid(65534)  # its own interpreter may be out of its reach
for path in sys.stdin.read().split("\\0"):
    try:
        kind = os.stat(path).st_mode
        if stat.S_ISSOCK(kind):
            socket.socket(socket.AF_UNIX).connect(path)
        elif stat.S_ISDIR(kind):
            os.listdir(path)
        else:
            open(path, "rb").read(1)
    except OSError:
        try:
            open(path, "ab").close()
        except OSError:
            continue
    print(path)
"""


def reached_by_another_user(paths: list[Path]) -> list[str]:
    done = subprocess.run(
        [sys.executable, "-I", "-c", TRY], input="\0".join(map(str, paths)),
        capture_output=True, text=True, timeout=60, check=True, cwd="/",
    )  # fmt: skip
    return done.stdout.splitlines()


@pytest.fixture
def public() -> Iterator[Path]:
    """A folder that everybody may enter, unlike those of pytest: what is closed in it, we have closed."""
    folder = Path(tempfile.mkdtemp(prefix="esgbatch-public-", dir="/tmp"))
    folder.chmod(0o755)
    yield folder
    shutil.rmtree(folder)


def test_a_second_user_reads_nothing_of_a_night(target: TestFirm, public: Path) -> None:
    assert os.getuid() == 0, "a second user can only be had as root"
    target.environment |= {
        "ESGBATCH_JOB__STATE_DIR": str(public / "state"),
        "ESGBATCH_LOGGING__DIRECTORY": str(public / "logs"),
        "ESGBATCH_RATINGS__RATE_LIMIT": "10",
    }
    with target.process("run") as process:
        while not (public / "state" / "checkpoint.sqlite-wal").exists():
            assert process.poll() is None, process.communicate()
        own = [Path(f"/proc/{process.pid}/{name}") for name in ("environ", "mem", "maps", "fd", "cwd", "stack")]
        during = [*own, *public.rglob("*")]
        assert reached_by_another_user(during) == []
        _, err = process.communicate(timeout=60)
        assert process.returncode == 0, err
    everything = sorted(public.rglob("*"))
    assert {"state", "logs"} <= {path.name for path in everything}
    assert len(everything) > 10
    assert reached_by_another_user(everything) == []
    (public / "open").write_text("x")
    assert reached_by_another_user([public / "open"]) == [str(public / "open")], "the try itself works"
    modes = {path.stat().st_mode & 0o777 for path in (public / "state").rglob("*")}
    assert modes <= {0o700, 0o600}


def test_a_second_user_cannot_ask_the_signing_agent(tmp_path: Path) -> None:
    from esgbatch.config.model import Encryption
    from esgbatch.encryption.signing import open_home

    key = make_key(tmp_path, "signing")
    config = Encryption.model_validate(
        {"recipients": [key.public], "fingerprints": [key.fingerprint], "sign_with": key.secret}
    )
    with open_home(config, tmp_path / "keyring") as home:
        folder = Path(home.arguments[1])
        inside = sorted(folder.rglob("*"))
        assert any(path.is_socket() for path in inside)
        assert reached_by_another_user([folder, *inside]) == []


SECRETIVE = """
import ctypes, os, sys
from esgbatch.config.secrets import keep_from_dumps
os.setgroups([]); os.setgid(65534); os.setuid(65534)
ctypes.CDLL(None).prctl(4, 1, 0, 0, 0)  # as a process has it that never was root
if sys.argv[1] == "protected":
    keep_from_dumps()
print("ready", flush=True); sys.stdin.read()
"""


@pytest.mark.parametrize(("protected", "reached"), [("protected", 0), ("open", 2)])
def test_another_process_of_the_same_user_cannot_look_into_one_that_holds_secrets(
    protected: str, reached: int
) -> None:
    command = [sys.executable, "-c", SECRETIVE, protected]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout
        assert process.stdin
        assert process.stdout.readline() == b"ready\n"
        paths = [Path(f"/proc/{process.pid}/{name}") for name in ("environ", "maps")]
        assert len(reached_by_another_user(paths)) == reached
        limits = Path(f"/proc/{process.pid}/limits").read_text()
        assert (limits.partition("Max core file size")[2].split()[:2] == ["0", "0"]) is (reached == 0)
        process.stdin.close()
