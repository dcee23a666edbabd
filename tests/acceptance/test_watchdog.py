"""The check at nine as a command: runs that go on, died or never were; broken checkpoint and configuration."""

from __future__ import annotations

import time
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from zoneinfo import ZoneInfo

import pytest

from tests.acceptance.alerts import mails, paged, pages, plain
from tests.acceptance.firm import DAY, TestFirm, firm

CHICAGO = ZoneInfo("America/Chicago")


@pytest.fixture
def slow(tmp_path: Path) -> Iterator[TestFirm]:
    """Half a minute to go on."""
    with firm(tmp_path, 600, rate=20) as each:
        yield each


def test_a_run_that_is_still_going_is_ended_and_a_delivered_one_is_well(slow: TestFirm):
    with slow.process("run") as process:
        slow.wait_until_done(20, process)
        ran = slow.run("watchdog", code=21)
        _, err = process.communicate(timeout=30)
    assert process.returncode == 143, err
    assert f"process {process.pid}" in ran.err
    assert "it ended after SIGTERM" in ran.err
    assert f"Next: everything done is kept: `esgbatch resume --date {DAY}` goes on from there" in ran.err
    assert paged(slow.server.places) == [("trigger", "deadline_passed")]
    slow.environment["ESGBATCH_RATINGS__RATE_LIMIT"] = "1000"
    slow.run("resume")
    assert paged(slow.server.places) == [("trigger", "deadline_passed"), ("resolve", "deadline_passed")]
    assert "is delivered" in slow.run("watchdog").out
    assert len(pages(slow.server.places)) == 2


def test_before_its_deadline_a_run_is_left_to_go_on(slow: TestFirm):
    """An operator's --deadline counts like the configured one."""
    later = datetime.fromtimestamp(time.time() + 3 * 3600, CHICAGO)
    with slow.process("run", "--deadline", f"{later:%H:%M}") as process:
        slow.wait_until_done(20, process)
        ran = slow.run("watchdog", code=21)
        assert process.poll() is None
        assert f"may be until {later:%H:%M}" in ran.err.replace(f"{later:%Y-%m-%d} ", "")
        tomorrow = slow.run("watchdog", "--date", "2099-01-02", day=None)
        assert "The run of 2099-01-02 is due at 05:00 CST; it has not begun." in tomorrow.out
        process.kill()
        process.communicate()
    assert paged(slow.server.places) == [("trigger", "deadline_passed")]


def test_what_never_was_what_died_and_what_nobody_can_read(slow: TestFirm):
    places = slow.server.places
    slow.server.switch(mail_failures=-1, pager_failures=-1)
    ran = slow.run("watchdog", code=21)
    assert f"The run of {DAY} was never started; it was due at 05:00 CST" in ran.err
    assert f"`esgbatch run --date {DAY}`" in ran.err
    slow.server.switch(mail_failures=0, pager_failures=0)
    slow.run("watchdog", code=21)
    assert paged(places) == [("trigger", "not_started")], "the outbox is sent later, and told once"
    with slow.process("run") as process:
        slow.wait_until_done(20, process)
        process.kill()
        process.communicate()
    ran = slow.run("watchdog", code=21)
    assert "died at stage rating" in ran.err
    assert paged(places)[1:] == [
        ("resolve", "not_started"),
        ("trigger", "job_failed"),
        ("trigger", "deadline_passed"),
    ]
    (slow.state / "checkpoint.sqlite").write_bytes(b"no database at all")
    for name in ("checkpoint.sqlite-wal", "checkpoint.sqlite-shm"):
        (slow.state / name).unlink(missing_ok=True)
    ran = slow.run("watchdog", code=21)
    assert f"Nobody can tell whether there is a file of {DAY}" in ran.err
    assert paged(places)[4:] == [("trigger", "job_failed")], "another reason is news"


def test_a_broken_configuration_is_told_and_the_check_is_made(slow: TestFirm):
    slow.environment["ESGBATCH_RATINGS__RATE_LIMT"] = "5"
    text = slow.config.read_text()
    slow.config.write_text(text.replace("[ratings]", "[ratings\n"))
    ran = slow.run("watchdog", code=21)
    assert "never started" in ran.err
    assert "no valid TOML" in ran.err
    assert sorted(paged(slow.server.places)) == [("trigger", "configuration"), ("trigger", "not_started")]


def test_a_broken_audit_trail_is_told(slow: TestFirm):
    slow.environment["ESGBATCH_RATINGS__RATE_LIMIT"] = "1000"
    slow.run("run")
    trail = slow.state / "audit.jsonl"
    whole = trail.read_bytes()
    trail.write_bytes(
        whole.replace(b'"succeeded"', b'"succeedee"', 1) if b'"succeeded"' in whole else whole[2:]
    )
    slow.run("watchdog")
    slow.run("audit", "verify", day=None, code=22)
    assert paged(slow.server.places) == [("trigger", "audit_broken")]
    trail.write_bytes(whole)
    slow.run("watchdog")
    assert paged(slow.server.places) == [("trigger", "audit_broken"), ("resolve", "audit_broken")]


def test_a_test_alert_goes_down_every_channel(slow: TestFirm):
    ran = slow.run("alert", "test", day=None)
    assert ran.out.splitlines() == [
        "ok    pagerduty         the test alert was taken",
        "ok    email             the test alert was taken",
    ]
    assert [action for action, _ in paged(slow.server.places)] == ["trigger", "resolve"]
    assert pages(slow.server.places)[0]["payload"]["severity"] == "info"
    (mail,) = mails(slow.server.places)
    assert "nothing is wrong" in plain(mail)
    slow.server.switch(mail_failures=1)
    ran = slow.run("alert", "test", day=None, code=10)
    assert "FAIL  email" in ran.out
    assert "ok    pagerduty" in ran.out
    text = slow.config.read_text()
    begin, end = text.index("[alerts.email]"), text.index("[logging]")
    slow.config.write_text(text[:begin] + text[end:])
    slow.environment = {key: value for key, value in slow.environment.items() if "__EMAIL__" not in key}
    assert "neither [alerts.email] nor [alerts.pagerduty]" in slow.run("alert", "test", day=None, code=10).err
