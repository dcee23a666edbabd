"""requests, set up the way the job needs it: no environment, no own retries, bounded answers."""

from __future__ import annotations

import http.client
import ssl
import string
from collections.abc import Iterator, Mapping
from datetime import UTC
from email.utils import parsedate_to_datetime
from urllib.parse import quote, urljoin

import requests
from pydantic import TypeAdapter, ValidationError

from esgbatch import __version__
from esgbatch.config.model import Web, WebUrl
from esgbatch.http.adapter import TimedAdapter
from esgbatch.http.trust import ca_bundle, origin, reason, tls_context

MAX_REDIRECTS = 5
MAX_TOKEN_BYTES = 64 * 1024

_WORDS: tuple[tuple[type[BaseException], str], ...] = (
    (http.client.RemoteDisconnected, "the connection was closed without an answer"),
    (http.client.IncompleteRead, "the answer was cut short"),
    (http.client.HTTPException, "no valid HTTP"),
    (TimeoutError, "timed out"),
    (requests.exceptions.ChunkedEncodingError, "the answer was cut short"),
    (requests.exceptions.ContentDecodingError, "the answer is not compressed as it says"),
)
_WEB_URL: TypeAdapter[str] = TypeAdapter(WebUrl)


class BodyTooLarge(Exception):
    """The answer is longer than the caller can use."""


class _Session(requests.Session):
    """A redirect is an answer like any other.

    requests would, even where it is told to follow none, read the whole body of one, and
    raise ValueError for a bad address.
    """

    def get_redirect_target(self, resp: requests.Response) -> None:  # noqa: ARG002 - the base class's
        return None


def open_session(web: Web) -> requests.Session:
    """A session for one server: its CA, our certificate, its proxy, nothing from the environment.

    The `timeout` of a request limits connecting, and then the whole answer.

    Raises:
        ConfigError: a CA bundle, certificate or key cannot be used.
    """
    # requests reads these files when it connects, where a wrong one looks like the server's failure.
    tls_context(web.ca_bundle, web.client_cert, web.client_key)
    session = _Session()
    session.trust_env = False
    session.headers["User-Agent"] = f"esgbatch/{__version__}"
    for scheme in ("https://", "http://"):
        session.mount(scheme, TimedAdapter())
    session.verify = ca_bundle(web.ca_bundle)
    if web.client_cert:
        session.cert = (web.client_cert, web.client_key) if web.client_key else web.client_cert
    if web.proxy:
        session.proxies = {"http": web.proxy, "https": web.proxy}
    return session


def get(
    session: requests.Session,
    url: str,
    *,
    params: Mapping[str, str] | None,
    credential: tuple[str, str] | None,
    timeout: float,
) -> requests.Response:
    """GET with redirects followed by hand: another origin never sees the credential.

    requests itself takes only `Authorization` away, not an API key's header. The caller
    reads the body with `read_bounded`.

    Raises:
        requests.RequestException: also for more than five redirects, and as `resolve` does.
    """
    home = origin(url)
    for _ in range(MAX_REDIRECTS + 1):
        headers = {"Accept": "application/json"}
        if credential is not None and origin(url) == home:
            headers[credential[0]] = credential[1]
        response = session.get(
            url, params=params, headers=headers, timeout=timeout, allow_redirects=False, stream=True
        )
        if not response.is_redirect:
            return response
        response.close()
        url, params = resolve(response.url, response.headers["Location"]), None
    raise requests.exceptions.TooManyRedirects(f"more than {MAX_REDIRECTS} redirects")


def resolve(url: str, reference: str) -> str:
    """The absolute URL that an answer from `url` sends us to (RFC 3986, 5).

    Raises:
        requests.exceptions.InvalidURL: the configuration could not send us there either, or
            it leads from https to plain http.
    """
    try:
        # http.client takes headers as Latin-1; bytes beyond ASCII are for percent-encoding (RFC 3986, 2.1).
        target = urljoin(url, quote(reference.encode("latin-1"), safe=string.punctuation))
        _WEB_URL.validate_python(target)
        if (origin(url)[0], origin(target)[0]) == ("https", "http"):
            raise ValueError("from https to plain http")
    except ValidationError as error:
        why = error.errors(include_url=False, include_input=False)[0]["msg"].removeprefix("Value error, ")
    except ValueError as error:
        why = str(error)
    else:
        return target
    raise requests.exceptions.InvalidURL(f"we are sent to where we do not go: {why}")


def read_bounded(response: requests.Response, limit: int) -> bytes:
    """The whole decoded body, or an error as soon as it is longer than `limit` bytes.

    Raises:
        BodyTooLarge: a body, or what it unpacks to, is too long.
        requests.RequestException: reading failed, or took too long.
    """
    body = bytearray()
    for chunk in response.iter_content(64 * 1024):
        body += chunk
        if len(body) > limit:
            response.close()
            raise BodyTooLarge(f"more than {limit} bytes")
    return bytes(body)


def retry_after(headers: Mapping[str, str], now: float) -> float | None:
    """The seconds to wait that an answer asks for (RFC 9110, 10.2.3); None where it asks for none.

    A date is measured against the answer's own Date, so that neither clock has to be right;
    `now`, in seconds since the epoch, serves where there is none.
    """
    value = headers.get("Retry-After", "").strip()
    if value.isascii() and value.isdigit():
        return float(value)
    until = _moment(value)
    if until is None:
        return None
    sent = _moment(headers.get("Date", ""))
    return max(0.0, until - (now if sent is None else sent))


def _moment(value: str) -> float | None:
    try:
        moment = parsedate_to_datetime(value)
    except (TypeError, ValueError):
        return None
    return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp()


def explain(error: BaseException) -> str:
    """Why a request failed, from what lies behind the exception: requests' own texts hold the address."""
    for cause in reversed(list(_causes(error))):
        for kind, words in _WORDS:
            if isinstance(cause, kind):
                return words
        if isinstance(cause, ssl.SSLError) or (isinstance(cause, OSError) and cause.strerror):
            return reason(cause)
    return type(error).__name__


def is_certificate_problem(error: BaseException) -> bool:
    """Whether the server's certificate was refused: no retry helps."""
    return any(isinstance(cause, ssl.SSLCertVerificationError) for cause in _causes(error))


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        wrapped = (argument for argument in error.args if isinstance(argument, BaseException))
        error = error.__cause__ or error.__context__ or next(wrapped, None)
