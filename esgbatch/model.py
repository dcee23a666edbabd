"""The words the program is written in. Values only: no input, no output, no clock.

What is made for every account is not frozen, which costs more than all the rest of it. Nor is what
holds a name a tuple: those are written out where a value of an unknown kind shows its kind only.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import date, datetime
from decimal import Decimal
from enum import StrEnum
from pathlib import Path
from typing import NamedTuple, TypeVar

E = TypeVar("E", bound=StrEnum)

# --- what the account system says -------------------------------------------------------------


@dataclass(slots=True)
class Listing:
    """One row as the account system gave it; `account_id` is None where it has no usable one."""

    account_id: str | None
    name: str
    active: bool


@dataclass(frozen=True, slots=True)
class Census:
    """What became of every row listed. `listed == rows + inactive + duplicate + refused + erased`, always."""

    listed: int = 0
    inactive: int = 0
    duplicate: int = 0
    refused: int = 0
    erased: int = 0

    @property
    def excluded(self) -> int:
        return self.inactive + self.duplicate + self.refused + self.erased

    @property
    def excluded_by(self) -> dict[str, int]:
        """By reason; `erased` only where somebody was, since no other file has it."""
        counts = {"inactive": self.inactive, "duplicate": self.duplicate, "refused": self.refused}
        return counts | ({"erased": self.erased} if self.erased else {})

    @property
    def rows(self) -> int:
        return self.listed - self.excluded

    @property
    def positions(self) -> int:
        """How many places in the file were given away, those of duplicates and erased accounts included."""
        return self.rows + self.duplicate + self.erased

    @property
    def pages(self) -> range:
        """The pages that these places are on."""
        return range(page_of(self.positions - 1) + 1)


# --- what the ESG API says --------------------------------------------------------------------


class Reason(StrEnum):
    """Why an account has no rating. The names stand in the manifest and the error file."""

    BAD_RATING = "bad_rating"
    FORBIDDEN = "forbidden"
    NO_RATING = "no_rating"
    REJECTED = "rejected"
    UNAVAILABLE = "unavailable"
    NOT_ATTEMPTED = "not_attempted"


class Verdict(StrEnum):
    """What one attempt came to: it decides whether and when there is another.

    `UNAUTHORIZED` and `REDIRECTED` ask for another attempt at once, with a new token or
    at the new address; `LOGIN_REFUSED` is the login server's word against the whole job.
    `LOST` is nobody's fault and charged to nobody: the permit ran out before the request
    left, or the worker that made the attempt is gone.
    """

    RATED = "rated"
    FAILED = "failed"
    TRANSIENT = "transient"
    THROTTLED = "throttled"
    UNAUTHORIZED = "unauthorized"
    FORBIDDEN = "forbidden"
    REDIRECTED = "redirected"
    LOGIN_REFUSED = "login_refused"
    LOST = "lost"


@dataclass(frozen=True, slots=True)
class Quota:
    """What the API says is left: so many requests for so many seconds from now."""

    remaining: float
    seconds: float


@dataclass(slots=True)
class Answer:
    """One attempt's result.

    `scores` are rounded to two decimals, in the configured order, only with `RATED`;
    `reason` only with `FAILED` and `FORBIDDEN`. `retry_after` is in seconds from now.
    `started` and `elapsed` are seconds on the monotonic clock and the attempt's length.
    `detail` is for the log: no name, no score, no secret. `quota` is what the answer told of it,
    if it was looked at.
    """

    verdict: Verdict
    scores: tuple[Decimal, ...] = ()
    reason: Reason | None = None
    http_status: int | None = None
    retry_after: float | None = None
    detail: str = ""
    started: float = 0.0
    elapsed: float = 0.0
    quota: Quota | None = None


# --- what the checkpoint keeps ----------------------------------------------------------------


class Work(NamedTuple):
    """An account that still needs an outcome. `position` is its place in the file."""

    position: int
    account_id: str


class State(StrEnum):
    """An account's state in the checkpoint. `DEFERRED` awaits the last pass."""

    PENDING = "pending"
    DEFERRED = "deferred"
    SUCCEEDED = "succeeded"
    FAILED = "failed"


