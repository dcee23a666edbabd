"""The rules, the outbox and the desk, with channels that take what they are told, or do not."""

from __future__ import annotations

import threading
import time
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from zoneinfo import ZoneInfo

import pytest

from esgbatch.alerting import desk as desks
from esgbatch.alerting.conditions import Change, Cleared, Condition, Name
from esgbatch.alerting.desk import Desk
from esgbatch.alerting.listener import AlertListener
from esgbatch.alerting.outbox import Entry, Outbox
from esgbatch.alerting.rules import Rules
from esgbatch.alerting.wording import html, subject, text
from esgbatch.config.model import Alerts
from esgbatch.errors import (
    AccountSystemError,
    AuditBroken,
    BatchError,
    ChannelError,
    DeadlinePassed,
    DeliveryError,
    ExitCode,
    NothingToDo,
    RunHeld,
    StopRequested,
    Withheld,
    WrongUsage,
)
from esgbatch.model import Answer, Snapshot, Stage
from tests.nightwatch import DOWN, RATED, Night
from tests.simulated import EPOCH, RecordingListener, SimulatedClock

DAY = date(2026, 11, 24)
CHICAGO = ZoneInfo("America/Chicago")
SCOPE = DAY.isoformat()
NINE = EPOCH + 3600.0


class FakeChannel:
    """Implements `Channel`; takes nothing as long as `down`, and nothing in time while `frozen`."""

    def __init__(self, name: str = "email") -> None:
        self.name = name
        self.told: list[tuple[str, bool]] = []
        self.down = False
        self.tried = 0
        self.frozen = threading.Event()
        self.frozen.set()

    def tell(self, entry: Entry, limit: float) -> None:
        self.tried += 1
        self.frozen.wait(30)
        if self.down:
            raise ChannelError("it is down")
        self.told.append((str(entry.name), entry.ended is not None))


class Watch:
    """A process with its alerts, on a folder that other processes share."""

    def __init__(self, folder: Path, *channels: FakeChannel, clock: SimulatedClock | None = None) -> None:
        self.clock = clock or SimulatedClock()
        self.log = RecordingListener()
        self.outbox = Outbox(folder / "alerts", "test", "host")
        self.desk = Desk(self.outbox, channels, "test", "host", self.clock, self.log)
        self.rules = Rules(Alerts(), DAY, CHICAGO, NINE)
        self.listener = AlertListener(self.rules, self.desk, self.clock)

    def __enter__(self) -> Watch:
        self.desk.begin()
        return self

    def __exit__(self, *_: object) -> None:
        self.desk.stop()
        self.desk.join(time.monotonic() + 10)

    def end(self, error: BaseException) -> None:
        self.listener.event("run_failed", exit_code=getattr(error, "code", 1), error=error)


def changes(rules: Rules, name: str, **fields: object) -> list[Change]:
    return list(rules.event(name, fields, EPOCH))


def opened(found: list[Change]) -> list[Condition]:
    return [each for each in found if isinstance(each, Condition)]


def cleared(found: list[Change]) -> set[Name]:
    return {name for each in found if isinstance(each, Cleared) for name in each.names}


@pytest.fixture
def rules() -> Rules:
    return Rules(Alerts(), DAY, CHICAGO, NINE)


# --- the rules --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("error", "name"),
    [
        (AccountSystemError("down"), Name.JOB_FAILED),
        (Withheld("5 of 60 failed"), Name.WITHHELD),
        (DeliveryError("no room"), Name.DELIVERY_FAILED),
        (DeadlinePassed("51 of 60"), Name.DEADLINE_PASSED),
        (StopRequested("the deadline passed", ExitCode.DEADLINE), Name.DEADLINE_PASSED),
        (AuditBroken("record 7", advice="look"), Name.AUDIT_BROKEN),
        (StopRequested.by_signal(15), Name.JOB_FAILED),
        (KeyError("Smith Family Trust"), Name.JOB_FAILED),
    ],
    ids=str,
)
def test_how_a_run_ends(rules: Rules, error: BaseException, name: Name) -> None:
    (condition,) = opened(list(rules.ended(error, EPOCH)))
    code = error.code if isinstance(error, BatchError | StopRequested) else 1
    assert (condition.name, condition.scope, condition.figures["exit_code"]) == (name, SCOPE, code)
    assert condition.advice
    assert "{date}" not in condition.advice
    assert "Smith" not in condition.summary


@pytest.mark.parametrize("error", [RunHeld("held"), NothingToDo("none"), WrongUsage("typo")], ids=str)
def test_what_is_no_alert(rules: Rules, error: BatchError) -> None:
    assert list(rules.ended(error, EPOCH)) == []


