"""The OAuth2 token endpoint: client credentials (RFC 6749, 4.4), by HTTP Basic or in the form."""

from __future__ import annotations

import base64
import binascii
import hmac
import time
from urllib.parse import parse_qs, unquote_plus

from esgbatch.sandbox.dice import Dice
from esgbatch.sandbox.faults import Board
from esgbatch.sandbox.web import JSON, Reply, Request, problem, reply_json

CLIENT_ID = "esgbatch"
SCOPE = "esg.read"
NO_STORE = JSON + b"Cache-Control: no-store\r\n"
CHALLENGE = NO_STORE + b'WWW-Authenticate: Basic realm="login"\r\n'


class Login:
    """Issues bearer tokens of a given lifetime in seconds, and says which are good."""

    def __init__(self, dice: Dice, board: Board, lifetime: float) -> None:
        self.client_secret = dice.text(b"client secret", 0)
        self.issued = 0
        self._dice = dice
        self._board = board
        self._lifetime = lifetime
        self._good: dict[bytes, float] = {}

    def accepts(self, authorization: bytes) -> bool:
        """Whether the header's value is `Bearer` and a token that has not expired (RFC 6750, 2.1)."""
        scheme, _, token = authorization.partition(b" ")
        return scheme.lower() == b"bearer" and self._good.get(token, 0.0) > time.monotonic()

    def revoke(self) -> None:
        """No token issued up to now is good any longer."""
        self._good.clear()

    def handle(self, request: Request) -> Reply:
        if request.target.partition(b"?")[0] != b"/oauth/token":
            return problem(404, "not_found")
        if request.method != b"POST":
            return problem(405, "method_not_allowed", JSON + b"Allow: POST\r\n")
        if self._board.fails("token"):
            return problem(503, "temporarily_unavailable")
        form = {key: values[0] for key, values in parse_qs(request.body.decode("latin-1")).items()}
        if not self._is_client(request.authorization, form):
            return problem(401, "invalid_client", CHALLENGE)
        if form.get("grant_type") != "client_credentials":
            return problem(400, "unsupported_grant_type", NO_STORE)
        if form.get("scope", SCOPE) != SCOPE:
            return problem(400, "invalid_scope", NO_STORE)
        return self._issue()

    def _is_client(self, authorization: bytes, form: dict[str, str]) -> bool:
        client, secret = form.get("client_id", ""), form.get("client_secret", "")
        if authorization[:6].lower() == b"basic ":
            try:
                pair = base64.b64decode(authorization[6:], validate=True).decode()
            except (binascii.Error, UnicodeDecodeError):
                return False
            client, _, secret = (unquote_plus(part) for part in pair.partition(":"))
        return client == CLIENT_ID and hmac.compare_digest(secret.encode(), self.client_secret.encode())

    def _issue(self) -> Reply:
        now = time.monotonic()
        self._good = {token: ends for token, ends in self._good.items() if ends > now}
        token = self._dice.text(b"token", self.issued)
        self.issued += 1
        self._good[token.encode()] = now + self._lifetime
        answer = {
            "access_token": token,
            "token_type": "Bearer",
            "expires_in": int(self._lifetime),
            "scope": SCOPE,
        }
        return reply_json(200, answer, NO_STORE)
