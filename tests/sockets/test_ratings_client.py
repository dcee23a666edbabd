"""What every answer of the ESG API, and every lack of one, means: against real sockets."""

from __future__ import annotations

import gzip
import json
import os
import time
from collections.abc import Callable
from datetime import date
from email.utils import formatdate
from urllib.parse import unquote

import pytest

from esgbatch.errors import ConfigError
from esgbatch.model import Answer, Quota, Reason, Verdict
from esgbatch.ratings import transport
from esgbatch.ratings.transport import MAX_BODY
from tests.sockets.faultserver import (
    FaultServer,
    Peer,
    close_at_once,
    cut,
    drip,
    head,
    in_order,
    refused_port,
    reset_at_once,
    respond,
    respond_json,
    stall,
)
from tests.sockets.provider import (
    ACCOUNT,
    BEARER,
    BODY,
    GOOD,
    RATED,
    SCORES,
    TOKEN,
    full_port,
    provider,
    rate,
    run_threads,
    without_length,
)

pytestmark = pytest.mark.usefixtures("way")


@pytest.fixture(autouse=True)
def token(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ESG_TOKEN", TOKEN)


# --- requests ---------------------------------------------------------------------------------


def test_a_rating() -> None:
    with FaultServer(GOOD) as server:
        before = time.monotonic()
        answer = rate(server.url, auth=BEARER)
        after = time.monotonic()
        (request,) = server.requests
    assert answer.verdict is Verdict.RATED
    assert [str(score) for score in answer.scores] == RATED
    assert (answer.http_status, answer.reason, answer.detail) == (200, None, "")
    assert before <= answer.started <= answer.started + answer.elapsed <= after
    assert (request.method, request.target) == ("GET", f"/v1/accounts/{ACCOUNT}/esg")
    assert request.headers["authorization"] == f"Bearer {TOKEN}"
    assert request.headers["accept"] == "application/json"
    assert request.headers["user-agent"].startswith("esgbatch/")
    assert not {"accept-encoding", "content-type", "cookie", "expect"} & set(request.headers)


def test_a_few_answers_a_second_are_asked_what_is_left_of_the_quota(monkeypatch: pytest.MonkeyPatch) -> None:
    """Not each: a callback for every header line costs more than the rest of the request."""
    with FaultServer(respond(200, BODY, {"RateLimit": '"default";r=50;t=30'})) as server:
        client = provider(server.url)
        answers = [client.rate(ACCOUNT) for _ in range(3)]
        monkeypatch.setattr(transport, "QUOTA_SECONDS", 0.0)
        time.sleep(0.3)
        answers += [client.rate(ACCOUNT) for _ in range(3)]
        assert server.connections == 1
    assert [[str(score) for score in answer.scores] for answer in answers] == [RATED] * 6
    assert answers[0].quota == Quota(50, 30)
    assert [answer.quota for answer in answers[3:]] == [Quota(50, 30)] * 3
    assert None in [answer.quota for answer in answers[1:3]]


@pytest.mark.parametrize(
    ("account_id", "sent"),
    [
        ("A/1", "A%2F1"),
        ("A 1", "A%201"),
        ("A%2F1", "A%252F1"),
        ("A?x=1&y", "A%3Fx%3D1%26y"),
        ("A#1", "A%231"),
        (".", "%2E"),
        ("..", "%2E%2E"),
        ("...", "..."),
        ("../../admin", "..%2F..%2Fadmin"),
        ("Zürich-株", "Z%C3%BCrich-%E6%A0%AA"),
        ("a\r\nX-Evil: 1", "a%0D%0AX-Evil%3A%201"),
        ("nul\0", "nul%00"),
        ("\ud800", "%ED%A0%80"),
        ("{account_id}", "%7Baccount_id%7D"),
        ("A-._~1", "A-._~1"),
    ],
)
def test_every_id_arrives_as_it_is(account_id: str, sent: str) -> None:
    with FaultServer(GOOD) as server:
        client = provider(
            server.url + "/x/../y", method="POST", body={"ids": [{"id": "<{account_id}>"}], "n": 1}
        )
        assert client.rate(account_id).verdict is Verdict.RATED
        (request,) = server.requests
    assert request.target == f"/x/../y/v1/accounts/{sent}/esg"
    assert request.method == "POST"
    assert request.headers["content-type"] == "application/json"
    assert json.loads(request.body) == {"ids": [{"id": f"<{account_id}>"}], "n": 1}


@pytest.mark.parametrize("account_id", ['quote"', "back\\slash", "line\nfeed", "é", "\u2028"])
def test_an_id_in_a_body_stays_one_text(account_id: str) -> None:
    with FaultServer(GOOD) as server:
        provider(server.url, method="POST", body={"id": "{account_id}"}).rate(account_id)
        assert json.loads(server.requests[0].body) == {"id": account_id}


@pytest.mark.parametrize("value", [date(2026, 11, 24), float("nan")])
def test_a_body_that_json_has_no_words_for(value: object) -> None:
    with pytest.raises(ConfigError, match=r"ratings\.body"):
        provider("https://esg.example", method="POST", body={"asOf": value})


def test_a_post_without_a_body() -> None:
    with FaultServer(GOOD) as server:
        assert rate(server.url, method="POST").verdict is Verdict.RATED
        (request,) = server.requests
    assert (request.method, request.body) == ("POST", b"")
    assert "content-type" not in request.headers


def test_a_path_beyond_ascii() -> None:
    with FaultServer(GOOD) as server:
        rate(server.url + "/größe%20x")
        assert server.requests[0].target.startswith("/gr%C3%B6%C3%9Fe%20x/v1/")


def test_one_connection_serves_many_requests() -> None:
    with FaultServer(GOOD) as server:
        client = provider(server.url)
        assert all(client.rate(str(number)).verdict is Verdict.RATED for number in range(5))
        assert server.connections == 1


def test_threads_do_not_mix_their_answers() -> None:
    def echo(peer: Peer) -> None:
        score = int(unquote(peer.request.path).split("/")[3])
        respond_json({"scores": dict.fromkeys(SCORES, score)})(peer)

    right: list[bool] = []

    def work(number: int) -> None:
        for score in range(number % 7, 98, 7):
            scores = client.rate(str(score)).scores
            right.append([int(value) for value in scores] == [score] * 4)

    with FaultServer(echo) as server:
        client = provider(server.url)
        run_threads(32, work)
        assert right == [True] * 32 * 14
        assert server.connections <= 32


# --- statuses ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("status", "verdict", "reason"),
    [
        *((status, Verdict.TRANSIENT, None) for status in (408, 425, 500, 502, 503, 504, 501, 507, 599)),
        *((status, Verdict.TRANSIENT, None) for status in (204, 201, 206, 300, 304)),
        *((status, Verdict.FAILED, Reason.NO_RATING) for status in (404, 410)),
        *((status, Verdict.FAILED, Reason.REJECTED) for status in (400, 402, 405, 406, 409, 422, 451, 499)),
        (403, Verdict.FORBIDDEN, Reason.FORBIDDEN),
        (401, Verdict.UNAUTHORIZED, None),
        (429, Verdict.THROTTLED, None),
    ],
)
def test_what_a_status_means(status: int, verdict: Verdict, reason: Reason | None) -> None:
    with FaultServer(respond(status)) as server:
        answer = rate(server.url)
        assert len(server.requests) == 1
    assert (answer.verdict, answer.reason, answer.http_status) == (verdict, reason, status)
    assert (answer.detail, answer.scores, answer.retry_after) == (f"HTTP {status}", (), None)