def test_a_run_that_was_ended_after_its_deadline_has_missed_it(rules: Rules) -> None:
    (condition,) = opened(list(rules.ended(StopRequested.by_signal(15), NINE)))
    assert condition.name is Name.DEADLINE_PASSED


def test_delivery_ends_what_was_wrong_with_the_run(rules: Rules) -> None:
    for event in ("run_finished", "already_delivered"):
        over = cleared(changes(rules, event))
        assert {Name.JOB_FAILED, Name.DEADLINE_PASSED, Name.WITHHELD, Name.DELIVERY_FAILED} <= over
        assert Name.FAILED_ACCOUNTS not in over
        assert Name.PARTIAL_DELIVERY not in over


def test_failed_accounts_above_the_limit(rules: Rules) -> None:
    (condition,) = opened(changes(rules, "rating_finished", succeeded=979, failed=21, pending=0))
    assert condition.summary == "21 of 1,000 accounts have no rating: 2.10%, more than 1%"
    assert "esgbatch rerun --failed --date 2026-11-24" in condition.advice
    found = changes(rules, "rating_finished", succeeded=990, failed=10, pending=0)
    assert (opened(found), cleared(found)) == ([], {Name.FAILED_ACCOUNTS})
    assert changes(rules, "rating_finished", succeeded=0, failed=500, pending=500) == [], "it is not over"


def test_a_partial_delivery_says_so(rules: Rules) -> None:
    found = opened(changes(rules, "delivered", rows=1000, failed=120, not_attempted=100))
    assert [each.name for each in found] == [Name.FAILED_ACCOUNTS, Name.PARTIAL_DELIVERY]
    assert "100 of 1,000 accounts were not attempted" in found[1].summary
    assert Name.PARTIAL_DELIVERY in cleared(changes(rules, "delivered", rows=1000, failed=0, not_attempted=0))


def test_a_deadline_at_risk(rules: Rules) -> None:
    nine = datetime(2026, 11, 24, 15, tzinfo=UTC)
    (condition,) = opened(
        changes(
            rules,
            "deadline_at_risk",
            ends=nine + timedelta(minutes=40),
            late=2400.0,
            fits=312_000,
            fits_by=nine - timedelta(minutes=10),
            done=12_000,
            total=350_000,
            rate=22.5,
            rate_needed=25.25,
            deadline=nine,
            partial=False,
        )
    )
    assert condition.summary == (
        "At this pace the run ends 09:40, 40 minutes late; 312,000 accounts of 350,000 would fit by 08:50"
    )
    assert condition.figures["pace"] == "22.5 accounts a second, 25.2 are needed"
    assert cleared(changes(rules, "deadline_safe")) == {Name.DEADLINE_AT_RISK}


def held(seconds: float, why: str = "outage") -> Snapshot:
    return Snapshot(at=EPOCH + seconds, stage=Stage.RATING, done=50, total=100, held=why)


def test_an_outage_is_told_after_ten_minutes_and_once(rules: Rules) -> None:
    assert cleared(list(rules.progress(held(0, "")))) == {Name.OUTAGE}, "one of an earlier process is over"
    found = [each for second in range(1, 1300) for each in rules.progress(held(second))]
    (condition,) = opened(found)
    assert "The ESG API is down since Sun 29 Nov 18:53, for more than 10 minutes" in condition.summary
    assert cleared(list(rules.progress(held(1300, "")))) == {Name.OUTAGE}
    assert list(rules.progress(held(1301, ""))) == []


def test_short_holds_are_no_outage(rules: Rules) -> None:
    found = [
        each
        for second in range(3000)
        for each in rules.progress(held(second, "throttled" if second % 500 else ""))
    ]
    assert opened(found) == []


def test_a_key_that_expires_is_told_by_its_day(rules: Rules) -> None:
    ends = datetime(2026, 12, 10, tzinfo=UTC)
    told = {"what": "The recipient key ABC", "source": "/k.asc", "expires": ends}
    first, *_ = opened(changes(rules, "expiring", days=16, **told))
    again, *_ = opened(changes(Rules(Alerts(), DAY + timedelta(1), CHICAGO, NINE), "expiring", days=15, **told))
    later, *_ = opened(changes(rules, "expiring", days=6, **told))
    assert first.scope == again.scope == later.scope == "2026-12-10 The recipient key ABC"
    assert first.variant == again.variant != later.variant
    (over,) = changes(rules, "expiry_checked", expiring=1)
    assert isinstance(over, Cleared)
    assert (over.scope, over.but) == (None, {first.scope})


