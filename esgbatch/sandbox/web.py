"""A small HTTP/1.1 server: httptools parses, a plain function answers.

Not an ASGI server, for two reasons. Faults need the transport itself: half a body, or
no answer at all. And the sandbox shares its processor with the job under test: reading
and answering a request takes about a quarter of the time that uvicorn takes for it.
"""

from __future__ import annotations

import asyncio
import json
import ssl
import time
from collections import Counter, deque
from collections.abc import Callable, Iterator
from email.utils import formatdate
from enum import Enum
from http import HTTPStatus
from typing import NamedTuple, cast

import httptools

MAX_BODY = 1 << 20
JSON = b"Content-Type: application/json\r\n"
HTML = b"Content-Type: text/html; charset=utf-8\r\n"


class Fate(Enum):
    """What becomes of an answer on its way."""

    WHOLE = "whole"
    CUT = "cut"  # the connection is closed in mid-body
    DROPPED = "dropped"  # the connection is closed instead


class Request(NamedTuple):
    """`target` is the request target as it was sent (RFC 9112, 3.2), still percent-encoded."""

    method: bytes
    target: bytes
    authorization: bytes
    body: bytes


class Reply(NamedTuple):
    """`headers` are whole lines with their line ends; `delay` is in seconds.

    With `stream`, `body` is not sent: the stream's pieces are, as the client takes them.
    """

    status: int
    body: bytes = b""
    headers: bytes = JSON
    delay: float = 0.0
    fate: Fate = Fate.WHOLE
    stream: Iterator[bytes] | None = None


Handler = Callable[[Request], Reply]


def reply_json(status: int, value: object, headers: bytes = JSON) -> Reply:
    return Reply(status, json.dumps(value, ensure_ascii=False).encode(), headers)


def problem(status: int, text: str, headers: bytes = JSON) -> Reply:
    return reply_json(status, {"error": text}, headers)


class Service:
    """One listening port: what answers there, and what has been counted."""

    def __init__(self, handler: Handler, tls: ssl.SSLContext | None = None) -> None:
        """With `tls` it speaks https only."""
        self.handler = handler
        self._tls = tls
        self.connections = 0
        self.statuses: Counter[int] = Counter()
        self.fates: Counter[Fate] = Counter()
        self.port = 0
        self._second = 0
        self._heads: dict[int, bytes] = {}

    async def start(self) -> asyncio.Server:
        """Listen on a free loopback port."""
        loop = asyncio.get_running_loop()
        server = await loop.create_server(
            lambda: Connection(self, loop), "127.0.0.1", 0, backlog=4096, ssl=self._tls
        )
        self.port = server.sockets[0].getsockname()[1]
        return server

    @property
    def url(self) -> str:
        return f"{'https' if self._tls else 'http'}://127.0.0.1:{self.port}"

    def counts(self) -> dict[str, object]:
        """The counters, for the control endpoint."""
        return {
            "requests": self.statuses.total() + self.fates[Fate.DROPPED],
            "by_status": {str(status): count for status, count in sorted(self.statuses.items())},
            "cut": self.fates[Fate.CUT],
            "dropped": self.fates[Fate.DROPPED],
            "connections": self.connections,
        }

    def head(self, status: int) -> bytes:
        """Status line and Date (RFC 9110, 6.6.1), made once a second for each status."""
        second = int(time.time())
        if second != self._second:
            self._second = second
            self._heads.clear()
        head = self._heads.get(status)
        if head is None:
            date = formatdate(second, usegmt=True)
            head = f"HTTP/1.1 {status} {HTTPStatus(status).phrase}\r\nDate: {date}\r\n".encode()
            self._heads[status] = head
        return head


