"""schedule: it needs the configuration's times only, so nothing else is loaded."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from pathlib import Path

from esgbatch.clock import SystemClock
from esgbatch.config.load import find, load
from esgbatch.operations import schedule


def show(config_path: Path | None, days: int, *, as_json: bool) -> None:
    config = load(find(config_path))
    now = datetime.fromtimestamp(SystemClock().time(), UTC)
    found = schedule.nights(now, days, config.zone, config.job.start, config.job.deadline)
    if as_json:
        print(json.dumps(schedule.as_dict(found, config.zone, now), indent=2))
    else:
        print(schedule.render(found, config.zone, now), end="")
