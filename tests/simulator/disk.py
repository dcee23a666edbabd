"""What a killed process leaves behind: the checkpoint database and the files beside it."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from sqlalchemy import Connection

from esgbatch.checkpoint.database import Database
from esgbatch.checkpoint.history import SqlHistory
from esgbatch.checkpoint.outcomes import SqlOutcomes
from esgbatch.model import Outcome, Run, Sample, Snapshot
from tests.checkpoints import TestKeys
from tests.simulator.world import Process

SHOW_EVERY = 60


class MortalDatabase(Database):
    """The real checkpoint, of a process that can die before, in and after every transaction."""

    process: Process | None = None
    commit_seconds = 0.0

    def make_again(self) -> None:
        """Make the tables in a new file under the old name."""
        self._make_tables()

    @contextmanager
    def reading(self) -> Iterator[Connection]:
        self._come_to("read")
        with super().reading() as connection:
            yield connection

    @contextmanager
    def writing(self) -> Iterator[Connection]:
        self._come_to("begin")
        with super().writing() as connection:
            yield connection
            if self.process is not None:
                self.process.clock.sleep(self.commit_seconds)
            self._come_to("commit")
        self._come_to("committed")

    def _come_to(self, place: str) -> None:
        if self.process is not None:
            self.process.comes_to(place)


class WatchedOutcomes(SqlOutcomes):
    """The real ones; what was committed is written to `log`."""

    log: Callable[[object], None]

    def record(self, run: Run, outcomes: Sequence[Outcome]) -> None:
        super().record(run, outcomes)
        self.log(("recorded", tuple(outcomes)))


class RareHistory(SqlHistory):
    """The real one, but it shows only one snapshot a minute: a held hour has 3,600."""

    shown = 0

    def show(self, run: Run, snapshot: Snapshot, sample: Sample | None = None) -> None:
        self.shown += 1
        if self.shown % SHOW_EVERY == 1:
            super().show(run, snapshot)


class Disk:
    """A folder for one night after another. The database's engine is kept: SQLAlchemy is slow to make one."""

    def __init__(self, folder: Path) -> None:
        self.state = folder / "state"
        self.logs = folder / "logs"
        self._database: MortalDatabase | None = None

    def wipe(self) -> None:
        for folder in (self.state, self.logs):
            shutil.rmtree(folder, ignore_errors=True)
            folder.mkdir(parents=True)
        if self._database is None:
            self._database = MortalDatabase(f"sqlite:///{self.state / 'checkpoint.sqlite'}", keys=TestKeys())
        else:
            self._database.make_again()

    @contextmanager
    def opened(self, process: Process | None = None, commit_seconds: float = 0.0) -> Iterator[MortalDatabase]:
        """The database as a process opens it: with connections of its own."""
        assert self._database is not None
        self._database.process, self._database.commit_seconds = process, commit_seconds
        try:
            yield self._database
        finally:
            self._database.process = None
            self._database.close()

    def freeze(self) -> None:
        """Keep the files as they are at this moment; the database keeps itself."""
        for source, copy in self._pairs():
            shutil.copytree(source, copy, ignore=shutil.ignore_patterns("checkpoint.sqlite*"))

    def thaw(self) -> None:
        """Undo whatever a dying process has still done to files while it unwound."""
        for source, copy in self._pairs():
            for entry in source.iterdir():
                if entry.is_dir():
                    shutil.rmtree(entry)
                elif not entry.name.startswith("checkpoint.sqlite"):
                    entry.unlink()
            shutil.copytree(copy, source, dirs_exist_ok=True)
            shutil.rmtree(copy)

    def _pairs(self) -> list[tuple[Path, Path]]:
        return [(folder, folder.with_name(folder.name + ".frozen")) for folder in (self.state, self.logs)]
