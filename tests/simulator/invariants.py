"""What must hold in every night, whatever happened in it."""

from __future__ import annotations

import csv
import io
import json
import math
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, time, timedelta

from esgbatch import manifest
from esgbatch.errors import ExitCode, StopRequested
from esgbatch.fetching.ticket import Ended
from esgbatch.model import Outcome, Reason, State, Verdict
from tests.simulator.api import Settled
from tests.simulator.firm import Arrival, digest, unseal
from tests.simulator.night import Execution, Night
from tests.simulator.plan import FALL_BACK, SPRING_FORWARD

LATE = 2.0
WINDOW = 60.0
DOCUMENTED = frozenset(ExitCode) - {ExitCode.BUG, ExitCode.USAGE}
SUCCESS, FAILED, NOT_AVAILABLE = "Success", "Failed", "N/A"


def broken(night: Night, undisturbed: Night | None = None) -> list[str]:
    """Every invariant that does not hold, in words."""
    found = [*_ends(night), *_in_time(night), *_limit(night), *_charges(night), *_files(night), *_trail(night)]
    if undisturbed is not None:
        found += _same(night, undisturbed)
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
        if "[" in str(getattr(error, "advice", "")) and not str(getattr(error, "advice", "")):
            yield f"execution {execution.number} ended without advice"
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
            owners = sorted(
                {
                    execution.number
                    for execution in night.executions
                    for each, _ in execution.starts
                    if at - 1.0 < each <= at
                }
            )
            count = last - first + 1
            yield f"{count} starts within a second of {at:.3f} s, the limit is {limit} (executions {owners})"
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
    for start, _account in execution.starts:
        while at < len(holds) and holds[at][0] < start:
            if holds[at][1] > until:
                since, until = holds[at]
            at += 1
        if start < until - 1e-6:
            yield (
                f"execution {execution.number} started an attempt at {start:.3f} s, "
                f"held from {since:.3f} to {until:.3f}"
            )
            return


# --- attempts -----------------------------------------------------------------------------------


@dataclass
class Account:
    """What one account got in one pass of one process."""

    charged: int = 0
    transient: int = 0
    throttled: int = 0
    in_window: int = 0


@dataclass
class Pass:
    """One pass over the accounts, replayed from the log."""

    final: bool
    accounts: defaultdict[str, Account] = field(default_factory=lambda: defaultdict(Account))
    window: list[tuple[float, str]] = field(default_factory=list)
    frozen: list[str] | None = None
    ended: Ended | None = None
    recorded: list[tuple[Outcome, Account]] = field(default_factory=list)


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
                        found[-1].recorded.append((outcome, found[-1].accounts[names[outcome.position]]))
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
            if verdict is Verdict.THROTTLED:
                account.throttled += 1
                account.charged += this.final


def _confirmed(this: Pass) -> None:
    """A failed probe shows that it was an outage: what revealed it is charged to nobody."""
    for account in this.frozen or []:
        this.accounts[account].charged -= 1
    this.frozen = None


def _charges(night: Night) -> Iterator[str]:
    """No attempt is charged by an outage or a 429, and who fails had all of his attempts."""
    plan = night.plan
    names = _positions(night)
    for execution in night.executions:
        for this in passes(execution, names):
            for outcome, account in this.recorded:
                name = names[outcome.position]
                if (
                    outcome.state is not State.DEFERRED
                    and outcome.attempts > max(account.charged, 0)
                    and not this.final
                ):
                    yield (
                        f"execution {execution.number} charged {outcome.attempts} attempts to {name!r}, "
                        f"{account.charged} could be ({account.transient} transient, "
                        f"{account.throttled} throttled)"
                    )
                unavailable = outcome.reason is Reason.UNAVAILABLE
                if unavailable and account.transient + account.throttled * this.final < plan.attempts:
                    yield (
                        f"execution {execution.number} gave up {name!r} after {account.transient} failures "
                        f"of {plan.attempts} allowed"
                    )
                yield from _cause(night, execution, outcome, name)


def _positions(night: Night) -> dict[int, str]:
    """Places as the checkpoint numbers them: by the usable rows, duplicates counted in."""
    usable = [one for one in night.plan.listings if one.active and one.account_id is not None]
    return {position: str(one.account_id) for position, one in enumerate(usable)}


def _cause(night: Night, execution: Execution, outcome: Outcome, name: str) -> Iterator[str]:
    """Nobody fails, or succeeds, without an answer that says so."""
    if outcome.state is State.SUCCEEDED:
        if outcome.scores not in night.api.given[name]:
            yield f"execution {execution.number} recorded scores for {name!r} that the API never gave"
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
        yield f"execution {execution.number} failed {name!r} for {outcome.reason}, which no answer said"


# --- the files ----------------------------------------------------------------------------------


