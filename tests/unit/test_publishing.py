"""The publisher's own ways: again and again, a failure told once, and no waiting for the dead."""

from __future__ import annotations

import json
import logging
import socket
import time
from collections.abc import Callable, Iterator
from datetime import date
from pathlib import Path
from zoneinfo import ZoneInfo

import pytest
from loguru import logger

from esgbatch.clock import SystemClock
from esgbatch.config.model import Logging, Metrics
from esgbatch.errors import ConfigError, ExitCode, NothingToDo, RunHeld, StopRequested
from esgbatch.model import Snapshot, Stage
from esgbatch.observability import logs
from esgbatch.observability.metrics import RunMetrics
from esgbatch.observability.publishing import Publisher

DAY = date(2026, 11, 24)


@pytest.fixture
def log(tmp_path: Path) -> Iterator[Path]:
    yield logs.configure(Logging(directory=tmp_path / "logs"), environment="test", business_date=DAY)
    logger.remove()
    logging.getLogger().removeHandler(logs._libraries)


def publisher(**settings: str) -> Publisher:
    metrics = RunMetrics(
        environment="test", business_date=DAY, zone=ZoneInfo("America/Chicago"), clock=SystemClock()
    )
    return Publisher(Metrics(**settings), metrics, environment="test", every=0.05)


def until(true: Callable[[], bool]) -> None:
    limit = time.monotonic() + 30
    while not true():
        assert time.monotonic() < limit
        time.sleep(0.01)


def snapshot(done: int) -> Snapshot:
    return Snapshot(time.time(), Stage.RATING, done=done, total=9)


def test_it_publishes_again_and_again(tmp_path: Path) -> None:
    path = tmp_path / "esgbatch.prom"
    with publisher(textfile=str(path)) as each:
        assert not path.exists(), "nothing has happened yet"
        each.event("run_started", command="run", run_id="1", revision=1, stage=Stage.LISTING)
        for done in (3, 5):
            each.progress(snapshot(done))
            until(lambda: path.exists() and f'state="succeeded"}} {done}.0' in path.read_text())  # noqa: B023


def test_a_failure_is_told_once_and_once_that_it_is_over(tmp_path: Path, log: Path) -> None:
    folder = tmp_path / "later"
    with publisher(textfile=str(folder / "esgbatch.prom")) as each:
        each.event("run_started", command="run", run_id="1", revision=1, stage=Stage.LISTING)
        until(lambda: "metrics_failed" in log.read_text())
        time.sleep(0.2)  # a few more times in vain
        folder.mkdir()
        until(lambda: "metrics_back" in log.read_text())
    told = [json.loads(line) for line in log.read_text().splitlines()]
    assert [(each["event"], each["target"]) for each in told] == [
        ("metrics_failed", "textfile"),
        ("metrics_back", "textfile"),
    ]
    assert told[0]["error"] == "No such file or directory"


@pytest.mark.parametrize("error", [None, RunHeld("held"), NothingToDo("nothing")])
def test_who_did_nothing_publishes_nothing(tmp_path: Path, error: Exception | None) -> None:
    path = tmp_path / "esgbatch.prom"
    with publisher(textfile=str(path)) as each:
        pass
    each.__exit__(type(error), error, None)
    assert not path.exists()


@pytest.mark.parametrize(("error", "code"), [(ConfigError("a secret"), 10), (KeyError("a name"), 1)])
def test_who_could_not_begin_publishes_the_code_alone(tmp_path: Path, error: Exception, code: int) -> None:
    path = tmp_path / "esgbatch.prom"
    with pytest.raises(type(error)), publisher(textfile=str(path)):
        raise error
    text = path.read_text()
    assert f'esgbatch_last_exit_code{{environment="test"}} {code}.0' in text
    assert {line.split("{")[0] for line in text.splitlines() if not line.startswith("#")} == {
        "esgbatch_last_exit_code",
        "esgbatch_last_exit_timestamp_seconds",
    }


def test_an_old_file_that_is_none_is_replaced(tmp_path: Path) -> None:
    path = tmp_path / "esgbatch.prom"
    path.write_bytes(b'\xff\xfe{ = not metrics "\n')
    with publisher(textfile=str(path)) as each:
        each.event("run_started", command="run", run_id="1", revision=1, stage=Stage.LISTING)
    assert "esgbatch_run_in_progress" in path.read_text()


def test_a_signal_does_not_wait_for_a_gateway_that_is_mute(log: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as mute:
        each = publisher(pushgateway=f"http://127.0.0.1:{mute.getsockname()[1]}")
        each.event("run_started", command="run", run_id="1", revision=1, stage=Stage.LISTING)
        stop = StopRequested("stopped", ExitCode.SIGTERM)
        began = time.monotonic()
        each.__exit__(type(stop), stop, None)
        assert time.monotonic() - began < 2.5
