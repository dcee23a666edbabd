"""The ESG Portfolio Analysis API, with the gateway before it.

`GET /v1/accounts/{percent-encoded id}/esg`, or `POST /v1/esg` with `{"accountId": …}`.
A request passes the outage, the rate limit and the token first; only then does it count
as an attempt on an account, and can the account's own fault, or chance, spoil it.
"""

from __future__ import annotations

import json
import math
import time
from array import array
from collections import Counter, deque
from email.utils import formatdate
from statistics import NormalDist
from urllib.parse import unquote_to_bytes

from esgbatch.sandbox.data import Firm
from esgbatch.sandbox.dice import Dice
from esgbatch.sandbox.faults import AccountFault, Board, Faults
from esgbatch.sandbox.login import Login
from esgbatch.sandbox.web import HTML, JSON, Fate, Reply, Request, problem

PREFIX = b"/v1/accounts/"
SUFFIX = b"/esg"
POST_PATH = b"/v1/esg"
CHALLENGE = JSON + b'WWW-Authenticate: Bearer error="invalid_token"\r\n'
TRANSIENT = (500, 502, 503, 504)

REFUSALS = {
    "no_rating": (404, "no rating"),
    "gone": (410, "the account has left"),
    "rejected": (422, "the portfolio cannot be analysed"),
    "forbidden": (403, "not your account"),
    "unauthorized": (401, "not with this token"),
    "always_500": (500, "internal error"),
}
# The governance score is written like this, or left out.
BAD_SCORES = {
    "bad_missing": "",
    "bad_null": "null",
    "bad_nan": "NaN",
    "bad_nan_text": '"NaN"',
    "bad_range": "100.005",
    "bad_text": '"n/a"',
    "bad_bool": "true",
}
PAGE = b"<!doctype html><title>Maintenance</title><p>We are working on it. Please come back later.</p>"
NORMAL = NormalDist()


class Window:
    """The requests of the last second, to the instant."""

    def __init__(self) -> None:
        self._times: deque[float] = deque()
        self.most = 0

    def add(self, now: float) -> None:
        times = self._times
        self._forget(now)
        times.append(now)
        self.most = max(self.most, len(times))

    def full(self, now: float, limit: float) -> float:
        """Seconds until there is room again; 0 if there is."""
        self._forget(now)
        return self._times[0] + 1.0 - now if len(self._times) >= limit else 0.0

    def _forget(self, now: float) -> None:
        times = self._times
        while times and times[0] <= now - 1.0:
            times.popleft()


class Arrivals:
    """When requests came: monotonic seconds, the same for every process of this machine."""

    def __init__(self) -> None:
        self.first: float | None = None
        self.last: float | None = None
        self.by_second = array("I")
        self._window = Window()

    @property
    def most(self) -> int:
        """The most in any second."""
        return self._window.most

    def add(self, now: float) -> None:
        self._window.add(now)
        if self.first is None:
            self.first = now
        self.last = now
        second = int(now - self.first)
        if second >= len(self.by_second):
            self.by_second.extend([0] * (second + 1 - len(self.by_second)))
        self.by_second[second] += 1


