"""A process of the night: the real job, with the simulated world around it."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass, field, replace

from esgbatch import wiring
from esgbatch.config.model import Config
from esgbatch.delivery.sftp import SftpCourier
from esgbatch.fetching.concurrency import AutoConcurrency, FixedConcurrency
from esgbatch.fetching.limiter import RateLimiter
from esgbatch.fetching.retry import Backoff
from esgbatch.fetching.ticket import Pace
from esgbatch.job import Job
from esgbatch.model import Snapshot, Stage
from tests.simulator.api import NightApi, NightEngine, WatchedDispatcher
from tests.simulator.disk import Disk, MortalDatabase, RareHistory, WatchedOutcomes
from tests.simulator.firm import AccountSystem, AuditBook, Firm, Sealer
from tests.simulator.plan import Plan
from tests.simulator.world import Process


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


class NightListener:
    """Implements `ports.Listener`: everything into the execution's log."""

    def __init__(self, execution: Execution) -> None:
        self._execution = execution

    def event(self, name: str, /, **fields: object) -> None:
        self._execution.log.append((name, fields))

    def progress(self, snapshot: Snapshot) -> None:
        pass


@dataclass(frozen=True, slots=True)
class Assembly:
    """Everything a process is made of."""

    plan: Plan
    config: Config
    api: NightApi
    firm: Firm
    process: Process
    execution: Execution
    database: MortalDatabase

    def job(self) -> Job:
        """As `wiring.build_job` makes it."""
        clock, listener = self.process.clock, NightListener(self.execution)
        outcomes = WatchedOutcomes(self.database)
        outcomes.log = self.execution.log.append
        records = wiring.open_records(self.database, clock, listener)
        return Job(
            config=self.config,
            config_sha256="0" * 64,
            open_source=lambda: AccountSystem(self.firm, self.process),
            make_dispatcher=self._dispatcher,
            encryptor=Sealer(self.firm, self.process),
            courier=SftpCourier(self.config.delivery, clock, listener),
            records=replace(records, outcomes=outcomes, history=RareHistory(self.database, clock)),
            audit=AuditBook(self.firm, self.process),
            listener=listener,
            clock=clock,
            stop=self.process.stop,
        )

    def _dispatcher(self, *, deadline_binds: bool, tick: Callable[[Pace], None]) -> WatchedDispatcher:
        """As `wiring.make_dispatcher` makes it, with the simulated engine."""
        ratings, execution = self.config.ratings, self.execution
        automatic = ratings.concurrency == "auto"
        most = ratings.max_concurrency if ratings.concurrency == "auto" else ratings.concurrency
        execution.engine = NightEngine(self.process, self.api, self.plan.abort, execution.log.append)
        jitter = random.Random(f"backoff {self.plan.seed} {execution.number}")
        dispatcher = WatchedDispatcher(
            execution.engine,
            RateLimiter(ratings.rate_limit, most),
            AutoConcurrency(most, ratings.rate_limit) if automatic else FixedConcurrency(most),
            Backoff(ratings.backoff.base, ratings.backoff.max, jitter),
            self.process.clock,
            NightListener(execution),
            attempts=ratings.attempts,
            commit_every=self.config.checkpoint.commit_every,
            max_hold=float("inf") if deadline_binds else ratings.max_hold,
            stopped=lambda: self.process.stop.requested is not None,
            tick=tick,
        )
        dispatcher.log = execution.log.append
        return dispatcher


def configuration(plan: Plan, disk: Disk) -> Config:
    """The night's configuration, whose files are on `disk`."""
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
