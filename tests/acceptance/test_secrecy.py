"""No secret, name or score comes out of the job by any way but the encrypted file; gpg has no network."""

from __future__ import annotations

import base64
import email
import os
import re
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import quote

import pytest

from tests.acceptance.firm import DAY, firm
from tests.acceptance.sshd import make_key as make_ssh_key
from tests.keys import KeyPair, make_key
from tests.sealing import encryption

ROOT = Path(__file__).parents[2]
SIGNING, TOKEN, SFTP, WRONG = (
    "canary-signing-4f1c",
    "canary-token-77e0",
    "canary-sftp-9b2d",
    "canary-wrong-51aa",
)


class Observer:
    """Reads, again and again, the command line and the environment of everything that the job has started."""

    def __init__(self, pid: int) -> None:
        self._pid = pid
        self._over = threading.Event()
        self.programs: set[str] = set()
        self.seen: set[bytes] = set()
        self._thread = threading.Thread(target=self._look, daemon=True)
        self._thread.start()

    def _look(self) -> None:
        while not self._over.is_set():
            for pid in [self._pid, *_children(self._pid)]:
                try:
                    folder = Path(f"/proc/{pid}")
                    line = (folder / "cmdline").read_bytes()
                    self.seen.add(line)
                    # Until it becomes another program, a new process is still the job itself.
                    if pid != self._pid and b"esgbatch" not in line.split(b"\0"):
                        self.programs.add(Path(line.split(b"\0")[0].decode() or "-").name)
                        self.seen.add((folder / "environ").read_bytes())
                except OSError:
                    continue
            time.sleep(0.001)

    def stop(self) -> None:
        self._over.set()
        self._thread.join()


def _children(pid: int) -> Iterator[int]:
    try:
        found = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    except OSError:
        return
    for child in map(int, found):
        yield child
        yield from _children(child)


def disguises(secret: str) -> set[bytes]:
    """As it is, and as it would be sent or quoted."""
    plain = secret.encode()
    return {
        plain,
        base64.b64encode(plain).rstrip(b"="),
        quote(secret).encode(),
        plain.hex().encode(),
        plain[::-1],
    }


def content_of(*folders: Path) -> dict[str, bytes]:
    return {str(path): path.read_bytes() for folder in folders for path in folder.rglob("*") if path.is_file()}


def mails(folder: Path) -> dict[str, bytes]:
    """Each part of each mail as its reader sees it."""
    return {
        f"{path.name}, part {number}": part.get_payload(decode=True) or b""
        for path in folder.rglob("*")
        if path.is_file()
        for number, part in enumerate(email.message_from_bytes(path.read_bytes()).walk())
    }


def require_none(secrets: set[str], where: dict[str, bytes]) -> None:
    for secret in secrets:
        for each in disguises(secret):
            for name, content in where.items():
                assert each not in content, f"{secret} is in {name}"


@pytest.fixture(scope="module")
def keys(tmp_path_factory: pytest.TempPathFactory) -> KeyPair:
    return make_key(tmp_path_factory.mktemp("keys"), "signing", passphrase=SIGNING)


