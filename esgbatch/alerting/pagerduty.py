"""PagerDuty's Events API v2: trigger and resolve with one key, so that an incident ends by itself."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import closing
from datetime import UTC, datetime
from urllib.parse import urlsplit
from zoneinfo import ZoneInfo

import requests

from esgbatch.alerting.outbox import Entry
from esgbatch.alerting.wording import facts
from esgbatch.config.model import PagerDuty, Web
from esgbatch.errors import ChannelError
from esgbatch.http.bounded import within
from esgbatch.http.session import explain, open_session

LONGEST_SUMMARY = 1024
ACCEPTED = 202

_ADVICE = "look at [alerts.pagerduty] and what stands between, then `esgbatch doctor`"


def enqueue(settings: PagerDuty, event: Mapping[str, object], timeout: float) -> int:
    """Send one event; returns the HTTP status.

    Raises:
        requests.RequestException: it cannot be reached; `trouble` puts it into words.
    """
    url = f"{settings.url.rstrip('/')}/v2/enqueue"
    with (
        closing(open_session(Web())) as session,
        session.post(url, json=event, timeout=timeout, allow_redirects=False, stream=True) as response,
    ):
        return response.status_code


def trigger(settings: PagerDuty, entry: Entry, zone: ZoneInfo, limit: float) -> None:
    """Open the incident; where it is open already, PagerDuty adds to it and pages nobody again.

    Raises:
        ChannelError: it was not taken within `limit` seconds.
        ConfigError: the routing key cannot be read.
    """
    payload = {
        "summary": f"esgbatch {entry.environment}: {entry.summary}"[:LONGEST_SUMMARY],
        "source": entry.host,
        "severity": entry.severity if entry.ended is None else "info",
        "timestamp": datetime.fromtimestamp(entry.opened, UTC).isoformat(),
        "component": "esgbatch",
        "group": entry.environment,
        "class": entry.name,
        "custom_details": {label.lower(): value for label, value in facts(entry, zone)} | dict(entry.figures),
    }
    _send(settings, entry.key, "trigger", limit, {"payload": payload, "client": "esgbatch"})


def resolve(settings: PagerDuty, entry: Entry, limit: float) -> None:
    """End the incident.

    Raises:
        ChannelError, ConfigError: as `trigger`.
    """
    _send(settings, entry.key, "resolve", limit, {})


def _send(settings: PagerDuty, key: str, action: str, limit: float, more: Mapping[str, object]) -> None:
    event = {"routing_key": settings.routing_key.reveal(), "event_action": action, "dedup_key": key, **more}
    host = urlsplit(settings.url).hostname
    try:
        status = within(limit, lambda: enqueue(settings, event, min(settings.timeout, limit)))
    except TimeoutError:
        raise ChannelError(f"PagerDuty at {host} does not answer in time.", advice=_ADVICE) from None
    except requests.RequestException as error:
        raise ChannelError(
            f"PagerDuty at {host} cannot be reached: {explain(error)}.", advice=_ADVICE
        ) from None
    if status != ACCEPTED:
        raise ChannelError(f"PagerDuty at {host} does not take the event: HTTP {status}.", advice=_ADVICE)
