"""docs/schemas says what every JSON output is: all of it, and nothing else."""

from __future__ import annotations

import json
from dataclasses import replace
from datetime import UTC, datetime, time
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import pytest
from jsonschema import Draft202012Validator

from esgbatch.checkpoint.lease import Owner
from esgbatch.config.model import Ratings
from esgbatch.model import Snapshot, Stage, Tally
from esgbatch.operations import capacity, schedule
from esgbatch.operations.capacity import Measured
from esgbatch.operations.doctor import report as doctor
from esgbatch.operations.doctor.findings import ok, warn
from esgbatch.operations.status import Status
from esgbatch.operations.status import as_dict as status
from esgbatch.reporting.history import Day, as_dict, record
from esgbatch.reporting.summary import as_dict as report
from tests.nights import DEADLINE, night, past
from tests.summaries import APPROVAL, EXECUTION, FIRST, RUN, SUMMARY, TALLY

SCHEMAS = Path(__file__).parents[2] / "docs" / "schemas"
LIVE = Snapshot(
    at=1.0, stage=Stage.RATING, done=3, total=6, rate=48.9, held="throttled", held_until=9.0, eta=99.0
)
OPEN = replace(
    SUMMARY,
    run=replace(RUN, stage=Stage.LISTING, approval=APPROVAL),
    tally=Tally(),
    revisions=(),
    executions=(),
)
DIED = replace(SUMMARY, executions=(replace(EXECUTION, ended=None, exit_code=None, latency_p50=None),))


def strict(schema: Any) -> Any:
    """The schema without any room for what it does not name."""
    if isinstance(schema, list):
        return [strict(each) for each in schema]
    if not isinstance(schema, dict):
        return schema
    closed = {name: strict(each) for name, each in schema.items()}
    if "properties" in closed and "type" in closed:
        closed.setdefault("additionalProperties", False)
    return closed


def schema_of(name: str) -> Any:
    schema = json.loads((SCHEMAS / f"{name}.json").read_text())
    Draft202012Validator.check_schema(schema)
    return schema


def check(name: str, told: object) -> None:
    plain = json.loads(json.dumps(told))
    found = [
        f"{error.json_path}: {error.message}"
        for error in Draft202012Validator(strict(schema_of(name))).iter_errors(plain)
    ]
    assert found == []


@pytest.mark.parametrize(
    "summary", [SUMMARY, OPEN, DIED, night().summary], ids=["delivered", "open", "died", "night"]
)
def test_report(summary: Any) -> None:
    check("report", report(summary))
    check("history", as_dict([Day(summary, DEADLINE), *past(2)]))


def test_status() -> None:
    check("status", status(Status(RUN, TALLY, None, None, 5.0)))
    owner = Owner(4711, "boot", 1, "batch1", "run")
    check("status", status(Status(RUN, TALLY, owner, LIVE, 5.0)))


def test_doctor() -> None:
    check(
        "doctor", doctor.as_dict([("config", ok("it is valid")), ("clock", warn("late", "look at the clock"))])
    )


@pytest.mark.parametrize("zone", ["America/Chicago", "Asia/Kathmandu"])
def test_schedule(zone: str) -> None:
    now, place = datetime(2026, 10, 31, 12, tzinfo=UTC), ZoneInfo(zone)
    check("schedule", schedule.as_dict(schedule.nights(now, 3, place, time(5), time(9)), place, now))


def test_forecast() -> None:
    past = Measured(3, 100_000, 1.01, 0.5, 2.0, 48.0)
    ratings = Ratings(url="https://esg.example/{account_id}")
    check("forecast", capacity.as_dict(past, capacity.plan(1000, past, ratings, quota=50.0, span=14400.0)))


def test_the_schemas_notice_what_they_do_not_know() -> None:
    with pytest.raises(AssertionError, match="surprise"):
        check("report", report(SUMMARY) | {"surprise": 1})


def test_the_csv_has_the_columns_that_are_documented() -> None:
    page = (SCHEMAS.parent / "history.md").read_text()
    table = page.partition("| column | meaning |")[2].partition("\n\n")[0]
    documented = [
        name for line in table.splitlines()[2:] for name in line.split("|")[1].replace("`", "").split(",")
    ]
    written = list(record(Day(replace(SUMMARY, revisions=(FIRST,)), datetime(2026, 11, 24, 15, tzinfo=UTC))))
    assert [name.strip() for name in documented[:-1]] == [
        name for name in written if not name.startswith("mean ")
    ]
    assert documented[-1].strip() == "mean …"
