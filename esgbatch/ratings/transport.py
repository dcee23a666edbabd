"""One HTTP exchange by libcurl: `perform` blocks, and another thread can end it; `Transfers` runs many at once.

libcurl releases the interpreter lock and costs a fifth of requests. A handle is used by one thread at a
time. Where it performs, its connection is its own and kept alive; `Transfers` has connections for all.
Python callbacks are what is dear here (each waits for the interpreter lock), so there is one for the body,
none for progress, and one for headers only in the few answers a second that are asked what is left of
the quota.
"""

from __future__ import annotations

import math
import os
import re
import socket
import ssl
import string
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from urllib.parse import quote

import pycurl

from esgbatch import __version__
from esgbatch.config.model import Ratings
from esgbatch.errors import ConfigError
from esgbatch.http.auth import Credential
from esgbatch.http.trust import ca_bundle, ca_folder
from esgbatch.model import Quota
from esgbatch.ratings.quota import read_quota

MAX_BODY = 1024 * 1024

# Called when a connection is ready; False keeps the request from being sent.
BeforeSending = Callable[[], bool | None]

# pycurl has no names for CURLOPT_QUICK_EXIT, CURLOPT_RTSP_REQUEST and CURL_RTSPREQ_RECEIVE.
_QUICK_EXIT, _RTSP_REQUEST, _RTSP_RECEIVE = 322, 189, 11
_UNSET = Credential("", "")
QUOTA_SECONDS = 0.25

_TROUBLES = {
    pycurl.E_UNSUPPORTED_PROTOCOL: "no valid HTTP",
    pycurl.E_URL_MALFORMAT: "no valid URL",
    pycurl.E_COULDNT_RESOLVE_PROXY: "the proxy's name was not found",
    pycurl.E_COULDNT_RESOLVE_HOST: "the host's name was not found",
    pycurl.E_COULDNT_CONNECT: "cannot connect",
    pycurl.E_FTP_WEIRD_SERVER_REPLY: "no valid HTTP",
    pycurl.E_PARTIAL_FILE: "the answer was cut short",
    pycurl.E_SSL_CONNECT_ERROR: "TLS handshake failed",
    pycurl.E_GOT_NOTHING: "the connection was closed without an answer",
    pycurl.E_SEND_ERROR: "the connection broke while sending",
    pycurl.E_RECV_ERROR: "the connection broke while reading",
    pycurl.E_SSL_CERTPROBLEM: "our client certificate cannot be used",
    pycurl.E_SSL_CACERT_BADFILE: "the CA bundle cannot be used",
}

_CERTIFICATE_TROUBLE = re.compile(r"(?:verify result|problem): ([^(]+)")
_TLS_TROUBLE = re.compile(r"SSL routines::([\w ]+)")  # also the other side's alerts: "unknown ca"


class ExchangeFailed(Exception):
    """There is no answer. The text says why, without address, account or secret."""


class NotSent(ExchangeFailed):
    """The request was held back at the last moment: nothing of it has left."""


class _Sockets:
    """All handles' open sockets, so that `end` can wake the threads that wait on them.

    libcurl owns the descriptors; that it closes them through here keeps `end` from
    touching a number that by then belongs to somebody else.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._descriptors: set[int] = set()
        self.ended = False

    def opened(self, descriptor: int, _purpose: int) -> int:
        """CURLOPT_SOCKOPTFUNCTION: before a socket is connected; 1 forbids it."""
        with self._lock:
            self._descriptors.add(descriptor)
            return int(self.ended)

    def close(self, descriptor: int) -> int:
        """CURLOPT_CLOSESOCKETFUNCTION."""
        with self._lock:
            self._descriptors.discard(descriptor)
            os.close(descriptor)
        return 0

    def end(self) -> None:
        """Break every connection, and every later one."""
        with self._lock:
            self.ended = True
            for descriptor in self._descriptors:
                borrowed = socket.socket(fileno=descriptor)
                with suppress(OSError):  # it never came to a connection
                    borrowed.shutdown(socket.SHUT_RDWR)
                borrowed.detach()


class _Body:
    """What was read, up to `MAX_BODY` bytes."""

    __slots__ = ("chunks", "size")

    def __init__(self) -> None:
        self.chunks: list[bytes] = []
        self.size = 0

    def clear(self) -> None:
        self.chunks.clear()
        self.size = 0

    def write(self, chunk: bytes) -> int | None:
        """CURLOPT_WRITEFUNCTION: None takes the chunk, 0 ends the transfer."""
        self.size += len(chunk)
        if self.size > MAX_BODY:
            return 0
        self.chunks.append(chunk)
        return None


class _Turns:
    """Whose answer's headers are looked at: one a quarter of a second, the first one first."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._next = -math.inf

    def take(self) -> bool:
        now = time.monotonic()
        if now < self._next:
            return False
        with self._lock:
            mine = now >= self._next
            if mine:
                self._next = now + QUOTA_SECONDS
            return mine


