"""A syslog daemon of a few lines, since `internal-sftp` writes to nothing else. It needs root."""

from __future__ import annotations

import contextlib
import os
import re
import socket
import threading
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

SOCKET = Path("/dev/log")
HOST = "drop.firm.example"


class Syslog:
    """What came in, as the usual daemons write it down. Use `syslog`."""

    def __init__(self, sock: socket.socket) -> None:
        self._sock = sock
        self._messages: list[str] = []
        self._thread = threading.Thread(target=self._listen, name="syslog", daemon=True)
        self._thread.start()

    def _listen(self) -> None:
        while message := self._sock.recv(8192):
            self._messages.append(re.sub(r"^<\d+>", "", message.decode().rstrip("\n\0")))

    def lines(self) -> list[str]:
        """Traditional: `Nov 24 18:30:07 HOST internal-sftp[123]: …`."""
        return [f"{each[:15]} {HOST} {each[16:]}\n" for each in list(self._messages)]

    def iso_lines(self) -> list[str]:
        """The same as rsyslog's newer format and `journalctl -o short-iso` have it."""
        year = datetime.now(UTC).year
        return [
            f"{datetime.strptime(f'{year} {each[:15]}', '%Y %b %d %H:%M:%S').astimezone().isoformat()} "
            f"{HOST} {each[16:]}\n"
            for each in list(self._messages)
        ]

    def wait_for(self, pattern: str, times: int = 1) -> None:
        until = time.monotonic() + 20
        while sum(re.search(pattern, each) is not None for each in list(self._messages)) < times:
            assert time.monotonic() < until, f"nobody logs {pattern}: {self._messages}"
            time.sleep(0.01)


@contextlib.contextmanager
def syslog() -> Iterator[Syslog]:
    """Listen where the C library's syslog(3) writes to; what listened there before does so again afterwards."""
    aside = SOCKET.with_name(f"log.{os.getpid()}")
    if SOCKET.is_symlink() or SOCKET.exists():
        SOCKET.rename(aside)
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
        sock.bind(str(SOCKET))
        SOCKET.chmod(0o666)
        try:
            yield Syslog(sock)
        finally:
            with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as end:
                end.sendto(b"", str(SOCKET))
            SOCKET.unlink()
            if aside.is_symlink() or aside.exists():
                aside.rename(SOCKET)
