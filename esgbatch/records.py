"""The checkpoint's four books, held together."""

from __future__ import annotations

from dataclasses import dataclass

from esgbatch.model import Run, Summary
from esgbatch.ports import History, Ledger, Outcomes, Runs


@dataclass(frozen=True, slots=True)
class Records:
    """Everything the checkpoint knows: what a job writes, and all that looking needs."""

    runs: Runs
    outcomes: Outcomes
    ledger: Ledger
    history: History

    def summary(self, run: Run) -> Summary:
        """What the report tells of a run."""
        return Summary(run, self.outcomes.tally(run), self.ledger.revisions(run), self.history.executions(run))
