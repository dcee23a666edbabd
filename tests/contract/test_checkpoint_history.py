"""What Ledger and History promise, on SQLite and on PostgreSQL."""

from __future__ import annotations

import os
import re
import socket
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, date, datetime, timedelta
from pathlib import Path

import psycopg
import pytest
from sqlalchemy import make_url

from esgbatch.checkpoint import history, tables, views
from esgbatch.checkpoint.database import Database
from esgbatch.errors import CheckpointError
from esgbatch.model import Execution, Histogram, Receipt, Run, Sample, Snapshot, Stage, Step
from tests.acceptance.postgres import Postgres
from tests.checkpoints import DAY, Books, sealed, to_first_version
from tests.simulated import SimulatedClock

RECEIPT = Receipt("sftp.example:/drop/esg/FirmESGRatings_20261124.csv.pgp", "read back", 2)
YESTERDAY = DAY - timedelta(days=1)


@pytest.fixture
def books(checkpoint_url: str) -> Iterator[Books]:
    with Books(checkpoint_url) as opened:
        yield opened


def deliver(books: Books, run: Run, *, partial: bool = False) -> Run:
    """Seal and deliver the revision in the making; the run as it stands then."""
    books.seal(run, partial=partial)
    books.ledger.delivered(run, RECEIPT)
    return books.again(run)


# --- the ledger -------------------------------------------------------------------------------


def test_a_sealed_file_is_registered_and_the_delivery_begins(books: Books) -> None:
    run = books.rated()
    assert books.ledger.revisions(run) == ()
    revision = books.seal(run)
    assert books.again(run).stage is Stage.DELIVERING
    assert books.ledger.revisions(run) == (revision,)


def test_a_delivery_is_recorded_and_ends_the_run(books: Books) -> None:
    run = books.rated()
    revision = books.seal(run)
    books.clock.now = 77.5
    books.ledger.delivered(run, RECEIPT)
    assert books.again(run).stage is Stage.DELIVERED
    at = datetime.fromtimestamp(books.clock.time(), UTC)
    assert books.ledger.revisions(run) == (replace(revision, delivered=at, location=RECEIPT.location),)


def test_a_revision_is_sealed_once(books: Books) -> None:
    run = deliver(books, books.rated())
    before = books.everything()
    with pytest.raises(CheckpointError):
        books.ledger.sealed(run, sealed(run.revision, size=7))
    assert books.everything() == before


def test_revisions_come_oldest_first_and_each_is_delivered_by_itself(books: Books) -> None:
    run = deliver(books, books.rated())
    for hour in range(1, 12):
        books.clock.now = 3600.0 * hour
        run = deliver(books, books.runs.reopen(run, ["A-0"]))
    run = books.runs.reopen(run, ["A-0"])
    books.seal(run)
    revisions = books.ledger.revisions(run)
    assert [revision.number for revision in revisions] == list(range(1, 14))
    began = datetime.fromtimestamp(SimulatedClock().time(), UTC)
    wanted = [began + timedelta(hours=hour) for hour in range(12)]
    assert [revision.delivered for revision in revisions] == [*wanted, None]


def test_steps_are_noted_in_order_for_the_revision_in_the_making(books: Books) -> None:
    run = books.rated()
    books.seal(run)
    assert list(books.ledger.steps(run)) == []
    for step in (Step.INTENDED, Step.UPLOADED, Step.VERIFIED):
        books.ledger.note(run, step, "/drop/.x.part")
    with Books(books.url) as others:
        assert list(others.ledger.steps(run)) == [Step.INTENDED, Step.UPLOADED, Step.VERIFIED]
    other = books.rated(day=YESTERDAY)
    books.seal(other)
    assert list(books.ledger.steps(other)) == []


def test_steps_after_a_recorded_delivery_start_anew(books: Books) -> None:
    run = books.rated()
    books.seal(run)
    for step in (Step.INTENDED, Step.RENAMING, Step.RENAMED):
        books.ledger.note(run, step, "")
    books.ledger.delivered(run, RECEIPT)
    assert list(books.ledger.steps(run)) == []
    for step in (Step.INTENDED, Step.UPLOADED):
        books.ledger.note(run, step, "")
    assert list(books.ledger.steps(run)) == [Step.INTENDED, Step.UPLOADED]
    books.ledger.delivered(run, RECEIPT)
    assert list(books.ledger.steps(run)) == []


