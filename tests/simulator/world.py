"""Time, signals and sudden death in a simulated night."""

from __future__ import annotations

import heapq
import itertools
import signal
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial

from esgbatch.errors import CheckpointError
from esgbatch.stopping import StopSignal
from tests.simulated import SimulatedClock
from tests.simulator.plan import Strike


class Killed(BaseException):
    """kill -9: nothing that catches it on its way out can change the world any more."""


@dataclass(order=True)
class Bell:
    at: float
    order: int
    ring: Callable[[], None] | None = field(compare=False)


class NightClock(SimulatedClock):
    """A clock with bells: what rings interrupts whoever waits, as a signal does.

    `set_back` is when the wall clock is set back, and by how much; the monotonic clock
    does not notice.
    """

    def __init__(self, epoch: float, set_back: tuple[float, float] | None) -> None:
        super().__init__(epoch)
        self._set_back = set_back
        self._bells: list[Bell] = []
        self._order = itertools.count()

    def time(self) -> float:
        at, by = self._set_back or (0.0, 0.0)
        return super().time() - (by if self.now >= at else 0.0)

    def ring_at(self, at: float, ring: Callable[[], None]) -> Bell:
        bell = Bell(at, next(self._order), ring)
        heapq.heappush(self._bells, bell)
        return bell

    def silence(self) -> None:
        """Forget every bell: its process is gone."""
        self._bells.clear()

    def advance(self, until: float) -> bool:
        """Let time pass; False if a bell rang before `until`, and it is not later than then."""
        while self._bells and self._bells[0].at <= until:
            bell = heapq.heappop(self._bells)
            if bell.ring is not None:
                self.now = max(self.now, bell.at)
                bell.ring()
                return False
        self.now = max(self.now, until)
        return True

    def sleep(self, seconds: float) -> None:
        """Sleep on after a signal whose handler returned (PEP 475)."""
        until = self.now + max(0.0, seconds)
        while not self.advance(until):
            pass


class SimulatedStop(StopSignal):
    """Signals and the deadline's alarm, from the simulated clock."""

    def __init__(self, clock: NightClock) -> None:
        super().__init__()
        self._clock = clock
        self.listening = False

    @contextmanager
    def installed(self, seconds: float | None = None) -> Iterator[None]:
        alarm = None
        if seconds is not None:
            at = self._clock.now + max(seconds, 0.001)
            alarm = self._clock.ring_at(at, lambda: self._handle(signal.SIGALRM, None))
        self.listening = True
        try:
            yield
        finally:
            self.listening = False
            if alarm is not None:
                alarm.ring = None

    def signalled(self, signum: int) -> None:
        self._handle(signum, None)


class Process:
    """One execution of a command: it comes to places, where it can be struck.

    After its death every place that it comes to while it unwinds turns it away, so that
    nothing it still tries has any effect; `on_death` freezes what has none of these places.
    """

    def __init__(self, clock: NightClock, strikes: Sequence[Strike], on_death: Callable[[], None]) -> None:
        self.clock = clock
        self.stop = SimulatedStop(clock)
        self.dead = False
        self.struck: list[str] = []
        self._strikes = [strike for strike in strikes if strike.after is None]
        self._seen: Counter[str] = Counter()
        self._on_death = on_death
        for strike in strikes:
            if strike.after is not None:
                clock.ring_at(clock.now + strike.after, partial(self._hit, strike))

    def comes_to(self, place: str) -> None:
        if self.dead:
            raise Killed
        self._seen[place] += 1
        self._seen["any"] += 1
        for strike in self._strikes:
            if strike.place in (place, "any") and self._seen[strike.place] == strike.count:
                self._hit(strike)

    def _hit(self, strike: Strike) -> None:
        self.struck.append(f"{strike.blow} at {strike.place} {strike.count}")
        if strike.blow == "kill":
            self._die()
        elif strike.blow in ("database", "lost commit"):
            raise CheckpointError("The checkpoint database failed: disk I/O error.")
        else:
            if strike.blow == "SIGTERM twice":
                self.clock.ring_at(self.clock.now + 0.3, lambda: self._signal(signal.SIGTERM))
            self._signal(signal.SIGINT if strike.blow == "SIGINT" else signal.SIGTERM)

    def _signal(self, number: int) -> None:
        if self.stop.listening:
            self.stop.signalled(number)
        else:
            self._die()  # nobody has installed a handler: the system's default

    def _die(self) -> None:
        self.dead = True
        self._on_death()
        raise Killed
