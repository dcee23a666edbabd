"""A checkpoint with its four books, and what tests write into them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, date, datetime
from decimal import Decimal
from pathlib import Path

from sqlalchemy import select, text

from esgbatch.checkpoint import views
from esgbatch.checkpoint.database import Database
from esgbatch.checkpoint.history import SqlHistory
from esgbatch.checkpoint.ledger import SqlLedger
from esgbatch.checkpoint.outcomes import SqlOutcomes
from esgbatch.checkpoint.privacy import SqlPrivacy
from esgbatch.checkpoint.runs import SqlRuns
from esgbatch.checkpoint.tables import accounts as accounts_table
from esgbatch.checkpoint.tables import metadata
from esgbatch.checkpoint.vault import MasterKey, MasterKeys
from esgbatch.model import (
    Digest,
    Listing,
    Outcome,
    Reason,
    Revision,
    Row,
    Run,
    SealedFile,
    Stage,
    State,
)
from esgbatch.ports import History, Ledger, Outcomes, Privacy, Runs
from tests.simulated import RecordingListener, SimulatedClock

DAY = date(2026, 11, 24)
COLUMNS = ("Environmental Score", "Social Score")


class TestKeys:
    """One master key, whoever opens the books."""

    __test__ = False

    def __init__(self, fill: bytes = b"k") -> None:
        self.master = MasterKey(fill * 32)

    def known(self) -> dict[str, MasterKey]:
        return {self.master.id: self.master}

    def make(self) -> MasterKey:
        return self.master


@dataclass
class Books:
    """`with Books(url) as books`; another one with the same URL is another process, as far as it can tell."""

    url: str
    clock: SimulatedClock = field(default_factory=SimulatedClock)
    listener: RecordingListener = field(default_factory=RecordingListener)
    keys: MasterKeys = field(default_factory=TestKeys)

    def __enter__(self) -> Books:
        self.database = Database(self.url, keys=self.keys)
        self.runs: Runs = SqlRuns(self.database, self.clock, self.listener)
        self.outcomes: Outcomes = SqlOutcomes(self.database)
        self.ledger: Ledger = SqlLedger(self.database, self.clock)
        self.history: History = SqlHistory(self.database, self.clock)
        self.privacy: Privacy = SqlPrivacy(self.database, self.clock)
        return self

    def __exit__(self, *_: object) -> None:
        self.database.close()

    def create(self, day: date = DAY, limit: int | None = None) -> Run:
        return self.runs.create(day, COLUMNS, limit)

    def enrolled(self, accounts: int | Iterable[Listing] = 5, day: date = DAY) -> Run:
        """A run in the rating stage; a number means A-0, A-1, …"""
        return self.runs.enrol(self.create(day), listings(accounts) if isinstance(accounts, int) else accounts)

    def rated(self, succeeded: int = 3, failed: int = 2, day: date = DAY) -> Run:
        """A run that is about to be sealed: the first accounts have scores, the last ones failed."""
        run = self.enrolled(succeeded + failed, day)
        self.outcomes.record(run, [success(position) for position in range(succeeded)])
        self.outcomes.record(run, [failure(succeeded + number) for number in range(failed)])
        return self.runs.advance(run, Stage.SEALING)

    def again(self, run: Run) -> Run:
        """The run as it stands in the database."""
        found = self.runs.find(run.business_date)
        assert found is not None
        return found

    def rows(self, run: Run) -> list[Row]:
        """Every account as it stands, in order, whether it has an outcome or not."""
        table = accounts_table
        with self.database.reading() as connection:
            ids = connection.scalars(
                select(table.c.account_id).where(table.c.run == run.number).order_by(table.c.position)
            ).all()
        return [held.row for each in ids if (held := self.outcomes.held(run, each))]

    def seal(self, run: Run, *, partial: bool = False) -> Revision:
        revision = sealed(run.revision, partial=partial)
        self.ledger.sealed(run, revision)
        return revision

    def everything(self) -> dict[str, list[tuple[object, ...]]]:
        """Every row of every table."""
        with self.database.reading() as connection:
            return {
                table.name: sorted(map(tuple, connection.execute(select(table))), key=repr)
                for table in metadata.sorted_tables
            }


def to_first_version(books: Books) -> None:
    """Turn the tables into those of the first version, which knew no encryption."""
    with books.database.writing() as connection:
        rows = connection.execute(select(accounts_table)).mappings().all()
        plain = []
        for row in rows:
            cipher = books.database.vault.cipher(connection, row["run"])
            at, account_id, scores = row["position"], row["account_id"], row["scores"]
            name = cipher.open_name(at, account_id, row["name"])
            plain.append({**row, "name": name, "scores": scores and cipher.open_scores(at, scores)})
        for view in views.NAMES:
            connection.exec_driver_sql(f"drop view {view}")
        for table in ("samples", "run_keys", "erasures", "accounts"):
            connection.exec_driver_sql(f"drop table {table}")
        for table, column in (("revisions", "histograms"), ("runs", "erased"), ("runs", "purged")):
            connection.exec_driver_sql(f"alter table {table} drop column {column}")
        connection.exec_driver_sql("update esgbatch_schema set version = 1")
        connection.exec_driver_sql(_FIRST_ACCOUNTS)
        if plain:
            connection.execute(text(_INSERT), plain)
    books.database.vault.forget()


_FIRST_ACCOUNTS = """
create table accounts (
  run integer not null references runs(number), position integer not null, account_id text not null,
  name text not null, state text not null, scores text, reason text, http_status integer,
  attempts integer not null, first_attempt float, last_attempt float,
  primary key (run, position), unique (run, account_id))
