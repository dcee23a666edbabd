"""A real OpenSSH server on a loopback port, to be treated well or badly.

::

    with Sshd(tmp_path) as server:
        courier = SftpCourier(server.delivery(), clock, listener)
        ...
        server.freeze()

Everything it needs lies in the folder given: host keys, the client's key, `known_hosts`, the
drop folder, and the logs. It runs as whoever runs the tests and lets only that user in. It needs
Debian's `openssh-server` (or the same programs from elsewhere) and installs nothing.
"""

from __future__ import annotations

import contextlib
import getpass
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Self

from esgbatch.config.model import Delivery
from tests.ports import free_port

PATIENCE = 10.0
PRIVILEGE_SEPARATION = Path("/run/sshd")
RELAY = Path(__file__).with_name("sftp_relay.py")


def find_program(name: str, *elsewhere: str) -> str:
    """The program's path; without it there is no test, and no skipping either."""
    path = os.pathsep.join([os.environ.get("PATH", ""), *elsewhere])
    found = shutil.which(name, path=path)
    if found is None:
        raise RuntimeError(f"{name} is missing: `apt-get install openssh-server openssh-client`")
    return found


def make_key(path: Path, kind: str = "ed25519", passphrase: str = "") -> Path:
    """A new private key at `path`, its public half beside it as `….pub`."""
    command = [find_program("ssh-keygen"), "-q", "-t", kind, "-N", passphrase, "-C", path.name, "-f", str(path)]
    subprocess.run(command, check=True, stdin=subprocess.DEVNULL)
    return path


