"""From the checkpoint's rows to the bytes of the file: RFC 4180, UTF-8, CRLF."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Iterator, Sequence

from esgbatch.model import Row

SUCCESS = "Success"
FAILED = "Failed"
NOT_AVAILABLE = "N/A"
CHUNK = 64 * 1024

# What a spreadsheet takes for the start of a formula (OWASP, CSV injection).
FORMULA_STARTS = ("=", "+", "-", "@", "\t", "\r")


class CsvFile:
    """The file as a stream of chunks; `rows` counts what has gone out, without the header."""

    def __init__(self, header: Sequence[str], *, guard_formulas: bool) -> None:
        self.rows = 0
        self._header = header
        self._guard = guard_formulas

    def chunks(self, rows: Iterable[Row]) -> Iterator[bytes]:
        """The whole file, in pieces of about 64 KiB."""
        buffer = io.StringIO(newline="")
        writer = csv.writer(buffer, lineterminator="\r\n")
        writer.writerow(self._header)
        missing = (NOT_AVAILABLE,) * (len(self._header) - 3)
        text = self._text
        for row in rows:
            scores, status = (missing, FAILED) if row.scores is None else (row.scores, SUCCESS)
            writer.writerow((text(row.account_id), text(row.name), *scores, status))
            self.rows += 1
            if buffer.tell() >= CHUNK:
                yield _taken(buffer)
        yield _taken(buffer)

    def _text(self, cell: str) -> str:
        """A text cell that no spreadsheet runs. Score cells never come here: -1.00 is a number."""
        return f"'{cell}" if self._guard and cell.startswith(FORMULA_STARTS) else cell


def _taken(buffer: io.StringIO) -> bytes:
    chunk = buffer.getvalue().encode()
    buffer.seek(0)
    buffer.truncate()
    return chunk
