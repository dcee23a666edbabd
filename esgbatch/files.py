"""Files that are whole or not there."""

from __future__ import annotations

import errno
import fcntl
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

LOCK_SECONDS = 30.0


@contextmanager
def replacing(path: Path, mode: int = 0o600) -> Iterator[BinaryIO]:
    """Write a new `path`: it appears, synced, when the block ends well, and not at all otherwise.

    The part beside it is never opened through a symbolic link, and what a crash has
    left of it is overwritten.

    Raises:
        OSError: likewise where `path` is a device or a pipe, which the rename would destroy.
    """
    if path.exists() and not path.is_file():
        raise OSError(errno.EINVAL, "it is no regular file", str(path))
    part = path.with_name(f"{path.name}.part")
    part.unlink(missing_ok=True)
    descriptor = os.open(part, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, mode)
    try:
        with os.fdopen(descriptor, "wb") as file:
            os.fchmod(descriptor, mode)
            yield file
            file.flush()
            os.fsync(descriptor)
        part.replace(path)
    except BaseException:
        part.unlink(missing_ok=True)
        raise
    sync_folder(path.parent)


@contextmanager
def alone(folder: Path) -> Iterator[None]:
    """Keep out every other process that wants `folder` alone, so that all may use the same part file.

    A part of a name of its own would be left for ever by a process that is killed.

    Raises:
        OSError: `folder` cannot be opened, or is not given up by another process.
    """
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        lock(descriptor, fcntl.LOCK_EX, LOCK_SECONDS)
        yield
    finally:
        os.close(descriptor)


def lock(descriptor: int, kind: int, seconds: float) -> None:
    """`flock` that gives up: a holder that was stopped must not hold up the night.

    Raises:
        TimeoutError: after so many seconds.
    """
    give_up = time.monotonic() + seconds
    while True:
        try:
            return fcntl.flock(descriptor, kind | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() >= give_up:
                raise TimeoutError(
                    errno.ETIMEDOUT, f"another process has kept it locked for {seconds:g} s"
                ) from None
            time.sleep(0.002)


def sync_folder(folder: Path) -> None:
    """Make a rename in `folder` durable."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def private_folder(folder: Path) -> Path:
    """`folder`, made with mode 0700 where it was missing."""
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    return folder