class Connection(asyncio.Protocol):
    """One client. Requests that arrive while one is being answered wait their turn (RFC 9112, 9.3.2)."""

    def __init__(self, service: Service, loop: asyncio.AbstractEventLoop) -> None:
        self._service = service
        self._loop = loop
        self._parser = httptools.HttpRequestParser(self)
        self._waiting: deque[tuple[Request | None, bool]] = deque()
        self._busy = False
        self._timer: asyncio.TimerHandle | None = None
        self._stream: Iterator[bytes] | None = None
        self._keep_alive = True
        self._paused = False
        self._length = 0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)
        self._service.connections += 1

    def connection_lost(self, _exc: Exception | None) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._stream = None
        self._waiting.clear()

    def pause_writing(self) -> None:
        self._paused = True

    def resume_writing(self) -> None:
        self._paused = False
        if self._stream is not None:
            self._pump()

    def data_received(self, data: bytes) -> None:
        try:
            self._parser.feed_data(data)
        except (httptools.HttpParserError, httptools.HttpParserUpgrade):
            if self._busy:
                self._transport.abort()
            else:
                self._answer(problem(400, "this is no request"), keep_alive=False)

    # --- called by the parser ---------------------------------------------------------------------

    def on_message_begin(self) -> None:
        self._target = b""
        self._authorization = b""
        self._body: list[bytes] = []
        self._length = 0

    def on_url(self, url: bytes) -> None:
        self._target += url

    def on_header(self, name: bytes, value: bytes) -> None:
        if len(name) == 13 and name.lower() == b"authorization":
            self._authorization = value

    def on_body(self, body: bytes) -> None:
        self._length += len(body)
        if self._length <= MAX_BODY:
            self._body.append(body)

    def on_message_complete(self) -> None:
        request = None
        if self._length <= MAX_BODY:
            method, body = self._parser.get_method(), b"".join(self._body)
            request = Request(method, self._target, self._authorization, body)
        keep_alive = self._parser.should_keep_alive()
        if self._busy:
            self._waiting.append((request, keep_alive))
        else:
            self._serve(request, keep_alive)

    # --- answering --------------------------------------------------------------------------------

    def _serve(self, request: Request | None, keep_alive: bool) -> None:
        """Answer; None is a request whose body was too large to be kept."""
        self._busy = True
        if request is None:
            reply = problem(413, "the body is too large")
        elif request.method == b"HEAD":
            reply = Reply(405)
        else:
            reply = self._service.handler(request)
        if reply.delay > 0:
            self._timer = self._loop.call_later(reply.delay, self._answer, reply, keep_alive)
        else:
            self._answer(reply, keep_alive)

    def _answer(self, reply: Reply, keep_alive: bool) -> None:
        service, transport = self._service, self._transport
        if transport.is_closing():
            return
        if reply.fate is not Fate.WHOLE:
            service.fates[reply.fate] += 1
            if reply.fate is Fate.DROPPED:
                transport.abort()
                return
        service.statuses[reply.status] += 1
        head = service.head(reply.status) + reply.headers
        if not keep_alive:
            head += b"Connection: close\r\n"
        self._keep_alive = keep_alive
        if reply.stream is not None:
            transport.write(head + b"Transfer-Encoding: chunked\r\n\r\n")
            self._stream = reply.stream
            self._pump()
            return
        body = reply.body
        if reply.fate is Fate.CUT:
            transport.write(b"%bContent-Length: %d\r\n\r\n%b" % (head, len(body), body[: len(body) // 2]))
            transport.close()
            return
        transport.write(b"%bContent-Length: %d\r\n\r\n%b" % (head, len(body), body))
        self._done()

    def _pump(self) -> None:
        """Send one piece, then let the other connections have their turn."""
        if self._paused or self._stream is None:
            return
        piece = next(self._stream, None)
        if piece is None:
            self._stream = None
            self._transport.write(b"0\r\n\r\n")
            self._done()
            return
        self._transport.write(b"%x\r\n%b\r\n" % (len(piece), piece))
        self._loop.call_soon(self._pump)

    def _done(self) -> None:
        if not self._keep_alive:
            self._transport.close()
        elif self._waiting:
            self._loop.call_soon(self._serve, *self._waiting.popleft())
        else:
            self._busy = False
