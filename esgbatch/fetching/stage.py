"""The rating stage: the dispatcher's passes over what the checkpoint says is left."""

from __future__ import annotations

import itertools
import math
from collections import Counter, deque
from collections.abc import Callable, Sequence
from datetime import UTC, datetime

from esgbatch.deadline import Deadline, reserve
from esgbatch.fetching.dispatcher import Dispatcher
from esgbatch.fetching.forecast import Forecast, Forecaster
from esgbatch.fetching.pages import Pages
from esgbatch.fetching.sampling import Sampler
from esgbatch.fetching.ticket import Ended, Pace
from esgbatch.model import Outcome, Reason, Run, Snapshot, Stage, State, Tally, Work, by_name
from esgbatch.ports import Clock, Listener, Outcomes
from esgbatch.records import Records

RATE_WINDOW = 10.0
SHOW_SECONDS = 1.0
GOLDEN = (5**0.5 - 1) / 2  # its multiples spread evenly over a list, however many are taken
# Failures that only a working API finds.
ANSWERED = (Reason.NO_RATING, Reason.BAD_RATING, Reason.REJECTED)


class Rating:
    """Rates every account of a run that has no outcome yet.

    `draft` is told of each page of the file that is final, and says whether there was anything to do.
    With `partial_at_deadline` the main pass ends early enough to seal and deliver what there is.
    `rate_limit` is the most accounts a second that the forecast reckons with. `tally` is how the
    accounts stand, once it has run.
    """

    def __init__(
        self,
        run: Run,
        records: Records,
        listener: Listener,
        clock: Clock,
        deadline: Deadline,
        draft: Callable[[int], bool],
        *,
        partial_at_deadline: bool,
        rate_limit: float,
    ) -> None:
        self._run = run
        self._outcomes = records.outcomes
        self._history = records.history
        self._listener = listener
        self._clock = clock
        self._deadline = deadline
        self._draft = draft
        self.tally = self._start = records.outcomes.tally(run)
        self._reserve = reserve(self._start.rows, deadline.remaining()) if deadline.binds else 0.0
        self._partial = partial_at_deadline
        self._forecaster = Forecaster(
            limit=rate_limit,
            span=deadline.remaining(),
            reserve=self._reserve if deadline.binds else reserve(self._start.rows, math.inf),
        )
        self._limit = rate_limit
        self._last_pass = False
        self._recent: deque[tuple[float, int, int]] = deque()
        self._show_at = clock.monotonic()
        self._sampler = Sampler(clock.monotonic())

    def run(self, dispatcher: Dispatcher) -> Ended:
        """The main pass, then the last one for those that failed for a transient reason.

        Running out of time in the last pass is no failure: its accounts have had their
        attempts, and the file is made without them.
        """
        began = self._clock.monotonic()
        self._listener.event("rating_started", pending=self._start.pending, deferred=self._start.deferred)
        try:
            ended = self._passes(dispatcher)
        finally:
            pace, now = dispatcher.pace, self._clock.monotonic()
            self._listener.progress(self._snapshot(pace, now, self._project(pace, now)))
        tally = self.tally = self._counted(pace)
        self._listener.event(
            "rating_finished",
            succeeded=tally.succeeded,
            failed=tally.failed,
            failed_by=by_name(tally.failed_by),
            pending=tally.pending + tally.deferred,
            attempts=dispatcher.pace.attempts,
            seconds=self._clock.monotonic() - began,
        )
        return ended

    def _passes(self, dispatcher: Dispatcher) -> Ended:
        spare = self._reserve if self._partial else 0.0
        ended = dispatcher.run(
            self._backlog(State.PENDING),
            final=False,
            remaining=lambda: self._deadline.remaining() - spare,
        )
        if ended is Ended.COMPLETE:
            deferred = self._start.deferred + dispatcher.pace.deferred
            self._last_pass = True
            if deferred:
                self._listener.event("last_pass_started", accounts=deferred)
                last = dispatcher.run(
                    self._backlog(State.DEFERRED),
                    final=True,
                    remaining=lambda: self._deadline.remaining() - self._reserve,
                )
                ended = Ended.STOPPED if last is Ended.STOPPED else Ended.COMPLETE
        finished = ended is Ended.COMPLETE or (ended is Ended.OUT_OF_TIME and self._partial)
        if finished and not self._all_done(dispatcher.pace):
            self._outcomes.close_open(self._run)
        return ended

    def _all_done(self, pace: Pace) -> bool:
        return pace.succeeded + pace.failed == self._start.pending + self._start.deferred

    def _counted(self, pace: Pace) -> Tally:
        """As counted on the way: to count all of them in the checkpoint takes longer than to seal the file."""
        if not self._all_done(pace):
            return self._outcomes.tally(self._run)
        return Tally(
            succeeded=self._start.succeeded + pace.succeeded,
            failed_by=Counter(self._start.failed_by) + pace.failed_by,
        )

    def _backlog(self, state: State) -> _Backlog:
        pages = Pages(len(self._run.census.pages), self._draft)
        return _Backlog(self._run, self._outcomes, state, pages)

    def tick(self, pace: Pace) -> None:
        """Show how it goes, once a second: to the listener, and to `status` in another shell."""
        now = self._clock.monotonic()
        if now < self._show_at:
            return
        self._show_at = now + SHOW_SECONDS
        snapshot = self._snapshot(pace, now, self._forecast(pace, now))
        self._listener.progress(snapshot)
        self._history.show(self._run, snapshot, self._sampler.take(now, pace, snapshot))

    def _forecast(self, pace: Pace, now: float) -> Forecast:
        """What is in store; its turns are events. The last pass ends in time whatever comes."""
        forecast = self._project(pace, now)
        if self._deadline.binds and not self._last_pass and self._forecaster.turned(now, forecast):
            self._tell(pace, forecast)
        return forecast

    def _project(self, pace: Pace, now: float) -> Forecast:
        through = pace.succeeded + pace.failed + pace.deferred
        hold = max(0.0, pace.held_until - now)
        self._forecaster.observe(now, through, held=_held(pace, now))
        left = self._start.pending - through
        if self._last_pass:
            left = self._deferred(pace)
        return self._forecaster.project(max(0, left), self._deadline.remaining(), hold)

    def _deferred(self, pace: Pace) -> int:
        """How many still await the last pass, which begins when all that were pending are through."""
        through = pace.succeeded + pace.failed + pace.deferred
        return self._start.deferred + pace.deferred - max(0, through - self._start.pending)

    def _tell(self, pace: Pace, forecast: Forecast) -> None:
        assert self._deadline.at is not None
        self._listener.event(
            "deadline_at_risk" if self._forecaster.at_risk else "deadline_safe",
            ends=datetime.fromtimestamp(self._clock.time() + forecast.ends_in, UTC),
            late=forecast.late,
            fits=self._done(pace) + forecast.fits,
            fits_by=datetime.fromtimestamp(self._deadline.at - self._reserve, UTC),
            done=self._done(pace),
            total=self._start.rows,
            rate=forecast.rate,
            rate_needed=forecast.needed,
            deadline=datetime.fromtimestamp(self._deadline.at, UTC),
            partial=self._partial,
        )

    def _done(self, pace: Pace) -> int:
        return self._start.done + pace.succeeded + pace.failed

    def _snapshot(self, pace: Pace, now: float, forecast: Forecast) -> Snapshot:
        wall = self._clock.time()
        done = self._done(pace)
        self._recent.append((now, done, pace.attempts))
        while self._recent[0][0] < now - RATE_WINDOW:
            self._recent.popleft()
        since, done_before, attempts_before = self._recent[0]
        seconds = now - since
        rate = (done - done_before) / seconds if seconds > 0 else 0.0
        left = self._start.rows - done
        return Snapshot(
            at=wall,
            stage=Stage.RATING,
            done=done,
            total=self._start.rows,
            failed=self._start.failed + pace.failed,
            failed_by=by_name(pace.failed_by + Counter(self._start.failed_by)),
            deferred=self._deferred(pace),
            rate=rate,
            request_rate=(pace.attempts - attempts_before) / seconds if seconds > 0 else 0.0,
            rate_limit=self._limit,
            in_flight=pace.in_flight,
            concurrency=pace.concurrency,
            retries_waiting=pace.waiting,
            attempts=pace.attempts,
            latency_p50=pace.latency.percentile(0.5),
            latency_p95=pace.latency.percentile(0.95),
            latency_sum=pace.latency.sum,
            latency_within=pace.latency.within(),
            answers=by_name(pace.answers),
            held=pace.held if _held(pace, now) else "",
            held_until=wall + pace.held_until - now if now < pace.held_until else None,
            eta=wall + left / rate if rate > 0 else None,
            deadline=self._deadline.at,
            forecast=wall + forecast.ends_in,
            rate_needed=forecast.needed,
            at_risk=self._forecaster.at_risk,
            fits=done + forecast.fits if self._deadline.binds else None,
        )


