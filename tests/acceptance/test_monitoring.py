"""What is made for those who watch: the rules by promtool, Splunk's files against real lines."""

from __future__ import annotations

import configparser
import re
import subprocess
from datetime import UTC, date, datetime
from pathlib import Path

import pytest
import yaml

from esgbatch.config.model import Logging
from esgbatch.model import Failure, Reason, Snapshot, Stage
from esgbatch.observability import logs
from esgbatch.observability.events import EVENTS
from esgbatch.observability.metrics import RunMetrics
from esgbatch.reporting import errorfile
from tests.simulated import EPOCH, SimulatedClock
from tests.summaries import RUN

ROOT = Path(__file__).parents[2]
MONITORING = ROOT / "scripts" / "monitoring"
RULES = MONITORING / "esgbatch.rules.yml"
SPLUNK = MONITORING / "splunk"


def everything() -> RunMetrics:
    """Metrics with a value in every family."""
    from zoneinfo import ZoneInfo

    metrics = RunMetrics(
        environment="test",
        business_date=RUN.business_date,
        zone=ZoneInfo("America/Chicago"),
        clock=SimulatedClock(),
    )
    metrics.event(
        "run_started", command="run", run_id=RUN.run_id, revision=1, stage=Stage.LISTING, deadline=EPOCH
    )
    metrics.event("accounts_enrolled", listed=9, rows=6, inactive=1, duplicate=1, refused=1)
    metrics.event("stage_ended", part="listing", seconds=1.5)
    metrics.event("rating_started", pending=6, deferred=0)
    metrics.progress(
        Snapshot(
            EPOCH, Stage.RATING, done=3, total=6, rate_limit=50.0, latency_within={"+Inf": 3}, latency_sum=1.0
        )
    )
    metrics.event("delivered")
    metrics.event("run_finished", exit_code=0)
    return metrics


def names() -> set[str]:
    return {sample.name for family in everything().collect() for sample in family.samples}


# --- Prometheus -------------------------------------------------------------------------------


def test_the_rules_hold_what_their_tests_say() -> None:
    for words in (["check", "rules", RULES.name], ["test", "rules", "esgbatch.rules.test.yml"]):
        ran = subprocess.run(["promtool", *words], cwd=MONITORING, capture_output=True, text=True, check=False)
        assert ran.returncode == 0, ran.stdout + ran.stderr


def test_every_rule_is_tested_both_ways() -> None:
    rules = {rule["alert"] for group in yaml.safe_load(RULES.read_text())["groups"] for rule in group["rules"]}
    tests = yaml.safe_load((MONITORING / "esgbatch.rules.test.yml").read_text())["tests"]
    seen = {(each["alertname"], bool(each["exp_alerts"])) for test in tests for each in test["alert_rule_test"]}
    silent = {"EsgbatchWithheld"}  # its expression is one comparison
    assert {name for name, fires in seen if fires} == rules
    assert {name for name, fires in seen if not fires} == rules - silent


def test_rules_and_their_tests_use_metrics_that_there_are() -> None:
    for path in (RULES, MONITORING / "esgbatch.rules.test.yml"):
        used = set(re.findall(r"esgbatch_[a-z_]+", path.read_text()))
        assert used
        assert used <= names(), path


def test_the_document_lists_every_metric() -> None:
    table = re.findall(
        r"^\| `(esgbatch_\w+)` \| (\w+) \|([^|]*)\|",
        (ROOT / "docs" / "monitoring.md").read_text(),
        re.MULTILINE,
    )
    documented = {name: (kind, set(re.findall(r"`(\w+)`", labels))) for name, kind, labels in table}
    told = {}
    for family in everything().collect():
        name = family.name + ("_total" if family.type == "counter" else "")
        labels = {label for sample in family.samples for label in sample.labels} - {"environment", "le"}
        told[name] = (family.type, labels)
    assert documented == told


def test_older_business_dates_do_not_hide_that_the_newest_is_missing() -> None:
    metrics = everything()
    late = everything()
    late.know_success((date(2027, 1, 1), datetime(2027, 1, 1, 12, tzinfo=UTC)))
    late.event("delivered")
    value = {
        each: next(
            f.samples[0].value for f in each.collect() if f.name == "esgbatch_last_success_timestamp_seconds"
        )
        for each in (metrics, late)
    }
    assert value == {metrics: EPOCH, late: datetime(2027, 1, 1, 12, tzinfo=UTC).timestamp()}


