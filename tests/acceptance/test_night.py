"""The whole job as a real process against real servers: what is in the file, and every way back."""

from __future__ import annotations

import hashlib
import json
import os
import re
import signal
import subprocess
import time
from datetime import datetime, timedelta
from pathlib import Path
from zoneinfo import ZoneInfo

import pytest

from tests.acceptance.firm import DAY, TestFirm, firm, rows, stop
from tests.crash import race

FAULTS = {
    "A-000003": ("no_rating", "no_rating"),
    "A-000005": ("gone", "no_rating"),
    "A-000007": ("rejected", "rejected"),
    "A-000009": ("forbidden", "forbidden"),
    "A-000011": ("unauthorized", "forbidden"),
    "A-000013": ("always_500", "unavailable"),
    "A-000015": ("bad_missing", "bad_rating"),
    "A-000017": ("bad_null", "bad_rating"),
    "A-000019": ("bad_nan", "bad_rating"),
    "A-000021": ("bad_nan_text", "bad_rating"),
    "A-000023": ("bad_range", "bad_rating"),
    "A-000025": ("bad_text", "bad_rating"),
    "A-000027": ("bad_bool", "bad_rating"),
    "A-000029": ("html", "unavailable"),
    "A-000031": ("huge", "unavailable"),
    "A-000033": ("reset", "unavailable"),
}
FAST_RETRIES = {
    "ESGBATCH_RATINGS__BACKOFF__BASE": "0.02",
    "ESGBATCH_RATINGS__ATTEMPTS": "3",
    "ESGBATCH_QUALITY__MAX_FAILED_PERCENT": "20",
}


@pytest.fixture
def small(tmp_path: Path):
    with firm(tmp_path, 300) as each:
        yield each


@pytest.fixture
def slow(tmp_path: Path):
    """600 accounts at 150 a second: four seconds to interrupt."""
    with firm(tmp_path, 600, rate=150) as each:
        yield each


def test_the_file_is_what_the_books_say(small: TestFirm):
    ran = small.run("run")
    assert small.plaintext() == small.expected()
    manifest = small.manifest()
    assert manifest["counts"] == {"listed": 315, "excluded": 15, "rows": 300, "succeeded": 300, "failed": 0}
    assert manifest["excluded_by"] == {"inactive": 7, "duplicate": 5, "refused": 3}
    assert manifest["encrypted"]["sha256"] == hashlib.sha256(small.sealed.read_bytes()).hexdigest()
    assert manifest["plaintext"]["sha256"] == hashlib.sha256(small.expected()).hexdigest()
    assert manifest["encrypted"]["recipients"] == [small.desk.fingerprint]
    assert manifest["supersedes"] is None
    assert small.sealed.stat().st_mode & 0o777 == 0o640
    assert sorted(path.name for path in small.drop.iterdir()) == [
        f"FirmESGRatings_{DAY:%Y%m%d}.csv.pgp",
        f"FirmESGRatings_{DAY:%Y%m%d}.manifest.json",
    ]
    assert "Revision 1 is delivered, every account rated." in ran.out
    assert small.errors() == []


def test_every_kind_of_fault_ends_where_the_table_says(small: TestFirm):
    small.environment |= FAST_RETRIES
    small.server.switch(
        accounts={account: kind for account, (kind, _) in FAULTS.items()} | {"A-000050": "flaky:2"},
        error_rate=0.02,
        retry_after_every=97,
        retry_after_seconds=1,
        accounts_failures=2,
        token_failures=1,
    )
    small.environment["ESGBATCH_RATINGS__ATTEMPTS"] = "5"
    small.run("run")
    assert small.plaintext() == small.expected(set(FAULTS))
    assert {line["account_id"]: line["reason"] for line in small.errors()} == {
        account: reason for account, (_, reason) in FAULTS.items()
    }
    by_reason = small.manifest()["failed_by"]
    assert by_reason == {"bad_rating": 7, "forbidden": 2, "no_rating": 2, "rejected": 1, "unavailable": 4}
    assert all(line["attempts"] >= 1 and line["run_id"] for line in small.errors())