def _held(pace: Pace, now: float) -> bool:
    """Whether everybody waits: until an instant, or for a probe of the API."""
    return now < pace.held_until or pace.held == "outage"


class _Backlog:
    """The run's accounts in one state, page by page."""

    def __init__(self, run: Run, outcomes: Outcomes, state: State, pages: Pages) -> None:
        self._run = run
        self._outcomes = outcomes
        self._state = state
        self._pages = pages
        self._after = -1
        self._asked = 0

    def next(self, limit: int) -> Sequence[Work]:
        page = self._outcomes.pending(self._run, self._state, self._after, limit)
        if page:
            self._after = page[-1].position
        self._pages.taken(page)
        return page

    def known_good(self) -> str | None:
        rated = (account_id for account_id, _ in self._outcomes.scored(self._run))
        answered = (each.account_id for each in self._outcomes.failures(self._run) if each.reason in ANSWERED)
        return next(itertools.chain(rated, answered), None)

    def anyone(self) -> str | None:
        self._asked += 1
        place = int(self._asked * GOLDEN % 1 * self._run.census.rows)
        for after in (place, -1):
            for work in self._outcomes.pending(self._run, self._state, after, 1):
                return work.account_id
        return None

    def record(self, outcomes: Sequence[Outcome]) -> None:
        self._outcomes.record(self._run, outcomes)
        self._pages.concluded(outcomes)

    def tend(self) -> None:
        """Go on with the file."""
        self._pages.tell()