@dataclass(slots=True)
class Outcome:
    """How an account's rating ended, or was put off to the last pass (`DEFERRED`).

    `attempts` counts the charged ones; the times are seconds since the epoch, None
    where nothing was asked.
    """

    position: int
    state: State
    scores: tuple[Decimal, ...] = ()
    reason: Reason | None = None
    http_status: int | None = None
    attempts: int = 0
    first_attempt: float | None = None
    last_attempt: float | None = None


@dataclass(slots=True)
class Row:
    """One account as it goes into the file: `scores` is None for a failed one."""

    account_id: str
    name: str
    scores: tuple[str, ...] | None


PAGE_ROWS = 200


def page_of(position: int) -> int:
    """The number of the page that a position is on."""
    return position // PAGE_ROWS


def positions_on(page: int) -> range:
    return range(page * PAGE_ROWS, (page + 1) * PAGE_ROWS)


@dataclass(frozen=True, slots=True, repr=False)
class Page:
    """The rows at some hundred positions of the file, in order, each with its outcome."""

    rows: Sequence[Row]
    failed_by: Mapping[Reason, int]


@dataclass(frozen=True, slots=True)
class Held:
    """What the checkpoint holds of one account in one run; times are seconds since the epoch."""

    row: Row
    state: State
    reason: Reason | None
    attempts: int
    first_attempt: float | None
    last_attempt: float | None


@dataclass(frozen=True, slots=True)
class Failure:
    """One line of the error file."""

    account_id: str
    reason: Reason
    http_status: int | None
    attempts: int
    first_attempt: float | None
    last_attempt: float | None


@dataclass(frozen=True, slots=True)
class Tally:
    """The accounts of a run, counted by state."""

    pending: int = 0
    deferred: int = 0
    succeeded: int = 0
    failed_by: Mapping[Reason, int] = field(default_factory=dict)

    @property
    def failed(self) -> int:
        return sum(self.failed_by.values())

    @property
    def rows(self) -> int:
        return self.pending + self.deferred + self.succeeded + self.failed

    @property
    def done(self) -> int:
        return self.succeeded + self.failed

    @property
    def failed_percent(self) -> float:
        """Failed accounts in percent of all rows; 0 for an empty run."""
        return 100.0 * self.failed / self.rows if self.rows else 0.0


def by_name(counts: Mapping[E, int]) -> dict[str, int]:
    """Counts as a log line and JSON take them."""
    return {str(key): count for key, count in counts.items()}


class Stage(StrEnum):
    """Where a run stands. Each stage is entered only after the one before was committed."""

    LISTING = "listing"
    RATING = "rating"
    SEALING = "sealing"
    WITHHELD = "withheld"
    DELIVERING = "delivering"
    DELIVERED = "delivered"


@dataclass(frozen=True, slots=True)
class Approval:
    """Who released a withheld file, and why."""

    by: str
    reason: str
    at: datetime


@dataclass(frozen=True, slots=True)
class Run:
    """One business date's run. `number` is its key in the checkpoint.

    `revision` is the file in the making: 1 until a `rerun` asks for the next one.
    `limit` is the number of accounts asked for with `run --limit`, None for all.
    `purged` is when its names and scores were removed; its figures stay.
    """

    number: int
    run_id: str
    business_date: date
    revision: int
    stage: Stage
    census: Census
    columns: tuple[str, ...]
    created: datetime
    limit: int | None = None
    approval: Approval | None = None
    purged: datetime | None = None


# --- the file ---------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Digest:
    """A file's SHA-256, in lower-case hex, and its length in bytes."""

    sha256: str
    size: int


@dataclass(frozen=True, slots=True)
class SealedFile:
    """An encrypted file that is whole: every row went in, gpg said so, and it is on disk."""

    path: Path
    plaintext: Digest
    encrypted: Digest
    recipients: tuple[str, ...]
    rows: int


@dataclass(frozen=True, slots=True)
class Package:
    """What goes into the drop folder: the sealed file and, last, its manifest.

    `token` names this revision of this run; temporary remote names carry it, so that
    what a crash left behind can be told from a stranger's file.
    """

    path: Path
    name: str
    digest: Digest
    manifest_name: str
    manifest: bytes
    token: str


