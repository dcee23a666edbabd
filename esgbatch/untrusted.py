"""Text that came from outside, made safe to show."""

from __future__ import annotations


def printable(text: str) -> str:
    """`text` with control characters and direction marks escaped, so that data cannot draw on a terminal."""
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode("ascii") for c in text)