def test_canaries_are_in_no_output_of_any_kind(tmp_path: Path, keys: KeyPair) -> None:
    """Secrets from the environment, from files and from a command; the night goes well, then wrong."""
    spied = tmp_path / "environment of the command"
    outputs: dict[str, bytes] = {}
    with firm(tmp_path, 40) as each:
        places = each.server.places
        key = make_ssh_key(tmp_path / "sftp_key", passphrase=SFTP)
        authorized = each.sshd.folder / "authorized_keys"
        authorized.write_text(authorized.read_text() + key.with_suffix(".pub").read_text())
        each.environment |= {
            "CANARY_SIGNING": SIGNING,
            "CANARY_TOKEN": TOKEN,
            "ESGBATCH_ENCRYPTION__SIGN_WITH": str(keys.secret),
            "ESGBATCH_ENCRYPTION__PASSPHRASE": '{ env = "CANARY_SIGNING" }',
            "ESGBATCH_ACCOUNTS__AUTH": '{ kind = "bearer", token = { env = "CANARY_TOKEN" } }',
            "ESGBATCH_DELIVERY__PRIVATE_KEY": str(key),
            "ESGBATCH_LOGGING__LEVEL": "DEBUG",
        }
        # The command itself stands in the configuration; what must not be seen is what it gives.
        script = tmp_path / "fetch"
        script.write_text(f"#!/bin/sh\nenv > '{spied}'\necho {SFTP}\n")
        script.chmod(0o700)
        each.environment["ESGBATCH_DELIVERY__PASSPHRASE"] = f'{{ command = ["{script}"] }}'

        def call(*arguments: str, day: bool = True, **changes: str) -> int:
            before = dict(each.environment)
            each.environment |= changes
            process = each.process(*arguments, day=DAY if day else None)
            each.environment = before
            observer = Observer(process.pid)
            out, err = process.communicate(timeout=90)
            observer.stop()
            name = f"{arguments} {sorted(changes)}"
            outputs[f"what {name} said"] = (out + err).encode()
            outputs[f"the processes of {name}"] = b"\n".join(observer.seen)
            programs.update(observer.programs)
            return process.returncode

        programs: set[str] = set()
        assert call("run") == 0
        assert "gpg" in programs, "the observer sees something"
        assert call("deliver", ESGBATCH_DELIVERY__PASSPHRASE='{ env = "W" }', W=WRONG) == 10
        assert call("rerun", "--accounts", each.books.account_id(1), CANARY_SIGNING=WRONG) in (10, 15)
        assert call("resume", ESGBATCH_ACCOUNTS__AUTH=f'{{ kind = "bearer", token = "{WRONG}" }}') == 10
        assert call("doctor", day=False, CANARY_SIGNING=WRONG) == 20
        secrets = {SIGNING, TOKEN, SFTP, WRONG, places.login.client_secret, places.mail.password}
        secrets.add(places.pager.routing_key)
        told = content_of(each.state, each.folder / "logs", each.drop)
        # The routing key is how the pager knows us: it has its own place there, and no other.
        paged = Path(places.pager.events).read_bytes()
        login = f'"routing_key": "{places.pager.routing_key}"'.encode()
        assert login in paged
        sent = mails(Path(places.mail.folder)) | {"the pager": paged.replace(login, b"")}
        assert len(sent) > 1, "a report was mailed, or an alert"
        require_none(secrets, outputs | told | sent)
        require_none({SIGNING, TOKEN}, {"the command's environment": spied.read_bytes()})
        assert b"PATH=" in spied.read_bytes()
        people = {each.books.name(number) for number in range(40)}
        scores = {"{},{},{},{}".format(*each.books.cells(number)) for number in range(40)}
        require_none(people | scores, outputs | told | sent)


GPG_SEALS = """
import sys
from pathlib import Path
from esgbatch.config.model import Encryption
from esgbatch.encryption.gpg import GpgEncryptor
config = Encryption.model_validate_json(sys.argv[1])
GpgEncryptor(config, Path(sys.argv[2])).seal([b"x"], rows=lambda: 1, name="n.csv", target=Path(sys.argv[3]))
"""


def test_gpg_opens_no_network(tmp_path: Path, keys: KeyPair, monkeypatch: pytest.MonkeyPatch) -> None:
    """A key that names a keyserver would be fetched by a careless gpg, and a dirmngr would stay."""
    monkeypatch.setenv("P", SIGNING)
    config = encryption(keys, sign_with=keys.secret, passphrase={"env": "P"})
    log = tmp_path / "calls"
    traced = ["strace", "-f", "-qq", "-e", "trace=socket,connect,execve", "-o", str(log)]
    arguments = [config.model_dump_json(), str(tmp_path / "keyring"), str(tmp_path / "n.pgp")]
    subprocess.run([*traced, sys.executable, "-c", GPG_SEALS, *arguments], check=True, cwd=ROOT, env=os.environ)
    calls = log.read_text()
    assert re.search(r"execve\(\S*gpg\"", calls), "the trace sees gpg"
    assert "AF_UNIX" in calls, "and its agent's socket"
    assert not re.search(r'AF_INET|execve\("[^"]*dirmngr', calls)


def test_a_crash_leaves_no_core(tmp_path: Path) -> None:
    command = 'ulimit -c unlimited; exec "$0" -m esgbatch sandbox --accounts 1'
    with subprocess.Popen(
        ["sh", "-c", command, sys.executable],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        env=os.environ | {"TMPDIR": str(tmp_path)},
    ) as process:
        assert process.stdout
        process.stdout.readline()
        limits = Path(f"/proc/{process.pid}/limits").read_text()
        process.terminate()
        process.communicate(timeout=30)
    assert limits.partition("Max core file size")[2].split()[:2] == ["0", "0"]
