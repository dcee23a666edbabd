"""Runs: one a business date, and the stage each has reached."""

from __future__ import annotations

import json
import uuid
from collections.abc import Iterable, Sequence
from dataclasses import replace
from datetime import UTC, date, datetime
from typing import Any

from sqlalchemy import Connection, RowMapping, null, select, update

from esgbatch.checkpoint.database import Database, batched, steadfast
from esgbatch.checkpoint.enrolment import PAGE, Enrolment
from esgbatch.checkpoint.privacy import leave_out_erased
from esgbatch.checkpoint.tables import accounts, runs
from esgbatch.errors import AccountSystemError, NothingToDo, WrongUsage
from esgbatch.model import Approval, Census, Listing, Run, Stage, State
from esgbatch.ports import Clock, Listener


class SqlRuns:
    """Implements `ports.Runs`."""

    def __init__(self, database: Database, clock: Clock, listener: Listener) -> None:
        self._database = database
        self._clock = clock
        self._listener = listener

    @steadfast
    def find(self, business_date: date) -> Run | None:
        with self._database.reading() as connection:
            row = (
                connection.execute(select(runs).where(runs.c.business_date == business_date.isoformat()))
                .mappings()
                .first()
            )
        return None if row is None else _run(row)

    def create(self, business_date: date, columns: Sequence[str], limit: int | None) -> Run:
        with self._database.writing() as connection:
            inserted = connection.execute(
                runs.insert().values(
                    run_id=uuid.uuid4().hex,
                    business_date=business_date.isoformat(),
                    revision=1,
                    stage=Stage.LISTING,
                    columns=json.dumps(list(columns)),
                    account_limit=limit,
                    listed=0,
                    inactive=0,
                    duplicate=0,
                    refused=0,
                    created=self._clock.time(),
                )
            ).inserted_primary_key
            assert inserted is not None
            self._database.vault.begin(connection, inserted[0])
        found = self.find(business_date)
        assert found is not None
        return found

    @steadfast
    def advance(self, run: Run, stage: Stage) -> Run:
        """Enter the next stage."""
        with self._database.writing() as connection:
            connection.execute(update(runs).where(runs.c.number == run.number).values(stage=stage))
        return replace(run, stage=stage)

    @steadfast
    def approve(self, run: Run, approval: Approval) -> Run:
        """Let a withheld revision go on to be sealed."""
        noted = {
            "by": approval.by,
            "reason": approval.reason,
            "at": approval.at.isoformat(),
            "revision": run.revision,
        }
        with self._database.writing() as connection:
            connection.execute(
                update(runs)
                .where(runs.c.number == run.number)
                .values(approved=json.dumps(noted), stage=Stage.SEALING)
            )
        return replace(run, stage=Stage.SEALING, approval=approval)

    def enrol(self, run: Run, listings: Iterable[Listing]) -> Run:
        """Freeze the account list: in one transaction, in the system's order, each ID once.

        Raises:
            AccountSystemError: the source failed, or no row is left; nothing is kept then.
        """
        with self._database.writing() as connection:
            enrolment = Enrolment(run, self._database.vault.cipher(connection, run.number), self._listener)
            for batch in batched(listings, PAGE):
                enrolment.add(connection, batch)
                if enrolment.is_full:
                    break
            census = enrolment.census
            if not census.rows:
                raise AccountSystemError(
                    f"The account system listed {census.listed} rows, none of them an active account "
                    f"({census.inactive} inactive, {census.refused} without a usable ID)."
                )
            connection.execute(
                update(runs)
                .where(runs.c.number == run.number)
                .values(
                    listed=census.listed,
                    inactive=census.inactive,
                    duplicate=census.duplicate,
                    refused=census.refused,
                    list_sha256=enrolment.sha256,
                    stage=Stage.RATING,
                )
            )
        self._listener.event(
            "accounts_enrolled",
            listed=census.listed,
            rows=census.rows,
            inactive=census.inactive,
            duplicate=census.duplicate,
            refused=census.refused,
            list_sha256=enrolment.sha256,
        )
        return replace(run, census=census, stage=Stage.RATING)

    @steadfast
    def reopen(self, run: Run, account_ids: Sequence[str] | None) -> Run:
        """Begin the next revision: rate the named accounts again, or with None all failed ones.

        The revision stays the same where the present one was never sealed. Who was erased since
        is left out of it, and counted as such.

        Raises:
            WrongUsage: an ID is not in the run; nothing is changed then.
            NothingToDo: there is no failed account.
        """
        with self._database.writing() as connection:
            self._database.vault.cipher(connection, run.number)  # or nothing could be made of it
            mine = accounts.c.run == run.number
            if account_ids is None:
                mine &= accounts.c.name.is_not(None)
                chosen = [mine & (accounts.c.state == State.FAILED)]
            else:
                _require_known(connection, run, account_ids)
                chosen = [mine & accounts.c.account_id.in_(part) for part in batched(account_ids, 500)]
            count = sum(
                connection.execute(update(accounts).where(where).values(_UNRATED)).rowcount for where in chosen
            )
            if not count:
                raise NothingToDo("There is no failed account in this run.")
            left_out = leave_out_erased(connection, run)
            revision = run.revision + (run.stage in (Stage.DELIVERING, Stage.DELIVERED))
            connection.execute(
                update(runs)
                .where(runs.c.number == run.number)
                .values(revision=revision, stage=Stage.RATING, approved=null())
            )
        census = replace(run.census, erased=run.census.erased + left_out)
        return replace(run, revision=revision, stage=Stage.RATING, approval=None, census=census)


_UNRATED: dict[str, Any] = {
    "state": State.PENDING,
    "scores": None,
    "reason": None,
    "http_status": None,
    "attempts": 0,
    "first_attempt": None,
    "last_attempt": None,
}


def _require_known(connection: Connection, run: Run, account_ids: Sequence[str]) -> None:
    known: set[str] = set()
    for part in batched(account_ids, 500):
        known.update(
            connection.scalars(
                select(accounts.c.account_id).where(
                    accounts.c.run == run.number, accounts.c.account_id.in_(part)
                )
            )
        )
    unknown = [account_id for account_id in account_ids if account_id not in known]
    if unknown:
        more = f" and {len(unknown) - 5} more" if len(unknown) > 5 else ""
        raise WrongUsage(
            f"Not in the run of {run.business_date}: {', '.join(map(ascii, unknown[:5]))}{more}. "
            "Nothing was changed.",
            advice="correct the list of accounts",
        )


def _run(row: RowMapping) -> Run:
    approved = json.loads(row["approved"]) if row["approved"] else None
    return Run(
        number=row["number"],
        run_id=row["run_id"],
        business_date=date.fromisoformat(row["business_date"]),
        revision=row["revision"],
        stage=Stage(row["stage"]),
        census=Census(row["listed"], row["inactive"], row["duplicate"], row["refused"], row["erased"]),
        columns=tuple(json.loads(row["columns"])),
        created=datetime.fromtimestamp(row["created"], UTC),
        limit=row["account_limit"],
        approval=None
        if approved is None
        else Approval(approved["by"], approved["reason"], datetime.fromisoformat(approved["at"])),
        purged=datetime.fromisoformat(json.loads(row["purged"])["at"]) if row["purged"] else None,
    )
