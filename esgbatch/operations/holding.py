"""Holding a date's run against every other process, on this host and on others that share the checkpoint."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import date

from esgbatch.checkpoint.lease import lease
from esgbatch.deadline import Deadline
from esgbatch.job import Job


@contextmanager
def hold(job: Job, business_date: date, command: str, deadline: Deadline) -> Iterator[None]:
    """Have the run to this process alone while the block lasts.

    Raises:
        RunHeld: another process has it.
    """
    with lease(job.config.job.state_dir, business_date, command, deadline.at) as died:
        if died is not None:
            job.listener.event("taken_over", previous=str(died))
        with job.own(business_date, command, deadline.at):
            yield
