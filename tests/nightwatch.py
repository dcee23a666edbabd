"""A night of the rating stage in simulated time, from five to nine in Chicago."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from datetime import date, time
from decimal import Decimal
from typing import Any, cast
from zoneinfo import ZoneInfo

from esgbatch.deadline import Deadline, moment
from esgbatch.fetching.concurrency import AutoConcurrency, FixedConcurrency
from esgbatch.fetching.dispatcher import Dispatcher
from esgbatch.fetching.limiter import RateLimiter
from esgbatch.fetching.retry import Backoff
from esgbatch.fetching.stage import Rating
from esgbatch.fetching.ticket import Ended
from esgbatch.model import (
    Answer,
    Failure,
    Outcome,
    Reason,
    Run,
    Sample,
    Snapshot,
    State,
    Tally,
    Verdict,
    Work,
)
from esgbatch.ports import Listener
from esgbatch.records import Records
from tests.simulated import Api, RecordingListener, SimulatedClock, SimulatedEngine
from tests.summaries import RUN

CHICAGO = ZoneInfo("America/Chicago")
DAY = date(2026, 11, 24)
SPRING, AUTUMN = date(2026, 3, 8), date(2026, 11, 1)
FOUR_HOURS = 4 * 3600.0
RATED = Answer(Verdict.RATED, scores=(Decimal(1),), http_status=200)
DOWN = Answer(Verdict.TRANSIENT, http_status=503, detail="HTTP 503")


class Outcomes:
    """Implements what the rating stage needs of `ports.Outcomes`, in memory."""

    def __init__(self, accounts: int) -> None:
        self.states = [State.PENDING] * accounts

    def pending(self, run: Run, state: State, after: int, limit: int) -> Sequence[Work]:
        found = (n for n in range(after + 1, len(self.states)) if self.states[n] is state)
        return [Work(n, f"A-{n}") for n, _ in zip(found, range(limit), strict=False)]

    def record(self, run: Run, outcomes: Sequence[Outcome]) -> None:
        for outcome in outcomes:
            self.states[outcome.position] = outcome.state

    def close_open(self, run: Run) -> None:
        pass

    def tally(self, run: Run) -> Tally:
        count = self.states.count
        failed = {Reason.UNAVAILABLE: count(State.FAILED)}
        return Tally(count(State.PENDING), count(State.DEFERRED), count(State.SUCCEEDED), failed)

    def failures(self, run: Run) -> Iterator[Failure]:
        return iter(())


class Board:
    """Implements what the rating stage needs of `ports.History`."""

    def __init__(self) -> None:
        self.shown: list[Snapshot] = []

    def show(self, run: Run, snapshot: Snapshot, sample: Sample | None) -> None:
        self.shown.append(snapshot)


class TurnListener(RecordingListener):
    """Notes when the forecast turned."""

    def __init__(self, clock: SimulatedClock) -> None:
        super().__init__()
        self._clock = clock
        self.others: list[Listener] = []
        self.turns: list[tuple[float, str, dict[str, object]]] = []

    def event(self, name: str, /, **fields: object) -> None:
        super().event(name, **fields)
        for each in self.others:
            each.event(name, **fields)
        if name in ("deadline_at_risk", "deadline_safe"):
            self.turns.append((self._clock.now, name, fields))

    def progress(self, snapshot: Snapshot) -> None:
        super().progress(snapshot)
        for each in self.others:
            each.progress(snapshot)


class Night:
    """From five to nine in Chicago, against an API that is given the seconds since five."""

    def __init__(
        self,
        api: Api,
        accounts: int,
        *,
        limit: float,
        concurrency: int | None = 32,
        day: date = DAY,
        hours: float = 4.0,
    ) -> None:
        nine = moment(day, time(9), CHICAGO).timestamp()
        self.clock = SimulatedClock(nine - hours * 3600)
        self.listener = TurnListener(self.clock)
        self.board = Board()
        self.outcomes = Outcomes(accounts)
        self.engine = SimulatedEngine(self.clock, api)
        nobody = cast("Any", None)
        records = Records(
            runs=nobody,
            outcomes=cast("Any", self.outcomes),
            ledger=nobody,
            history=cast("Any", self.board),
            privacy=nobody,
        )
        self.stage = Rating(
            RUN,
            records,
            self.listener,
            self.clock,
            Deadline(nine, self.clock),
            lambda _page: False,
            partial_at_deadline=False,
            rate_limit=limit,
        )
        self._limit, self._concurrency = limit, concurrency

    def live(self, *, first_turn: bool = False) -> Ended:
        """Go on to the end, or to the first turn of the forecast."""
        most = self._concurrency or 256
        dispatcher = Dispatcher(
            self.engine,
            RateLimiter(self._limit, most),
            AutoConcurrency(most, self._limit) if self._concurrency is None else FixedConcurrency(most),
            Backoff(0.5, 60.0, random.Random(1)),
            self.clock,
            self.listener,
            attempts=5,
            commit_every=500,
            max_hold=float("inf"),
            stopped=lambda: first_turn and bool(self.turns),
            tick=self.stage.tick,
        )
        return self.stage.run(dispatcher)

    @property
    def turns(self) -> list[tuple[float, str, dict[str, object]]]:
        return self.listener.turns

    @property
    def names(self) -> list[str]:
        return [name for _, name, _ in self.turns]
