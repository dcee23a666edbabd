"""People are told of what is wrong: once, with the next command, until it is over; whatever the servers do."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from datetime import time as time_of_day
from pathlib import Path
from zoneinfo import ZoneInfo

import pytest

from esgbatch.deadline import moment
from tests.acceptance.alerts import mails, paged, pages, plain, subjects
from tests.acceptance.firm import DAY, TestFirm, firm, stop

FAST = {"ESGBATCH_RATINGS__BACKOFF__BASE": "0.02", "ESGBATCH_RATINGS__ATTEMPTS": "2"}
SOME_FAILED = {f"A-{n:06d}": "no_rating" for n in range(21, 24)}


@pytest.fixture
def small(tmp_path: Path) -> Iterator[TestFirm]:
    """Sixty accounts: three failed ones are five percent."""
    with firm(tmp_path, 60) as each:
        each.environment |= FAST
        yield each


def outbox(firm: TestFirm) -> list[Path]:
    return sorted((firm.state / "alerts").glob("*.json"))


def test_a_failed_run_is_told_once_and_taken_back_by_the_run_that_mends_it(small: TestFirm):
    places = small.server.places
    small.server.switch(forbidden_all=True)
    small.run("run", code=13)
    (page,) = pages(places)
    key = f"esgbatch/sandbox/{DAY}/job_failed"
    assert (page["event_action"], page["dedup_key"]) == ("trigger", key)
    assert page["routing_key"] == places.pager.routing_key
    assert page["payload"]["severity"] == "critical"
    assert page["payload"]["custom_details"]["exit_code"] == 13
    assert page["payload"]["custom_details"]["accounts"] == 60
    (mail,) = mails(places)
    assert mail["Subject"] == f"[esgbatch sandbox] job failed, {DAY}"
    assert mail["X-RcptTo"] == "operations@sandbox.example"
    text = plain(mail)
    for words in (
        "failed with code 13",
        f"esgbatch resume --date {DAY}",
        "docs/operations.md#job-failed",
        "Since:",
    ):
        assert words in text
        assert words.split(":")[0] in str(mail.get_body(("html",)).get_content())  # type: ignore[union-attr]
    small.run("resume", code=13)
    assert (len(mails(places)), len(pages(places))) == (1, 1)
    small.server.switch(forbidden_all=False)
    small.run("resume")
    assert paged(places) == [("trigger", "job_failed"), ("resolve", "job_failed")]
    assert subjects(places) == [f"job failed, {DAY}", f"RESOLVED: job failed, {DAY}"]
    assert "the file is delivered" in plain(mails(places)[1])
    assert outbox(small) == []
    small.run("run")
    assert len(mails(places)) == 2


def test_servers_that_are_down_all_night_are_told_by_the_next_command(small: TestFirm):
    places = small.server.places
    small.server.switch(mail_failures=-1, pager_failures=-1, accounts=SOME_FAILED)
    small.environment["ESGBATCH_QUALITY__MAX_FAILED_PERCENT"] = "1"
    ran = small.run("run", code=14)
    assert "email did not take an alert, which is kept: " in ran.err
    assert (mails(places), pages(places)) == ([], [])
    assert [path.name for path in outbox(small)] == [f"{DAY}.failed_accounts.json", f"{DAY}.withheld.json"]
    small.server.switch(mail_failures=0, pager_failures=0)
    small.run("approve", "--by", "C. Officer", "--reason", "checked")
    assert sorted(paged(places)) == [
        ("resolve", "withheld"),
        ("trigger", "failed_accounts"),
        ("trigger", "withheld"),
    ]
    assert f"withheld, {DAY}" in " ".join(subjects(places))
    small.server.switch(accounts={})
    small.run("rerun", "--failed")
    assert paged(places)[3:] == [("resolve", "failed_accounts")]
    assert outbox(small) == []


def test_a_stop_signal_does_not_wait_for_a_frozen_mail_server(tmp_path: Path):
    with (
        firm(tmp_path, 600, rate=100) as each,
        socket.create_server(("127.0.0.1", 0)) as frozen,
    ):
        each.environment["ESGBATCH_ALERTS__EMAIL__PORT"] = str(frozen.getsockname()[1])
        with each.process("run") as process:
            each.wait_until_done(20, process)
            began = time.monotonic()
            stop(process, signal.SIGTERM)
            assert time.monotonic() - began < 5
        assert process.returncode == 143
        (kept,) = outbox(each)
        assert json.loads(kept.read_text())["figures"]["exit_code"] == 143


def test_a_failure_before_there_is_a_run_is_told(small: TestFirm):
    """A mistake in another section, in the file itself, in the checkpoint, in the log folder."""
    places = small.server.places
    for change in (
        {"ESGBATCH_RATINGS__RATE_LIMT": "5"},
        {"ESGBATCH_CHECKPOINT__URL": "postgresql+psycopg://127.0.0.1:1/nothing"},
        {"ESGBATCH_LOGGING__DIRECTORY": "/dev/null/logs"},
    ):
        before = dict(small.environment)
        small.environment |= change
        small.run("run", code=17 if "ESGBATCH_CHECKPOINT__URL" in change else 10)
        small.environment = before
    assert [plain(mail).count("code 10") for mail in mails(places)] == [1, 0, 1]
    small.config.write_text(small.config.read_text().replace("[accounts]", "[accounts"))
    small.run("run", code=10)
    assert len(mails(places)) == 3, "the same code again is no news"
    assert {page["dedup_key"] for page in pages(places)} == {f"esgbatch/sandbox/{DAY}/job_failed"}


def test_a_state_folder_that_takes_nothing_does_not_keep_people_from_being_told(small: TestFirm):
    small.state.mkdir(mode=0o755)
    small.state.chmod(0o755)
    (small.state / "alerts").write_text("no folder")
    small.run("run", code=10)
    assert paged(small.server.places) == [("trigger", "job_failed")]
    assert "must belong to this user alone" in plain(mails(small.server.places)[0])


def test_without_a_channel_nothing_is_sent_and_nothing_is_kept(small: TestFirm):
    text = small.config.read_text()
    begin, end = text.index("[alerts.email]"), text.index("[logging]")
    small.config.write_text(text[:begin] + text[end:])
    small.environment = {key: value for key, value in small.environment.items() if "__EMAIL__" not in key}
    small.server.switch(accounts=SOME_FAILED)
    small.run("run")
    assert not (small.state / "alerts").exists()


def renew(firm: TestFirm, lifetime: str) -> None:
    """Give the recipient's key another end, and export it."""
    gpg = ["gpg", "--homedir", str(firm.desk.home), "--batch", "--yes"]
    for subkeys in ([], ["*"]):
        command = [*gpg, "--quick-set-expire", firm.desk.fingerprint, lifetime, *subkeys]
        subprocess.run(command, check=True, capture_output=True)
    exported = subprocess.run([*gpg, "--armor", "--export"], check=True, capture_output=True)
    firm.desk.public_key.write_bytes(exported.stdout)


