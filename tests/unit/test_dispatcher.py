"""The dispatcher in simulated time: the table of answers, rate, outages, holds, stopping."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import replace
from decimal import Decimal

import pytest

from esgbatch.errors import CredentialsRefused, OutageTooLong
from esgbatch.fetching.concurrency import AutoConcurrency, FixedConcurrency
from esgbatch.fetching.dispatcher import Dispatcher
from esgbatch.fetching.limiter import RateLimiter
from esgbatch.fetching.retry import Backoff
from esgbatch.fetching.ticket import Ended, Pace
from esgbatch.model import Answer, Outcome, Quota, Reason, State, Verdict, Work
from tests.simulated import Api, RecordingListener, SimulatedClock, SimulatedEngine

RATED = Answer(Verdict.RATED, scores=(Decimal("71.24"),), http_status=200)
DOWN = Answer(Verdict.TRANSIENT, http_status=503, detail="HTTP 503")
NOT_FOUND = Answer(Verdict.FAILED, reason=Reason.NO_RATING, http_status=404)
FORBIDDEN = Answer(Verdict.FORBIDDEN, reason=Reason.FORBIDDEN, http_status=403)
UNAUTHORIZED = Answer(Verdict.UNAUTHORIZED, http_status=401)
REDIRECTED = Answer(Verdict.REDIRECTED, http_status=307)
LOST = Answer(Verdict.LOST, detail="its worker is gone")


def throttled(seconds: float | None) -> Answer:
    return Answer(Verdict.THROTTLED, http_status=429, retry_after=seconds)


def left(remaining: float, seconds: float) -> Answer:
    return replace(RATED, quota=Quota(remaining, seconds))


class Accounts:
    """A backlog in memory."""

    def __init__(self, count: int) -> None:
        self._left = [Work(position, f"A-{position}") for position in range(count)]
        self.outcomes: dict[int, Outcome] = {}
        self.batches: list[int] = []
        self.good: str | None = None

    def next(self, limit: int) -> Sequence[Work]:
        page, self._left = self._left[:limit], self._left[limit:]
        return page

    def known_good(self) -> str | None:
        return self.good

    def anyone(self) -> str | None:
        return self._left[len(self._left) // 2].account_id if self._left else None

    def tend(self) -> None:
        pass

    def record(self, outcomes: Sequence[Outcome]) -> None:
        self.batches.append(len(outcomes))
        for outcome in outcomes:
            assert outcome.position not in self.outcomes, "an account was concluded twice"
            self.outcomes[outcome.position] = outcome

    def states(self) -> Counter[State]:
        return Counter(outcome.state for outcome in self.outcomes.values())


class Night:
    """A dispatcher with everything simulated around it."""

    def __init__(
        self,
        api: Api,
        accounts: int,
        *,
        limit: float = 1000.0,
        concurrency: int | None = 32,
        most: int = 256,
        attempts: int = 3,
        max_hold: float = 3600.0,
        stopped: Callable[[], bool] = lambda: False,
    ) -> None:
        self.clock = SimulatedClock()
        self.engine = SimulatedEngine(self.clock, api)
        self.listener = RecordingListener()
        self.accounts = Accounts(accounts)
        self.paces: list[Pace] = []
        self.dispatcher = Dispatcher(
            self.engine,
            RateLimiter(limit, most),
            AutoConcurrency(most, limit) if concurrency is None else FixedConcurrency(concurrency),
            Backoff(0.5, 60.0),
            self.clock,
            self.listener,
            attempts=attempts,
            commit_every=100,
            max_hold=max_hold,
            stopped=stopped,
            tick=self.paces.append,
        )

    def run(self, *, final: bool = False, seconds: float = math.inf) -> Ended:
        return self.dispatcher.run(self.accounts, final=final, remaining=lambda: seconds - self.clock.now)

    def asked(self, account: str) -> int:
        return sum(each == account for _, each in self.engine.starts)


def always(answer: Answer, latency: float = 0.05) -> Api:
    return lambda _account, _now: (latency, answer)


def but(special: dict[str, Answer], latency: float = 0.05) -> Api:
    return lambda account, _now: (latency, special.get(account, RATED))


class Script:
    """An API that gives each account a list of answers in turn, then the last one for ever."""

    def __init__(self, answers: dict[str, list[Answer]]) -> None:
        self._answers = {account: list(turns) for account, turns in answers.items()}

    def __call__(self, account: str, _now: float) -> tuple[float, Answer]:
        turns = self._answers.get(account, [RATED])
        return 0.05, turns.pop(0) if len(turns) > 1 else turns[0]


def test_every_account_gets_its_outcome():
    night = Night(but({"A-3": NOT_FOUND}), 250)
    assert night.run() is Ended.COMPLETE
    assert night.accounts.states() == {State.SUCCEEDED: 249, State.FAILED: 1}
    failed = night.accounts.outcomes[3]
    assert (failed.reason, failed.http_status, failed.attempts) == (Reason.NO_RATING, 404, 1)
    assert night.accounts.outcomes[0].scores == (Decimal("71.24"),)
    assert [each["account_id"] for each in night.listener.named("account_failed")] == ["A-3"]


@pytest.mark.parametrize("limit", [1, 2.5, 7, 50, 500, 2000])
def test_the_limit_holds_in_every_second_and_is_used(limit):
    night = Night(always(RATED, 0.2), int(limit * 20), limit=limit, concurrency=4096, most=4096)
    night.run()
    assert night.engine.most_in_a_second() <= limit
    used = len(night.engine.starts) / night.engine.starts[-1][0] / math.floor(limit)
    assert used >= (0.975 if limit >= 50 else 0.95)


def test_retries_count_against_the_limit_too():
    night = Night(always(DOWN, 0.01), 15, limit=10, attempts=5)
    night.run()
    assert len(night.engine.starts) == 75
    assert night.engine.most_in_a_second() <= 10


def test_a_transient_failure_is_tried_again_after_a_growing_wait():
    night = Night(Script({"A-0": [DOWN, DOWN, RATED]}), 1)
    night.run()
    assert night.accounts.outcomes[0].state is State.SUCCEEDED
    assert night.accounts.outcomes[0].attempts == 3
    first, second, third = (at for at, _ in night.engine.starts)
    assert second - first <= 0.06 + 0.5
    assert third - second <= 0.06 + 1.0


def test_an_account_that_stays_down_is_put_off_and_fails_in_the_last_pass():
    night = Night(but({"A-1": DOWN}), 5, attempts=3)
    night.run()
    put_off = night.accounts.outcomes[1]
    assert (put_off.state, put_off.reason, put_off.attempts) == (State.DEFERRED, Reason.UNAVAILABLE, 3)
    last = Night(always(DOWN), 1, attempts=3)
    assert last.run(final=True) is Ended.COMPLETE
    assert last.accounts.outcomes[0].state is State.FAILED


def test_retry_after_holds_everybody_and_charges_nobody():
    night = Night(Script({"A-10": [throttled(30.0), RATED]}), 40, concurrency=1)
    night.run()
    gaps = [b - a for (a, _), (b, _) in zip(night.engine.starts, night.engine.starts[1:], strict=False)]
    assert sum(gap >= 30.0 for gap in gaps) == 1
    assert night.accounts.outcomes[10].attempts == 1
    assert night.listener.named("throttled")[0]["seconds"] == 30.0


def test_throttling_without_retry_after_backs_off_and_ends():
    night = Night(Script({"A-0": [throttled(None)] * 6 + [RATED]}), 1)
    night.run()
    assert night.accounts.outcomes[0].state is State.SUCCEEDED
    assert night.accounts.outcomes[0].attempts == 1
    assert night.clock.now > 0.5 + 1 + 2 + 4 + 8 + 16


def test_throttling_for_ever_ends_after_max_hold():
    night = Night(always(throttled(5.0)), 3, max_hold=60.0)
    with pytest.raises(OutageTooLong, match="60 s"):
        night.run()
    assert 60 <= night.clock.now <= 70
    assert not night.accounts.outcomes


def test_throttling_for_ever_in_the_last_pass_fails_the_account():
    night = Night(always(throttled(1.0)), 3, attempts=3)
    assert night.run(final=True) is Ended.COMPLETE
    assert night.accounts.states() == {State.FAILED: 3}


def test_an_outage_charges_nobody_and_the_night_goes_on():
    def api(_account: str, now: float) -> tuple[float, Answer]:
        return 0.05, DOWN if 10 <= now < 400 else RATED

    night = Night(api, 2000, limit=50, attempts=2)
    assert night.run() is Ended.COMPLETE
    assert night.accounts.states()[State.SUCCEEDED] >= 2000 - 32
    during = [at for at, _ in night.engine.starts if 15 <= at < 400]
    assert len(during) <= 20, "an outage is probed, not hammered"
    assert night.listener.named("circuit_opened")
    assert night.listener.named("circuit_closed")
    assert night.clock.now < 400 + 30 + 45


def test_an_outage_gives_back_the_charges_that_revealed_it():
    def api(_account: str, now: float) -> tuple[float, Answer]:
        return 0.05, DOWN if 1 <= now < 100 else RATED

    night = Night(api, 300, limit=100, concurrency=10, attempts=6)
    night.run()
    assert night.accounts.states() == {State.SUCCEEDED: 300}
    assert {outcome.attempts for outcome in night.accounts.outcomes.values()} <= {1, 2}


def test_a_handful_of_broken_accounts_is_no_outage():
    night = Night(but({f"A-{n}": DOWN for n in range(19)}), 19, attempts=5)
    assert night.run() is Ended.COMPLETE
    assert not night.listener.named("circuit_opened")


def test_many_broken_accounts_at_the_end_do_not_hold_the_night():
    broken = {f"A-{n}": DOWN for n in range(100, 150)}
    night = Night(but(broken), 150, attempts=4)
    assert night.run() is Ended.COMPLETE
    assert night.accounts.states() == {State.SUCCEEDED: 100, State.DEFERRED: 50}
    assert night.clock.now < 300


def test_a_broken_block_at_the_head_of_the_list_is_told_from_an_outage():
    night = Night(but({f"A-{n}": DOWN for n in range(400)}), 3000, attempts=2, max_hold=60.0)
    assert night.run() is Ended.COMPLETE
    assert night.accounts.states() == {State.SUCCEEDED: 2600, State.DEFERRED: 400}


@pytest.mark.parametrize("known_from", ["this process", "an earlier one"])
def test_a_long_block_of_broken_accounts_is_told_from_an_outage(known_from: str):
    first = 50 if known_from == "this process" else 0
    broken = {f"A-{n}": DOWN for n in range(first, 400)}
    night = Night(but(broken), 450, attempts=2, max_hold=60.0)
    night.accounts.good = "B-0"
    assert night.run() is Ended.COMPLETE
    assert night.accounts.states() == {State.SUCCEEDED: 50 + first, State.DEFERRED: 400 - first}


def test_an_api_that_never_answers_ends_the_run_after_max_hold():
    night = Night(always(DOWN), 100, max_hold=600.0)
    with pytest.raises(OutageTooLong):
        night.run()
    assert 600 <= night.clock.now < 660
    assert not [o for o in night.accounts.outcomes.values() if o.state is State.FAILED]


def test_a_401_is_renewed_once_and_costs_nothing():
    night = Night(Script({"A-0": [UNAUTHORIZED, RATED]}), 1)
    night.run()
    assert night.accounts.outcomes[0].state is State.SUCCEEDED
    assert night.accounts.outcomes[0].attempts == 1


def test_a_second_401_is_a_403():
    night = Night(Script({"A-0": [UNAUTHORIZED, UNAUTHORIZED]}), 3)
    night.run()
    assert night.accounts.outcomes[0].reason is Reason.FORBIDDEN
    assert night.asked("A-0") == 2


def test_a_401_much_later_is_renewed_again():
    night = Night(Script({"A-0": [UNAUTHORIZED, DOWN, UNAUTHORIZED, RATED]}), 1)
    night.run()
    assert night.accounts.outcomes[0].state is State.SUCCEEDED


def test_nineteen_403_are_the_accounts_own():
    night = Night(but({f"A-{n}": FORBIDDEN for n in range(19)}), 30, concurrency=1)
    night.run()
    assert night.accounts.states() == {State.FAILED: 19, State.SUCCEEDED: 11}
    assert night.accounts.outcomes[0].reason is Reason.FORBIDDEN


def test_twenty_403_in_a_row_stop_the_run_and_stay_pending():
    night = Night(but({f"A-{n}": FORBIDDEN for n in range(5, 25)}), 100, concurrency=1)
    with pytest.raises(CredentialsRefused, match="20 accounts in a row"):
        night.run()
    assert set(night.accounts.outcomes) == {0, 1, 2, 3, 4}
    assert night.engine.closed


def test_the_login_servers_refusal_stops_the_run():
    night = Night(always(Answer(Verdict.LOGIN_REFUSED, detail="HTTP 401")), 100)
    with pytest.raises(CredentialsRefused, match="login server"):
        night.run()


def test_a_redirect_is_followed_under_the_limit_and_costs_nothing():
    night = Night(Script({f"A-{n}": [REDIRECTED, RATED] for n in range(30)}), 30, limit=10)
    night.run()
    assert night.accounts.states() == {State.SUCCEEDED: 30}
    assert night.engine.most_in_a_second() <= 10
    assert {outcome.attempts for outcome in night.accounts.outcomes.values()} == {1}


def test_stopping_keeps_what_is_done_and_leaves_the_rest():
    night = Night(always(RATED, 0.5), 1000, limit=50, stopped=lambda: night.clock.now >= 5)
    assert night.run() is Ended.STOPPED
    assert night.engine.closed
    assert 200 <= len(night.accounts.outcomes) < 260


def test_time_is_up():
    night = Night(always(RATED, 0.5), 1000, limit=50)
    assert night.run(seconds=5.0) is Ended.OUT_OF_TIME
    assert night.clock.now == pytest.approx(5.0, abs=0.01)


def test_no_wait_is_longer_than_the_time_left():
    night = Night(always(throttled(86400.0)), 10, max_hold=math.inf)
    assert night.run(seconds=60.0) is Ended.OUT_OF_TIME
    assert night.clock.now == pytest.approx(60.0, abs=0.01)


def test_outcomes_are_committed_within_half_a_second():
    night = Night(always(RATED, 0.05), 50, limit=10)
    night.run()
    assert max(night.accounts.batches) <= 6


def test_outcomes_are_committed_in_batches():
    night = Night(always(RATED, 0.001), 1000, limit=100_000)
    night.run()
    assert max(night.accounts.batches) <= 100 + 32


@pytest.mark.parametrize(("limit", "latency"), [(50, 4.3), (500, 1.0), (50, 0.05)])
def test_concurrency_is_found_by_the_job_alone(limit, latency):
    night = Night(always(RATED, latency), limit * 240, limit=limit, concurrency=None, most=1024)
    night.run(seconds=240.0)
    late = [at for at, _ in night.engine.starts if 120 <= at < 240]
    assert len(late) / 120 / limit >= 0.97
    assert night.engine.most_in_flight <= 1.3 * limit * latency + 16


def test_concurrency_stays_below_an_api_that_slows_down_under_load():
    class Crowded:
        """One request at a time takes 50 ms; more than 20 at a time only queue."""

        def __init__(self) -> None:
            self.free_at = [0.0] * 20

        def __call__(self, _account: str, now: float) -> tuple[float, Answer]:
            self.free_at.sort()
            start = max(now, self.free_at[0])
            self.free_at[0] = start + 0.05
            return start + 0.05 - now, RATED

    night = Night(Crowded(), 20_000, limit=10_000, concurrency=None, most=1024)
    night.run(seconds=50.0)
    assert night.engine.most_in_flight <= 128
    assert len(night.accounts.outcomes) >= 0.9 * 20 / 0.05 * 50


def test_a_bug_in_a_worker_is_not_swallowed():
    def api(_account: str, _now: float) -> tuple[float, Answer]:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        Night(api, 3).run()


def test_a_lost_attempt_is_made_again_and_charged_to_nobody():
    """Twenty accounts, each lost more often than it has attempts: no failure, no circuit, no delay."""
    night = Night(Script({f"A-{n}": [LOST] * 5 + [RATED] for n in range(20)}), 20, attempts=3)
    assert night.run() is Ended.COMPLETE
    assert night.accounts.states() == {State.SUCCEEDED: 20}
    assert {outcome.attempts for outcome in night.accounts.outcomes.values()} == {1}
    assert night.dispatcher.pace.attempts == 20
    assert night.asked("A-7") == 6
    assert "circuit_opened" not in [name for name, _ in night.listener.events]


def test_a_lost_attempt_leaves_no_time_of_a_first_one():
    night = Night(lambda _account, now: (0.05, LOST if now < 10 else RATED), 1)
    night.run()
    outcome = night.accounts.outcomes[0]
    assert outcome.first_attempt is not None
    assert outcome.first_attempt >= night.clock.time() - night.clock.now + 10


def test_a_lost_probe_is_neither_a_failure_nor_a_success():
    """While the probes are lost the circuit stays open, and the next one does not wait longer for it."""
    fates = {"down": (0, 30), "lost": (30, 40)}

    def api(_account: str, now: float) -> tuple[float, Answer]:
        for answer, (since, until) in zip((DOWN, LOST), fates.values(), strict=True):
            if since <= now < until:
                return 0.05, answer
        return 0.05, RATED

    night = Night(api, 100)
    assert night.run() is Ended.COMPLETE
    assert night.accounts.states() == {State.SUCCEEDED: 100}
    names = [name for name, _ in night.listener.events]
    assert names.count("circuit_opened") == names.count("circuit_closed") == 1


# --- what the API says is left of its quota ---


def test_what_is_left_of_the_quota_lasts_as_long_as_it_must() -> None:
    night = Night(lambda _account, now: (0.05, left(30, 10) if now < 0.02 else RATED), 200, limit=100)
    assert night.run() is Ended.COMPLETE
    times = [at for at, _ in night.engine.starts]
    assert 20 <= sum(at < 10 for at in times) <= 31, "the first one, and no more than it said is left"
    assert sum(10.1 <= at < 11.1 for at in times) >= 90, "and then the limit again"


def test_the_last_word_on_the_quota_counts_and_never_raises_the_rate() -> None:
    night = Night(lambda _account, now: (0.05, left(10, 60) if now < 1 else left(100_000, 60)), 300, limit=100)
    assert night.run() is Ended.COMPLETE
    assert night.engine.most_in_a_second() <= 100
    assert night.clock.now < 20


def test_a_quota_that_is_used_up_is_waited_for_and_told() -> None:
    night = Night(Script({"A-0": [left(0, 40)]}), 3, concurrency=1)
    assert night.run() is Ended.COMPLETE
    assert [round(at) for at, _ in night.engine.starts] == [0, 40, 40]
    assert night.listener.named("throttled")[0]["seconds"] == 40
    assert night.accounts.states() == {State.SUCCEEDED: 3}


def test_headers_of_a_window_of_a_second_change_nothing() -> None:
    night = Night(always(left(1, 1)), 300, limit=100)
    assert night.run() is Ended.COMPLETE
    assert night.clock.now < 4
    assert not night.listener.named("throttled")
