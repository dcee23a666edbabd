"""The loop that owns time: what to ask, when, and what an answer leads to.

One thread runs it. Workers make single attempts and never sleep; a retry waits in a
heap, a `Retry-After` is an instant before which nothing starts, an outage is a state.
Everything is decided against the injected clock, so that a night can be simulated.
"""

from __future__ import annotations

import heapq
import itertools
import math
from collections import deque
from collections.abc import Callable
from decimal import Decimal

from esgbatch.errors import CheckpointError, CredentialsRefused, OutageTooLong
from esgbatch.fetching.circuit import Circuit
from esgbatch.fetching.limiter import RateLimiter
from esgbatch.fetching.retry import Backoff
from esgbatch.fetching.ticket import Backlog, Concurrency, Ended, Pace, Ticket
from esgbatch.model import Answer, Outcome, Quota, Reason, State, Verdict, Work
from esgbatch.ports import Clock, Engine, Listener

FORBIDDEN_IN_A_ROW = 20
FLUSH_SECONDS = 0.5
TICK_SECONDS = 0.25
STOP_GRACE = 1.5
SHORTEST_RATION = 1.0
PAGE = 1000
NOBODY = -1


class Dispatcher:
    """Rates everything in a backlog.

    Args:
        attempts: charged attempts an account gets in one pass.
        max_hold: seconds without any answer of a working API before the run gives up;
            infinite where a deadline decides instead.
        remaining: seconds until this pass must end.
        stopped: whether somebody asked to stop.
        tick: called about twice a second.
    """

    def __init__(
        self,
        engine: Engine,
        limiter: RateLimiter,
        concurrency: Concurrency,
        backoff: Backoff,
        clock: Clock,
        listener: Listener,
        *,
        attempts: int,
        commit_every: int,
        max_hold: float,
        stopped: Callable[[], bool],
        tick: Callable[[Pace], None],
    ) -> None:
        limiter.begin(clock.monotonic())
        self._engine = engine
        self._limiter = limiter
        self._concurrency = concurrency
        self._backoff = backoff
        self._clock = clock
        self._listener = listener
        self._attempts = attempts
        self._commit_every = commit_every
        self._max_hold = max_hold
        self._stopped = stopped
        self._tick = tick
        self.pace = Pace()
        self._good: str | None = None
        self._asked_for_good = False

    def run(self, backlog: Backlog, *, final: bool, remaining: Callable[[], float]) -> Ended:
        """Ask until every account of the backlog has an outcome, or until stopped or out of time.

        In the final pass every attempt is charged and no circuit opens, so that it ends
        whatever the API answers.

        Raises:
            CredentialsRefused: the API or its login server does not accept us.
            OutageTooLong: nothing but failures for `max_hold` seconds.
        """
        self._begin(backlog, final)
        try:
            ended = self._loop(remaining)
        except CheckpointError:
            raise
        except BaseException:
            self._abandon()
            raise
        if ended is not Ended.COMPLETE:
            self._abandon()
        self._flush()
        return ended

    def wake(self) -> None:
        """Let the loop look at once whether it should stop; safe in a signal handler."""
        self._engine.wake()

    def close(self) -> None:
        """Give the threads back."""
        self._engine.close(0.0)

    def _begin(self, backlog: Backlog, final: bool) -> None:
        now = self._clock.monotonic()
        self._backlog, self._final = backlog, final
        self._fresh: deque[Work] = deque()
        self._exhausted = False
        self._retries: list[tuple[float, int, Ticket]] = []
        self._order = itertools.count()
        self._under_way: dict[int, Ticket] = {}
        self._forbidden: deque[tuple[float, Ticket]] = deque()
        self._refusals = 0
        self._outcomes: list[Outcome] = []
        self._flush_at = now + FLUSH_SECONDS
        self._tick_at = now
        self._circuit = Circuit()
        self._probing: int | None = None
        self._probes = 0
        self._throttles, self._throttled_at = 0, -math.inf
        self._stalled_since: float | None = None
        self._full = False
        self.pace.held, self.pace.held_until = "", -math.inf

    def _loop(self, remaining: Callable[[], float]) -> Ended:
        while True:
            if self._stopped():
                return Ended.STOPPED
            left = remaining()
            now = self._clock.monotonic()
            if left <= 0 or (self._stalled_too_long(now) and self._final):
                return Ended.OUT_OF_TIME
            if self._stalled_too_long(now):
                why = self.pace.held or "errors"
                raise OutageTooLong(f"The ESG API gave no usable answer for {self._max_hold:.0f} s ({why}).")
            self._submit(now)
            if not self._under_way and not self._retries and not self._more():
                self._accept_forbidden()
                return Ended.COMPLETE
            for work, answer in self._engine.collect(min(self._wait(now), left)):
                self._settle(work, answer)
            self._housekeeping()

    def _abandon(self) -> None:
        """Take what is under way off the road, keep the answers that came, leave the rest pending."""
        for work, answer in self._engine.close(STOP_GRACE):
            ticket = self._under_way.pop(work.position)
            if work.position != NOBODY and answer.verdict in (Verdict.RATED, Verdict.FAILED):
                self._conclude(ticket, answer)
        self._flush()

    # --- starting attempts ---

    def _submit(self, now: float) -> None:
        if self._full and self._limiter.delay(now) <= 0:
            self._concurrency.starved()
        self._full = False
        if now < self.pace.held_until:
            return
        if self._circuit.is_open:
            self._probe(now)
            return
        while self._limiter.delay(now) <= 0:
            due = bool(self._retries) and self._retries[0][0] <= now
            if not due and not self._more():
                return
            if len(self._under_way) >= self._concurrency.value or not self._limiter.acquire(now):
                break
            self._start(heapq.heappop(self._retries)[2] if due else Ticket(self._fresh.popleft()))
            now = self._clock.monotonic()
        self._full = len(self._under_way) >= self._concurrency.value

    def _probe(self, now: float) -> None:
        if self._probing is not None or now < self._circuit.next_probe:
            return
        if not (self._known_good() or self._more() or self._retries) or not self._limiter.acquire(now):
            return
        self._probes += 1
        ticket = self._probe_ticket()
        self._probing = ticket.work.position
        self._start(ticket)

    def _probe_ticket(self) -> Ticket:
        """Whom to ask: an account known to be good, since only its failure is surely the API's.

        Every second time it is one from anywhere in the list: the known one may have gone bad, and
        the next ones in order may all be as broken as those that opened the circuit.
        """
        account_id = self._good if self._probes % 2 else None
        account_id = account_id or self._backlog.anyone() or self._good
        return heapq.heappop(self._retries)[2] if account_id is None else Ticket(Work(NOBODY, account_id))

    def _known_good(self) -> str | None:
        if not self._good and not self._asked_for_good:
            self._asked_for_good = True
            self._good = self._backlog.known_good()
        return self._good

    def _start(self, ticket: Ticket) -> None:
        ticket.started = self._clock.monotonic()
        if ticket.first_attempt is None:
            ticket.first_attempt = self._clock.time()
        self._under_way[ticket.work.position] = ticket
        self._engine.submit(ticket.work)

    def _more(self) -> bool:
        if not self._fresh and not self._exhausted:
            self._fresh.extend(self._backlog.next(PAGE))
            self._exhausted = not self._fresh
        return bool(self._fresh)

    def _wait(self, now: float) -> float:
        """Seconds until something can start or must be done; an answer ends the wait early."""
        until = min(self._tick_at, self._flush_at) if self._outcomes else self._tick_at
        if now < self.pace.held_until:
            until = min(until, self.pace.held_until)
        elif self._circuit.is_open:
            # Where nothing is left to probe with, all is under way, and the next answer is awaited.
            if self._probing is None and (self._fresh or self._good or self._retries):
                until = min(until, max(self._circuit.next_probe, now + self._limiter.delay(now)))
        elif len(self._under_way) < self._concurrency.value:
            slot = now + self._limiter.delay(now)
            if self._fresh:
                until = min(until, slot)
            elif self._retries:
                until = min(until, max(slot, self._retries[0][0]))
        return max(0.0, until - now)

    # --- taking answers ---

    def _settle(self, work: Work, answer: Answer) -> None:
        self._limiter.release()
        ticket = self._under_way.pop(work.position)
        probed = work.position == self._probing
        if probed:
            self._probing = None
        if answer.verdict is Verdict.LOST:
            self._lost(ticket)
            return
        self.pace.attempts += 1
        self.pace.answers[answer.verdict] += 1
        ticket.http_status = answer.http_status
        ticket.last_attempt = self._clock.time()
        if answer.verdict is Verdict.LOGIN_REFUSED:
            raise CredentialsRefused(f"The ESG API's login server refused us: {answer.detail}.")
        if answer.verdict is Verdict.TRANSIENT:
            self._failed(ticket, answer, probed)
            return
        if self._circuit.disturbed:
            self._alive()
        if answer.quota is not None:
            self._ration(answer.quota)
        if answer.verdict is Verdict.THROTTLED:
            self._throttled(ticket, answer)
            return
        self._throttles, self._throttled_at = 0, -math.inf
        if answer.verdict is Verdict.REDIRECTED or self._renews(ticket, answer):
            self._again(ticket, 0.0)
        elif work.position == NOBODY:
            self._good = self._good or work.account_id
            self._progressed()
        elif answer.verdict in (Verdict.FORBIDDEN, Verdict.UNAUTHORIZED):
            self._refused(ticket)
        else:
            self._refusals = 0
            self._accept_forbidden(ticket.started)
            self._conclude(ticket, answer)
            self._progressed()
            self.pace.latency.add(answer.elapsed)
            self._concurrency.observe(answer.elapsed)

    def _renews(self, ticket: Ticket, answer: Answer) -> bool:
        """A 401 is answered once with a renewed login; the second in a row is a refusal."""
        first = answer.verdict is Verdict.UNAUTHORIZED and not ticket.renewed
        ticket.renewed = first
        return first

    def _lost(self, ticket: Ticket) -> None:
        """The permit is spent, the account is as it was; a lost probe leaves the next one due at once."""
        if ticket.last_attempt is None:
            ticket.first_attempt = None
        self._again(ticket, 0.0)

    def _again(self, ticket: Ticket, delay: float) -> None:
        if ticket.work.position != NOBODY:
            due = self._clock.monotonic() + delay
            heapq.heappush(self._retries, (due, next(self._order), ticket))

    def _failed(self, ticket: Ticket, answer: Answer, probed: bool) -> None:
        now = self._clock.monotonic()
        ticket.renewed = False
        if self._circuit.is_open:
            self._again(ticket, 0.0)
            if probed:
                self._listener.event("circuit_probe", result=answer.detail)
                self._refund(self._circuit.probe_failed(now))
            return
        if ticket.work.position == NOBODY:
            return
        ticket.attempts += 1
        if not self._final and self._circuit.failure(now, ticket.work.position):
            self._stall(now, "outage")
            self._probes = 0
            self._listener.event("circuit_opened", accounts=self._circuit.accounts, error=answer.detail)
        if ticket.attempts < self._attempts:
            self._again(ticket, self._backoff.delay(ticket.attempts))
        else:
            self._unavailable(ticket)

    def _refund(self, charges: dict[int, int]) -> None:
        if charges:
            for ticket in (*(ticket for _, _, ticket in self._retries), *self._under_way.values()):
                ticket.attempts = max(0, ticket.attempts - charges.get(ticket.work.position, 0))

    def _throttled(self, ticket: Ticket, answer: Answer) -> None:
        now = self._clock.monotonic()
        if ticket.started >= self._throttled_at:
            # One burst is one refusal, however many were under way.
            self._throttles += 1
            self._throttled_at = now
        wait = answer.retry_after
        if wait is None:
            wait = min(self._backoff.base * 2.0 ** min(self._throttles - 1, 64), self._backoff.maximum)
        self._stall(now, "throttled")
        if now + wait > self.pace.held_until:
            self.pace.held_until = now + wait
            self._listener.event("throttled", until=self._clock.time() + wait, seconds=wait)
        if self._final:
            ticket.attempts += 1
            if ticket.attempts >= self._attempts:
                self._unavailable(ticket)
                return
        self._again(ticket, 0.0)

    def _ration(self, quota: Quota) -> None:
        """Make what is left of the API's quota last, less what is under way; never faster than configured.

        Headers know whole seconds, so a window of one second says nothing that the limit does
        not know better; where it is used up, a 429 says how long to wait.
        """
        now = self._clock.monotonic()
        if quota.seconds <= SHORTEST_RATION:
            return
        left = quota.remaining - len(self._under_way)
        if left >= 1:
            self._limiter.slow_down(quota.seconds / left, now + quota.seconds)
        elif now + quota.seconds > self.pace.held_until:
            self._stall(now, "throttled")
            self.pace.held_until = now + quota.seconds
            until = self._clock.time() + quota.seconds
            self._listener.event("throttled", until=until, seconds=quota.seconds)

    def _refused(self, ticket: Ticket) -> None:
        """A 403 is one account's until twenty stand in a row; then it was us, and they stay pending."""
        self._forbidden.append((self._clock.monotonic(), ticket))
        self._refusals += 1
        if self._refusals >= FORBIDDEN_IN_A_ROW:
            raise CredentialsRefused(
                f"The ESG API refused our credentials for {self._refusals} accounts in a row "
                f"(HTTP {ticket.http_status})."
            )

    # --- outages and holds ---

    def _alive(self) -> None:
        opened = self._circuit.opened_at
        if self._circuit.alive() and opened is not None:
            self.pace.held = ""
            self._listener.event("circuit_closed", seconds=self._clock.monotonic() - opened)

    def _stall(self, now: float, why: str) -> None:
        self.pace.held = why
        if self._stalled_since is None:
            self._stalled_since = now

    def _progressed(self) -> None:
        self._stalled_since = None
        if self.pace.held and self._clock.monotonic() >= self.pace.held_until:
            self.pace.held = ""

    def _stalled_too_long(self, now: float) -> bool:
        return self._stalled_since is not None and now - self._stalled_since >= self._max_hold

    # --- outcomes ---

    def _conclude(self, ticket: Ticket, answer: Answer) -> None:
        ticket.attempts += 1
        if answer.verdict is Verdict.RATED or not self._good:
            self._good = ticket.work.account_id
        if answer.verdict is Verdict.RATED:
            self._outcome(ticket, State.SUCCEEDED, scores=answer.scores)
        else:
            self._outcome(ticket, State.FAILED, reason=answer.reason)

    def _accept_forbidden(self, answered_since: float = math.inf) -> None:
        """A refusal was the account's own if an attempt that started after it was answered.

        An answer to one that started before says nothing of the credentials since.
        """
        while self._forbidden and self._forbidden[0][0] <= answered_since:
            _, ticket = self._forbidden.popleft()
            ticket.attempts += 1
            self._outcome(ticket, State.FAILED, reason=Reason.FORBIDDEN)

    def _unavailable(self, ticket: Ticket) -> None:
        state = State.FAILED if self._final else State.DEFERRED
        self._outcome(ticket, state, reason=Reason.UNAVAILABLE)

    def _outcome(
        self,
        ticket: Ticket,
        state: State,
        *,
        scores: tuple[Decimal, ...] = (),
        reason: Reason | None = None,
    ) -> None:
        self.pace.count(state, reason)
        self._outcomes.append(
            Outcome(
                position=ticket.work.position,
                state=state,
                scores=scores,
                reason=reason,
                http_status=ticket.http_status,
                attempts=ticket.attempts,
                first_attempt=ticket.first_attempt,
                last_attempt=ticket.last_attempt,
            )
        )
        if state is State.FAILED:
            self._listener.event(
                "account_failed",
                account_id=ticket.work.account_id,
                reason=reason,
                http_status=ticket.http_status,
                attempts=ticket.attempts,
            )

    def _housekeeping(self) -> None:
        now = self._clock.monotonic()
        # One or the other in a turn, so that what is due meanwhile starts in between.
        if len(self._outcomes) >= self._commit_every or (self._outcomes and now >= self._flush_at):
            self._flush()
        else:
            self._backlog.tend()
        if now >= self._tick_at:
            if self._concurrency.adjust(now):
                self._listener.event("concurrency_changed", value=self._concurrency.value)
            self._tick_at = now + TICK_SECONDS
            self._show()

    def _flush(self) -> None:
        outcomes, self._outcomes = self._outcomes, []
        if outcomes:
            self._backlog.record(outcomes)
        self._flush_at = self._clock.monotonic() + FLUSH_SECONDS

    def _show(self) -> None:
        self.pace.in_flight = len(self._under_way)
        self.pace.waiting = len(self._retries)
        self.pace.concurrency = self._concurrency.value
        self._tick(self.pace)