def _files(night: Night) -> Iterator[str]:
    """What arrives is whole and right, each revision once, and its manifest after it."""
    plan = night.plan
    repeats = sum(
        execution.command == "deliver" and bool(execution.events("delivery_started"))
        for execution in night.executions
    )
    times = Counter(arrival.content for arrival in night.firm.arrivals)
    allowed = 1 + (repeats if plan.remote_consumes_file else 0)
    for content, count in times.items():
        if count > allowed:
            yield f"a file arrived {count} times: {content[:40]!r}"
    name, manifest_name = manifest.sealed_name(plan.day), manifest.manifest_name(plan.day)
    last = None
    revision = 0
    for arrival in night.firm.arrivals:
        if arrival.name == name:
            last = arrival
        elif arrival.name == manifest_name and last is not None:
            told = json.loads(arrival.content)
            if told["revision"] < revision:
                yield f"revision {told['revision']} arrived after revision {revision}"
            revision = told["revision"]
            yield from _file(night, last, told)
        else:
            yield f"{arrival.name} arrived unexpectedly"
    if night.delivered:
        if not revision:
            yield "delivered, but no file has arrived"
        elif night.run is not None and revision != night.run.revision:
            yield f"revision {night.run.revision} is recorded as delivered, {revision} has arrived"
        yield from _drop(night, last, name)


def _drop(night: Night, last: Arrival | None, name: str) -> Iterator[str]:
    leftovers = [path for path in night.firm.drop if path.endswith(".part")]
    if leftovers and not night.plan.remote_troubles:
        yield f"left in the drop folder: {leftovers}"
    if (
        not night.plan.remote_consumes_file
        and last is not None
        and night.firm.drop.get(f"/drop/{name}") != last.content
    ):
        yield "the drop folder does not hold the last file"


def _file(night: Night, arrival: Arrival, told: dict[str, object]) -> Iterator[str]:
    """Every listed active account once, in order; real scores; figures that agree."""
    plan = night.plan
    text = unseal(arrival.content)
    rows = list(csv.reader(io.StringIO(text.decode(), newline="")))[1:]
    expected = [(_guarded(account), _guarded(name)) for account, name in plan.active.items()]
    if [(row[0], row[1]) for row in rows] != expected:
        yield f"revision {told['revision']} does not hold every account once and in order"
    for account, row in zip(plan.active, rows, strict=False):
        scores = tuple(row[2:6])
        given = {tuple(map(str, each)) for each in night.api.given[account]}
        if row[6] == SUCCESS and scores not in given:
            yield f"{account!r} is a success with scores that the API never gave"
        elif row[6] == FAILED and set(scores) != {NOT_AVAILABLE}:
            yield f"{account!r} failed and has scores"
    statuses = Counter(row[6] for row in rows)
    usable = [one for one in plan.listings if one.account_id is not None]
    listed = {
        "counts": {
            "listed": len(plan.listings),
            "excluded": len(plan.listings) - len(expected),
            "rows": len(expected),
            "succeeded": statuses[SUCCESS],
            "failed": statuses[FAILED],
        },
        "excluded_by": {
            "inactive": sum(not one.active for one in usable),
            "duplicate": sum(one.active for one in usable) - len(expected),
            "refused": len(plan.listings) - len(usable),
        },
        "plaintext": {"sha256": digest(text).sha256, "bytes": len(text)},
    }
    for key, value in listed.items():
        if told[key] != value:
            yield f"the manifest says {key} {told[key]}, it is {value}"
    failed_by = told["failed_by"]
    assert isinstance(failed_by, dict)
    if sum(failed_by.values()) != statuses[FAILED]:
        yield f"the manifest's failed_by {failed_by} do not add up to {statuses[FAILED]}"
    if told["partial"] != ("not_attempted" in failed_by):
        yield f"the manifest says partial {told['partial']} with {failed_by}"
    if failed_by.get("not_attempted") and plan.on_deadline != "deliver_partial":
        yield "accounts were not attempted, and the file was not held"


def _guarded(cell: str) -> str:
    return f"'{cell}" if cell[:1] in ("=", "+", "-", "@", "\t", "\r") and cell else cell


def _trail(night: Night) -> Iterator[str]:
    """The audit trail knows every sealed and every delivered revision."""
    if night.run is None or not night.delivered:
        return
    noted = Counter((action, details.get("revision")) for action, details in night.firm.trail)
    for revision in range(1, night.run.revision + 1):
        if not noted["sealed", revision]:
            yield f"the audit trail does not know that revision {revision} was sealed"
    arrived = {
        json.loads(each.content)["revision"] for each in night.firm.arrivals if each.name.endswith(".json")
    }
    for revision in arrived:
        if not noted["delivered", revision]:
            yield f"the audit trail does not know that revision {revision} was delivered"
    actions = Counter(action for action, _ in night.firm.trail)
    if not actions["accounts_enrolled"]:
        yield "the audit trail does not know that accounts were enrolled"
    if night.run.approval is not None and not actions["approved"]:
        yield "the audit trail does not know of an approval"
    if night.run.revision > 1 and not actions["rerun"]:
        yield "the audit trail does not know of a rerun"


def _same(night: Night, undisturbed: Night) -> Iterator[str]:
    """The file is the one that a night without trouble makes, byte for byte."""
    ours, theirs = (_last_plaintext(each) for each in (night, undisturbed))
    if not undisturbed.delivered:
        yield f"the undisturbed night was not delivered: {undisturbed.executions[-1]}"
    elif night.delivered and ours != theirs:
        differing = sum(a != b for a, b in zip(ours.split(b"\r\n"), theirs.split(b"\r\n"), strict=False))
        yield f"{differing} rows differ from the undisturbed night's"


def _last_plaintext(night: Night) -> bytes:
    files: Iterable[Arrival] = (each for each in night.firm.arrivals if not each.name.endswith(".json"))
    return unseal([*files][-1].content) if night.firm.arrivals else b""
