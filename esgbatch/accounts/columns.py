"""Where the account's columns are in a table with a header: the same rules for CSV and SQL."""

from __future__ import annotations

from collections.abc import Sequence

from esgbatch.accounts.listing import listing
from esgbatch.config.model import Accounts
from esgbatch.errors import AccountSystemError
from esgbatch.model import Listing


class RowMapper:
    """Turns the rows under a header into listings; without a status column all are active.

    Columns that nobody has named may be called as in the REST API or simply id, name, status.

    Raises:
        AccountSystemError: the ID's or name's column is not there, or one of ours is there twice.
    """

    def __init__(self, config: Accounts, header: Sequence[str], *, source: str) -> None:
        wanted = {key: _column(config, key, header) for key in ("id", "name", "status")}
        for key, column in wanted.items():
            if key != "status" and column not in header:
                raise _wrong(source, f"no column {column!r} (accounts.{key})", header)
            if header.count(column) > 1:
                raise _wrong(source, f"more than one column {column!r} (accounts.{key})", header)
        self._id = header.index(wanted["id"])
        self._name = header.index(wanted["name"])
        self._status = header.index(wanted["status"]) if wanted["status"] in header else None
        self._active = frozenset(config.active)

    def __call__(self, row: Sequence[object]) -> Listing:
        if self._status is None:
            return listing(row[self._id], row[self._name], "", _ANY)
        return listing(row[self._id], row[self._name], row[self._status], self._active)


_ANY = frozenset({""})


def _column(config: Accounts, key: str, header: Sequence[str]) -> str:
    named: str = getattr(config, key)
    return key if named not in header and key in header and key not in config.model_fields_set else named


def _wrong(source: str, what: str, header: Sequence[str]) -> AccountSystemError:
    columns = ", ".join(repr(column[:40]) for column in header[:20])
    return AccountSystemError(
        f"{source} has {what}; its columns are {columns}.",
        advice="correct the column names under [accounts], then `esgbatch resume --date {date}`",
    )
