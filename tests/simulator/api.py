"""The ESG API of a simulated night, the client's engine, and a dispatcher that is watched."""

from __future__ import annotations

import heapq
import math
import random
from collections import Counter, defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from decimal import Decimal
from hashlib import blake2b

from esgbatch.fetching.dispatcher import Dispatcher
from esgbatch.fetching.ticket import Backlog, Ended
from esgbatch.model import Answer, Reason, Verdict, Work
from tests.simulated import SimulatedEngine
from tests.simulator.plan import VERDICTS, Plan, Weather
from tests.simulator.world import Process

TIMEOUT = 30.0
RESTART = 3600.0  # the API's owner restarts what dies slowly
MENDED = 8 * RESTART  # and finds out why
MAX_REDIRECTS = 5
STATUS = {"no_rating": 404, "bad_rating": 200, "rejected": 422, "forbidden": 403, "broken": 500}
SPIN = 50


class Runaway(BaseException):
    """The job does not end: it goes round without anything happening, or far too long."""


@dataclass(slots=True)
class Session:
    """What a client process holds: its token, and where its accounts were redirected to."""

    token_from: float
    hops: Counter[str] = field(default_factory=Counter)


class NightApi:
    """Answers as the plan says; remembers what it answered, over all processes.

    The scores depend on the account alone, or, in an unsteady night, on how often it
    was rated before, so that a score that was never given is found.
    """

    def __init__(self, plan: Plan) -> None:
        self._plan = plan
        self._dice = random.Random(f"api {plan.seed}")
        self.given: defaultdict[str, list[tuple[Decimal, ...]]] = defaultdict(list)
        self.answers: defaultdict[str, list[Answer]] = defaultdict(list)
        self.verdicts: Counter[Verdict] = Counter()

    def ask(self, account: str, now: float, session: Session) -> tuple[float, Answer]:
        latency = self._latency(now)
        answer = self._answer(account, now, latency, session)
        if answer.verdict is Verdict.TRANSIENT or answer.elapsed:
            latency = min(answer.elapsed or latency, TIMEOUT)
        if answer.verdict is Verdict.RATED:
            self.given[account].append(answer.scores)
        self.answers[account].append(answer)
        self.verdicts[answer.verdict] += 1
        return latency, answer

    def _latency(self, now: float) -> float:
        median, sigma = self._plan.latency
        drawn = self._dice.lognormvariate(math.log(median), sigma)
        dying = now % RESTART if now < MENDED else 0.0
        return max(0.01, min(drawn, 13.0)) * (1 + self._plan.growth * dying / 60)

    def _answer(self, account: str, now: float, latency: float, session: Session) -> Answer:
        plan = self._plan
        for weather in plan.weather:
            # An outage breaks the requests, too, that are under way when it begins.
            begins = weather.start - latency if weather.kind == "down" else weather.start
            if begins <= now < weather.end:
                return _in(weather, now)
        if latency >= TIMEOUT:
            return Answer(Verdict.TRANSIENT, detail="timed out", elapsed=TIMEOUT)
        if now - session.token_from >= plan.token_life:
            return Answer(Verdict.UNAUTHORIZED, http_status=401, detail="HTTP 401")
        fault = plan.faults.get(account)
        luck = self._dice.random
        if fault == "redirected" or (
            fault is None and luck() < plan.redirect_rate and not session.hops[account]
        ):
            session.hops[account] += 1
            if session.hops[account] <= MAX_REDIRECTS:
                return Answer(Verdict.REDIRECTED, http_status=307, detail="HTTP 307")
            return Answer(Verdict.TRANSIENT, http_status=307, detail="more than 5 redirects")
        session.hops[account] = 0
        if fault is not None:
            reason = Reason(fault) if VERDICTS[fault] in (Verdict.FAILED, Verdict.FORBIDDEN) else None
            wait = 5.0 if fault == "throttled" else None
            return Answer(VERDICTS[fault], reason=reason, http_status=STATUS.get(fault, 429), retry_after=wait)
        if luck() < plan.throttle_rate:
            wait = self._dice.choice([None, 0.5, 2.0, 10.0])
            return Answer(Verdict.THROTTLED, http_status=self._dice.choice([429, 503]), retry_after=wait)
        if luck() < plan.error_rate:
            return Answer(
                Verdict.TRANSIENT, http_status=self._dice.choice([500, 502, 503, None]), detail="bad luck"
            )
        return Answer(Verdict.RATED, scores=self._scores(account), http_status=200)

    def _scores(self, account: str) -> tuple[Decimal, ...]:
        version = 0 if self._plan.steady else len(self.given[account])
        digest = blake2b(f"{account} {version}".encode(), digest_size=16).digest()
        cents = (int.from_bytes(digest[at : at + 4]) % 10001 for at in range(0, 16, 4))
        return tuple(Decimal(each).scaleb(-2) for each in cents)


