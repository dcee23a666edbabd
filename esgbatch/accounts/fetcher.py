"""One page of the list over HTTP: asked for again where that may help (interface.md, 4)."""

from __future__ import annotations

import json
import random
from collections.abc import Mapping
from dataclasses import dataclass
from decimal import Decimal

import jmespath
import requests
from jmespath.exceptions import JMESPathError

from esgbatch.accounts.listing import ItemMapper
from esgbatch.accounts.paging import Page, place
from esgbatch.config.model import Accounts, Backoff
from esgbatch.errors import AccountSystemError
from esgbatch.http.auth import Authenticator, Credential, LoginRefused, LoginUnavailable
from esgbatch.http.session import (
    BodyTooLarge,
    explain,
    get,
    is_certificate_problem,
    open_session,
    read_bounded,
    retry_after,
)
from esgbatch.http.trust import origin
from esgbatch.ports import Clock, Listener

MAX_PAGE_BYTES = 64 * 1024 * 1024
LONGEST_THROTTLE = 15 * 60.0
SHORTEST_THROTTLE = 1.0
BACKOFF = Backoff()

_ADVICE = "correct the keys under [accounts], then `esgbatch resume --date {date}`"
_ADVICE_LOGIN = "correct the credentials under [accounts.auth], then `esgbatch resume --date {date}`"
_ADVICE_TRUST = "name the CA that signed it in accounts.ca_bundle, then `esgbatch resume --date {date}`"


class _Transient(Exception):
    """Worth another attempt."""


class _Throttled(Exception):
    """The server asks for time: `seconds`, or None where it does not say how long."""

    def __init__(self, reason: str, seconds: float | None) -> None:
        super().__init__(reason)
        self.seconds = seconds


@dataclass(frozen=True, slots=True)
class _Reply:
    """An answer; its body is read only where it may be a page."""

    url: str
    status: int
    headers: Mapping[str, str]
    body: bytes


