"""Which certificate authorities are trusted, and how TLS is set up. Verification is always on."""

from __future__ import annotations

import os
import ssl
from collections.abc import Iterator
from datetime import datetime, timedelta
from pathlib import Path
from urllib.parse import urlsplit

import certifi

from esgbatch.errors import ConfigError

# Debian and its family, Red Hat and its family, Alpine and SUSE.
SYSTEM_BUNDLES = (
    Path("/etc/ssl/certs/ca-certificates.crt"),
    Path("/etc/pki/tls/certs/ca-bundle.crt"),
    Path("/etc/ssl/ca-bundle.pem"),
)

MOST_OF_A_FIRM = 20
EXPIRES_SOON = timedelta(days=30)


def ca_bundle(configured: str = "") -> str:
    """The PEM file of trusted CAs: the configured one, else the system's, where firms add their own CA.

    Raises:
        ConfigError: the configured file, or the one that SSL_CERT_FILE names, is not there.
    """
    for path, source in ((configured, ""), (os.environ.get("SSL_CERT_FILE", ""), ", from SSL_CERT_FILE,")):
        if path:
            if not Path(path).is_file():
                raise ConfigError(f"The CA bundle {path}{source} is not there.")
            return path
    return next((str(path) for path in SYSTEM_BUNDLES if path.is_file()), certifi.where())


def tls_context(configured: str = "", client_cert: str = "", client_key: str = "") -> ssl.SSLContext:
    """A verifying client context, with our own certificate where there is one.

    Raises:
        ConfigError: a file is missing or cannot be used.
    """
    path = ca_bundle(configured)
    try:
        context = ssl.create_default_context(cafile=path)
    except OSError as error:  # ssl.SSLError is one
        raise ConfigError(f"The CA bundle {path} cannot be used: {reason(error)}.") from None
    if client_cert:
        try:
            # An empty password, for a key that has one: OpenSSL would ask the terminal.
            context.load_cert_chain(client_cert, client_key or None, password="")
        except OSError as error:
            files = f"{client_cert} with the key {client_key or 'in it'}"
            raise ConfigError(f"The certificate {files} cannot be used: {reason(error)}.") from None
    return context


def ending_certificates(path: str, now: datetime) -> Iterator[tuple[str, datetime]]:
    """Subject and end of each certificate in a PEM file that should have been renewed by now.

    That is 30 days before its end, or where it lives for less than 90, in its last third: those
    are renewed by a machine. A bundle of the whole world's authorities is not looked at.
    """
    from cryptography import x509

    try:
        found = x509.load_pem_x509_certificates(Path(path).read_bytes())
    except (OSError, ValueError):
        return  # those who use the file say what is wrong with it
    for each in found if len(found) <= MOST_OF_A_FIRM else ():
        ends, life = each.not_valid_after_utc, each.not_valid_after_utc - each.not_valid_before_utc
        if now < ends <= now + min(EXPIRES_SOON, life / 3):
            yield each.subject.rfc4514_string(), ends


def reason(error: OSError) -> str:
    """Why, in words without an address."""
    if isinstance(error, ssl.SSLCertVerificationError):
        return f"certificate: {error.verify_message.rstrip('.')}"
    if isinstance(error, ssl.SSLError) and error.reason:
        return f"TLS: {error.reason.replace('_', ' ').lower()}"
    return error.strerror or type(error).__name__


def origin(url: str) -> tuple[str, str, int]:
    """Scheme, host and port (RFC 6454): credentials never leave the one they are for."""
    parts = urlsplit(url)
    port = parts.port or (443 if parts.scheme == "https" else 80)
    return parts.scheme, (parts.hostname or "").lower(), port
