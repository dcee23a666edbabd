"""One night: the real operations, again and again until the file is delivered, as an operator would."""

from __future__ import annotations

import random
import shutil
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from unittest.mock import patch

from esgbatch import deadline as deadlines
from esgbatch import wiring
from esgbatch.checkpoint.history import SqlHistory
from esgbatch.checkpoint.outcomes import SqlOutcomes
from esgbatch.config.model import Config
from esgbatch.delivery import sftp
from esgbatch.errors import (
    BatchError,
    DeadlinePassed,
    DeliveryError,
    NothingToDo,
    RatingsError,
    StopRequested,
    Withheld,
    WrongUsage,
)
from esgbatch.fetching.concurrency import AutoConcurrency, FixedConcurrency
from esgbatch.fetching.limiter import RateLimiter
from esgbatch.fetching.retry import Backoff
from esgbatch.fetching.ticket import Pace
from esgbatch.job import Job
from esgbatch.model import Outcome, Run, Snapshot, Stage
from esgbatch.operations import night as operations
from esgbatch.records import Records
from tests.simulator.api import NightApi, NightEngine, Runaway, WatchedDispatcher
from tests.simulator.firm import AccountSystem, AuditBook, Firm, Sealer, session
from tests.simulator.plan import Plan
from tests.simulator.world import Killed, MortalDatabase, NightClock, Process

MOST_EXECUTIONS = 24
SHOW_EVERY = 60


@dataclass
class Execution:
    """One process's life, as it was seen from outside. Times are the monotonic clock's."""

    number: int
    command: str
    began: float
    log: list[object] = field(default_factory=list)
    engine: NightEngine | None = None
    deadline: float | None = None
    ended: float = 0.0
    outcome: str = ""
    error: BaseException | None = None
    trace: str = ""
    struck: list[str] = field(default_factory=list)
    stage: Stage | None = None

    @property
    def starts(self) -> list[tuple[float, str]]:
        """The attempts' instants, by account."""
        return [] if self.engine is None else self.engine.starts

    @property
    def rounds(self) -> int:
        """How often the dispatcher waited for an answer."""
        return 0 if self.engine is None else self.engine.rounds

    def events(self, name: str) -> list[dict[str, object]]:
        return [each[1] for each in self.log if isinstance(each, tuple) and each[0] == name and len(each) == 2]

    def __str__(self) -> str:
        struck = f" [{', '.join(self.struck)}]" if self.struck else ""
        limit = "no deadline" if self.deadline is None else f"deadline {self.deadline:.1f}"
        error = f": {self.error}" if self.error is not None and self.outcome != "killed" else ""
        return (
            f"{self.number:2} {self.command:13} {self.began:10.2f} to {self.ended:10.2f} s, {limit}, "
            f"{len(self.starts)} attempts{struck} -> {self.outcome}{error}, then {self.stage}"
        )


@dataclass
class Night:
    """What happened, for the invariants."""

    plan: Plan
    clock: NightClock
    api: NightApi
    firm: Firm
    executions: list[Execution] = field(default_factory=list)
    run: Run | None = None

    @property
    def delivered(self) -> bool:
        return self.run is not None and self.run.stage is Stage.DELIVERED


class NightListener:
    """Implements `ports.Listener`: everything into the execution's log."""

    def __init__(self, execution: Execution) -> None:
        self._execution = execution

    def event(self, name: str, /, **fields: object) -> None:
        self._execution.log.append((name, fields))

    def progress(self, snapshot: Snapshot) -> None:
        pass


class WatchedOutcomes(SqlOutcomes):
    """The real ones; what was committed is written to `log`."""

    log: Callable[[object], None]

    def record(self, run: Run, outcomes: Sequence[Outcome]) -> None:
        super().record(run, outcomes)
        self.log(("recorded", tuple(outcomes)))


class RareHistory(SqlHistory):
    """The real one, but it shows only one snapshot a minute: a held hour has 3,600."""

    shown = 0

    def show(self, run: Run, snapshot: Snapshot) -> None:
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
            self._database = MortalDatabase.sqlite(self.state / "checkpoint.sqlite")
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


