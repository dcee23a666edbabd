"""How a run stands, seen from another shell, in every state that it can be in."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from zoneinfo import ZoneInfo

import pytest

from esgbatch.checkpoint.lease import Owner, lease
from esgbatch.model import Run, Snapshot, Stage, Tally
from esgbatch.operations.status import FRESH_SECONDS, Status, as_dict, look, render
from esgbatch.records import Records
from tests.checkpoints import DAY, Books, deferral, failure, success
from tests.simulated import EPOCH
from tests.summaries import RUN

CHICAGO = ZoneInfo("America/Chicago")
DEADLINE = EPOCH + 7200.0
LIVE = Snapshot(
    at=EPOCH,
    stage=Stage.RATING,
    done=3,
    total=6,
    failed=1,
    rate=48.94,
    in_flight=7,
    concurrency=9,
    retries_waiting=3,
    attempts=11,
    latency_p50=0.051,
    latency_p95=2.0,
    held="throttled",
    held_until=EPOCH + 47.0,
    eta=EPOCH + 725.0,
    deadline=DEADLINE,
)


@pytest.fixture
def books(sqlite_url: str) -> Iterator[Books]:
    with Books(sqlite_url) as books:
        yield books


@pytest.fixture
def sqlite_url(tmp_path: Path) -> str:
    return f"sqlite:///{tmp_path}/checkpoint.sqlite"


@pytest.fixture
def run(books: Books) -> Run:
    run = books.enrolled(6)
    books.outcomes.record(run, [success(0), success(1), failure(2), deferral(3)])
    return run


def seen(books: Books, folder: Path, run: Run, now: float = EPOCH, deadline: float = DEADLINE) -> Status:
    records = Records(books.runs, books.outcomes, books.ledger, books.history, books.privacy)
    return look(records, folder, run, now=now, deadline=deadline)


def test_a_run_at_work(books: Books, tmp_path: Path, run: Run) -> None:
    books.history.show(run, LIVE)
    with lease(tmp_path, DAY, "run"):
        status = seen(books, tmp_path, run)
    assert status.live == LIVE
    assert status.owner is not None
    assert status.rate_needed == pytest.approx(3 / 7200)
    told = json.loads(json.dumps(as_dict(status)))
    assert told.pop("owner") == {"pid": status.owner.pid, "host": status.owner.host}
    assert told == {
        "schema": 1,
        "business_date": "2026-11-24",
        "run_id": run.run_id,
        "revision": 1,
        "stage": "rating",
        "running": True,
        "done": 3,
        "total": 6,
        "succeeded": 2,
        "failed": 1,
        "failed_by": {"no_rating": 1},
        "deferred": 1,
        "rate": 48.94,
        "rate_needed": pytest.approx(3 / 7200),
        "in_flight": 7,
        "concurrency": 9,
        "retries_waiting": 3,
        "latency_p50": 0.051,
        "latency_p95": 2.0,
        "held": "throttled",
        "held_until": "2026-11-30T00:54:07Z",
        "eta": "2026-11-30T01:05:25Z",
        "deadline": "2026-11-30T02:53:20Z",
        "forecast": None,
        "at_risk": False,
        "fits": None,
    }
    assert (
        render(status, CHICAGO)
        == f"""\
2026-11-24, revision 1: rating
  at work      {status.owner}
  done         3 of 6  (50.0%)
  failed       1  (no_rating 1)
  last pass    1 accounts wait for it
  rate         48.9 accounts a second, needed 0.0
  in flight    7 of 9, 3 retries waiting
  latency      0.05 s, 95% within 2.00 s
  held         throttled until 18:54:07 CST
  ends about   19:05:25 CST, in 12 min 05 s; deadline 20:53:20 CST