def test_a_new_revisions_delivery_does_not_inherit_the_old_ones_steps(books: Books) -> None:
    run = books.rated()
    books.seal(run)
    books.ledger.note(run, Step.RENAMED, "")
    run = books.runs.reopen(books.again(run), None)
    books.seal(run)
    assert list(books.ledger.steps(run)) == []


def test_days_are_compared_with_the_last_whole_file_that_was_delivered(books: Books) -> None:
    run = books.rated()
    assert books.ledger.last_delivered_before(run) is None

    def before() -> tuple[int, str] | None:
        found = books.ledger.last_delivered_before(run)
        return None if found is None else (found.number, found.sealed.encrypted.sha256[:1])

    books.seal(books.rated(day=date(2026, 11, 18)))
    assert before() is None, "sealed, but never delivered"
    deliver(books, books.rated(day=date(2026, 11, 19)), partial=True)
    assert before() is None, "partial"
    deliver(books, books.rated(day=DAY + timedelta(days=1)))
    deliver(books, run)
    assert before() is None, "not before"
    old = deliver(books, books.rated(day=date(2026, 9, 30)))
    deliver(books, books.runs.reopen(old, None))
    assert before() == (2, "2"), "the last revision"
    older = books.runs.reopen(books.again(replace(run, business_date=date(2026, 9, 30))), ["A-0"])
    books.seal(older)
    assert before() == (2, "2"), "revision 3 is not delivered"
    deliver(books, books.rated(day=date(2026, 10, 1)))
    assert before() == (1, "1"), "the last date"
    deliver(books, books.rated(day=date(2025, 12, 31)))
    deliver(books, books.rated(day=YESTERDAY), partial=True)
    assert before() == (1, "1"), "the date counts, not the order of delivery"


def test_days_are_compared_by_the_titles_of_their_columns(books: Books) -> None:
    deliver(books, books.rated(day=YESTERDAY))
    run = books.rated()
    first, second = run.columns
    run = replace(run, columns=(second, "New Score", first))
    found = books.ledger.last_delivered_before(run)
    assert found is not None
    assert found.means == (None, None, 71.24)


def test_means_of_columns_without_any_score(books: Books) -> None:
    run = books.rated()
    revision = sealed(means=(None, 0.1 + 0.2, -1e-9))
    books.ledger.sealed(run, revision)
    assert books.ledger.revisions(run)[0].means == revision.means


# --- who worked on it -------------------------------------------------------------------------


def test_an_execution_is_noted_from_its_begin_to_its_end(books: Books) -> None:
    run = replace(books.enrolled(), revision=3)
    started = datetime.fromtimestamp(books.clock.time(), UTC)
    key = books.history.begin(run, "resume")
    [execution] = books.history.executions(run)
    assert execution == Execution(
        command="resume",
        revision=3,
        host=socket.gethostname(),
        pid=os.getpid(),
        user=execution.user,
        started=started,
        ended=None,
        exit_code=None,
        error=None,
        attempts=0,
        latency_p50=None,
        latency_p95=None,
        stages={},
    )
    assert execution.user
    stages = {"listing": 1.25, "rating": 7200.001}
    books.history.measured(key, stages, attempts=123_456, latency_p50=0.05, latency_p95=None)
    books.clock.now = 60.0
    books.history.end(key, 18, "The deadline passed: 口座\n\x1b")
    assert books.history.executions(run) == (
        replace(
            execution,
            ended=started + timedelta(seconds=60),
            exit_code=18,
            error="The deadline passed: 口座\n\x1b",
            attempts=123_456,
            latency_p50=0.05,
            stages=stages,
        ),
    )


def test_a_process_that_died_has_no_end_and_the_next_one_comes_after_it(books: Books) -> None:
    run, other = books.enrolled(), books.enrolled(day=YESTERDAY)
    died = books.history.begin(run, "run")
    books.history.begin(other, "run")
    key = books.history.begin(run, "resume")
    books.history.end(key, 0, None)
    assert key != died
    executions = books.history.executions(run)
    assert [(each.command, each.exit_code) for each in executions] == [("run", None), ("resume", 0)]


