"""The control endpoint: `GET /stats`, `GET /faults`, `POST /faults` with some of the fields of `Faults`.

Two things happen once, when they are posted: `"revoke_tokens": true` makes every token issued
up to now worthless, `"forget_arrivals": true` lets the ESG API count arrivals from now on.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import asdict

from esgbatch.sandbox.faults import BadFault, Board
from esgbatch.sandbox.web import JSON, Reply, Request, problem, reply_json

Counts = Callable[[], dict[str, object]]


class Control:
    def __init__(
        self, board: Board, actions: Mapping[str, Callable[[], None]], counters: Mapping[str, Counts]
    ) -> None:
        self._board = board
        self._actions = actions
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
        wanted = [name for name in self._actions if changes.pop(name, False) is True]
        try:
            self._board.change(changes)
        except BadFault as error:
            return problem(400, str(error))
        for name in wanted:
            self._actions[name]()
        return reply_json(200, asdict(self._board.current()))