# --- Splunk -----------------------------------------------------------------------------------


def conf(name: str) -> configparser.ConfigParser:
    """Splunk's .conf: keys as they are written, only `=` divides, # only at a line's start."""
    parser = configparser.ConfigParser(delimiters=("=",), comment_prefixes=("#",), interpolation=None)
    parser.optionxform = str  # type: ignore[assignment,method-assign]
    parser.read(SPLUNK / name)
    return parser


def strptime(text: str, pattern: str) -> datetime:
    return datetime.strptime(text, pattern.replace("%3N", "%f")).replace(tzinfo=UTC)


def extracted(line: str, stanza: str) -> datetime:
    """_time, as Splunk finds it: after the prefix, within so many characters, in this format."""
    settings = conf("props.conf")[stanza]
    prefix = re.search(settings["TIME_PREFIX"], line)
    assert prefix, line
    window = line[prefix.end() : prefix.end() + int(settings["MAX_TIMESTAMP_LOOKAHEAD"])]
    found = re.match(r"[0-9T:.Z-]+", window)
    assert found
    return strptime(found.group(), settings["TIME_FORMAT"])


@pytest.fixture
def line(tmp_path: Path) -> str:
    """A line as the job writes it."""
    path = logs.configure(Logging(directory=tmp_path), environment="test", business_date=date(2026, 11, 24))
    logs.LogListener().event("run_started", command="run", run_id="0" * 32, revision=1, deadline=EPOCH)
    return path.read_text()


def test_the_time_of_a_line_is_found(line: str) -> None:
    at = extracted(line, "esgbatch")
    assert abs((datetime.now(UTC) - at).total_seconds()) < 60
    assert f'"time":"{at:%Y-%m-%dT%H:%M:%S}' in line


def test_the_time_of_a_failed_account_is_found(tmp_path: Path) -> None:
    errorfile.write(tmp_path, RUN, [Failure("A-1", Reason.NO_RATING, 404, 1, EPOCH - 5, EPOCH)])
    (path,) = tmp_path.iterdir()
    assert extracted(path.read_text(), "esgbatch:errors").timestamp() == pytest.approx(EPOCH, abs=0.001)


def test_lines_are_one_each_and_never_cut(line: str) -> None:
    settings = conf("props.conf")["esgbatch"]
    assert (settings["SHOULD_LINEMERGE"], settings["KV_MODE"]) == ("false", "json")
    assert (
        len([part for part in re.split(settings["LINE_BREAKER"], line) if part.strip()])
        == line.count("\n")
        == 1
    )
    assert int(settings["TRUNCATE"]) > 6 * logs.LONGEST_TRACEBACK + len(EVENTS) * logs.LONGEST_TEXT / 10


SPL = re.compile(
    r"index|main|sourcetype|esgbatch|or|stats|count|by|table|timechart|span|chart|max|avg|sum|dc|over|as|_time"
)


def test_the_searches_use_events_and_fields_that_there_are() -> None:
    document = (ROOT / "docs" / "logging.md").read_text()
    fields = set(re.findall(r"`(\w+)`", document))
    searches = conf("savedsearches.conf")
    assert len(searches.sections()) >= 8
    for name in searches.sections():
        search = searches[name]["search"]
        events = set(re.findall(r"event=(\w+)", search))
        assert events, name
        assert events <= set(EVENTS) | {"log_gap"}, name
        words = {word for word in re.findall(r"[a-z_]{2,}", search.lower()) if not SPL.fullmatch(word)}
        assert words - events <= fields, (name, words - fields)


def test_what_is_scheduled_alerts_on_a_number() -> None:
    searches = conf("savedsearches.conf")
    scheduled = [searches[name] for name in searches.sections() if searches[name].get("enableSched") == "1"]
    assert scheduled
    for each in scheduled:
        assert len(each["cron_schedule"].split()) == 5
        assert each["counttype"] == "number of events"
        assert each["relation"] in ("greater than", "equal to")
