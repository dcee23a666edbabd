"""What is written for people is true: commands, options, exit codes, keys, links, the crontab."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tomllib
from datetime import UTC, date, datetime, time, timedelta
from importlib.resources import files
from pathlib import Path
from zoneinfo import ZoneInfo

import pytest
import typer.core
import typer.main

from esgbatch.alerting.conditions import Name
from esgbatch.cli.app import app
from esgbatch.cli.exits import MEANINGS
from esgbatch.config import document
from esgbatch.config.load import load
from esgbatch.config.model import Alerts, Config, Email, PagerDuty, Section
from esgbatch.deadline import moment
from esgbatch.errors import BatchError, ExitCode

ROOT = Path(__file__).parents[2]
PAGES = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/*.md"), ROOT / "crontab.example"])
GROUP = typer.main.get_command(app)


def leaves(group: typer.core.TyperGroup, before: str = "") -> dict[str, typer.core.TyperCommand]:
    """Every command by the words that call it: `run`, `audit show`."""
    found = {}
    for name, command in group.commands.items():
        if isinstance(command, typer.core.TyperGroup):
            found |= leaves(command, f"{before}{name} ")
        else:
            found[before + name] = command
    return found


COMMANDS = leaves(GROUP)
GROUPS = {name.rpartition(" ")[0] for name in COMMANDS if " " in name}


def command_in(line: str) -> str:
    """What a line behind `esgbatch ` calls; a group without a command is called, too."""
    first, second, *_ = [*line.split(), "", ""]
    if first not in GROUPS:
        return first
    return first if not re.fullmatch("[a-z-]+", second) else f"{first} {second}"


def help_of(command: str) -> str:
    shown = subprocess.run(
        [sys.executable, "-m", "esgbatch", *command.split(), "--help"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
        env=os.environ | {"COLUMNS": "200", "NO_COLOR": "1"},
    )
    return shown.stdout


def options_of(command: str) -> set[str]:
    return {name for parameter in COMMANDS[command].params for name in parameter.opts}


@pytest.mark.parametrize("command", sorted(COMMANDS))
def test_help_tells_the_exit_codes(command: str):
    told = help_of(command).partition("Exit codes:")[2]
    codes = {int(code) for code in re.findall(r"^ *(\d+):", told, re.MULTILINE)}
    assert {0, 1, 2} <= codes <= set(MEANINGS)


def test_help_flows_and_brackets_are_no_markup():
    told = help_of("purge")
    assert "than [retention] says" in told
    assert "the names and scores in the checkpoint" in told  # a line's end in the docstring
    assert "[retention]" in help_of("")
    assert "call it again" in told.partition("130: ")[2].splitlines()[0]  # there is nothing to resume


def test_every_night_command_tells_every_code_it_can_end_with():
    for command in ("run", "resume", "rerun"):
        told = help_of(command)
        for code in (10, 11, 12, 13, 14, 15, 16, 17, 18, 130, 143):
            assert re.search(rf"^ *{code}:", told, re.MULTILINE), (command, code)


def test_the_readme_has_the_exit_codes_as_they_are():
    table = dict(re.findall(r"^\| (\d+) \| (.*) \|$", (ROOT / "README.md").read_text(), re.MULTILINE))
    assert {int(code): meaning for code, meaning in table.items()} == MEANINGS


def test_every_error_has_a_code_and_says_what_is_next():
    def below(kind: type[BatchError]) -> list[type[BatchError]]:
        return [kind, *(each for child in kind.__subclasses__() for each in below(child))]

    for kind in below(BatchError)[1:]:
        assert kind.code is not ExitCode.BUG, kind
        assert kind.code in (ExitCode.DOCTOR, ExitCode.WATCHDOG, ExitCode.AUDIT) or kind.default_advice, kind


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_commands_and_options_in_the_documents_exist(page: Path):
    for line in re.findall(r"esgbatch ((?:[a-z-]+)[^`\n|]*)", page.read_text()):
        command = command_in(line)
        if command not in COMMANDS:
            continue
        for option in re.findall(r"(?<![\w-])--[a-z][a-z-]*", line):
            assert option in options_of(command), f"{page.name}: esgbatch {line}"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_code_spans_name_real_commands(page: Path):
    for span in re.findall(r"`esgbatch ([a-z][a-z-]*(?: [a-z]+)?)", page.read_text()):
        assert command_in(span) in {*COMMANDS, *GROUPS}, f"{page.name}: esgbatch {span}"


def test_advice_names_real_commands_and_options():
    from esgbatch import errors

    for line in re.findall(r"`esgbatch ([^`]+)`", Path(errors.__file__).read_text()):
        command = command_in(line)
        assert command in COMMANDS, line
        for option in re.findall(r"--[a-z-]+", line):
            assert option in options_of(command), line


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page: Path):
    for target in re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", page.read_text()):
        assert (page.parent / target).exists(), target


def test_the_threat_model_names_tests_that_exist():
    page = (ROOT / "docs" / "security.md").read_text()
    named = set(re.findall(r"`(test_\w+\.py)(?:::(test_\w+))?`", page))
    assert len(named) > 20
    for file, test in named:
        (found,) = ROOT.glob(f"tests/*/{file}")
        assert f"def {test}" in found.read_text(), (file, test)


def test_every_action_of_the_trail_is_explained():
    sources = "".join(path.read_text() for path in (ROOT / "esgbatch").rglob("*.py"))
    first = r"\(\s*(?:\"(\w+)\" if .* else )?\"(\w+)\""
    calls = rf"(?:audit|trail|open_audit\(.*\))\.append{first}|_audit\(\s*job,\s*run,\s*\"(\w+)\""
    written = {name for names in re.findall(calls, sources) for name in names if name}
    assert {"config_changed", "sealed", "refused", "failed", "decrypted", "host_key_trusted"} <= written
    page = (ROOT / "docs" / "compliance.md").read_text()
    told = set(re.findall(r"`(\w+)`", "".join(re.findall(r"^\| (`\w+`[^|]*) \|", page, re.MULTILINE))))
    assert written <= told


def template() -> str:
    return (files("esgbatch.config") / "template.toml").read_text()


def test_the_template_is_valid_and_says_what_the_defaults_are():
    config = load(Path(str(files("esgbatch.config") / "template.toml")), {})
    assert config.header[0] == "Account ID"
    assert config.job == Config.model_fields["job"].default
    assert config.quality == Config.model_fields["quality"].default


def test_the_template_names_every_section_that_works():
    written = tomllib.loads(template())
    for name, field in Config.model_fields.items():
        if name == "retention":
            continue
        assert name in written, name
        if isinstance(field.annotation, type) and issubclass(field.annotation, Section):
            unknown = set(written[name]) - set(field.annotation.model_fields)
            assert not unknown


def test_the_configuration_page_is_what_the_types_say():
    page = (ROOT / "docs" / "configuration.md").read_text()
    assert page == document.render(), "run scripts/configuration-docs"


def test_every_key_is_explained():
    told = re.findall(r"^\| `(\w+)` \|.*\|([^|]*)\|$", document.render(), re.MULTILINE)
    assert len(told) > 80
    assert [key for key, meaning in told if not meaning.strip()] == []


def test_the_commented_alerts_of_the_template_are_valid():
    """Without their comment signs: each key is one of the model's, and the whole loads."""
    lines = template().splitlines()
    begin, end = lines.index("# [alerts.email]"), lines.index("[logging]")
    written = tomllib.loads("\n".join(line.removeprefix("# ") for line in lines[begin:end]))
    Alerts.model_validate(written["alerts"])
    assert set(written["alerts"]["email"]) == set(Email.model_fields) - {"timeout"}
    assert set(written["alerts"]["pagerduty"]) == set(PagerDuty.model_fields) - {"timeout", "url"}


