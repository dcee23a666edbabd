"""What a command needs before it can work: configuration, logs, listeners, the job."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import date
from pathlib import Path

from esgbatch.clock import SystemClock
from esgbatch.config.load import find, load
from esgbatch.config.model import Config
from esgbatch.config.secrets import keep_from_dumps
from esgbatch.deadline import today
from esgbatch.errors import BatchError, StopRequested
from esgbatch.job import Job
from esgbatch.observability import logs
from esgbatch.observability.progress import Broadcast, people_listener
from esgbatch.operations import evidence
from esgbatch.stopping import StopSignal
from esgbatch.wiring import build_job

CLOCK = SystemClock()


def read_config(path: Path | None) -> Config:
    """The configuration; what it leads to is secret from here on."""
    keep_from_dumps()
    return load(find(path))


def the_date(config: Config, given: date | None) -> date:
    return given or today(CLOCK, config.zone)


def tell(text: str) -> None:
    """A remark for the operator, beside the results."""
    print(f"esgbatch: {text}", file=sys.stderr)


@contextmanager
def working_job(config: Config, business_date: date) -> Iterator[Job]:
    """The job with its logs and progress, for commands that change something.

    Whatever ends it tells the next command with this date in it.
    """
    try:
        logs.configure(config.logging, environment=config.job.environment, business_date=business_date)
        with people_listener(sys.stderr, config.zone, CLOCK) as people:
            job = build_job(config, Broadcast([logs.LogListener(), people]), CLOCK, StopSignal())
            with evidence.attempt(job, business_date):
                yield job
    except (BatchError, StopRequested) as error:
        error.advice = error.advice.replace("{date}", business_date.isoformat())
        raise
