"""The dead man's switch hears of every start and end, in order, and never holds up the job."""

from __future__ import annotations

import time

import pytest

from esgbatch.errors import AccountSystemError, RunHeld
from esgbatch.observability.heartbeat import Heartbeat
from tests.simulated import RecordingListener
from tests.sockets.faultserver import Answer, FaultServer, in_order, refused_port, respond, stall


def lived(url: str, *, error: Exception | None = None, seconds: float = 10.0) -> RecordingListener:
    """A run that is delivered, or ends with an error."""
    log = RecordingListener()
    heartbeat = Heartbeat(url, log)
    heartbeat.event("run_started", command="run")
    if error is None:
        heartbeat.event("run_finished", exit_code=0, error=None)
    else:
        heartbeat.event("run_failed", exit_code=getattr(error, "code", 1), error=error)
        heartbeat.ended(error)
    heartbeat.stop()
    heartbeat.join(time.monotonic() + seconds)
    return log


def sent(server: FaultServer) -> list[tuple[str, str, bytes]]:
    return [(each.method, each.path, each.body) for each in server.requests]


def test_start_and_success() -> None:
    with FaultServer(respond()) as server:
        log = lived(f"{server.url}/ping/uuid/")
        assert sent(server) == [("GET", "/ping/uuid/start", b""), ("GET", "/ping/uuid", b"")]
    assert log.events == []


def test_failure_with_its_code() -> None:
    with FaultServer(respond()) as server:
        lived(f"{server.url}/uuid?rid=1", error=AccountSystemError("down"))
        assert sent(server) == [("GET", "/uuid/start", b""), ("POST", "/uuid/fail", b"12")]
        assert server.requests[0].query == "rid=1"


def test_what_fails_before_a_run_is_told_and_what_is_held_is_not() -> None:
    with FaultServer(respond()) as server:
        for error in (RunHeld("held"), ValueError("a bug")):
            heartbeat = Heartbeat(server.url, RecordingListener())
            heartbeat.ended(error)
            heartbeat.stop()
            heartbeat.join(time.monotonic() + 10)
        assert sent(server) == [("POST", "/fail", b"1")]


@pytest.mark.parametrize(
    ("answer", "why"), [(respond(500), "HTTP 500"), (respond(302, headers={"Location": "/"}), "HTTP 302")]
)
def test_what_is_not_taken_is_tried_twice_and_told(answer: Answer, why: str) -> None:
    with FaultServer(answer) as server:
        log = lived(server.url)
        assert len(server.requests) == 4
    assert [fields["error"] for fields in log.named("heartbeat_failed")] == [why, why]


def test_a_second_try_may_do() -> None:
    with FaultServer(in_order(respond(503), respond())) as server:
        assert lived(server.url).events == []


def test_a_switch_that_is_gone() -> None:
    with refused_port() as port:
        log = lived(f"http://127.0.0.1:{port}")
    assert "Connection refused" in str(log.named("heartbeat_failed")[0]["error"])


def test_a_switch_that_hangs_costs_no_more_than_it_may() -> None:
    with FaultServer(stall) as server:
        began = time.monotonic()
        lived(server.url, seconds=0.2)
        assert time.monotonic() - began < 5


def test_without_a_url_there_is_no_thread() -> None:
    heartbeat = Heartbeat("", RecordingListener())
    heartbeat.event("run_started", command="run")
    assert heartbeat._thread is None