@pytest.mark.parametrize("status", [429, 503])
def test_retry_after(status: int) -> None:
    def ask(value: str | None) -> Answer:
        headers = {} if value is None else {"Retry-After": value}
        with FaultServer(respond(status, headers=headers)) as server:
            return rate(server.url)

    assert (ask("120").verdict, ask("120").retry_after) == (Verdict.THROTTLED, 120.0)
    by_date = ask(formatdate(time.time() + 90, usegmt=True)).retry_after
    assert by_date is not None
    assert 80 <= by_date <= 90
    assert ask("100000").retry_after == 6 * 3600.0
    for no_wait in (None, "0", "soon", "-5", formatdate(time.time() - 90, usegmt=True)):
        answer = ask(no_wait)
        assert answer.retry_after is None
        assert answer.verdict is (Verdict.THROTTLED if status == 429 else Verdict.TRANSIENT)


def test_retry_after_belongs_to_its_answer() -> None:
    with FaultServer(in_order(respond(429, headers={"Retry-After": "9"}), respond(429), GOOD)) as server:
        client = provider(server.url)
        assert [client.rate(ACCOUNT).retry_after for _ in range(3)] == [9.0, None, None]


@pytest.mark.parametrize("status", [404, 403, 429, 500])
def test_a_status_counts_whatever_its_body(status: int) -> None:
    with FaultServer(respond(status, b"x" * (2 * MAX_BODY))) as server:
        assert rate(server.url).http_status == status


