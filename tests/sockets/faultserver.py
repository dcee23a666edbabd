"""A raw-socket HTTP/1.1 server: each request is answered with the bytes, at the moment, that a test says.

An *answer* is a function of one `Peer`: the request that has just been read, and the connection
to treat well or badly. Order comes from events, never from sleeps::

    go = threading.Event()

    def slow(peer: Peer) -> None:
        peer.send(head(200, length=10) + b"half ")
        go.wait(10)
        peer.send(b"there")

    with FaultServer(in_order(respond(503), slow, respond(200, b"[]"))) as server:
        requests.get(server.url + "/x")
        server.wait_for(1)
        assert server.requests[0].target == "/x"

Connections are kept alive after an answer with a length; an answer that sends none ends with
`peer.close()` or `peer.reset()`. Leaving the `with` block closes every connection.
"""

from __future__ import annotations

import contextlib
import json
import socket
import ssl
import struct
import threading
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from types import TracebackType

LONGEST_WAIT = 20.0


@dataclass(frozen=True, slots=True)
class Request:
    """What a client sent. Header names are in lower case; `connection` counts connections from 0."""

    method: str
    target: str
    headers: Mapping[str, str]
    body: bytes
    connection: int

    @property
    def path(self) -> str:
        return self.target.partition("?")[0]

    @property
    def query(self) -> str:
        return self.target.partition("?")[2]


class Peer:
    """The client's side of one request, for an answer to play with."""

    def __init__(self, sock: socket.socket, request: Request, stopping: threading.Event) -> None:
        self.request = request
        self.stopping = stopping
        self._sock = sock

    def send(self, data: bytes) -> None:
        """Send bytes as they are."""
        self._sock.sendall(data)

    def close(self) -> None:
        """End the connection with a FIN."""
        with contextlib.suppress(OSError):
            self._sock.shutdown(socket.SHUT_RDWR)
        self._sock.close()

    def reset(self) -> None:
        """End the connection with a RST: what is unread at the client is lost."""
        self._sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self._sock.close()

    def wait_until_gone(self) -> bool:
        """Wait until the client has closed the connection; False where it does not."""
        self._sock.settimeout(LONGEST_WAIT)
        try:
            return self._sock.recv(1) == b""
        except TimeoutError:
            return False
        except OSError:
            return True


Answer = Callable[[Peer], None]


class FaultServer:
    """Serves `answer` on a loopback port, one thread a connection. `requests` are in order of arrival."""

    def __init__(self, answer: Answer, *, tls: ssl.SSLContext | None = None, host: str = "127.0.0.1") -> None:
        self.requests: list[Request] = []
        self.connections = 0
        self._answer = answer
        self._tls = tls
        self._changed = threading.Condition()
        self._stopping = threading.Event()
        self._open: set[socket.socket] = set()
        self._threads: list[threading.Thread] = []
        self._listener = socket.create_server((host, 0), backlog=512)
        self.host = host
        self.port: int = self._listener.getsockname()[1]

    @property
    def url(self) -> str:
        return f"{'https' if self._tls else 'http'}://{self.host}:{self.port}"

    def __enter__(self) -> FaultServer:
        self._start(self._accept)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stopping.set()
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        with self._changed:
            for sock in self._open:
                with contextlib.suppress(OSError):
                    sock.shutdown(socket.SHUT_RDWR)
        for thread in self._threads:
            thread.join(LONGEST_WAIT)

    def wait_for(self, count: int) -> None:
        """Wait until `count` requests have been read."""
        with self._changed:
            if not self._changed.wait_for(lambda: len(self.requests) >= count, LONGEST_WAIT):
                raise AssertionError(f"{len(self.requests)} requests came, not {count}")

    def _start(self, target: Callable[..., None], *args: object) -> None:
        thread = threading.Thread(target=target, args=args, daemon=True)
        self._threads.append(thread)
        thread.start()

    def _accept(self) -> None:
        while not self._stopping.is_set():
            try:
                sock, _ = self._listener.accept()
            except OSError:
                return
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            # Counted before it is served: who has an answer may look at once.
            self.connections += 1
            self._start(self._serve, sock, self.connections - 1)

    def _serve(self, sock: socket.socket, number: int) -> None:
        try:
            if self._tls is not None:
                sock = self._tls.wrap_socket(sock, server_side=True)
        except OSError:
            sock.close()
            return
        with self._changed:
            self._open.add(sock)
        try:
            with sock:
                reader = _Reader(sock, number)
                while not self._stopping.is_set() and sock.fileno() != -1:
                    request = reader.request()
                    if request is None:
                        return
                    with self._changed:
                        self.requests.append(request)
                        self._changed.notify_all()
                    self._answer(Peer(sock, request, self._stopping))
        except OSError:
            return  # the client went away, as clients of a faulty server do
        finally:
            with self._changed:
                self._open.discard(sock)


