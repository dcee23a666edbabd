"""The file in the making: rows that are final become CSV while other answers are awaited.

So little is left to do after the last answer. A page is made from committed rows, once each of them
has its outcome; from then on it is the same for as long as this process holds the run.
"""

from __future__ import annotations

import errno
import os
import tempfile
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from esgbatch.errors import CheckpointError
from esgbatch.model import Reason, Run, Tally
from esgbatch.ports import Outcomes
from esgbatch.quality import Distribution, Scores, reconcile
from esgbatch.rows import CsvFile

NONCE_BYTES = 12
TAG_BYTES = 16
ROOM = 256 * 1024 * 1024  # bytes that are left to others: a sealed file of four million accounts


class Draft:
    """A run's file, page by page; its accounts and scores are counted on the way.

    Pages wait in a spool in `folder`. Without room for it they are made again when they are due.
    """

    def __init__(self, run: Run, outcomes: Outcomes, file: CsvFile, scores: Scores, folder: Path) -> None:
        self.rows = 0
        self._run = run
        self._outcomes = outcomes
        self._file = file
        self._scores = scores
        self._spool = _Spool(folder)
        self._made: dict[int, _Made] = {}
        self._troubled = False
        self._failed_by: Counter[Reason] = Counter()

    def __enter__(self) -> Draft:
        return self

    def __exit__(self, *_: object) -> None:
        self._spool.close()

    def make(self, number: int) -> bool:
        """Make a page ahead of time, if it is final; returns whether there was anything to do.

        What the checkpoint has against it is told when the file is made; rating goes on meanwhile.
        """
        if self._troubled or number in self._made:
            return False
        try:
            self._make(number)
        except CheckpointError:
            self._troubled = True
        return True

    def finish(self) -> None:
        """Make every page that is missing.

        Raises:
            CheckpointError: a name or score is not what was written.
            AssertionError: a bug; an account has no outcome, or is missing.
        """
        for number in self._run.census.pages:
            if number not in self._made and not self._make(number):
                raise AssertionError(f"an account of page {number} has no outcome")
        reconcile(self._run.census, self.tally)

    @property
    def tally(self) -> Tally:
        """The accounts of the pages made so far."""
        rows = sum(made.rows for made in self._made.values())
        return Tally(succeeded=rows - self._failed_by.total(), failed_by=dict(self._failed_by))

    @property
    def scores(self) -> Distribution:
        """Their scores, in figures."""
        return self._scores.distribution()

    def chunks(self) -> Iterator[bytes]:
        """The finished file; `rows` counts what has gone out, without the header."""
        self.rows = 0
        yield self._file.head
        for number in self._run.census.pages:
            text, rows = self._text(number)
            yield text
            self.rows += rows

    def _make(self, number: int) -> bool:
        page = self._outcomes.page(self._run, number)
        if page is None:
            return False
        piece = self._spool.write(self._file.lines(page.rows))
        self._made[number] = _Made(len(page.rows), piece)
        self._scores.add([row.scores for row in page.rows if row.scores is not None])
        self._failed_by.update(page.failed_by)
        return True

    def _text(self, number: int) -> tuple[bytes, int]:
        made = self._made[number]
        text = None if made.piece is None else self._spool.read(made.piece)
        if text is not None:
            return text, made.rows
        page = self._outcomes.page(self._run, number)
        if page is None:
            raise AssertionError(f"an account of page {number} has lost its outcome")
        return self._file.lines(page.rows), len(page.rows)


@dataclass(frozen=True, slots=True)
class _Piece:
    """Where a page lies in the spool."""

    number: int
    offset: int
    length: int


@dataclass(frozen=True, slots=True)
class _Made:
    """A page that was counted; `piece` is None where the spool did not take it."""

    rows: int
    piece: _Piece | None


class _Spool:
    """Pieces of plaintext that no other process can read, and that are gone with this one.

    They lie in a file without a name, encrypted by AES-256-GCM (NIST SP 800-38D) with a key that is
    nowhere else and is used for nothing else, so that a piece's number serves as its nonce. They are
    copies: where room is short, the checkpoint and the sealed file need it more, and all of it is given up.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._file: IO[bytes] | None = None
        self._given_up = False
        self._cipher = AESGCM(AESGCM.generate_key(256))
        self._number = self._end = 0

    def write(self, data: bytes) -> _Piece | None:
        """None where it is not kept."""
        if self._given_up:
            return None
        try:
            return self._write(data)
        except OSError:
            self.close()
            return None

    def read(self, piece: _Piece) -> bytes | None:
        """None where it is not there any more, as it was written."""
        if self._file is None:
            return None
        try:
            return self._cipher.decrypt(
                _nonce(piece), os.pread(self._file.fileno(), piece.length, piece.offset), None
            )
        except (OSError, InvalidTag):
            return None

    def close(self) -> None:
        self._given_up = True
        if self._file is not None:
            self._file.close()
            self._file = None

    def _write(self, data: bytes) -> _Piece:
        if self._file is None:
            self._file = tempfile.TemporaryFile(dir=self._folder)  # noqa: SIM115 - closed by `close`
        descriptor = self._file.fileno()
        room = os.fstatvfs(descriptor)
        if room.f_bavail * room.f_frsize < ROOM:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        piece = _Piece(self._number, self._end, len(data) + TAG_BYTES)
        self._number += 1
        sealed = memoryview(self._cipher.encrypt(_nonce(piece), data, None))
        while sealed:
            written = os.pwrite(descriptor, sealed, self._end)
            self._end += written
            sealed = sealed[written:]
        return piece


def _nonce(piece: _Piece) -> bytes:
    return piece.number.to_bytes(NONCE_BYTES, "big")
