"""Metrics of real runs, in node_exporter's textfile and on a real pushgateway, and what may hinder none."""

from __future__ import annotations

import json
import math
import socket
import subprocess
import time
from collections.abc import Iterator
from datetime import datetime, timedelta
from pathlib import Path
from zoneinfo import ZoneInfo

import pytest

from tests.acceptance.firm import DAY, TestFirm, firm
from tests.acceptance.gateway import Gateway, Metrics, free_port, gateway

CHICAGO = ZoneInfo("America/Chicago")
BROKEN = {"A-000101": "no_rating", "A-000103": "rejected"}


@pytest.fixture
def pushgateway(tmp_path: Path) -> Iterator[Gateway]:
    with gateway(tmp_path) as server:
        yield server


@pytest.fixture
def small(tmp_path: Path) -> Iterator[TestFirm]:
    with firm(tmp_path, 200) as each:
        folder = tmp_path / "node_exporter"
        folder.mkdir()
        each.environment["ESGBATCH_METRICS__TEXTFILE"] = str(folder / "esgbatch.prom")
        yield each


@pytest.fixture
def pushed(small: TestFirm, pushgateway: Gateway) -> TestFirm:
    small.environment["ESGBATCH_METRICS__PUSHGATEWAY"] = pushgateway.url
    return small


def textfile(each: TestFirm) -> Metrics:
    return Metrics((each.folder / "node_exporter" / "esgbatch.prom").read_text())


def midnight(day: object) -> float:
    return datetime.combine(day, datetime.min.time(), CHICAGO).timestamp()  # type: ignore[arg-type]


def test_a_run_is_told_to_both_in_the_same_words(pushed: TestFirm, pushgateway: Gateway):
    pushed.server.switch(accounts=BROKEN)
    before = time.time()
    pushed.run("run")
    after = time.time()
    file, pushed_to = textfile(pushed), pushgateway.metrics()

    for told in (file, pushed_to):
        assert told("accounts", state="succeeded") == 198
        assert told("accounts", state="failed") == 2
        assert told("accounts", state="pending") == told("accounts", state="deferred") == 0
        assert told("accounts_failed", reason="no_rating") == 1
        assert told("accounts_failed", reason="unavailable") == 0
        assert told("accounts_excluded", reason="inactive") == 7
        assert told("attempts_total", result="rated") == 198
        assert told("attempts_total", result="failed") == 2
        assert told("attempt_duration_seconds_count") == 200
        assert told("attempt_duration_seconds_bucket", le="+Inf") == 200
        assert 0 < told("attempt_duration_seconds_sum") < 200
        assert told("run_in_progress") == 0
        assert told("run_stage", stage="delivered") == 1
        assert told("run_stage", stage="rating") == 0
        assert told("attempts_in_flight") == told("retries_waiting") == told("held", reason="outage") == 0
        assert told("last_exit_code") == 0
        for name in ("run_start", "last_success", "last_exit", "run_updated"):
            assert before <= told(f"{name}_timestamp_seconds") <= after, name
        assert told("run_business_date_timestamp_seconds") == midnight(DAY)
        assert told("last_success_business_date_timestamp_seconds") == midnight(DAY)
        assert math.isnan(told("run_eta_timestamp_seconds"))
        assert math.isnan(told("run_deadline_timestamp_seconds")), "an operator's run of a past date has none"
        for stage in ("listing", "rating", "checking", "sealing", "delivering"):
            assert 0 <= told("run_stage_duration_seconds", stage=stage) <= after - before
        about = told.labels("run_info")
        assert (about["command"], about["revision"], about["business_date"]) == ("run", "1", DAY.isoformat())
        assert about["environment"] == "sandbox"
    assert pushed_to.labels("run_info")["job"] == "esgbatch"

    path = pushed.folder / "node_exporter" / "esgbatch.prom"
    assert path.stat().st_mode & 0o777 == 0o644
    assert list(path.parent.iterdir()) == [path], "nothing half-written is left"
    checked = subprocess.run(
        ["promtool", "check", "metrics"], input=path.read_bytes(), capture_output=True, check=False
    )
    assert checked.returncode == 0, checked.stdout + checked.stderr


def test_no_account_and_no_secret_is_in_them(pushed: TestFirm, pushgateway: Gateway):
    pushed.server.switch(accounts=BROKEN)
    pushed.run("run")
    for told in (textfile(pushed), pushgateway.metrics()):
        assert not [account for account in BROKEN if account in told.text]
        assert not [name for name in map(pushed.books.name, (0, 1, 199)) if name in told.text]
        assert pushed.server.places.login.client_secret not in told.text


