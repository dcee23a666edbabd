"""Log lines: the fields that others rely on, and what must never be in them."""

from __future__ import annotations

import ast
import json
import logging
import os
import re
import stat
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from datetime import date
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from loguru import logger

from esgbatch.config.model import Logging
from esgbatch.config.secrets import Secret
from esgbatch.errors import ConfigError, DeliveryError, ExitCode
from esgbatch.model import Reason, Row, Snapshot, Stage
from esgbatch.observability import logs
from esgbatch.observability.events import EVENTS
from esgbatch.observability.logs import FIXED_FIELDS, LogListener, configure

DAY = date(2026, 11, 24)
ROOT = Path(__file__).parents[2]
DOCUMENT = ROOT / "docs" / "logging.md"
PACKAGE = ROOT / "esgbatch"
AWKWARD = 'p"a\\s\ns wörd\x1b'


@pytest.fixture
def file(tmp_path: Path) -> Iterator[Path]:
    yield configure(Logging(directory=tmp_path / "logs", level="DEBUG"), environment="test", business_date=DAY)
    logger.remove()
    logging.getLogger().removeHandler(logs._libraries)


def entries(file: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in file.read_text(encoding="ascii").splitlines()]


def last(file: Path) -> dict[str, Any]:
    return entries(file)[-1]


# --- the file and its lines ---


def test_the_file_bears_the_business_date_and_is_not_for_everybody(file: Path) -> None:
    LogListener().event("run_started", command="run")
    assert file.name == "esgbatch-20261124.jsonl"
    assert stat.S_IMODE(file.stat().st_mode) & 0o137 == 0
    assert stat.S_IMODE(file.parent.stat().st_mode) & 0o027 == 0


def test_a_line_has_the_fixed_fields_first_then_the_events_own(file: Path) -> None:
    LogListener().event(
        "account_failed", account_id="A-1", reason=Reason.NO_RATING, http_status=404, attempts=1
    )
    entry = last(file)
    assert tuple(entry) == (*FIXED_FIELDS, "account_id", "reason", "http_status", "attempts")
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", entry.pop("time"))
    assert entry == {
        "level": "INFO", "event": "account_failed", "message": "account A-1 failed: no_rating, attempts: 1",
        "run_id": None, "business_date": "2026-11-24", "revision": None, "stage": None,
        "environment": "test", "host": os.uname().nodename, "pid": os.getpid(), "program": "esgbatch 1.0.0",
        "account_id": "A-1", "reason": "no_rating", "http_status": 404, "attempts": 1,
    }  # fmt: skip


def test_what_an_event_says_about_the_run_stays(file: Path) -> None:
    listener = LogListener()
    listener.event("run_started", command="rerun", run_id="r-7", revision=2, stage=Stage.LISTING)
    listener.event("rating_started", pending=3)
    listener.event("rating_started", pending=1)
    logging.getLogger("paramiko").warning("odd")
    assert [(e["run_id"], e["revision"], e["stage"]) for e in entries(file)] == [
        ("r-7", 2, "listing"),
        *[("r-7", 2, "rating")] * 3,
    ]


def test_another_date_is_another_file_with_nothing_left_of_the_first(file: Path, tmp_path: Path) -> None:
    LogListener().event("run_started", command="run", run_id="r-1")
    other = configure(Logging(directory=file.parent), environment="test", business_date=date(2026, 11, 25))
    LogListener().event("run_started", command="run")
    assert len(entries(file)) == 1
    assert last(other)["run_id"] is None
    opened = [os.path.realpath(descriptor) for descriptor in Path("/proc/self/fd").iterdir()]
    assert str(file) not in opened


def test_the_configured_level_is_the_least(tmp_path: Path, file: Path) -> None:
    LogListener().event("concurrency_changed", value=8)
    assert last(file)["level"] == "DEBUG"
    configure(Logging(directory=file.parent, level="WARNING"), environment="test", business_date=DAY)
    LogListener().event("run_started", command="run")
    LogListener().event("taken_over", previous="x")
    assert [entry["event"] for entry in entries(file)] == ["concurrency_changed", "taken_over"]


