"""Sealed files and what happened to them on the way to the drop folder."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import TypeVar

from sqlalchemy import RowMapping, delete, select, update

from esgbatch.checkpoint.database import Database, steadfast
from esgbatch.checkpoint.tables import delivery_steps, revisions, runs
from esgbatch.model import Digest, Histogram, Receipt, Revision, Run, SealedFile, Stage, Step
from esgbatch.ports import Clock

Value = TypeVar("Value")


class SqlLedger:
    """Implements `ports.Ledger`."""

    def __init__(self, database: Database, clock: Clock) -> None:
        self._database = database
        self._clock = clock

    @steadfast
    def sealed(self, run: Run, revision: Revision) -> None:
        """Register a whole file, and enter the delivery stage, in one transaction.

        It takes the place of one of the same revision that was lost before its delivery.
        """
        sealed = revision.sealed
        with self._database.writing() as connection:
            for table in (delivery_steps, revisions):
                mine = (table.c.run == run.number) & (table.c.revision == revision.number)
                undelivered = mine & revisions.c.delivered.is_(None) if table is revisions else mine
                connection.execute(delete(table).where(undelivered))
            connection.execute(
                revisions.insert().values(
                    run=run.number,
                    revision=revision.number,
                    sealed=revision.created.timestamp(),
                    path=str(sealed.path),
                    rows=sealed.rows,
                    plaintext_sha256=sealed.plaintext.sha256,
                    plaintext_bytes=sealed.plaintext.size,
                    encrypted_sha256=sealed.encrypted.sha256,
                    encrypted_bytes=sealed.encrypted.size,
                    recipients=json.dumps(sealed.recipients),
                    means=json.dumps(revision.means),
                    manifest=revision.manifest,
                    partial=int(revision.partial),
                    histograms=json.dumps([[each.low, each.high, each.counts] for each in revision.histograms]),
                )
            )
            connection.execute(update(runs).where(runs.c.number == run.number).values(stage=Stage.DELIVERING))

    @steadfast
    def revisions(self, run: Run) -> tuple[Revision, ...]:
        """Every sealed file of the run, oldest first."""
        with self._database.reading() as connection:
            rows = connection.execute(
                select(revisions).where(revisions.c.run == run.number).order_by(revisions.c.revision)
            ).mappings()
            return tuple(_revision(row) for row in rows)

    @steadfast
    def last_delivered_before(self, run: Run) -> Revision | None:
        """The last whole file that was delivered for an earlier business date.

        Its means and histograms are those of `run`'s columns: a column may have been
        added since, or moved.
        """
        with self._database.reading() as connection:
            row = (
                connection.execute(
                    select(revisions, runs.c.columns)
                    .join(runs, runs.c.number == revisions.c.run)
                    .where(
                        runs.c.business_date < run.business_date.isoformat(),
                        revisions.c.delivered.is_not(None),
                        revisions.c.partial == 0,
                    )
                    .order_by(runs.c.business_date.desc(), revisions.c.revision.desc())
                    .limit(1)
                )
                .mappings()
                .first()
            )
        if row is None:
            return None
        found, columns = _revision(row), json.loads(row["columns"])
        return replace(
            found,
            means=tuple(_of(column, columns, found.means) for column in run.columns),
            histograms=tuple(
                each for column in run.columns if (each := _of(column, columns, found.histograms)) is not None
            ),
        )

    @steadfast
    def steps(self, run: Run) -> Sequence[Step]:
        """The steps noted for the revision in the making since its delivery last began."""
        with self._database.reading() as connection:
            noted = [
                Step(step)
                for step in connection.scalars(
                    select(delivery_steps.c.step)
                    .where(delivery_steps.c.run == run.number, delivery_steps.c.revision == run.revision)
                    .order_by(delivery_steps.c.id)
                )
            ]
        last = max((at for at, step in enumerate(noted) if step is Step.RECORDED), default=-1)
        return noted[last + 1 :]

    @steadfast
    def note(self, run: Run, step: Step, detail: str) -> None:
        """Write a step down; it is on disk when this returns."""
        with self._database.writing() as connection:
            connection.execute(
                delivery_steps.insert().values(
                    run=run.number,
                    revision=run.revision,
                    step=step,
                    detail=detail,
                    at=self._clock.time(),
                )
            )

    @steadfast
    def delivered(self, run: Run, receipt: Receipt) -> None:
        """Record the delivery, and with it the end of the run, in one transaction."""
        now = self._clock.time()
        with self._database.writing() as connection:
            connection.execute(
                delivery_steps.insert().values(
                    run=run.number,
                    revision=run.revision,
                    step=Step.RECORDED,
                    detail=receipt.verified_by,
                    at=now,
                )
            )
            connection.execute(
                update(revisions)
                .where(revisions.c.run == run.number, revisions.c.revision == run.revision)
                .values(delivered=now, location=receipt.location)
            )
            connection.execute(update(runs).where(runs.c.number == run.number).values(stage=Stage.DELIVERED))


def _of(column: str, columns: Sequence[str], values: Sequence[Value]) -> Value | None:
    return dict(zip(columns, values, strict=False)).get(column)


def _revision(row: RowMapping) -> Revision:
    delivered = row["delivered"]
    return Revision(
        number=row["revision"],
        created=datetime.fromtimestamp(row["sealed"], UTC),
        sealed=SealedFile(
            path=Path(row["path"]),
            plaintext=Digest(row["plaintext_sha256"], row["plaintext_bytes"]),
            encrypted=Digest(row["encrypted_sha256"], row["encrypted_bytes"]),
            recipients=tuple(json.loads(row["recipients"])),
            rows=row["rows"],
        ),
        manifest=row["manifest"],
        means=tuple(json.loads(row["means"])),
        partial=bool(row["partial"]),
        delivered=None if delivered is None else datetime.fromtimestamp(delivered, UTC),
        location=row["location"],
        histograms=tuple(
            Histogram(low, high, tuple(counts)) for low, high, counts in json.loads(row["histograms"] or "[]")
        ),
    )
