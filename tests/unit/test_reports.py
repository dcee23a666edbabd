"""The report, as text and as JSON: everything there is to tell, and nothing of an account."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import pytest

from esgbatch.model import Approval, Census, Reason, Stage, Summary, Tally
from esgbatch.reporting.summary import as_dict, next_step, verdict
from esgbatch.reporting.text import duration, render, table
from tests.summaries import APPROVAL, EXECUTION, FIRST, NASTY, RUN, SECOND, SUMMARY, TALLY

CHICAGO = ZoneInfo("America/Chicago")

# The day's run before anything has been delivered.
OPEN = Summary(replace(RUN, revision=1, stage=Stage.RATING), Tally(pending=5), (), ())


def at(stage: Stage, tally: Tally = TALLY) -> Summary:
    return replace(OPEN, run=replace(OPEN.run, stage=stage), tally=tally)


def assert_printable(text: str) -> None:
    """No control character but the line's end, no direction mark: data cannot draw on a terminal."""
    assert all(character.isprintable() for character in text.replace("\n", ""))


# --- one sentence -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("summary", "sentence"),
    [
        (SUMMARY, "Revision 2 is delivered, 280 of 100,000 accounts without a rating."),
        (replace(SUMMARY, tally=Tally(succeeded=7)), "Revision 2 is delivered, every account rated."),
        (
            replace(SUMMARY, revisions=(FIRST, replace(SECOND, partial=True))),
            "Revision 2 is delivered, 280 of 100,000 accounts without a rating. It is partial.",
        ),
        (at(Stage.LISTING, Tally()), "The account list has not been read yet."),
        (
            at(Stage.RATING, Tally(3, 1, 5, {Reason.FORBIDDEN: 1})),
            "6 of 10 accounts are done; the file is not made yet.",
        ),
        (at(Stage.SEALING), "Every account is done; the file is not made yet."),
        (at(Stage.WITHHELD), "A quality gate withholds the file."),
        (
            replace(
                at(Stage.WITHHELD),
                executions=(replace(EXECUTION, exit_code=14, error="The file is withheld: 1 of 9 failed."),),
            ),
            "The file is withheld: 1 of 9 failed.",
        ),
        (at(Stage.DELIVERING), "Revision 1 is sealed, but not delivered."),
        (
            replace(
                SUMMARY,
                run=replace(RUN, stage=Stage.DELIVERING),
                revisions=(FIRST, replace(SECOND, delivered=None)),
            ),
            "Revision 2 is sealed, but not delivered.",
        ),
        (
            replace(SUMMARY, run=replace(RUN, stage=Stage.RATING), revisions=(FIRST,), tally=Tally(2, 0, 8)),
            "8 of 10 accounts are done; the file is not made yet.",
        ),
    ],
)
def test_the_run_in_one_sentence(summary: Summary, sentence: str) -> None:
    assert verdict(summary) == sentence


def test_a_trial_is_not_taken_for_the_whole_list() -> None:
    trial = replace(
        SUMMARY,
        run=replace(RUN, stage=Stage.DELIVERED, revision=1),
        tally=Tally(0, 0, 10),
        revisions=(replace(FIRST, partial=True, delivered=FIRST.created),),
    )
    assert "it was a trial" in next_step(trial)
    assert "delivered, partial" in table([trial])


def test_an_old_revision_in_the_drop_folder_is_not_the_new_one() -> None:
    assert SUMMARY.delivered is SECOND
    assert replace(SUMMARY, revisions=(FIRST,)).delivered is None
    assert replace(SUMMARY, revisions=()).delivered is None


# --- text -------------------------------------------------------------------------------------


def test_a_delivered_day_as_people_read_it() -> None:
    assert (
        render(SUMMARY, CHICAGO)
        == """\
ESG ratings of Tuesday, 24 November 2026
Revision 2 is delivered, 280 of 100,000 accounts without a rating.
Next: When the ESG API is well, `esgbatch rerun --failed --date 2026-11-24` asks
      again for the accounts without a rating.

Listed by the account system       100,210
Excluded                               210   inactive 180, duplicate 25, refused 5
Rows in the file                   100,000
Succeeded                           99,720   99.72%
Failed                                 280   no_rating 200, unavailable 80

Revision 1, sealed 06:01:00 CST, delivered 06:02:00 CST
  delivered to  sftp.example:/drop/esg/FirmESGRatings_20261124.csv.pgp
  archive       /var/lib/esgbatch/archive/20261124/r2/FirmESGRatings_20261124.csv.pgp
  sha256        cccccccccccccccccccccccccccccccccccccccccccccccccccccccccccccccc
  size          2,345,600 bytes (8,123,456 as CSV)

Revision 2, sealed 06:31:07 CST, delivered 06:02:00 CST
  delivered to  sftp.example:/drop/esg/FirmESGRatings_20261124.csv.pgp
  archive       /var/lib/esgbatch/archive/20261124/r2/FirmESGRatings_20261124.csv.pgp
  sha256        bbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbb
  size          2,345,678 bytes (8,123,456 as CSV)

Worked on by
  05:00:01 CST  run      1 h 02 min, code 0, 101,234 requests, latency 0.05 s, 95% within 1.25 s
"""
    )


