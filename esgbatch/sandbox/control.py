"""The control endpoint: `GET /stats`, `GET /faults`, `POST /faults` with some of the fields of `Faults`.

A posted `"revoke_tokens": true` makes every token issued up to now worthless, once.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import asdict

from esgbatch.sandbox.faults import BadFault, Board
from esgbatch.sandbox.login import Login
from esgbatch.sandbox.web import JSON, Reply, Request, problem, reply_json

Counts = Callable[[], dict[str, object]]


class Control:
    def __init__(self, board: Board, login: Login, counters: Mapping[str, Counts]) -> None:
        self._board = board
        self._login = login
        self._counters = counters

    def handle(self, request: Request) -> Reply:
        match request.method, request.target:
            case b"GET", b"/stats":
                return reply_json(200, {name: counts() for name, counts in self._counters.items()})
            case b"GET", b"/faults":
                return reply_json(200, asdict(self._board.current()))
            case b"POST", b"/faults":
                return self._switch(request.body)
            case _, b"/stats" | b"/faults":
                return problem(405, "GET, and POST for faults", JSON + b"Allow: GET, POST\r\n")
        return problem(404, "there are /stats and /faults")

    def _switch(self, body: bytes) -> Reply:
        try:
            changes = json.loads(body)
        except ValueError:
            return problem(400, "the body is no JSON")
        if not isinstance(changes, dict):
            return problem(400, "the body is no JSON object")
        revoke = changes.pop("revoke_tokens", False)
        try:
            self._board.change(changes)
        except BadFault as error:
            return problem(400, str(error))
        if revoke is True:
            self._login.revoke()
        return reply_json(200, asdict(self._board.current()))
