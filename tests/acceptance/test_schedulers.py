"""Every scheduler's file, as its own scheduler reads it: cron is started, the others' checkers are asked."""

from __future__ import annotations

import configparser
import json
import os
import re
import shlex
import subprocess
import sys
import time
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import kubernetes_validate
import pytest
import yaml

from esgbatch.deadline import moment

ROOT = Path(__file__).parents[2]
SCHEDULERS = ROOT / "scripts" / "schedulers"
CHICAGO = ZoneInfo("America/Chicago")
CONFIG = ["--config", "/etc/esgbatch/esgbatch.toml"]
RUN, WATCHDOG = ["run", *CONFIG], ["watchdog", *CONFIG]


def instant(day: date, hour: int, minute: int = 0, zone: ZoneInfo = CHICAGO) -> datetime:
    return datetime(day.year, day.month, day.day, hour, minute, tzinfo=zone).astimezone(UTC)


# --- cron -------------------------------------------------------------------------------------


class Cron:
    """Debian's cron with our crontab, in a mount namespace, at a time of our choice.

    libfaketime moves its clock, and that of the commands that it starts.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        (self._preload,) = Path("/usr/lib").glob("*/faketime/libfaketime.so.1")
        for name in ("cron.d", "spool/crontabs", "bin"):
            (folder / name).mkdir(parents=True)
        (folder / "crontab").touch()
        stub = folder / "bin" / "esgbatch"
        stub.write_text('#!/bin/sh\necho "$@" >> /usr/local/bin/started\n')
        stub.chmod(0o755)

    def started(self, at: datetime, zone: str, *, awaited: bool) -> list[list[str]]:
        """What cron starts in the minute from `at` on a host in `zone`; `awaited` says to wait for it."""
        log = self._folder / "bin" / "started"
        log.unlink(missing_ok=True)
        ran = self._folder / "bin" / "ran"
        ran.unlink(missing_ok=True)
        environment = {"LD_PRELOAD": str(self._preload), "FAKETIME_FMT": "%s"}
        lines = (ROOT / "crontab.example").read_text().replace("  esgbatch  case", "  root  case")
        assert lines.count("  root  case") == 2
        job = environment | {"FAKETIME": f"@{at.timestamp():.0f}", "MAILTO": '""'}
        lines = lines.replace("MAILTO=esg-operations@firm.example\n", "")
        # The last line of the minute says that cron has come by.
        witness = f"{self._minute(at, zone)} root  touch /usr/local/bin/ran\n"
        crontab = self._folder / "cron.d" / "esgbatch"
        crontab.write_text("".join(f"{key}={value}\n" for key, value in job.items()) + lines + witness)
        crontab.chmod(0o644)
        mounts = {"cron.d": "/etc/cron.d", "spool": "/var/spool/cron", "bin": "/usr/local/bin"}
        mounts["crontab"] = "/etc/crontab"
        script = [f"mount --bind {shlex.quote(str(self._folder / a))} {b}" for a, b in mounts.items()]
        script += ["mount -t tmpfs none /run", 'exec env -- "$@" cron -f']
        clock = environment | {"FAKETIME": f"@{at.timestamp() - 2:.0f}", "TZ": zone}
        with subprocess.Popen(
            [
                "unshare",
                "--mount",
                "sh",
                "-ec",
                "\n".join(script),
                "sh",
                *(f"{k}={v}" for k, v in clock.items()),
            ],
        ) as process:
            try:
                until = time.monotonic() + 30
                while not (ran.exists() and (log.exists() or not awaited)):
                    assert process.poll() is None, "cron does not run"
                    assert time.monotonic() < until, "cron starts nothing"
                    time.sleep(0.05)
                time.sleep(0.3)  # another line may still be at its echo
            finally:
                process.terminate()
        return [line.split() for line in log.read_text().splitlines()] if log.exists() else []

    @staticmethod
    def _minute(at: datetime, zone: str) -> str:
        local = at.astimezone(ZoneInfo(zone))
        return f"{local.minute} {local.hour} {local.day} {local.month} *"


@pytest.fixture
def cron(tmp_path: Path) -> Cron:
    if os.getuid() != 0:
        pytest.skip("cron can only be started by root")
    return Cron(tmp_path)


WINTER, SUMMER = date(2026, 11, 25), date(2026, 7, 1)


@pytest.mark.parametrize(
    ("at", "zone", "expected"),
    [
        (instant(SUMMER, 5), "Asia/Kathmandu", [RUN]),
        (instant(WINTER, 9), "UTC", [WATCHDOG]),
        (instant(SUMMER, 6), "UTC", []),
    ],
    ids=["run", "watchdog", "the winter's hour in summer"],
)
def test_debians_cron_starts_what_is_due(
    cron: Cron, at: datetime, zone: str, expected: list[list[str]]
) -> None:
    assert cron.started(at, zone, awaited=bool(expected)) == expected


# --- systemd ----------------------------------------------------------------------------------


def unit(name: str) -> configparser.ConfigParser:
    parser = configparser.ConfigParser(strict=False, interpolation=None)
    parser.optionxform = str  # type: ignore[assignment,method-assign]
    parser.read(SCHEDULERS / "systemd" / name)
    return parser


@pytest.fixture
def units(tmp_path: Path) -> list[Path]:
    """The units with a program that is there."""
    program = tmp_path / "esgbatch"
    program.write_text("#!/bin/sh\n")
    program.chmod(0o755)
    copies = []
    for path in sorted((SCHEDULERS / "systemd").iterdir()):
        copy = tmp_path / path.name
        copy.write_text(path.read_text().replace("/usr/local/bin/esgbatch", str(program)))
        copies.append(copy)
    assert len(copies) == 4
    return copies


def test_systemd_finds_nothing_wrong_with_the_units(units: list[Path]) -> None:
    checked = subprocess.run(
        ["systemd-analyze", "verify", "--man=no", *map(str, units)], capture_output=True, text=True, check=False
    )
    assert checked.returncode == 0, checked.stderr
    assert not [line for line in checked.stderr.splitlines() if "esgbatch" in line], checked.stderr


@pytest.mark.parametrize(("timer", "hour"), [("esgbatch.timer", 5), ("esgbatch-watchdog.timer", 9)])
def test_the_timers_are_right_on_every_day_of_the_year(timer: str, hour: int) -> None:
    calendar = unit(timer)["Timer"]["OnCalendar"]
    base = instant(date(2026, 1, 1), 0)
    shown = subprocess.run(
        ["systemd-analyze", "calendar", "--iterations=365", f"--base-time=@{base.timestamp():.0f}", calendar],
        env={**os.environ, "TZ": "UTC", "LC_ALL": "C.UTF-8", "SYSTEMD_COLORS": "0"},
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    pattern = r"(?:Next elapse|Iter\. #\d+): \w{3} (\d{4}-\d\d-\d\d \d\d:\d\d:\d\d) UTC"
    starts = [datetime.fromisoformat(at).replace(tzinfo=UTC) for at in re.findall(pattern, shown)]
    days = [date(2026, 1, 1) + timedelta(days=number) for number in range(365)]
    assert starts == [moment(day, datetime(2026, 1, 1, hour).time(), CHICAGO) for day in days]  # noqa: DTZ001


def test_the_services_start_what_they_should_and_are_confined() -> None:
    for name, arguments in (("esgbatch.service", RUN), ("esgbatch-watchdog.service", WATCHDOG)):
        service = unit(name)["Service"]
        program, *words = service["ExecStart"].split()
        assert (program, words) == ("/usr/local/bin/esgbatch", arguments)
        assert service["User"] == "esgbatch"
        assert service["StateDirectoryMode"] == "0700"
        for key, value in (
            ("ProtectSystem", "strict"),
            ("NoNewPrivileges", "yes"),
            ("CapabilityBoundingSet", ""),
            ("SystemCallFilter", "@system-service"),
        ):
            assert service[key] == value
        assert "Restart" not in service, "after a kill at nine it would start over, without a deadline"


# --- Kubernetes -------------------------------------------------------------------------------


def manifests() -> list[dict[str, Any]]:
    text = (SCHEDULERS / "kubernetes" / "esgbatch.yaml").read_text()
    return list(yaml.safe_load_all(text))


@pytest.mark.parametrize("version", ["1.31", kubernetes_validate.latest_version()])
def test_the_manifests_are_what_kubernetes_takes(version: str) -> None:
    for manifest in manifests():
        kubernetes_validate.validate(manifest, version, strict=True)


def test_the_cron_jobs_start_at_five_and_nine_in_chicago_and_never_two_at_once() -> None:
    jobs = {each["metadata"]["name"]: each["spec"] for each in manifests() if each["kind"] == "CronJob"}
    assert {name: (job["schedule"], job["timeZone"]) for name, job in jobs.items()} == {
        "esgbatch-run": ("0 5 * * *", "America/Chicago"),
        "esgbatch-watchdog": ("0 9 * * *", "America/Chicago"),
    }
    for name, arguments in (("esgbatch-run", RUN), ("esgbatch-watchdog", WATCHDOG)):
        assert jobs[name]["concurrencyPolicy"] == "Forbid"
        pod = jobs[name]["jobTemplate"]["spec"]["template"]["spec"]
        (container,) = pod["containers"]
        assert container["command"] + container["args"] == ["esgbatch", *arguments]
        assert {"secretRef": {"name": "esgbatch"}} in container["envFrom"]
        assert pod["securityContext"]["runAsNonRoot"] is True
        mounted = {
            mount["name"] for each in (container, *pod["initContainers"]) for mount in each["volumeMounts"]
        }
        assert mounted == {volume["name"] for volume in pod["volumes"]}
    run = jobs["esgbatch-run"]
    assert run["startingDeadlineSeconds"] < 4 * 3600 < run["jobTemplate"]["spec"]["activeDeadlineSeconds"]


# --- Control-M --------------------------------------------------------------------------------

# Control-M Automation API, code reference: folder, job, When and If properties that we use.
FOLDER = {"Type", "ControlmServer", "OrderMethod", "TimeZone"}
JOB = {"Type", "Description", "Command", "When", "Host", "RunAs", "Application", "SubApplication"}
WHEN = {"WeekDays", "FromTime", "ToTime"}
CONDITION = {"Type", "CompletionStatus"}
ACTIONS = {"Action:SetToOK": {"Type"}, "Action:Notify": {"Type", "Urgency", "Message"}}


def test_the_control_m_definition_has_documented_keys_and_the_right_hours() -> None:
    definition = json.loads((SCHEDULERS / "control-m" / "esgbatch.json").read_text())
    defaults = definition.pop("Defaults")
    assert set(defaults) <= JOB
    ((_, folder),) = definition.items()
    assert folder["Type"] == "Folder"
    jobs = {name: value for name, value in folder.items() if isinstance(value, dict)}
    assert set(folder) - set(jobs) == FOLDER
    assert folder["TimeZone"] == "CST"
    for job in jobs.values():
        assert job["Type"] == "Job:Command"
        conditions = [value for key, value in job.items() if isinstance(value, dict) and key != "When"]
        assert {key for key, value in job.items() if value not in conditions} <= JOB
        assert set(job["When"]) == WHEN
        for condition in conditions:
            assert condition["Type"] == "If:CompletionStatus"
            actions = [value for value in condition.values() if isinstance(value, dict)]
            assert {key for key, value in condition.items() if value not in actions} == CONDITION
            assert actions
            for action in actions:
                assert set(action) == ACTIONS[action["Type"]]
    times = {tuple(job["Command"].split()[1:]): job["When"]["FromTime"] for job in jobs.values()}
    assert times == {tuple(RUN): "0500", tuple(WATCHDOG): "0900"}


# --- any other --------------------------------------------------------------------------------


def test_only_at_lets_one_hour_through(tmp_path: Path) -> None:
    """The template's servers do not exist: what is let through ends with another code."""
    template = (ROOT / "esgbatch" / "config" / "template.toml").read_text()
    config = tmp_path / "esgbatch.toml"
    config.write_text(template.replace("/var/l", f"{tmp_path}/l"))

    def run(hours: int) -> subprocess.CompletedProcess[str]:
        at = (datetime.now(CHICAGO) - timedelta(hours=hours, minutes=30)).strftime("%H:%M")
        command = [sys.executable, "-m", "esgbatch", "run", "--only-at", at, "--config", str(config)]
        return subprocess.run(command, capture_output=True, text=True, check=False, env={**os.environ})

    for hours in (1, 5, 12, 22):
        shown = run(hours)
        assert shown.returncode == 0, shown.stderr
        assert "nothing to do" in shown.stderr
    assert not [each for each in tmp_path.iterdir() if each != config]
    assert run(0).returncode == 10
