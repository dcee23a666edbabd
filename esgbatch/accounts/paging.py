"""The ways in which account systems hand out a long list, each as a loop over its pages.

All of them rather ask once too often, or fail, than lose accounts: only an empty page ends
`offset` and `page`, since a server may give fewer rows than were asked for; and a server
that goes in circles, or does not heed the parameter, is an error.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from urllib.parse import urlsplit

import jmespath
from jmespath.exceptions import JMESPathError
from requests.exceptions import InvalidURL

from esgbatch.accounts.listing import identifier
from esgbatch.config.model import Accounts
from esgbatch.errors import AccountSystemError
from esgbatch.http.links import next_link
from esgbatch.http.session import resolve
from esgbatch.model import Listing

# A page may happen to equal the one before, where accounts are listed twice; not three times over.
SAME_PAGES = 3


@dataclass(frozen=True, slots=True)
class Page:
    """One page. `url` is where it came from, after redirects; `link` its Link header."""

    url: str
    document: object
    listings: list[Listing]
    link: str


Fetch = Callable[[str, Mapping[str, str]], Page]


def pages(config: Accounts, fetch: Fetch) -> Iterator[Page]:
    """Every page, in order; `fetch(url, parameters)` gets one.

    Raises:
        AccountSystemError: from `fetch`, or the list has no end.
    """
    match config.paging:
        case "cursor":
            return _by_cursor(config, fetch)
        case "offset":
            return _by_offset(config, fetch)
        case "page":
            return _by_number(config, fetch)
        case "link":
            return _by_link(config, fetch)
        case "none":
            # No page size: a server that knows it would cut the list there.
            return iter([fetch(config.url, config.params)])


def place(url: str) -> str:
    """Host, port and path: what may be told of an address."""
    parts = urlsplit(url)
    return f"{parts.netloc.rpartition('@')[2]}{parts.path}"


def _parameters(config: Accounts) -> dict[str, str]:
    size = {config.size_param: str(config.page_size)} if config.size_param else {}
    return {**config.params, **size}


def _by_cursor(config: Accounts, fetch: Fetch) -> Iterator[Page]:
    parameters = _parameters(config)
    find = jmespath.compile(config.next_cursor)
    seen: set[int] = set()
    while True:
        page = fetch(config.url, parameters)
        yield page
        try:
            found = find.search(page.document)
        except (JMESPathError, TypeError):  # a comparison that JMESPath allows and Python does not
            raise _trouble(config, f"gave a page without sense for {config.next_cursor!r}") from None
        # JMESPath's false values but 0: `hasMore && cursor` is false at the end, for one.
        if found is None or found is False or found in ("", [], {}):
            return
        cursor = identifier(found)
        if cursor is None:
            raise _trouble(config, f"gave no text and no integer at {config.next_cursor!r}")
        _once(config, seen, cursor)
        parameters[config.cursor_param] = cursor


def _by_offset(config: Accounts, fetch: Fetch) -> Iterator[Page]:
    offset = 0

    def ask() -> Page:
        return fetch(config.url, {**_parameters(config), config.offset_param: str(offset)})

    for page in _until_empty(config, config.offset_param, ask):
        yield page
        offset += len(page.listings)


def _by_number(config: Accounts, fetch: Fetch) -> Iterator[Page]:
    number = config.first_page

    def ask() -> Page:
        return fetch(config.url, {**_parameters(config), config.page_param: str(number)})

    for page in _until_empty(config, config.page_param, ask):
        yield page
        number += 1


def _until_empty(config: Accounts, parameter: str, ask: Callable[[], Page]) -> Iterator[Page]:
    before: list[Listing] = []
    same = 1
    while (page := ask()).listings:
        same = same + 1 if page.listings == before else 1
        if same == SAME_PAGES:
            raise _trouble(config, f"gave the same page {same} times: it does not seem to know {parameter!r}")
        before = page.listings
        yield page


def _by_link(config: Accounts, fetch: Fetch) -> Iterator[Page]:
    """A link is followed as it stands: it is the server's, and carries its own parameters."""
    url, parameters = config.url, _parameters(config)
    seen: set[int] = set()
    while True:
        page = fetch(url, parameters)
        yield page
        target = next_link(page.link)
        if target is None:
            return
        try:
            url, parameters = resolve(page.url, target), {}
        except InvalidURL as error:
            raise _trouble(config, f"gave a next link: {error}") from None
        _once(config, seen, url)


def _once(config: Accounts, seen: set[int], cursor: str) -> None:
    """Hashes only, since cursors may be long and there may be many of them."""
    if hash(cursor) in seen:
        raise _trouble(config, "gave a next page that it had given before, so the list would never end")
    seen.add(hash(cursor))


def _trouble(config: Accounts, what: str) -> AccountSystemError:
    return AccountSystemError(
        f"The account system at {place(config.url)} {what}.",
        advice="correct the paging keys under [accounts], then `esgbatch resume --date {date}`",
    )
