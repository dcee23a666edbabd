"""The run as Prometheus metrics: what they are. `publishing.py` brings them out.

docs/monitoring.md explains each. What is not known (a deadline where none binds) is NaN, and
a family that this process knows nothing of is left out: both ways of publishing keep the
one that was there.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from datetime import date, datetime, time
from zoneinfo import ZoneInfo

from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    Metric,
)
from prometheus_client.registry import Collector

from esgbatch import __version__
from esgbatch.errors import ExitCode
from esgbatch.model import Reason, Snapshot, Stage, Verdict
from esgbatch.observability.events import EVENTS
from esgbatch.ports import Clock

HOLDS = ("outage", "throttled")
EXCLUSIONS = ("inactive", "duplicate", "refused")


@dataclass(frozen=True, slots=True)
class _Known:
    """What is known of the run; replaced as a whole, since another thread reads it."""

    run: Mapping[str, str] | None = None
    started: float = 0.0
    stage: Stage | None = None
    deadline: float | None = None
    pending: int = 0
    deferred: int = 0
    succeeded: int = 0
    failed_by: Mapping[str, int] = field(default_factory=dict)
    excluded: Mapping[str, int] | None = None
    durations: Mapping[str, float] = field(default_factory=dict)
    rating: bool = False
    last: Snapshot | None = None
    exit_code: int | None = None
    exited: float = 0.0
    success: tuple[date, float] | None = None


class RunMetrics(Collector):
    """Implements `ports.Listener`, and what prometheus-client asks for the metrics.

    Listening only remembers, so that it costs the job nothing.
    """

    def __init__(self, *, environment: str, business_date: date, zone: ZoneInfo, clock: Clock) -> None:
        self._environment = environment
        self._date = business_date
        self._zone = zone
        self._clock = clock
        self._known = _Known()

    @property
    def begun(self) -> bool:
        """Whether a command has begun to work on the run."""
        return self._known.run is not None

    def know_success(self, success: tuple[date, datetime] | None) -> None:
        """The newest business date that was delivered before, and when."""
        if success is not None:
            self._note(success=(success[0], success[1].timestamp()))

    def ended(self, code: int) -> None:
        """Note how the process ends; later news do not change it."""
        if self._known.exit_code is None:
            self._note(exit_code=int(code), exited=self._clock.time(), rating=False)

    # --- listening ---

    def event(self, name: str, /, **fields: object) -> None:
        if name in EVENTS and (stage := EVENTS[name].stage):
            self._note(stage=stage)
        if name == "run_started":
            self._begin(fields)
        elif name == "accounts_enrolled":
            self._note(
                pending=_number(fields, "rows"), excluded={each: _number(fields, each) for each in EXCLUSIONS}
            )
        elif name == "rating_started":
            self._note(pending=_number(fields, "pending"), deferred=_number(fields, "deferred"), rating=True)
        elif name == "rating_finished":
            self._note(
                pending=_number(fields, "pending"),
                deferred=0,
                succeeded=_number(fields, "succeeded"),
                failed_by=_numbers(fields, "failed_by"),
                rating=False,
            )
        elif name == "stage_ended":
            part, seconds = fields.get("part"), fields.get("seconds")
            if isinstance(seconds, float):
                self._note(durations={**self._known.durations, str(part): seconds})
        elif name == "delivered":
            self._succeed()
        elif name in ("run_finished", "run_failed"):
            code = fields.get("exit_code")
            self.ended(code if isinstance(code, int) else ExitCode.BUG)

    def progress(self, snapshot: Snapshot) -> None:
        self._note(
            pending=snapshot.total - snapshot.done - snapshot.deferred,
            deferred=snapshot.deferred,
            succeeded=snapshot.done - snapshot.failed,
            failed_by=snapshot.failed_by,
            last=snapshot,
        )

    def _begin(self, fields: Mapping[str, object]) -> None:
        stage, deadline = fields.get("stage"), fields.get("deadline")
        self._note(
            run={key: str(fields.get(key, "")) for key in ("command", "revision", "run_id")},
            started=self._clock.time(),
            stage=stage if isinstance(stage, Stage) else None,
            deadline=deadline if isinstance(deadline, float) else None,
            pending=_number(fields, "pending"),
            deferred=_number(fields, "deferred"),
            succeeded=_number(fields, "succeeded"),
            failed_by=_numbers(fields, "failed_by"),
        )

    def _succeed(self) -> None:
        """A file of an older business date is no news: it would hide that the newest is missing."""
        before = self._known.success
        if before is None or self._date >= before[0]:
            self._note(success=(self._date, self._clock.time()))

    def _note(self, **changes: object) -> None:
        self._known = replace(self._known, **changes)  # type: ignore[arg-type]

    # --- telling ---

    def collect(self) -> Iterator[Metric]:
        known = self._known
        if known.run is not None:
            yield from self._run(known, known.run)
            yield from self._accounts(known)
            yield from self._requests(known)
        if known.success is not None:
            day, at = known.success
            yield self._gauge("last_success_timestamp_seconds", "When a file was last delivered.", at)
            yield self._gauge(
                "last_success_business_date_timestamp_seconds",
                "The newest business date with a delivered file, as its midnight in the job's zone.",
                self._midnight(day),
            )
        if known.exit_code is not None:
            yield self._gauge(
                "last_exit_code", "The exit code of the last command that ended.", known.exit_code
            )
            yield self._gauge("last_exit_timestamp_seconds", "When it ended.", known.exited)

    def _run(self, known: _Known, run: Mapping[str, str]) -> Iterator[Metric]:
        labels = {**run, "business_date": self._date.isoformat(), "version": __version__}
        yield self._family("run_info", "The run that the other metrics are of.", {tuple(labels.items()): 1})
        running = known.exit_code is None
        now = known.last if known.rating else None
        yield self._gauge("run_in_progress", "Whether a command works on the run.", running)
        yield self._each(
            "run_stage", "1 for the stage that the run is in.", "stage", {s: s is known.stage for s in Stage}
        )
        for name, text, at in (
            (
                "business_date",
                "The business date, as its midnight in the job's zone.",
                self._midnight(self._date),
            ),
            ("start", "When the command began to work.", known.started),
            ("updated", "When these metrics were made.", self._clock.time()),
            ("deadline", "When the run must be over; NaN where no deadline binds.", known.deadline),
            (
                "eta",
                "When the rating would be over at the rate of 10 s; NaN where unknown.",
                now.eta if now else None,
            ),
            ("forecast", "When the file would be delivered; NaN where unknown.", now.forecast if now else None),
        ):
            yield self._gauge(f"run_{name}_timestamp_seconds", text, at)
        yield self._each(
            "run_stage_duration_seconds", "What this command took for it.", "stage", known.durations
        )

    def _accounts(self, known: _Known) -> Iterator[Metric]:
        states = {
            "pending": known.pending,
            "deferred": known.deferred,
            "succeeded": known.succeeded,
            "failed": sum(known.failed_by.values()),
        }
        yield self._each("accounts", "Accounts of the run by state.", "state", states)
        failed = {str(reason): known.failed_by.get(reason, 0) for reason in Reason}
        yield self._each("accounts_failed", "Failed accounts by reason.", "reason", failed)
        if known.excluded is not None:
            text = "Rows of the account list that are not in the file, by reason."
            yield self._each("accounts_excluded", text, "reason", known.excluded)

    def _requests(self, known: _Known) -> Iterator[Metric]:
        last = known.last
        if last is None:
            return
        # When the rating is over, the counts stay, and nothing goes on.
        over = Snapshot(last.at, last.stage, last.done, last.total, rate_limit=last.rate_limit)
        now = last if known.rating else over
        answers = CounterMetricFamily(
            "esgbatch_attempts", "Attempts on the ESG API by result, of this command.",
            labels=["environment", "result"],
        )  # fmt: skip
        for verdict in Verdict:
            answers.add_metric([self._environment, verdict], last.answers.get(verdict, 0))
        yield answers
        latency = HistogramMetricFamily(
            "esgbatch_attempt_duration_seconds",
            "How long an attempt took that brought a result.",
            labels=["environment"],
        )
        if last.latency_within:
            latency.add_metric(
                [self._environment], [(k, float(v)) for k, v in last.latency_within.items()], last.latency_sum
            )
        yield latency
        for name, text, value in (
            ("accounts_per_second", "Accounts done a second, over 10 s.", now.rate),
            ("attempts_per_second", "Attempts a second, over 10 s.", now.request_rate),
            ("rate_limit_per_second", "The configured limit of attempts a second.", now.rate_limit),
            ("rate_limit_used_ratio", "The share of the limit that is used.", _share(now)),
            ("attempts_in_flight", "Attempts under way.", now.in_flight),
            ("attempts_in_flight_limit", "The most that the job allows itself at present.", now.concurrency),
            ("retries_waiting", "Accounts that wait for another attempt.", now.retries_waiting),
            ("held_until_timestamp_seconds", "Until when the API lets us wait; NaN: not.", now.held_until),
        ):
            yield self._gauge(name, text, value)
        yield self._each(
            "held", "1 while nothing is asked.", "reason", {each: each == now.held for each in HOLDS}
        )

    def _midnight(self, day: date) -> float:
        return datetime.combine(day, time(0), self._zone).timestamp()

    def _gauge(self, name: str, text: str, value: float | None) -> Metric:
        return self._family(name, text, {(): value})

    def _each(self, name: str, text: str, label: str, values: Mapping[str, float]) -> Metric:
        return self._family(name, text, {((label, str(key)),): value for key, value in values.items()})

    def _family(
        self, name: str, text: str, values: Mapping[tuple[tuple[str, str], ...], float | None]
    ) -> Metric:
        family = GaugeMetricFamily(f"esgbatch_{name}", text)
        for labels, value in values.items():
            family.add_sample(
                family.name,
                {"environment": self._environment, **dict(labels)},
                math.nan if value is None else float(value),
            )
        return family


def _share(now: Snapshot) -> float | None:
    return now.request_rate / now.rate_limit if now.rate_limit else None


def _number(fields: Mapping[str, object], key: str) -> int:
    value = fields.get(key)
    return value if isinstance(value, int) else 0


def _numbers(fields: Mapping[str, object], key: str) -> Mapping[str, int]:
    value = fields.get(key)
    return dict(value) if isinstance(value, dict) else {}
