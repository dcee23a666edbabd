"""What can be had of a configuration that has mistakes: enough to tell people that it has.

Each section is taken by itself; a file that is no TOML at all is cut at its table headers, so
that a slip in one table does not take the others along.
"""

from __future__ import annotations

import os
import re
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar
from zoneinfo import ZoneInfo

from pydantic import ValidationError

from esgbatch.config.load import override
from esgbatch.config.model import Alerts, Checkpoint, Config, Job, Logging, Metrics, Section

S = TypeVar("S", bound=Section)


@dataclass(frozen=True, slots=True)
class Essentials:
    """What the watch over the job needs of a configuration."""

    job: Job
    alerts: Alerts
    checkpoint: Checkpoint
    logging: Logging
    metrics: Metrics

    @property
    def zone(self) -> ZoneInfo:
        return ZoneInfo(self.job.timezone)

    @classmethod
    def of(cls, config: Config) -> Essentials:
        return cls(config.job, config.alerts, config.checkpoint, config.logging, config.metrics)


def salvage(path: Path, environment: Mapping[str, str] = os.environ) -> Essentials:
    """As much as is sound; what is not has its defaults, and an unsound channel is left out."""
    data = _tables(path)
    override(data, environment)
    return Essentials(
        _section(Job, data.get("job")),
        _alerts(data.get("alerts")),
        _section(Checkpoint, data.get("checkpoint")),
        _section(Logging, data.get("logging")),
        _section(Metrics, data.get("metrics")),
    )


def _tables(path: Path) -> dict[str, Any]:
    try:
        text = path.read_bytes().decode("utf-8", "replace")
    except OSError:
        return {}
    try:
        return tomllib.loads(text)
    except tomllib.TOMLDecodeError:
        pass
    found: dict[str, Any] = {}
    for part in re.split(r"(?m)^(?=\[)", text):
        try:
            _merge(found, tomllib.loads(part))
        except tomllib.TOMLDecodeError:
            continue
    return found


def _merge(into: dict[str, Any], more: dict[str, Any]) -> None:
    for key, value in more.items():
        if isinstance(value, dict) and isinstance(into.get(key), dict):
            _merge(into[key], value)
        else:
            into[key] = value


def _alerts(data: Any) -> Alerts:
    """Each channel that is sound by itself."""
    table = data if isinstance(data, dict) else {}
    for wanted in (
        ("failed_percent", "email", "pagerduty"),
        ("email", "pagerduty"),
        ("email",),
        ("pagerduty",),
    ):
        try:
            return Alerts.model_validate({key: table[key] for key in wanted if key in table})
        except ValidationError:
            continue
    return Alerts()


def _section(kind: type[S], data: Any) -> S:
    """The section; without the keys that are wrong, where that helps."""
    try:
        return kind.model_validate(data or {})
    except ValidationError as error:
        wrong = {
            str(item["loc"][0]) for item in error.errors(include_url=False, include_input=False) if item["loc"]
        }
    try:
        return kind.model_validate({key: value for key, value in data.items() if key not in wrong})
    except (ValidationError, AttributeError):
        return kind()
