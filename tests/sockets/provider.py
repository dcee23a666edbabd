"""Clients of the ESG API as tests need them: against a server on a socket, with one canary secret.

There are two ways to the API: `CurlRatings` makes one attempt and waits for it, `CurlAttempts` has many
under way at once. Where a test says `usefixtures("way")`, it runs over both, each as `provider` opens it.
"""

from __future__ import annotations

import contextlib
import json
import socket
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future
from typing import Any, Self

from esgbatch.config.model import Ratings
from esgbatch.http.auth import Authenticator, authenticator
from esgbatch.model import Answer, Verdict, Work
from esgbatch.ratings.attempts import CurlAttempts
from esgbatch.ratings.client import CurlRatings
from esgbatch.ratings.transport import BeforeSending
from tests.sockets.faultserver import FaultServer, Peer, head, respond

SCORES = {"environmental": 71.235, "social": "64.1", "governance": 80, "overall": 71.79}
RATED = ["71.24", "64.10", "80.00", "71.79"]
BODY = json.dumps({"accountId": "A-1", "scores": SCORES}).encode()
GOOD = respond(200, BODY)
ACCOUNT = "A-4711"
TOKEN = "canary-token"
BEARER = {"kind": "bearer", "token": {"env": "ESG_TOKEN"}}
API_KEY = {"kind": "header", "name": "X-API-Key", "value": {"env": "ESG_TOKEN"}}


def oauth2(gate: FaultServer) -> dict[str, object]:
    return {
        "kind": "oauth2",
        "token_url": gate.url + "/token",
        "client_id": "esgbatch",
        "client_secret": {"env": "ESG_TOKEN"},
    }


class AtOnce:
    """`CurlAttempts` with the surface of `CurlRatings`: a thread turns, each caller waits for his answer."""

    def __init__(
        self,
        config: Ratings,
        authenticator: Authenticator,
        *,
        before_sending: BeforeSending = lambda: None,
    ) -> None:
        self.attempts = CurlAttempts(config, authenticator, 64, before_sending=before_sending)
        self._api = self.attempts._api
        self._lock = threading.Lock()
        self._asked = 0
        self._callers: dict[int, Future[Answer]] = {}
        self._ended = False
        self._thread = threading.Thread(target=self._turn, daemon=True)
        self._thread.start()

    def rate(self, account_id: str) -> Answer:
        answer: Future[Answer] = Future()
        with self._lock:
            if self._ended:
                return _stopped()
            work = Work(self._asked, account_id)
            self._asked += 1
            self._callers[work.position] = answer
            self.attempts.start(work)
            self.attempts.wake()
        return answer.result(20)

    def abort(self) -> None:
        with self._lock:
            self._ended = True
        self.attempts.abort()
        self._thread.join(10)
        assert not self._thread.is_alive()

    def _turn(self) -> None:
        try:
            while not self._ended:
                self._deliver(60.0)
            self._deliver(0.0)
            for caller in self._callers.values():
                caller.set_result(_stopped())
        except BaseException as bug:  # noqa: BLE001 - it is whoever waits who must see it
            for caller in self._callers.values():
                caller.set_exception(bug)
        finally:
            self.attempts.close()

    def _deliver(self, timeout: float) -> None:
        for work, answer in self.attempts.turn(timeout):
            # One that an abort held back at the last moment is as good as stopped.
            stopped = self._ended and answer.verdict is Verdict.LOST
            self._callers.pop(work.position).set_result(_stopped() if stopped else answer)


def _stopped() -> Answer:
    return Answer(Verdict.TRANSIENT, detail="stopped", started=time.monotonic())


Client = CurlRatings | AtOnce


WAYS: Mapping[str, Callable[..., Client]] = {"alone": CurlRatings, "at_once": AtOnce}


class Ways:
    """By which way clients are opened now, and those that are open."""

    def __init__(self) -> None:
        self.now = "alone"
        self._opened: list[Client] = []

    @contextlib.contextmanager
    def going(self, way: str) -> Iterator[Self]:
        """Every client opened within goes that way, and none is left at the end."""
        before, self.now = self.now, way
        try:
            yield self
        finally:
            self.now = before
            self.forget()

    def open(self, config: Ratings, *, before_sending: BeforeSending = lambda: None) -> Client:
        client = WAYS[self.now](config, authenticator(config), before_sending=before_sending)
        self._opened.append(client)
        return client

    def forget(self) -> None:
        """End what is open, and let go of it."""
        while self._opened:
            self._opened.pop().abort()


ways = Ways()


def settings(base: str, **options: Any) -> Ratings:
    options.setdefault("timeout", {"connect": 5, "read": 5})
    return Ratings(url=base + "/v1/accounts/{account_id}/esg", **options)


def provider(base: str, **options: Any) -> Client:
    return ways.open(settings(base, **options))


def rate(base: str, **options: Any) -> Answer:
    return provider(base, **options).rate(ACCOUNT)


def open_sockets(client: Client) -> int:
    """How many sockets it has open; of the many-at-once way those that are waited for."""
    if isinstance(client, AtOnce):
        return len(client.attempts._transfers._wanted)
    return len(client._connections._sockets._descriptors)


def until(condition: Callable[[], bool]) -> None:
    """Wait for a state that nothing announces."""
    give_up = time.monotonic() + 10
    while not condition():
        assert time.monotonic() < give_up, "it never came to that"
        time.sleep(0.005)


def run_threads(count: int, work: Callable[[int], object]) -> None:
    threads = [threading.Thread(target=work, args=(number,)) for number in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(20)
        assert not thread.is_alive()


def without_length(body: bytes) -> Callable[[Peer], None]:
    """An answer that ends with its connection."""

    def answer(peer: Peer) -> None:
        peer.send(head(200) + body)
        peer.close()

    return answer


@contextlib.contextmanager
def full_port() -> Iterator[int]:
    """A port whose backlog is full: a further connection is never answered."""
    with contextlib.ExitStack() as stack:
        listener = stack.enter_context(socket.socket())
        listener.bind(("127.0.0.1", 0))
        listener.listen(0)
        for _ in range(3):
            waiting = stack.enter_context(socket.socket())
            waiting.setblocking(False)
            waiting.connect_ex(listener.getsockname())
        yield listener.getsockname()[1]
