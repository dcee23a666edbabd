"""The rate limit holds in every one-second window, whoever calls whenever, and is used."""

from __future__ import annotations

import itertools
import math
import random
import threading
from collections.abc import Iterable

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from esgbatch.fetching.limiter import GUARDED_CATCH_UP, RateLimiter, WindowGuard, margin

# The network and the server's scheduler may bring requests this much closer together.
SQUEEZE = 0.007
# A caller that comes late makes up for this much.
CATCH_UP = 0.004

limits = st.sampled_from([0.2, 0.5, 0.99, 1, 1.5, 2, 2.9, 3, 7, 10, 50, 100, 999.9]) | st.floats(0.1, 500)
# Pauses between calls: none, of the order of a slot, and longer than a second.
pauses = st.lists(
    st.sampled_from([0.0, 1e-6, 0.001, 0.004, 0.02, 0.3, 1.0, 5.0]) | st.floats(0, 0.1),
    min_size=1,
    max_size=150,
)
# After a pause, callers ask until they are refused.
bursts = st.booleans()


def permits(
    limit: float,
    waits: Iterable[float],
    *,
    burst: bool = True,
    start: float = 1000.0,
    catch_up: float = CATCH_UP,
) -> list[float]:
    """When each permit was given: a caller comes after every wait and takes all it can get."""
    limiter = RateLimiter(limit, 100_000, catch_up=catch_up)
    now, given_at = start, []
    for wait in waits:
        now += wait
        while limiter.acquire(now):
            given_at.append(now)
            if not burst:
                break
    return given_at


@given(limits, pauses, st.sampled_from([0.01, 0.1, 0.5]), st.randoms())
def test_requests_may_come_late_by_the_validity(
    limit: float, waits: list[float], validity: float, dice: random.Random
) -> None:
    """Each request leaves somewhere in its permit's validity, in whatever order."""
    limiter = RateLimiter(limit, 100_000, validity=validity)
    now, left_at = 1000.0, []
    for wait in waits:
        now += wait
        while limiter.acquire(now):
            left_at.append(now + dice.choice([0.0, validity, dice.uniform(0, validity)]))
    assert most_within(1.0, sorted(left_at)) <= max(1, math.floor(limit))


def most_within(seconds: float, times: list[float]) -> int:
    """The most permits in any window of this length, its end not included."""
    return max((sum(at <= each < at + seconds for each in times[i:]) for i, at in enumerate(times)), default=0)


@given(limits, pauses, bursts)
@example(50, [0.0] + [0.03] * 100, True)
@example(1, [0.0, 0.999, 0.02, 1.0], True)
@example(10, [5.0] * 5, True)
def test_any_pattern_of_calls_stays_below_the_limit_with_the_squeeze(
    limit: float, waits: list[float], burst: bool
) -> None:
    given_at = permits(limit, waits, burst=burst)
    assert most_within(1.0 + SQUEEZE, given_at) <= max(1, math.floor(limit))


@given(limits, pauses)
def test_below_one_a_second_the_spacing_is_as_long_as_it_must(limit: float, waits: list[float]) -> None:
    given_at = permits(limit, waits)
    if limit < 1:
        assert all(later - earlier >= 1 / limit for earlier, later in itertools.pairwise(given_at))


@given(limits, pauses, bursts)
def test_who_may_catch_up_by_more_leaves_less_for_the_squeeze(
    limit: float, waits: list[float], burst: bool
) -> None:
    """Permits alone hold the limit; what the network does is the guard's business then."""
    given_at = permits(limit, waits, burst=burst, catch_up=GUARDED_CATCH_UP)
    assert most_within(1.0 + 0.002, given_at) <= max(1, math.floor(limit))


@given(limits, pauses, st.sampled_from([CATCH_UP, GUARDED_CATCH_UP]))
def test_nobody_catches_up_by_more_than_a_moment(limit: float, waits: list[float], catch_up: float) -> None:
    """So that there is no burst after a pause."""
    given_at = permits(limit, waits, catch_up=catch_up)
    spacing = RateLimiter(limit, 1).spacing
    for count in (1, 2, 5):
        for first, last in zip(given_at, given_at[count:], strict=False):
            assert last - first >= count * spacing - catch_up - 1e-9


@pytest.mark.parametrize("limit", [1, 2, 10, 50, 500, 2000])
def test_there_is_no_burst_at_the_start(limit: int) -> None:
    limiter = RateLimiter(limit, 100_000)
    given_at = [at / 10_000 for at in range(1000) if limiter.acquire(at / 10_000)]
    assert given_at[0] == 0, "the first need not wait"
    assert len(given_at) <= 0.1 * limit + CATCH_UP * limit + 1


@pytest.mark.parametrize(
    ("limit", "share"), [(1, 0.97), (2.9, 0.97), (10, 0.97), (50, 0.97), (500, 0.98), (5000, 0.98)]
)
def test_most_of_the_limit_is_used(limit: float, share: float) -> None:
    limiter = RateLimiter(limit, 100_000)
    now, count = 0.0, 0
    seconds = 200 if limit < 100 else 5
    while now < seconds:
        count += limiter.acquire(now)
        now += limiter.delay(now) or 1e-9
    assert count / seconds >= share * math.floor(limit)


@pytest.mark.parametrize("tick", [0.001, 0.0037])
def test_callers_that_come_a_little_late_lose_nothing(tick: float) -> None:
    limiter = RateLimiter(100, 100_000)
    calls = round(20 / tick)
    assert sum(limiter.acquire(call * tick) for call in range(calls)) >= 20 * 97