"""
_INSERT = """
insert into accounts values (:run, :position, :account_id, :name, :state, :scores, :reason, :http_status,
  :attempts, :first_attempt, :last_attempt)
"""


def listings(count: int, first: int = 0) -> list[Listing]:
    return [account(f"A-{number}") for number in range(first, first + count)]


def account(account_id: str | None, name: str | None = None, *, active: bool = True) -> Listing:
    return Listing(account_id, f"Trust {account_id}" if name is None else name, active)


def success(position: int, *scores: str, attempts: int = 1, at: float = 100.0) -> Outcome:
    return Outcome(
        position,
        State.SUCCEEDED,
        tuple(map(Decimal, scores or ("71.24", "0.00"))),
        http_status=200,
        attempts=attempts,
        first_attempt=at,
        last_attempt=at,
    )


def failure(
    position: int,
    reason: Reason = Reason.NO_RATING,
    state: State = State.FAILED,
    *,
    http_status: int | None = 404,
    attempts: int = 1,
    at: float = 100.0,
    until: float | None = None,
) -> Outcome:
    last = at if until is None else until
    return Outcome(position, state, (), reason, http_status, attempts, at, last)


def deferral(position: int, *, attempts: int = 5, at: float = 100.0, until: float | None = None) -> Outcome:
    """Put off to the last pass."""
    return failure(
        position, Reason.UNAVAILABLE, State.DEFERRED, http_status=503, attempts=attempts, at=at, until=until
    )


def sealed(
    number: int = 1,
    *,
    partial: bool = False,
    means: Sequence[float | None] = (71.24, None),
    size: int = 2**33,
) -> Revision:
    return Revision(
        number,
        datetime(2026, 11, 24, 12, 31, 7, 123456, tzinfo=UTC),
        SealedFile(
            Path(f"/var/lib/esgbatch/archive/20261124/r{number}/FirmESGRatings_20261124.csv.pgp"),
            Digest("a" * 64, size + 1),
            Digest(f"{number}" * 64, size),
            ("A" * 40, "B" * 40),
            5,
        ),
        b'{"schema": 1}\n',
        tuple(means),
        partial,
    )
