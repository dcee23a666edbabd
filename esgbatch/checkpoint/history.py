"""Who worked on a run and how it went: executions, the running job's snapshot, past days."""

from __future__ import annotations

import getpass
import json
import os
import socket
from collections.abc import Mapping, Sequence
from dataclasses import asdict, fields
from datetime import UTC, date, datetime

from sqlalchemy import Connection, RowMapping, delete, func, select, update

from esgbatch.checkpoint.database import Database, steadfast
from esgbatch.checkpoint.tables import executions, runs, samples, snapshots
from esgbatch.model import Execution, Run, Sample, Snapshot, Stage
from esgbatch.ports import Clock

MOST_SAMPLES = 500


class SqlHistory:
    """Implements `ports.History`."""

    def __init__(self, database: Database, clock: Clock) -> None:
        self._database = database
        self._clock = clock

    @steadfast
    def begin(self, run: Run, command: str) -> int:
        """Note that this process works on the run; returns the execution's key."""
        with self._database.writing() as connection:
            result = connection.execute(
                executions.insert().values(
                    run=run.number,
                    revision=run.revision,
                    command=command,
                    host=socket.gethostname(),
                    pid=os.getpid(),
                    os_user=user_name(),
                    started=self._clock.time(),
                    attempts=0,
                    stages="{}",
                )
            )
            connection.execute(delete(snapshots).where(snapshots.c.run == run.number))
        key = result.inserted_primary_key
        assert key is not None
        return int(key[0])

    @steadfast
    def end(self, execution: int, exit_code: int, error: str | None) -> None:
        """Note how it ended."""
        with self._database.writing() as connection:
            connection.execute(
                update(executions)
                .where(executions.c.id == execution)
                .values(ended=self._clock.time(), exit_code=exit_code, error=error)
            )

    @steadfast
    def measured(
        self,
        execution: int,
        stages: Mapping[str, float],
        *,
        attempts: int,
        latency_p50: float | None,
        latency_p95: float | None,
    ) -> None:
        """Note what was measured so far: seconds by stage, attempts, latencies in seconds."""
        with self._database.writing() as connection:
            connection.execute(
                update(executions)
                .where(executions.c.id == execution)
                .values(
                    stages=json.dumps(dict(stages)),
                    attempts=attempts,
                    latency_p50=latency_p50,
                    latency_p95=latency_p95,
                )
            )

    @steadfast
    def executions(self, run: Run) -> tuple[Execution, ...]:
        """Every process that worked on the run, oldest first."""
        with self._database.reading() as connection:
            rows = connection.execute(
                select(executions).where(executions.c.run == run.number).order_by(executions.c.id)
            ).mappings()
            return tuple(_execution(row) for row in rows)

    @steadfast
    def show(self, run: Run, snapshot: Snapshot, sample: Sample | None = None) -> None:
        """Let `status` in another shell see this; a sample is also kept, for the report."""
        text = json.dumps(asdict(snapshot))
        with self._database.writing() as connection:
            changed = connection.execute(
                update(snapshots).where(snapshots.c.run == run.number).values(snapshot=text)
            )
            if not changed.rowcount:
                connection.execute(snapshots.insert().values(run=run.number, snapshot=text))
            if sample is not None:
                connection.execute(samples.insert().values(run=run.number, **asdict(sample)))
                _thin(connection, run)

    @steadfast
    def samples(self, run: Run) -> Sequence[Sample]:
        """How the run went, oldest first."""
        names = [field.name for field in fields(Sample)]
        with self._database.reading() as connection:
            rows = connection.execute(
                select(*(samples.c[name] for name in names))
                .where(samples.c.run == run.number)
                .order_by(samples.c.id)
            )
            return [Sample(*row) for row in rows]

    @steadfast
    def snapshot(self, run: Run) -> Snapshot | None:
        """What the job at work has last shown."""
        with self._database.reading() as connection:
            text = connection.scalar(select(snapshots.c.snapshot).where(snapshots.c.run == run.number))
        if text is None:
            return None
        told = json.loads(text)
        return Snapshot(**told | {"stage": Stage(told["stage"])})

    @steadfast
    def dates(self, since: date, until: date) -> Sequence[date]:
        """The business dates with a run, oldest first; both ends are included."""
        with self._database.reading() as connection:
            found = connection.scalars(
                select(runs.c.business_date)
                .where(runs.c.business_date.between(since.isoformat(), until.isoformat()))
                .order_by(runs.c.business_date)
            )
            return [date.fromisoformat(text) for text in found]


def _thin(connection: Connection, run: Run) -> None:
    """Beyond `MOST_SAMPLES` every second one goes; the counters in those that stay make up for it."""
    mine = samples.c.run == run.number
    if (connection.scalar(select(func.count()).where(mine)) or 0) > MOST_SAMPLES:
        kept = connection.scalars(select(samples.c.id).where(mine).order_by(samples.c.id)).all()
        connection.execute(delete(samples).where(samples.c.id.in_(kept[1:-1:2])))


def user_name() -> str:
    """The operating system's user; its number where it has no name."""
    try:
        return getpass.getuser()
    except (KeyError, OSError):
        return str(os.getuid())


def _execution(row: RowMapping) -> Execution:
    ended = row["ended"]
    return Execution(
        command=row["command"],
        revision=row["revision"],
        host=row["host"],
        pid=row["pid"],
        user=row["os_user"],
        started=datetime.fromtimestamp(row["started"], UTC),
        ended=None if ended is None else datetime.fromtimestamp(ended, UTC),
        exit_code=row["exit_code"],
        error=row["error"],
        attempts=row["attempts"],
        latency_p50=row["latency_p50"],
        latency_p95=row["latency_p95"],
        stages=json.loads(row["stages"]),
    )
