"""The limit where it is promised: at the server, whatever delays a request after its permit."""

from __future__ import annotations

import contextlib
import json
import socket
import subprocess
import sys
import threading
import time
from collections import deque
from collections.abc import Iterator
from pathlib import Path
from typing import Self

import pytest

from esgbatch.clock import SystemClock
from esgbatch.config.model import Ratings
from esgbatch.fetching.concurrency import FixedConcurrency
from esgbatch.fetching.dispatcher import Dispatcher
from esgbatch.fetching.engines import ThreadEngine
from esgbatch.fetching.limiter import RateLimiter, WindowGuard
from esgbatch.fetching.retry import Backoff
from esgbatch.http.auth import Credential, StaticAuthenticator
from esgbatch.ratings.attempts import CurlAttempts
from tests.simulated import RecordingListener
from tests.sockets.certificates import Authority
from tests.sockets.provider import BODY
from tests.unit.test_dispatcher import Accounts

pytestmark = pytest.mark.alone

LIMIT = 60


class SlowRenewal:
    """A login that is due once, after 59 requests, and takes half a second then."""

    def __init__(self) -> None:
        self._given = 0
        self._renewed = False

    def ready(self) -> bool:
        return self._renewed or self._given < 59

    def credential(self) -> Credential:
        if not self.ready():
            time.sleep(0.5)
            self._renewed = True
        self._given += 1
        return Credential("Authorization", "Bearer x")

    def refused(self, credential: Credential | None) -> None:
        raise AssertionError(credential)


def most_in_a_second(arrivals: list[float]) -> int:
    window: deque[float] = deque()
    most = 0
    for at in sorted(arrivals):
        window.append(at)
        while window[0] <= at - 1.0:
            window.popleft()
        most = max(most, len(window))
    return most


def run(attempts: CurlAttempts, accounts: int) -> None:
    dispatcher = Dispatcher(
        ThreadEngine(attempts),
        RateLimiter(LIMIT, 64),
        FixedConcurrency(64),
        Backoff(0.5, 60.0),
        SystemClock(),
        RecordingListener(),
        attempts=3,
        commit_every=100,
        max_hold=60.0,
        stopped=lambda: False,
        tick=lambda _: None,
    )
    dispatcher.run(Accounts(accounts), final=False, remaining=lambda: 60.0)
    dispatcher.close()


class ArrivalServer:
    """`arrivals.py` at work; `times` are there when the `with` block has ended."""

    def __init__(self, *arguments: str) -> None:
        script = Path(__file__).with_name("arrivals.py")
        self.times: list[float] = []
        self._process = subprocess.Popen(
            [sys.executable, str(script), BODY.decode(), *arguments],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        assert self._process.stdout is not None
        self.port = int(self._process.stdout.readline())

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        out, _ = self._process.communicate(timeout=20)
        self.times = json.loads(out)


def test_a_slow_renewal_does_not_let_a_burst_through():
    with ArrivalServer("0") as server:
        ratings = Ratings(url=f"http://127.0.0.1:{server.port}/{{account_id}}")
        run(CurlAttempts(ratings, SlowRenewal(), 64, before_sending=WindowGuard(LIMIT).wait), 150)
    assert len(server.times) == 150
    assert most_in_a_second(server.times) <= LIMIT


def test_those_that_waited_for_a_renewal_do_not_leave_together() -> None:
    """Nor need the guard hold them back, which would hold up everything else: they get new permits."""
    with ArrivalServer("0") as server:
        ratings = Ratings(url=f"http://127.0.0.1:{server.port}/{{account_id}}")
        run(CurlAttempts(ratings, SlowRenewal(), 64), 150)
    assert len(server.times) == 150
    assert most_in_a_second(server.times) <= LIMIT + 3, "thirty waited"


@contextlib.contextmanager
def slow_to_connect(port: int, seconds: float) -> Iterator[int]:
    """A relay to `port` that lets the first bytes of each connection wait."""
    with socket.create_server(("127.0.0.1", 0), backlog=128) as listener:
        sockets: list[socket.socket] = []

        def pump(source: socket.socket, sink: socket.socket) -> None:
            with contextlib.suppress(OSError):
                while data := source.recv(65536):
                    sink.sendall(data)

        def relay(client: socket.socket) -> None:
            time.sleep(seconds)
            with contextlib.suppress(OSError):
                server = socket.create_connection(("127.0.0.1", port))
                sockets.append(server)
                threading.Thread(target=pump, args=(server, client), daemon=True).start()
                pump(client, server)

        def accept() -> None:
            with contextlib.suppress(OSError):
                while True:
                    client, _ = listener.accept()
                    sockets.append(client)
                    threading.Thread(target=relay, args=(client,), daemon=True).start()

        threading.Thread(target=accept, daemon=True).start()
        yield listener.getsockname()[1]
        for each in sockets:
            each.close()


def test_slow_handshakes_do_not_let_a_burst_through(tmp_path: Path):
    """Requests on new connections come late, those on kept ones do not: both would meet in a second."""
    authority = Authority(tmp_path)
    pair = authority.sign("localhost")
    with (
        ArrivalServer("0.3", str(pair.cert), str(pair.key)) as server,
        slow_to_connect(server.port, 0.4) as port,
    ):
        ratings = Ratings(url=f"https://localhost:{port}/{{account_id}}", ca_bundle=str(authority.pem))
        nobody = StaticAuthenticator(lambda: None)
        run(CurlAttempts(ratings, nobody, 64, before_sending=WindowGuard(LIMIT).wait), 150)
    assert len(server.times) == 150
    assert most_in_a_second(server.times) <= LIMIT
