"""From the checkpoint's rows to the bytes of the file: RFC 4180, UTF-8, CRLF."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Sequence

from esgbatch.model import Row

SUCCESS = "Success"
FAILED = "Failed"
NOT_AVAILABLE = "N/A"

# What a spreadsheet takes for the start of a formula (OWASP, CSV injection).
FORMULA_STARTS = frozenset("=+-@\t\r")


class CsvFile:
    """The file in pieces: its `head`, then the lines of any number of rows."""

    def __init__(self, header: Sequence[str], *, guard_formulas: bool) -> None:
        self.head = _csv([header])
        self._missing = (*(NOT_AVAILABLE,) * (len(header) - 3), FAILED)
        self._guard = guard_formulas

    def lines(self, rows: Sequence[Row]) -> bytes:
        """The rows as they stand in the file."""
        missing = self._missing
        ids, names = self._texts([row.account_id for row in rows]), self._texts([row.name for row in rows])
        return _csv(
            [
                (account_id, name, *missing) if row.scores is None else (account_id, name, *row.scores, SUCCESS)
                for account_id, name, row in zip(ids, names, rows, strict=True)
            ]
        )

    def _texts(self, cells: list[str]) -> list[str]:
        """Text cells that no spreadsheet runs. Score cells never come here: -1.00 is a number."""
        if not self._guard:
            return cells
        return [f"'{cell}" if cell[:1] in FORMULA_STARTS else cell for cell in cells]


def _csv(rows: Iterable[Iterable[str]]) -> bytes:
    text = io.StringIO(newline="")
    csv.writer(text, lineterminator="\r\n").writerows(rows)
    return text.getvalue().encode()
