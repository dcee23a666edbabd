"""What every `ports.RatingProvider` promises, whatever way it takes to a server."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from decimal import Decimal
from pathlib import Path

import pytest

from esgbatch.config.model import Ratings
from esgbatch.model import Answer, Reason, Verdict
from esgbatch.ports import RatingProvider
from tests.sockets.certificates import Authority, server_context
from tests.sockets.faultserver import FaultServer, Peer, close_at_once, redirect, respond, respond_json, stall
from tests.sockets.provider import WAYS, Ways, ways

SCORES = {"environmental": 71.235, "social": "64.1", "governance": 80, "overall": 71.79}

# The account's ID says how the server treats it, so that one server serves all tests.
TREATMENTS: dict[str, Callable[[Peer], None]] = {
    "good": respond_json({"scores": SCORES}),
    "bad": respond_json({"scores": {}}),
    "junk": respond(200, b"<html>"),
    "missing": respond(404),
    "forbidden": respond(403),
    "unknown": respond(401),
    "rejected": respond(400),
    "broken": respond(500),
    "busy": respond(429, headers={"Retry-After": "7"}),
    "gone": close_at_once,
    "moved": redirect("/elsewhere"),
    "stalled": stall,
}


def treat(peer: Peer) -> None:
    word = peer.request.path.strip("/") or peer.request.body.decode().split('"')[3]
    TREATMENTS.get(word, TREATMENTS["good"])(peer)


@pytest.fixture(params=WAYS)
def way(request: pytest.FixtureRequest) -> Iterator[Ways]:
    with ways.going(request.param):
        yield ways


@pytest.fixture(params=["get", "post", "tls"])
def provider(request: pytest.FixtureRequest, tmp_path: Path, way: Ways) -> Iterator[RatingProvider]:
    authority = Authority(tmp_path)
    tls = server_context(authority.sign("127.0.0.1")) if request.param == "tls" else None
    with FaultServer(treat, tls=tls) as server:
        options: dict[str, dict[str, object]] = {
            "get": {"url": server.url + "/{account_id}"},
            "post": {"url": server.url, "method": "POST", "body": {"id": "{account_id}"}},
            "tls": {"url": server.url + "/{account_id}", "ca_bundle": str(authority.pem)},
        }
        yield way.open(Ratings.model_validate(options[request.param]))


@pytest.mark.parametrize(
    ("account_id", "verdict", "reason", "status"),
    [
        ("good", Verdict.RATED, None, 200),
        ("bad", Verdict.FAILED, Reason.BAD_RATING, 200),
        ("junk", Verdict.TRANSIENT, None, 200),
        ("missing", Verdict.FAILED, Reason.NO_RATING, 404),
        ("forbidden", Verdict.FORBIDDEN, Reason.FORBIDDEN, 403),
        ("unknown", Verdict.UNAUTHORIZED, None, 401),
        ("rejected", Verdict.FAILED, Reason.REJECTED, 400),
        ("broken", Verdict.TRANSIENT, None, 500),
        ("busy", Verdict.THROTTLED, None, 429),
        ("gone", Verdict.TRANSIENT, None, None),
        ("moved", Verdict.REDIRECTED, None, 302),
    ],
)
def test_whatever_happens_is_an_answer(
    provider: RatingProvider, account_id: str, verdict: Verdict, reason: Reason | None, status: int | None
) -> None:
    before = time.monotonic()
    answer = provider.rate(account_id)
    assert (answer.verdict, answer.reason, answer.http_status) == (verdict, reason, status)
    assert before <= answer.started <= answer.started + answer.elapsed <= time.monotonic()
    scores = tuple(Decimal(text) for text in ("71.24", "64.10", "80.00", "71.79"))
    assert answer.scores == (scores if verdict is Verdict.RATED else ())
    assert answer.retry_after == (7.0 if verdict is Verdict.THROTTLED else None)
    assert bool(answer.detail) is (verdict is not Verdict.RATED)


def test_the_attempt_after_a_redirect_ends_there(provider: RatingProvider) -> None:
    assert [provider.rate("moved").verdict for _ in range(2)] == [Verdict.REDIRECTED, Verdict.RATED]


def test_abort_ends_what_is_under_way_and_forbids_more(provider: RatingProvider) -> None:
    answers: list[Answer] = []
    provider.rate("good")
    threads = [threading.Thread(target=lambda: answers.append(provider.rate("stalled"))) for _ in range(4)]
    for thread in threads:
        thread.start()
    started = time.monotonic()
    provider.abort()
    for thread in threads:
        thread.join(10)
    assert time.monotonic() - started < 2
    answers.append(provider.rate("good"))
    assert [answer.verdict for answer in answers] == [Verdict.TRANSIENT] * 5