def test_the_last_snapshot_is_shown_to_others(books: Books) -> None:
    run, other = books.enrolled(), books.enrolled(day=YESTERDAY)
    assert books.history.snapshot(run) is None
    books.history.show(run, Snapshot(at=1.0, stage=Stage.RATING, done=1, total=5))
    last = Snapshot(
        at=2.5,
        stage=Stage.RATING,
        done=2,
        total=5,
        failed=1,
        rate=48.9,
        in_flight=7,
        concurrency=9,
        retries_waiting=3,
        attempts=11,
        latency_p50=0.1,
        latency_p95=2.0,
        held="throttled",
        held_until=10.0,
        eta=99.0,
        deadline=None,
    )
    books.history.show(run, last)
    with Books(books.url) as others:
        assert others.history.snapshot(run) == last
        assert others.history.snapshot(other) is None


def test_a_new_process_does_not_show_what_the_dead_one_last_said(books: Books) -> None:
    run, other = books.enrolled(), books.enrolled(day=YESTERDAY)
    for each in (run, other):
        books.history.show(each, Snapshot(at=1.0, stage=Stage.RATING, done=1, total=5))
    books.history.begin(run, "resume")
    assert books.history.snapshot(run) is None
    assert books.history.snapshot(other) is not None


def test_dates_with_a_run_both_ends_included(books: Books) -> None:
    dates = [date(2025, 12, 31), date(2026, 1, 1), date(2026, 10, 2), date(2026, 11, 24)]
    for day in reversed(dates):
        books.create(day)
    assert books.history.dates(date(2026, 1, 1), date(2026, 11, 24)) == dates[1:]
    assert books.history.dates(date(2026, 1, 2), date(2026, 11, 23)) == [date(2026, 10, 2)]
    assert books.history.dates(date(2026, 1, 1), date(2026, 1, 1)) == [date(2026, 1, 1)]
    assert list(books.history.dates(date(2026, 2, 1), date(2026, 3, 1))) == []


# --- how the night went -----------------------------------------------------------------------


def test_samples_are_kept_beside_the_snapshot_oldest_first(books: Books) -> None:
    run, other = books.enrolled(), books.enrolled(day=YESTERDAY)
    assert list(books.history.samples(run)) == []
    first = Sample(at=1.0, done=0)
    full = Sample(31.0, 40, 2, 55, 3, 7, 9, 1, 0.1, 2.0, 12.5, "throttled", 99.0, 100.0)
    for sample in (first, full):
        books.history.show(run, Snapshot(at=sample.at, stage=Stage.RATING, done=sample.done, total=5), sample)
    books.history.show(run, Snapshot(at=32.0, stage=Stage.RATING, done=41, total=5))
    with Books(books.url) as others:
        assert list(others.history.samples(run)) == [first, full]
        assert list(others.history.samples(other)) == []


def test_a_long_night_is_thinned_and_keeps_its_ends(books: Books, monkeypatch: pytest.MonkeyPatch) -> None:
    most = 20
    monkeypatch.setattr(history, "MOST_SAMPLES", most)
    run = books.enrolled()
    snapshot = Snapshot(at=0.0, stage=Stage.RATING, done=0, total=5)
    for second in range(3 * most):
        books.history.show(run, snapshot, Sample(at=float(second), done=second))
    kept = books.history.samples(run)
    assert most / 2 < len(kept) <= most
    assert [kept[0].done, kept[-1].done] == [0, 3 * most - 1]
    assert [each.done for each in kept] == sorted(each.done for each in kept)


def test_histograms_come_back_as_they_went(books: Books) -> None:
    run = books.rated()
    revision = replace(sealed(), histograms=(Histogram(0.0, 100.0, (1, 0, 2)), Histogram(-5.0, 5.0, (0, 3, 0))))
    books.ledger.sealed(run, revision)
    assert books.ledger.revisions(run)[0].histograms == revision.histograms


# --- what analysts query ----------------------------------------------------------------------

MANIFEST = b"""{"counts": {"listed": 12, "excluded": 2, "rows": 10, "succeeded": 7, "failed": 3},
 "failed_by": {"no_rating": 2, "unavailable": 1}}"""


