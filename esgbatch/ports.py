"""What the job needs from outside, as small interfaces.

Each has one contract suite in `tests/contract` that every implementation passes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from datetime import date, datetime
from pathlib import Path
from typing import Any, Protocol

from esgbatch.model import (
    Answer,
    Approval,
    Execution,
    Failure,
    Held,
    Listing,
    Outcome,
    Package,
    Page,
    Receipt,
    Revision,
    Run,
    Sample,
    SealedFile,
    Snapshot,
    Stage,
    State,
    Step,
    Tally,
    Work,
)


class Clock(Protocol):
    """Time, injected, so that a night can be simulated."""

    def time(self) -> float:
        """Seconds since the epoch: for people and for the deadline."""

    def monotonic(self) -> float:
        """Seconds from an arbitrary start, never going back: for every wait."""

    def sleep(self, seconds: float) -> None:
        """Wait; only outside the dispatcher, which waits in its engine."""


class AccountSource(Protocol):
    """The firm's account system."""

    def accounts(self) -> Iterator[Listing]:
        """Every row in the system's order, streamed.

        Raises:
            AccountSystemError: it cannot be reached, refuses us, or does not give
                what the configuration says it gives.
        """


class RatingProvider(Protocol):
    """The firm's ESG API. Used from many threads at once."""

    def rate(self, account_id: str) -> Answer:
        """Make exactly one attempt; whatever happens is an answer, nothing is raised."""

    def abort(self) -> None:
        """End every attempt under way at once, from another thread; each becomes `TRANSIENT`."""


class Attempts(Protocol):
    """Attempts at the firm's ESG API, many at once, in the thread that calls `turn`."""

    def start(self, work: Work) -> None:
        """Begin one, in the next turn; from any thread."""

    def wake(self) -> None:
        """Let a turn that waits end; from any thread."""

    def turn(self, timeout: float) -> Sequence[tuple[Work, Answer]]:
        """Wait at most `timeout` seconds for something to happen, see to it, return what has ended."""

    def abort(self) -> None:
        """As `wake`, and let nothing begin any more."""

    def close(self) -> None:
        """End every attempt under way, without an answer."""


class Engine(Protocol):
    """Runs attempts beside the dispatcher's thread."""

    def submit(self, work: Work) -> None:
        """Start one attempt."""

    def collect(self, timeout: float) -> Sequence[tuple[Work, Answer]]:
        """Wait at most `timeout` seconds for the first answer, then take all there are."""

    def wake(self) -> None:
        """Let a waiting `collect` return early; safe in a signal handler."""

    def close(self, grace: float) -> Sequence[tuple[Work, Answer]]:
        """Abort what is under way, wait at most `grace` seconds, return the last answers."""


class Encryptor(Protocol):
    """Turns a stream of plaintext into one sealed file."""

    def seal(self, chunks: Iterable[bytes], *, rows: Callable[[], int], name: str, target: Path) -> SealedFile:
        """Encrypt the whole stream to `target`, which appears only when it is complete and on disk.

        `rows` is asked for the number of rows after the stream has ended. `name` is
        written into the literal packet (RFC 9580, 5.9).

        Raises:
            EncryptionError: nothing is at `target` then, and no part file is left.
        """


class Courier(Protocol):
    """Brings a package to the drop folder."""

    def deliver(self, package: Package, *, done: Sequence[Step], note: Callable[[Step, str], None]) -> Receipt:
        """Deliver once, however often this is called.

        `done` are the steps an earlier, interrupted call has noted for this package;
        `note(step, detail)` is called, and returns, before the next step begins.

        Raises:
            DeliveryError: the drop folder holds the old file or none, never a part of this one.
        """


class Runs(Protocol):
    """Runs, in the checkpoint: one a business date."""

    def find(self, business_date: date) -> Run | None: ...

    def create(self, business_date: date, columns: Sequence[str], limit: int | None) -> Run: ...

    def enrol(self, run: Run, listings: Iterable[Listing]) -> Run:
        """Freeze the account list in one transaction, and enter the rating stage.

        Raises:
            AccountSystemError: the source failed, or no active account is left.
        """

    def reopen(self, run: Run, account_ids: Sequence[str] | None) -> Run:
        """Begin the next revision by rating the named accounts again, or all failed ones."""

    def advance(self, run: Run, stage: Stage) -> Run: ...

    def approve(self, run: Run, approval: Approval) -> Run: ...


