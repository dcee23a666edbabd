"""When an outage is told from broken accounts; how long retries wait; how latencies are counted."""

from __future__ import annotations

import random
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from esgbatch.fetching.circuit import Circuit
from esgbatch.fetching.latency import LatencyHistogram
from esgbatch.fetching.retry import Backoff


def opened(circuit: Circuit, accounts: int = 20, now: float = 100.0) -> Circuit:
    for position in range(accounts):
        circuit.failure(now, position)
    assert circuit.is_open
    return circuit


# --- the circuit ------------------------------------------------------------------------------


def test_twenty_accounts_open_it_and_nineteen_do_not() -> None:
    circuit = Circuit()
    assert [circuit.failure(100.0 + at, at) for at in range(20)] == [False] * 19 + [True]
    assert circuit.opened_at == 119.0
    assert circuit.is_open
    assert circuit.accounts == 20


def test_one_account_that_fails_often_is_one_account() -> None:
    circuit = Circuit()
    assert not any(circuit.failure(at / 10, at % 19) for at in range(500))
    assert circuit.accounts == 19


def test_only_failures_of_the_last_minute_count() -> None:
    circuit = Circuit()
    for position in range(19):
        circuit.failure(0.0, position)
    assert not circuit.failure(60.1, 19)
    assert circuit.accounts == 1
    slow = Circuit()
    assert not any(slow.failure(at * 3.2, at) for at in range(200)), "19 a minute, all night"
    assert any(slow.failure(640 + at * 3.1, 1000 + at) for at in range(40)), "20 a minute"


def test_the_last_minute_has_its_first_moment() -> None:
    circuit = Circuit()
    for position in range(19):
        circuit.failure(0.0, position)
    assert circuit.failure(60.0, 19)


def test_an_account_counts_as_long_as_any_of_its_failures() -> None:
    circuit = Circuit()
    for position in range(19):
        circuit.failure(0.0, position)
        circuit.failure(30.0, position)
    assert circuit.failure(80.0, 19)


@given(st.lists(st.tuples(st.floats(0, 5), st.integers(0, 40) | st.none()), max_size=200))
def test_it_opens_exactly_when_twenty_have_failed_since_the_last_sign_of_life(
    events: list[tuple[float, int | None]],
) -> None:
    circuit, now = Circuit(), 0.0
    failures: list[tuple[float, int]] = []
    for wait, position in events:
        now += wait
        if position is None:
            was_open = circuit.is_open
            assert circuit.alive() is was_open
            failures.clear()
            continue
        failures = [(at, each) for at, each in [*failures, (now, position)] if at >= now - 60]
        before = circuit.is_open
        told = circuit.failure(now, position)
        assert told is (not before and len({each for _, each in failures}) >= 20)


def test_a_sign_of_life_forgets_what_was() -> None:
    circuit = Circuit()
    for position in range(19):
        circuit.failure(0.0, position)
    assert not circuit.alive(), "it was not open"
    assert not circuit.failure(0.1, 19)
    assert circuit.accounts == 1


def test_it_closes_once_and_may_open_again() -> None:
    circuit = opened(Circuit())
    assert circuit.alive()
    assert not circuit.is_open
    assert not circuit.alive()
    opened(circuit, now=200.0)
    assert circuit.opened_at == 200.0


def test_it_opens_once() -> None:
    circuit = opened(Circuit())
    assert not circuit.failure(101.0, 20)
    assert circuit.opened_at == 100.0


def test_probes_come_after_one_two_four_and_at_most_thirty_seconds() -> None:
    circuit = opened(Circuit())
    now, waits = 100.0, []
    for _ in range(8):
        waits.append(circuit.next_probe - now)
        now = circuit.next_probe
        circuit.probe_failed(now)
    assert waits == [1, 2, 4, 8, 16, 30, 30, 30]
    circuit.alive()
    opened(circuit, now=now + 1)
    assert circuit.next_probe == now + 2, "the next outage is asked about soon again"


def test_charges_are_given_back_once_and_only_when_a_probe_confirms() -> None:
    circuit = Circuit()
    circuit.failure(99.0, 5)
    circuit.failure(99.5, 5)
    opened(circuit)
    refund = circuit.probe_failed(101.0)
    assert refund == Counter(range(20)) + Counter({5: 2})
    assert circuit.confirmed
    assert circuit.probe_failed(103.0) == {}


def test_the_next_outage_must_be_confirmed_anew() -> None:
    circuit = opened(Circuit())
    circuit.probe_failed(101.0)
    circuit.alive()
    opened(circuit, now=200.0)
    assert not circuit.confirmed
    assert len(circuit.probe_failed(201.0)) == 20


# --- backoff ----------------------------------------------------------------------------------


@given(st.integers(1, 10_000), st.integers(0, 2**32))
def test_waits_are_within_the_growing_bound(failures: int, seed: int) -> None:
    wait = Backoff(0.5, 60.0, random.Random(seed)).delay(failures)
    assert 0 <= wait <= min(60.0, 0.5 * 2 ** min(failures - 1, 100))


@pytest.mark.parametrize(("failures", "most"), [(1, 0.5), (2, 1), (3, 2), (7, 32), (8, 60), (1000, 60)])
def test_the_jitter_is_full(failures: int, most: float) -> None:
    backoff = Backoff(0.5, 60.0, random.Random(1))
    waits = [backoff.delay(failures) for _ in range(1000)]
    assert min(waits) < 0.05 * most
    assert max(waits) > 0.95 * most
    assert sum(waits) / len(waits) == pytest.approx(most / 2, rel=0.1)


def test_accounts_that_failed_together_do_not_come_back_together() -> None:
    backoff = Backoff(0.5, 60.0)
    assert len({backoff.delay(8) for _ in range(100)}) == 100


# --- latencies --------------------------------------------------------------------------------


def test_there_is_no_percentile_of_nothing() -> None:
    assert LatencyHistogram().percentile(0.5) is None


@given(st.lists(st.floats(0.0002, 120), min_size=1, max_size=300), st.sampled_from([0.5, 0.9, 0.95, 1.0]))
def test_percentiles_are_right_to_within_their_promise(latencies: list[float], share: float) -> None:
    histogram = LatencyHistogram()
    for latency in latencies:
        histogram.add(latency)
    ordered = sorted(latencies)
    # The smallest latency that at least this share did not exceed.
    exact = next(each for number, each in enumerate(ordered, 1) if number >= share * len(ordered))
    assert histogram.percentile(share) == pytest.approx(exact, rel=0.0251)


@pytest.mark.parametrize("seconds", [0.0, -1.0, 1e-9, 86_400.0])
def test_no_latency_is_too_odd(seconds: float) -> None:
    histogram = LatencyHistogram()
    histogram.add(seconds)
    found = histogram.percentile(0.95)
    assert found is not None
    assert found >= 0
