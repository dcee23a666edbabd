"""Freezing the account list."""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Iterator, Sequence

from sqlalchemy import Connection, select

from esgbatch.checkpoint.database import batched, insert_new
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
        self._same: dict[str, str | int] = {"run": run.number, "state": State.PENDING.value, "attempts": 0}

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
        if self._run.limit is not None:
            batch = _until(batch, self._run.limit - self.census.rows)
        refused = sum(each.account_id is None for each in batch)
        active = [(each.account_id, each.name) for each in batch if each.active and each.account_id is not None]
        usable = [(position, *row) for position, row in enumerate(active, self._position)]
        again = self._insert(connection, usable) if usable else ()
        kept = [each for each in usable if each[0] not in again] if again else usable
        texts = [f"{len(account_id)}:{account_id}{len(name)}:{name}" for _, account_id, name in kept]
        self._hash.update("".join(texts).encode())
        self._position += len(usable)
        self.census = Census(
            listed=self.census.listed + len(batch),
            inactive=self.census.inactive + len(batch) - refused - len(active),
            duplicate=self.census.duplicate + len(again),
            refused=self.census.refused + refused,
        )
        return len(batch)

    def _insert(self, connection: Connection, usable: Sequence[tuple[int, str, str]]) -> Collection[int]:
        """Insert those with a new ID; return the positions of the others."""
        names = self._cipher.seal_names(usable)
        rows = [(position, who, name) for (position, who, _), name in zip(usable, names, strict=True)]
        if insert_new(connection, accounts, self._same, ("position", "account_id", "name"), rows) == len(rows):
            return ()
        return set(self._duplicates(connection, usable))

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


def _until(batch: Sequence[Listing], room: int) -> Sequence[Listing]:
    """Up to the row that takes the last room."""
    for seen, listing in enumerate(batch, 1):
        room -= listing.active and listing.account_id is not None
        if room == 0:
            return batch[:seen]
    return batch