def query(books: Books, statement: str) -> list[tuple[object, ...]]:
    with books.database.reading() as connection:
        return [tuple(row) for row in connection.exec_driver_sql(statement)]


def test_the_views_tell_the_days_the_failures_and_the_scores(books: Books) -> None:
    run = books.rated()
    key = books.history.begin(run, "run")
    books.history.measured(key, {"listing": 1.5}, attempts=3, latency_p50=None, latency_p95=None)
    at = books.clock.time()
    snapshot = Snapshot(at=at, stage=Stage.RATING, done=0, total=5)
    books.history.show(run, snapshot, Sample(at=at, done=3, deadline=at + 600))
    revision = replace(
        sealed(), manifest=MANIFEST, means=(70.5, None), histograms=(Histogram(0.0, 100.0, (1, 2, 3, 1)),) * 2
    )
    books.ledger.sealed(run, replace(revision, sealed=replace(revision.sealed, rows=10)))
    books.clock.now = 60.0
    books.ledger.delivered(run, RECEIPT)
    books.enrolled(day=YESTERDAY)

    day = DAY.isoformat()
    columns = (
        "business_date, stage, accounts, succeeded, failed, failed_percent, duration_seconds, headroom_seconds"
    )
    assert query(books, f"select {columns} from daily order by business_date") == [
        (YESTERDAY.isoformat(), "rating", 5, None, None, None, None, None),
        (day, "delivered", 5, 7, 3, 30.0, 60.0, 540.0),
    ]
    assert query(books, "select * from failures_by_reason order by reason") == [
        (day, "no_rating", 2),
        (day, "unavailable", 1),
    ]
    assert query(books, "select * from mean_scores order by score") == [
        (day, "Environmental Score", 70.5),
        (day, "Social Score", None),
    ]
    assert query(
        books, "select * from score_histogram where score = 'Environmental Score' order by from_score"
    ) == [
        (day, "Environmental Score", step * 25.0, step * 25.0 + 25.0, count)
        for step, count in enumerate((1, 2, 3, 1))
    ]
    assert query(books, "select business_date, done from night") == [(day, 3)]
    assert query(books, "select business_date, stage, seconds from stages") == [(day, "listing", 1.5)]


def test_no_view_shows_an_account_or_a_user(books: Books) -> None:
    for name in views.NAMES:
        with books.database.reading() as connection:
            columns = set(connection.exec_driver_sql(f"select * from {name}").keys())
        assert not columns & {"account_id", "name", "scores", "os_user", "host", "pid"}, name


def test_a_database_of_the_first_schema_is_brought_up_to_date(books: Books) -> None:
    run = books.rated()
    books.seal(run)
    to_first_version(books)
    Database(books.url, create=False, keys=books.keys).close()
    assert books.ledger.revisions(run)[0].histograms == ()
    assert list(books.history.samples(run)) == []
    assert query(books, "select business_date from daily") == [(DAY.isoformat(),)]
    assert query(books, "select version from esgbatch_schema") == [(tables.SCHEMA,)]


GUIDE = (Path(__file__).parents[2] / "docs" / "history.md").read_text()
SQL = re.findall(r"```sql\n(.*?)```", GUIDE, re.DOTALL)


def test_the_documents_queries_work(books: Books) -> None:
    run = books.rated()
    deliver(books, run)
    [queries] = [block for block in SQL if "select business_date" in block]
    for statement in queries.split(";"):
        if statement.strip():
            query(books, statement)


def test_an_analyst_sees_the_views_and_no_account(postgres: Postgres, postgresql_url: str) -> None:
    with Books(postgresql_url) as books:
        books.rated()
        with books.database.writing() as connection:
            [grants] = [block for block in SQL if "create role" in block]
            connection.exec_driver_sql(grants)
    as_analyst = make_url(postgresql_url).set(
        username="analyst", password="choose-one", drivername="postgresql"
    )
    with psycopg.connect(as_analyst.render_as_string(hide_password=False), autocommit=True) as connection:
        for name in views.NAMES:
            connection.execute(f"select * from {name}")  # type: ignore[arg-type]
        for table in ("accounts", "runs", "executions", "revisions"):
            with pytest.raises(psycopg.errors.InsufficientPrivilege):
                connection.execute(f"select * from {table}")  # type: ignore[arg-type]
