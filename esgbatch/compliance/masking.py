"""Taking account IDs out of log and error files, in place.

A line keeps its length, so that whoever appends to the file or ships it goes on where they were,
and a crash leaves every line either as it was or masked.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator, Sequence
from pathlib import Path

MASK = b"*"
_ACCOUNT = re.compile(rb'"account_id": ?"((?:[^"\\\n]|\\.)*)"')


def mentions(path: Path, account_ids: Sequence[str]) -> bool:
    """Whether a line of the file is about one of the accounts.

    Raises:
        OSError: it cannot be read.
    """
    return next(_places(path.read_bytes(), account_ids), None) is not None


def mask(path: Path, account_ids: Sequence[str]) -> int:
    """Put asterisks over the IDs in every line that is about one of the accounts; returns how many lines.

    Raises:
        OSError: it cannot be read or written.
    """
    lines = set()
    descriptor = os.open(path, os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        content = os.pread(descriptor, os.fstat(descriptor).st_size, 0)
        for line, start, end in _places(content, account_ids):
            os.pwrite(descriptor, MASK * (end - start), start)
            lines.add(line)
        if lines:
            os.fsync(descriptor)
    finally:
        os.close(descriptor)
    return len(lines)


def _places(content: bytes, account_ids: Sequence[str]) -> Iterator[tuple[int, int, int]]:
    """Where the IDs stand: the line's start, and each ID's start and end."""
    wanted = {json.dumps(each)[1:-1].encode() for each in account_ids}
    for found in _ACCOUNT.finditer(content):
        if found[1] not in wanted:
            continue
        start = content.rfind(b"\n", 0, found.start()) + 1
        end = content.find(b"\n", found.end())
        yield start, *found.span(1)
        # The event's sentence repeats it: "account A-000001 failed: …".
        sentence = b'"account ' + found[1] + b" "
        at = content.find(sentence, start, end if end >= 0 else len(content))
        if at >= 0:
            yield start, at + len(b'"account '), at + len(sentence) - 1