# --- the runbook ------------------------------------------------------------------------------

RUNBOOK = (ROOT / "docs/operations.md").read_text()


def test_every_alert_has_its_section_in_the_runbook():
    headings = re.findall(r"^#+ (.*)$", RUNBOOK, re.MULTILINE)
    anchors = {re.sub(r"[^a-z0-9 -]", "", each.lower()).replace(" ", "-") for each in headings}
    for name in Name:
        page, anchor = name.runbook.split("#")
        assert page == "docs/operations.md"
        assert anchor in anchors, name


def test_every_exit_code_has_its_row_in_the_runbook():
    told = {int(code) for code in re.findall(r"^\| (\d+) \|", RUNBOOK, re.MULTILINE)}
    assert told == set(MEANINGS)


# --- the crontab ------------------------------------------------------------------------------

CHICAGO = ZoneInfo("America/Chicago")


def crontab_commands() -> list[tuple[list[str], str]]:
    """The minutes, and the shell command as cron would start it, of each line."""
    lines = [
        line
        for line in (ROOT / "crontab.example").read_text().splitlines()
        if line and not line.startswith("#") and "=" not in line.split()[0]
    ]
    assert len(lines) == 2
    found = []
    for line in lines:
        minutes, hour, day, month, weekday, user, command = line.split(None, 6)
        assert (hour, day, month, weekday, user) == ("*", "*", "*", "*", "esgbatch")
        assert "%" not in command.replace("\\%", ""), "an unescaped % ends a cron command"
        found.append((minutes.split(","), command.replace("\\%", "%")))
    return found


@pytest.mark.parametrize(
    "day", [date(2026, 3, 8), date(2026, 7, 1), date(2026, 11, 1), date(2026, 12, 24)], ids=str
)
@pytest.mark.parametrize(("line", "name", "hour"), [(0, "run", 5), (1, "watchdog", 9)])
def test_the_crontab_starts_each_once_a_day_at_its_hour_in_chicago(
    day: date, line: int, name: str, hour: int, tmp_path: Path
):
    minutes, command = crontab_commands()[line]
    assert minutes == ["0", "15", "30", "45"], "the smallest step between time zones"
    for program, body in (
        ("esgbatch", 'echo "$@" >> "$STARTED"'),
        ("date", '/bin/date -d "@$NOW" "$@"'),
    ):
        script = tmp_path / program
        script.write_text(f"#!/bin/sh\n{body}\n")
        script.chmod(0o755)
    begin = datetime.combine(day, time(0), CHICAGO).astimezone(UTC)
    end = datetime.combine(day + timedelta(days=1), time(0), CHICAGO).astimezone(UTC)
    starts = []
    at = begin
    while at < end:
        log = tmp_path / "started"
        log.unlink(missing_ok=True)
        environment = {
            "PATH": f"{tmp_path}:/usr/bin:/bin",
            "NOW": str(int(at.timestamp())),
            "STARTED": str(log),
            "TZ": "Asia/Kathmandu",
        }
        subprocess.run(["/bin/sh", "-c", command], env=environment, check=True)
        if log.exists():
            assert log.read_text().split() == [name, "--config", "/etc/esgbatch/esgbatch.toml"]
            starts.append(at)
        at += timedelta(minutes=15)
    assert starts == [moment(day, time(hour), CHICAGO)]