def test_unknown_events_and_wrong_fields_are_logged_as_they_are(file: Path) -> None:
    LogListener().event("something_new", level="x", message="y", size=3)
    entry = last(file)
    assert (entry["level"], entry["event"], entry["event_level"], entry["event_message"], entry["size"]) == (
        "INFO", "something_new", "x", "y", 3,
    )  # fmt: skip
    LogListener().event("sealed", rows="many", wrong=1)
    assert last(file)["message"] == "sealed rows=many wrong=1"
    LogListener().event("taken_over", previous="{time} {0}")
    assert last(file)["message"] == "the run is taken over from a process that died: {time} {0}"


def test_two_processes_append_whole_lines(file: Path) -> None:
    code = (
        "import sys; from datetime import date; from pathlib import Path;"
        "from esgbatch.config.model import Logging;"
        "from esgbatch.observability.logs import LogListener, configure;"
        "configure(Logging(directory=Path(sys.argv[1])), environment='t', business_date=date(2026, 11, 24));"
        "sys.stdin.readline();"
        "[LogListener().event('run_started', command='x' * 1900, number=n) for n in range(300)]"
    )
    writers = [
        subprocess.Popen([sys.executable, "-c", code, str(file.parent)], stdin=subprocess.PIPE)
        for _ in range(2)
    ]
    for writer in writers:
        assert writer.stdin
        writer.stdin.write(b"go\n")
        writer.stdin.close()
    assert [writer.wait(60) for writer in writers] == [0, 0]
    seen = [(entry["pid"], entry["number"]) for entry in entries(file)]
    assert sorted(seen) == sorted((writer.pid, number) for writer in writers for number in range(300))


def test_progress_once_a_minute_by_the_jobs_clock(file: Path) -> None:
    listener = LogListener()
    snapshot = Snapshot(
        at=1795518000.0, stage=Stage.RATING, done=42_000, total=100_000, failed=12, rate=50.12, in_flight=25,
        held="throttled", held_until=1795520820.0, eta=float("inf"), deadline=1795532400.0,
    )  # fmt: skip
    for seconds in (0, 1, 59.9, 60, 61, 120, 119, 30):
        listener.progress(replace(snapshot, at=snapshot.at + seconds, attempts=int(seconds)))
    assert [entry["attempts"] for entry in entries(file)] == [0, 60, 120, 119, 30]
    entry = last(file)
    assert entry["message"] == "42,000 of 100,000 accounts, 50.1/s, 12 failed"
    assert (entry["stage"], entry["held"], entry["held_until"]) == (
        "rating", "throttled", "2026-11-24T11:47:00.000Z",
    )  # fmt: skip
    assert (entry["eta"], entry["deadline"], entry["in_flight"]) == (None, "2026-11-24T15:00:00.000Z", 25)


# --- what must not be in them ---


@pytest.mark.parametrize("canary", [AWKWARD, "plain-canary-7f3a", "83461907"])
def test_no_secret_reaches_a_line(
    file: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, canary: str
) -> None:
    monkeypatch.setenv("CANARY", canary)
    secret = Secret(env="CANARY").reveal()
    number: object = int(secret) if secret.isdigit() else secret
    listener = LogListener()
    listener.event("accounts_retry", attempt=number, error=f"401 for {secret}", wait=1.0, seen=[{"in": secret}])
    listener.event("delivery_attempt_failed", attempt=1, error=DeliveryError(f"login {secret} refused"))
    listener.event("taken_over", previous="x" * 1990 + secret)
    logging.getLogger("paramiko.transport").error("sent %s", secret)
    try:
        try:
            raise DeliveryError(f"inner {secret}")
        except DeliveryError as inner:
            raise TypeError(f"outer {secret}") from inner
    except TypeError as bug:
        listener.event("run_failed", exit_code=ExitCode.BUG, error=bug)
    output = file.read_text() + capfd.readouterr().err
    for form in (canary, json.dumps(canary)[1:-1], canary.encode("unicode_escape").decode(), canary[:7]):
        assert form not in output
    assert output.count("[redacted]") >= 8
    assert len(entries(file)) == 5
    assert "came from:" in last(file)["traceback"], "the inner one was there to leak"


def test_values_of_unknown_kinds_show_their_kind_only(file: Path) -> None:
    row = Row("A-1", "Smith Family Trust", ("71.24",))
    LogListener().event(
        "odd", row=row, score=Decimal("71.24"), deep=[{"row": row}], raw=b"71.24", no=float("nan")
    )
    entry = last(file)
    assert (entry["row"], entry["score"], entry["deep"], entry["raw"], entry["no"]) == (
        "<Row>", "<Decimal>", [{"row": "<Row>"}], "<bytes>", "nan",
    )  # fmt: skip
    assert "Smith" not in file.read_text()
    assert "71.24" not in file.read_text()


