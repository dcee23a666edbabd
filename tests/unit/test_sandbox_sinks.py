"""The sandbox's account list in its five paging styles, and its pager sink."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.parse import quote, urljoin

import pytest

from esgbatch.sandbox.data import Firm, entry_json
from esgbatch.sandbox.dice import Dice
from esgbatch.sandbox.faults import Board, Faults
from esgbatch.sandbox.listing import AccountSystem
from esgbatch.sandbox.pager import Pager
from esgbatch.sandbox.web import Reply, Request

FIRM = Firm(1200, inactive=20, duplicates=10, refused=5, odd_ids=17)
ROWS = [json.loads(entry_json(row)) for row in FIRM.rows(0, FIRM.listed())]
ACTIVE = [row for row in ROWS if row["status"] == "active"]


class Client:
    def __init__(self, faults: Faults = Faults(), *, ignore_status: bool = False) -> None:  # noqa: B008 - frozen
        self._system = AccountSystem(FIRM, Board(faults), ignore_status=ignore_status)

    def reply(self, target: str, method: bytes = b"GET") -> Reply:
        return self._system.handle(Request(method, target.encode(), b"", b""))

    def page(self, target: str) -> tuple[dict[str, Any], str]:
        """A page's body, and its Link header."""
        reply = self.reply(target)
        assert reply.status == 200
        assert reply.stream is not None
        link = re.search(r"^Link: (.*?)\r$", reply.headers.decode(), re.MULTILINE)
        return json.loads(b"".join(reply.stream)), link[1] if link else ""

    def all(self, target: str, step: Callable[[int, dict[str, Any], str], str | None]) -> list[Any]:
        """Every row, following `step(page number, body, link)` to the next target."""
        rows, number, following = [], 0, target
        while following:
            body, link = self.page(following)
            rows += body["accounts"]
            number += 1
            following = step(number, body, link) or ""
        return rows


def by_cursor(_number: int, body: dict[str, Any], link: str) -> str | None:
    assert not link
    cursor = body["nextCursor"]
    return cursor and f"/v1/accounts?status=active&limit=100&cursor={quote(cursor, '')}"


def by_link(_number: int, body: dict[str, Any], link: str) -> str | None:
    assert list(body) == ["accounts"]
    following = re.search(r'<([^>]*)>(?:; title="[^"]*")?; rel="next"', link)
    return following and urljoin("/v1/accounts-link", following[1])


def by_offset(number: int, body: dict[str, Any], link: str) -> str | None:
    assert list(body) == ["accounts"]
    assert not link
    return f"/v1/accounts-offset?status=active&limit=100&offset={100 * number}" if body["accounts"] else None


def by_page(number: int, body: dict[str, Any], link: str) -> str | None:
    assert list(body) == ["accounts"]
    assert not link
    return f"/v1/accounts-page?status=active&limit=100&page={1 + number}" if body["accounts"] else None


@pytest.mark.parametrize(
    ("path", "step"),
    [
        ("/v1/accounts", by_cursor),
        ("/v1/accounts-link", by_link),
        ("/v1/accounts-offset", by_offset),
        ("/v1/accounts-page", by_page),
        ("/v1/accounts-all", lambda *_: None),
    ],
)
def test_every_style_gives_the_whole_list(path: str, step: Any) -> None:
    assert Client().all(f"{path}?status=active&limit=100", step) == ACTIVE
    assert Client(ignore_status=True).all(f"{path}?status=active&limit=100", step) == ROWS


def test_without_a_status_everything_and_without_a_limit_a_thousand() -> None:
    assert Client().page("/v1/accounts-all")[0]["accounts"] == ROWS
    assert Client().page("/v1/accounts")[0]["accounts"] == ROWS[:1000]


def test_a_cursor_has_to_be_encoded() -> None:
    cursor = Client().page("/v1/accounts?limit=100")[0]["nextCursor"]
    assert Client().reply(f"/v1/accounts?cursor={quote(cursor, '')}").status == 200
    assert Client().reply(f"/v1/accounts?cursor={cursor}").status == 400