# --- bodies -----------------------------------------------------------------------------------


def padded(size: int) -> bytes:
    return json.dumps({"scores": SCORES}).encode().ljust(size)


@pytest.mark.parametrize("send", [lambda body: respond(200, body), without_length])
def test_a_body_is_bounded(send: Callable[[bytes], Callable[[Peer], None]]) -> None:
    with FaultServer(
        in_order(send(padded(MAX_BODY)), send(padded(MAX_BODY + 1)), send(padded(2 * MAX_BODY)))
    ) as server:
        client = provider(server.url)
        assert client.rate(ACCOUNT).verdict is Verdict.RATED
        for _ in range(2):
            answer = client.rate(ACCOUNT)
            assert (answer.verdict, answer.detail) == (Verdict.TRANSIENT, f"larger than {MAX_BODY} bytes")


def test_a_body_without_end_is_cut_off() -> None:
    def endless(peer: Peer) -> None:
        peer.send(head(200))
        while True:
            peer.send(b" " * 65536)

    with FaultServer(endless) as server:
        assert rate(server.url).detail == f"larger than {MAX_BODY} bytes"


@pytest.mark.parametrize(
    ("body", "verdict", "detail"),
    [
        (b"<html>We are busy</html>", Verdict.TRANSIENT, "not JSON"),
        (b"", Verdict.TRANSIENT, "not JSON"),
        (b'{"scores": {"environmental": 71}}', Verdict.FAILED, "Social Score: missing or null"),
        (b'{"scores": {"environmental": NaN}}', Verdict.FAILED, "Environmental Score: not a number"),
        (b'{"scores": {"environmental": 100.005}}', Verdict.FAILED, "Environmental Score: out of range"),
    ],
)
def test_200_is_not_yet_a_rating(body: bytes, verdict: Verdict, detail: str) -> None:
    with FaultServer(respond(200, body)) as server:
        answer = rate(server.url)
    assert (answer.verdict, answer.detail, answer.http_status) == (verdict, detail, 200)
    assert answer.reason is (Reason.BAD_RATING if verdict is Verdict.FAILED else None)


def test_a_gzip_bomb_stays_packed() -> None:
    bomb = gzip.compress(b" " * (200 * MAX_BODY))
    with FaultServer(respond(200, bomb, {"Content-Encoding": "gzip"})) as server:
        assert rate(server.url).detail == "not JSON"


# --- broken connections -----------------------------------------------------------------------


def raw(data: bytes) -> Callable[[Peer], None]:
    def answer(peer: Peer) -> None:
        peer.send(data)
        peer.close()

    return answer


