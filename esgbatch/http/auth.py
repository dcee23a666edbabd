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
from dataclasses import dataclass
from typing import Any, Protocol
from urllib.parse import quote_plus

import requests

from esgbatch.config.model import Auth, BasicAuth, BearerAuth, HeaderAuth, NoAuth, OAuth2Auth, Web
from esgbatch.config.secrets import remember
from esgbatch.http.session import MAX_TOKEN_BYTES, BodyTooLarge, open_session, read_bounded

TOKEN_TIMEOUT = 30.0


class LoginUnavailable(Exception):
    """The login server did not answer properly: worth another try."""


class LoginRefused(Exception):
    """The login server does not accept the client: no retry helps."""


@dataclass(frozen=True, slots=True)
class Credential:
    """A header to send. Equality says whether a refused one is still the current one."""

    name: str
    value: str


class Authenticator(Protocol):
    """Gives the current credential, from many threads."""

    def credential(self) -> Credential | None:
        """What to send with the next request; may renew it first.

        Raises:
            LoginUnavailable, LoginRefused: only where a login server is asked.
        """

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

    def refused(self, credential: Credential | None) -> None:
        with self._lock:
            if credential == self._current:
                self._current = self._read()


class ClientCredentials:
    """OAuth2 client credentials (RFC 6749, 4.4), renewed once for all threads.

    A token is renewed before it expires, at nine tenths of its life but at most a minute
    early. Without `expires_in` (RFC 6749, 5.1) it is used until it is refused.
    """

    def __init__(self, auth: OAuth2Auth, web: Web, *, monotonic: Callable[[], float] = time.monotonic) -> None:
        self._auth = auth
        self._session = open_session(web)
        self._monotonic = monotonic
        self._lock = threading.Lock()
        self._current: Credential | None = None
        self._renew_at = float("inf")

    def credential(self) -> Credential:
        current = self._current
        if current is not None and self._monotonic() < self._renew_at:
            return current
        with self._lock:
            if self._current is None or self._monotonic() >= self._renew_at:
                self._current = None
                self._current = self._fetch()
            return self._current

    def refused(self, credential: Credential | None) -> None:
        with self._lock:
            if credential == self._current:
                self._current = None

    def _fetch(self) -> Credential:
        asked = self._monotonic()
        answer = self._ask()
        token = answer.get("access_token")
        if not isinstance(token, str) or not token.isascii() or not token.isprintable() or " " in token:
            raise LoginUnavailable("the token endpoint's answer holds no access_token")
        try:
            lifetime = float(answer.get("expires_in", "inf"))
        except (TypeError, ValueError):
            lifetime = float("inf")
        self._renew_at = asked + max(lifetime - 60.0, lifetime * 0.9)
        return Credential("Authorization", f"Bearer {remember(token)}")

    def _client(self) -> str:
        """RFC 6749, 2.3.1: id and secret are form-encoded before they are joined."""
        return _basic(quote_plus(self._auth.client_id), quote_plus(self._auth.client_secret.reveal()))

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
                body = read_bounded(response, MAX_TOKEN_BYTES, seconds=TOKEN_TIMEOUT)
        except (requests.RequestException, BodyTooLarge) as error:
            raise LoginUnavailable(f"the token endpoint failed: {type(error).__name__}") from None
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


def authenticator(web: Web) -> Authenticator:
    """The authenticator for a section of the configuration.

    Raises:
        ConfigError: a secret cannot be read.
    """
    auth: Auth = web.auth
    match auth:
        case NoAuth():
            return StaticAuthenticator(lambda: None)
        case BearerAuth():
            return StaticAuthenticator(lambda: Credential("Authorization", f"Bearer {auth.token.reveal()}"))
        case HeaderAuth():
            return StaticAuthenticator(lambda: Credential(auth.name, auth.value.reveal()))
        case BasicAuth():
            return StaticAuthenticator(
                lambda: Credential("Authorization", _basic(auth.username, auth.password.reveal()))
            )
        case OAuth2Auth():
            auth.client_secret.reveal()
            return ClientCredentials(auth, web)


def _basic(username: str, password: str) -> str:
    """RFC 7617, 2, in UTF-8 (2.1)."""
    pair = f"{username}:{password}".encode()
    return f"Basic {remember(base64.b64encode(pair).decode())}"
