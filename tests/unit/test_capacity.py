"""What a number of accounts needs, by `esgbatch forecast`; and the model of a large cluster."""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import timedelta
from importlib.resources import files
from pathlib import Path
from typing import Any

import pytest

from esgbatch.cli.app import run
from esgbatch.clock import SystemClock
from esgbatch.config.load import load
from esgbatch.deadline import today
from tests.checkpoints import Books
from tests.scale.fleet import Night, live

CONFIG = Path(str(files("esgbatch.config") / "template.toml"))

Forecast = Callable[..., dict[str, Any]]


@pytest.fixture
def state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("ESGBATCH_JOB__STATE_DIR", str(tmp_path))
    return tmp_path


@pytest.fixture
def forecast(state: Path, capsys: pytest.CaptureFixture[str]) -> Forecast:
    def call(*arguments: str) -> dict[str, Any]:
        assert run(["forecast", *arguments, "--json", "--config", str(CONFIG)]) == 0
        found: dict[str, Any] = json.loads(capsys.readouterr().out)
        return found

    return call


def night(books: Books, days_ago: int, *, attempts: int, seconds: float, p50: float, p95: float) -> None:
    """Five accounts rated; how it went is what matters."""
    day = today(SystemClock(), load(CONFIG, {}).zone) - timedelta(days=days_ago)
    rated = books.rated(day=day)
    execution = books.history.begin(rated, "run")
    books.history.measured(execution, {"rating": seconds}, attempts=attempts, latency_p50=p50, latency_p95=p95)
    books.history.end(execution, 0, None)


def test_a_hundred_thousand_accounts_at_fifty_a_second(forecast: Forecast):
    """The job's own example: 100,000 accounts fit into the four hours from five to nine."""
    told = forecast("--accounts", "100000", "--latency", "1")
    assert told["measured"]["nights"] == 0
    assert 48 < told["rate"] < 50
    assert told["seconds"] == pytest.approx(100_000 / told["rate"], abs=2)
    assert told["fits"] is True
    assert told["concurrency"] == pytest.approx(1.25 * told["rate"], abs=1)
    assert (told["worker_processes"], told["coordinators"]) == (1, 1)


def test_what_does_not_fit_says_which_quota_would(forecast: Forecast):
    told = forecast("--accounts", "10000000", "--latency", "1")
    assert told["fits"] is False
    needed = str(told["rate_limit_needed"])
    assert forecast("--accounts", "10000000", "--latency", "1", "--rate", needed)["fits"] is True
    less = str(told["rate_limit_needed"] * 0.99)
    assert forecast("--accounts", "10000000", "--latency", "1", "--rate", less)["fits"] is False


def test_a_slow_api_needs_more_machines_for_the_same_quota(forecast: Forecast):
    quick = forecast("--accounts", "1000000", "--latency", "0.1", "--rate", "1000")
    slow = forecast("--accounts", "1000000", "--latency", "13", "--rate", "1000")
    assert quick["worker_processes"] == 1
    assert slow["worker_processes"] > 10
    assert slow["coordinators"] == 1
    assert forecast("--accounts", "1", "--latency", "1", "--rate", "10000")["coordinators"] > 1


def test_past_nights_are_measured_and_weighted(forecast: Forecast, state: Path):
    with Books(f"sqlite:///{state}/checkpoint.sqlite") as books:
        night(books, 1, attempts=5, seconds=0.1, p50=1.0, p95=1.0)
        night(books, 2, attempts=15, seconds=0.3, p50=2.0, p95=2.0)
        night(books, 200, attempts=500, seconds=1.0, p50=90.0, p95=90.0)
    told = forecast("--accounts", "1000")
    assert told["measured"] == {
        "nights": 2,
        "attempts_per_account": 2.0,
        "latency_mean": 1.75,
        "latency_p50": 1.75,
        "latency_p95": 1.75,
        "rate": 50.0,
    }
    assert told["attempts"] == 2000


def test_a_cluster_uses_a_little_less_of_the_quota(forecast: Forecast, monkeypatch: pytest.MonkeyPatch):
    alone = forecast("--accounts", "1000", "--latency", "1")["rate"]
    monkeypatch.setenv("ESGBATCH_RATINGS__ENGINE", "dask")
    monkeypatch.setenv("ESGBATCH_RATINGS__DASK__SCHEDULER", "tcp://127.0.0.1:8786")
    assert forecast("--accounts", "1000", "--latency", "1")["rate"] == pytest.approx(alone / 1.1, rel=0.01)


def test_without_history_it_says_how_to_go_on(state: Path, capsys: pytest.CaptureFixture[str]):
    assert run(["forecast", "--accounts", "10", "--config", str(CONFIG)]) == 19
    assert "--latency" in capsys.readouterr().err
    with Books(f"sqlite:///{state}/checkpoint.sqlite"):
        pass
    assert run(["forecast", "--accounts", "10", "--config", str(CONFIG)]) == 19


def test_for_people(state: Path, capsys: pytest.CaptureFixture[str]):
    assert run(["forecast", "--accounts", "5000000", "--latency", "4.3", "--config", str(CONFIG)]) == 0
    told = capsys.readouterr().out
    assert "5,000,000 accounts" in told
    assert "does not fit" in told


# --- the model of a large cluster -------------------------------------------------------------


def test_a_hundred_million_accounts_on_a_hundred_workers():
    told = live(Night(coordinators=3))
    assert told.rated >= 100_000_000
    assert told.worker_failures > 100
    assert told.attempts == pytest.approx(told.rated / 0.99 + told.asked_again / 0.99, rel=1e-3)
    assert told.most_a_second <= 10_000
    assert told.seconds < 4 * 3600


def test_without_failures_the_night_takes_accounts_by_rate():
    told = live(Night(mtbf=1e12, failovers=0, outage=0.0, error_rate=0.0, coordinator_rate=1e9))
    assert (told.worker_failures, told.asked_again, told.bound_by) == (0, 0.0, "quota")
    assert told.seconds == pytest.approx(100_000_000 / told.most_a_second, abs=1)
