"""The run's events, through the rules, to the desk."""

from __future__ import annotations

from esgbatch.alerting.desk import Desk
from esgbatch.alerting.rules import Rules
from esgbatch.model import Snapshot
from esgbatch.ports import Clock


class AlertListener:
    """Implements `ports.Listener`."""

    def __init__(self, rules: Rules, desk: Desk, clock: Clock) -> None:
        self._rules = rules
        self._desk = desk
        self._clock = clock
        self._told: BaseException | None = None

    def event(self, name: str, /, **fields: object) -> None:
        error = fields.get("error")
        if name == "run_failed" and isinstance(error, BaseException):
            self._told = error
        for change in self._rules.event(name, fields, self._clock.time()):
            self._desk.change(change)

    def progress(self, snapshot: Snapshot) -> None:
        for change in self._rules.progress(snapshot):
            self._desk.change(change)

    def ended(self, error: BaseException) -> None:
        """The command ends with `error`, whether or not a run had begun that told of it."""
        if self._told is None:
            self._told = error
            for change in self._rules.ended(error, self._clock.time()):
                self._desk.change(change)