class Connection:
    """One handle. What it says of an answer holds until it is prepared for the next request."""

    def __init__(
        self,
        settings: Sequence[tuple[int, object]],
        headers: Sequence[str],
        sockets: _Sockets | None,
        before_sending: BeforeSending,
        turns: _Turns,
    ) -> None:
        self._curl = pycurl.Curl()
        self._turns = turns
        self._looks = False
        self._lines: list[bytes] = []
        self._headers = headers
        self._sockets = sockets
        self._body = _Body()
        for option, value in settings:
            self._curl.setopt(option, value)
        self._curl.setopt(pycurl.WRITEFUNCTION, self._body.write)
        # After connecting and the TLS handshake: these must not carry a request into a later second.
        self._curl.setopt(pycurl.PREREQFUNCTION, _prerequisite(before_sending))
        if sockets is not None:
            self._curl.setopt(pycurl.SOCKOPTFUNCTION, sockets.opened)
            self._curl.setopt(pycurl.CLOSESOCKETFUNCTION, sockets.close)
        self._credential: Credential | None = _UNSET
        self._posts = True

    def prepare(self, url: str, *, credential: Credential | None, body: bytes | None) -> None:
        """Say what the next request is: a POST where there is a body."""
        curl = self._curl
        if credential is not self._credential:
            self._set_headers(credential)
        curl.setopt(pycurl.URL, url)
        if body is not None:
            curl.setopt(pycurl.POSTFIELDS, body)
        elif self._posts:
            curl.setopt(pycurl.HTTPGET, 1)
        self._posts = body is not None
        self._body.clear()
        self._look(self._turns.take())

    def perform(self) -> tuple[int, str]:
        """Send the request and wait; returns libcurl's error, 0 for none, with its words."""
        try:
            self._curl.perform()
        except pycurl.error as error:
            code, text = error.args
            return code, text
        return pycurl.E_OK, ""

    def status(self, code: int = pycurl.E_OK, text: str = "") -> int:
        """The answer's status, once libcurl has done with the request, and with its error.

        Raises:
            ExchangeFailed: but not for a body over `MAX_BODY`, which is cut off.
            NotSent: `before_sending` has said no.
        """
        # A write error is `_Body` refusing more: the status is good.
        if code not in (pycurl.E_OK, pycurl.E_WRITE_ERROR):
            if code == pycurl.E_ABORTED_BY_CALLBACK and not self._stopped:
                raise NotSent("held back")
            raise ExchangeFailed(self._trouble(code, text))
        status: int = self._curl.getinfo(pycurl.RESPONSE_CODE)
        return status

    @property
    def handle(self) -> pycurl.Curl:
        """What `Transfers` runs instead of `perform`."""
        return self._curl

    @property
    def body(self) -> bytes | None:
        """The body; None if it was larger than `MAX_BODY` bytes."""
        return None if self._body.size > MAX_BODY else b"".join(self._body.chunks)

    @property
    def retry_after(self) -> float | None:
        """Seconds to wait from now (RFC 9110, 10.2.3), at most six hours.

        None where the header is missing, unreadable, zero or in the past: libcurl does not
        tell these apart, and none of them says how long to wait.
        """
        return float(self._curl.getinfo(pycurl.RETRY_AFTER)) or None

    @property
    def quota(self) -> Quota | None:
        """What is left of the API's quota, where this answer was looked at and says so."""
        return read_quota(self._lines) if self._looks else None

    def _look(self, wanted: bool) -> None:
        """Have the answer's header lines collected, or not."""
        self._lines.clear()
        if wanted is not self._looks:
            self._curl.setopt(pycurl.HEADERFUNCTION, self._lines.append if wanted else None)
            self._looks = wanted

    @property
    def redirect_url(self) -> str | None:
        """The absolute target of a redirect, in ASCII; libcurl follows none by itself."""
        target: bytes | None = self._curl.getinfo_raw(pycurl.REDIRECT_URL)
        return None if target is None else quote(target, safe=string.punctuation)

    @property
    def _stopped(self) -> bool:
        return self._sockets is not None and self._sockets.ended

    def _set_headers(self, credential: Credential | None) -> None:
        headers = list(self._headers)
        if credential is not None:
            headers.append(f"{credential.name}: {credential.value}")
        self._curl.setopt(pycurl.HTTPHEADER, [header.encode() for header in headers])
        self._credential = credential

    def _trouble(self, code: int, text: str) -> str:
        """What to say of libcurl's error: of its texts, which hold addresses, only what names TLS trouble."""
        if self._stopped:
            return "stopped"
        if code == pycurl.E_OPERATION_TIMEDOUT:
            kind = "timeout" if text.startswith("Operation") else "connect timeout"
            return f"{kind} after {round(self._curl.getinfo(pycurl.TOTAL_TIME), 1):g} s"
        if code == pycurl.E_COULDNT_CONNECT and (errno := self._curl.getinfo(pycurl.OS_ERRNO)):
            return os.strerror(errno).lower()
        if (status := self._curl.getinfo(pycurl.HTTP_CONNECTCODE)) >= 300:
            return f"the proxy answered HTTP {status}"
        if code == pycurl.E_PEER_FAILED_VERIFICATION:
            found = _CERTIFICATE_TROUBLE.search(text)
            return f"certificate: {found[1].strip() if found else 'for another host'}"
        if alert := _TLS_TROUBLE.search(text):
            return f"TLS: {alert[1]}"
        return _TROUBLES.get(code, f"libcurl error {code}")


