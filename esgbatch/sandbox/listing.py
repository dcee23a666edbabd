"""The account system. Each paging style has a path of its own, and shows only its own way on.

========================  ==========================================================
`/v1/accounts`            `limit`, `cursor`; `nextCursor` in the answer, null at the end
`/v1/accounts-offset`     `limit`, `offset` from 0
`/v1/accounts-page`       `limit`, `page` from 1
`/v1/accounts-link`       `limit`; the next page is in the Link header (RFC 8288), relative
`/v1/accounts-all`        everything at once
========================  ==========================================================

`status=active` leaves inactive accounts out, unless the system has been told to ignore it,
as some do. Without `limit` a page has 1000 rows; past the end it is empty.
"""

from __future__ import annotations

import base64
import binascii
import json
from collections.abc import Iterator
from urllib.parse import parse_qs, quote

from esgbatch.sandbox.data import Firm, entry_json
from esgbatch.sandbox.faults import Board
from esgbatch.sandbox.web import JSON, Reply, Request, problem

PATHS = {
    "cursor": "/v1/accounts",
    "offset": "/v1/accounts-offset",
    "page": "/v1/accounts-page",
    "link": "/v1/accounts-link",
    "none": "/v1/accounts-all",
}
STYLES = {path: style for style, path in PATHS.items()}
PIECE = 250
MARK = b"\xfb\xff\xfe"
MAX_LIMIT = 100_000


class AccountSystem:
    def __init__(self, firm: Firm, board: Board, *, ignore_status: bool) -> None:
        self._firm = firm
        self._board = board
        self._ignore_status = ignore_status

    def handle(self, request: Request) -> Reply:
        path, _, query = request.target.decode("latin-1").partition("?")
        style = STYLES.get(path)
        if style is None:
            return problem(404, "no such resource")
        if request.method != b"GET":
            return problem(405, "only GET", JSON + b"Allow: GET\r\n")
        if self._board.fails("accounts"):
            return problem(503, "the account system is down")
        parameters = {key: values[0] for key, values in parse_qs(query, keep_blank_values=True).items()}
        active_only = parameters.get("status") == "active" and not self._ignore_status
        try:
            start, limit = self._place(style, parameters)
        except ValueError:
            return problem(400, "no such page")
        total = self._firm.listed(active_only=active_only)
        stop = total if style == "none" else min(start + limit, total)
        more = stop < total
        headers = JSON
        after: dict[str, str | None] = {}
        if style == "cursor":
            after = {"nextCursor": _cursor(stop) if more else None}
        elif style == "link":
            headers += _link(path, parameters, _cursor(stop) if more else None)
        return Reply(200, headers=headers, stream=self._page(start, stop, active_only, after))

    def _place(self, style: str, parameters: dict[str, str]) -> tuple[int, int]:
        """The first row asked for and the number of rows; ValueError where there is no such page."""
        limit = int(parameters.get("limit", "1000"))
        if not 1 <= limit <= MAX_LIMIT:
            raise ValueError
        start = 0
        if style == "offset":
            start = int(parameters.get("offset", "0"))
        elif style == "page":
            start = (int(parameters.get("page", "1")) - 1) * limit
        elif style != "none" and "cursor" in parameters:
            start = _place_of(parameters["cursor"])
        if start < 0:
            raise ValueError
        return start, limit

    def _page(self, start: int, stop: int, active_only: bool, after: dict[str, str | None]) -> Iterator[bytes]:
        opening = '{"accounts": ['
        for first in range(start, stop, PIECE):
            rows = self._firm.rows(first, min(first + PIECE, stop), active_only=active_only)
            yield (opening + ", ".join(map(entry_json, rows))).encode()
            opening = ", "
        ending = "]" if stop > start else opening + "]"
        for key, value in after.items():
            ending += f", {json.dumps(key)}: {json.dumps(value)}"
        yield (ending + "}").encode()


def _cursor(place: int) -> str:
    """Opaque, and with `+`, `/` and often `=`: it has to be percent-encoded in a query."""
    return base64.b64encode(MARK + b"%d" % place).decode()


def _place_of(cursor: str) -> int:
    try:
        text = base64.b64decode(cursor, validate=True)
    except binascii.Error:
        raise ValueError from None
    if not text.startswith(MARK):
        raise ValueError
    return int(text.removeprefix(MARK))


def _link(path: str, parameters: dict[str, str], cursor: str | None) -> bytes:
    kept = "&".join(f"{key}={quote(value, '')}" for key, value in parameters.items() if key != "cursor")
    links = [f'<{path}?{kept}>; rel="first"']
    if cursor is not None:
        links.append(f'<{path}?{kept}&cursor={quote(cursor, "")}>; title="more, later"; rel="next"')
    return f"Link: {', '.join(links)}\r\n".encode("latin-1")