def test_a_key_that_expires_soon_is_told_once_and_not_every_night(small: TestFirm):
    renew(small, "20d")
    small.run("run")
    small.run("rerun", "--accounts", "A-000003")
    (page,) = pages(small.server.places)
    assert page["payload"]["severity"] == "warning"
    assert small.desk.fingerprint in page["payload"]["summary"]
    assert "in 19 days" in page["payload"]["summary"]
    renew(small, "1y")
    small.run("rerun", "--accounts", "A-000003")
    assert [each["event_action"] for each in pages(small.server.places)] == ["trigger", "resolve"]


def test_no_secret_no_account_and_no_score_is_told(small: TestFirm):
    small.server.switch(accounts=SOME_FAILED)
    small.run("run")
    told = json.dumps(pages(small.server.places)) + "".join(plain(each) for each in mails(small.server.places))
    told += "".join(path.read_text() for path in outbox(small))
    assert "failed_accounts" in told
    for account in SOME_FAILED:
        assert account not in told
    assert small.server.places.mail.password not in told
    assert small.books.name(21) not in told


def at_eight_fifty_nine(firm: TestFirm, seconds: float) -> subprocess.Popen[str]:
    """The run of the day, in a process whose clock says that so many seconds are left to nine."""
    nine = moment(DAY, time_of_day(9), ZoneInfo("America/Chicago")).timestamp()
    code = (
        "import time\nfrom esgbatch.cli import context\n"
        "class Clock(context.SystemClock):\n"
        "    def time(self): return time.time() + SHIFT\n"
        "SHIFT = float(__import__('os').environ['NINE']) - time.time()\n"
        "context.CLOCK = Clock()\n"
        "from esgbatch.cli.app import main\nmain()\n"
    )
    command = [sys.executable, "-c", code, *firm.command("run", "--date", DAY.isoformat())[3:]]
    environment = os.environ | firm.environment | {"NINE": str(nine - seconds)}
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment)


def test_a_deadline_that_cannot_be_met_is_foretold_and_then_passes_with_18(tmp_path: Path):
    with firm(tmp_path, 2000, rate=50) as each, at_eight_fifty_nine(each, 12) as process:
        _, err = process.communicate(timeout=60)
        assert process.returncode == 18, err
        assert f"esgbatch resume --date {DAY}" in err
        assert sorted(paged(each.server.places)) == [
            ("resolve", "deadline_at_risk"),
            ("trigger", "deadline_at_risk"),
            ("trigger", "deadline_passed"),
        ]
        assert paged(each.server.places)[0] == ("trigger", "deadline_at_risk")
        risk, *_ = pages(each.server.places)
        assert " accounts of 2,000 would fit by 08:59" in risk["payload"]["summary"]
        assert "late" in risk["payload"]["summary"]
        told = [json.loads(line) for line in (each.folder / "logs" / f"esgbatch-{DAY:%Y%m%d}.jsonl").open()]
        assert [line["event"] for line in told if line["event"].startswith("deadline_")] == ["deadline_at_risk"]
        assert subjects(each.server.places) == [f"deadline at risk, {DAY}", f"deadline passed, {DAY}"]


def test_a_partial_delivery_is_in_time_and_says_so(tmp_path: Path):
    with firm(tmp_path, 2000, rate=50) as each:
        each.environment |= {
            "ESGBATCH_JOB__ON_DEADLINE": "deliver_partial",
            "ESGBATCH_QUALITY__MAX_FAILED_PERCENT": "100",
        }
        with at_eight_fifty_nine(each, 12) as process:
            _, err = process.communicate(timeout=60)
        assert process.returncode == 0, err
        assert each.manifest()["partial"] is True
        assert ("trigger", "partial_delivery") in paged(each.server.places)
        (page,) = [page for page in pages(each.server.places) if page["dedup_key"].endswith("partial_delivery")]
        assert "of 2,000 accounts were not attempted" in page["payload"]["summary"]
        each.environment["ESGBATCH_RATINGS__RATE_LIMIT"] = "1000"
        each.run("rerun", "--failed")
        assert ("resolve", "partial_delivery") in paged(each.server.places)
