"""A program on a terminal of a given width, with somebody who answers its questions."""

from __future__ import annotations

import fcntl
import os
import pty
import select
import struct
import sys
import termios
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

ROOT = Path(__file__).parents[2]
SECONDS = 60


def on_terminal(
    folder: Path,
    *arguments: str,
    answers: Sequence[str] = (),
    columns: int = 80,
    environment: Mapping[str, str] | None = None,
) -> tuple[int, str]:
    """What `esgbatch` ends with, and all that it shows; each question ends with a colon and a space."""
    pid, terminal = pty.fork()
    if pid == 0:
        os.chdir(folder)
        fcntl.ioctl(1, termios.TIOCSWINSZ, struct.pack("HHHH", 50, columns, 0, 0))
        # As a whole: readline, which pytest loads, sets COLUMNS where os.environ does not see it.
        told = os.environ | {"PYTHONPATH": str(ROOT), "TERM": "xterm-256color"} | dict(environment or {})
        os.execve(sys.executable, [sys.executable, "-m", "esgbatch", *arguments], told)
    shown = b""
    waiting = list(answers)
    until = time.monotonic() + SECONDS
    while time.monotonic() < until:
        ready, _, _ = select.select([terminal], [], [], 1)
        if not ready:
            continue
        try:
            more = os.read(terminal, 4096)
        except OSError:  # the other end has closed
            break
        if not more:
            break
        shown += more
        if shown.endswith(b": ") and waiting:
            os.write(terminal, waiting.pop(0).encode() + b"\n")
    _, status = os.waitpid(pid, 0)
    os.close(terminal)
    return os.waitstatus_to_exitcode(status), shown.decode()
