"""What tests of the account sources share."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from esgbatch.accounts.rest import RestAccounts
from esgbatch.config.model import Accounts
from esgbatch.http.auth import authenticator
from esgbatch.model import Snapshot


@dataclass
class SleeplessClock:
    """Real time, but `sleep` only remembers how long, and does `instead`."""

    slept: list[float] = field(default_factory=list)
    instead: Callable[[], None] = lambda: None

    def time(self) -> float:
        return time.time()

    def monotonic(self) -> float:
        return time.monotonic()

    def sleep(self, seconds: float) -> None:
        self.slept.append(seconds)
        self.instead()


@dataclass
class Listeners:
    """A `Listener` that keeps every event."""

    events: list[tuple[str, dict[str, object]]] = field(default_factory=list)

    def event(self, name: str, /, **fields: object) -> None:
        self.events.append((name, fields))

    def progress(self, snapshot: Snapshot) -> None:
        raise AssertionError("a list has no progress")

    def of(self, name: str) -> list[dict[str, object]]:
        return [fields for event, fields in self.events if event == name]


@dataclass
class Rest:
    """A REST source with a clock that does not wait and a listener that remembers."""

    source: RestAccounts
    clock: SleeplessClock
    listener: Listeners

    def ids(self) -> list[str | None]:
        return [listing.account_id for listing in self.source.accounts()]


def rest(url: str, **options: Any) -> Rest:
    """The source for `url`; `options` are those of the configuration's `[accounts]`."""
    config = Accounts(url=url, **options)
    clock, listener = SleeplessClock(), Listeners()
    return Rest(RestAccounts(config, authenticator(config), clock, listener), clock, listener)


def item(
    account_id: object, name: object = "Smith Family Trust", status: object = "active"
) -> dict[str, object]:
    """An account as the account system's JSON has it."""
    return {"accountId": account_id, "accountName": name, "status": status}