class Outcomes(Protocol):
    """The accounts of a run, in the checkpoint."""

    def pending(self, run: Run, state: State, after: int, limit: int) -> Sequence[Work]:
        """The next accounts in `state` behind position `after`, in order."""

    def record(self, run: Run, outcomes: Sequence[Outcome]) -> None:
        """Commit a batch; when this returns it is on disk."""

    def close_open(self, run: Run) -> None:
        """No time is left: what has no outcome fails."""

    def tally(self, run: Run) -> Tally: ...

    def page(self, run: Run, number: int) -> Page | None:
        """A page of the file; None while an account of it has no outcome."""

    def scored(self, run: Run) -> Iterator[tuple[str, tuple[str, ...]]]:
        """ID and scores of each account that has them, in order, streamed."""

    def failures(self, run: Run) -> Iterator[Failure]:
        """The failed accounts, in order, streamed."""

    def held(self, run: Run, account_id: str) -> Held | None:
        """All that is kept of one account; None where it is not in the run."""


class Ledger(Protocol):
    """Sealed files and their deliveries, in the checkpoint."""

    def sealed(self, run: Run, revision: Revision) -> None:
        """Register a whole file and enter the delivery stage."""

    def revisions(self, run: Run) -> tuple[Revision, ...]: ...

    def last_delivered_before(self, run: Run) -> Revision | None: ...

    def steps(self, run: Run) -> Sequence[Step]:
        """What an interrupted delivery of the present revision has noted."""

    def note(self, run: Run, step: Step, detail: str) -> None: ...

    def delivered(self, run: Run, receipt: Receipt) -> None:
        """Record the delivery and enter the last stage."""


class History(Protocol):
    """Who worked on a run and how it went."""

    def begin(self, run: Run, command: str) -> int: ...

    def end(self, execution: int, exit_code: int, error: str | None) -> None: ...

    def measured(
        self,
        execution: int,
        stages: Mapping[str, float],
        *,
        attempts: int,
        latency_p50: float | None,
        latency_p95: float | None,
    ) -> None: ...

    def executions(self, run: Run) -> tuple[Execution, ...]: ...

    def show(self, run: Run, snapshot: Snapshot, sample: Sample | None = None) -> None:
        """Let `status` in another shell see this; a sample is also kept, for the report."""

    def samples(self, run: Run) -> Sequence[Sample]:
        """How the run went, oldest first; a few hundred at most."""

    def snapshot(self, run: Run) -> Snapshot | None: ...

    def dates(self, since: date, until: date) -> Sequence[date]: ...


class Privacy(Protocol):
    """Names and scores that are not to be kept any longer, in the checkpoint."""

    def rated(self) -> Sequence[date]:
        """The business dates whose names and scores are still here."""

    def purge(self, run: Run, *, history: bool) -> None:
        """Remove the run's names, scores and accounts, and keep its counts; with `history`, everything."""

    def holding(self, account_ids: Sequence[str]) -> Mapping[date, Sequence[str]]:
        """The business dates whose runs have any of these accounts, and which of them."""

    def erase(self, run: Run, subjects: Mapping[str, str]) -> int:
        """Remove these accounts from the run, keyed hashes in place of their IDs; returns how many."""

    def remember(self, subjects: Sequence[str]) -> None:
        """Note whom `erase` has removed, and leave no byte of them on disk."""

    def erasures(self) -> Mapping[str, datetime]:
        """Who was ever erased, by keyed hash, and when first."""

    def nameless(self, run: Run) -> int:
        """How many accounts of the delivered file were erased since it was made."""


class Audit(Protocol):
    """The trail that an auditor checks a year later."""

    def append(
        self,
        action: str,
        *,
        once: bool = False,
        business_date: date | None = None,
        run_id: str | None = None,
        **details: object,
    ) -> object:
        """Write a record, synced; the answer's text, `N:HASH`, anchors the trail up to it.

        With `once`, what the trail tells already (same action, run and details) is not told again.
        """

    @property
    def identity(self) -> str:
        """Tells this trail from others."""

    def head(self) -> object | None:
        """The last record's anchor; None while the trail is empty."""

    def pseudonym(self, person: str) -> str:
        """What stands in the trail for an account: a keyed hash of its ID."""

    def last(self, action: str) -> Mapping[str, Any] | None:
        """The details of the last record of this action; None where there is none."""


class Listener(Protocol):
    """Whoever wants to know how the run goes: logs, progress bar, metrics. Must not raise."""

    def event(self, name: str, /, **fields: object) -> None:
        """Something happened; names and fields are listed in docs/logging.md."""

    def progress(self, snapshot: Snapshot) -> None:
        """Once a second or so while accounts are rated."""
