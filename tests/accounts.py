"""What tests of the account sources share."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from esgbatch.accounts.rest import RestAccounts
from esgbatch.config.model import Accounts
from esgbatch.http.auth import authenticator
from tests.simulated import RecordingListener, SleeplessClock


@dataclass
class Rest:
    """A REST source with a clock that does not wait and a listener that remembers."""

    source: RestAccounts
    clock: SleeplessClock
    listener: RecordingListener

    def ids(self) -> list[str | None]:
        return [listing.account_id for listing in self.source.accounts()]


def rest(url: str, **options: Any) -> Rest:
    """The source for `url`; `options` are those of the configuration's `[accounts]`."""
    config = Accounts(url=url, **options)
    clock, listener = SleeplessClock(), RecordingListener()
    return Rest(RestAccounts(config, authenticator(config), clock, listener), clock, listener)


def item(
    account_id: object, name: object = "Smith Family Trust", status: object = "active"
) -> dict[str, object]:
    """An account as the account system's JSON has it."""
    return {"accountId": account_id, "accountName": name, "status": status}
