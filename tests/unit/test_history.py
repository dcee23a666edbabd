"""Past days for analysts: every figure, in cells that no spreadsheet runs."""

from __future__ import annotations

import csv
import io
from dataclasses import replace
from datetime import UTC, datetime, timedelta

from esgbatch.model import Approval, Stage, Tally
from esgbatch.reporting.history import Day, as_csv, record
from tests.nights import DEADLINE, past
from tests.summaries import FIRST, RUN, SECOND, SUMMARY

DAY = Day(SUMMARY, DEADLINE)


def read(days: list[Day]) -> list[dict[str, str]]:
    text = as_csv(days)
    assert text.count("\r\n") == text.count("\n") == len(days) + 1
    return list(csv.DictReader(io.StringIO(text, newline=""), strict=True))


def test_the_first_delivery_counts_for_the_time_and_the_last_revision_for_the_rest() -> None:
    later = replace(SECOND, delivered=DEADLINE + timedelta(hours=1))
    told = record(replace(DAY, summary=replace(SUMMARY, revisions=(FIRST, later))))
    assert told["delivered"] == "2026-11-24T12:02:00Z"
    assert (told["duration_seconds"], told["headroom_seconds"]) == (3719.0, 10680.0)
    assert told["encrypted_bytes"] == SECOND.sealed.encrypted.size


def test_a_file_that_came_after_the_deadline_has_negative_headroom() -> None:
    late = replace(FIRST, delivered=DEADLINE + timedelta(minutes=5))
    [row] = read([Day(replace(SUMMARY, revisions=(late,)), DEADLINE)])
    assert row["headroom_seconds"] == "-300.0", "a figure is never guarded"


def test_what_is_not_known_yet_is_an_empty_cell() -> None:
    run = replace(RUN, stage=Stage.LISTING)
    open_ = replace(SUMMARY, run=run, tally=Tally(), revisions=(), executions=())
    [row, full] = read([Day(open_, DEADLINE), DAY])
    assert {row[name] for name in ("started", "delivered", "duration_seconds", "encrypted_bytes")} == {""}
    assert (row["rows"], row["requests"]) == ("0", "0")
    assert row["mean Social Score"] == ""
    assert full["mean Social Score"] == "60.2"


def test_no_text_becomes_a_formula() -> None:
    approval = Approval('=HYPERLINK("x")', "ok", datetime(2026, 11, 24, tzinfo=UTC))
    run = replace(RUN, approval=approval, columns=("@score", 'with "quotes", and a comma'))
    [row] = read([Day(replace(SUMMARY, run=run), DEADLINE)])
    assert row["approved_by"] == '\'=HYPERLINK("x")'
    assert row["mean @score"] == "50.1"
    assert row['mean with "quotes", and a comma'] == "60.2"


def test_a_month_is_a_line_a_day_oldest_first() -> None:
    rows = read(past(30))
    assert [row["business_date"] for row in rows] == sorted(row["business_date"] for row in rows)
    assert len(rows) == 30
