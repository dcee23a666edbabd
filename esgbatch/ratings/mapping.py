"""From an answer's body to scores: JSON in, rounded decimals out, never a binary float between."""

from __future__ import annotations

import codecs
import json
import re
from collections.abc import Callable, Sequence
from decimal import ROUND_HALF_UP, Context, Decimal, InvalidOperation
from typing import Any

import jmespath
import jmespath.exceptions

from esgbatch.config.model import Score

CENT = Decimal("0.01")
ZERO = Decimal("0.00")
NAN = Decimal("NaN")

# RFC 8259, 6, and with ASCII digits only.
_NUMBER = re.compile(r"-?(0|[1-9][0-9]*)(\.[0-9]+)?([eE][+-]?[0-9]+)?")
_PLAIN_PATH = re.compile(r"[A-Za-z_][A-Za-z0-9_]*(\.[A-Za-z_][A-Za-z0-9_]*)*")

# What a JMESPath expression raises over data that it was not written for; comparing
# a text or NaN with a number is no JMESPathError.
_EVALUATION_ERRORS = (jmespath.exceptions.JMESPathError, TypeError, ValueError, ArithmeticError)


class NotJson(Exception):
    """The body is no JSON text (RFC 8259): whoever sent it, it was not the API in good health."""


class BadRating(Exception):
    """The body is JSON without the scores that are needed. The text names the column, never a value."""


class RatingMapper:
    """Finds the configured scores in a body, rounds them and checks their range. Thread-safe.

    The context's precision is what the range needs, so that a number far out of range,
    such as 1e999999999, is refused before any of its digits is written out.
    """

    def __init__(self, scores: Sequence[Score], score_range: tuple[Decimal, Decimal]) -> None:
        self._finders = [(score.column, _finder(score.path)) for score in scores]
        self._lowest, self._highest = score_range
        digits = max(bound.adjusted() for bound in (*score_range, ZERO)) + 1
        self._context = Context(prec=digits + 3, rounding=ROUND_HALF_UP, traps=[InvalidOperation])

    def map(self, body: bytes) -> tuple[Decimal, ...]:
        """The scores in the configured order, each with two decimals.

        Raises:
            NotJson, BadRating
        """
        document = _parse(body)
        return tuple([self._score(column, find, document) for column, find in self._finders])

    def _score(self, column: str, find: Callable[[Any], Any], document: Any) -> Decimal:
        try:
            value = find(document)
        except _EVALUATION_ERRORS:
            raise BadRating(f"{column}: its path cannot be followed") from None
        if not isinstance(value, Decimal):
            if value is None:
                raise BadRating(f"{column}: missing or null")
            value = _number(value) if isinstance(value, str) and _NUMBER.fullmatch(value) else NAN
        if not value.is_finite():
            raise BadRating(f"{column}: not a number")
        try:
            rounded = value.quantize(CENT, None, self._context)
        except InvalidOperation:
            raise BadRating(f"{column}: out of range") from None
        if not self._lowest <= rounded <= self._highest:
            raise BadRating(f"{column}: out of range")
        return rounded or ZERO


def _number(text: str) -> Decimal:
    """The exact value; NaN where the exponent is beyond all that `Decimal` can hold (about 10**18)."""
    try:
        return Decimal(text)
    except InvalidOperation:
        return NAN


# Not int, which refuses more than 4,300 digits. A float is thus never a score.
_decoder = json.JSONDecoder(parse_float=Decimal, parse_int=Decimal)


def _decode(text: str) -> Any:
    """As the decoder's `decode`, which spends a quarter of its time on space around the document."""
    try:
        document, end = _decoder.raw_decode(text)
    except ValueError:
        end = -1
    return document if end == len(text) else _decoder.decode(text)


_decode_warily = json.JSONDecoder(parse_float=_number, parse_int=_number).decode


def _parse(body: bytes) -> Any:
    """RFC 8259, 8.1: UTF-8; a byte order mark may be ignored. NaN and Infinity pass, as floats."""
    try:
        text = str(body.removeprefix(codecs.BOM_UTF8), "utf-8")
        try:
            return _decode(text)
        except InvalidOperation:
            return _decode_warily(text)
    except (ValueError, RecursionError):
        raise NotJson("not JSON") from None


def _finder(path: str) -> Callable[[Any], Any]:
    """A look-up for one path: a plain one, such as `scores.overall`, costs a twentieth of JMESPath's."""
    if not _PLAIN_PATH.fullmatch(path):
        return jmespath.compile(path).search
    names = path.split(".")

    def walk(value: Any) -> Any:
        try:
            for name in names:
                value = value[name]
        except (KeyError, TypeError):  # nothing but an object takes a name
            return None
        return value

    return walk
