"""One run at a time asks the ESG API: its limit is the job's, whatever dates are worked on."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from esgbatch.errors import CheckpointError
from esgbatch.ports import Clock, Listener

LOOK_SECONDS = 0.5


@contextmanager
def turn(state_dir: Path, clock: Clock, listener: Listener) -> Iterator[None]:
    """Wait until no other run on this host rates, and keep others from it; a dead one never blocks.

    Raises:
        CheckpointError: the lock file cannot be made.
    """
    path = state_dir / "rating.lock"
    try:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    except OSError as error:
        raise CheckpointError(f"The lock file {path} cannot be opened: {error.strerror}.") from None
    try:
        if not _taken(descriptor):
            listener.event("waiting_for_turn")
            while not _taken(descriptor):
                clock.sleep(LOOK_SECONDS)
        yield
    finally:
        os.close(descriptor)


def _taken(descriptor: int) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
