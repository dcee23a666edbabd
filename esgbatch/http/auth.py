"""Logging in: which header goes with a request, and how it is renewed.

The libraries that know OAuth2 make one token call a thread at every expiry, or do not
renew at all; here one lock around one token is the whole of it.
"""

from __future__ import annotations

import base64
import json
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any, Protocol
from urllib.parse import quote_plus

import requests

from esgbatch.config.model import Auth, BasicAuth, BearerAuth, HeaderAuth, NoAuth, OAuth2Auth, Web
from esgbatch.config.secrets import remember
from esgbatch.errors import ConfigError
from esgbatch.http.session import MAX_TOKEN_BYTES, BodyTooLarge, explain, open_session, read_bounded

TOKEN_TIMEOUT = 30.0

# Where the login server is away while the old token still holds.
RENEWAL_PAUSE = 5.0


class LoginUnavailable(Exception):
    """The login server did not answer properly: worth another try."""


class LoginRefused(Exception):
    """The login server does not accept the client: no retry helps."""


@dataclass(frozen=True, slots=True)
class Credential:
    """A header to send. Equality says whether a refused one is still the current one."""

    name: str
    value: str = field(repr=False)


class Authenticator(Protocol):
    """Gives the current credential, from many threads."""

    def credential(self) -> Credential | None:
        """What to send with the next request; may renew it first.

        Raises:
            LoginUnavailable, LoginRefused: only where a login server is asked.
        """

    def ready(self) -> bool:
        """Whether `credential` would return at once, without asking a login server."""

    def refused(self, credential: Credential | None) -> None:
        """The server answered 401 to `credential`: forget it, unless it was renewed meanwhile."""


class StaticAuthenticator:
    """A credential out of secrets. A refused one is read again: it may have been rotated."""

    def __init__(self, read: Callable[[], Credential | None]) -> None:
        self._read = read
        self._lock = threading.Lock()
        self._current = read()

    def credential(self) -> Credential | None:
        return self._current

    def ready(self) -> bool:
        return True

    def refused(self, credential: Credential | None) -> None:
        with self._lock:
            if credential == self._current:
                # A secret that cannot be read again leaves the refused one: the next 401 says enough.
                with suppress(ConfigError):
                    self._current = self._read()


@dataclass(slots=True, eq=False)
class _Token:
    """`renew_at` and `expires` are on the monotonic clock.

    That it was `refused` is noted on it and takes no lock: whoever has that may be renewing, for long.
    """

    credential: Credential
    renew_at: float
    expires: float
    refused: bool = False

    def serves(self, now: float) -> bool:
        return now < self.renew_at and not self.refused


