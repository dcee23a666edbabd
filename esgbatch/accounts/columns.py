"""Where the account's columns are in a table with a header: the same rules for CSV and SQL."""

from __future__ import annotations

from collections.abc import Sequence

from esgbatch.accounts.listing import listing
from esgbatch.config.model import Accounts
from esgbatch.errors import AccountSystemError
from esgbatch.model import Listing


class RowMapper:
    """Turns the rows under a header into listings; without a status column all are active.

    Raises:
        AccountSystemError: the ID's or name's column is not there, or one of ours is there twice.
    """

    def __init__(self, config: Accounts, header: Sequence[str], *, source: str) -> None:
        wanted = {"id": config.id, "name": config.name, "status": config.status}
        for key, column in wanted.items():
            if key != "status" and column not in header:
                raise _wrong(source, f"no column {column!r} (accounts.{key})", header)
            if header.count(column) > 1:
                raise _wrong(source, f"more than one column {column!r} (accounts.{key})", header)
        self._id = header.index(config.id)
        self._name = header.index(config.name)
        self._status = header.index(config.status) if config.status in header else None
        self._active = frozenset(config.active)

    def __call__(self, row: Sequence[object]) -> Listing:
        if self._status is None:
            return listing(row[self._id], row[self._name], "", _ANY)
        return listing(row[self._id], row[self._name], row[self._status], self._active)


_ANY = frozenset({""})


def _wrong(source: str, what: str, header: Sequence[str]) -> AccountSystemError:
    columns = ", ".join(repr(column[:40]) for column in header[:20])
    return AccountSystemError(
        f"{source} has {what}; its columns are {columns}.",
        advice="correct the column names under [accounts], then `esgbatch resume --date {date}`",
    )
