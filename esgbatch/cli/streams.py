"""stdout and stderr that may lead to a full disk, or to a pipe that nobody reads any more."""

from __future__ import annotations

import io
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress

from esgbatch.errors import WrongUsage


class _Results(io.TextIOWrapper):
    """stdout: what it does not take is an error that is told, with a code of its own.

    It is no OSError, which everything between here and there would take for one of its own.
    Whoever closes a pipe has read enough: no error.
    """

    def write(self, text: str) -> int:
        with self._told():
            super().write(text)
        return len(text)

    def flush(self) -> None:
        with self._told():
            super().flush()

    @contextmanager
    def _told(self) -> Iterator[None]:
        try:
            yield
        except BrokenPipeError:
            self._abandon()
        except OSError as error:
            self._abandon()
            raise WrongUsage(
                f"The output cannot be written: {error.strerror}.", advice="look where stdout leads to"
            ) from None

    def _abandon(self) -> None:
        """What is still held would fail once more at the interpreter's end, and change the exit code."""
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, self.fileno())
        os.close(nowhere)


class _Remarks(io.TextIOWrapper):
    """stderr: where nobody hears, the exit code and the log must do."""

    def write(self, text: str) -> int:
        with suppress(OSError):
            super().write(text)
        return len(text)

    def flush(self) -> None:
        with suppress(OSError):
            super().flush()


def guard() -> None:
    """Put them in the place of the interpreter's own, which raise whatever the system says wherever they are.

    `WrongUsage` then comes out of any write to stdout that fails.
    """
    for name, kind in (("stdout", _Results), ("stderr", _Remarks)):
        stream = getattr(sys, name)
        if isinstance(stream, io.TextIOWrapper):  # None where the caller has closed it
            guarded = kind(
                stream.buffer,
                encoding=stream.encoding,
                errors=stream.errors,
                line_buffering=stream.line_buffering,
                write_through=stream.write_through,
            )
            setattr(sys, name, guarded)
