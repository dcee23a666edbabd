"""The gates: what keeps a file back, and exactly from where on."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from esgbatch.config.model import Quality
from esgbatch.model import Census, Reason, Tally
from esgbatch.quality import PAGE, STEPS, Comparison, describe, findings, reconcile, require_rows
from tests.summaries import FIRST

COLUMNS = ("Environmental Score", "Social Score")
LIMITS = Quality(max_failed_percent=5.0, max_account_drop_percent=20.0, max_mean_shift=10.0)


def counted(succeeded: int, failed: int) -> Tally:
    return Tally(succeeded=succeeded, failed_by={Reason.NO_RATING: failed} if failed else {})


def gates(
    tally: Tally,
    today: tuple[float | None, ...] = (50.0, 60.0),
    before: Comparison | None = None,
    limits: Quality = LIMITS,
) -> list[str]:
    return [finding.gate for finding in findings(tally, Comparison(tally.rows, today), before, limits, COLUMNS)]


def means(rows: list[tuple[str, ...]]) -> tuple[float | None, ...]:
    return describe(rows, 2, 0.0, 100.0).means


def rated(*scores: str) -> tuple[str, ...]:
    return scores


# --- failed accounts --------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("succeeded", "failed", "shut"),
    [(100, 0, []), (95, 5, []), (94, 6, ["failed"]), (9_500, 501, ["failed"]), (0, 1, ["failed"])],
)
def test_more_failed_accounts_than_allowed(succeeded: int, failed: int, shut: list[str]) -> None:
    assert gates(counted(succeeded, failed)) == shut


@pytest.mark.parametrize(
    ("failed_by", "shut"),
    [
        ({Reason.NOT_ATTEMPTED: 900}, []),
        ({Reason.NOT_ATTEMPTED: 900, Reason.NO_RATING: 5}, []),
        ({Reason.NOT_ATTEMPTED: 900, Reason.NO_RATING: 6}, ["failed"]),
        ({Reason.NOT_ATTEMPTED: 1000}, ["failed"]),
    ],
)
def test_a_partial_file_is_judged_by_what_was_tried(failed_by: dict[Reason, int], shut: list[str]) -> None:
    failed = sum(failed_by.values())
    assert gates(Tally(succeeded=1000 - failed, failed_by=failed_by)) == shut


@given(st.integers(1, 2000).flatmap(lambda rows: st.tuples(st.just(rows), st.integers(0, rows))))
def test_exactly_the_limit_is_allowed(sizes: tuple[int, int]) -> None:
    rows, failed = sizes
    exactly = Quality(max_failed_percent=100 * failed / rows)
    assert gates(counted(rows - failed, failed), limits=exactly) == []
    if failed:
        less = Quality(max_failed_percent=100 * (failed - 1) / rows)
        assert gates(counted(rows - failed, failed), limits=less) == ["failed"]


@pytest.mark.parametrize(
    ("limit", "failed", "shut"),
    [(0.0, 0, []), (0.0, 1, ["failed"]), (100.0, 1000, []), (0.1, 1, []), (0.1, 2, ["failed"])],
)
def test_the_ends_of_the_limit(limit: float, failed: int, shut: list[str]) -> None:
    assert gates(counted(1000 - failed, failed), limits=Quality(max_failed_percent=limit)) == shut


# --- against the last delivered run -----------------------------------------------------------


@pytest.mark.parametrize(
    ("today", "shut"),
    [(1000, []), (5000, []), (801, []), (800, []), (799, ["account_drop"]), (0, ["account_drop"])],
)
def test_fewer_accounts_than_last_time(today: int, shut: list[str]) -> None:
    assert gates(counted(today, 0), before=Comparison(1000, (50.0, 60.0))) == shut


@pytest.mark.parametrize(
    ("today", "shut"),
    [
        ((50.0, 60.0), []),
        ((60.0, 50.0), []),
        ((60.01, 60.0), ["mean_shift"]),
        ((39.99, 60.0), ["mean_shift"]),
        ((50.0, 75.0), ["mean_shift"]),
        ((0.0, 0.0), ["mean_shift", "mean_shift"]),
        ((None, None), []),
    ],
)
def test_a_column_whose_mean_has_moved(today: tuple[float | None, ...], shut: list[str]) -> None:
    assert gates(counted(1000, 0), today, Comparison(1000, (50.0, 60.0))) == shut


@given(st.integers(0, 9000), st.integers(1, 1000), st.integers(1, 50))
def test_a_shift_of_exactly_the_limit_is_allowed_whatever_the_arithmetic(
    base: int, shift: int, accounts: int
) -> None:
    def comparison(cents: int) -> Comparison:
        return Comparison(accounts, means([rated(f"{cents / 100:.2f}", "1.00")] * accounts))

    limits = Quality(max_mean_shift=shift / 100)
    for now, then in ((base, base + shift), (base + shift, base)):
        tally = counted(accounts, 0)
        assert not findings(tally, comparison(now), comparison(then), limits, COLUMNS)
        [found] = findings(
            tally, comparison(now), comparison(then + (1 if then > now else -1)), limits, COLUMNS
        )
        assert found.gate == "mean_shift"


def test_a_column_without_any_score_before_is_not_compared() -> None:
    assert gates(counted(10, 0), (50.0, 60.0), Comparison(10, (None, 60.0))) == []


def test_the_first_run_is_compared_with_nothing() -> None:
    assert gates(counted(1, 0), (0.0, 100.0)) == []


def test_an_empty_file_before_is_no_reason_to_divide_by_it() -> None:
    assert gates(counted(10, 0), before=Comparison(0, (None, None))) == []


def test_every_shut_gate_is_found_with_its_figures_and_nothing_of_an_account() -> None:
    found = findings(
        counted(90, 10), Comparison(100, (50.0, 90.25)), Comparison(200, (50.0, 60.0)), LIMITS, COLUMNS
    )
    assert [(each.gate, each.figure, each.limit) for each in found] == [
        ("failed", 10.0, 5.0),
        ("account_drop", 50.0, 20.0),
        ("mean_shift", 30.25, 10.0),
    ]
    assert [each.text for each in found] == [
        "10 of 100 accounts failed: 10.00%, more than 5%",
        "100 accounts, after 200 in the last delivered file: 50.00% fewer, more than 20%",
        "the mean of Social Score moved by +30.25, more than 10",
    ]


def test_a_revision_is_compared_by_its_rows_and_means() -> None:
    assert Comparison.of(FIRST) == Comparison(100_000, (50.1, 60.2))


# --- figures ----------------------------------------------------------------------------------


def test_means_are_over_the_accounts_that_have_scores() -> None:
    rows = [rated("10.00", "-1.00"), rated("20.00", "2.00"), rated("30.00", "2.00")]
    assert means(rows) == (20.0, 1.0)


@pytest.mark.parametrize("accounts", [1, PAGE - 1, PAGE, PAGE + 1, 3 * PAGE])
def test_figures_are_the_same_however_many_are_counted_at_once(accounts: int) -> None:
    scores = [n % 101 for n in range(accounts)]
    found = describe([rated(f"{n}.00", f"{100 - n}.00") for n in scores], 2, 0.0, 100.0)
    assert found.means == pytest.approx((sum(scores) / accounts, 100 - sum(scores) / accounts))
    assert found.histograms[0].counts == tuple(
        sum(min(n // 5, STEPS - 1) == step for n in scores) for step in range(STEPS)
    )


def test_there_is_no_mean_of_nothing() -> None:
    assert means([]) == (None, None)


def test_histograms_count_every_score_once_and_both_ends_belong_to_them() -> None:
    rows = [rated("0.00", "-1.00"), rated("4.99", "100.00"), rated("5.00", "100.01")]
    first, second = describe(rows, 2, 0.0, 100.0).histograms
    assert (first.low, first.high, len(first.counts)) == (0.0, 100.0, STEPS)
    assert first.counts[:2] == (2, 1)
    assert (second.counts[0], second.counts[-1]) == (1, 2)
    assert sum(first.counts) == sum(second.counts) == 3


@pytest.mark.parametrize(
    "tally",
    [
        Tally(succeeded=7),
        Tally(succeeded=5, failed_by={Reason.NO_RATING: 4}),
        Tally(succeeded=7, pending=1),
        Tally(succeeded=7, deferred=1),
        Tally(succeeded=8, pending=1),
        Tally(succeeded=8, deferred=1),
    ],
)
def test_figures_that_do_not_add_up_are_a_bug(tally: Tally) -> None:
    with pytest.raises(AssertionError):
        reconcile(Census(listed=11, inactive=1, duplicate=1, refused=1), tally)


def test_figures_that_add_up() -> None:
    reconcile(Census(listed=11, inactive=1, duplicate=1, refused=1), counted(6, 2))
    assert require_rows(8, counted(6, 2)) == 8


@pytest.mark.parametrize("written", [0, 7, 9])
def test_a_file_with_other_rows_than_were_counted_is_a_bug(written: int) -> None:
    with pytest.raises(AssertionError):
        require_rows(written, counted(6, 2))
