"""Names and scores that are not to be kept any longer: purged with their run, or erased with their account."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from datetime import UTC, date, datetime

from sqlalchemy import Connection, delete, exists, func, or_, select, update

from esgbatch.checkpoint.database import Database, batched
from esgbatch.checkpoint.tables import accounts, erasures, metadata, run_keys, runs
from esgbatch.model import Reason, Run, Stage, State, Tally
from esgbatch.ports import Clock

BATCH = 10_000
TOMBSTONE = "erased:"


class SqlPrivacy:
    """Implements `ports.Privacy`."""

    def __init__(self, database: Database, clock: Clock) -> None:
        self._database = database
        self._clock = clock

    def rated(self) -> Sequence[date]:
        """The business dates whose names and scores are still here, a part of them included."""
        left = exists().where(accounts.c.run == runs.c.number)
        with self._database.reading() as connection:
            found = connection.scalars(
                select(runs.c.business_date)
                .where(or_(runs.c.purged.is_(None), left))
                .order_by(runs.c.business_date)
            )
            return [date.fromisoformat(text) for text in found]

    def purge(self, run: Run, *, history: bool) -> None:
        """Remove the run's names, scores and accounts, and keep its counts; with `history`, remove all of it.

        Done again, it finishes.
        The run's key goes first, in the transaction that keeps the counts: from then on nothing of
        it can be read. The rows follow in small transactions, so that a run at work never waits.
        """
        with self._database.writing() as connection:
            if connection.scalar(select(runs.c.purged).where(runs.c.number == run.number)) is None:
                kept = {"at": self._now().isoformat(), "tally": _as_dict(count(connection, run))}
                connection.execute(
                    update(runs).where(runs.c.number == run.number).values(purged=json.dumps(kept))
                )
            connection.execute(delete(run_keys).where(run_keys.c.run == run.number))
            last = connection.scalar(select(func.max(accounts.c.position)).where(accounts.c.run == run.number))
        self._database.vault.forget()
        for first in range(0, -1 if last is None else last + 1, BATCH):
            with self._database.writing() as connection:
                connection.execute(
                    delete(accounts).where(
                        accounts.c.run == run.number,
                        accounts.c.position.between(first, first + BATCH - 1),
                    )
                )
        if history:
            with self._database.writing() as connection:
                for table in reversed(metadata.sorted_tables):
                    if "run" in table.c:
                        connection.execute(delete(table).where(table.c.run == run.number))
                connection.execute(delete(runs).where(runs.c.number == run.number))
        self._database.empty_log()

    def holding(self, account_ids: Sequence[str]) -> Mapping[date, Sequence[str]]:
        """The business dates whose runs have any of these accounts, and which of them."""
        found: dict[date, list[str]] = {}
        with self._database.reading() as connection:
            numbers = connection.execute(
                select(runs.c.number, runs.c.business_date).order_by(runs.c.business_date)
            ).all()
            for number, day in numbers:
                for part in batched(account_ids, 500):
                    mine = connection.scalars(
                        select(accounts.c.account_id).where(
                            accounts.c.run == number, accounts.c.account_id.in_(part)
                        )
                    ).all()
                    if mine:
                        found.setdefault(date.fromisoformat(day), []).extend(mine)
        return found

    def erase(self, run: Run, subjects: Mapping[str, str]) -> int:
        """Remove ID, name and scores of these accounts from the run; returns how many it had.

        `subjects` are the keyed hashes to keep in place of the IDs. In a delivered run the row
        stays, nameless, so that its counts go on agreeing with its file; from any other file in the
        making it is left out, and a file that is sealed already is made again. `scrub` makes it
        final on disk.
        """
        with self._database.writing() as connection:
            gone = 0
            for account_id, subject in subjects.items():
                gone += connection.execute(
                    update(accounts)
                    .where(accounts.c.run == run.number, accounts.c.account_id == account_id)
                    .values(
                        account_id=TOMBSTONE + subject,
                        name=None,
                        scores=None,
                        http_status=None,
                        first_attempt=None,
                        last_attempt=None,
                    )
                ).rowcount
            if gone and run.stage is not Stage.DELIVERED:
                leave_out_erased(connection, run)
            if gone and run.stage is Stage.DELIVERING:
                connection.execute(
                    update(runs)
                    .where(runs.c.number == run.number)
                    .values(stage=Stage.SEALING, revision=run.revision + 1)
                )
        return gone

    def remember(self, subjects: Sequence[str]) -> None:
        """Note whom `erase` has removed, by keyed hash, and leave no byte of them in the database's files.

        Raises:
            CheckpointError: somebody reads or writes all the time; the same call later finishes.
        """
        with self._database.writing() as connection:
            known = set(connection.scalars(select(erasures.c.subject)))
            new = [{"subject": each, "at": self._clock.time()} for each in subjects if each not in known]
            if new:
                connection.execute(erasures.insert(), new)
        self._database.scrub()

    def erasures(self) -> Mapping[str, datetime]:
        """Who was ever erased, by keyed hash, and when first."""
        with self._database.reading() as connection:
            rows = connection.execute(select(erasures.c.subject, erasures.c.at))
            return {subject: datetime.fromtimestamp(at, UTC) for subject, at in rows}

    def nameless(self, run: Run) -> int:
        """How many accounts of the delivered file were erased since it was made."""
        with self._database.reading() as connection:
            return (
                connection.scalar(
                    select(func.count()).where(accounts.c.run == run.number, accounts.c.name.is_(None))
                )
                or 0
            )

    def _now(self) -> datetime:
        return datetime.fromtimestamp(self._clock.time(), UTC)


def leave_out_erased(connection: Connection, run: Run) -> int:
    """Take the nameless rows out of the file in the making; returns how many."""
    nameless = (accounts.c.run == run.number) & accounts.c.name.is_(None)
    gone = connection.execute(delete(accounts).where(nameless)).rowcount
    if gone:
        connection.execute(update(runs).where(runs.c.number == run.number).values(erased=runs.c.erased + gone))
    return gone


def count(connection: Connection, run: Run) -> Tally:
    """The run's accounts by state; once they are purged, as they were."""
    purged = connection.scalar(select(runs.c.purged).where(runs.c.number == run.number))
    if purged is not None:
        kept = json.loads(purged)["tally"]
        return Tally(**kept | {"failed_by": {Reason(name): n for name, n in kept["failed_by"].items()}})
    counted = connection.execute(
        select(accounts.c.state, accounts.c.reason, func.count())
        .where(accounts.c.run == run.number)
        .group_by(accounts.c.state, accounts.c.reason)
    ).all()
    by_state = dict.fromkeys(State, 0)
    for state, _, number in counted:
        by_state[State(state)] += number
    return Tally(
        pending=by_state[State.PENDING],
        deferred=by_state[State.DEFERRED],
        succeeded=by_state[State.SUCCEEDED],
        failed_by={Reason(reason): number for state, reason, number in counted if state == State.FAILED},
    )


def _as_dict(tally: Tally) -> dict[str, object]:
    return {
        "pending": tally.pending,
        "deferred": tally.deferred,
        "succeeded": tally.succeeded,
        "failed_by": {str(reason): number for reason, number in tally.failed_by.items()},
    }