def _in(weather: Weather, now: float) -> Answer:
    elapsed = weather.latency
    match weather.kind:
        case "down":
            return Answer(Verdict.TRANSIENT, http_status=weather.status, detail="down", elapsed=elapsed)
        case "throttled":
            wait = weather.retry_after
            if wait == 0.0:
                wait = math.ceil(weather.end - now)  # an honest server says when it will be over
            return Answer(Verdict.THROTTLED, http_status=429, retry_after=wait, elapsed=elapsed)
        case "unauthorized":
            return Answer(Verdict.UNAUTHORIZED, http_status=401, elapsed=elapsed)
        case "revoked":
            return Answer(Verdict.FORBIDDEN, reason=Reason.FORBIDDEN, http_status=403, elapsed=elapsed)
        case "login refused":
            return Answer(Verdict.LOGIN_REFUSED, detail="HTTP 400", elapsed=elapsed)


class NightEngine(SimulatedEngine):
    """Attempts of one process; they die with it."""

    def __init__(self, process: Process, api: NightApi, abort: float, log: Callable[[object], None]) -> None:
        self._session = Session(process.clock.now)
        super().__init__(process.clock, lambda account, now: api.ask(account, now, self._session))
        self._process = process
        self._abort = abort
        self._log = log
        self._spins = 0
        self.rounds = 0

    def submit(self, work: Work) -> None:
        self._process.comes_to("start")
        self._spins = 0
        super().submit(work)

    def collect(self, timeout: float) -> Sequence[tuple[Work, Answer]]:
        self._process.comes_to("collect")
        clock = self._process.clock
        before = clock.now
        until = clock.now + timeout
        if self._under_way:
            until = min(until, self._under_way[0][0])
        # A wait of nothing still costs a moment, as on a real machine.
        clock.advance(max(until, clock.now + 1e-6))
        answers = self._finished(clock.now)
        self.rounds += 1
        self._spins = self._spins + 1 if not answers and clock.now - before < 1e-5 else 0
        if self._spins > SPIN:
            raise Runaway(
                f"{SPIN} rounds in which nothing happened, {clock.now:.3f} s after the night's beginning"
            )
        return answers

    def _finished(self, now: float) -> list[tuple[Work, Answer]]:
        answers = []
        while self._under_way and self._under_way[0][0] <= now:
            at, _, work, answer = heapq.heappop(self._under_way)
            answers.append((work, answer))
            if answer.verdict is Verdict.UNAUTHORIZED and answer.started >= self._session.token_from:
                self._session.token_from = at  # the token that was refused is the one we hold
        return answers

    def close(self, grace: float) -> Sequence[tuple[Work, Answer]]:
        """Whatever is not answered when the abort takes effect becomes transient, or is given up."""
        self.closed = True
        if self._process.dead or not self._under_way:
            self._under_way.clear()
            return []
        clock = self._process.clock
        clock.sleep(min(self._abort, grace, max(at for at, *_ in self._under_way) - clock.now))
        answers = self._finished(clock.now)
        for work, answer in answers:
            if answer.verdict in (Verdict.RATED, Verdict.FAILED):
                self._log(Settled(clock.now, work.account_id, answer, probe=work.position < 0))
        if self._abort <= grace:
            answers += [
                (work, replace(answer, verdict=Verdict.TRANSIENT, scores=(), detail="stopped"))
                for _, _, work, answer in self._under_way
            ]
        self._under_way.clear()
        return answers


@dataclass(frozen=True, slots=True)
class Settled:
    """An answer as the dispatcher took it: in which pass, and whether its circuit was open."""

    at: float
    account: str
    answer: Answer
    probe: bool
    final: bool = False
    open: bool = False


class WatchedDispatcher(Dispatcher):
    """The real one; what it takes and how its passes end is written to `log`."""

    log: Callable[[object], None]

    def run(self, backlog: Backlog, *, final: bool, remaining: Callable[[], float]) -> Ended:
        self.log(("pass", final))
        ended = super().run(backlog, final=final, remaining=remaining)
        self.log(("ended", final, ended))
        return ended

    def _settle(self, work: Work, answer: Answer) -> None:
        now, account = self._clock.monotonic(), work.account_id
        self.log(Settled(now, account, answer, work.position < 0, self._final, self._circuit.is_open))
        super()._settle(work, answer)
