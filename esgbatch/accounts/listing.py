"""A row of the account system, whichever kind it is, as a `Listing`."""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Mapping
from decimal import Decimal
from operator import methodcaller
from typing import Any
from uuid import UUID

import jmespath
from jmespath.exceptions import JMESPathError

from esgbatch.config.model import Accounts
from esgbatch.model import Listing

_SURROGATE = re.compile("[\ud800-\udfff]")


def listing(account_id: object, name: object, status: object, active: Collection[str]) -> Listing:
    """The row whose values these are; `active` are the texts of `status` that count as active."""
    return Listing(identifier(account_id), _writable(_text(name) or ""), _text(status) in active)


def identifier(value: object) -> str | None:
    """An ID as it came, never stripped; an integer is its decimal text. None: this cannot be an ID.

    It goes into a URL, a database and the file, so that it must be expressible in UTF-8
    (no half of a surrogate pair) and hold no NUL, which PostgreSQL's text does not take.
    """
    if isinstance(value, str):
        text = value
    elif isinstance(value, UUID) or _is_integer(value):
        text = str(value)
    else:
        return None
    if not text or text.isspace() or "\0" in text:
        return None
    return text if text.isascii() or not _SURROGATE.search(text) else None


def _is_integer(value: object) -> bool:
    if isinstance(value, Decimal):  # as databases give NUMERIC(n, 0)
        return value.as_tuple().exponent == 0
    return isinstance(value, int) and not isinstance(value, bool)


def _text(value: object) -> str | None:
    """What a name or a status says; None for null and for what is no text, such as an object."""
    if isinstance(value, str):
        return value
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, (int, float, Decimal, UUID)):
        return str(value)
    return None


def _writable(text: str) -> str:
    """`text` as it came, but for halves of surrogate pairs, which no UTF-8 file can hold."""
    return text if text.isascii() else _SURROGATE.sub("\N{REPLACEMENT CHARACTER}", text)


class ItemMapper:
    """Turns an item of a JSON list into a `Listing`, by the configured expressions."""

    def __init__(self, config: Accounts) -> None:
        self._id = _finder(config.id)
        self._name = _finder(config.name)
        self._status = _finder(config.status)
        self._active = frozenset(config.active)

    def __call__(self, item: object) -> Listing:
        if not isinstance(item, dict):
            return Listing(None, "", active=True)  # active: it counts as refused, not as inactive
        return listing(self._id(item), self._name(item), self._status(item), self._active)


def _finder(expression: str) -> Callable[[dict[str, Any]], object]:
    """The compiled expression. A plain path needs none of JMESPath's machinery for every row."""
    compiled = jmespath.compile(expression)
    path = _plain_path(compiled.parsed)
    if path is not None and len(path) == 1:
        return methodcaller("get", path[0])

    def follow(item: Any) -> object:
        assert path is not None
        for name in path:
            if not isinstance(item, dict):
                return None
            item = item.get(name)
        return item

    def search(item: dict[str, Any]) -> object:
        try:
            return compiled.search(item)
        except (JMESPathError, TypeError):  # a function, or a comparison, that this item's types do not allow
            return None

    return search if path is None else follow


def _plain_path(node: Mapping[str, Any]) -> list[str] | None:
    """The names in an expression of the form `a.b.c`; None for any other."""
    if node["type"] == "field":
        return [node["value"]]
    if node["type"] == "subexpression" and all(child["type"] == "field" for child in node["children"]):
        return [child["value"] for child in node["children"]]
    return None
