"""What arrived at the sandbox's mail server and pager."""

from __future__ import annotations

import email
import email.policy
import json
from email.message import EmailMessage
from pathlib import Path
from typing import Any

from esgbatch.sandbox.places import Places


def mails(places: Places) -> list[EmailMessage]:
    """Every alert, in order of arrival; not the daily report."""
    paths = sorted(Path(places.mail.folder).glob("*.eml"))
    every: list[EmailMessage] = [
        email.message_from_bytes(path.read_bytes(), policy=email.policy.default)  # type: ignore[misc]
        for path in paths
    ]
    return [mail for mail in every if str(mail["Subject"]).startswith("[esgbatch ")]


def subjects(places: Places) -> list[str]:
    """Without the environment in front."""
    return [str(mail["Subject"]).removeprefix("[esgbatch sandbox] ") for mail in mails(places)]


def plain(mail: EmailMessage) -> str:
    body = mail.get_body(("plain",))
    assert body is not None
    return str(body.get_content()).replace("\r\n", "\n")


def pages(places: Places) -> list[dict[str, Any]]:
    """Every event, in order of arrival."""
    return [json.loads(line) for line in Path(places.pager.events).read_text().splitlines()]


def paged(places: Places) -> list[tuple[str, str]]:
    """Action and condition of every event."""
    return [(each["event_action"], each["dedup_key"].rpartition("/")[2]) for each in pages(places)]
