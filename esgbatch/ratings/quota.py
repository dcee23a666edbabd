"""What is left of the API's quota, from an answer's headers.

Three ways of saying it: `RateLimit: "default";r=50;t=30` (draft-ietf-httpapi-ratelimit-headers-10,
a structured field, RFC 9651), `RateLimit-Remaining` with `RateLimit-Reset` in seconds (up to
draft 6), and `X-RateLimit-Remaining` with `X-RateLimit-Reset`, which GitHub gives as seconds since
the epoch and others as seconds from now.
"""

from __future__ import annotations

import re
import time
from collections.abc import Iterable

from esgbatch.model import Quota

# No reset is a day of 2001 away: a larger number is an instant.
_EPOCH_FROM = 1_000_000_000.0
_LONGEST = 24 * 3600.0
_NUMBER = re.compile(r"[0-9]{1,15}(?:\.[0-9]{1,9})?")
_PARAMETER = re.compile(r";\s*([rt])=([0-9]{1,15})(?![0-9.])")


def read_quota(lines: Iterable[bytes], now: float | None = None) -> Quota | None:
    """The tightest of what the header lines say; None where they say nothing that can be used.

    `now` is in seconds since the epoch.
    """
    headers = dict(_fields(lines))
    found = list(_structured(headers.get("ratelimit", "")))
    for prefix in ("ratelimit", "x-ratelimit"):
        remaining, reset = (_number(headers.get(f"{prefix}-{name}", "")) for name in ("remaining", "reset"))
        if remaining is not None and reset is not None:
            found.append(Quota(remaining, _from_now(reset, time.time() if now is None else now)))
    usable = [each for each in found if 0 < each.seconds <= _LONGEST]
    return min(usable, key=lambda each: each.remaining / each.seconds, default=None)


def _fields(lines: Iterable[bytes]) -> Iterable[tuple[str, str]]:
    for line in lines:
        name, colon, value = line.decode("latin-1").partition(":")
        if colon:
            yield name.strip().lower(), value.strip()


def _structured(value: str) -> Iterable[Quota]:
    """One quota for each policy of the list that says what remains and for how long."""
    for item in value.split(","):
        told = {name: float(number) for name, number in _PARAMETER.findall(item)}
        if len(told) == 2:
            yield Quota(told["r"], told["t"])


def _number(value: str) -> float | None:
    return float(value) if _NUMBER.fullmatch(value) else None


def _from_now(reset: float, now: float) -> float:
    return reset - now if reset >= _EPOCH_FROM else reset
