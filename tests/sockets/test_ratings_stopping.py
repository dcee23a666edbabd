"""Ending attempts from another thread, and what becomes of the sockets."""

from __future__ import annotations

import gc
import socket
import threading
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest

from esgbatch.model import Answer, Verdict
from tests.sockets.faultserver import (
    FaultServer,
    Peer,
    drip,
    respond,
    stall,
)
from tests.sockets.provider import (
    ACCOUNT,
    BODY,
    GOOD,
    Client,
    full_port,
    open_sockets,
    provider,
    run_threads,
    until,
    ways,
    without_length,
)

# --- stopping ---------------------------------------------------------------------------------


def stopped_in_time(client: Client, waiting: Callable[[], bool]) -> list[Answer]:
    """Start eight attempts, abort when `waiting`, and check that all end within two seconds."""
    answers: list[Answer] = []
    threads = [threading.Thread(target=lambda: answers.append(client.rate(ACCOUNT))) for _ in range(8)]
    for thread in threads:
        thread.start()
    until(waiting)
    started = time.monotonic()
    client.abort()
    for thread in threads:
        thread.join(10)
    assert time.monotonic() - started < 2
    assert [(answer.verdict, answer.detail) for answer in answers] == [(Verdict.TRANSIENT, "stopped")] * 8
    return answers


@pytest.mark.parametrize("fault", [stall, drip(BODY, pause=0.05)])
def test_abort_while_the_server_stalls(fault: Callable[[Peer], None]) -> None:
    with FaultServer(fault) as server:
        client = provider(server.url, timeout={"connect": 30, "read": 30})
        stopped_in_time(client, lambda: len(server.requests) == 8)
        assert client.rate(ACCOUNT).detail == "stopped"
        assert len(server.requests) == 8, "nothing is sent after an abort"


def test_abort_while_connecting() -> None:
    with full_port() as port:
        client = provider(f"http://127.0.0.1:{port}", timeout={"connect": 30, "read": 30})
        stopped_in_time(client, lambda: open_sockets(client) == 8)


def test_abort_in_the_middle_of_a_tls_handshake() -> None:
    with FaultServer(stall) as server:
        url = server.url.replace("http:", "https:")
        client = provider(url, timeout={"connect": 30, "read": 30})
        stopped_in_time(client, lambda: server.connections == 8)


@pytest.mark.usefixtures("way")
def test_abort_does_not_touch_other_sockets() -> None:
    """The descriptors of closed connections have new owners by then."""
    with FaultServer(respond(200, BODY, {"Connection": "close"})) as server:
        client = provider(server.url)
        run_threads(4, lambda _: client.rate(ACCOUNT))
        client.rate(ACCOUNT)
        pairs = [socket.socketpair() for _ in range(20)]
        client.abort()
        for left, right in pairs:
            left.sendall(b"x")
            assert right.recv(1) == b"x"
            left.close()
            right.close()


# --- descriptors ------------------------------------------------------------------------------


def open_descriptors() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


@pytest.mark.usefixtures("way")
def test_connections_leave_no_descriptors() -> None:
    answers: list[Answer] = []

    before = open_descriptors()
    with FaultServer(without_length(BODY)) as server:
        clients = [provider(server.url)]

        def work(_: int) -> None:
            answers.extend(clients[0].rate(ACCOUNT) for _ in range(500))

        run_threads(4, work)
        assert Counter((each.verdict, each.detail) for each in answers) == {(Verdict.RATED, ""): 2000}
        assert server.connections == 2000
        assert open_sockets(clients[0]) <= 4
    ways.forget()
    clients.clear()
    gc.collect()
    until(lambda: open_descriptors() <= before)


@pytest.mark.usefixtures("way")
def test_the_connection_used_last_is_used_first() -> None:
    """Threads take turns; were each to keep its own, a server would have closed it in between."""
    with FaultServer(GOOD) as server:
        client = provider(server.url)
        for _ in range(8):
            run_threads(1, lambda _: client.rate(ACCOUNT))
        assert server.connections == 1
        run_threads(3, lambda _: client.rate(ACCOUNT))
        assert server.connections <= 3
