"""requests, set up the way the job needs it: no environment, no own retries, bounded bodies."""

from __future__ import annotations

import time
from urllib.parse import urljoin

import requests

from esgbatch.config.model import Web
from esgbatch.http.trust import ca_bundle, origin

MAX_REDIRECTS = 5
MAX_TOKEN_BYTES = 64 * 1024


class BodyTooLarge(Exception):
    """The answer is longer than the caller can use."""


def open_session(web: Web) -> requests.Session:
    """A session for one server: its CA, our certificate, its proxy, nothing from the environment.

    Raises:
        ConfigError: the CA bundle is not there.
    """
    session = requests.Session()
    session.trust_env = False
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
    params: dict[str, str] | None,
    credential: tuple[str, str] | None,
    timeout: float,
) -> requests.Response:
    """GET with redirects followed by hand: another origin never sees the credential.

    requests itself takes only `Authorization` away, not an API key's header. The caller
    reads the body with `read_bounded`.

    Raises:
        requests.RequestException: also for more than five redirects.
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
        target = urljoin(response.url, response.headers["location"])
        response.close()
        if home[0] == "https" and origin(target)[0] != "https":
            raise requests.exceptions.InvalidURL("redirected from https to plain http")
        url, params = target, None
    raise requests.exceptions.TooManyRedirects(f"more than {MAX_REDIRECTS} redirects")


def read_bounded(response: requests.Response, limit: int, *, seconds: float) -> bytes:
    """The whole decoded body, or an error as soon as it is longer than `limit` bytes.

    requests limits the time of one read only, so a server that drips could hold us for
    ever; `seconds` limits the whole body.

    Raises:
        BodyTooLarge: a body, or what it unpacks to, is too long.
        requests.RequestException: reading failed, or took too long.
    """
    until = time.monotonic() + seconds
    body = bytearray()
    for chunk in response.iter_content(64 * 1024):
        body += chunk
        if len(body) > limit:
            response.close()
            raise BodyTooLarge(f"more than {limit} bytes")
        if time.monotonic() > until:
            response.close()
            raise requests.exceptions.ReadTimeout(f"the body was not complete after {seconds:.0f} s")
    return bytes(body)
