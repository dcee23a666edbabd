"""A client of the ESG API as tests need it: against a server on a socket, with one canary secret."""

from __future__ import annotations

import contextlib
import json
import socket
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

from esgbatch.config.model import Ratings
from esgbatch.http.auth import authenticator
from esgbatch.model import Answer
from esgbatch.ratings.client import CurlRatings
from tests.sockets.faultserver import Peer, head, respond

SCORES = {"environmental": 71.235, "social": "64.1", "governance": 80, "overall": 71.79}
RATED = ["71.24", "64.10", "80.00", "71.79"]
BODY = json.dumps({"accountId": "A-1", "scores": SCORES}).encode()
GOOD = respond(200, BODY)
ACCOUNT = "A-4711"
TOKEN = "canary-token"
BEARER = {"kind": "bearer", "token": {"env": "ESG_TOKEN"}}
API_KEY = {"kind": "header", "name": "X-API-Key", "value": {"env": "ESG_TOKEN"}}


def provider(base: str, **options: Any) -> CurlRatings:
    options.setdefault("timeout", {"connect": 5, "read": 5})
    config = Ratings(url=base + "/v1/accounts/{account_id}/esg", **options)
    return CurlRatings(config, authenticator(config))


def rate(base: str, **options: Any) -> Answer:
    return provider(base, **options).rate(ACCOUNT)


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
