"""The ways in which people are told: mail, pager, metrics, dead man's switch. Nobody is told anything here."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from contextlib import closing, contextmanager
from urllib.parse import urlsplit

import requests

from esgbatch.alerting.email import said, session, trouble
from esgbatch.alerting.pagerduty import enqueue
from esgbatch.config.model import Web
from esgbatch.errors import ConfigError, DoctorFailed
from esgbatch.http.session import explain, open_session
from esgbatch.operations.doctor.findings import PATIENCE, Finding, Setup, ok, warn

ROUTING_KEY_LENGTH = 32
INVALID_EVENT = 400


def email(setup: Setup) -> Iterator[Finding]:
    """Everything but the mail itself: sender and recipients are named, then taken back (RFC 5321, 4.1.1.5)."""
    config = setup.config.alerts.email
    assert config is not None
    recipients = (*config.recipients, *config.report_recipients)
    with trouble(config), session(config, min(config.timeout, PATIENCE)) as server:
        _accept("the sender", server.mail(config.sender))
        for number, recipient in enumerate(recipients, start=1):
            _accept(f"recipient {number} of {len(recipients)}", server.rcpt(recipient))
        server.rset()
    yield ok(f"{config.host} would take a mail for {len(recipients)} recipient(s)")


def _accept(what: str, reply: tuple[int, bytes]) -> None:
    if reply[0] not in (250, 251):
        raise DoctorFailed(
            f"The mail server does not take {what}: {said(*reply)}.",
            advice="correct the addresses under [alerts.email], or have the server take them, "
            "then `esgbatch doctor`",
        )


def pagerduty(setup: Setup) -> Iterator[Finding]:
    """Send what can page nobody, an event without a routing key, and see it refused as invalid."""
    config = setup.config.alerts.pagerduty
    assert config is not None
    key = config.routing_key.reveal()
    advice = "look at alerts.pagerduty.url and what stands between, then `esgbatch doctor`"
    with _web_trouble("PagerDuty", config.url, advice):
        status = enqueue(config, {}, min(config.timeout, PATIENCE))
    host = urlsplit(config.url).hostname
    if status == 429:
        yield warn(f"{host} answers, and takes no events for the moment (HTTP 429)")
    elif status != INVALID_EVENT:
        raise DoctorFailed(
            f"PagerDuty at {host} answers HTTP {status} where it should answer {INVALID_EVENT}.", advice=advice
        )
    elif len(key) != ROUTING_KEY_LENGTH:
        yield warn(
            f"{host} answers, but a routing key has {ROUTING_KEY_LENGTH} characters, and ours has not",
            "take the integration key of an Events API v2 integration",
        )
    else:
        yield ok(f"{host} answers; no event was sent")


def pushgateway(setup: Setup) -> Iterator[Finding]:
    url = f"{setup.config.metrics.pushgateway.rstrip('/')}/-/ready"
    advice = "look at metrics.pushgateway and what stands between, then `esgbatch doctor`"
    with _web_trouble("The pushgateway", url, advice):
        status = _status(url, PATIENCE)
    if status == requests.codes.ok:
        yield ok(f"{urlsplit(url).hostname} is ready")
    elif status >= 500:
        raise DoctorFailed(f"The pushgateway answers HTTP {status}.", advice=advice)
    else:
        yield warn(f"{url} answers HTTP {status}; a pushgateway says 200", advice)


def heartbeat(setup: Setup) -> Iterator[Finding]:
    """Only its name is looked up: a request would be a heartbeat."""
    host = urlsplit(setup.config.metrics.heartbeat_url).hostname
    try:
        socket.getaddrinfo(host, None)
    except (OSError, UnicodeError) as error:  # an impossible name is the latter
        why = getattr(error, "strerror", None) or "it is no host name"
        raise ConfigError(
            f"The name of the dead man's switch, {host}, has no address: {why}.",
            advice="correct metrics.heartbeat_url, then `esgbatch doctor`",
        ) from None
    yield ok(f"{host} has an address")


def _status(url: str, timeout: float) -> int:
    with (
        closing(open_session(Web())) as session,
        session.get(url, timeout=timeout, allow_redirects=False, stream=True) as response,
    ):
        return response.status_code


@contextmanager
def _web_trouble(what: str, url: str, advice: str) -> Iterator[None]:
    try:
        yield
    except requests.RequestException as error:
        host = urlsplit(url).hostname
        raise DoctorFailed(f"{what} at {host} cannot be reached: {explain(error)}.", advice=advice) from None
