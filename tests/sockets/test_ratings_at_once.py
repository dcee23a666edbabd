"""Many attempts at the ESG API in one thread: what they share, and what one must not do to the others."""

from __future__ import annotations

import contextlib
import gc
import os
import re
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from esgbatch.fetching.engines import ThreadEngine
from esgbatch.http.auth import StaticAuthenticator, authenticator
from esgbatch.model import Answer, Verdict, Work
from esgbatch.ratings.attempts import CurlAttempts
from esgbatch.ratings.transfers import Transfers
from esgbatch.ratings.transport import BeforeSending
from tests.sockets.certificates import Authority, server_context
from tests.sockets.faultserver import (
    FaultServer,
    Peer,
    close_at_once,
    drip,
    head,
    redirect,
    refused_port,
    reset_at_once,
    respond,
    respond_json,
    stall,
)
from tests.sockets.provider import (
    BODY,
    GOOD,
    SCORES,
    TOKEN,
    full_port,
    oauth2,
    provider,
    run_threads,
    settings,
    until,
)

LONG = {"connect": 30, "read": 30}


@pytest.fixture(autouse=True)
def token(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ESG_TOKEN", TOKEN)


class Driven:
    """Attempts that are driven by the test's own thread; `answers` are by account."""

    def __init__(
        self, base: str, *, most: int = 64, before_sending: BeforeSending = lambda: None, **options: Any
    ) -> None:
        config = settings(base, **options)
        self.login = authenticator(config)
        self.attempts = CurlAttempts(config, self.login, most, before_sending=before_sending)
        self.answers: dict[str, Answer] = {}
        self._asked = 0

    def __enter__(self) -> Driven:
        return self

    def __exit__(self, *_: object) -> None:
        self.attempts.close()

    def start(self, *accounts: str) -> None:
        for account_id in accounts:
            self.attempts.start(Work(self._asked, account_id))
            self._asked += 1

    def turn(self, timeout: float) -> None:
        for work, answer in self.attempts.turn(timeout):
            assert work.account_id not in self.answers, "a second answer"
            self.answers[work.account_id] = answer

    def until(self, condition: Callable[[], bool], *, timeout: float = 0.05) -> None:
        """Turn until something is so that may become so between two turns."""
        give_up = time.monotonic() + 20
        while not condition():
            assert time.monotonic() < give_up, "it never came to that"
            self.turn(timeout)

    def answered(self, *accounts: str) -> list[Answer]:
        """The answers of these, taken away; a turn may last for ever, so that each must end by itself."""
        self.until(lambda: self.answers.keys() >= set(accounts), timeout=20.0)
        return [self.answers.pop(account_id) for account_id in accounts]

    def rate(self, *accounts: str) -> list[Answer]:
        self.start(*accounts)
        return self.answered(*accounts)

    def verdicts(self, *accounts: str) -> Counter[Verdict]:
        return Counter(answer.verdict for answer in self.rate(*accounts))


def account_of(peer: Peer) -> str:
    return peer.request.path.split("/")[3]


def echo(peer: Peer) -> None:
    """The account's number as its four scores."""
    respond_json({"scores": dict.fromkeys(SCORES, int(account_of(peer)) / 100)})(peer)


def numbers(answers: list[Answer]) -> list[int]:
    """What `echo` has answered."""
    return [int(100 * answer.scores[0]) for answer in answers if len(set(answer.scores)) == 1]


def by_account(treatments: Mapping[str, Callable[[Peer], None]]) -> Callable[[Peer], None]:
    return lambda peer: treatments.get(account_of(peer), GOOD)(peer)


# --- many -------------------------------------------------------------------------------------


@pytest.mark.parametrize("most", [8, 300])
def test_hundreds_are_under_way_at_once_and_each_gets_its_own_answer(most: int) -> None:
    go = threading.Event()

    def slow(peer: Peer) -> None:
        go.wait(20)
        echo(peer)

    accounts = [str(number) for number in range(300)]
    with FaultServer(slow) as server, Driven(server.url, most=most, timeout=LONG) as client:
        client.start(*accounts)
        client.until(lambda: len(server.requests) == 300)
        assert not client.answers
        go.set()
        assert numbers(client.answered(*accounts)) == list(range(300))
        assert server.connections == 300
        # Of those no more are kept than was said.
        assert numbers(client.rate(*accounts)) == list(range(300))
        assert server.connections == 600 - most


def test_hundreds_over_a_few_connections_do_not_mix_their_answers() -> None:
    accounts = [str(number) for number in range(1000)]
    with FaultServer(echo) as server, Driven(server.url, most=8) as client:
        waiting = iter(accounts)
        client.start(*(next(waiting) for _ in range(8)))
        got: dict[str, Answer] = {}
        while len(got) < 1000:
            client.until(lambda: bool(client.answers), timeout=20.0)
            for account_id in list(client.answers):
                got[account_id] = client.answers.pop(account_id)
                client.start(*([account] if (account := next(waiting, None)) else []))
        assert numbers([got[account_id] for account_id in accounts]) == list(range(1000))
        assert server.connections == 8


def test_one_connection_serves_what_comes_one_after_the_other() -> None:
    with FaultServer(GOOD) as server, Driven(server.url) as client:
        for number in range(20):
            assert client.verdicts(str(number)) == {Verdict.RATED: 1}
        assert server.connections == 1


def test_after_a_burst_its_connections_are_used() -> None:
    together = threading.Barrier(8)

    def burst(peer: Peer) -> None:
        if account_of(peer).startswith("burst"):
            together.wait(10)
        GOOD(peer)

    with FaultServer(burst) as server, Driven(server.url) as client:
        for _ in range(2):
            assert client.verdicts(*(f"burst-{number}" for number in range(8))) == {Verdict.RATED: 8}
            assert server.connections == 8
            for number in range(20):
                assert client.verdicts(str(number)) == {Verdict.RATED: 1}
        assert server.connections == 8


def test_a_tls_session_is_taken_up_by_further_connections(tmp_path: Path) -> None:
    authority = Authority(tmp_path)
    tls = server_context(authority.sign("127.0.0.1"))
    reused: list[bool | None] = []

    def note(peer: Peer) -> None:
        reused.append(peer._sock.session_reused)  # type: ignore[attr-defined]
        peer.send(head(200, length=len(BODY), headers={"Connection": "close"}) + BODY)
        peer.close()

    with (
        FaultServer(note, tls=tls) as server,
        Driven(server.url, ca_bundle=str(authority.pem)) as client,
    ):
        for number in range(4):
            assert client.verdicts(str(number)) == {Verdict.RATED: 1}
    assert reused == [False, True, True, True]


# --- connections that end ---------------------------------------------------------------------


class Closing:
    """Answers well, keeps the connection, and closes it when `now` is called: with a FIN, or a RST."""

    def __init__(self, *, reset: bool = False) -> None:
        self._reset = reset
        self._peers: list[Peer] = []
        self._go = threading.Event()
        self._closed = threading.Semaphore(0)

    def __call__(self, peer: Peer) -> None:
        GOOD(peer)
        if self._go.is_set():
            return
        self._peers.append(peer)
        self._go.wait(20)
        peer.reset() if self._reset else peer.close()
        self._closed.release()

    def now(self) -> None:
        self._go.set()
        for _ in self._peers:
            assert self._closed.acquire(timeout=10)


def turns_within(client: Driven, seconds: float) -> int:
    turns = 0
    until = time.monotonic() + seconds
    while (left := until - time.monotonic()) > 0:
        client.turn(left)
        turns += 1
    return turns


@pytest.mark.parametrize("reset", [False, True])
@pytest.mark.parametrize("busy", [False, True])
def test_idle_connections_that_the_server_closes_cost_nothing(reset: bool, busy: bool) -> None:
    """Neither turns for what nobody waits for, nor an attempt that fails."""
    closing = Closing(reset=reset)
    accounts = [f"A-{number}" for number in range(8)]
    go = threading.Event()

    def slow(peer: Peer) -> None:
        go.wait(20)
        GOOD(peer)

    def answer(peer: Peer) -> None:
        slow(peer) if account_of(peer) == "slow" else closing(peer)

    with FaultServer(answer) as server, Driven(server.url, timeout=LONG) as client:
        if busy:
            client.start("slow")
        assert client.verdicts(*accounts) == {Verdict.RATED: 8}
        before = time.process_time()
        closing.now()
        # libcurl looks for dead connections once a second, whichever way.
        assert turns_within(client, 1.2) <= 20
        assert time.process_time() - before < 0.2
        assert client.verdicts(*accounts) == {Verdict.RATED: 8}
        assert len(server.requests) == 16 + busy
        if busy:
            go.set()
            assert [answer.verdict for answer in client.answered("slow")] == [Verdict.RATED]


@pytest.mark.usefixtures("way")
def test_a_connection_that_the_server_closed_a_second_ago_is_not_used() -> None:
    """However busy the others are. libcurl looks for dead connections once a second."""
    together = threading.Barrier(8)
    peers: dict[int, Peer] = {}

    def answer(peer: Peer) -> None:
        peers[peer.request.connection] = peer
        if account_of(peer).startswith("burst"):
            together.wait(10)
        GOOD(peer)

    verdicts: list[Verdict] = []

    def burst(number: int) -> None:
        verdicts.append(client.rate(f"burst-{number}").verdict)

    with FaultServer(answer) as server:
        client = provider(server.url)
        run_threads(8, burst)
        assert client.rate("another").verdict is Verdict.RATED
        used = server.requests[-1].connection
        assert server.connections == 8
        for number, peer in peers.items():
            if number != used:
                peer.close()
        time.sleep(1.1)
        together = threading.Barrier(1)
        run_threads(8, burst)
        assert Counter(verdicts) == {Verdict.RATED: 16}


@pytest.mark.parametrize("fault", [stall, drip(BODY, pause=0.1)])
def test_waiting_takes_no_turns(fault: Callable[[Peer], None]) -> None:
    with FaultServer(fault) as server, Driven(server.url, timeout=LONG) as client:
        client.start("A", "B")
        client.until(lambda: len(server.requests) == 2)
        before = time.process_time()
        assert turns_within(client, 0.5) <= 20
        assert time.process_time() - before < 0.2


@pytest.mark.parametrize("fault", [close_at_once, reset_at_once])
@pytest.mark.parametrize("method", ["GET", "POST"])
def test_nothing_is_sent_twice_however_many_connections_die(fault: Callable[[Peer], None], method: str) -> None:
    """libcurl by itself repeats a request on a kept connection that dies: a request without a permit."""
    together = threading.Barrier(8)

    def answer(peer: Peer) -> None:
        together.wait(10)
        fault(peer) if account_of(peer).startswith("bad") else GOOD(peer)

    with FaultServer(answer) as server, Driven(server.url, method=method) as client:
        good, bad = ([f"{kind}-{number}" for number in range(8)] for kind in ("good", "bad"))
        assert client.verdicts(*good) == {Verdict.RATED: 8}
        assert client.verdicts(*bad) == {Verdict.TRANSIENT: 8}
        assert {request.connection for request in server.requests[8:]} == set(range(8)), "all were kept ones"
        assert client.verdicts(*good) == {Verdict.RATED: 8}
        assert len(server.requests) == 24


def test_connections_of_many_kinds_come_and_go() -> None:
    """Numbers of sockets are used again and again, and by none of them a socket is mistaken for another."""
    faults: list[Callable[[Peer], None]] = [
        GOOD,
        close_at_once,
        reset_at_once,
        respond(200, BODY, {"Connection": "close"}),
    ]

    def answer(peer: Peer) -> None:
        faults[int(account_of(peer)) % 4](peer)

    def verdicts(accounts: list[str]) -> list[Verdict]:
        return [answer.verdict for answer in client.rate(*accounts)]

    accounts = [str(number) for number in range(200)]
    with FaultServer(answer) as server, refused_port() as port, Driven(server.url, most=16) as client:
        rated, broken = Verdict.RATED, Verdict.TRANSIENT
        for _ in range(4):
            assert verdicts(accounts) == [rated, broken, broken, rated] * 50
            faults[1] = redirect(f"http://127.0.0.1:{port}/")
            assert verdicts(accounts) == [rated, Verdict.REDIRECTED, broken, rated] * 50
            assert verdicts(accounts[1::4]) == [broken] * 50, "nobody listens there"
            faults[1] = close_at_once
        assert verdicts(["0"]) == [rated]


# --- time limits ------------------------------------------------------------------------------


def test_time_limits_are_each_attempts_own() -> None:
    with full_port() as port:
        treatments = {
            "stalled": stall,
            "dripping": drip(BODY, pause=0.05),
            "away": redirect(f"http://127.0.0.1:{port}/"),
        }
        with (
            FaultServer(by_account(treatments)) as server,
            Driven(server.url, timeout={"connect": 0.3, "read": 0.5}) as client,
        ):
            assert client.verdicts("away") == {Verdict.REDIRECTED: 1}
            client.start("stalled", "dripping", "away")
            rated = 0
            while not {"stalled", "dripping", "away"} <= client.answers.keys():
                assert client.verdicts(f"good-{rated}") == {Verdict.RATED: 1}
                rated += 1
            stalled, dripping, away = client.answered("stalled", "dripping", "away")
    assert rated > 20
    assert [each.verdict for each in (stalled, dripping, away)] == [Verdict.TRANSIENT] * 3
    assert stalled.detail == dripping.detail == "timeout after 0.8 s"
    assert away.detail == "connect timeout after 0.3 s"
    assert 0.75 <= stalled.elapsed < 2
    assert 0.25 <= away.elapsed < 0.75


# --- before sending ---------------------------------------------------------------------------


def test_what_is_held_back_is_lost_and_nothing_of_it_leaves() -> None:
    says = iter([True, False, True, False])
    accounts = ["A", "B", "C", "D"]
    with FaultServer(GOOD) as server, Driven(server.url, before_sending=lambda: next(says)) as client:
        answers = client.rate(*accounts)
        assert Counter(answer.verdict for answer in answers) == {Verdict.RATED: 2, Verdict.LOST: 2}
        rated = {
            each for each, answer in zip(accounts, answers, strict=True) if answer.verdict is Verdict.RATED
        }
        assert {request.target.split("/")[3] for request in server.requests} == rated
        assert {answer.detail for answer in answers if answer.verdict is Verdict.LOST} == {"held back"}


def held_back_meanwhile(seconds: float, **timeout: float) -> Answer:
    """The answer to one that comes in time, but while another is held back so long."""
    second, answered = threading.Event(), threading.Event()
    asked: list[None] = []

    def before_sending() -> None:
        asked.append(None)
        if len(asked) == 2:
            second.set()
            assert answered.wait(10)
            time.sleep(seconds)

    def answer(peer: Peer) -> None:
        first = account_of(peer) == "first"
        if first:
            second.wait(10)
        GOOD(peer)
        if first:
            answered.set()

    with (
        FaultServer(answer) as server,
        Driven(server.url, before_sending=before_sending, timeout=timeout) as client,
    ):
        client.start("first")
        client.until(lambda: len(server.requests) == 1)
        client.start("second")
        first, _ = client.answered("first", "second")
        return first


def test_an_answer_that_comes_while_another_is_held_back_is_taken() -> None:
    answer = held_back_meanwhile(0.3, **LONG)
    assert (answer.verdict, answer.detail) == (Verdict.RATED, "")


# --- logging in -------------------------------------------------------------------------------


class Gate:
    """A login server: token-1, token-2, … unless it is `closed`, or is to answer something else once."""

    def __init__(self) -> None:
        self.open = threading.Event()
        self.open.set()
        self.instead: Callable[[Peer], None] | None = None
        self.server = FaultServer(self._answer)

    def _answer(self, peer: Peer) -> None:
        number = len(self.server.requests)
        while not self.open.wait(0.02):
            if peer.stopping.is_set():
                return
        instead, self.instead = self.instead, None
        (instead or respond_json({"access_token": f"token-{number}"}))(peer)

    @property
    def calls(self) -> int:
        return len(self.server.requests)


@pytest.fixture
def gate() -> Iterator[Gate]:
    gate = Gate()
    with gate.server:
        yield gate


def expire(client: Driven) -> None:
    client.login.refused(client.login.credential())


HELD = [f"held-{number}" for number in range(6)]


def test_nothing_else_waits_for_a_login(gate: Gate) -> None:
    """What is under way is answered meanwhile; then one of those that waited goes, the others are lost."""
    go = threading.Event()

    def slow(peer: Peer) -> None:
        go.wait(20)
        GOOD(peer)

    with (
        FaultServer(by_account({"slow": slow})) as server,
        Driven(server.url, auth=oauth2(gate.server), timeout=LONG) as client,
    ):
        assert client.verdicts("first") == {Verdict.RATED: 1}
        client.start("slow")
        client.until(lambda: len(server.requests) == 2)
        expire(client)
        gate.open.clear()
        client.start(*HELD)
        client.until(lambda: gate.calls == 2)
        go.set()
        assert [answer.verdict for answer in client.answered("slow")] == [Verdict.RATED]
        assert not client.answers
        assert len(server.requests) == 2
        gate.open.set()
        answers = client.answered(*HELD)
        assert [answer.verdict for answer in answers] == [Verdict.RATED] + [Verdict.LOST] * 5
        assert gate.calls == 2
        assert [request.headers["authorization"] for request in server.requests] == [
            *["Bearer token-1"] * 2,
            "Bearer token-2",
        ]
        assert client.verdicts(*HELD) == {Verdict.RATED: 6}
        assert gate.calls == 2


@pytest.mark.parametrize(
    ("instead", "verdict", "detail"),
    [
        (respond(503), Verdict.TRANSIENT, "login: the token endpoint answered HTTP 503"),
        (close_at_once, Verdict.TRANSIENT, "login: the token endpoint failed"),
        (respond(401), Verdict.LOGIN_REFUSED, "the token endpoint refused the client: HTTP 401"),
    ],
)
def test_a_login_that_fails_is_the_answer_to_all_who_waited(
    gate: Gate, instead: Callable[[Peer], None], verdict: Verdict, detail: str
) -> None:
    gate.instead = instead
    with FaultServer(GOOD) as server, Driven(server.url, auth=oauth2(gate.server)) as client:
        answers = client.rate(*HELD)
        assert [answer.verdict for answer in answers] == [verdict] * 6
        assert all(answer.detail.startswith(detail) for answer in answers)
        assert (gate.calls, len(server.requests)) == (1, 0)
        assert client.verdicts(*HELD) == {Verdict.RATED: 1, Verdict.LOST: 5}
        assert gate.calls == 2


def test_eight_times_401_is_one_login(gate: Gate) -> None:
    together = threading.Barrier(8)

    def strict(peer: Peer) -> None:
        if peer.request.headers["authorization"] == "Bearer token-1":
            together.wait(10)
            respond(401)(peer)
        else:
            GOOD(peer)

    accounts = [f"A-{number}" for number in range(8)]
    with FaultServer(strict) as server, Driven(server.url, auth=oauth2(gate.server)) as client:
        client.start(*accounts)
        lost = [account for account in accounts if account != accounts[0]]
        assert {answer.verdict for answer in client.answered(*lost)} == {Verdict.LOST}
        client.start(*lost)
        assert {answer.verdict for answer in client.answered(*accounts)} == {Verdict.UNAUTHORIZED}
        assert gate.calls == 1
        assert client.verdicts(*accounts) == {Verdict.RATED: 1, Verdict.LOST: 7}
        assert client.verdicts(*accounts) == {Verdict.RATED: 8}
        assert gate.calls == 2


def test_a_401_that_comes_during_the_login_is_not_another(gate: Gate) -> None:
    go = threading.Event()

    def late(peer: Peer) -> None:
        go.wait(20)
        respond(401)(peer)

    with (
        FaultServer(by_account({"late": late})) as server,
        Driven(server.url, auth=oauth2(gate.server), timeout=LONG) as client,
    ):
        assert client.verdicts("first") == {Verdict.RATED: 1}
        client.start("late")
        client.until(lambda: len(server.requests) == 2)
        expire(client)
        gate.open.clear()
        client.start("next")
        client.until(lambda: gate.calls == 2)
        go.set()
        assert [answer.verdict for answer in client.answered("late")] == [Verdict.UNAUTHORIZED]
        gate.open.set()
        assert [answer.verdict for answer in client.answered("next")] == [Verdict.RATED]
        assert client.verdicts("last") == {Verdict.RATED: 1}
        assert gate.calls == 2


def test_the_end_of_a_login_ends_a_turn_however_late_it_is_known(gate: Gate) -> None:
    """Whoever turns when the bell has been rung must find the login done, or be woken again."""
    with FaultServer(GOOD) as server, Driven(server.url, auth=oauth2(gate.server)) as client:
        ring = client.attempts._transfers.ring

        def ring_and_dawdle() -> None:
            ring()
            if threading.current_thread() is not threading.main_thread():
                time.sleep(0.2)

        client.attempts._transfers.ring = ring_and_dawdle  # type: ignore[method-assign]
        began = time.monotonic()
        client.start("A")
        client.until(lambda: bool(client.answers) or time.monotonic() - began > 3, timeout=4.0)
        assert client.answers.keys() == {"A"}, "the turn was not ended"


def test_a_bug_in_a_login_is_raised(gate: Gate, monkeypatch: pytest.MonkeyPatch) -> None:
    with Driven("http://127.0.0.1:9", auth=oauth2(gate.server)) as client:

        def bug() -> None:
            raise ZeroDivisionError

        monkeypatch.setattr(client.login, "credential", bug)
        client.start("A")
        with pytest.raises(ZeroDivisionError):
            client.until(lambda: False)


# --- the end ----------------------------------------------------------------------------------


def open_files() -> Counter[str]:
    """What the descriptors of this process are, by kind."""
    kinds: Counter[str] = Counter()
    for each in Path("/proc/self/fd").iterdir():
        with contextlib.suppress(OSError):
            kinds[re.sub(r"\d", "", str(each.readlink()))] += 1
    return kinds


def test_nothing_is_left_at_the_end(gate: Gate) -> None:
    gc.collect()
    with FaultServer(by_account({"stalled": stall, "dripping": drip(BODY, pause=0.05)})) as server:
        before = open_files()
        threads = threading.active_count()
        client = Driven(server.url, auth=oauth2(gate.server))
        client.rate("first")
        client.rate(*(f"good-{number}" for number in range(10)))
        client.start("stalled", "dripping")
        client.until(lambda: len(server.requests) == 13)
        more = open_files() - before
        assert more["socket:[]"] >= 4, "its own two, and the server's"
        assert more["anon_inode:[eventpoll]"] >= 1
        assert more["anon_inode:[eventfd]"] >= 1
        client.attempts.close()
        assert open_files()["anon_inode:[eventpoll]"] == before["anon_inode:[eventpoll]"]
        until(lambda: not server._open)
        del client
        gc.collect()
        until(lambda: threading.active_count() <= threads)
    until(lambda: open_files() - before == Counter())


def test_what_is_only_started_is_no_request_after_an_abort(gate: Gate) -> None:
    with FaultServer(GOOD) as server, Driven(server.url, auth=oauth2(gate.server)) as client:
        client.attempts.abort()
        client.start("A", "B")
        for _ in range(5):
            client.turn(0.02)
        assert not client.answers
        assert (gate.calls, server.connections) == (0, 0)


def test_what_becomes_ready_after_an_abort_is_not_sent(tmp_path: Path) -> None:
    authority = Authority(tmp_path)
    asked: list[None] = []
    with (
        FaultServer(GOOD, tls=server_context(authority.sign("127.0.0.1"))) as server,
        Driven(server.url, ca_bundle=str(authority.pem), before_sending=lambda: asked.append(None)) as client,
    ):
        client.start("A")
        client.turn(0.0)  # begun, and the handshake takes several turns
        assert not asked
        client.attempts.abort()
        assert [answer.verdict for answer in client.answered("A")] == [Verdict.LOST]
        assert not server.requests
        assert not asked


@contextlib.contextmanager
def running(base: str, count: int = 8, **options: Any) -> Iterator[ThreadEngine]:
    """An engine with so many attempts under way; what a test has not ended is ended after it."""
    config = settings(base, timeout=LONG, **options)
    engine = ThreadEngine(CurlAttempts(config, authenticator(config), 64))
    for number in range(count):
        engine.submit(Work(number, f"A-{number}"))
    engine.collect(0.0)
    try:
        yield engine
    finally:
        engine.close(5.0)


def ended_in_time(engine: ThreadEngine) -> list[tuple[Work, Answer]]:
    began = time.monotonic()
    answers = list(engine.close(10.0))
    assert time.monotonic() - began < 2
    return answers


@pytest.fixture
def nothing_left() -> Iterator[None]:
    """No thread of the engine and no descriptor more than before. The login server's client keeps its own."""
    gc.collect()
    before = open_files()
    yield
    until(lambda: not any(each.name.startswith(("rating", "login")) for each in threading.enumerate()))
    gc.collect()
    until(lambda: open_files() - before == Counter())


@pytest.mark.usefixtures("nothing_left")
@pytest.mark.parametrize("fault", [stall, drip(BODY, pause=0.05)])
def test_the_engine_ends_while_the_server_stalls(fault: Callable[[Peer], None]) -> None:
    with FaultServer(fault) as server, running(server.url) as engine:
        server.wait_for(8)
        assert ended_in_time(engine) == []
        engine.submit(Work(9, "A-9"))
        engine.collect(0.1)
        assert len(server.requests) == 8, "nothing is sent after an end"


@pytest.mark.usefixtures("nothing_left")
def test_the_engine_ends_while_connecting() -> None:
    with full_port() as port, running(f"http://127.0.0.1:{port}") as engine:
        attempts = engine._attempts
        assert isinstance(attempts, CurlAttempts)
        until(lambda: len(attempts._transfers._wanted) >= 8)
        assert ended_in_time(engine) == []


@pytest.mark.usefixtures("nothing_left")
def test_the_engine_ends_in_the_middle_of_a_tls_handshake() -> None:
    with FaultServer(stall) as server, running(server.url.replace("http:", "https:")) as engine:
        until(lambda: server.connections == 8)
        assert ended_in_time(engine) == []
        assert not server.requests


@pytest.mark.usefixtures("nothing_left")
def test_the_engine_ends_while_a_login_hangs(gate: Gate) -> None:
    gate.open.clear()
    with FaultServer(GOOD) as server, running(server.url, auth=oauth2(gate.server)) as engine:
        gate.server.wait_for(1)
        assert ended_in_time(engine) == []
        until(lambda: not any(each.name.startswith("rating") for each in threading.enumerate()))
        gate.open.set()
        until(lambda: not any(each.name.startswith("login") for each in threading.enumerate()))
        assert not server.requests


@pytest.mark.usefixtures("nothing_left")
def test_the_engine_ends_with_what_has_come() -> None:
    treat = by_account({"A-1": stall, "A-5": stall})
    sent = threading.Semaphore(0)

    def answer(peer: Peer) -> None:
        treat(peer)
        sent.release()

    with FaultServer(answer) as server, running(server.url) as engine:
        assert all(sent.acquire(timeout=10) for _ in range(6))
        rated: list[int] = []
        while len(rated) < 5:
            rated += [work.position for work, _ in engine.collect(10)]
        rated += [work.position for work, _ in ended_in_time(engine)]
        assert sorted(rated) == [0, 2, 3, 4, 6, 7]


@pytest.mark.usefixtures("nothing_left")
def test_the_engine_needs_no_processor_while_it_waits() -> None:
    with FaultServer(by_account({"A-0": stall})) as server, running(server.url) as engine:
        rated = 0
        while rated < 7:
            rated += len(engine.collect(10))
        before = time.process_time()
        assert list(engine.collect(0.5)) == []
        assert time.process_time() - before < 0.1


@pytest.mark.usefixtures("nothing_left")
def test_the_engine_hears_of_a_login_that_ends(gate: Gate) -> None:
    with FaultServer(GOOD) as server, running(server.url, 1, auth=oauth2(gate.server)) as engine:
        assert [answer.verdict for _, answer in engine.collect(10)] == [Verdict.RATED]


# --- transfers --------------------------------------------------------------------------------


def test_a_bell_may_be_rung_after_the_end() -> None:
    """Its number must not be another's by then: what is rung would be that."""
    transfers: Transfers[int] = Transfers(4)
    bell = transfers._bell.descriptor
    transfers.close()
    with contextlib.ExitStack() as stack:
        pairs = [os.pipe2(os.O_NONBLOCK) for _ in range(5)]
        for each in (end for pair in pairs for end in pair):
            stack.callback(os.close, each)
        assert bell not in {end for pair in pairs for end in pair}
        transfers.ring()
        for reader, _ in pairs:
            with pytest.raises(BlockingIOError):
                os.read(reader, 1)
    del transfers
    gc.collect()
    with pytest.raises(OSError, match="Bad file"):
        os.fstat(bell)


def test_an_abort_ends_a_turn_though_the_last_ring_was_heard_already(monkeypatch: pytest.MonkeyPatch) -> None:
    """Who starts something rings once; an abort has nothing that a turn would find without a ring."""

    class Waking(StaticAuthenticator):
        def ready(self) -> bool:
            attempts.wake()  # between a turn's look at what was started and its wait
            return True

    attempts = CurlAttempts(settings("https://esg.example"), Waking(lambda: None), 1)
    monkeypatch.setattr(attempts, "_attempt", lambda work: None)
    attempts.start(Work(0, "A-1"))
    attempts.turn(0.0)
    attempts.abort()
    began = time.monotonic()
    attempts.turn(10.0)
    assert time.monotonic() - began < 5
    attempts.close()


def test_a_ring_ends_a_turn_and_only_one() -> None:
    transfers: Transfers[int] = Transfers(4)
    for _ in range(3):
        transfers.ring()
    began = time.monotonic()
    assert transfers.turn(20.0) == []
    assert time.monotonic() - began < 10
    assert transfers.turn(0.1) == []
    assert time.monotonic() - began >= 0.1
    threading.Timer(0.05, transfers.ring).start()
    assert transfers.turn(20.0) == []
    assert time.monotonic() - began < 15
    transfers.close()