"""
    )


def test_a_deadline_at_risk(books: Books, tmp_path: Path, run: Run) -> None:
    late = replace(LIVE, forecast=DEADLINE + 2400.0, rate_needed=61.25, at_risk=True, fits=4)
    books.history.show(run, late)
    with lease(tmp_path, DAY, "run"):
        status = seen(books, tmp_path, run)
    told = as_dict(status)
    assert (told["forecast"], told["at_risk"], told["fits"]) == ("2026-11-30T03:33:20Z", True, 4)
    assert told["rate_needed"] == 61.25
    text = render(status, CHICAGO)
    assert "needed 61.2" in text
    assert "ends about   21:33:20 CST, in 2 h 40 min; deadline 20:53:20 CST" in text
    assert "AT RISK      4 accounts would be done in time, not 6" in text


def test_nobody_is_at_work(books: Books, tmp_path: Path, run: Run) -> None:
    """What the dead process last showed is no news."""
    books.history.show(run, LIVE)
    status = seen(books, tmp_path, run)
    assert (status.owner, status.live) == (None, None)
    assert "nobody: `esgbatch resume --date 2026-11-24` goes on" in render(status, CHICAGO)
    told = as_dict(status)
    assert (told["running"], told["owner"], told["rate"], told["held"], told["eta"]) == (
        False,
        None,
        None,
        None,
        None,
    )
    assert told["done"] == 3


@pytest.mark.parametrize(
    ("stage", "advice"),
    [
        (Stage.LISTING, True),
        (Stage.SEALING, True),
        (Stage.DELIVERING, True),
        (Stage.WITHHELD, False),
        (Stage.DELIVERED, False),
    ],
)
def test_resume_is_only_advised_where_there_is_something_to_resume(
    books: Books, tmp_path: Path, run: Run, stage: Stage, advice: bool
) -> None:
    text = render(seen(books, tmp_path, books.runs.advance(run, stage)), CHICAGO)
    assert ("esgbatch resume" in text) is advice
    assert text.startswith(f"2026-11-24, revision 1: {stage}\n")


@pytest.mark.parametrize(
    ("stage", "age", "fresh"),
    [
        (Stage.RATING, FRESH_SECONDS, True),
        (Stage.RATING, FRESH_SECONDS + 0.1, False),
        (Stage.SEALING, 0.0, False),
        (Stage.DELIVERING, 0.0, False),
    ],
)
def test_only_a_rating_process_that_has_just_spoken_is_quoted(
    books: Books, tmp_path: Path, run: Run, stage: Stage, age: float, fresh: bool
) -> None:
    books.history.show(run, LIVE)
    run = books.runs.advance(run, stage)
    with lease(tmp_path, DAY, "run"):
        assert (seen(books, tmp_path, run, now=EPOCH + age).live is not None) is fresh


def test_a_deadline_that_has_passed_needs_no_rate(books: Books, tmp_path: Path, run: Run) -> None:
    books.history.show(run, LIVE)
    with lease(tmp_path, DAY, "run"):
        status = seen(books, tmp_path, run, deadline=EPOCH)
    assert status.rate_needed is None
    assert "needed" not in render(status, CHICAGO)


def test_a_deadline_of_the_call_counts_where_the_dates_has_passed(
    books: Books, tmp_path: Path, run: Run
) -> None:
    books.history.show(run, replace(LIVE, rate_needed=12.5))
    with lease(tmp_path, DAY, "run"):
        status = seen(books, tmp_path, run, deadline=EPOCH - 60)
    assert "  rate         48.9 accounts a second, needed 12.5\n" in render(status, CHICAGO)
    assert "deadline 20:53:20 CST" in render(status, CHICAGO)
    assert as_dict(status)["deadline"] == "2026-11-30T02:53:20Z"


def test_a_run_that_has_not_listed_yet(books: Books, tmp_path: Path) -> None:
    status = seen(books, tmp_path, books.create())
    assert "  done         0 of 0\n" in render(status, CHICAGO)
    assert json.loads(json.dumps(as_dict(status)))["total"] == 0


def test_looking_changes_nothing(books: Books, tmp_path: Path, run: Run) -> None:
    before, files = books.everything(), sorted(tmp_path.rglob("*"))
    seen(books, tmp_path, run)
    assert books.everything() == before
    assert sorted(tmp_path.rglob("*")) == files


def test_what_others_wrote_does_not_draw_on_the_terminal() -> None:
    owner = Owner(1, "boot", 1, "host\x1b[2J\n", "run\u202e")
    text = render(Status(RUN, Tally(), owner, None, DEADLINE), CHICAGO)
    assert all(line.isprintable() for line in text.splitlines())
    assert text.count("\n") == 4
