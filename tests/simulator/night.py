"""One night: the real operations, again and again until the file is delivered, as an operator would."""

from __future__ import annotations

import random
import traceback
from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import partial
from unittest.mock import patch

from esgbatch import deadline as deadlines
from esgbatch import wiring
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
from esgbatch.job import Job
from esgbatch.model import Run, Stage
from esgbatch.operations import night as operations
from tests.simulator.api import NightApi, Runaway
from tests.simulator.assembly import Assembly, Execution, NightListener, configuration
from tests.simulator.disk import Disk
from tests.simulator.firm import Firm, session
from tests.simulator.plan import Plan
from tests.simulator.world import Killed, NightClock, Process

MOST_EXECUTIONS = 40
HOPELESS_EXECUTIONS = 6


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


def live(plan: Plan, disk: Disk) -> Night:
    """Live through a night."""
    disk.wipe()
    config = configuration(plan, disk)
    end = deadlines.moment(plan.day, plan.deadline, config.zone).timestamp()
    clock = NightClock(end - plan.lead, plan.set_back)
    night = Night(plan, clock, NightApi(plan), Firm(plan))
    operator = Operator(night, config, disk)
    command = "run"
    most = HOPELESS_EXECUTIONS if plan.hopeless else MOST_EXECUTIONS
    while command and len(night.executions) < most:
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
            assembly = Assembly(plan, self._config, night.api, night.firm, process, execution, database)
            execution.outcome = self._attempt(execution, assembly.job(), command)
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
        patience = plan.patience * self._dice.uniform(1, 1.5)
        night.clock.sleep(patience if isinstance(error, RatingsError) else self._dice.uniform(1, 60))
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
