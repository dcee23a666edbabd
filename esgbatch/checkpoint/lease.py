"""A run belongs to one process: an operating system lock, which dies with its owner.

A PID file outlives a crash and its number is given to strangers; a lock does neither.
What is written beside it says who holds it, for people and for the watchdog.
"""

from __future__ import annotations

import fcntl
import json
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from datetime import date
from pathlib import Path

from esgbatch.errors import CheckpointError, RunHeld


@dataclass(frozen=True, slots=True)
class Owner:
    """A process, told from any later one with the same number by boot and start time.

    `until` is when it must have ended, in seconds since the epoch; None where nothing binds it.
    """

    pid: int
    boot_id: str
    start_ticks: int
    host: str
    command: str
    until: float | None = None

    @classmethod
    def this_process(cls, command: str, until: float | None = None) -> Owner:
        start = _start_ticks(os.getpid()) or 0
        return cls(os.getpid(), _boot_id(), start, socket.gethostname(), command, until)

    def is_alive(self) -> bool:
        """Whether this very process still runs, on this machine and since this boot."""
        return self.boot_id == _boot_id() and _start_ticks(self.pid) == self.start_ticks

    def __str__(self) -> str:
        return f"`esgbatch {self.command}`, process {self.pid} on {self.host}"


def lock_path(state_dir: Path, business_date: date) -> Path:
    return state_dir / "locks" / f"{business_date:%Y%m%d}.lock"


@contextmanager
def lease(
    state_dir: Path, business_date: date, command: str, until: float | None = None
) -> Iterator[Owner | None]:
    """Hold the run of a business date; yields the previous owner if it died holding it.

    `until` is the deadline that binds it, for the watchdog.

    Raises:
        RunHeld: a living process holds it.
        CheckpointError: the lock file cannot be made or written.
    """
    path = lock_path(state_dir, business_date)
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    except OSError as error:
        raise CheckpointError(f"The lock file {path} cannot be opened: {error.strerror}.") from None
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            holder = _read(descriptor)
            raise RunHeld(f"The run of {business_date} is held by {holder or 'another process'}.") from None
        died = _read(descriptor)
        try:
            _write(descriptor, json.dumps(asdict(Owner.this_process(command, until))))
        except OSError as error:
            raise CheckpointError(f"The lock file {path} cannot be written: {error.strerror}.") from None
        try:
            yield died
        finally:
            # The lock is what counts; a name that stays is that of a dead process.
            with suppress(OSError):
                _write(descriptor, "")
    finally:
        os.close(descriptor)


def holder(state_dir: Path, business_date: date) -> Owner | None:
    """Who holds the run now; None when nobody does, a dead owner included.

    The lock itself is left alone: to try it would be to hold it for a moment, and a run
    that starts in that moment would be refused.
    """
    owner = last_holder(state_dir, business_date)
    return owner if owner is not None and owner.is_alive() else None


def last_holder(state_dir: Path, business_date: date) -> Owner | None:
    """Who holds the run, or died holding it, or holds it on another machine."""
    try:
        return Owner(**json.loads(lock_path(state_dir, business_date).read_bytes()))
    except (OSError, ValueError, TypeError):
        return None


def _read(descriptor: int) -> Owner | None:
    try:
        return Owner(**json.loads(os.pread(descriptor, 4096, 0)))
    except (ValueError, TypeError):
        return None


def _write(descriptor: int, text: str) -> None:
    os.ftruncate(descriptor, 0)
    os.pwrite(descriptor, text.encode(), 0)


def _boot_id() -> str:
    return Path("/proc/sys/kernel/random/boot_id").read_text().strip()


def _start_ticks(pid: int) -> int | None:
    """A living process's start in clock ticks since boot: proc(5), /proc/PID/stat fields 3 and 22."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return None
    # A killed process that its parent has not reaped yet still has its entry.
    return None if fields[0] in "ZX" else int(fields[19])
