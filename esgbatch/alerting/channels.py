"""The ways to people: each is told of a condition, of its end, or of both at once where it was down."""

from __future__ import annotations

import hashlib
from typing import Protocol
from zoneinfo import ZoneInfo

from esgbatch.alerting.outbox import Entry
from esgbatch.config.model import Alerts, Email, PagerDuty
from esgbatch.ports import Clock


class Channel(Protocol):
    """Takes news, or says why not."""

    name: str

    def tell(self, entry: Entry, limit: float) -> None:
        """Bring how the entry stands to people, within `limit` seconds.

        Raises:
            ChannelError, ConfigError: it was not taken.
        """


class Mails:
    """Implements `Channel`."""

    name = "email"

    def __init__(self, settings: Email, zone: ZoneInfo, clock: Clock) -> None:
        self._settings = settings
        self._zone = zone
        self._clock = clock

    def tell(self, entry: Entry, limit: float) -> None:
        if entry.ended is not None and entry.quietly:
            return
        from esgbatch.alerting import wording
        from esgbatch.alerting.email import send_mail

        now = self._clock.time()
        send_mail(
            self._settings,
            recipients=self._settings.recipients,
            subject=wording.subject(entry),
            text=wording.text(entry, self._zone, now),
            html=wording.html(entry, self._zone, now),
            message_id=self._message_id(entry),
            limit=limit,
        )

    def _message_id(self, entry: Entry) -> str:
        """The same for the same news: what was taken and not noted is one mail to most readers."""
        news = f"{entry.key} {entry.variant} {entry.opened} {entry.ended}"
        domain = self._settings.sender.rpartition("@")[2].rstrip("> ")
        return f"<{hashlib.sha256(news.encode()).hexdigest()[:32]}@{domain}>"


class Pages:
    """Implements `Channel`."""

    name = "pagerduty"

    def __init__(self, settings: PagerDuty, zone: ZoneInfo) -> None:
        self._settings = settings
        self._zone = zone

    def tell(self, entry: Entry, limit: float) -> None:
        from esgbatch.alerting.pagerduty import resolve, trigger

        if entry.ended is None or not entry.was_told(self.name):
            trigger(self._settings, entry, self._zone, limit)
        if entry.ended is not None:
            resolve(self._settings, entry, limit)


def channels(settings: Alerts, zone: ZoneInfo, clock: Clock) -> list[Channel]:
    """The configured ones."""
    found: list[Channel] = []
    if settings.pagerduty is not None:
        found.append(Pages(settings.pagerduty, zone))
    if settings.email is not None:
        found.append(Mails(settings.email, zone, clock))
    return found