def live(plan: Plan, disk: Disk) -> Night:
    """Live through a night."""
    disk.wipe()
    config = _config(plan, disk)
    end = deadlines.moment(plan.day, plan.deadline, config.zone).timestamp()
    clock = NightClock(end - plan.lead, plan.set_back)
    night = Night(plan, clock, NightApi(plan), Firm(plan))
    operator = Operator(night, config, disk)
    command = "run"
    while command and len(night.executions) < MOST_EXECUTIONS:
        execution = operator.do(command)
        if execution.outcome in ("bug", "runaway"):
            break
        command = operator.next(execution)
    return night


class Operator:
    """Starts commands, and after each decides which is next."""

    def __init__(self, night: Night, config: Config, disk: Disk) -> None:
        self._night = night
        self._config = config
        self._dice = random.Random(f"operator {night.plan.seed}")
        self._afterwards = night.plan.afterwards
        self._disk = disk

    def do(self, command: str) -> Execution:
        """One process, from its start to its end or death."""
        night, plan = self._night, self._night.plan
        number = len(night.executions)
        execution = Execution(number, command, night.clock.now)
        strikes = plan.strikes[number] if number < len(plan.strikes) else ()
        process = Process(night.clock, strikes, self._disk.freeze)
        with self._disk.opened(process, plan.commit_seconds) as database, ExitStack() as stack:
            stack.callback(night.clock.silence)
            stack.enter_context(patch.object(sftp, "open_session", partial(session, night.firm, process)))
            job = self._job(process, execution, database)
            execution.outcome = self._attempt(execution, job, command)
        execution.ended = night.clock.now
        execution.struck = process.struck
        if process.dead:
            self._disk.thaw()
        night.executions.append(execution)
        with self._disk.opened() as database:
            night.run = wiring.open_records(database, night.clock, NightListener(execution)).runs.find(plan.day)
        execution.stage = night.run.stage if night.run else None
        return execution

    def _attempt(self, execution: Execution, job: Job, command: str) -> str:
        day = self._night.plan.day
        try:
            deadline = operations.choose_deadline(job, day, None, lambda _text: None)
            if deadline.binds and command != "deliver":
                execution.deadline = self._night.clock.now + deadline.remaining()
            match command.split():
                case ["run"]:
                    result = operations.run(job, day, limit=None, deadline=deadline)
                case ["resume"]:
                    result = operations.resume(job, day, deadline=deadline)
                case ["rerun", "failed"]:
                    result = operations.rerun(job, day, None, deadline=deadline)
                case ["rerun", "some"]:
                    some = self._dice.sample(sorted(self._night.plan.active), 1)
                    result = operations.rerun(job, day, some, deadline=deadline)
                case ["deliver"]:
                    result = operations.deliver(job, day)
                case _:
                    result = operations.approve(job, day, by="Operator", reason="seen", deadline=deadline)
        except Killed:
            return "killed"
        except (BatchError, StopRequested) as error:
            execution.error = error
            return type(error).__name__
        except Runaway as error:
            execution.error = error
            return "runaway"
        except BaseException as error:  # noqa: BLE001 - whatever else comes out of the job is a bug to be reported
            execution.error, execution.trace = error, traceback.format_exc()
            return "bug"
        return "already" if result.already else "delivered"

    def next(self, execution: Execution) -> str:
        """What an operator types next; time passes until then. Empty when the night is over."""
        night, plan = self._night, self._night.plan
        error = execution.error
        if execution.outcome == "killed":
            night.clock.sleep(plan.restart[execution.number % len(plan.restart)])
            return "run" if night.run is None else self._dice.choice(["run", "resume"])
        if isinstance(error, NothingToDo | WrongUsage) or error is None:
            command, self._afterwards = self._afterwards, "nothing"
            night.clock.sleep(self._dice.uniform(1, 60))
            return "" if command == "nothing" else command
        night.clock.sleep(plan.patience if isinstance(error, RatingsError) else self._dice.uniform(1, 60))
        if isinstance(error, Withheld):
            choices = ["approve"] if self._tried(execution.command) else ["approve", "rerun failed"]
            return self._dice.choice(choices)
        if isinstance(error, DeliveryError):
            return "deliver"
        if isinstance(error, DeadlinePassed | StopRequested):
            night.clock.sleep(self._dice.choice([0.0, 600.0]))
        return "run" if night.run is None else "resume"

    def _tried(self, command: str) -> bool:
        return sum(each.command == command for each in self._night.executions) > 1

    # --- a process -------------------------------------------------------------------------------

    def _job(self, process: Process, execution: Execution, database: MortalDatabase) -> Job:
        night, config = self._night, self._config
        listener = NightListener(execution)
        outcomes = WatchedOutcomes(database)
        outcomes.log = execution.log.append
        records = wiring.open_records(database, night.clock, listener)
        records = Records(records.runs, outcomes, records.ledger, RareHistory(database, night.clock))
        return Job(
            config=config,
            config_sha256="0" * 64,
            open_source=lambda: AccountSystem(night.firm, process),
            make_dispatcher=partial(self._dispatcher, process, execution, listener),
            encryptor=Sealer(night.firm, process),
            courier=sftp.SftpCourier(config.delivery, night.clock, listener),
            records=records,
            audit=AuditBook(night.firm, process),
            listener=listener,
            clock=night.clock,
            stop=process.stop,
        )

    def _dispatcher(
        self,
        process: Process,
        execution: Execution,
        listener: NightListener,
        *,
        deadline_binds: bool,
        tick: Callable[[Pace], None],
    ) -> WatchedDispatcher:
        """As `wiring.make_dispatcher` does it, with the simulated engine."""
        plan, ratings = self._night.plan, self._config.ratings
        automatic = ratings.concurrency == "auto"
        most = ratings.max_concurrency if ratings.concurrency == "auto" else ratings.concurrency
        engine = NightEngine(process, self._night.api, plan.abort, execution.log.append)
        execution.engine = engine
        jitter = random.Random(f"backoff {plan.seed} {execution.number}")
        dispatcher = WatchedDispatcher(
            engine,
            RateLimiter(ratings.rate_limit, most),
            AutoConcurrency(most, ratings.rate_limit) if automatic else FixedConcurrency(most),
            Backoff(ratings.backoff.base, ratings.backoff.max, jitter),
            self._night.clock,
            listener,
            attempts=ratings.attempts,
            commit_every=self._config.checkpoint.commit_every,
            max_hold=float("inf") if deadline_binds else ratings.max_hold,
            stopped=lambda: process.stop.requested is not None,
            tick=tick,
        )
        dispatcher.log = execution.log.append
        return dispatcher