def test_too_many_failures_withhold_the_file_until_somebody_approves(small: TestFirm):
    small.environment |= FAST_RETRIES | {"ESGBATCH_QUALITY__MAX_FAILED_PERCENT": "1"}
    small.server.switch(accounts={f"A-{n:06d}": "no_rating" for n in range(101, 106)})
    ran = small.run("run", code=14)
    assert "5 of 300 accounts failed" in ran.err
    assert f"esgbatch approve --date {DAY}" in ran.err
    assert not small.sealed.exists()
    small.run("resume", code=14)
    assert "5 of 300 accounts failed" in small.run("deliver", code=14).err
    small.run("approve", "--by", "C. Officer", "--reason", "checked by phone")
    assert small.manifest()["approved"]["by"] == "C. Officer"
    assert small.manifest()["counts"]["failed"] == 5


def test_a_withheld_file_is_mended_by_rerunning_the_failed(small: TestFirm):
    small.environment |= FAST_RETRIES | {"ESGBATCH_QUALITY__MAX_FAILED_PERCENT": "1"}
    small.server.switch(accounts={f"A-{n:06d}": "no_rating" for n in range(101, 106)})
    small.run("run", code=14)
    small.server.switch(accounts={})
    small.run("rerun", "--failed")
    assert small.plaintext() == small.expected()
    assert small.manifest()["revision"] == 1
    assert small.errors() == []


def test_a_second_run_says_so_and_does_nothing(small: TestFirm):
    small.run("run")
    before = (small.sealed.stat().st_mtime_ns, small.server.stats())
    ran = small.run("run")
    assert "delivered by an earlier call" in ran.out
    after = (small.sealed.stat().st_mtime_ns, small.server.stats())
    assert before == after


def test_rerun_fetches_only_the_named_and_supersedes(small: TestFirm):
    small.environment |= FAST_RETRIES
    small.server.switch(accounts={"A-000003": "no_rating", "A-000005": "no_rating"})
    small.run("run")
    first = small.manifest()
    first_bytes = small.sealed.read_bytes()
    small.server.switch(accounts={})
    asked = small.server.stats()["esg"]["requests"]
    ids = small.folder / "ids.txt"
    ids.write_bytes(b"A-000003\r\n")
    small.run("rerun", "--accounts", f"@{ids}")
    assert small.server.stats()["esg"]["requests"] - asked == 1
    second = small.manifest()
    assert second["revision"] == 2
    assert second["supersedes"] == {"revision": 1, "sha256": first["encrypted"]["sha256"]}
    assert second["run_id"] == first["run_id"]
    assert small.plaintext() == small.expected({"A-000005"})
    archived = sorted(small.state.glob("archive/*/r*/*.pgp"))
    assert [path.parent.name for path in archived] == ["r1", "r2"]
    assert archived[0].read_bytes() == first_bytes


def test_rerun_of_an_unknown_account_changes_nothing(small: TestFirm):
    small.run("run")
    ran = small.run("rerun", "--accounts", "A-000003,NOBODY", code=2)
    assert "NOBODY" in ran.err
    assert small.manifest()["revision"] == 1
    assert small.status()["stage"] == "delivered"


def test_deliver_brings_a_lost_file_again_without_the_api(small: TestFirm):
    small.run("run")
    before = small.sealed.read_bytes()
    asked = small.server.stats()["esg"]["requests"]
    small.sealed.unlink()
    small.run("deliver")
    assert small.sealed.read_bytes() == before
    assert small.server.stats()["esg"]["requests"] == asked


def test_nothing_to_do_is_said_clearly(small: TestFirm):
    for command in ("resume", "deliver", "rerun --failed", "report", "status"):
        ran = small.run(*command.split(), code=19)
        assert "Next: " in ran.err


