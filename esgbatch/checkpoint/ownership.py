"""A run belongs to one host: PostgreSQL's advisory lock, and a fence for who has lost it unnoticed.

The lock file of `lease.py` excludes processes of one machine; a database that several hosts
share needs a lock in the database. It is the session's, so it ends with its owner: at once
when the process dies, within a minute when the host does. A host that was cut off, or a
machine that was paused, may believe for a while that it still has the lock. So each taking
has a number, and every write is made in one transaction with a look at it.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict
from datetime import date

from sqlalchemy import BigInteger, Column, Connection, MetaData, Table, Text, func, select, text
from sqlalchemy.exc import DBAPIError, SQLAlchemyError

from esgbatch.checkpoint.database import Database, steadfast, translated
from esgbatch.checkpoint.lease import Owner
from esgbatch.errors import RunHeld

OWNING = 0x45534F57  # the class of our advisory locks; the object is the date's ordinal

_metadata = MetaData()

# Only PostgreSQL has it: who took each date's run last. `number` goes up with each taking.
owners = Table(
    "owners",
    _metadata,
    Column("business_date", Text, primary_key=True),
    Column("number", BigInteger, nullable=False),
    Column("owner", Text, nullable=False),
)


@contextmanager
def ownership(
    database: Database, business_date: date, command: str, until: float | None = None
) -> Iterator[None]:
    """Hold the run against every other host that shares the database; nothing to do on SQLite.

    `until` is the deadline that binds it, for the watchdog of another host.

    Raises:
        RunHeld: another process holds it, or, from any later write, has taken it over.
    """
    if database.dialect != "postgresql":
        yield
        return
    held = _Held(database, business_date, json.dumps(asdict(Owner.this_process(command, until))))
    try:
        database.fence = held.check
        yield
    finally:
        database.fence = None
        held.release()


def owner_of(database: Database, business_date: date) -> Owner | None:
    """Who holds the run, on whatever host; None where nobody does, or on SQLite."""
    if database.dialect != "postgresql":
        return None
    with database.reading() as connection:
        locked = connection.scalar(
            text(
                "select count(*) from pg_locks where locktype = 'advisory' and granted and objsubid = 2 "
                "and database = (select oid from pg_database where datname = current_database()) "
                "and classid = :kind and objid = :day"
            ),
            {"kind": OWNING, "day": business_date.toordinal()},
        )
        return _last_owner(connection, business_date) if locked else None


class _Held:
    """The lock, on a connection of its own: a pool would keep it when it is given back."""

    def __init__(self, database: Database, business_date: date, owner: str) -> None:
        self._database = database
        self._date = business_date
        self._lock: Connection | None = None
        self._take()
        with database.writing() as connection:
            _metadata.create_all(connection)
            from sqlalchemy.dialects.postgresql import insert  # where SQLite serves, it need not be loaded

            taken = insert(owners).values(business_date=business_date.isoformat(), number=1, owner=owner)
            taken = taken.on_conflict_do_update(
                index_elements=["business_date"], set_={"number": owners.c.number + 1, "owner": owner}
            )
            self._number: int = connection.execute(taken.returning(owners.c.number)).scalar_one()

    def check(self, connection: Connection) -> None:
        """The fence, in the transaction of each write.

        The row is share-locked: who takes the run over waits until this write is committed.
        """
        self._keep()
        number = connection.scalar(
            select(owners.c.number)
            .where(owners.c.business_date == self._date.isoformat())
            .with_for_update(read=True)
        )
        if number != self._number:
            raise RunHeld(
                f"The run of {self._date} was taken over by {_last_owner(connection, self._date)} while "
                "this process was cut off from the database."
            )

    def release(self) -> None:
        lock, self._lock = self._lock, None
        if lock is not None:
            with suppress(SQLAlchemyError):
                lock.execute(select(func.pg_advisory_unlock(OWNING, self._date.toordinal())))
            with suppress(SQLAlchemyError):
                lock.close()

    def _keep(self) -> None:
        """Take the lock again where its connection was lost."""
        try:
            if self._lock is not None:
                self._lock.execute(select(1))
                return
        except DBAPIError:
            self.release()
        self._take()

    @steadfast
    def _take(self) -> None:
        with translated():
            self._lock = self._database.connect_alone()
            if self._lock.scalar(select(func.pg_try_advisory_lock(OWNING, self._date.toordinal()))):
                return
            holder = _last_owner(self._lock, self._date) or "another process"
        self.release()
        raise RunHeld(
            f"The run of {self._date} is held by {holder}. If its host has died, the database notices "
            "that within a minute."
        )


def _last_owner(connection: Connection, business_date: date) -> Owner | None:
    if connection.scalar(select(func.to_regclass(owners.name))) is None:
        return None
    mine = owners.c.business_date == business_date.isoformat()
    noted = connection.scalar(select(owners.c.owner).where(mine))
    return None if noted is None else Owner(**json.loads(noted))
