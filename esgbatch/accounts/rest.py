"""The account list from a REST API."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing

from esgbatch.accounts.fetcher import PageFetcher
from esgbatch.accounts.paging import pages
from esgbatch.config.model import Accounts
from esgbatch.http.auth import Authenticator
from esgbatch.model import Listing
from esgbatch.ports import Clock, Listener


class RestAccounts:
    """An `AccountSource` over HTTP, one page in memory at a time."""

    def __init__(
        self, config: Accounts, authenticator: Authenticator, clock: Clock, listener: Listener
    ) -> None:
        self._config = config
        self._authenticator = authenticator
        self._clock = clock
        self._listener = listener

    def accounts(self) -> Iterator[Listing]:
        """Every row in the system's order, streamed.

        Raises:
            AccountSystemError: a page could not be had, or is not what the configuration says.
            ConfigError: a certificate file cannot be used.
        """
        fetcher = PageFetcher(self._config, self._authenticator, self._clock, self._listener)
        with closing(fetcher):
            for page in pages(self._config, fetcher.fetch):
                yield from page.listings
