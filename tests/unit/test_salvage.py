"""What can be had of a configuration with mistakes: the channels, first of all."""

from __future__ import annotations

from datetime import time
from pathlib import Path

import pytest

from esgbatch.config.load import load
from esgbatch.config.salvage import salvage
from esgbatch.errors import ConfigError

GOOD = """\
[job]
deadline = "08:30"
state_dir = "/srv/esgbatch"
environment = "test"

[accounts]
url = "https://accounts.example"

[alerts]
failed_percent = 2.5
[alerts.email]
host = "smtp.example"
sender = "a@firm.example"
recipients = ["b@firm.example"]
[alerts.pagerduty]
routing_key = { env = "PD" }
"""


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "esgbatch.toml"


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ('"https://accounts.example"', '"ftp://accounts.example"'),
        ("[accounts]", "[accounts"),
        ("url =", "url ="),  # nothing but the sections that are missing
        ('url = "https', 'url = https"'),
    ],
)
def test_a_slip_elsewhere_takes_nothing_along(path: Path, old: str, new: str) -> None:
    path.write_text(GOOD.replace(old, new))
    with pytest.raises(ConfigError):
        load(path, {})
    found = salvage(path, {})
    assert (found.job.deadline, found.job.environment) == (time(8, 30), "test")
    assert found.job.state_dir == Path("/srv/esgbatch")
    assert found.alerts.email is not None
    assert found.alerts.pagerduty is not None
    assert found.alerts.failed_percent == 2.5


@pytest.mark.parametrize(
    ("old", "new", "left"),
    [
        ('"smtp.example"', "587", "pagerduty"),
        ('{ env = "PD" }', '"a secret in the file"', "email"),
        ("failed_percent = 2.5", "failed_percent = 250", "both"),
        ("[alerts.email]", "[alerts.email", "pagerduty"),
    ],
)
def test_an_unsound_channel_leaves_the_other(path: Path, old: str, new: str, left: str) -> None:
    path.write_text(GOOD.replace(old, new))
    alerts = salvage(path, {}).alerts
    assert (alerts.email is not None) == (left in ("email", "both"))
    assert (alerts.pagerduty is not None) == (left in ("pagerduty", "both"))


def test_a_wrong_key_costs_only_itself(path: Path) -> None:
    path.write_text(GOOD.replace('deadline = "08:30"', 'deadline = "half past"\nunknown = 1'))
    job = salvage(path, {}).job
    assert (job.deadline, job.state_dir) == (time(9), Path("/srv/esgbatch"))


def test_the_environment_counts(path: Path) -> None:
    path.write_text(GOOD)
    found = salvage(path, {"ESGBATCH_ALERTS__EMAIL__HOST": "other.example", "ESGBATCH_NONSENSE": "1"})
    assert found.alerts.email is not None
    assert found.alerts.email.host == "other.example"


@pytest.mark.parametrize("content", [b"", b"\xff\xfe[", b"alerts = 1\njob = []\nmetrics = 'x'\n"])
def test_nothing_to_be_had_are_the_defaults(path: Path, content: bytes) -> None:
    path.write_bytes(content)
    found = salvage(path, {})
    assert (found.alerts.email, found.alerts.pagerduty) == (None, None)
    assert found.job.deadline == time(9)
    assert salvage(path.with_name("missing"), {}).alerts.email is None