def _prerequisite(before_sending: BeforeSending) -> Callable[..., int]:
    """CURLOPT_PREREQFUNCTION, which is given the connection's addresses."""

    def ready(*_addresses: object) -> int:
        held_back = before_sending() is False
        return int(pycurl.PREREQFUNC_ABORT if held_back else pycurl.PREREQFUNC_OK)

    return ready


class Connections:
    """The connections to one API, the one used last first.

    Not one a thread: a pool of threads takes turns, so each of hundreds of connections
    would be used so seldom that the server closes it in between.

    Raises:
        ConfigError: a certificate file is missing or cannot be used.
    """

    def __init__(self, config: Ratings, before_sending: BeforeSending, *, interruptible: bool = True) -> None:
        """With `interruptible`, `end` works, and each connection is of use outside `Transfers` only."""
        _check_certificates(config)
        self._before_sending = before_sending
        self._settings = tuple(_settings(config))
        self._headers = _headers(config)
        self._sockets = _Sockets()
        self._shared = self._sockets if interruptible else None
        self._turns = _Turns()
        self._idle: deque[Connection] = deque()

    @property
    def ended(self) -> bool:
        return self._sockets.ended

    def end(self) -> None:
        """Break every exchange under way, and let none begin any more."""
        self._sockets.end()

    def take(self) -> Connection:
        """A connection for this thread alone, until it gives it back."""
        try:
            return self._idle.pop()
        except IndexError:
            return Connection(self._settings, self._headers, self._shared, self._before_sending, self._turns)

    def give_back(self, connection: Connection) -> None:
        self._idle.append(connection)


def _check_certificates(config: Ratings) -> None:
    """Let a wrong file be an error now, not the night's outage; libcurl reads them when it connects."""
    try:
        if config.ca_bundle:
            ssl.create_default_context(cafile=ca_bundle(config.ca_bundle))
        if config.client_cert:
            # An empty password, for a key that has one: OpenSSL would ask the terminal.
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
            context.load_cert_chain(config.client_cert, config.client_key or None, password="")
    except OSError as error:  # ssl.SSLError is one
        raise ConfigError(f"A certificate file under [ratings] cannot be used: {error}.") from None


def _settings(config: Ratings) -> Iterator[tuple[int, object]]:
    yield pycurl.NOSIGNAL, 1
    # A name server that does not answer must not keep a thread from ending.
    yield _QUICK_EXIT, 1
    yield pycurl.USERAGENT, f"esgbatch/{__version__}"
    yield pycurl.PROTOCOLS, pycurl.PROTO_HTTP | pycurl.PROTO_HTTPS
    # HTTP/2 costs a third more with one transfer a connection, and may repeat requests.
    yield pycurl.HTTP_VERSION, pycurl.CURL_HTTP_VERSION_1_1
    # An account ID may be `..`: RFC 3986, 5.2.4 must not be applied to it.
    yield pycurl.PATH_AS_IS, 1
    # libcurl repeats a request by itself when a kept-alive connection dies before the answer
    # (Curl_retry_request): a request without a permit. Nothing but this turns that off.
    yield _RTSP_REQUEST, _RTSP_RECEIVE
    # A server that drips must not hold us: one limit for connecting, and one for everything.
    yield pycurl.CONNECTTIMEOUT_MS, _milliseconds(config.timeout.connect)
    yield pycurl.TIMEOUT_MS, _milliseconds(config.timeout.connect + config.timeout.read)
    bundle = ca_bundle(config.ca_bundle)
    folder = ca_folder(bundle)
    for file_option, folder_option in (
        (pycurl.CAINFO, pycurl.CAPATH),
        (pycurl.PROXY_CAINFO, pycurl.PROXY_CAPATH),
    ):
        # None takes libcurl's own default away.
        yield file_option, None if folder else bundle
        yield folder_option, folder
    yield pycurl.SSLVERSION, pycurl.SSLVERSION_TLSv1_2
    yield pycurl.SSL_VERIFYPEER, 1
    yield pycurl.SSL_VERIFYHOST, 2
    if config.client_cert:
        yield pycurl.SSLCERT, config.client_cert
        yield pycurl.SSLKEY, config.client_key or config.client_cert
    # Empty texts keep libcurl from the environment's http_proxy and no_proxy.
    yield pycurl.PROXY, config.proxy
    yield pycurl.NOPROXY, ""


def _headers(config: Ratings) -> tuple[str, str]:
    # With nothing after the colon, libcurl sends no Content-Type of its own.
    kind = "" if config.body is None else " application/json"
    return "Accept: application/json", f"Content-Type:{kind}"


def _milliseconds(seconds: float) -> int:
    """libcurl takes 0 for "no limit", and a C int."""
    return min(max(1, round(seconds * 1000)), 2**31 - 1)
