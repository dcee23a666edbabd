"""The Link header (RFC 8288)."""

from __future__ import annotations

import re

# RFC 8288, 3: <URI-Reference> followed by parameters; commas and semicolons may stand in both.
_LINK = re.compile(r'<([^<>]*)>((?:[^",]|"(?:[^"\\]|\\.)*")*)')
_PARAMETER = re.compile(r';\s*([^\s=;,"]+)\s*=\s*(?:"((?:[^"\\]|\\.)*)"|([^\s;,"]*))')


def next_link(header: str) -> str | None:
    """The target whose relation is `next`, as it stands: it may be relative.

    Only the first `rel` of a link counts, it may name several relations (3.3), and a link
    with an `anchor` is about something else than this answer (3.2).
    """
    for target, rest in _LINK.findall(header):
        parameters: dict[str, str] = {}
        for name, quoted, token in _PARAMETER.findall(rest):
            parameters.setdefault(name.lower(), quoted or token)
        if "next" in parameters.get("rel", "").lower().split() and "anchor" not in parameters:
            return str(target.strip())
    return None
