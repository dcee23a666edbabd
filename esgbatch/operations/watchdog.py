"""The independent nine o'clock check: is the file there, and has whoever works on it ended?

It trusts nothing that the job says of itself: it looks into the checkpoint, and where that
cannot be read, it says so and alerts all the same.
"""

from __future__ import annotations

import os
import select
import signal
import socket
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta

from esgbatch.alerting.conditions import Change, Cleared, Condition, Name
from esgbatch.alerting.rules import ENDED_BY_DELIVERY
from esgbatch.checkpoint.lease import Owner, last_holder
from esgbatch.config.salvage import Essentials
from esgbatch.deadline import moment
from esgbatch.errors import BatchError, ConfigError, ExitCode, NothingToDo, Withheld
from esgbatch.http.bounded import within
from esgbatch.model import Execution, Run, Stage
from esgbatch.ports import Clock
from esgbatch.records import Records

GRACE = 20.0  # seconds from SIGTERM to SIGKILL
DYING = 5.0  # seconds for the kernel after that
LOOK = 20.0  # seconds for the checkpoint to answer
LATE_START = timedelta(minutes=15)
# Schedulers start the check when the job stops itself: it is given this long to have ended, and
# a check that comes a little early waits for the deadline.
SETTLE = 15.0
SOON = 60.0


@dataclass(frozen=True, slots=True)
class Verdict:
    """What was found: `well` where nobody has to be woken."""

    well: bool
    text: str
    advice: str = ""


@dataclass(frozen=True, slots=True)
class _Standing:
    """What the checkpoint says; `trouble` where it says nothing.

    `elsewhere` is who holds the run on another host that shares the checkpoint.
    """

    run: Run | None = None
    delivered: bool = False
    last: Execution | None = None
    trouble: str = ""
    elsewhere: Owner | None = None


# What is opened to look: the records, and who holds the run by the database's own word.
Opened = tuple[Records, Owner | None]