def test_a_day_that_is_still_going() -> None:
    summary = replace(
        OPEN,
        run=replace(OPEN.run, census=Census(listed=10)),
        tally=Tally(4, 2, 3, {Reason.BAD_RATING: 1}),
        executions=(replace(EXECUTION, ended=None, exit_code=None),),
    )
    text = render(summary, CHICAGO)
    assert "Excluded" not in text
    assert re.search(r"^Still to do +6$", text, re.MULTILINE)
    assert re.search(r"^Succeeded +3$", text, re.MULTILINE), "no percentage of a part"
    assert "run      at work, or died: process 4711 on batch1" in text


def test_who_was_followed_by_another_is_surely_dead() -> None:
    killed = replace(EXECUTION, ended=None, exit_code=None)
    text = render(replace(OPEN, executions=(killed, EXECUTION)), CHICAGO)
    assert "run      died: process 4711 on batch1" in text


def test_a_command_stays_on_one_line_so_that_it_can_be_copied() -> None:
    withheld = replace(OPEN, run=replace(OPEN.run, stage=Stage.WITHHELD))
    lines = render(withheld, CHICAGO).splitlines()
    day = OPEN.run.business_date
    for command in (f"`esgbatch rerun --failed --date {day}`", f"`esgbatch approve --date {day} --by WHO"):
        assert any(command in line for line in lines), lines
    assert all(len(line) <= 80 for line in lines[:4])


def test_an_execution_that_failed_says_why() -> None:
    failed = replace(
        EXECUTION, exit_code=18, error="The deadline passed with 5 of 10 accounts done.", attempts=0
    )
    text = render(replace(OPEN, executions=(failed,)), CHICAGO)
    assert "code 18, latency 0.05 s, 95% within 1.25 s, The deadline passed with 5 of 10 accounts done." in text
    assert "requests" not in text


def test_who_approved_it_stands_in_it() -> None:
    text = render(replace(SUMMARY, run=replace(RUN, approval=APPROVAL)), CHICAGO)
    assert "\nApproved by J. Doe, 07:05:00 CST\n" in text


@pytest.mark.parametrize("name", ["Jürgen O'Neill", '"Bob" O\'Brien', "口座", "C:\\Users\\x"])
def test_an_approvers_name_is_written_as_people_write_it(name: str) -> None:
    approval = Approval(name, "reason", APPROVAL.at)
    assert f"Approved by {name}, " in render(replace(SUMMARY, run=replace(RUN, approval=approval)), CHICAGO)


@pytest.mark.parametrize(
    "nasty", [NASTY, "\x1b]0;title\x07", "\u202e\u2066\ufeff", "\udcff", "\0\x7f\x85\u2028"]
)
def test_no_text_from_outside_draws_on_the_terminal(nasty: str) -> None:
    summary = replace(
        SUMMARY,
        run=replace(RUN, approval=Approval(nasty, nasty, APPROVAL.at)),
        revisions=(FIRST, replace(SECOND, location=f"host:/{nasty}")),
        executions=(
            replace(EXECUTION, exit_code=16, error=f"The server says: {nasty}"),
            replace(EXECUTION, host=nasty, ended=None),
        ),
    )
    text = render(summary, CHICAGO)
    assert_printable(text)
    assert text.count("\n") == render(replace(summary, executions=(EXECUTION, EXECUTION)), CHICAGO).count("\n")
    text.encode()


def test_figures_never_make_a_line_wider_than_a_mail() -> None:
    many = 999_999_999
    tally = Tally(succeeded=many, failed_by=dict.fromkeys(Reason, 1_000))
    census = Census(listed=3 * many, inactive=many, duplicate=many, refused=many)
    summary = replace(SUMMARY, run=replace(RUN, census=census), tally=tally, revisions=(), executions=())
    wide = [line for line in render(summary, CHICAGO).splitlines() if len(line) > 80 and "Failed" not in line]
    assert len(wide) <= 1, "only Excluded, with a billion of everything"