# --- outbox and desk --------------------------------------------------------------------------


def test_told_once_by_whatever_number_of_processes(tmp_path: Path) -> None:
    channel = FakeChannel()
    for _ in range(3):
        with Watch(tmp_path, channel) as watch:
            watch.end(AccountSystemError("down"))
    assert channel.told == [("job_failed", False)]
    with Watch(tmp_path, channel) as watch:
        watch.listener.event("run_finished", exit_code=0, error=None)
    with Watch(tmp_path, channel):
        pass
    assert channel.told == [("job_failed", False), ("job_failed", True)]
    assert watch.outbox.is_empty()


def test_another_code_is_news_under_the_same_key(tmp_path: Path) -> None:
    channel = FakeChannel()
    with Watch(tmp_path, channel) as watch:
        watch.end(AccountSystemError("down"))
    with Watch(tmp_path, channel) as watch:
        watch.end(KeyError("a bug"))
    assert channel.told == [("job_failed", False)] * 2


def test_an_error_is_told_once_whichever_way_it_comes(tmp_path: Path) -> None:
    channel = FakeChannel()
    error = AccountSystemError("down")
    with Watch(tmp_path, channel) as watch:
        watch.end(error)
        watch.listener.ended(error)
    assert len(watch.log.named("alert_opened")) == 1
    assert channel.told == [("job_failed", False)]


def test_what_a_channel_did_not_take_is_kept_for_it_alone(tmp_path: Path) -> None:
    mail, pager = FakeChannel(), FakeChannel("pagerduty")
    mail.down = True
    with Watch(tmp_path, mail, pager) as watch:
        watch.end(Withheld("5 of 60 failed"))
    assert (mail.told, pager.told) == ([], [("withheld", False)])
    assert len(watch.log.named("alert_not_sent")) == 1
    mail.down = False
    with Watch(tmp_path, mail, pager):
        pass
    assert (mail.told, pager.told) == ([("withheld", False)], [("withheld", False)])


def test_what_is_over_before_a_channel_took_it_is_told_as_over(tmp_path: Path) -> None:
    mail = FakeChannel()
    mail.down = True
    with Watch(tmp_path, mail) as watch:
        watch.end(AccountSystemError("down"))
    with Watch(tmp_path, mail) as watch:
        watch.listener.event("run_finished", exit_code=0, error=None)
    mail.down = False
    with Watch(tmp_path, mail) as watch:
        pass
    assert mail.told == [("job_failed", True)]
    assert watch.outbox.is_empty()


def test_a_condition_that_comes_back_is_told_again(tmp_path: Path) -> None:
    mail = FakeChannel()
    for _ in range(2):
        with Watch(tmp_path, mail) as watch:
            watch.end(AccountSystemError("down"))
        with Watch(tmp_path, mail) as watch:
            watch.listener.event("run_finished", exit_code=0, error=None)
    assert mail.told == [("job_failed", False), ("job_failed", True)] * 2