class Sshd:
    """The server, stopped when the `with` block ends.

    Args:
        folder: private to this server; made if it is not there.
        subsystem: the command that serves SFTP instead of OpenSSH's `sftp-server`.
        sftp_options: further options for `sftp-server`.
        wrapper: shell code without quotes (sshd drops them) that ends with `exec`, in front of `sftp-server`.
        relay: faults for `sftp_relay.py`, which then stands in front of `sftp-server`.
        host_keys: key types, the server's preferred one first.
    """

    host = "127.0.0.1"

    def __init__(
        self,
        folder: Path,
        *,
        subsystem: str | None = None,
        sftp_options: str = "",
        wrapper: str = "",
        relay: Sequence[str] = (),
        host_keys: Sequence[str] = ("ed25519",),
    ) -> None:
        self.folder = folder
        self.username = getpass.getuser()
        self.drop = folder / "drop"
        self.sftp_log = folder / "sftp.log"
        self.log = folder / "sshd.log"
        self.drop.mkdir(parents=True)
        self.client_key = make_key(folder / "client_key")
        self.host_keys = [make_key(folder / f"host_key_{kind}", kind) for kind in host_keys]
        self.port = free_port()
        self.known_hosts = self.write_known_hosts(folder / "known_hosts", *self.host_keys)
        server = find_program("sftp-server", "/usr/lib/openssh", "/usr/libexec/openssh", "/usr/lib/ssh")
        command = f"{wrapper} {server} -e -l INFO {sftp_options} 2>>{self.sftp_log}"
        if relay:
            command = f"{sys.executable} -I {RELAY} {' '.join(relay)} -- {command}"
        self.authorize(self.client_key)
        self._subsystem = subsystem or command
        self.configure()
        self._process: subprocess.Popen[bytes] | None = None

    def authorize(self, key: Path) -> None:
        """Let the owner of this key in, and nobody else."""
        self.folder.joinpath("authorized_keys").write_bytes(key.with_suffix(".pub").read_bytes())

    def configure(self, *further: str) -> None:
        """Write the configuration, with `further` lines, for the next start."""
        lines = [
            f"Port {self.port}",
            f"ListenAddress {self.host}",
            *(f"HostKey {path}" for path in self.host_keys),
            f"AuthorizedKeysFile {self.folder / 'authorized_keys'}",
            f"AllowUsers {self.username}",
            "PermitRootLogin prohibit-password",
            "PasswordAuthentication no",
            "KbdInteractiveAuthentication no",
            "UsePAM no",
            "StrictModes no",
            "PidFile none",
            "MaxStartups 100",
            f"SetEnv HOME={self.folder}",  # the login shell finds no start-up file there
            f"Subsystem sftp {self._subsystem}",
            *further,
        ]
        self.folder.joinpath("sshd_config").write_text("\n".join(lines) + "\n", encoding="utf-8")

    # --- its life ---

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.kill()

    def start(self) -> None:
        """Start it, and wait until it answers."""
        if os.geteuid() == 0:
            PRIVILEGE_SEPARATION.mkdir(mode=0o755, exist_ok=True)  # as the service's start does
        program = find_program("sshd", "/usr/sbin", "/usr/local/sbin")
        self._process = subprocess.Popen(
            [program, "-D", "-E", str(self.log), "-f", str(self.folder / "sshd_config")],
            stdin=subprocess.DEVNULL,
        )
        give_up = time.monotonic() + PATIENCE
        while not self._answers():
            if self._process.poll() is not None or time.monotonic() > give_up:
                raise RuntimeError(f"sshd does not start: {self.log.read_text(encoding='utf-8')}")
            time.sleep(0.01)

    def _answers(self) -> bool:
        with contextlib.suppress(OSError), socket.create_connection((self.host, self.port), PATIENCE) as sock:
            return sock.recv(4) == b"SSH-"
        return False

    def kill(self) -> None:
        """End it and every session at once, as a crash would."""
        if self._process is None:
            return
        self._signal(signal.SIGKILL, *self._family())
        self._process.wait()
        self._process = None

    def restart(self) -> None:
        """Kill it, then start it on the same port."""
        self.kill()
        self.start()

    def kill_sessions(self) -> None:
        """End every session, but go on listening."""
        self._signal(signal.SIGKILL, *self._family()[1:])

    def freeze(self) -> None:
        """Stop the server and its sessions where they are; the kernel still takes connections."""
        self._signal(signal.SIGSTOP, *self._family())

    def thaw(self) -> None:
        """Let everything that was frozen go on."""
        self._signal(signal.SIGCONT, *self._family())

    def _family(self) -> list[int]:
        assert self._process is not None, "the server is not running"
        return [self._process.pid, *_descendants(self._process.pid)]

    @staticmethod
    def _signal(number: signal.Signals, *pids: int) -> None:
        for pid in pids:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, number)

    # --- how to reach it ---

    @property
    def sessions(self) -> int:
        """How many processes serve connections now."""
        return len(self._family()) - 1

    def delivery(self, **changes: Any) -> Delivery:
        """A `[delivery]` section that reaches this server's drop folder."""
        values: dict[str, Any] = {
            "host": self.host,
            "port": self.port,
            "username": self.username,
            "private_key": self.client_key,
            "known_hosts": self.known_hosts,
            "directory": str(self.drop),
            "timeout": PATIENCE,
            "attempts": 3,
        }
        return Delivery.model_validate(values | changes)

    def write_known_hosts(self, path: Path, *keys: Path, hashed: bool = False) -> Path:
        """A known_hosts file that holds `keys` for this server."""
        lines = [f"[{self.host}]:{self.port} {_public(key)}\n" for key in keys]
        path.write_text("".join(lines), encoding="utf-8")
        if hashed:
            command = [find_program("ssh-keygen"), "-q", "-H", "-f", str(path)]
            subprocess.run(command, check=True, capture_output=True)
        return path

    def renames(self) -> list[str]:
        """The names that files were renamed to, in order, from the SFTP server's own log."""
        lines = self.sftp_log.read_text(encoding="utf-8").splitlines()
        return [line.rpartition("/")[2].rstrip('"') for line in lines if "rename old" in line]


def _public(key: Path) -> str:
    kind, data = key.with_suffix(".pub").read_text(encoding="utf-8").split()[:2]
    return f"{kind} {data}"


def _descendants(pid: int) -> list[int]:
    children: dict[int, list[int]] = {}
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            fields = stat.read_text(encoding="utf-8", errors="replace").rpartition(")")[2].split()
            children.setdefault(int(fields[1]), []).append(int(stat.parent.name))
    found = list(children.get(pid, []))
    for child in found:
        found.extend(children.get(child, []))
    return found