def test_a_failed_rerun_does_not_take_the_last_success_away(pushed: TestFirm, pushgateway: Gateway):
    pushed.server.switch(accounts=BROKEN)
    pushed.run("run")
    success = textfile(pushed)("last_success_timestamp_seconds")

    pushed.server.switch(forbidden_all=True)
    pushed.run("rerun", "--accounts", ",".join(pushed.books.account_id(n) for n in range(1, 40)), code=13)
    for told in (textfile(pushed), pushgateway.metrics()):
        assert told("last_success_timestamp_seconds") == pytest.approx(success, abs=1)
        assert told("last_exit_code") == 13
        assert told("run_stage", stage="rating") == 1
        assert told("accounts", state="pending") == 39
        assert told.labels("run_info")["revision"] == "2"

    pushed.server.switch(forbidden_all=False)
    pushed.run("resume")
    for told in (textfile(pushed), pushgateway.metrics()):
        assert told("last_success_timestamp_seconds") > success
        assert told("last_exit_code") == 0


def test_the_last_success_is_known_from_the_checkpoint_where_file_and_gateway_are_new(small: TestFirm):
    small.run("run")
    success = textfile(small)("last_success_timestamp_seconds")
    (small.folder / "node_exporter" / "esgbatch.prom").unlink()
    older = DAY - timedelta(days=3)
    small.run("run", day=older)
    told = textfile(small)
    assert told("last_success_timestamp_seconds") == pytest.approx(success, abs=1)
    assert told("last_success_business_date_timestamp_seconds") == midnight(DAY), "not of the older date"
    assert told("run_business_date_timestamp_seconds") == midnight(older)


def test_what_does_nothing_tells_nothing(small: TestFirm):
    small.run("run")
    before = textfile(small).shown()
    small.run("run")
    small.run("resume", day=DAY - timedelta(days=1), code=19)
    small.run("rerun", "--accounts", "NOBODY", code=2)
    assert textfile(small).shown() == before


def test_a_run_that_cannot_begin_tells_its_exit_code_and_leaves_the_rest(small: TestFirm):
    small.run("run")
    before = textfile(small).shown()
    (small.folder / "secrets" / "client_secret").unlink()
    small.run("run", code=10)
    after = textfile(small).shown()
    changed = {
        name.partition("[")[0]
        for name, value in before.items()
        if value is not None and after[name] != pytest.approx(value, abs=1)
    }
    assert "esgbatch_last_exit_code" in changed
    assert changed <= {"esgbatch_last_exit_code", "esgbatch_last_exit_timestamp_seconds"}
    assert after.keys() == before.keys()
    assert textfile(small)("last_exit_code") == 10


def test_while_it_runs(tmp_path: Path, pushgateway: Gateway):
    with firm(tmp_path, 600, rate=150) as slow:
        slow.environment["ESGBATCH_METRICS__PUSHGATEWAY"] = pushgateway.url
        with slow.process("run", "--deadline", "23:59") as process:
            slow.wait_until_done(1, process)
            told = pushgateway.metrics()
            _, err = process.communicate(timeout=30)
        assert process.returncode == 0, err
    assert told("run_in_progress") == 1
    assert told("accounts", state="pending") > 0
    assert told("run_stage", stage="rating") == 1
    assert told("run_deadline_timestamp_seconds") > time.time()
    assert "last_exit_code" not in told, told.text


def test_a_gateway_that_is_down_costs_a_warning(small: TestFirm):
    small.environment["ESGBATCH_METRICS__PUSHGATEWAY"] = f"http://127.0.0.1:{free_port()}"
    ran = small.run("run")
    assert ran.err.count("metrics cannot be given to the pushgateway: Connection refused") == 1
    assert small.plaintext() == small.expected()
    assert textfile(small)("last_exit_code") == 0
    entries = [
        json.loads(line)
        for path in (small.folder / "logs").glob("esgbatch-*.jsonl")
        for line in path.read_text().splitlines()
    ]
    assert [each["target"] for each in entries if each["event"] == "metrics_failed"] == ["pushgateway"]


def test_a_gateway_that_never_answers_does_not_hold_the_run_up(small: TestFirm):
    """It takes connections and says nothing: the job goes on beside it, and waits 5 s at its end at most."""
    with socket.create_server(("127.0.0.1", 0)) as mute:
        small.environment["ESGBATCH_METRICS__PUSHGATEWAY"] = f"http://127.0.0.1:{mute.getsockname()[1]}"
        small.run("run")
    ended = datetime.fromisoformat(
        json.loads(small.run("report", "--format", "json").out)["executions"][0]["ended"]
    )
    told = textfile(small)
    assert told("run_updated_timestamp_seconds") - ended.timestamp() < 8
    assert told("run_stage", stage="delivered") == 1


@pytest.mark.parametrize("broken", ["missing", "folder"])
def test_a_textfile_that_cannot_be_written_costs_a_warning(small: TestFirm, broken: str):
    path = small.folder / "node_exporter"
    if broken == "missing":
        path.rmdir()
    else:
        (path / "esgbatch.prom").mkdir()
    ran = small.run("run")
    assert ran.err.count("metrics cannot be given to the textfile") == 1
    assert small.plaintext() == small.expected()