def test_a_bugs_traceback_shows_where_but_no_values(file: Path) -> None:
    def look_up(names: dict[str, int], name: str) -> int:
        return names[name]

    name, score = "Smith Family Trust", "71.24x"
    nothing: Any = None
    for bug_in in (lambda: look_up({}, name), lambda: float(score), lambda: nothing.count):
        try:
            bug_in()
        except Exception as error:  # noqa: BLE001 the point of the test
            LogListener().event("run_failed", exit_code=1, error=error)
    written = entries(file)
    assert "in look_up" in written[0]["traceback"]
    assert "return names[name]" in written[0]["traceback"]
    assert written[0]["error"] == "KeyError (text withheld: it may quote data)"
    assert "no attribute 'count'" in written[2]["error"], "texts made of code are kept"
    assert [entry["level"] for entry in written] == ["ERROR"] * 3
    assert name not in file.read_text()
    assert score not in file.read_text()


def test_a_failure_of_ours_has_its_text_and_no_traceback(file: Path) -> None:
    LogListener().event("run_failed", exit_code=16, error=DeliveryError("The server is gone."))
    assert last(file)["error"] == "The server is gone."
    assert "traceback" not in last(file)


def test_an_endless_recursion_and_an_endless_text_stay_short(file: Path) -> None:
    def deeper() -> None:
        deeper_still()

    def deeper_still() -> None:
        deeper()

    try:
        deeper()
    except RecursionError as error:
        LogListener().event("run_failed", exit_code=1, error=error, detail="x" * 1_000_000)
    assert len(file.read_bytes()) < 16_000
    assert last(file)["detail"].endswith("x[cut]")
    assert "\nRecursionError: " in last(file)["traceback"], "the innermost part is kept"


def test_control_characters_are_escaped(file: Path, capfd: pytest.CaptureFixture[str]) -> None:
    nasty = "A\x1b[2J\r\n\x07\x9b\x7f\u202e\ud800é"
    LogListener().event("taken_over", previous=nasty)
    raw = file.read_bytes()
    assert raw.count(b"\n") == 1
    assert not re.search(rb"[^\x20-\x7e\n]", raw)
    assert last(file)["previous"] == nasty
    shown = capfd.readouterr().err
    assert r"A\x1b[2J\r\n\x07\x9b\x7f\u202e\ud800é" in shown
    assert shown.count("\n") == 1


# --- stderr ---


def test_stderr_has_short_warnings_for_people(file: Path, capfd: pytest.CaptureFixture[str]) -> None:
    listener = LogListener()
    listener.event("run_started", command="run")
    listener.event("circuit_opened", accounts=20, error="HTTP 503")
    listener.event("run_failed", exit_code=16, error="told by the command itself")
    logging.getLogger("paramiko").error("told by our own events")
    logging.getLogger("paramiko").info("not even in the file")
    captured = capfd.readouterr()
    assert captured.out == ""
    assert re.fullmatch(
        r"\d\d:\d\d:\d\d UTC warning: the ESG API is down: 20 accounts failed, none succeeded \(HTTP 503\)\n",
        captured.err,
    )
    assert [(e["event"], e["level"]) for e in entries(file)] == [
        ("run_started", "INFO"), ("circuit_opened", "WARNING"), ("run_failed", "ERROR"), ("library", "ERROR"),
    ]  # fmt: skip


