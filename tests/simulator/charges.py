"""Who is charged for what: every attempt of a night, replayed from its log."""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field

from esgbatch.fetching.ticket import Ended
from esgbatch.model import Outcome, Reason, State, Verdict
from tests.simulator.api import Settled
from tests.simulator.assembly import Execution
from tests.simulator.night import Night

WINDOW = 60.0


@dataclass
class Account:
    """What one account got in one pass of one process."""

    charged: int = 0
    transient: int = 0
    throttled: int = 0
    refused: float = -math.inf


@dataclass(frozen=True, slots=True)
class Recorded:
    """A committed outcome, and how things stood: the start of the latest attempt that was answered well."""

    outcome: Outcome
    account: Account
    answered_since: float


@dataclass
class Pass:
    """One pass over the accounts, replayed from the log."""

    final: bool
    accounts: defaultdict[str, Account] = field(default_factory=lambda: defaultdict(Account))
    window: list[tuple[float, str]] = field(default_factory=list)
    frozen: list[str] | None = None
    ended: Ended | None = None
    answered_since: float = -math.inf
    recorded: list[Recorded] = field(default_factory=list)


def passes(execution: Execution, names: dict[int, str]) -> list[Pass]:
    """Every pass of a process: which attempts could be charged, and what was recorded."""
    found: list[Pass] = []
    for entry in execution.log:
        if isinstance(entry, Settled):
            _settled(found[-1], entry)
        elif isinstance(entry, tuple):
            match entry:
                case ("pass", bool(final)):
                    found.append(Pass(final))
                case ("ended", bool(), ended):
                    found[-1].ended = ended
                case ("circuit_opened", _):
                    now = found[-1].window[-1][0]
                    found[-1].frozen = [account for at, account in found[-1].window if at >= now - WINDOW]
                case ("circuit_probe", _):
                    _confirmed(found[-1])
                case ("recorded", outcomes):
                    for outcome in outcomes:
                        account = found[-1].accounts[names[outcome.position]]
                        found[-1].recorded.append(Recorded(outcome, account, found[-1].answered_since))
    return found


def _settled(this: Pass, entry: Settled) -> None:
    if entry.probe and entry.answer.verdict is Verdict.TRANSIENT:
        return
    account = this.accounts[entry.account]
    match entry.answer.verdict:
        case Verdict.TRANSIENT if not entry.open:
            account.charged += 1
            account.transient += 1
            this.window.append((entry.at, entry.account))
        case Verdict.TRANSIENT:
            pass
        case verdict:
            this.window.clear()
            this.frozen = None
            account.charged += verdict in (
                Verdict.RATED,
                Verdict.FAILED,
                Verdict.FORBIDDEN,
                Verdict.UNAUTHORIZED,
            )
            if verdict in (Verdict.RATED, Verdict.FAILED):
                this.answered_since = max(this.answered_since, entry.answer.started)
            if verdict in (Verdict.FORBIDDEN, Verdict.UNAUTHORIZED):
                account.refused = entry.at
            if verdict is Verdict.THROTTLED:
                account.throttled += 1
                account.charged += this.final


def _confirmed(this: Pass) -> None:
    """A failed probe shows that it was an outage: what revealed it is charged to nobody."""
    for account in this.frozen or []:
        this.accounts[account].charged -= 1
    this.frozen = None


def charges(night: Night) -> Iterator[str]:
    """No attempt is charged by an outage or a 429, and who fails had all of his attempts."""
    plan = night.plan
    names = _positions(night)
    for execution in night.executions:
        for this in passes(execution, names):
            for recorded in this.recorded:
                name = names[recorded.outcome.position]
                for complaint in (
                    *_charged(this, recorded, plan.attempts),
                    *_cause(night, recorded.outcome, name),
                ):
                    yield f"execution {execution.number}: {name!r} {complaint}"


def _charged(this: Pass, recorded: Recorded, attempts: int) -> Iterator[str]:
    outcome, account = recorded.outcome, recorded.account
    if outcome.state is not State.DEFERRED and outcome.attempts > max(account.charged, 0) and not this.final:
        yield (
            f"was charged {outcome.attempts} attempts, {account.charged} could be "
            f"({account.transient} transient, {account.throttled} throttled)"
        )
    if outcome.reason is Reason.UNAVAILABLE and account.transient + account.throttled * this.final < attempts:
        yield f"was given up after {account.transient} failures of {attempts} allowed"
    unclear = recorded.answered_since < account.refused and this.ended is not Ended.COMPLETE
    if outcome.reason is Reason.FORBIDDEN and unclear:
        yield "was failed by a 403 before it was clear that this was not meant for all"


def _positions(night: Night) -> dict[int, str]:
    """Places as the checkpoint numbers them: by the usable rows, duplicates counted in."""
    usable = [one for one in night.plan.listings if one.active and one.account_id is not None]
    return {position: str(one.account_id) for position, one in enumerate(usable)}


def _cause(night: Night, outcome: Outcome, name: str) -> Iterator[str]:
    """Nobody fails, or succeeds, without an answer that says so."""
    if outcome.state is State.SUCCEEDED:
        if outcome.scores not in night.api.given[name]:
            yield "has scores that the API never gave"
        return
    verdicts = Counter(answer.verdict for answer in night.api.answers[name])
    reasons = {answer.reason for answer in night.api.answers[name]}
    match outcome.reason:
        case Reason.FORBIDDEN:
            justified = verdicts[Verdict.FORBIDDEN] > 0 or verdicts[Verdict.UNAUTHORIZED] > 1
        case Reason.UNAVAILABLE:
            justified = verdicts[Verdict.TRANSIENT] + verdicts[Verdict.THROTTLED] > 0
        case reason:
            justified = reason in reasons
    if not justified:
        yield f"failed for {outcome.reason}, which no answer said"
