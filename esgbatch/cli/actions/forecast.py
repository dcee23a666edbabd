"""forecast: past nights measured, and the plan from them."""

from __future__ import annotations

import json
from datetime import timedelta
from pathlib import Path

from esgbatch.cli.context import find_run, read_config, records_of, the_date
from esgbatch.config.model import Config
from esgbatch.deadline import moment
from esgbatch.errors import NothingToDo
from esgbatch.operations import capacity
from esgbatch.operations.capacity import Measured


def show(
    config_path: Path | None,
    accounts: int,
    *,
    days: int,
    latency: float | None,
    rate: float | None,
    as_json: bool,
) -> None:
    config = read_config(config_path)
    past = Measured(0, 0, 1.0, latency, latency, None) if latency is not None else _past(config, days)
    day = the_date(config, None)
    job = config.job
    span = moment(day, job.deadline, config.zone) - moment(day, job.start, config.zone)
    quota = rate if rate is not None else config.ratings.rate_limit
    found = capacity.plan(
        accounts,
        past,
        config.ratings,
        quota=quota,
        span=span.total_seconds() % timedelta(days=1).total_seconds(),
    )
    if as_json:
        print(json.dumps(capacity.as_dict(past, found), indent=2))
    else:
        print(capacity.render(past, found, config.ratings), end="")


def _past(config: Config, days: int) -> Measured:
    today = the_date(config, None)
    none = NothingToDo(
        f"No night of the last {days} days has measured how fast the ESG API answers.",
        advice="`esgbatch forecast --accounts N --latency SECONDS` plans without one",
    )
    try:
        with records_of(config) as records:
            dates = records.history.dates(today - timedelta(days=days - 1), today)
            past = capacity.measured([records.summary(find_run(records, each)) for each in dates])
    except NothingToDo:
        raise none from None
    if past is None:
        raise none
    return past