class EsgApi:
    def __init__(self, firm: Firm, dice: Dice, board: Board, login: Login | None, as_of: str) -> None:
        self._firm = firm
        self._dice = dice
        self._board = board
        self._login = login
        self._opening = f'", "asOf": "{as_of}", "scores": {{'
        self._attempts = array("I", [0]) * firm.accounts
        self._arrivals = Arrivals()
        self._taken = Window()
        self._since_hold = 0
        self._hold_ends = 0.0
        self._held = 0
        self._unknown = 0

    def counts(self) -> dict[str, object]:
        """The counters, for the control endpoint."""
        attempts = Counter(self._attempts)
        return {
            "max_per_second": self._arrivals.most,
            "first_arrival": self._arrivals.first,
            "last_arrival": self._arrivals.last,
            "arrivals_by_second": self._arrivals.by_second.tolist(),
            "during_retry_after": self._held,
            "unknown_accounts": self._unknown,
            "accounts_by_attempts": {str(number): attempts[number] for number in sorted(attempts)},
            "faulty_attempts": {key: fault.attempts for key, fault in self._board.accounts.items()},
        }

    def forget_arrivals(self) -> None:
        """Begin to count them anew."""
        self._arrivals = Arrivals()

    def handle(self, request: Request) -> Reply:
        now = time.monotonic()
        self._arrivals.add(now)
        return self._gateway(request, now) or self._analyse(request)

    # --- before any account -----------------------------------------------------------------------

    def _gateway(self, request: Request, now: float) -> Reply | None:
        faults = self._board.current()
        if faults.outage:
            fate = Fate.DROPPED if faults.outage == "close" else Fate.WHOLE
            return problem(503, "out of service")._replace(fate=fate)
        if (faults.rate_limit or faults.retry_after_every) and (reply := self._throttle(faults, now)):
            return reply
        if self._login is not None and not self._login.accepts(request.authorization):
            return problem(401, "invalid_token", CHALLENGE)
        return problem(403, "forbidden") if faults.forbidden_all else None

    def _throttle(self, faults: Faults, now: float) -> Reply | None:
        if now < self._hold_ends:
            self._held += 1
            return _wait(faults, faults.retry_after_status, self._hold_ends - now)
        if faults.retry_after_every:
            self._since_hold += 1
            if self._since_hold > faults.retry_after_every:
                self._since_hold = 0
                self._hold_ends = now + faults.retry_after_seconds
                return _wait(faults, faults.retry_after_status, faults.retry_after_seconds)
        if faults.rate_limit:
            if seconds := self._taken.full(now, faults.rate_limit):
                return _wait(faults, 429, seconds)
            self._taken.add(now)
        return None

    # --- one account ------------------------------------------------------------------------------

    def _analyse(self, request: Request) -> Reply:
        try:
            account_id = _account_id(request)
        except ValueError:
            return problem(400, "the body is not what it should be")
        index = None if account_id is None else self._firm.index_of(account_id)
        if account_id is None or index is None:
            self._unknown += 1
            return problem(404, "no such account")
        self._attempts[index] += 1
        attempt = self._attempts[index]
        faults, faulty = self._board.current(), self._board.accounts
        reply = None
        if faulty and (fault := faulty.get(account_id)):
            fault.attempts += 1
            reply = self._spoiled(index, account_id, fault)
        if reply is None and faults.error_rate:
            reply = self._mishap(faults.error_rate, index, attempt)
        if reply is None:
            reply = Reply(200, self._body(index, account_id))
        if faults.latency:
            reply = reply._replace(delay=reply.delay + self._latency(faults, index, attempt))
        return reply

    def _spoiled(self, index: int, account_id: str, fault: AccountFault) -> Reply | None:
        """The answer for an account that something is wrong with; None where that is over."""
        kind = fault.kind
        if kind in REFUSALS:
            return problem(*REFUSALS[kind])
        if kind in BAD_SCORES:
            return Reply(200, self._body(index, account_id, BAD_SCORES[kind]))
        if kind == "flaky":
            return problem(503, "try again") if fault.attempts <= fault.number else None
        if kind == "html":
            return Reply(200, PAGE, HTML)
        body = self._body(index, account_id)
        if kind == "huge":
            return Reply(200, body + b" " * (1 << 20))
        if kind == "reset":
            return Reply(200, body, fate=Fate.CUT)
        return Reply(200, body, delay=fault.number)

    def _mishap(self, rate: float, index: int, attempt: int) -> Reply | None:
        if self._dice.uniform(b"error", index, attempt) >= rate:
            return None
        return problem(TRANSIENT[self._dice.bits(b"which error", index, attempt) & 3], "try again")

    def _body(self, index: int, account_id: str, bad: str | None = None) -> bytes:
        """The answer. `bad` is written as the governance score; where it is empty there is none."""
        environmental, social, governance, overall = self._firm.literals(index)
        third = f'"governance": {governance}, '
        if bad is not None:
            third = f'"governance": {bad}, ' if bad else ""
        if account_id[:2] != "A-":
            account_id = json.dumps(account_id, ensure_ascii=False)[1:-1]
        return (
            f'{{"accountId": "{account_id}{self._opening}"environmental": {environmental}, '
            f'"social": {social}, {third}"overall": {overall}}}}}'
        ).encode()

    def _latency(self, faults: Faults, index: int, attempt: int) -> float:
        """Seconds; lognormal with the wanted mean: exp(mu + sigma z) has the mean exp(mu + sigma²/2)."""
        if not faults.latency_sigma:
            return faults.latency
        z = NORMAL.inv_cdf(self._dice.uniform(b"latency", index, attempt))
        return faults.latency * math.exp(faults.latency_sigma * (z - faults.latency_sigma / 2))


def _account_id(request: Request) -> str | None:
    """The ID that a request asks for, None for another resource; ValueError where the body is bad."""
    target = request.target
    if request.method == b"GET" and target.startswith(PREFIX) and target.endswith(SUFFIX):
        segment = target[len(PREFIX) : -len(SUFFIX)]
        if b"/" in segment or b"?" in segment:
            return None
        return (unquote_to_bytes(segment) if b"%" in segment else segment).decode()
    if request.method == b"POST" and target == POST_PATH:
        asked = json.loads(request.body)
        if not isinstance(asked, dict) or not isinstance(account_id := asked.get("accountId"), str):
            raise ValueError
        return account_id
    return None


def _wait(faults: Faults, status: int, seconds: float) -> Reply:
    """429 or 503 with Retry-After (RFC 9110, 10.2.3), which knows whole seconds only."""
    if faults.retry_after_date:
        after = formatdate(math.ceil(time.time() + seconds), usegmt=True)
    else:
        after = str(math.ceil(seconds))
    return problem(status, "too many requests", JSON + f"Retry-After: {after}\r\n".encode())