@pytest.mark.parametrize(
    ("fault", "detail"),
    [
        (reset_at_once, "the connection broke while reading"),
        (close_at_once, "the connection was closed without an answer"),
        (cut(BODY, at=20), "the answer was cut short"),
        (cut(BODY, at=20, reset=True), "the connection broke while reading"),
        (raw(head(200, length=len(BODY) + 5) + BODY), "the answer was cut short"),
        (raw(head(200, length=len(BODY) - 5) + BODY), "not JSON"),
        (
            raw(head(200, headers={"Transfer-Encoding": "chunked"}) + b"ZZ\r\n"),
            "the connection broke while reading",
        ),
        (raw(head(200, headers={"Transfer-Encoding": "chunked"}) + b"5\r\n{"), "the answer was cut short"),
        (raw(head(200, length=-5) + BODY), "no valid HTTP"),
        (raw(b"220 ftp.example FTP server ready\r\n"), "no valid HTTP"),
        (raw(b"HTTP/1.1 200 OK\r\nX: " + b"y" * 2_000_000), "libcurl error 100"),
    ],
)
def test_a_broken_answer_is_transient(fault: Callable[[Peer], None], detail: str) -> None:
    with FaultServer(fault) as server:
        answer = rate(server.url)
        assert len(server.requests) == 1
    assert (answer.verdict, answer.reason, answer.detail) == (Verdict.TRANSIENT, None, detail)


@pytest.mark.parametrize("fault", [stall, drip(BODY, pause=0.05)])
def test_no_server_holds_us_longer_than_connect_and_read(fault: Callable[[Peer], None]) -> None:
    with FaultServer(fault) as server:
        answer = rate(server.url, timeout={"connect": 0.2, "read": 0.4})
    assert (answer.verdict, answer.detail) == (Verdict.TRANSIENT, "timeout after 0.6 s")
    assert 0.55 <= answer.elapsed < 2


@pytest.mark.parametrize("fault", [close_at_once, reset_at_once])
@pytest.mark.parametrize("method", ["GET", "POST"])
def test_nothing_is_sent_twice(fault: Callable[[Peer], None], method: str) -> None:
    """libcurl by itself repeats a request on a kept-alive connection that dies: a request without a permit."""
    with FaultServer(in_order(GOOD, fault, GOOD)) as server:
        client = provider(server.url, method=method)
        verdicts = [client.rate(ACCOUNT).verdict for _ in range(3)]
        assert len(server.requests) == 3
    assert verdicts == [Verdict.RATED, Verdict.TRANSIENT, Verdict.RATED]


def test_nobody_listens() -> None:
    with refused_port() as port:
        answer = rate(f"http://127.0.0.1:{port}")
    assert (answer.verdict, answer.detail, answer.http_status) == (
        Verdict.TRANSIENT,
        "connection refused",
        None,
    )


def test_no_such_host() -> None:
    answer = rate("https://host.invalid")
    assert (answer.verdict, answer.detail) == (Verdict.TRANSIENT, "the host's name was not found")


def test_a_connection_that_never_comes() -> None:
    with full_port() as port:
        answer = rate(f"http://127.0.0.1:{port}", timeout={"connect": 0.3, "read": 5})
    assert (answer.verdict, answer.detail) == (Verdict.TRANSIENT, "connect timeout after 0.3 s")


# --- what is said of it -----------------------------------------------------------------------


def test_no_detail_tells_a_secret_an_account_or_an_address() -> None:
    details = []
    with refused_port() as port:
        details.append(rate(f"http://127.0.0.1:{port}", auth=BEARER).detail)
    details.append(rate("https://canary-host.invalid", auth=BEARER).detail)
    for fault in (reset_at_once, cut(BODY, at=9), respond(200, b"canary-body"), respond(500, b"canary-body")):
        with FaultServer(fault) as server:
            details.append(rate(server.url, auth=BEARER).detail)
    for detail in details:
        assert detail
        assert not any(
            word in detail for word in (ACCOUNT, "canary", "127.0.0.1", "http:", os.environ["ESG_TOKEN"])
        )
