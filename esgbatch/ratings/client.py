"""The firm's ESG API: one attempt, and what its answer means (interface.md, 4)."""

from __future__ import annotations

import json
import string
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from urllib.parse import quote

from pydantic import TypeAdapter

from esgbatch.config.model import Ratings, WebUrl
from esgbatch.errors import ConfigError
from esgbatch.http.auth import Authenticator, Credential, LoginRefused, LoginUnavailable
from esgbatch.http.trust import origin
from esgbatch.model import Answer, Reason, Verdict
from esgbatch.ratings.mapping import BadRating, NotJson, RatingMapper
from esgbatch.ratings.transport import MAX_BODY, BeforeSending, Connection, Connections, ExchangeFailed, NotSent

MAX_REDIRECTS = 5
PLACEHOLDER = "{account_id}"

# RFC 9110, 15.4: all but the last two may turn a POST into a GET, and clients do.
_REDIRECTS = (301, 302, 303, 307, 308)
_REDIRECTS_WITH_BODY = (307, 308)

_address = TypeAdapter[str](WebUrl)


@dataclass(slots=True)
class _Request:
    """What one attempt sends; `trusted` with the credential. `hops` redirects led here."""

    url: str
    body: bytes | None
    trusted: bool = True
    hops: int = 0


@dataclass(slots=True)
class Attempt:
    """A request that its connection is set to. `started` is on the monotonic clock."""

    account_id: str
    request: _Request
    credential: Credential | None
    connection: Connection
    started: float


class CurlRatings:
    """A `RatingProvider` over HTTP.

    One call of `rate` is one request: libcurl neither follows a redirect nor repeats
    anything, so that each request has passed the dispatcher's limiter.
    """

    def __init__(
        self,
        config: Ratings,
        authenticator: Authenticator,
        *,
        before_sending: BeforeSending = lambda: None,
    ) -> None:
        """`before_sending` is called before each request, once its connection is ready.

        Where it returns False nothing is sent, and the attempt is `LOST`.

        Raises:
            ConfigError: certificate files, or a body, that cannot be used.
        """
        self._api = EsgApi(config, authenticator)
        self._connections = Connections(config, before_sending)

    def abort(self) -> None:
        """End every attempt under way, and make every later one `TRANSIENT` without a request.

        Only the look-up of a host's name and a log-in that are under way go on, each to its
        own time limit.
        """
        self._connections.end()

    def rate(self, account_id: str) -> Answer:
        """Make exactly one attempt; whatever happens is an answer, nothing is raised."""
        if self._connections.ended:
            return Answer(Verdict.TRANSIENT, detail="stopped", started=time.monotonic())
        attempt = self._api.begin(account_id, self._connections)
        if isinstance(attempt, Answer):
            return attempt
        try:
            return self._api.end(attempt, *attempt.connection.perform())
        finally:
            self._connections.give_back(attempt.connection)