def test_an_empty_firm_is_an_empty_list() -> None:
    reply = AccountSystem(Firm(0), Board(Faults()), ignore_status=False).handle(
        Request(b"GET", b"/v1/accounts", b"", b"")
    )
    assert json.loads(b"".join(reply.stream or ())) == {"accounts": [], "nextCursor": None}


@pytest.mark.parametrize(
    ("target", "status"),
    [
        ("/v1/account", 404),
        ("/v1/accounts?limit=0", 400),
        ("/v1/accounts?limit=100001", 400),
        ("/v1/accounts?limit=x", 400),
        ("/v1/accounts?cursor=x", 400),
        ("/v1/accounts?cursor=YWZ0ZXI6MQ==", 400),
        ("/v1/accounts-offset?offset=-1", 400),
        ("/v1/accounts-page?page=0", 400),
    ],
)
def test_pages_that_there_are_not(target: str, status: int) -> None:
    assert Client().reply(target).status == status


def test_the_account_system_is_read_only_and_fails_when_told_to() -> None:
    assert Client().reply("/v1/accounts", b"POST").status == 405
    client = Client(Faults(accounts_failures=2))
    assert [client.reply("/v1/accounts").status for _ in range(3)] == [503, 503, 200]


# --- pager ----------------------------------------------------------------------------------------

PAYLOAD = {"summary": "late", "source": "esgbatch", "severity": "critical"}
TRIGGER = {"routing_key": "k" * 32, "event_action": "trigger", "payload": PAYLOAD}


def page(pager: Pager, event: object) -> tuple[int, Any]:
    reply = pager.handle(Request(b"POST", b"/v2/enqueue", b"", json.dumps(event).encode()))
    return reply.status, json.loads(reply.body)


def test_events_are_kept_and_answered_with_their_key(tmp_path: Path) -> None:
    path = tmp_path / "pager.jsonl"
    pager = Pager(path, Dice(1), Board(Faults()))
    assert path.read_text() == ""
    status, answer = page(pager, TRIGGER | {"dedup_key": "a"})
    assert status == 202
    assert answer == {"status": "success", "message": "Event processed", "dedup_key": "a"}
    keys = [page(pager, TRIGGER)[1]["dedup_key"] for _ in range(2)]
    assert page(pager, {"routing_key": "k" * 32, "event_action": "resolve", "dedup_key": "a"})[0] == 202
    events = [json.loads(line) for line in path.read_text().splitlines()]
    assert [event["dedup_key"] for event in events] == ["a", *keys, "a"]
    assert len({"a", *keys}) == 3
    assert pager.events == 4


@pytest.mark.parametrize(
    "event",
    [
        [],
        TRIGGER | {"routing_key": "short"},
        TRIGGER | {"event_action": "shout"},
        TRIGGER | {"dedup_key": "k" * 256},
        TRIGGER | {"payload": None},
        TRIGGER | {"payload": PAYLOAD | {"summary": ""}},
        TRIGGER | {"payload": PAYLOAD | {"summary": "s" * 1025}},
        TRIGGER | {"payload": PAYLOAD | {"severity": "fatal"}},
        {"routing_key": "k" * 32, "event_action": "resolve"},
    ],
)
def test_invalid_events_are_refused_and_not_kept(tmp_path: Path, event: object) -> None:
    pager = Pager(tmp_path / "pager.jsonl", Dice(1), Board(Faults()))
    status, answer = page(pager, event)
    assert (status, answer["status"], len(answer["errors"])) == (400, "invalid event", 1)
    assert (tmp_path / "pager.jsonl").read_text() == ""


def test_the_pager_fails_when_told_to(tmp_path: Path) -> None:
    pager = Pager(tmp_path / "pager.jsonl", Dice(1), Board(Faults(pager_failures=1)))
    assert [page(pager, TRIGGER)[0] for _ in range(2)] == [500, 202]