@pytest.mark.parametrize("signum", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_stops_within_two_seconds_and_resume_goes_on(slow: TestFirm, signum: signal.Signals):
    slow.server.switch(latency=0.2)
    with slow.process("run") as process:
        slow.wait_until_done(100, process)
        began = time.monotonic()
        _, err = stop(process, signum)
        assert time.monotonic() - began < 2
    assert process.returncode == 128 + signum
    assert f"esgbatch resume --date {DAY}" in err
    asked = slow.server.stats()["esg"]["requests"]
    done = slow.status()["done"]
    assert done >= 100
    slow.run("resume")
    assert slow.server.stats()["esg"]["requests"] - asked == 600 - done
    assert slow.plaintext() == slow.expected()


def test_a_signal_does_not_wait_for_a_stalled_api(slow: TestFirm):
    slow.server.switch(accounts={f"A-{n:06d}": "slow:60" for n in range(1, 8)})
    with slow.process("run") as process:
        slow.wait_until_done(500, process)
        began = time.monotonic()
        stop(process, signal.SIGTERM)
        assert time.monotonic() - began < 2
    assert process.returncode == 143


@pytest.mark.parametrize("done", [0, 1, 200, 450, 599])
def test_kill_9_loses_nothing(slow: TestFirm, done: int):
    with slow.process("run") as process:
        slow.wait_until_done(done, process)
        process.send_signal(signal.SIGKILL)
        process.communicate()
    if slow.run_exists():
        slow.run("resume")
    else:
        slow.run("run")
    assert slow.plaintext() == slow.expected()


def test_run_itself_goes_on_after_a_crash(slow: TestFirm):
    with slow.process("run") as process:
        slow.wait_until_done(100, process)
        process.kill()
        process.communicate()
    slow.run("run")
    assert slow.plaintext() == slow.expected()
    report = json.loads(slow.run("report", "--format", "json").out)
    assert [each["exit_code"] for each in report["executions"]] == [None, 0]


def test_a_second_run_at_the_same_time_is_refused(tmp_path: Path):
    with firm(tmp_path, race.ACCOUNTS, rate=race.RATE) as place, place.process("run") as process:
        place.wait_until_done(5, process)
        ran = place.run("run", code=11)
        assert str(process.pid) in ran.err
        place.run("rerun", "--failed", code=11)
        stop(process, signal.SIGTERM)
    assert process.returncode == 143


def test_of_two_runs_started_at_once_one_works(tmp_path: Path):
    with firm(tmp_path, race.ACCOUNTS, rate=race.RATE) as place:
        assert {race.race(place) for _ in range(4)} == {(11, 143)}


def test_status_shows_the_running_job(slow: TestFirm):
    with slow.process("run") as process:
        slow.wait_until_done(75, process)
        seen = slow.status()
        process.communicate(timeout=30)
    assert seen["running"] is True
    assert seen["stage"] == "rating"
    assert seen["total"] == 600
    assert 75 <= seen["done"] <= 600
    assert seen["rate"] > 50
    assert slow.status()["running"] is False


def test_the_limit_holds_at_the_server(slow: TestFirm):
    slow.run("run")
    assert slow.server.stats()["esg"]["max_per_second"] <= 150


def test_more_connections_than_a_shell_allows_files(small: TestFirm):
    """Most systems let a program open 1,024 files, and let it ask for more."""
    small.server.switch(latency=1.0)
    small.environment["ESGBATCH_RATINGS__CONCURRENCY"] = "250"
    limited = ["prlimit", "--nofile=128:", *small.command("run", "--date", DAY.isoformat())]
    subprocess.run(limited, env=os.environ | small.environment, capture_output=True, check=True, timeout=60)
    (worked,) = json.loads(small.run("report", "--format", "json").out)["executions"]
    assert worked["attempts"] == 300, "none failed for want of a file"


def test_two_dates_at_once_share_one_limit(slow: TestFirm):
    tomorrow = DAY + timedelta(days=1)
    log = slow.folder / "logs" / f"esgbatch-{tomorrow:%Y%m%d}.jsonl"
    with slow.process("run") as first:
        slow.wait_until_done(50, first)
        slow.server.switch(outage="503")  # so that the first is surely at work when the second comes
        with slow.process("run", day=tomorrow) as second:
            slow.wait_for("waiting_for_turn", log, second)
            slow.server.switch(outage="")
            _, said = second.communicate(timeout=60)
        first.communicate(timeout=60)
    assert (first.returncode, second.returncode) == (0, 0)
    assert re.search(r"^\d\d:\d\d:\d\d C[DS]T warning: .*waits", said, re.MULTILINE), said
    # Each by itself keeps to 150: together they would come to 300.
    assert slow.server.stats()["esg"]["max_per_second"] < 200


def test_a_date_that_has_not_begun_is_questioned(small: TestFirm):
    tomorrow = datetime.now(ZoneInfo("America/Chicago")).date() + timedelta(days=1)
    assert f"warning: {tomorrow} has not begun" in small.run("run", day=tomorrow).err
    assert "has not begun" not in small.run("run").err


def test_an_outage_is_waited_out(slow: TestFirm):
    with slow.process("run") as process:
        slow.wait_until_done(50, process)
        slow.server.switch(outage="503", outage_seconds=4)
        process.communicate(timeout=60)
    assert process.returncode == 0
    assert slow.plaintext() == slow.expected()


def test_an_outage_without_end_stops_the_run_with_13(slow: TestFirm):
    slow.environment["ESGBATCH_RATINGS__MAX_HOLD"] = "2"
    slow.server.switch(outage="close")
    ran = slow.run("run", code=13)
    assert "Next: " in ran.err
    slow.server.switch(outage="")
    slow.run("resume")
    assert slow.plaintext() == slow.expected()


def test_refused_credentials_stop_the_run_with_13_and_nobody_fails(slow: TestFirm):
    slow.server.switch(forbidden_all=True)
    slow.run("run", code=13)
    assert slow.status()["failed"] == 0
    slow.server.switch(forbidden_all=False)
    slow.run("resume")
    assert slow.plaintext() == slow.expected()


def test_a_token_revoked_in_the_night_is_renewed(slow: TestFirm):
    with slow.process("run") as process:
        slow.wait_until_done(200, process)
        slow.server.switch(revoke_tokens=True)
        process.communicate(timeout=30)
    assert process.returncode == 0
    assert slow.server.stats()["login"]["issued"] == 2
    assert slow.plaintext() == slow.expected()


def test_an_account_system_that_is_down_is_12_and_resume_works(small: TestFirm):
    small.environment["ESGBATCH_ACCOUNTS__ATTEMPTS"] = "2"
    small.server.switch(accounts_failures=-1)
    ran = small.run("run", code=12)
    assert f"esgbatch resume --date {DAY}" in ran.err
    small.server.switch(accounts_failures=0)
    small.run("resume")
    assert small.plaintext() == small.expected()


def test_a_dry_run_writes_nothing(small: TestFirm):
    ran = small.run("run", "--dry-run")
    assert "315 listed, 15 excluded" in ran.out
    assert small.server.stats()["esg"]["requests"] == 0
    assert not small.state.exists()


def test_a_limited_run_is_partial(small: TestFirm):
    small.run("run", "--limit", "10")
    assert len(rows(small.plaintext())) == 11
    assert small.manifest()["partial"] is True


def test_no_name_score_or_secret_in_logs_or_output(small: TestFirm):
    ran = small.run("run")
    written = ran.out + ran.err + "".join(path.read_text() for path in (small.folder / "logs").iterdir())
    written += (small.state / "audit.jsonl").read_text()
    for index in (0, 1, 299):
        assert small.books.name(index) not in written
    assert small.server.places.login.client_secret not in written
    assert small.books.cells(1)[3] not in written


def test_no_plaintext_on_disk(small: TestFirm, tmp_path: Path):
    temp = tmp_path / "tmp"
    temp.mkdir()
    small.environment["TMPDIR"] = str(temp)
    log = tmp_path / "opened"
    traced = ["strace", "-f", "-qq", "-e", "trace=openat,creat", "-o", str(log)]
    subprocess.run([*traced, *small.command("run", "--date", DAY.isoformat())], check=True, capture_output=True)
    written = [line for line in log.read_text().splitlines() if "O_WRONLY" in line or "O_RDWR" in line]
    assert written
    assert not [line for line in written if ".csv" in line and ".csv.pgp" not in line]
    assert not list(temp.iterdir())


def test_configuration_mistakes_are_10_and_all_are_told(small: TestFirm):
    small.environment |= {"ESGBATCH_RATINGS__RATE_LIMT": "5", "ESGBATCH_DELIVERY__PORT": "0"}
    ran = small.run("run", code=10)
    assert "ratings.rate_limt" in ran.err
    assert "delivery.port" in ran.err


def test_a_missing_secret_is_10_before_anything_is_done(small: TestFirm):
    (small.folder / "secrets" / "client_secret").unlink()
    small.run("run", code=10)
    assert small.server.stats()["accounts"]["requests"] == 0
