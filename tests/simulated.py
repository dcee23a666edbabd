"""A clock and an engine that live in simulated time: a night passes in milliseconds."""

from __future__ import annotations

import heapq
import itertools
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

from esgbatch.model import Answer, Snapshot, Work

EPOCH = 1_796_000_000.0

# An API: given the account and the time, how long it takes and what it answers.
Api = Callable[[str, float], tuple[float, Answer]]


class SimulatedClock:
    """Implements `ports.Clock`; time passes only when somebody waits."""

    def __init__(self, epoch: float = EPOCH) -> None:
        self._epoch = epoch
        self.now = 0.0

    def time(self) -> float:
        return self._epoch + self.now

    def monotonic(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.now += max(0.0, seconds)


class SimulatedEngine:
    """Implements `ports.Engine` against an `Api`; `starts` are the attempts' times by account."""

    def __init__(self, clock: SimulatedClock, api: Api) -> None:
        self._clock = clock
        self._api = api
        self._order = itertools.count()
        self._under_way: list[tuple[float, int, Work, Answer]] = []
        self.starts: list[tuple[float, str]] = []
        self.most_in_flight = 0
        self.closed = False

    def submit(self, work: Work) -> None:
        now = self._clock.now
        self.starts.append((now, work.account_id))
        latency, answer = self._api(work.account_id, now)
        answer = replace(answer, started=now, elapsed=latency)
        heapq.heappush(self._under_way, (now + latency, next(self._order), work, answer))
        self.most_in_flight = max(self.most_in_flight, len(self._under_way))

    def collect(self, timeout: float) -> Sequence[tuple[Work, Answer]]:
        until = self._clock.now + timeout
        if self._under_way:
            until = min(until, self._under_way[0][0])
        # A wait of nothing still costs a moment, as on a real machine.
        self._clock.now = max(until, self._clock.now + 1e-6)
        answers = []
        while self._under_way and self._under_way[0][0] <= self._clock.now:
            _, _, work, answer = heapq.heappop(self._under_way)
            answers.append((work, answer))
        return answers

    def wake(self) -> None:
        pass

    def close(self, grace: float) -> Sequence[tuple[Work, Answer]]:
        self.closed = True
        until = self._clock.now + grace
        answers = [(work, answer) for at, _, work, answer in self._under_way if at <= until]
        self._under_way.clear()
        return answers

    def most_in_a_second(self) -> int:
        """The most attempts started in any one-second window."""
        times = [at for at, _ in self.starts]
        most, first = 0, 0
        for last, at in enumerate(times):
            while times[first] <= at - 1.0:
                first += 1
            most = max(most, last - first + 1)
        return most


@dataclass
class SleeplessClock:
    """Real time, but `sleep` only remembers how long, and does `instead`."""

    slept: list[float] = field(default_factory=list)
    instead: Callable[[], None] = lambda: None

    def time(self) -> float:
        return time.time()

    def monotonic(self) -> float:
        return time.monotonic()

    def sleep(self, seconds: float) -> None:
        self.slept.append(seconds)
        self.instead()


class RecordingListener:
    """Implements `ports.Listener`."""

    def __init__(self) -> None:
        self.events: list[tuple[str, dict[str, object]]] = []
        self.snapshots: list[Snapshot] = []

    def event(self, name: str, /, **fields: object) -> None:
        self.events.append((name, fields))

    def progress(self, snapshot: Snapshot) -> None:
        self.snapshots.append(snapshot)

    def named(self, name: str) -> list[dict[str, object]]:
        return [fields for each, fields in self.events if each == name]
