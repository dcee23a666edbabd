"""What the dispatcher keeps in its hands: the account under way, the pace, and its neighbours."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Protocol

from esgbatch.fetching.latency import LatencyHistogram
from esgbatch.model import Outcome, Reason, State, Verdict, Work


class Ended(StrEnum):
    """Why a pass over the accounts ended."""

    COMPLETE = "complete"
    STOPPED = "stopped"
    OUT_OF_TIME = "out of time"


class Concurrency(Protocol):
    value: int

    def observe(self, latency: float) -> None: ...

    def starved(self) -> None: ...

    def adjust(self, now: float) -> bool: ...


class Backlog(Protocol):
    """What is left to do, and where outcomes go: the checkpoint, seen from the dispatcher."""

    def next(self, limit: int) -> Sequence[Work]:
        """The next accounts in order; empty when there are no more."""

    def known_good(self) -> str | None:
        """An account of the run that the API has answered for, by now or in an earlier life."""

    def anyone(self) -> str | None:
        """An account that is still to be rated, from anywhere in the list, each time from elsewhere."""

    def record(self, outcomes: Sequence[Outcome]) -> None:
        """Commit; when this returns, they are not lost any more."""

    def tend(self) -> None:
        """Do a little of what need not be done at once; called in every turn without a commit."""


@dataclass(slots=True)
class Ticket:
    """An account under way. `started` is its last attempt's, monotonic; other times are since the epoch."""

    work: Work
    attempts: int = 0
    started: float = 0.0
    first_attempt: float | None = None
    last_attempt: float | None = None
    http_status: int | None = None
    renewed: bool = False


@dataclass(slots=True)
class Pace:
    """How the loop stands, for whoever shows it. `held_until` is monotonic; `answers` are the attempts'."""

    attempts: int = 0
    answers: Counter[Verdict] = field(default_factory=Counter)
    succeeded: int = 0
    failed_by: Counter[Reason] = field(default_factory=Counter)
    deferred: int = 0
    latency: LatencyHistogram = field(default_factory=LatencyHistogram)
    concurrency: int = 0
    held: str = ""
    held_until: float = -math.inf
    in_flight: int = 0
    waiting: int = 0

    @property
    def failed(self) -> int:
        return self.failed_by.total()

    @property
    def errors(self) -> int:
        """Transient ones."""
        return self.answers[Verdict.TRANSIENT]

    def count(self, state: State, reason: Reason | None) -> None:
        if state is State.SUCCEEDED:
            self.succeeded += 1
        elif state is State.DEFERRED:
            self.deferred += 1
        elif reason is not None:
            self.failed_by[reason] += 1