class ClientCredentials:
    """OAuth2 client credentials (RFC 6749, 4.4), renewed once for all threads.

    A token is renewed before it expires, at nine tenths of its life but at most a minute
    early. Without a usable `expires_in` (RFC 6749, 5.1) it serves until it is refused.
    """

    def __init__(self, auth: OAuth2Auth, web: Web, *, monotonic: Callable[[], float] = time.monotonic) -> None:
        self._auth = auth
        self._session = open_session(web)
        self._monotonic = monotonic
        self._lock = threading.Lock()
        self._token: _Token | None = None
        self._failure: LoginUnavailable | LoginRefused | None = None
        self._failed_at = float("-inf")

    def credential(self) -> Credential:
        arrived = self._monotonic()
        token = self._token
        if token is None or not token.serves(arrived):
            with self._lock:
                token = self._token
                if token is None or not token.serves(self._monotonic()):
                    token = self._token = self._renew(token, arrived)
        return token.credential

    def ready(self) -> bool:
        token = self._token
        return token is not None and token.serves(self._monotonic())

    def refused(self, credential: Credential | None) -> None:
        token = self._token
        if token is not None and credential == token.credential:
            token.refused = True

    def _renew(self, old: _Token | None, arrived: float) -> _Token:
        """A new token; whoever has waited while the call for it failed shares the failure."""
        if self._failure is not None and self._failed_at > arrived:
            raise type(self._failure)(*self._failure.args)
        try:
            return self._fetch()
        except (LoginUnavailable, LoginRefused) as error:
            now = self._monotonic()
            away = isinstance(error, LoginUnavailable)
            if away and old is not None and now < old.expires and not old.refused:
                old.renew_at = min(now + RENEWAL_PAUSE, old.expires)
                return old
            self._failure, self._failed_at = error, now
            raise

    def _fetch(self) -> _Token:
        asked = self._monotonic()
        answer = self._ask()
        token = answer.get("access_token")
        if not isinstance(token, str) or not token or not _fits_header(token) or " " in token:
            raise LoginUnavailable("the token endpoint's answer holds no access_token")
        lifetime = _lifetime(answer.get("expires_in"))
        return _Token(
            Credential("Authorization", f"Bearer {remember(token)}"),
            renew_at=asked + max(lifetime - 60.0, lifetime * 0.9),
            expires=asked + lifetime,
        )

    def _client(self) -> str:
        """RFC 6749, 2.3.1: id and secret are form-encoded before they are joined."""
        try:
            secret = self._auth.client_secret.reveal()
        except ConfigError as error:
            raise LoginRefused(f"the client's secret cannot be read: {str(error).rstrip('.')}") from None
        return _basic(quote_plus(self._auth.client_id), quote_plus(secret, errors="surrogateescape")).value

    def _ask(self) -> dict[str, Any]:
        form = {"grant_type": "client_credentials"}
        if self._auth.scope:
            form["scope"] = self._auth.scope
        try:
            with self._session.post(
                self._auth.token_url,
                data=form,
                headers={"Accept": "application/json", "Authorization": self._client()},
                timeout=TOKEN_TIMEOUT,
                allow_redirects=False,
                stream=True,
            ) as response:
                body = read_bounded(response, MAX_TOKEN_BYTES)
        except (requests.RequestException, BodyTooLarge) as error:
            raise LoginUnavailable(f"the token endpoint failed: {explain(error)}") from None
        # RFC 6749, 5.2: invalid_client and its like are 400 or 401.
        if response.status_code in (400, 401, 403):
            raise LoginRefused(f"the token endpoint refused the client: HTTP {response.status_code}")
        if response.status_code != 200:
            raise LoginUnavailable(f"the token endpoint answered HTTP {response.status_code}")
        return _json_object(body)


def _json_object(body: bytes) -> dict[str, Any]:
    try:
        answer = json.loads(body)
    except (ValueError, RecursionError):
        answer = None
    if not isinstance(answer, dict):
        raise LoginUnavailable("the token endpoint's answer is no JSON object")
    return answer


def _lifetime(expires_in: object) -> float:
    """Seconds; some servers send them as text. What makes no sense counts as unlimited."""
    try:
        seconds = float(expires_in)  # type: ignore[arg-type]  # a wrong type is the server's mistake
    except (TypeError, ValueError, OverflowError):
        return float("inf")
    return seconds if seconds > 0 else float("inf")


def authenticator(web: Web) -> Authenticator:
    """The authenticator for a section of the configuration.

    Raises:
        ConfigError: a secret, or a certificate file, cannot be read or used.
    """
    auth: Auth = web.auth
    match auth:
        case NoAuth():
            return StaticAuthenticator(lambda: None)
        case BearerAuth():
            return StaticAuthenticator(lambda: _header("Authorization", f"Bearer {auth.token.reveal()}"))
        case HeaderAuth():
            return StaticAuthenticator(lambda: _header(auth.name, auth.value.reveal()))
        case BasicAuth():
            return StaticAuthenticator(lambda: _basic(auth.username, auth.password.reveal()))
        case OAuth2Auth():
            auth.client_secret.reveal()
            return ClientCredentials(auth, web)


def _header(name: str, value: str) -> Credential:
    if not _fits_header(value):
        raise ConfigError(f"The secret for the {name} header holds characters that a header cannot carry.")
    return Credential(name, value)


def _fits_header(value: str) -> bool:
    """RFC 9110, 5.5, and no obs-text: its encoding would be anybody's guess."""
    return value.isascii() and value.isprintable()


def _basic(username: str, password: str) -> Credential:
    """RFC 7617, 2, in UTF-8 (2.1)."""
    pair = f"{username}:{password}".encode(errors="surrogateescape")
    return Credential("Authorization", f"Basic {remember(base64.b64encode(pair).decode())}")