class _Reader:
    """Reads requests. A file object from `makefile` would keep the socket open after `close`."""

    def __init__(self, sock: socket.socket, number: int) -> None:
        self._sock = sock
        self._number = number
        self._buffer = b""

    def request(self) -> Request | None:
        """The next request, or None where the client has closed the connection."""
        while b"\r\n\r\n" not in self._buffer:
            if not self._more():
                return None
        top, _, self._buffer = self._buffer.partition(b"\r\n\r\n")
        first, *lines = top.decode("latin-1").split("\r\n")
        method, target, _ = first.split()
        pairs = (line.partition(":") for line in lines)
        headers = {name.lower(): value.strip() for name, _, value in pairs}
        length = int(headers.get("content-length", "0"))
        while len(self._buffer) < length:
            if not self._more():
                return None
        body, self._buffer = self._buffer[:length], self._buffer[length:]
        return Request(method, target, headers, body, self._number)

    def _more(self) -> bool:
        data = self._sock.recv(65536)
        self._buffer += data
        return bool(data)


# --- answers ----------------------------------------------------------------------------------


def head(status: int, *, length: int | None = None, headers: Mapping[str, str] | None = None) -> bytes:
    """A status line and headers; `length` is what Content-Length claims, None sends none."""
    lines = [f"HTTP/1.1 {status} Whatever"]
    if length is not None:
        lines.append(f"Content-Length: {length}")
    lines += [f"{name}: {value}" for name, value in (headers or {}).items()]
    return ("\r\n".join(lines) + "\r\n\r\n").encode("latin-1")


def respond(status: int = 200, body: bytes = b"", headers: Mapping[str, str] | None = None) -> Answer:
    """A correct answer."""
    return lambda peer: peer.send(head(status, length=len(body), headers=headers) + body)


def respond_json(value: object, status: int = 200, headers: Mapping[str, str] | None = None) -> Answer:
    """A correct answer in JSON."""
    kind = {"Content-Type": "application/json", **(headers or {})}
    return respond(status, json.dumps(value).encode(), kind)


def in_order(*answers: Answer) -> Answer:
    """The n-th request, over all connections, gets the n-th answer; the last one goes on for ever."""
    waiting = list(answers)
    lock = threading.Lock()

    def answer(peer: Peer) -> None:
        with lock:
            chosen = waiting.pop(0) if len(waiting) > 1 else waiting[0]
        chosen(peer)

    return answer


def reset_at_once(peer: Peer) -> None:
    """RST instead of any answer."""
    peer.reset()


def close_at_once(peer: Peer) -> None:
    """FIN instead of any answer."""
    peer.close()


def cut(body: bytes, *, at: int, reset: bool = False) -> Answer:
    """Claims the whole body and ends after `at` bytes of it."""

    def answer(peer: Peer) -> None:
        peer.send(head(200, length=len(body)) + body[:at])
        peer.reset() if reset else peer.close()

    return answer


def stall(peer: Peer) -> None:
    """Reads the request and never says a word; ends when the client gives up or the test ends."""
    peer.wait_until_gone()


def drip(body: bytes, *, pause: float) -> Answer:
    """One byte every `pause` seconds: each single read succeeds, the whole takes for ever."""

    def answer(peer: Peer) -> None:
        peer.send(head(200, length=len(body)))
        for byte in body:
            peer.send(bytes([byte]))
            if peer.stopping.wait(pause):
                return

    return answer


def redirect(location: str, status: int = 302) -> Answer:
    return respond(status, headers={"Location": location})


@contextlib.contextmanager
def refused_port() -> Iterator[int]:
    """A port that nobody listens on, and that nobody else can take meanwhile."""
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        yield sock.getsockname()[1]
