"""What must hold in every night, whatever happened in it."""

from __future__ import annotations

import math
from collections.abc import Iterator
from datetime import UTC, date, datetime, time, timedelta
from itertools import pairwise

from esgbatch.errors import ExitCode, StopRequested
from esgbatch.model import Verdict
from tests.simulator.api import Settled
from tests.simulator.assembly import Execution
from tests.simulator.charges import charges
from tests.simulator.deliveries import files, same, trail
from tests.simulator.night import Night
from tests.simulator.plan import FALL_BACK, SPRING_FORWARD, Plan

LATE = 2.0
DOCUMENTED = frozenset(ExitCode) - {ExitCode.BUG, ExitCode.USAGE}
# Requests that a delivery makes to the drop folder at the most.
REQUESTS = 30
COMMITS = 30


def broken(night: Night, undisturbed: Night | None = None) -> list[str]:
    """Every invariant that does not hold, in words."""
    found = [*_ends(night), *_in_time(night), *_limit(night), *charges(night), *files(night), *trail(night)]
    if undisturbed is not None:
        found += same(night, undisturbed)
    return found


# --- the end ------------------------------------------------------------------------------------


def _ends(night: Night) -> Iterator[str]:
    """Each process ends in a documented way, and the night with a delivered file."""
    for execution in night.executions:
        error = execution.error
        if execution.outcome in ("bug", "runaway"):
            yield f"execution {execution.number} ended with {error!r}\n{execution.trace}"
        elif isinstance(error, StopRequested) and error.code is ExitCode.DEADLINE:
            yield f"execution {execution.number}: the deadline came out as a stop signal"
        elif error is not None and getattr(error, "code", None) not in DOCUMENTED:
            yield f"execution {execution.number} ended with an undocumented {error!r}"
        elif error is not None and not getattr(error, "advice", ""):
            yield f"execution {execution.number} ended without advice: {error!r}"
    for execution, successor in pairwise(night.executions):
        at_work = execution.outcome == "killed" and execution.events("run_started")
        if at_work and not execution.events("run_finished") and not successor.events("taken_over"):
            yield f"execution {successor.number} does not say that it took the run over from a dead one"
    if not night.delivered and not night.plan.hopeless:
        last = night.executions[-1].outcome
        yield f"the night did not end: {len(night.executions)} executions, the last {last}"


def _in_time(night: Night) -> Iterator[str]:
    """Nothing starts after the deadline, nobody works after it, and without one every hold has an end."""
    plan = night.plan
    for execution in night.executions:
        number, limit = execution.number, execution.deadline
        spent = execution.ended - execution.began
        # A round costs a moment; half a second passes at most without one.
        if execution.rounds > 1000 + 4 * spent + 20 * len(execution.starts):
            yield f"execution {number} went round {execution.rounds} times in {spent:.0f} s"
        if limit is None:
            yield from _hold_ends(execution, plan.max_hold)
            continue
        if execution.outcome == "DeadlinePassed" and _had_time(execution, plan):
            yield f"execution {number} delivered no partial file, although nothing kept it from that"
        late = [at for at, _ in execution.starts if at > limit]
        if late:
            yield f"execution {number} started {len(late)} attempts after the deadline"
        if execution.ended > limit + LATE + 4 * plan.commit_seconds and not _began_late(execution):
            yield f"execution {number} ended {execution.ended - limit:.2f} s after the deadline"
    for execution in night.executions:
        for event in execution.events("run_started"):
            expected = deadline_by_hand(plan.day, plan.deadline)
            if event["deadline"] is not None and event["deadline"] != expected:
                yield f"execution {execution.number} had the deadline {event['deadline']}, not {expected}"


def _began_late(execution: Execution) -> bool:
    """Whether it held no deadline: the call that found the file delivered does not look at it."""
    return not execution.events("run_started")


def _had_time(execution: Execution, plan: Plan) -> bool:
    """Whether a partial file was wanted, nothing came between, and the deadline's reserve was enough for it."""
    assert execution.deadline is not None
    reserve = min(30.0, (execution.deadline - execution.began) / 4)
    needed = plan.sealing_seconds + REQUESTS * plan.remote_seconds + COMMITS * plan.commit_seconds
    listed = any(execution.events("rating_started"))
    undisturbed = not execution.struck and not execution.events("delivery_attempt_failed")
    return plan.on_deadline == "deliver_partial" and listed and undisturbed and needed + LATE < reserve


def _hold_ends(execution: Execution, max_hold: float) -> Iterator[str]:
    """Without a deadline, no longer than max_hold passes without a usable answer."""
    last = None
    for entry in execution.log:
        if isinstance(entry, Settled):
            good = entry.answer.verdict in (Verdict.RATED, Verdict.FAILED)
            stalled = entry.answer.verdict is Verdict.THROTTLED or entry.open
            if good or entry.final:
                last = None
            elif stalled and last is None:
                last = entry.at
            elif last is not None and entry.at > last + max_hold + 45.0:
                yield f"execution {execution.number} still asked {entry.at - last:.0f} s into a hold"
                return


def deadline_by_hand(day: date, at: time) -> float:
    """The instant of a wall-clock time in Chicago in 2026, without a time zone database."""
    local = datetime.combine(day, at, tzinfo=UTC)
    begins = datetime.combine(SPRING_FORWARD, time(8), tzinfo=UTC)
    ends = datetime.combine(FALL_BACK, time(7), tzinfo=UTC)
    summer = local + timedelta(hours=5)
    return (summer if begins <= summer < ends else local + timedelta(hours=6)).timestamp()


# --- the API's limit and its wishes -------------------------------------------------------------


def _limit(night: Night) -> Iterator[str]:
    """No one-second window holds more starts than the limit, over all processes; a hold is kept."""
    starts = [at for execution in night.executions for at, _ in execution.starts]
    limit = max(1, math.floor(night.plan.rate_limit))
    first = 0
    for last, at in enumerate(starts):
        while starts[first] <= at - 1.0:
            first += 1
        if last - first + 1 > limit:
            yield f"{last - first + 1} starts within a second of {at:.3f} s, the limit is {limit}"
            break
    for execution in night.executions:
        yield from _holds(execution, night.plan.backoff[0])


def _holds(execution: Execution, base: float) -> Iterator[str]:
    """Between a throttling answer and the end of what it asked for, nothing starts."""
    holds = [
        (entry.at, entry.at + (base if entry.answer.retry_after is None else entry.answer.retry_after))
        for entry in execution.log
        if isinstance(entry, Settled) and entry.answer.verdict is Verdict.THROTTLED
    ]
    at = 0
    until, since = -math.inf, 0.0
    for start, _ in execution.starts:
        while at < len(holds) and holds[at][0] < start:
            if holds[at][1] > until:
                since, until = holds[at]
            at += 1
        if start < until - 1e-6:
            hold = f"held from {since:.3f} to {until:.3f}"
            yield f"execution {execution.number} started an attempt at {start:.3f} s, {hold}"
            return
