"""What Runs and Outcomes promise, on SQLite and on PostgreSQL."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from datetime import UTC, date, datetime, timedelta
from itertools import count

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from esgbatch.checkpoint import runs as runs_module
from esgbatch.errors import (
    AccountSystemError,
    CheckpointError,
    ExitCode,
    NothingToDo,
    StopRequested,
    WrongUsage,
)
from esgbatch.model import (
    PAGE_ROWS,
    Approval,
    Census,
    Failure,
    Listing,
    Page,
    Reason,
    Row,
    Stage,
    State,
    Tally,
    Work,
)
from tests.checkpoints import COLUMNS, DAY, Books, account, deferral, failure, listings, success

STRANGE = [
    "a/b",
    "..",
    ".",
    " leading and trailing ",
    "50%",
    "%2F",
    "?x=1#y",
    "=1+1",
    "'quoted'",
    '"double"',
    "a,b;c",
    "back\\slash",
    "line\nfeed\r\n\ttab",
    "\x01\x1b[31m\x7f",
    "a-1",
    "A-1",
    "A-1 ",
    "\u00e9",
    "e\u0301",
    "Ωμέγα 口座 🏦 \U0010ffff",
    "\u202ertl\ufeff",
    "NULL",
    "0001",
    "1",
    "{account_id}",
    "%s %(x)s :name $1 ?",
    "x" * 3000,
]


@pytest.fixture
def books(checkpoint_url: str) -> Iterator[Books]:
    with Books(checkpoint_url) as opened:
        yield opened


# --- runs -------------------------------------------------------------------------------------


def test_a_run_is_found_as_it_was_made(books: Books) -> None:
    assert books.runs.find(DAY) is None
    run = books.runs.create(DAY, COLUMNS, 10)
    assert books.runs.find(DAY) == run
    assert (run.business_date, run.revision, run.stage, run.limit) == (DAY, 1, Stage.LISTING, 10)
    assert (run.columns, run.census, run.approval) == (COLUMNS, Census(), None)
    assert run.created == datetime.fromtimestamp(books.clock.time(), UTC)
    other = books.create(DAY + timedelta(days=1))
    assert other.run_id != run.run_id
    assert books.runs.find(DAY) == run


def test_a_date_has_one_run(books: Books) -> None:
    run = books.create()
    with pytest.raises(CheckpointError):
        books.create()
    assert books.runs.find(DAY) == run


def test_every_stage_is_kept(books: Books) -> None:
    run = books.create()
    for stage in Stage:
        run = books.runs.advance(run, stage)
        assert run.stage is stage
        assert books.again(run) == run


# --- enrolment --------------------------------------------------------------------------------


def test_enrolment_keeps_the_systems_order_over_many_pages(books: Books) -> None:
    wanted = [f"A-{number * 7919 % 5003:04d}" for number in range(5000)]
    run = books.enrolled([account(each) for each in wanted])
    assert run.stage is Stage.RATING
    assert run.census == Census(listed=5000)
    assert books.again(run) == run
    assert books.rows(run) == [Row(each, f"Trust {each}", None) for each in wanted]
    works = books.outcomes.pending(run, State.PENDING, -1, 10_000)
    assert [work.account_id for work in works] == wanted
    assert [work.position for work in works] == sorted({work.position for work in works})


@pytest.mark.parametrize(
    ("after", "error"),
    [
        (0, AccountSystemError("page 1")),
        (1, ZeroDivisionError()),
        (2000, AccountSystemError("page 3")),
        (4321, StopRequested("SIGTERM", ExitCode.SIGTERM)),
    ],
)
def test_a_source_that_fails_on_the_way_leaves_nothing(books: Books, after: int, error: BaseException) -> None:
    def breaking() -> Iterator[Listing]:
        yield from listings(after)
        raise error

    run = books.create()
    with pytest.raises(type(error)) as raised:
        books.runs.enrol(run, breaking())
    assert raised.value is error
    assert books.again(run) == run
    assert books.outcomes.tally(run) == Tally()
    assert not books.listener.events
    assert books.runs.enrol(run, listings(3)).census == Census(listed=3)


@pytest.mark.parametrize("distance", [0, 1998, 1999, 4500])
def test_an_id_listed_twice_is_one_row_at_its_first_place(books: Books, distance: int) -> None:
    first, between = account("TWICE", "First Name"), listings(distance)
    run = books.enrolled([account("B"), first, *between, account("TWICE", "First Name"), account("C")])
    assert run.census == Census(listed=4 + distance, duplicate=1)
    ids = [row.account_id for row in books.rows(run)]
    assert ids == ["B", "TWICE", *(each.account_id for each in between), "C"]
    assert not books.listener.named("duplicate_name_differs")


@pytest.mark.parametrize("distance", [0, 2000])
def test_a_duplicate_with_another_name_is_told_without_the_names(books: Books, distance: int) -> None:
    again = [account("TWICE", "Second Name"), account("TWICE", "First Name"), account("TWICE", "Third Name")]
    run = books.enrolled([account("TWICE", "First Name"), *listings(distance), *again])
    assert run.census.duplicate == 3
    assert books.rows(run)[0].name == "First Name"
    assert books.listener.named("duplicate_name_differs") == [{"account_id": "TWICE"}] * 2
    assert "Name" not in str(books.listener.events)


def test_what_is_inactive_or_has_no_id_is_counted_and_left_out(books: Books) -> None:
    run = books.enrolled(
        [
            account("OLD", active=False),
            account("A"),
            account(None),
            account(None, active=False),
            account("B"),
            account("A", active=False),
            account("OLD"),
        ]
    )
    assert run.census == Census(listed=7, inactive=2, refused=2)
    assert [row.account_id for row in books.rows(run)] == ["A", "B", "OLD"]
    event = {"listed": 7, "rows": 3, "inactive": 2, "duplicate": 0, "refused": 2}
    [told] = books.listener.named("accounts_enrolled")
    assert {key: told[key] for key in event} == event


@pytest.mark.parametrize(
    "rows",
    [
        [],
        [account("A", active=False)] * 2001,
        [account(None), account("", active=False)],
    ],
)
def test_no_active_account_is_an_error_and_leaves_nothing(books: Books, rows: list[Listing]) -> None:
    run = books.create()
    with pytest.raises(AccountSystemError, match=f"listed {len(rows)} rows"):
        books.runs.enrol(run, rows)
    assert books.again(run) == run


def test_a_nul_in_a_name_does_not_end_the_night(books: Books) -> None:
    """PostgreSQL cannot keep it."""
    run = books.enrolled([Listing("A-1", "a\0b", True)])
    assert books.rows(run)[0].name in ("a\0b", "a\N{REPLACEMENT CHARACTER}b")


def test_strange_ids_and_names_come_back_unchanged(books: Books) -> None:
    run = books.enrolled([account(text, name) for text, name in zip(STRANGE, reversed(STRANGE), strict=True)])
    assert run.census == Census(listed=len(STRANGE))
    assert [work.account_id for work in books.outcomes.pending(run, State.PENDING, -1, 100)] == STRANGE
    books.outcomes.record(run, [failure(position) for position in range(len(STRANGE))])
    assert [each.account_id for each in books.outcomes.failures(run)] == STRANGE
    assert [row.name for row in books.rows(run)] == STRANGE[::-1]
    assert books.runs.reopen(run, STRANGE).stage is Stage.RATING


@given(st.data())
@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_enrolment_agrees_with_reading_one_row_after_another(
    books: Books, monkeypatch: pytest.MonkeyPatch, data: st.DataObject
) -> None:
    monkeypatch.setattr(runs_module, "PAGE", data.draw(st.integers(1, 5)))
    ids, active = st.sampled_from("AABBCD") | st.none(), st.sampled_from([True, True, True, False])
    rows = data.draw(st.lists(st.builds(Listing, ids, st.sampled_from("XY"), active), max_size=15))
    limit = data.draw(st.sampled_from([None, 1, 2, 3]))
    day = next(day for n in count() if books.runs.find(day := DAY + timedelta(days=n)) is None)
    run = books.runs.create(day, COLUMNS, limit)
    kept, census = one_after_another(rows, limit)
    if kept:
        run = books.runs.enrol(run, rows)
        assert run.census == census
        assert [(each.account_id, each.name) for each in books.rows(run)] == list(kept.items())
    else:
        with pytest.raises(AccountSystemError):
            books.runs.enrol(run, rows)


def one_after_another(rows: Sequence[Listing], limit: int | None) -> tuple[dict[str, str], Census]:
    kept: dict[str, str] = {}
    listed = inactive = duplicate = refused = 0
    for row in rows:
        if len(kept) == limit:
            break
        listed += 1
        if row.account_id is None:
            refused += 1
        elif not row.active:
            inactive += 1
        elif row.account_id in kept:
            duplicate += 1
        else:
            kept[row.account_id] = row.name
    return kept, Census(listed, inactive, duplicate, refused)


def test_a_limit_counts_rows_and_not_duplicates(books: Books) -> None:
    twice = [account("A"), account("A"), account("B"), account("B", active=False), account("C"), account("D")]
    run = books.runs.enrol(books.create(limit=3), twice)
    assert [row.account_id for row in books.rows(run)] == ["A", "B", "C"]
    assert run.census == Census(listed=5, duplicate=1, inactive=1)
    assert books.again(run) == run


def test_a_limit_does_not_read_the_list_to_its_end(books: Books) -> None:
    def endless() -> Iterator[Listing]:
        return (account(f"A-{number}") for number in count())

    run = books.runs.enrol(books.create(limit=2500), endless())
    assert run.census == Census(listed=2500)


def test_the_lists_hash_tells_lists_apart(books: Books) -> None:
    def hashed(*rows: Listing) -> object:
        day = DAY + timedelta(days=len(books.listener.events))
        books.runs.enrol(books.create(day), rows)
        return books.listener.named("accounts_enrolled")[-1]["list_sha256"]

    one = hashed(account("A", "X"), account("B", "Y"))
    assert one == hashed(account("A", "X"), account("OLD", active=False), account("B", "Y"), account("A", "X"))
    others = [
        hashed(account("B", "Y"), account("A", "X")),
        hashed(account("A", "Y"), account("B", "X")),
        hashed(account("A", "X"), account("B", "Y"), account("C", "Z")),
        hashed(account("A", "X1:B1:Y"), account("C", "")),
        hashed(account("A", "XB"), account("Y", "")),
    ]
    assert len({one, *others}) == 6


# --- outcomes ---------------------------------------------------------------------------------


def test_pending_accounts_come_in_order_behind_a_position(books: Books) -> None:
    run = books.enrolled(6)
    books.outcomes.record(run, [success(1), failure(2), deferral(3)])
    assert books.outcomes.pending(run, State.PENDING, -1, 2) == [Work(0, "A-0"), Work(4, "A-4")]
    assert books.outcomes.pending(run, State.PENDING, 4, 2) == [Work(5, "A-5")]
    assert books.outcomes.pending(run, State.PENDING, 5, 2) == []
    assert books.outcomes.pending(run, State.DEFERRED, -1, 9) == [Work(3, "A-3")]


def test_outcomes_are_counted_and_become_rows_and_failures(books: Books) -> None:
    run = books.enrolled(6)
    books.outcomes.record(run, [success(0, "100.00", "-0.50"), failure(4, Reason.REJECTED, http_status=422)])
    books.outcomes.record(run, [failure(1, attempts=3, at=5.25, until=9.5), deferral(2)])
    assert books.outcomes.tally(run) == Tally(2, 1, 1, {Reason.NO_RATING: 1, Reason.REJECTED: 1})
    scores = [row.scores for row in books.rows(run)]
    assert scores == [("100.00", "-0.50"), None, None, None, None, None]
    assert list(books.outcomes.failures(run)) == [
        Failure("A-1", Reason.NO_RATING, 404, 3, 5.25, 9.5),
        Failure("A-4", Reason.REJECTED, 422, 1, 100.0, 100.0),
    ]


def test_attempts_add_up_over_the_passes(books: Books) -> None:
    run = books.enrolled(2)
    books.outcomes.record(run, [deferral(0, attempts=5, at=10.0, until=20.0), deferral(1, at=11.0, until=21.0)])
    books.outcomes.record(run, [success(0, attempts=2, at=30.0)])
    last = failure(1, Reason.UNAVAILABLE, http_status=500, attempts=4, at=31.0, until=40.0)
    books.outcomes.record(run, [last])
    assert list(books.outcomes.failures(run)) == [Failure("A-1", Reason.UNAVAILABLE, 500, 9, 11.0, 40.0)]
    [kept] = [row for row in books.everything()["accounts"] if "A-0" in row]
    assert kept[4] == State.SUCCEEDED
    assert kept[6:] == (None, 200, 7, 10.0, 30.0)
    assert books.rows(run)[0].scores == ("71.24", "0.00")


def test_an_outcome_without_an_attempt_keeps_the_earlier_times(books: Books) -> None:
    run = books.enrolled(1)
    books.outcomes.record(run, [deferral(0, attempts=2, at=10.0, until=20.0)])
    none = replace(failure(0, Reason.UNAVAILABLE, http_status=None, attempts=0), first_attempt=None)
    books.outcomes.record(run, [replace(none, last_attempt=None)])
    assert list(books.outcomes.failures(run)) == [Failure("A-0", Reason.UNAVAILABLE, None, 2, 10.0, 20.0)]


def test_a_later_outcome_replaces_the_earlier_one(books: Books) -> None:
    """As where a commit was acknowledged to nobody before a kill, and the account is asked for again."""
    run = books.enrolled(2)
    books.outcomes.record(run, [success(0), failure(1)])
    books.outcomes.record(run, [failure(0, Reason.REJECTED, http_status=422), success(1)])
    assert [row.scores for row in books.rows(run)] == [None, ("71.24", "0.00")]
    assert books.outcomes.tally(run) == Tally(succeeded=1, failed_by={Reason.REJECTED: 1})
    assert [each.account_id for each in books.outcomes.failures(run)] == ["A-0"]


def test_an_empty_batch_is_no_trouble(books: Books) -> None:
    run = books.enrolled(1)
    books.outcomes.record(run, [])
    assert books.outcomes.tally(run) == Tally(pending=1)


def test_a_recorded_batch_is_there_for_everybody(books: Books) -> None:
    run = books.enrolled(3)
    books.outcomes.record(run, [success(0), success(2)])
    with Books(books.url) as others:
        assert others.outcomes.tally(run) == Tally(pending=1, succeeded=2)


def test_what_has_no_outcome_fails_when_no_time_is_left(books: Books) -> None:
    tomorrow = books.enrolled(2, DAY + timedelta(days=1))
    run = books.enrolled(4)
    books.outcomes.record(run, [success(0), failure(1), deferral(2, attempts=5, at=1.0, until=2.0)])
    books.outcomes.close_open(run)
    assert list(books.outcomes.failures(run)) == [
        Failure("A-1", Reason.NO_RATING, 404, 1, 100.0, 100.0),
        Failure("A-2", Reason.UNAVAILABLE, 503, 5, 1.0, 2.0),
        Failure("A-3", Reason.NOT_ATTEMPTED, None, 0, None, None),
    ]
    assert books.outcomes.tally(run).succeeded == 1
    assert books.outcomes.tally(tomorrow) == Tally(pending=2)


def test_failures_stream_in_order_while_others_write(books: Books) -> None:
    run = books.enrolled(5000)
    books.outcomes.record(run, [failure(position) for position in range(4999, -1, -1)])
    failures = books.outcomes.failures(run)
    first = next(failures).account_id
    with Books(books.url) as others:
        others.outcomes.record(run, [success(4999)])
    assert first == "A-0"
    assert [each.account_id for each in failures] == [f"A-{n}" for n in range(1, 4999)]


def test_a_page_has_its_rows_in_order_once_each_has_an_outcome(books: Books) -> None:
    run = books.enrolled(2 * PAGE_ROWS + 1)
    first, last = range(PAGE_ROWS), 2 * PAGE_ROWS
    books.outcomes.record(run, [success(position) for position in reversed(first[1:])])
    assert books.outcomes.page(run, 0) is None
    books.outcomes.record(run, [deferral(0)])
    assert books.outcomes.page(run, 0) is None
    books.outcomes.record(run, [failure(0)])
    page = books.outcomes.page(run, 0)
    assert page is not None
    assert page.failed_by == {Reason.NO_RATING: 1}
    assert page.rows == books.rows(run)[: len(first)]
    assert page.rows[0] == Row("A-0", "Trust A-0", None)
    assert page.rows[1].scores is not None
    assert books.outcomes.page(run, 1) is None
    books.outcomes.record(run, [success(last)])
    assert books.outcomes.page(run, 2) == Page([books.rows(run)[last]], {})
    assert books.outcomes.page(run, 3) == Page((), {})


def test_a_page_without_its_duplicates_is_shorter(books: Books) -> None:
    run = books.enrolled([account("A"), account("B"), account("A"), account("C")])
    books.outcomes.record(run, [success(0), success(1), failure(3)])
    page = books.outcomes.page(run, 0)
    assert page is not None
    assert [row.account_id for row in page.rows] == ["A", "B", "C"]
    assert run.census.positions == 4


def test_runs_do_not_see_each_others_accounts(books: Books) -> None:
    run, other = books.enrolled(2), books.enrolled(3, DAY + timedelta(days=1))
    books.outcomes.record(other, [success(0), failure(1)])
    assert books.outcomes.tally(run) == Tally(pending=2)
    assert [row.scores for row in books.rows(run)] == [None, None]
    assert not list(books.outcomes.failures(run))


# --- reruns and approvals ---------------------------------------------------------------------


def test_reopening_rates_the_named_accounts_from_scratch(books: Books) -> None:
    run = books.rated(succeeded=4, failed=2)
    reopened = books.runs.reopen(run, ["A-5", "A-1", "A-5"])
    assert reopened.stage is Stage.RATING
    assert books.again(run) == reopened
    assert books.outcomes.tally(run) == Tally(2, 0, 3, {Reason.NO_RATING: 1})
    assert books.outcomes.pending(run, State.PENDING, -1, 9) == [Work(1, "A-1"), Work(5, "A-5")]
    books.outcomes.record(run, [failure(1, attempts=1, at=500.0)])
    assert next(books.outcomes.failures(run)) == Failure("A-1", Reason.NO_RATING, 404, 1, 500.0, 500.0)


def test_reopening_all_failed_accounts(books: Books) -> None:
    books.rated(day=DAY - timedelta(days=1))
    run = books.rated(succeeded=2, failed=3)
    books.runs.reopen(run, None)
    assert books.outcomes.tally(run) == Tally(pending=3, succeeded=2)
    assert books.outcomes.tally(books.again(replace(run, business_date=DAY - timedelta(days=1)))).failed == 2


def test_reopening_many_accounts_by_name(books: Books) -> None:
    run = books.rated(succeeded=3000, failed=1)
    books.runs.reopen(run, [f"A-{number}" for number in range(2500)])
    assert books.outcomes.tally(run) == Tally(2500, 0, 500, {Reason.NO_RATING: 1})


def test_an_unknown_account_among_known_ones_changes_nothing(books: Books) -> None:
    run = books.rated()
    before = books.everything()
    with pytest.raises(WrongUsage):
        books.runs.reopen(run, ["A-0", *(f"A-{number}" for number in range(7000, 8000)), "A-1"])
    assert books.everything() == before


def test_unknown_accounts_are_named(books: Books) -> None:
    run = books.rated()
    with pytest.raises(WrongUsage, match=r"'X\\x1b', 'a-0', 'A-0 ', 'A-5', 'Y' and 2 more"):
        books.runs.reopen(run, ["X\x1b", "a-0", "A-0 ", "A-1", "A-5", "Y", "Z", "W"])


def test_there_is_no_failed_account_to_rate_again(books: Books) -> None:
    run = books.rated(succeeded=2, failed=0)
    before = books.everything()
    with pytest.raises(NothingToDo):
        books.runs.reopen(run, None)
    assert books.everything() == before


@pytest.mark.parametrize(
    ("stage", "revision"),
    [(Stage.SEALING, 1), (Stage.WITHHELD, 1), (Stage.DELIVERING, 2), (Stage.DELIVERED, 2)],
)
@pytest.mark.parametrize("named", [True, False])
def test_only_a_sealed_file_makes_a_new_revision(
    books: Books, stage: Stage, revision: int, named: bool
) -> None:
    run = books.runs.advance(books.rated(), stage)
    reopened = books.runs.reopen(run, ["A-0"] if named else None)
    assert reopened.revision == revision
    assert books.again(run).revision == revision
    assert books.runs.reopen(reopened, ["A-1"]).revision == revision


def test_an_approval_is_kept_until_the_next_revision(books: Books) -> None:
    run = books.runs.advance(books.rated(), Stage.WITHHELD)
    approval = Approval(
        "J. O'Neill \x1b[31m", 'known: "split" of 口座\n2', datetime(2026, 11, 24, 13, tzinfo=UTC)
    )
    approved = books.runs.approve(run, approval)
    assert (approved.stage, approved.approval) == (Stage.SEALING, approval)
    assert books.again(run) == approved
    books.seal(approved)
    assert books.again(run).approval == approval
    reopened = books.runs.reopen(books.again(run), None)
    assert reopened.approval is None
    assert books.again(run) == reopened


def test_the_approval_of_one_date_is_not_that_of_another(books: Books) -> None:
    other = books.rated(day=date(2026, 11, 23))
    books.runs.approve(books.rated(), Approval("W", "R", datetime(2026, 11, 24, 13, tzinfo=UTC)))
    assert books.again(other) == other
