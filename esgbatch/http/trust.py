"""Which certificate authorities are trusted, and how TLS is set up. Verification is always on."""

from __future__ import annotations

import os
import re
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
# Where the same families keep the same CAs as a file each, found by the hash of its name (`openssl rehash`).
SYSTEM_FOLDERS = (Path("/etc/ssl/certs"), Path("/etc/pki/ca-trust/extracted/pem/directory-hash"))
_HASHED = re.compile(r"[0-9a-f]{8}\.[0-9]+")
_CERTIFICATE = re.compile(rb"-----BEGIN CERTIFICATE-----.+?-----END CERTIFICATE-----", re.DOTALL)

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


def ca_folder(bundle: str) -> str | None:
    """The system's folder with exactly the CAs of the system's bundle; None for another bundle.

    From a folder OpenSSL loads the one CA that it needs, where a bundle means all of them for
    every libcurl handle: 0.8 MiB and 5 ms of CPU a connection, for a list like Debian's.
    A folder whose CAs are others than the bundle's is not used.
    """
    if Path(bundle) not in SYSTEM_BUNDLES:
        return None
    wanted = _certificates(Path(bundle))
    for folder in SYSTEM_FOLDERS:
        found = (_certificates(each) for each in _files(folder) if _HASHED.fullmatch(each.name))
        if set[bytes]().union(*found) == wanted:
            return str(folder)
    return None


def _files(folder: Path) -> list[Path]:
    try:
        return list(folder.iterdir())
    except OSError:
        return []


def _certificates(file: Path) -> set[bytes]:
    try:
        return {b"".join(each.split()) for each in _CERTIFICATE.findall(file.read_bytes())}
    except OSError:
        return set()


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