class EsgApi:
    """What to send for an account, and what comes of it.

    A redirect's target is remembered for the account's next attempt.
    """

    def __init__(self, config: Ratings, authenticator: Authenticator) -> None:
        """
        Raises:
            ConfigError: a body that cannot be used.
        """
        self._url = quote(config.url, safe=string.punctuation)
        self._body = _body_template(config)
        self._authenticator = authenticator
        self._mapper = RatingMapper(config.scores, config.score_range)
        self._redirected: dict[str, _Request] = {}

    def log_in(self) -> Answer | None:
        """Have a credential, from the login server if need be; an answer where there is none."""
        started = time.monotonic()
        try:
            self._authenticator.credential()
        except (LoginUnavailable, LoginRefused) as error:
            return _without_login(error, started)
        return None

    def begin(self, account_id: str, connections: Connections) -> Attempt | Answer:
        """Set a connection to the account's request; an answer where there is no credential for it."""
        started = time.monotonic()
        try:
            credential = self._authenticator.credential()
        except (LoginUnavailable, LoginRefused) as error:
            return _without_login(error, started)
        request = self._redirected.pop(account_id, None) or self._request(account_id)
        if not request.trusted:
            credential = None
        connection = connections.take()
        connection.prepare(request.url, credential=credential, body=request.body)
        return Attempt(account_id, request, credential, connection, time.monotonic())

    def end(self, attempt: Attempt, code: int, words: str) -> Answer:
        """What came of it; `code` and `words` are libcurl's error, 0 for none."""
        started, connection, request = attempt.started, attempt.connection, attempt.request
        elapsed = time.monotonic() - started
        try:
            status = connection.status(code, words)
        except NotSent as error:
            if request.hops:
                self._redirected[attempt.account_id] = request
            return Answer(Verdict.LOST, detail=str(error), started=started)
        except ExchangeFailed as error:
            return Answer(Verdict.TRANSIENT, detail=str(error), started=started, elapsed=elapsed)
        quota = connection.quota
        answer = partial(Answer, http_status=status, started=started, elapsed=elapsed, quota=quota)
        if status == 200:
            return self._rating(answer, connection.body)
        if status in _REDIRECTS:
            return self._redirect(answer, attempt.account_id, request, status, connection.redirect_url)
        if status == 401:
            self._authenticator.refused(attempt.credential)
            return answer(Verdict.UNAUTHORIZED, detail="HTTP 401")
        return _refusal(answer, status, connection.retry_after)

    def _request(self, account_id: str) -> _Request:
        # An account system may hand out half a surrogate pair: as an ID like any other.
        encoded = quote(account_id, safe="", errors="surrogatepass")
        if encoded in (".", ".."):
            encoded = encoded.replace(".", "%2E")
        body = None
        if self._body is not None:
            body = self._body.replace(PLACEHOLDER, json.dumps(account_id)[1:-1]).encode()
        return _Request(self._url.replace(PLACEHOLDER, encoded), body)

    def _rating(self, answer: Callable[..., Answer], body: bytes | None) -> Answer:
        if body is None:
            return answer(Verdict.TRANSIENT, detail=f"larger than {MAX_BODY} bytes")
        try:
            return answer(Verdict.RATED, scores=self._mapper.map(body))
        except NotJson as error:
            return answer(Verdict.TRANSIENT, detail=str(error))
        except BadRating as error:
            return answer(Verdict.FAILED, reason=Reason.BAD_RATING, detail=str(error))

    def _redirect(
        self, answer: Callable[..., Answer], account_id: str, request: _Request, status: int, target: str | None
    ) -> Answer:
        """Remember where the account is to be asked next.

        A target must be what may stand in the configuration, and not plain http where that
        is https. Credentials go to the configured origin only.
        """
        if request.hops == MAX_REDIRECTS:
            return answer(Verdict.TRANSIENT, detail=f"more than {MAX_REDIRECTS} redirects")
        home = origin(self._request(account_id).url)
        try:
            there = origin(_address.validate_python(target))
        except ValueError:  # pydantic's ValidationError is one
            return answer(Verdict.TRANSIENT, detail=f"HTTP {status} without a usable Location")
        if (home[0], there[0]) == ("https", "http"):
            return answer(Verdict.TRANSIENT, detail="redirected from https to plain http")
        body = request.body if status in _REDIRECTS_WITH_BODY else None
        self._redirected[account_id] = _Request(str(target), body, there == home, request.hops + 1)
        return answer(Verdict.REDIRECTED, detail=f"HTTP {status}")


def _without_login(error: LoginUnavailable | LoginRefused, started: float) -> Answer:
    if isinstance(error, LoginRefused):
        return Answer(Verdict.LOGIN_REFUSED, detail=str(error), started=started)
    return Answer(Verdict.TRANSIENT, detail=f"login: {error}", started=started)


def _refusal(answer: Callable[..., Answer], status: int, retry_after: float | None) -> Answer:
    """A status that brings no rating and that nothing is known of but its number."""
    detail = f"HTTP {status}"
    if status == 429 or (status == 503 and retry_after is not None):
        return answer(Verdict.THROTTLED, retry_after=retry_after, detail=detail)
    if status == 403:
        return answer(Verdict.FORBIDDEN, reason=Reason.FORBIDDEN, detail=detail)
    if status in (404, 410):
        return answer(Verdict.FAILED, reason=Reason.NO_RATING, detail=detail)
    if 400 <= status < 500 and status not in (408, 425):
        return answer(Verdict.FAILED, reason=Reason.REJECTED, detail=detail)
    return answer(Verdict.TRANSIENT, detail=detail)


def _body_template(config: Ratings) -> str | None:
    """The POST's body as JSON text, in which the placeholder can stand inside texts only."""
    if config.method == "GET":
        return None
    if config.body is None:
        return ""
    try:
        return json.dumps(config.body, allow_nan=False)
    except (TypeError, ValueError):
        raise ConfigError("ratings.body holds a date, a time, nan or inf, which JSON has not.") from None
