"""A sink for PagerDuty Events API v2: `POST /v2/enqueue`. Events go to a file, one JSON object a line."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from esgbatch.sandbox.dice import Dice
from esgbatch.sandbox.faults import Board
from esgbatch.sandbox.web import JSON, Reply, Request, problem, reply_json

ACTIONS = ("trigger", "acknowledge", "resolve")
SEVERITIES = ("critical", "error", "warning", "info")
MAX_KEY = 255
MAX_SUMMARY = 1024


class Pager:
    def __init__(self, path: Path, dice: Dice, board: Board) -> None:
        self.events = 0
        self._path = path
        self._dice = dice
        self._board = board
        path.touch()

    def handle(self, request: Request) -> Reply:
        if request.target != b"/v2/enqueue":
            return problem(404, "no such resource")
        if request.method != b"POST":
            return problem(405, "only POST", JSON + b"Allow: POST\r\n")
        if self._board.fails("pager"):
            return problem(500, "internal error")
        try:
            event = json.loads(request.body)
        except ValueError:
            event = None
        if errors := _errors(event):
            answer = {"status": "invalid event", "message": "Event object is invalid", "errors": errors}
            return reply_json(
                400, {"status": "invalid event", "message": "Event object is invalid", "errors": errors}
            )
        event["dedup_key"] = event.get("dedup_key") or self._dice.text(b"dedup", self.events)
        self.events += 1
        with self._path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(event, ensure_ascii=False) + "\n")
        answer = {"status": "success", "message": "Event processed", "dedup_key": event["dedup_key"]}
        return reply_json(202, answer)


def _errors(event: Any) -> list[str]:
    """What is wrong with an event; the words are ours, the rules PagerDuty's."""
    if not isinstance(event, dict):
        return ["the body is no JSON object"]
    action, key, payload = event.get("event_action"), event.get("dedup_key", ""), event.get("payload")
    errors = []
    if not isinstance(routing := event.get("routing_key"), str) or len(routing) != 32:
        errors.append("routing_key has 32 characters")
    if action not in ACTIONS:
        errors.append(f"event_action is one of {', '.join(ACTIONS)}")
    if not isinstance(key, str) or len(key) > MAX_KEY:
        errors.append(f"dedup_key is text of {MAX_KEY} characters at most")
    if action in ("acknowledge", "resolve") and not key:
        errors.append(f"{action} needs dedup_key")
    if action == "trigger":
        errors += _payload_errors(payload)
    return errors


def _payload_errors(payload: Any) -> list[str]:
    if not isinstance(payload, dict):
        return ["trigger needs payload"]
    errors = [
        f"payload.{field} is missing"
        for field in ("summary", "source", "severity")
        if not isinstance(payload.get(field), str) or not payload[field]
    ]
    if not errors and payload["severity"] not in SEVERITIES:
        errors.append(f"payload.severity is one of {', '.join(SEVERITIES)}")
    if not errors and len(payload["summary"]) > MAX_SUMMARY:
        errors.append(f"payload.summary has {MAX_SUMMARY} characters at most")
    return errors
