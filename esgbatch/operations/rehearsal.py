"""A test alert down every channel, so that nobody learns in the night that one is dead."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime

from esgbatch.alerting.channels import channels
from esgbatch.alerting.conditions import Condition, Name
from esgbatch.alerting.outbox import Entry, entry_of
from esgbatch.config.model import Config
from esgbatch.errors import BatchError
from esgbatch.operations.doctor.findings import Finding, failed, ok
from esgbatch.ports import Clock

LIMIT = 30.0


def rehearse(config: Config, host: str, clock: Clock) -> Iterator[tuple[str, Finding]]:
    """Each channel's name, and whether it took the alert. A pager's incident is resolved at once."""
    for channel in channels(config.alerts, config.zone, clock):
        entry = _entry(config, host, clock)
        try:
            channel.tell(entry, LIMIT)
            if channel.name == "pagerduty":
                entry.took(channel.name)
                entry.ended, entry.why = clock.time(), "the test is over"
                channel.tell(entry, LIMIT)
        except BatchError as error:
            yield channel.name, failed(error)
        else:
            yield channel.name, ok("the test alert was taken")


def _entry(config: Config, host: str, clock: Clock) -> Entry:
    now = datetime.fromtimestamp(clock.time(), config.zone)
    condition = Condition(
        Name.TEST,
        f"{now:%Y-%m-%d %H:%M:%S}",
        "This is a test of the alerts, asked for by `esgbatch alert test`: nothing is wrong",
        "nothing to do",
    )
    return entry_of(condition, config.job.environment, host, clock.time())
