"""What a command needs before it can work: configuration, logs, listeners, the job."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from datetime import date
from pathlib import Path
from typing import TYPE_CHECKING

from esgbatch.alerting.desk import Desk
from esgbatch.alerting.listener import AlertListener
from esgbatch.alerting.rules import Rules
from esgbatch.checkpoint.database import Database
from esgbatch.clock import SystemClock
from esgbatch.config.load import find, load
from esgbatch.config.model import Config, Metrics
from esgbatch.config.salvage import Essentials, salvage
from esgbatch.config.secrets import keep_from_dumps
from esgbatch.deadline import moment, today
from esgbatch.errors import BatchError, ConfigError, ExitCode, NothingToDo, StopRequested
from esgbatch.job import Job
from esgbatch.model import Run
from esgbatch.observability import logs
from esgbatch.observability.progress import Broadcast, people_listener
from esgbatch.operations import evidence
from esgbatch.ports import Listener
from esgbatch.records import Records
from esgbatch.stopping import StopSignal
from esgbatch.wiring import build_job, open_checkpoint, open_desk, open_records

if TYPE_CHECKING:
    from esgbatch.observability.heartbeat import Heartbeat
    from esgbatch.observability.publishing import Publisher

CLOCK = SystemClock()

# Seconds that alerts and heartbeat may take at the end of a command. After a signal somebody
# waits for the process to go: what is not sent then stays in the outbox.
PATIENCE = 10.0
HURRY = 1.0


def read_config(path: Path | None) -> Config:
    """The configuration; what it leads to is secret from here on."""
    keep_from_dumps()
    return load(find(path))


def the_date(config: Config, given: date | None) -> date:
    return given or today(CLOCK, config.zone)


def tell(text: str) -> None:
    """A remark for the operator, beside the results."""
    print(f"esgbatch: {text}", file=sys.stderr)


def read_night_config(path: Path | None, given: date | None) -> Config:
    """`read_config` for commands that work for a date: a mistake in it reaches those who are on call."""
    keep_from_dumps()
    found = find(path)
    try:
        return load(found)
    except ConfigError as error:
        essentials = salvage(found)
        with _watched(essentials, given or today(CLOCK, essentials.zone), []) as watch:
            watch.ended(error)
        raise


@contextmanager
def checkpoint_of(config: Config) -> Iterator[Database]:
    """The checkpoint, as it is; closed when the block ends."""
    database = open_checkpoint(config, create=False)
    try:
        yield database
    finally:
        database.close()


@contextmanager
def records_of(config: Config) -> Iterator[Records]:
    """What is recorded, for commands that only look."""
    with checkpoint_of(config) as database:
        yield open_records(database, CLOCK, Broadcast([]))


def find_run(records: Records, day: date) -> Run:
    """The date's run; `NothingToDo` where there is none."""
    run = records.runs.find(day)
    if run is None:
        raise NothingToDo(f"There is no run of {day}.")
    return run


@contextmanager
def _publisher(config: Config, business_date: date) -> Iterator[Sequence[Publisher]]:
    """Who publishes the metrics, where that is wanted."""
    settings, environment = config.metrics, config.job.environment
    if not (settings.textfile or settings.pushgateway):
        yield ()
        return
    from esgbatch.observability.metrics import RunMetrics
    from esgbatch.observability.publishing import Publisher

    metrics = RunMetrics(environment=environment, business_date=business_date, zone=config.zone, clock=CLOCK)
    with Publisher(settings, metrics, environment=environment) as publisher:
        yield (publisher,)


@contextmanager
def working_job(config: Config, business_date: date) -> Iterator[Job]:
    """The job with its logs, progress and alerts, for commands that change something.

    Whatever ends it tells the next command with this date in it, on the screen and in the alert.
    """
    log: list[Listener] = []
    with _watched(Essentials.of(config), business_date, log) as watch:
        try:
            logs.configure(
                config.logging,
                environment=config.job.environment,
                business_date=business_date,
                zone=config.zone,
            )
            log.append(logs.LogListener())
            with (
                _publisher(config, business_date) as publishers,
                people_listener(sys.stderr, config.zone, CLOCK) as people,
            ):
                listeners = Broadcast([*log, people, *publishers, *watch.listeners])
                job = build_job(config, listeners, CLOCK, StopSignal())
                for each in publishers:
                    each.metrics.know_success(job.records.last_success(today(CLOCK, config.zone)))
                with evidence.attempt(job, business_date):
                    yield job
        except BaseException as error:
            if isinstance(error, BatchError | StopRequested):
                error.advice = error.advice.replace("{date}", business_date.isoformat())
            watch.ended(error)
            raise


@contextmanager
def alarmed(config: Config, business_date: date) -> Iterator[None]:
    """A command that is no run, and whose failure people must know all the same."""
    essentials = Essentials.of(config.model_copy(update={"metrics": Metrics()}))
    with _watched(essentials, business_date, []) as watch:
        try:
            yield
        except BatchError as error:
            watch.ended(error)
            raise


@contextmanager
def caretaking_job(config: Config) -> Iterator[Job]:
    """The job with its logs, for commands that care for what is kept and belong to no run.

    How they end is for whoever called them: no alert, no metric and no heartbeat tells of it, which
    would be taken for news of tonight's run.
    """
    day = the_date(config, None)
    logs.configure(config.logging, environment=config.job.environment, business_date=day, zone=config.zone)
    with people_listener(sys.stderr, config.zone, CLOCK) as people:
        job = build_job(config, Broadcast([logs.LogListener(), people]), CLOCK, StopSignal())
        with evidence.attempt(job, day):
            yield job


class _Watch:
    """Who brings news out of the machine: alerts, and the dead man's switch."""

    def __init__(self, alerts: AlertListener, desk: Desk, heartbeat: Heartbeat) -> None:
        self.listeners: Sequence[Listener] = (alerts, heartbeat)
        self._endings = (alerts.ended, heartbeat.ended)
        self._workers = (desk, heartbeat)
        self._patience = PATIENCE

    def ended(self, error: BaseException) -> None:
        """The command ends with this, also where no run had begun; what fails here hides nothing."""
        if isinstance(error, StopRequested) and error.code in (ExitCode.SIGINT, ExitCode.SIGTERM):
            self._patience = HURRY
        for tell in self._endings:
            with suppress(Exception):
                tell(error)

    def close(self) -> None:
        """Wait for what is under way, all together."""
        for each in self._workers:
            each.stop()
        until = time.monotonic() + self._patience
        for each in self._workers:
            each.join(until)


@contextmanager
def _watched(essentials: Essentials, business_date: date, log: Sequence[Listener]) -> Iterator[_Watch]:
    """Alerts and dead man's switch for one command. `log` hears of what they do."""
    from esgbatch.observability.heartbeat import Heartbeat

    told = Broadcast(log)
    desk = open_desk(essentials, CLOCK, told)
    desk.begin()
    nine = moment(business_date, essentials.job.deadline, essentials.zone).timestamp()
    rules = Rules(essentials.alerts, business_date, essentials.zone, nine)
    heartbeat = Heartbeat(essentials.metrics.heartbeat_url, told)
    watch = _Watch(AlertListener(rules, desk, CLOCK), desk, heartbeat)
    try:
        yield watch
    finally:
        watch.close()
