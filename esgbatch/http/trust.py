"""Which certificate authorities are trusted, and how TLS is set up. Verification is always on."""

from __future__ import annotations

import os
import ssl
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


def ca_bundle(configured: str = "") -> str:
    """The PEM file of trusted CAs: the configured one, else the system's, where firms add their own CA.

    Raises:
        ConfigError: the configured file is not there.
    """
    if configured:
        if not Path(configured).is_file():
            raise ConfigError(f"The CA bundle {configured} is not there.")
        return configured
    if named := os.environ.get("SSL_CERT_FILE"):
        return named
    return next((str(path) for path in SYSTEM_BUNDLES if path.is_file()), certifi.where())


def tls_context(configured: str = "") -> ssl.SSLContext:
    """A verifying client context, for protocols that are not HTTP."""
    return ssl.create_default_context(cafile=ca_bundle(configured))


def origin(url: str) -> tuple[str, str, int]:
    """Scheme, host and port (RFC 6454): credentials never leave the one they are for."""
    parts = urlsplit(url)
    port = parts.port or (443 if parts.scheme == "https" else 80)
    return parts.scheme, (parts.hostname or "").lower(), port