def _config(plan: Plan, disk: Disk) -> Config:
    folder = disk.state.parent
    return Config.model_validate(
        {
            "job": {
                "state_dir": disk.state,
                "deadline": plan.deadline.strftime("%H:%M"),
                "on_deadline": plan.on_deadline,
            },
            "accounts": {"url": "https://accounts.example/v1/accounts"},
            "ratings": {
                "url": "https://esg.example/v1/accounts/{account_id}/esg",
                "rate_limit": plan.rate_limit,
                "concurrency": plan.concurrency,
                "max_concurrency": plan.max_concurrency,
                "attempts": plan.attempts,
                "backoff": {"base": plan.backoff[0], "max": plan.backoff[1]},
                "max_hold": plan.max_hold,
            },
            "checkpoint": {"commit_every": plan.commit_every},
            "encryption": {"recipients": [folder / "key.asc"], "fingerprints": ["A" * 40]},
            "delivery": {
                "host": "sftp.example",
                "username": "esgbatch",
                "private_key": folder / "key",
                "known_hosts": folder / "known_hosts",
                "directory": "/drop",
                "remote_consumes_file": plan.remote_consumes_file,
            },
            "quality": {"max_failed_percent": plan.max_failed_percent},
            "logging": {"directory": disk.logs},
        }
    )