@given(limits, pauses)
def test_the_delay_says_when_the_next_one_is_free(limit: float, waits: list[float]) -> None:
    limiter = RateLimiter(limit, 100_000)
    now = 0.0
    for wait in waits:
        now += wait
        delay = limiter.delay(now)
        assert delay >= 0
        if delay > 1e-6:
            assert not limiter.acquire(now)
            assert not limiter.acquire(now + delay * 0.999)
        now += delay + 1e-9
        assert limiter.delay(now) == 0
        assert limiter.acquire(now)


def test_a_fraction_above_one_is_rounded_down() -> None:
    assert most_within(1.0, permits(2.9, [0.01] * 1000)) == 2
    assert RateLimiter(2.9, 1).spacing == RateLimiter(2, 1).spacing


def test_no_more_are_under_way_than_allowed() -> None:
    limiter = RateLimiter(1000, 3)
    assert [limiter.acquire(at) for at in (1.0, 2.0, 3.0, 4.0)] == [True, True, True, False]
    limiter.release()
    assert limiter.acquire(4.0)
    assert not limiter.acquire(5.0)


def test_who_finds_no_place_spends_no_slot() -> None:
    limiter = RateLimiter(1, 1)
    assert limiter.acquire(10.0)
    assert not limiter.acquire(20.0)
    assert limiter.delay(20.0) == 0
    limiter.release()
    assert limiter.acquire(20.0)


def test_who_finds_no_slot_takes_no_place() -> None:
    limiter = RateLimiter(1, 1)
    assert limiter.acquire(10.0)
    limiter.release()
    assert not any(limiter.acquire(10.0 + each / 100) for each in range(50))
    assert limiter.acquire(12.0)


def test_giving_back_a_place_does_not_give_back_its_slot() -> None:
    limiter = RateLimiter(1, 5)
    assert limiter.acquire(10.0)
    limiter.release()
    assert not limiter.acquire(10.5)


def test_a_place_is_given_back_once() -> None:
    limiter = RateLimiter(1, 1)
    limiter.acquire(0.0)
    limiter.release()
    with pytest.raises(ValueError, match="released too many"):
        limiter.release()


# --- the guard where requests leave -----------------------------------------------------------


class Wire:
    """Requests that come to the guard at given times; `left` is when each of them leaves."""

    def __init__(self, limit: float) -> None:
        self._now = 0.0
        self._guard = WindowGuard(limit, monotonic=lambda: self._now, sleep=self._sleep)
        self.left: list[float] = []

    def _sleep(self, seconds: float) -> None:
        self._now += seconds

    def come(self, at: float) -> float:
        """Come at this time, with others or not; how long it was held back."""
        self._now = max(self._now, at)
        self._guard.wait()
        self.left.append(self._now)
        return self._now - at


@given(limits, pauses, st.integers(1, 40))
@example(50, [0.0] * 100, 40)
@example(2, [0.0, 0.9, 0.2], 2)
@example(0.2, [0.0, 1.0], 2)
def test_whatever_comes_to_the_wire_leaves_within_the_limit(
    limit: float, waits: list[float], crowd: int
) -> None:
    wire, now = Wire(limit), 1000.0
    for number, wait in enumerate(waits):
        now += wait
        for _ in range(crowd if number % 7 == 0 else 1):
            wire.come(now)
    assert wire.left == sorted(wire.left), "first come, first served"
    assert most_within(1.0 + margin(limit) / 3, wire.left) <= max(1, math.floor(limit))
    if limit < 1:
        assert all(later - earlier >= 1 / limit for earlier, later in itertools.pairwise(wire.left))


@given(limits, pauses)
def test_who_was_paced_by_the_limiter_is_not_held_back(limit: float, waits: list[float]) -> None:
    wire = Wire(limit)
    assert not any(wire.come(at) > 1e-9 for at in permits(limit, waits))


@given(limits, pauses)
def test_nobody_is_held_back_longer_than_needed(limit: float, waits: list[float]) -> None:
    wire, now = Wire(limit), 1000.0
    places = max(1, math.floor(limit))
    longest = (1 + margin(limit)) * max(1.0, 1 / limit)
    for wait in waits:
        now += wait
        if wire.come(now):
            assert wire.left[-1] - wire.left[-1 - places] <= longest


def test_a_crowd_after_a_pause_is_let_through_up_to_the_limit() -> None:
    wire = Wire(10)
    assert [wire.come(100.0) > 0 for _ in range(12)] == [False] * 10 + [True] * 2


def test_threads_at_one_guard_do_not_share_a_place() -> None:
    clock, held = [100.0], list[float]()

    def sleep(seconds: float) -> None:
        held.append(seconds)
        clock[0] += seconds

    guard = WindowGuard(40, monotonic=lambda: clock[0], sleep=sleep)
    gate = threading.Barrier(8)

    def leave() -> None:
        gate.wait(10)
        for _ in range(10):
            guard.wait()

    threads = [threading.Thread(target=leave) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(held) == 1, "forty fit into the first second, and forty into the next"
    assert held[0] > 1.0


def test_who_wakes_up_late_is_noted_late() -> None:
    clock = [100.0]

    def oversleep(seconds: float) -> None:
        clock[0] += seconds + 0.2

    guard = WindowGuard(2, monotonic=lambda: clock[0], sleep=oversleep)
    left = []
    for _ in range(6):
        guard.wait()
        left.append(clock[0])
    assert most_within(1.0, left) <= 2
