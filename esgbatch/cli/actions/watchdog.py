"""watchdog and alert test."""

from __future__ import annotations

import socket
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from datetime import date
from pathlib import Path

from esgbatch.alerting.conditions import Cleared, Condition, Name
from esgbatch.alerting.desk import Desk
from esgbatch.checkpoint.ownership import owner_of
from esgbatch.cli.context import CLOCK, read_config, tell
from esgbatch.compliance.audit import FILE_NAME
from esgbatch.config.load import find, load
from esgbatch.config.salvage import Essentials, salvage
from esgbatch.config.secrets import keep_from_dumps
from esgbatch.deadline import today
from esgbatch.errors import AuditBroken, BatchError, ChannelError, ConfigError, WatchdogAlarm
from esgbatch.http.bounded import within
from esgbatch.observability import logs
from esgbatch.observability.progress import Broadcast
from esgbatch.operations import auditing
from esgbatch.operations.doctor import report
from esgbatch.operations.doctor.findings import Status
from esgbatch.operations.rehearsal import rehearse
from esgbatch.operations.watchdog import Opened, Watchdog
from esgbatch.ports import Listener
from esgbatch.wiring import open_checkpoint, open_desk, open_records

SENDING = 30.0
VERIFYING = 60.0


def check(config_path: Path | None, given: date | None) -> None:
    keep_from_dumps()
    essentials, mistake = _essentials(find(config_path))
    day = given or today(CLOCK, essentials.zone)
    log: list[Listener] = []
    with suppress(ConfigError):  # where no log can be written, people are told all the same
        logs.configure(
            essentials.logging, environment=essentials.job.environment, business_date=day, zone=essentials.zone
        )
        log.append(logs.LogListener())
    desk = open_desk(essentials, CLOCK, Broadcast(log))
    desk.begin()
    try:
        watchdog = Watchdog(essentials, day, lambda: _opened(essentials, day), CLOCK, desk.change)
        if mistake is not None:
            tell(f"warning: {mistake}")
            watchdog.misconfigured(mistake)
        verdict = watchdog.check()
        _verify_audit(essentials, desk)
    finally:
        desk.stop()
        desk.join(time.monotonic() + SENDING)
    if not verdict.well:
        raise WatchdogAlarm(verdict.text, advice=verdict.advice)
    print(verdict.text)


def _essentials(path: Path) -> tuple[Essentials, ConfigError | None]:
    try:
        return Essentials.of(load(path)), None
    except ConfigError as error:
        if not path.is_file():
            raise
        return salvage(path), error


@contextmanager
def _opened(essentials: Essentials, day: date) -> Iterator[Opened]:
    database = open_checkpoint(essentials, create=False)
    try:
        yield open_records(database, CLOCK, Broadcast([])), owner_of(database, day)
    finally:
        database.close()


def _verify_audit(essentials: Essentials, desk: Desk) -> None:
    """The whole trail and every anchor, once a day; what keeps them from being read is no proof against it."""
    if not (essentials.job.state_dir / FILE_NAME).exists():
        return

    def verify() -> None:
        with ExitStack() as stack:
            day = today(CLOCK, essentials.zone)
            auditing.verify(essentials, [], lambda: stack.enter_context(_opened(essentials, day))[0])

    try:
        within(VERIFYING, verify)
    except AuditBroken as error:
        scope = today(CLOCK, essentials.zone).isoformat()
        desk.change(Condition(Name.AUDIT_BROKEN, scope, str(error).rstrip("."), error.advice))
    except (BatchError, TimeoutError):
        return
    else:
        desk.change(Cleared((Name.AUDIT_BROKEN,), None, "every record is genuine and in its place"))


def rehearse_alerts(config_path: Path | None) -> None:
    config = read_config(config_path)
    found = []
    for name, finding in rehearse(config, socket.gethostname(), CLOCK):
        found.append(finding)
        print(report.line(name, finding), flush=True)
    if not found:
        raise ConfigError(
            "No alert can reach anybody: neither [alerts.email] nor [alerts.pagerduty] is configured.",
            advice="configure one, then `esgbatch alert test`",
        )
    refused = sum(finding.status is Status.FAIL for finding in found)
    if refused:
        raise ChannelError(
            f"{refused} of {len(found)} channels did not take the test alert.",
            advice="do what the lines with FAIL say, then `esgbatch alert test`",
        )