def test_a_closed_stderr_stops_nothing(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with open(os.devnull, "w") as closed:  # noqa: PTH123 it is to be closed
        monkeypatch.setattr(sys, "stderr", closed)
    LogListener().event("rating_started", pending=1)
    monkeypatch.setattr(sys, "stderr", None)
    LogListener().event("rating_started", pending=1)
    assert len(entries(file)) == 2


def test_a_librarys_broken_line_stops_nothing(file: Path, capfd: pytest.CaptureFixture[str]) -> None:
    logs._libraries.handle(logging.LogRecord("library", logging.ERROR, "", 0, "%d", ("no number",), None))
    assert capfd.readouterr().err == ""


def test_a_bug_in_logging_prints_no_raw_record(
    file: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: object) -> str:
        raise ValueError

    monkeypatch.setattr(logs, "_line", broken)
    with pytest.raises(ValueError):
        LogListener().event("accounts_retry", attempt=1, error="raw", wait=1.0)
    assert capfd.readouterr().err == ""


# --- disks ---


def test_a_folder_that_cannot_be_had_is_an_error_with_advice(tmp_path: Path) -> None:
    (tmp_path / "occupied").touch()
    (tmp_path / "esgbatch-20261124.jsonl").symlink_to(tmp_path / "occupied")
    for folder in (tmp_path / "occupied", tmp_path / "occupied" / "logs", tmp_path):
        with pytest.raises(ConfigError, match="cannot be written") as caught:
            configure(Logging(directory=folder), environment="test", business_date=DAY)
        assert "install -d" in caught.value.advice


FULL_DISK = """
import resource, sys
from datetime import date
from pathlib import Path
from esgbatch.config.model import Logging
from esgbatch.observability.logs import LogListener, configure

configure(Logging(directory=Path(sys.argv[1])), environment="t", business_date=date(2026, 11, 24))
listener = LogListener()
listener.event("run_started", command="before")
resource.setrlimit(resource.RLIMIT_FSIZE, (500, resource.RLIM_INFINITY))
for number in range(5):
    listener.event("account_failed", account_id=f"A-{number}", reason="no_rating", attempts=1)
listener.event("run_failed", exit_code=1, error="kept")
resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY,) * 2)
listener.event("run_started", command="after")
listener.event("run_started", command="later")
"""


def test_a_full_disk_does_not_stop_the_job(tmp_path: Path) -> None:
    done = subprocess.run([sys.executable, "-c", FULL_DISK, str(tmp_path)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    told, kept = done.stderr.splitlines()
    assert "cannot be written" in told
    assert "the job goes on" in told
    assert json.loads(kept)["error"] == "kept", "an error is not lost"
    lines = (tmp_path / "esgbatch-20261124.jsonl").read_text().splitlines()
    assert json.loads(lines[0])["command"] == "before"
    with pytest.raises(json.JSONDecodeError):
        json.loads(lines[1])
    gap, after, later = (json.loads(line) for line in lines[2:])
    assert (gap["event"], gap["lines"], gap["level"]) == ("log_gap", 6, "WARNING")
    assert (after["command"], later["command"]) == ("after", "later")


# --- the document ---


def table(heading: str) -> list[list[str]]:
    section = DOCUMENT.read_text(encoding="utf-8").split(f"## {heading}\n")[1].split("\n## ")[0]
    rows = [line.strip("|").split("|") for line in section.splitlines() if line.startswith("| `")]
    return [[cell.strip() for cell in row] for row in rows]


def test_the_document_lists_the_fixed_fields_in_order() -> None:
    assert tuple(row[0].strip("`") for row in table("Fields of every line")) == FIXED_FIELDS


def test_the_document_lists_every_event_with_its_level_and_fields() -> None:
    documented = {row[0].strip("`"): row for row in table("Events")}
    assert set(documented) == set(EVENTS) | {"library"}
    for name, event in EVENTS.items():
        assert documented[name][1] == event.level, name
        fields = set(re.findall(r"`(\w+)`", documented[name][2]))
        assert set(re.findall(r"\{(\w+)", event.text)) <= fields, name


def emitted() -> Iterator[tuple[str, set[str]]]:
    """Every event that the program tells by a literal name, with its fields."""
    for source in PACKAGE.rglob("*.py"):
        for node in ast.walk(ast.parse(source.read_text(encoding="utf-8"))):
            match node:
                case ast.Call(ast.Attribute(attr="event"), [ast.Constant(str(name))], keywords):
                    yield name, {keyword.arg or "**" for keyword in keywords}


def test_what_the_program_tells_is_what_the_table_says() -> None:
    documented = {row[0].strip("`"): set(re.findall(r"`(\w+)`", row[2])) for row in table("Events")}
    told = list(emitted())
    assert len(told) > 15
    for name, fields in told:
        assert name in EVENTS, name
        assert set(re.findall(r"\{(\w+)", EVENTS[name].text)) <= fields, name
        assert fields - set(FIXED_FIELDS) <= documented[name] | {"traceback"}, name


def test_every_progress_field_is_documented(file: Path) -> None:
    LogListener().progress(Snapshot(at=0.0, stage=Stage.RATING, done=0, total=1))
    row = next(row for row in table("Events") if row[0] == "`progress`")
    assert re.findall(r"`(\w+)`", row[2]) == [name for name in last(file) if name not in FIXED_FIELDS]