class Watchdog:
    """Checks one business date; what people must know goes to `change`."""

    def __init__(
        self,
        essentials: Essentials,
        day: date,
        open_checkpoint: Callable[[], AbstractContextManager[Opened]],
        clock: Clock,
        change: Callable[[Change], None],
        *,
        grace: float = GRACE,
    ) -> None:
        self._essentials = essentials
        self._day = day
        self._open_checkpoint = open_checkpoint
        self._clock = clock
        self._change = change
        self._grace = grace
        job = essentials.job
        self._start = moment(day, job.start, essentials.zone).timestamp()
        self._deadline = moment(day, job.deadline, essentials.zone).timestamp()

    def check(self) -> Verdict:
        """Look, end what must end, alert; the outbox is for the caller to send."""
        standing = self._look()
        owner = last_holder(self._essentials.job.state_dir, self._day)
        if owner is not None and not standing.delivered and self._let_it_end(owner):
            standing = self._look()
            owner = last_holder(self._essentials.job.state_dir, self._day)
        at_work = owner is not None and owner.is_alive()
        if owner is not None and at_work and not standing.delivered and self._is_over(owner):
            return self._overdue(owner)
        if standing.delivered:
            return self._delivered(owner if at_work else None)
        if owner is not None and at_work:
            return self._going(owner)
        if standing.elsewhere is not None and not self._is_over(standing.elsewhere):
            return self._going(standing.elsewhere)
        other = standing.elsewhere or (owner if owner and owner.host != socket.gethostname() else None)
        if other is not None:
            return self._elsewhere(other)
        return self._idle(standing, owner)

    def misconfigured(self, error: ConfigError) -> None:
        """The configuration has mistakes: the next run will end with code 10."""
        words = " ".join(str(error).split())
        self._change(
            Condition(
                Name.CONFIGURATION, self._scope, words.rstrip("."), "correct it, then `esgbatch doctor`", {}
            )
        )

    @property
    def _scope(self) -> str:
        return self._day.isoformat()

    def _look(self) -> _Standing:
        try:
            return within(LOOK, self._read)
        except NothingToDo:
            return _Standing()
        except TimeoutError:
            return _Standing(trouble=f"the checkpoint database gave no answer for {LOOK:.0f} s")
        except BatchError as error:
            return _Standing(trouble=str(error).rstrip("."))
        except Exception as error:  # noqa: BLE001 - whatever is broken, people are told
            return _Standing(trouble=f"the checkpoint cannot be read: {type(error).__name__}")

    def _read(self) -> _Standing:
        with self._open_checkpoint() as (records, owner):
            elsewhere = owner if owner is not None and owner.host != socket.gethostname() else None
            run = records.runs.find(self._day)
            if run is None:
                return _Standing(elsewhere=elsewhere)
            delivered = any(revision.delivered for revision in records.ledger.revisions(run))
            executions = records.history.executions(run)
            return _Standing(run, delivered, executions[-1] if executions else None, elsewhere=elsewhere)

    def _is_over(self, owner: Owner) -> bool:
        """Its time is up: the date's deadline, or a later one that an operator has given it."""
        return self._clock.time() >= self._bound(owner)

    def _bound(self, owner: Owner) -> float:
        return max(self._deadline, owner.until or self._deadline)

    def _let_it_end(self, owner: Owner) -> bool:
        """Wait around its deadline for a process that may stop by itself; whether there was one."""
        left = self._bound(owner) + SETTLE - self._clock.time()
        if not 0 < left <= SOON + SETTLE or owner.host != socket.gethostname() or not owner.is_alive():
            return False
        with suppress(OSError), _opened(owner.pid) as process:
            if owner.is_alive():
                _ended(process, left)
        return True

    # --- what there is to say ---

    def _delivered(self, owner: Owner | None) -> Verdict:
        self._change(Cleared(ENDED_BY_DELIVERY, self._scope, "the file is delivered"))
        if owner is not None and owner.until is not None and self._clock.time() >= owner.until:
            how = self._end(owner)
            return Verdict(True, f"The file of {self._day} is delivered; {owner} was still going: {how}.")
        also = f" {owner} is at work on it again." if owner is not None else ""
        return Verdict(True, f"The file of {self._day} is delivered.{also}")

    def _going(self, owner: Owner) -> Verdict:
        if self._clock.time() < self._deadline:
            return Verdict(
                True, f"{owner} is at work on {self._day}; the deadline is {self._at(self._deadline)}."
            )
        until = self._at(owner.until or self._deadline)
        return self._alarm(
            Name.DEADLINE_PASSED,
            f"No file of {self._day} at the deadline; {owner} is at work on it, and may be until {until}",
            f"`esgbatch status --date {self._day}`; it is left to go on until {until}",
        )

    def _overdue(self, owner: Owner) -> Verdict:
        what = f"No file of {self._day} at the deadline: {owner} was still going"
        advice = f"everything done is kept: `esgbatch resume --date {self._day}` goes on from there"
        self._alarm(Name.DEADLINE_PASSED, f"{what}, and is ended by the watchdog", advice)
        how = self._end(owner)
        if owner.is_alive():
            return self._alarm(
                Name.DEADLINE_PASSED,
                f"{what}, and cannot be ended: {how}",
                f"end process {owner.pid} on {owner.host}, then `esgbatch resume --date {self._day}`",
                variant="cannot be ended",
            )
        return Verdict(False, f"{what}; {how}.", advice)

    def _elsewhere(self, owner: Owner) -> Verdict:
        return self._alarm(
            Name.DEADLINE_PASSED if self._clock.time() >= self._deadline else Name.JOB_FAILED,
            f"No file of {self._day}; {owner} holds the run, out of reach from {socket.gethostname()}",
            f"`esgbatch watchdog --date {self._day}` on {owner.host}",
        )

    def _idle(self, standing: _Standing, owner: Owner | None) -> Verdict:
        if standing.trouble:
            return self._alarm(
                Name.JOB_FAILED,
                f"Nobody can tell whether there is a file of {self._day}: {standing.trouble}",
                f"correct that, then `esgbatch run --date {self._day}`: it says so where the file is delivered",
                variant=str(int(ExitCode.CHECKPOINT)),
            )
        if standing.run is None or standing.last is None:
            return self._not_started()
        if standing.run.stage is Stage.WITHHELD:
            verdict = self._alarm(
                Name.WITHHELD,
                f"The file of {self._day} is withheld by a quality gate",
                Withheld.default_advice.replace("{date}", self._scope),
            )
        else:
            verdict = self._failed(standing.run, standing.last, owner)
        if self._clock.time() >= self._deadline:
            self._alarm(
                Name.DEADLINE_PASSED, f"No file of {self._day} at the deadline. {verdict.text}", verdict.advice
            )
        return verdict

    def _not_started(self) -> Verdict:
        if self._clock.time() < self._start + LATE_START.total_seconds():
            return Verdict(True, f"The run of {self._day} is due at {self._at(self._start)}; it has not begun.")
        return self._alarm(
            Name.NOT_STARTED,
            f"The run of {self._day} was never started; it was due at {self._at(self._start)}",
            f"`esgbatch run --date {self._day}`, and look at the scheduler",
        )

    def _failed(self, run: Run, last: Execution, owner: Owner | None) -> Verdict:
        resume = f"`esgbatch resume --date {self._day}` goes on from there"
        if last.exit_code is None:
            died = owner or f"`esgbatch {last.command}`, process {last.pid} on {last.host}"
            return self._alarm(
                Name.JOB_FAILED,
                f"No file of {self._day}: {died} died at stage {run.stage}",
                resume,
                variant="died",
            )
        why = f": {last.error.rstrip('.')}" if last.error else ""
        text = (
            f"No file of {self._day}: the last command, {last.command}, ended with code {last.exit_code}{why}"
        )
        if last.exit_code == ExitCode.DELIVERY:
            return self._alarm(Name.DELIVERY_FAILED, text, f"`esgbatch deliver --date {self._day}`")
        if last.exit_code == ExitCode.DEADLINE:
            return self._alarm(Name.DEADLINE_PASSED, text, resume)
        return self._alarm(Name.JOB_FAILED, text, resume, variant=str(last.exit_code))

    def _alarm(self, name: Name, summary: str, advice: str, *, variant: str = "") -> Verdict:
        summary = summary.rstrip(".")
        self._change(Condition(name, self._scope, summary, advice, {"found_by": "watchdog"}, variant))
        return Verdict(False, f"{summary}.", advice)

    def _at(self, instant: float) -> str:
        local = datetime.fromtimestamp(instant, UTC).astimezone(self._essentials.zone)
        return f"{local:%H:%M %Z}" if local.date() == self._day else f"{local:%Y-%m-%d %H:%M %Z}"

    def _end(self, owner: Owner) -> str:
        """Ask it to end, and make it end; says how that went."""
        if owner.host != socket.gethostname():
            return f"it is on {owner.host}, out of reach"
        try:
            with _opened(owner.pid) as process:
                # Only now: the descriptor names this process for good, whatever becomes of its number.
                if not owner.is_alive():
                    return "it has ended by itself"
                signal.pidfd_send_signal(process, signal.SIGTERM)
                signal.pidfd_send_signal(process, signal.SIGCONT)  # one that is stopped would not hear
                if _ended(process, self._grace):
                    return "it ended after SIGTERM"
                signal.pidfd_send_signal(process, signal.SIGKILL)
                return "it ended after SIGKILL" if _ended(process, DYING) else "SIGKILL did not end it"
        except PermissionError:
            return "it belongs to another user"
        except OSError:
            return "it has ended by itself"


@contextmanager
def _opened(pid: int) -> Iterator[int]:
    process = os.pidfd_open(pid)
    try:
        yield process
    finally:
        os.close(process)


def _ended(process: int, seconds: float) -> bool:
    poll = select.poll()
    poll.register(process, select.POLLIN)
    return bool(poll.poll(seconds * 1000))
