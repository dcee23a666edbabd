"""Freezing the account list."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from sqlalchemy import Connection, select

from esgbatch.checkpoint.database import batched, execute_many
from esgbatch.checkpoint.tables import accounts
from esgbatch.checkpoint.vault import RunCipher
from esgbatch.model import Census, Listing, Run, State
from esgbatch.ports import Listener

PAGE = 2000


class Enrolment:
    """The list on its way in: counts every row, hashes those that stay."""

    def __init__(self, run: Run, cipher: RunCipher, listener: Listener) -> None:
        self.census = Census()
        self._run = run
        self._cipher = cipher
        self._listener = listener
        self._position = 0
        self._hash = hashlib.sha256()

    @property
    def sha256(self) -> str:
        """Over ID and name of each row, in order: the frozen list's identity."""
        return self._hash.hexdigest()

    @property
    def is_full(self) -> bool:
        """Whether the run's `--limit` is reached."""
        return self._run.limit is not None and self.census.rows >= self._run.limit

    def add(self, connection: Connection, batch: Sequence[Listing]) -> None:
        """Take a page's rows, in order, until the run is full."""
        while batch and not self.is_full:
            batch = batch[self._take(connection, batch) :]

    def _take(self, connection: Connection, batch: Sequence[Listing]) -> int:
        """Take no more than may fit, since duplicates show only in the database; returns how many."""
        usable: list[tuple[int, str, str]] = []
        inactive = refused = seen = 0
        room = None if self._run.limit is None else self._run.limit - self.census.rows
        for listing in batch:
            if room is not None and len(usable) >= room:
                break
            seen += 1
            if listing.account_id is None:
                refused += 1
            elif not listing.active:
                inactive += 1
            else:
                usable.append((self._position + len(usable), listing.account_id, listing.name))
        kept = self._insert(connection, usable) if usable else set()
        for position, account_id, name in usable:
            if position in kept:
                self._hash.update(f"{len(account_id)}:{account_id}{len(name)}:{name}".encode())
        self._position += len(usable)
        self.census = Census(
            listed=self.census.listed + seen,
            inactive=self.census.inactive + inactive,
            duplicate=self.census.duplicate + len(usable) - len(kept),
            refused=self.census.refused + refused,
        )
        return seen

    def _insert(self, connection: Connection, usable: Sequence[tuple[int, str, str]]) -> set[int]:
        """Insert those with a new ID; return their positions."""
        insert = _dialect_insert(connection)(accounts).on_conflict_do_nothing()
        result = execute_many(
            connection,
            insert,
            [
                {
                    "run": self._run.number,
                    "position": position,
                    "account_id": account_id,
                    "name": self._cipher.seal_name(position, account_id, name),
                    "state": State.PENDING.value,
                    "attempts": 0,
                }
                for position, account_id, name in usable
            ],
        )
        positions = {position for position, _, _ in usable}
        if result.rowcount == len(usable):
            return positions
        return positions - set(self._duplicates(connection, usable))

    def _duplicates(self, connection: Connection, usable: Sequence[tuple[int, str, str]]) -> Iterator[int]:
        first: dict[str, tuple[int, bytes]] = {}
        for part in batched(usable, 500):
            found = connection.execute(
                select(accounts.c.account_id, accounts.c.position, accounts.c.name).where(
                    accounts.c.run == self._run.number,
                    accounts.c.account_id.in_([account_id for _, account_id, _ in part]),
                )
            )
            first.update({account_id: (position, name) for account_id, position, name in found})
        for position, account_id, name in usable:
            at, sealed = first[account_id]
            if at != position:
                if self._cipher.open_name(at, account_id, sealed) != name:
                    self._listener.event("duplicate_name_differs", account_id=account_id)
                yield position


def _dialect_insert(connection: Connection) -> Callable[..., Any]:
    """The dialect's own insert; each is loaded where it is used, since PostgreSQL's takes its time."""
    if connection.dialect.name == "postgresql":
        from sqlalchemy.dialects import postgresql

        return postgresql.insert
    from sqlalchemy.dialects import sqlite

    return sqlite.insert
