"""The account list from a CSV file (RFC 4180, UTF-8, with a header row)."""

from __future__ import annotations

import csv
import os
from collections.abc import Iterator
from typing import BinaryIO

from esgbatch.accounts.columns import RowMapper
from esgbatch.config.model import Accounts
from esgbatch.errors import AccountSystemError
from esgbatch.model import Listing

# The module's own limit of 128 Ki is too narrow for some; without one, a missing quote swallows the file.
LONGEST_FIELD = 16 * 1024 * 1024


class CsvAccounts:
    """An `AccountSource` in a file, one row in memory at a time.

    A row with more or fewer fields than the header (RFC 4180, 2.4) is refused, not guessed
    at, and counted; as the file's very last one without a line end it is an error, since
    then somebody was still writing the file, or it was cut. Empty lines are no rows.
    """

    def __init__(self, config: Accounts) -> None:
        assert config.path is not None
        self._config = config
        self._path = config.path

    def accounts(self) -> Iterator[Listing]:
        """Every row in the file's order, streamed.

        Raises:
            AccountSystemError: the file cannot be read, is no such CSV, or lacks a column.
        """
        csv.field_size_limit(LONGEST_FIELD)
        try:
            with self._path.open("rb") as binary:
                cut = not _ends_with_line_end(binary)
            with self._path.open(encoding="utf-8-sig", newline="") as file:
                yield from self._rows(csv.reader(file, strict=True), cut=cut)
        except OSError as error:
            raise self._trouble(f"cannot be read: {error.strerror or type(error).__name__}") from None

    def _rows(self, reader: Iterator[list[str]], *, cut: bool) -> Iterator[Listing]:
        rows = self._readable(reader)
        header = next(rows, None)
        if header is None:
            raise self._trouble("is empty; a header row is needed")
        to_listing = RowMapper(self._config, header, source=f"The account file {self._path}")
        whole = True
        for row in rows:
            whole = len(row) == len(header)
            yield to_listing(row) if whole else Listing(None, "", active=True)
        if cut and not whole:
            raise self._trouble("ends in the middle of a row: it is not complete")

    def _readable(self, reader: Iterator[list[str]]) -> Iterator[list[str]]:
        """The rows that are there; what cannot be read is told by its line, never by its text."""
        number = 0
        while True:
            try:
                row = next(reader, None)
            except UnicodeDecodeError:
                raise self._trouble(f"is not in UTF-8, somewhere after row {number}") from None
            except csv.Error as error:
                raise self._trouble(f"is no valid CSV after row {number}: {error}") from None
            if row is None:
                return
            number += 1
            if row:
                yield row

    def _trouble(self, what: str) -> AccountSystemError:
        return AccountSystemError(
            f"The account file {self._path} {what}.",
            advice="provide the file anew, then `esgbatch resume --date {date}`",
        )


def _ends_with_line_end(file: BinaryIO) -> bool:
    size = file.seek(0, os.SEEK_END)
    if size == 0:
        return True
    file.seek(-1, os.SEEK_END)
    return file.read(1) in (b"\n", b"\r")
