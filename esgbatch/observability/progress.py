"""How the run goes, for people: a bar on a terminal, plain lines elsewhere."""

from __future__ import annotations

import os
from collections.abc import Sequence
from datetime import datetime
from types import TracebackType
from typing import Protocol, Self, TextIO
from zoneinfo import ZoneInfo

from esgbatch.config.secrets import redact
from esgbatch.model import Snapshot, Stage
from esgbatch.observability.events import EVENTS, describe, level, plain
from esgbatch.observability.logs import LogListener
from esgbatch.ports import Clock, Listener
from esgbatch.untrusted import printable

PLAIN_SECONDS = 30.0


class PeopleListener(Listener, Protocol):
    """A listener that shows something as long as its `with` block runs."""

    def __enter__(self) -> Self: ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, where: TracebackType | None, /
    ) -> None: ...


def people_listener(stream: TextIO, zone: ZoneInfo, clock: Clock) -> PeopleListener:
    """A bar where `stream` is a terminal that can move its cursor, else plain lines. Times are in `zone`."""
    if stream.isatty() and os.environ.get("TERM", "dumb") not in ("dumb", "unknown"):
        from esgbatch.observability.bar import ProgressBar

        return ProgressBar(stream, zone)
    return PlainProgress(stream, zone, clock)


class Broadcast:
    """Tells several listeners; the failure of one reaches neither the others nor the job."""

    def __init__(self, listeners: Sequence[Listener]) -> None:
        self._listeners = listeners
        self._told: set[int] = set()

    def event(self, name: str, /, **fields: object) -> None:
        for listener in self._listeners:
            try:
                listener.event(name, **fields)
            except Exception as error:  # noqa: BLE001 whatever it is, the job goes on
                self._tell(listener, error)

    def progress(self, snapshot: Snapshot) -> None:
        for listener in self._listeners:
            try:
                listener.progress(snapshot)
            except Exception as error:  # noqa: BLE001 whatever it is, the job goes on
                self._tell(listener, error)

    def _tell(self, listener: Listener, error: Exception) -> None:
        if id(listener) in self._told:
            return
        self._told.add(id(listener))
        try:
            LogListener().event("listener_failed", listener=type(listener).__name__, error=error)
        except Exception:  # noqa: BLE001 it may be the log that fails
            return


class View:
    """What there is to show: the stage, and its last snapshot or event."""

    def __init__(self, zone: ZoneInfo) -> None:
        self._zone = zone
        self.stage: Stage | None = None
        self.snapshot: Snapshot | None = None
        self._note = ""

    def event(self, name: str, fields: dict[str, object]) -> bool:
        """Take in an event; True when it began another stage. A detail outside the stages is for the log."""
        stage = EVENTS[name].stage if name in EVENTS else None
        if stage is None and level(name) == "DEBUG":
            return False
        changed = stage is not None and stage is not self.stage
        if changed:
            self.stage, self.snapshot = stage, None
        safe = {key: plain(value) for key, value in fields.items()}
        self._note = printable(redact(describe(name, safe)))
        return changed

    def progress(self, snapshot: Snapshot) -> bool:
        """Take in a snapshot; True when it is the first of another stage."""
        changed = snapshot.stage is not self.stage
        self.stage, self.snapshot = snapshot.stage, snapshot
        return changed

    @property
    def count(self) -> str:
        assert self.snapshot is not None
        done, total = self.snapshot.done, self.snapshot.total
        return f"{done:,}/{total:,} ({100 * done // total if total else 100}%)"

    @property
    def facts(self) -> str:
        """The rest, the most important first, where a narrow terminal cuts the end."""
        now = self.snapshot
        if now is None:
            return self._note
        facts = [
            f"ETA {self._clock_time(now.eta, now.at)}",
            f"{now.rate:,.1f}/s",
            f"{now.failed:,} failed",
            f"{now.in_flight} in flight",
        ]
        if now.held:
            until = f" until {self._clock_time(now.held_until, now.at)}" if now.held_until is not None else ""
            facts.insert(0, printable(redact(now.held)) + until)
        return ", ".join(facts)

    def _clock_time(self, at: float | None, now: float) -> str:
        """HH:MM in the job's zone, with the weekday where it is another day than now."""
        if at is None:
            return "unknown"
        try:
            moment = datetime.fromtimestamp(at, self._zone)
        except (OverflowError, ValueError, OSError):
            return "unknown"
        same_day = moment.date() == datetime.fromtimestamp(now, self._zone).date()
        return f"{moment:%H:%M %Z}" if same_day else f"{moment:%a %H:%M %Z}"


class PlainProgress:
    """A line at each change of the stage, and one at least every 30 seconds as long as anything comes in."""

    def __init__(self, stream: TextIO, zone: ZoneInfo, clock: Clock) -> None:
        self._view = View(zone)
        self._zone = zone
        self._stream = stream
        self._clock = clock
        self._next = 0.0

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, where: TracebackType | None, /
    ) -> None:
        self._stream.flush()

    def event(self, name: str, /, **fields: object) -> None:
        changed = self._view.event(name, fields)
        if changed or (self._view.snapshot is None and self._view.facts):
            self._line(at_once=changed)

    def progress(self, snapshot: Snapshot) -> None:
        self._line(at_once=self._view.progress(snapshot))

    def _line(self, *, at_once: bool) -> None:
        if not at_once and self._clock.monotonic() < self._next:
            return
        self._next = self._clock.monotonic() + PLAIN_SECONDS
        view = self._view
        time = datetime.fromtimestamp(self._clock.time(), self._zone)
        count = f"{view.count}, " if view.snapshot is not None else ""
        stage = f"{view.stage}: " if view.stage else ""
        self._stream.write(f"{time:%H:%M:%S %Z} {stage}{count}{view.facts}\n")
        self._stream.flush()
