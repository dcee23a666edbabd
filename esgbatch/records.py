"""The checkpoint's five books, held together."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import date, datetime, timedelta

from esgbatch.model import Run, Summary
from esgbatch.ports import History, Ledger, Outcomes, Privacy, Runs


@dataclass(frozen=True, slots=True)
class Records:
    """Everything the checkpoint knows: what a job writes, and all that looking needs."""

    runs: Runs
    outcomes: Outcomes
    ledger: Ledger
    history: History
    privacy: Privacy

    def last_success(self, until: date) -> tuple[date, datetime] | None:
        """The newest business date up to `until` with a delivered file, and when that was; 60 days back."""
        for day in reversed(self.history.dates(until - timedelta(days=60), until)):
            run = self.runs.find(day)
            delivered = [each.delivered for each in self.ledger.revisions(run) if each.delivered] if run else []
            if delivered:
                return day, max(delivered)
        return None

    def summary(self, run: Run) -> Summary:
        """What the report tells of a run."""
        return Summary(run, self.outcomes.tally(run), self.ledger.revisions(run), self.history.executions(run))