class PageFetcher:
    """Gets the pages of one list, one after the other."""

    def __init__(
        self, config: Accounts, authenticator: Authenticator, clock: Clock, listener: Listener
    ) -> None:
        self._config = config
        self._authenticator = authenticator
        self._clock = clock
        self._listener = listener
        self._session = open_session(config)
        self._home = origin(config.url)
        self._items = jmespath.compile(config.items)
        self._map = ItemMapper(config)
        self._random = random.SystemRandom()
        self._pages = 0
        self._throttled = 0.0

    def fetch(self, url: str, parameters: Mapping[str, str]) -> Page:
        """The page at `url`, in up to `attempts` attempts; a wait that the server asks for is none.

        Raises:
            AccountSystemError: for good, or after the last attempt.
        """
        attempt, throttles = 1, 0
        while True:
            try:
                page = self._page(url, self._reply(url, parameters))
                break
            except _Throttled as throttled:
                throttles += 1
                self._hold(url, throttled, attempt, throttles)
            except _Transient as failure:
                if attempt == self._config.attempts:
                    raise AccountSystemError(
                        f"The account system at {place(url)} did not give page {self._pages + 1} of the list "
                        f"in {attempt} attempt(s). The last one failed: {failure}."
                    ) from None
                self._wait(str(failure), attempt, self._backoff(attempt))
                attempt += 1
        self._pages += 1
        self._listener.event("accounts_page", page=self._pages, rows=len(page.listings))
        if page.listings and not any(listing.name for listing in page.listings):
            self._listener.event("accounts_unnamed", page=self._pages, rows=len(page.listings))
        return page

    def close(self) -> None:
        self._session.close()

    # --- waiting ------------------------------------------------------------------------------

    def _hold(self, url: str, throttled: _Throttled, attempt: int, throttles: int) -> None:
        """Wait as long as the server asks, but not longer than `LONGEST_THROTTLE` over the whole list."""
        seconds = self._backoff(throttles) if throttled.seconds is None else throttled.seconds
        seconds = max(seconds, SHORTEST_THROTTLE)
        self._throttled += seconds
        if self._throttled > LONGEST_THROTTLE:
            raise AccountSystemError(
                f"The account system at {place(url)} asks us to wait ({throttled}), all in all "
                f"{self._throttled:.0f} s for this list; more than {LONGEST_THROTTLE:.0f} s is not waited."
            ) from None
        self._wait(str(throttled), attempt, seconds)

    def _backoff(self, tries: int) -> float:
        """Exponential backoff with full jitter, in seconds."""
        longest = min(BACKOFF.max, BACKOFF.base * 2.0 ** min(tries - 1, 32))
        return self._random.uniform(0, longest)

    def _wait(self, error: str, attempt: int, seconds: float) -> None:
        self._listener.event("accounts_retry", page=self._pages + 1, error=error, attempt=attempt, wait=seconds)
        self._clock.sleep(seconds)

    # --- asking -------------------------------------------------------------------------------

    def _reply(self, url: str, parameters: Mapping[str, str]) -> _Reply:
        """What the server says; a refused login is renewed once."""
        credential = self._credential(url)
        reply = self._exchange(url, parameters, credential)
        if reply.status == 401 and credential is not None:
            self._authenticator.refused(credential)
            reply = self._exchange(url, parameters, self._credential(url))
        return reply

    def _credential(self, url: str) -> Credential | None:
        """None for a page that a link leads to on another server: our credentials are not for it."""
        if origin(url) != self._home:
            return None
        try:
            return self._authenticator.credential()
        except LoginUnavailable as error:
            raise _Transient(f"login: {error}") from None
        except LoginRefused as error:
            raise AccountSystemError(
                f"The login for the account system failed: {error}.", advice=_ADVICE_LOGIN
            ) from None

    def _exchange(self, url: str, parameters: Mapping[str, str], credential: Credential | None) -> _Reply:
        header = None if credential is None else (credential.name, credential.value)
        timeout = self._config.timeout
        try:
            with get(self._session, url, params=parameters, credential=header, timeout=timeout) as response:
                body = read_bounded(response, MAX_PAGE_BYTES) if response.status_code == 200 else b""
                return _Reply(response.url, response.status_code, response.headers, body)
        except BodyTooLarge:
            raise _Transient(f"the page is larger than {MAX_PAGE_BYTES // 1024**2} MiB") from None
        except (requests.exceptions.TooManyRedirects, requests.exceptions.InvalidURL) as error:
            raise AccountSystemError(
                f"The account system at {place(url)} cannot be followed: {error}.", advice=_ADVICE
            ) from None
        except requests.RequestException as error:
            if is_certificate_problem(error):
                raise AccountSystemError(
                    f"The account system at {place(url)} is not trusted: {explain(error)}.",
                    advice=_ADVICE_TRUST,
                ) from None
            raise _Transient(explain(error)) from None

    # --- understanding ------------------------------------------------------------------------

    def _page(self, url: str, reply: _Reply) -> Page:
        status = reply.status
        if status != 200:
            raise self._refusal(url, status, retry_after(reply.headers, self._clock.time()))
        try:
            # NaN and its like are no JSON, but some write them: null is what they mean.
            document = json.loads(reply.body, parse_float=Decimal, parse_constant=lambda _: None)
        except (ValueError, ArithmeticError, RecursionError):
            raise _Transient("the answer is no JSON") from None
        try:
            items = self._items.search(document)
        except (JMESPathError, TypeError):  # a comparison that JMESPath allows and Python does not
            items = None
        if not isinstance(items, list):
            raise AccountSystemError(
                f"The account system at {place(url)} gave a page without a list at "
                f"{self._config.items!r} (accounts.items); there is {_shape(document)}.",
                advice=_ADVICE,
            )
        return Page(reply.url, document, [self._map(item) for item in items], reply.headers.get("Link", ""))

    def _refusal(self, url: str, status: int, wait: float | None) -> Exception:
        if status == 429 or (status == 503 and wait is not None):
            return _Throttled(f"HTTP {status}", wait)
        if status in (408, 425) or status >= 500:
            return _Transient(f"HTTP {status}")
        if status in (401, 403):
            return AccountSystemError(
                f"The account system at {place(url)} refuses our credentials: HTTP {status}.",
                advice=_ADVICE_LOGIN,
            )
        return AccountSystemError(f"The account system at {place(url)} answered HTTP {status}.", advice=_ADVICE)


def _shape(document: object) -> str:
    """What a document looks like, in key names only."""
    if isinstance(document, dict):
        keys = ", ".join(repr(key[:40]) for key in list(document)[:20])
        return f"an object with {keys}" if keys else "an empty object"
    return "a list" if isinstance(document, list) else "no object"