class Step(StrEnum):
    """The delivery ledger. Each step is written down when it is certain, `RENAMING` before it starts."""

    INTENDED = "intended"
    UPLOADED = "uploaded"
    VERIFIED = "verified"
    RENAMING = "renaming"
    RENAMED = "renamed"
    RECORDED = "recorded"


@dataclass(frozen=True, slots=True)
class Receipt:
    """Proof of delivery: where the file lies, and how it was checked there."""

    location: str
    verified_by: str
    attempts: int


# --- what people look at ----------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Snapshot:
    """A running job at one moment, as `status` and the metrics show it.

    Times are seconds since the epoch, rates are a second. `eta` is when the present pace would
    have rated all, `forecast` when the file would be delivered; `at_risk` says that this is
    after the deadline, and that only `fits` accounts would be done in time. `attempts` are this
    process's; `answers` counts them by verdict, and `latency_within` those with a result by the
    seconds (as text, so that JSON keeps them) that they did not exceed.
    """

    at: float
    stage: Stage
    done: int
    total: int
    failed: int = 0
    failed_by: Mapping[str, int] = field(default_factory=dict)
    deferred: int = 0
    rate: float = 0.0
    request_rate: float = 0.0
    rate_limit: float | None = None
    in_flight: int = 0
    concurrency: int = 0
    retries_waiting: int = 0
    attempts: int = 0
    latency_p50: float | None = None
    latency_p95: float | None = None
    latency_sum: float = 0.0
    latency_within: Mapping[str, int] = field(default_factory=dict)
    answers: Mapping[str, int] = field(default_factory=dict)
    held: str = ""
    held_until: float | None = None
    eta: float | None = None
    deadline: float | None = None
    forecast: float | None = None
    rate_needed: float | None = None
    at_risk: bool = False
    fits: int | None = None


@dataclass(frozen=True, slots=True)
class Sample:
    """A running job at one moment, kept for the report of the night: no name, no score.

    `done` and `failed` count the run's accounts; `attempts`, `errors` (attempts that failed
    for a transient reason) and `cpu` (seconds) count from the process's start, so that the
    difference between two samples is exact however many between them were dropped. The
    latencies are those of the answers since the sample before. `at`, `deadline` and
    `forecast` (of the delivery) are seconds since the epoch.
    """

    at: float
    done: int
    failed: int = 0
    attempts: int = 0
    errors: int = 0
    in_flight: int = 0
    concurrency: int = 0
    waiting: int = 0
    latency_p50: float | None = None
    latency_p95: float | None = None
    cpu: float = 0.0
    held: str = ""
    forecast: float | None = None
    deadline: float | None = None


@dataclass(frozen=True, slots=True)
class Histogram:
    """How many scores of a column fall into each of equal steps from `low` to `high`, both included."""

    low: float
    high: float
    counts: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Revision:
    """A sealed file in the history of a run.

    `means` are the score columns', None without any score; `histograms` likewise, empty
    for a file that was sealed before they were kept.
    """

    number: int
    created: datetime
    sealed: SealedFile
    manifest: bytes
    means: tuple[float | None, ...]
    partial: bool
    delivered: datetime | None = None
    location: str | None = None
    histograms: tuple[Histogram, ...] = ()


@dataclass(frozen=True, slots=True)
class Execution:
    """One process's work on a run. `ended` is None while it works, or when it died."""

    command: str
    revision: int
    host: str
    pid: int
    user: str
    started: datetime
    ended: datetime | None
    exit_code: int | None
    error: str | None
    attempts: int
    latency_p50: float | None
    latency_p95: float | None
    stages: Mapping[str, float]


@dataclass(frozen=True, slots=True)
class Summary:
    """A run as the daily report tells it: what there is, and who worked on it, oldest first."""

    run: Run
    tally: Tally
    revisions: tuple[Revision, ...]
    executions: tuple[Execution, ...]

    @property
    def delivered(self) -> Revision | None:
        """The revision in the making, once it has reached the drop folder."""
        last = self.revisions[-1] if self.revisions else None
        return last if last and last.number == self.run.revision and last.delivered else None
