"""The file in the making: rows that are final become CSV while other answers are awaited.

So little is left to do after the last answer. A page is made from committed rows, once each of them
has its outcome; from then on it is the same for as long as this process holds the run.
"""

from __future__ import annotations

import os
import tempfile
from collections import Counter
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from esgbatch.errors import CheckpointError, EncryptionError
from esgbatch.model import PAGE_ROWS, Reason, Run, Tally
from esgbatch.ports import Outcomes
from esgbatch.quality import Distribution, Scores
from esgbatch.rows import CsvFile

NONCE_BYTES = 12
TAG_BYTES = 16


class Draft:
    """A run's file, page by page; its accounts and scores are counted on the way.

    Pages wait in a spool in `folder`. Where the disk does not take one, it is made again when it is due.
    """

    def __init__(self, run: Run, outcomes: Outcomes, file: CsvFile, scores: Scores, folder: Path) -> None:
        self.rows = 0
        self._run = run
        self._outcomes = outcomes
        self._file = file
        self._scores = scores
        self._spool = _Spool(folder)
        self._made: dict[int, _Made] = {}
        self._failed_by: Counter[Reason] = Counter()

    def __enter__(self) -> Draft:
        return self

    def __exit__(self, *_: object) -> None:
        self._spool.close()

    def make(self, number: int) -> None:
        """Make a page ahead of time, if it is final.

        What the checkpoint has against it is told when the file is made; rating goes on meanwhile.
        """
        if number not in self._made:
            with suppress(CheckpointError):
                self._make(number)

    def finish(self) -> None:
        """Make every page that is missing.

        Raises:
            CheckpointError: a name or score is not what was written.
            AssertionError: a bug; an account has no outcome.
        """
        for number in self._numbers():
            if number not in self._made and not self._make(number):
                raise AssertionError(f"an account of page {number} has no outcome")

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
        for number in self._numbers():
            text, rows = self._text(number)
            yield text
            self.rows += rows

    def _numbers(self) -> range:
        return range(-(-self._run.census.positions // PAGE_ROWS))

    def _make(self, number: int) -> bool:
        page = self._outcomes.page(self._run, number)
        if page is None:
            return False
        piece = None
        with suppress(OSError):
            piece = self._spool.write(self._file.lines(page.rows))
        self._made[number] = _Made(len(page.rows), piece)
        self._scores.add([row.scores for row in page.rows if row.scores is not None])
        self._failed_by.update(page.failed_by)
        return True

    def _text(self, number: int) -> tuple[bytes, int]:
        made = self._made[number]
        if made.piece is not None:
            return self._spool.read(made.piece), made.rows
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
    nowhere else and is used for nothing else, so that a piece's number serves as its nonce.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._file: IO[bytes] | None = None
        self._cipher = AESGCM(AESGCM.generate_key(256))
        self._number = self._end = 0

    def write(self, data: bytes) -> _Piece:
        """Raises OSError: the disk does not take it."""
        if self._file is None:
            self._file = tempfile.TemporaryFile(dir=self._folder)  # noqa: SIM115 - closed by `close`
        piece = _Piece(self._number, self._end, len(data) + TAG_BYTES)
        self._number += 1
        sealed = memoryview(self._cipher.encrypt(_nonce(piece), data, None))
        while sealed:
            written = os.pwrite(self._file.fileno(), sealed, self._end)
            self._end += written
            sealed = sealed[written:]
        return piece

    def read(self, piece: _Piece) -> bytes:
        """Raises EncryptionError: it is not what was written."""
        assert self._file is not None
        try:
            return self._cipher.decrypt(
                _nonce(piece), os.pread(self._file.fileno(), piece.length, piece.offset), None
            )
        except (OSError, InvalidTag) as error:
            raise EncryptionError(
                "A part of the file in the making cannot be read back from the disk.",
                advice="look at the disk of job.state_dir, then `esgbatch resume --date {date}`",
            ) from error

    def close(self) -> None:
        if self._file is not None:
            self._file.close()


def _nonce(piece: _Piece) -> bytes:
    return piece.number.to_bytes(NONCE_BYTES, "big")