def test_times_are_the_zones_own_on_both_sides_of_the_change() -> None:
    summer = replace(FIRST, created=datetime(2026, 7, 1, 12, tzinfo=UTC))
    text = render(replace(SUMMARY, revisions=(summer,)), CHICAGO)
    assert "sealed 2026-07-01 07:00:00 CDT, delivered 06:02:00 CST" in text


# --- several days -----------------------------------------------------------------------------


def test_several_days_are_a_line_each() -> None:
    first = replace(
        OPEN, run=replace(OPEN.run, business_date=date(2026, 11, 23), stage=Stage.WITHHELD), tally=Tally()
    )
    assert (
        table([first, SUMMARY])
        == """\
Date              Rows   Failed       %  Rev  State
2026-11-23           0        0    0.00    1  withheld
2026-11-24     100,000      280    0.28    2  delivered
"""
    )
    assert table([]).count("\n") == 1


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0, "0.0 s"),
        (0.04, "0.0 s"),
        (1.25, "1.2 s"),
        (9.96, "10.0 s"),
        (10, "10 s"),
        (59.4, "59 s"),
        (59.6, "1 min 00 s"),
        (60, "1 min 00 s"),
        (725, "12 min 05 s"),
        (3599.4, "59 min 59 s"),
        (3599.6, "1 h 00 min"),
        (10_920, "3 h 02 min"),
        (100_000, "27 h 46 min"),
    ],
)
def test_durations(seconds: float, text: str) -> None:
    assert duration(seconds) == text


# --- JSON -------------------------------------------------------------------------------------


def test_the_json_tells_everything() -> None:
    told = json.loads(json.dumps(as_dict(replace(SUMMARY, run=replace(RUN, approval=APPROVAL)))))
    second = told.pop("revisions")[1]
    assert told == {
        "schema": 1,
        "business_date": "2026-11-24",
        "run_id": RUN.run_id,
        "stage": "delivered",
        "delivered": True,
        "revision": 2,
        "counts": {
            "listed": 100_210,
            "excluded": 210,
            "rows": 100_000,
            "succeeded": 99_720,
            "failed": 280,
            "pending": 0,
        },
        "excluded_by": {"inactive": 180, "duplicate": 25, "refused": 5},
        "failed_by": {"no_rating": 200, "unavailable": 80},
        "failed_percent": 0.28,
        "approved": "J. Doe",
        "next": told["next"],
        "ratings_purged": None,
        "executions": [
            {
                "command": "run",
                "revision": 1,
                "host": "batch1",
                "pid": 4711,
                "user": "esgbatch",
                "started": "2026-11-24T11:00:01Z",
                "ended": "2026-11-24T12:02:06Z",
                "exit_code": 0,
                "error": None,
                "attempts": 101_234,
                "latency_p50": 0.053,
                "latency_p95": 1.25,
                "stages": {"listing": 3.2, "rating": 3600.0},
            }
        ],
    }
    assert second == {
        "revision": 2,
        "sealed": "2026-11-24T12:31:07Z",
        "archive": "/var/lib/esgbatch/archive/20261124/r2/FirmESGRatings_20261124.csv.pgp",
        "rows": 100_000,
        "plaintext": {"sha256": "a" * 64, "bytes": 8_123_456},
        "encrypted": {"sha256": "b" * 64, "bytes": 2_345_678},
        "recipients": ["A" * 40],
        "partial": False,
        "delivered": "2026-11-24T12:02:00Z",
        "location": "sftp.example:/drop/esg/FirmESGRatings_20261124.csv.pgp",
    }


def test_the_json_of_a_day_that_has_just_begun() -> None:
    told: dict[str, Any] = json.loads(json.dumps(as_dict(at(Stage.LISTING, Tally()))))
    assert (told["delivered"], told["approved"], told["revisions"]) == (False, None, [])
    assert (told["failed_percent"], told["failed_by"]) == (0, {})


def test_neither_report_tells_a_score_or_a_mean() -> None:
    secret = replace(SECOND, means=(77.123456, 66.654321), manifest=b"MANIFEST")
    summary = replace(SUMMARY, revisions=(secret,))
    for text in (render(summary, CHICAGO), json.dumps(as_dict(summary)), table([summary]), verdict(summary)):
        assert "77.12" not in text
        assert "66.65" not in text
        assert "MANIFEST" not in text


def test_a_path_with_anything_in_it() -> None:
    strange = replace(SECOND, sealed=replace(SECOND.sealed, path=Path("/a\nb\x1b/c")))
    assert_printable(render(replace(SUMMARY, revisions=(strange,)), CHICAGO))