def test_a_server_that_comes_back_during_the_run_gets_it_then(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(desks, "RETRY", 0.02)
    mail = FakeChannel()
    mail.down = True
    with Watch(tmp_path, mail) as watch:
        watch.listener.event("rating_finished", succeeded=9, failed=1, pending=0)
        until = time.monotonic() + 20
        while mail.tried < 3 and time.monotonic() < until:
            time.sleep(0.01)
        mail.down = False
        while not mail.told and time.monotonic() < until:
            time.sleep(0.01)
        assert mail.told == [("failed_accounts", False)]
    assert len(watch.log.named("alert_not_sent")) == 1, "told once, tried often"


def test_a_frozen_channel_is_left_behind_and_holds_up_no_other(tmp_path: Path) -> None:
    mail, pager = FakeChannel(), FakeChannel("pagerduty")
    mail.frozen.clear()
    watch = Watch(tmp_path, mail, pager)
    watch.end(AccountSystemError("down"))
    watch.desk.stop()
    watch.desk.join(time.monotonic() + 0.3)
    until = time.monotonic() + 20
    while not pager.told and time.monotonic() < until:
        time.sleep(0.01)
    assert (mail.told, pager.told) == ([], [("job_failed", False)])
    assert [entry.name for entry in watch.outbox.owed("email")] == [Name.JOB_FAILED]
    mail.frozen.set()


def test_a_spoiled_file_is_no_obstacle(tmp_path: Path) -> None:
    channel = FakeChannel()
    with Watch(tmp_path, channel) as watch:
        watch.end(AccountSystemError("down"))
    (path,) = (tmp_path / "alerts").glob("*.json")
    path.write_text('{"schema": 1, "told": []')
    with Watch(tmp_path, channel) as watch:
        watch.end(AccountSystemError("down"))
    assert channel.told == [("job_failed", False)] * 2


def test_alerts_are_for_this_user_alone(tmp_path: Path) -> None:
    with Watch(tmp_path, FakeChannel()) as watch:
        watch.end(AccountSystemError("down"))
    for path in [tmp_path / "alerts", *(tmp_path / "alerts").iterdir()]:
        assert path.stat().st_mode & 0o077 == 0, path


def test_without_channels_nothing_is_written(tmp_path: Path) -> None:
    with Watch(tmp_path) as watch:
        watch.end(AccountSystemError("down"))
    assert not (tmp_path / "alerts").exists()


# --- how it reads -----------------------------------------------------------------------------


def test_a_mail_says_what_since_when_and_what_is_next(tmp_path: Path) -> None:
    watch = Watch(tmp_path, FakeChannel())
    watch.outbox.open(
        Condition(Name.WITHHELD, SCOPE, "5 of 60 <failed>", "`esgbatch approve`", {"failed": 5000}), EPOCH
    )
    (entry,) = watch.outbox.owed("email")
    assert subject(entry) == "[esgbatch test] withheld, 2026-11-24"
    assert (
        text(entry, CHICAGO, EPOCH)
        == """\
What:          5 of 60 <failed>.
Since:         2026-11-29 18:53:20 CST
Failed:        5,000
Next:          `esgbatch approve`
Runbook:       docs/operations.md#withheld
Where:         host, environment test
Severity:      critical
Alert:         esgbatch/test/2026-11-24/withheld
"""
    )
    assert "5 of 60 &lt;failed&gt;." in html(entry, CHICAGO, EPOCH)
    assert "This comes late" in text(entry, CHICAGO, EPOCH + 4000)


def test_a_key_that_could_be_used_after_all_is_taken_back_when_the_file_is_sealed(tmp_path: Path) -> None:
    channel = FakeChannel()
    with Watch(tmp_path, channel) as watch:
        watch.listener.event("preflight_warning", error="The keyring file cannot be written.")
        watch.listener.event("sealed", rows=10)
    assert not list((tmp_path / "alerts").glob("*.json"))


def test_where_nothing_can_be_kept_what_was_taken_is_not_called_refused(tmp_path: Path) -> None:
    (tmp_path / "alerts").write_text("no folder")
    channel = FakeChannel()
    with Watch(tmp_path, channel) as watch:
        watch.end(AccountSystemError("down"))
    assert channel.told == [("job_failed", False)]
    names = [name for name, _ in watch.log.events]
    assert "alert_outbox_failed" in names
    assert "alert_not_sent" not in names


def test_what_a_killed_process_left_of_a_file_goes(tmp_path: Path) -> None:
    outbox = Outbox(tmp_path / "alerts", "test", "host")
    outbox.open(Condition(Name.WITHHELD, SCOPE, "", ""), EPOCH)
    left = tmp_path / "alerts" / f"{SCOPE}.failed_accounts.json.part"
    left.write_text("{")
    outbox.owed("email")
    assert not left.exists()


def test_a_key_is_never_longer_than_a_pager_takes(tmp_path: Path) -> None:
    outbox = Outbox(tmp_path / "alerts", "e" * 300, "host")
    outbox.open(Condition(Name.WITHHELD, SCOPE, "", ""), EPOCH)
    assert len(outbox.owed("email")[0].key) <= 255


# --- a night ----------------------------------------------------------------------------------


def test_a_long_outage_of_a_night_is_told_once_and_taken_back(tmp_path: Path) -> None:
    """Twenty minutes of an API that fails for everybody, and a shorter one that nobody is told of."""

    def api(_account: str, now: float) -> tuple[float, Answer]:
        return (0.5, DOWN if 600 <= now < 1800 or 2400 <= now < 2700 else RATED)

    night = Night(api, 6_000, limit=4.0)
    channel = FakeChannel()
    with Watch(tmp_path, channel, clock=night.clock) as watch:
        night.listener.others.append(watch.listener)
        night.live()
    assert len(night.listener.named("circuit_opened")) == 2
    assert [fields["condition"] for fields in watch.log.named("alert_opened")] == ["outage"]
    assert channel.told in ([("outage", False), ("outage", True)], [("outage", True)])
