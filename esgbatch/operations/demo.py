"""The whole job against the sandbox: keys, configuration, run, and the decrypted file to look at."""

from __future__ import annotations

import json
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import gnupg

from esgbatch.errors import EncryptionError
from esgbatch.files import private_folder, replacing
from esgbatch.sandbox.places import Places

UNLIMITED = 100_000.0


@dataclass(frozen=True, slots=True)
class Recipient:
    """The sandbox's compliance desk: a fresh key pair, whose secret half stays in `home`."""

    home: Path
    public_key: Path
    fingerprint: str

    def decrypt(self, sealed: Path, target: Path) -> None:
        """Open a delivered file as the compliance desk would.

        Raises:
            EncryptionError: gpg cannot open it.
        """
        command = ["gpg", "--homedir", str(self.home), "--batch", "--yes", "--output", str(target), "--decrypt"]
        result = subprocess.run([*command, str(sealed)], capture_output=True, check=False)
        if result.returncode:
            words = result.stderr.decode(errors="replace").strip().splitlines()
            raise EncryptionError(f"gpg cannot open {sealed}: {words[-1] if words else 'no reason given'}.")


@contextmanager
def recipient(folder: Path) -> Iterator[Recipient]:
    """Make a key pair; its agent ends with the context. The public key goes to `folder`.

    The secret key's home is in the system's temporary folder, since the path of the
    agent's socket must be short.

    Raises:
        EncryptionError: gpg is missing or cannot make a key.
    """
    home = Path(tempfile.mkdtemp(prefix="esgkey-"))
    try:
        try:
            gpg = gnupg.GPG(gnupghome=str(home))
        except (OSError, ValueError) as error:
            raise EncryptionError(
                f"gpg cannot be started: {error}.", advice="install GnuPG: `apt-get install gnupg`"
            ) from None
        wanted = gpg.gen_key_input(
            key_type="EDDSA",
            key_curve="ed25519",
            subkey_type="ECDH",
            subkey_curve="cv25519",
            name_real="Sandbox Compliance Desk",
            name_email="compliance@sandbox.example",
            expire_date="1y",
            no_protection=True,
        )
        key = gpg.gen_key(wanted)
        if not key.fingerprint:
            raise EncryptionError(f"gpg cannot make a key: {key.stderr.strip()}")
        public_key = folder / "compliance.asc"
        with replacing(public_key, 0o644) as file:
            file.write(gpg.export_keys(key.fingerprint).encode())
        yield Recipient(home, public_key, key.fingerprint)
    finally:
        subprocess.run(["gpgconf", "--homedir", str(home), "--kill", "all"], capture_output=True, check=False)
        shutil.rmtree(home, ignore_errors=True)


def write_config(folder: Path, places: Places, desk: Recipient, *, rate: float | None) -> Path:
    """A configuration for the sandbox's servers, as an operator would write it; returns its path."""
    secret = private_folder(folder / "secrets")
    for name, value in (
        ("client_secret", places.login.client_secret),
        ("smtp_password", places.mail.password),
        ("routing_key", places.pager.routing_key),
    ):
        with replacing(secret / name) as file:
            file.write(value.encode())
    path = folder / "esgbatch.toml"
    with replacing(path) as file:
        file.write(_config(folder, places, desk, rate).encode())
    return path


def _config(folder: Path, places: Places, desk: Recipient, rate: float | None) -> str:
    text = json.dumps  # a JSON string is a TOML string (TOML 1.0, basic strings)
    secret = folder / "secrets"
    return f"""\
# Written for the sandbox: the same keys as for a firm's own servers.
[job]
state_dir = {text(str(folder / "state"))}
environment = "sandbox"

[accounts]
url = {text(places.accounts_url)}
ca_bundle = {text(places.ca_bundle)}

[ratings]
url = {text(places.ratings_url)}
ca_bundle = {text(places.ca_bundle)}
rate_limit = {rate or UNLIMITED}
{_ratings_auth(places, secret)}

[encryption]
recipients = [{text(str(desk.public_key))}]
fingerprints = [{text(desk.fingerprint)}]

[delivery]
host = {text(places.sftp.host)}
port = {places.sftp.port}
username = {text(places.sftp.username)}
private_key = {text(places.sftp.private_key)}
known_hosts = {text(places.sftp.known_hosts)}
directory = {text(places.sftp.directory)}

[alerts.email]
host = {text(places.mail.host)}
port = {places.mail.port}
{_mail_login(places, secret)}
sender = "esgbatch@sandbox.example"
recipients = ["operations@sandbox.example"]
report_recipients = ["compliance@sandbox.example"]

[alerts.pagerduty]
routing_key = {{ file = {text(str(secret / "routing_key"))} }}
url = {text(places.pager.url)}

[logging]
directory = {text(str(folder / "logs"))}
"""


def _ratings_auth(places: Places, secret: Path) -> str:
    login = places.login
    if not login.token_url:
        return 'auth = { kind = "none" }'
    fields = {
        "kind": "oauth2",
        "token_url": login.token_url,
        "client_id": login.client_id,
        "scope": login.scope,
    }
    pairs = ", ".join(f"{key} = {json.dumps(value)}" for key, value in fields.items())
    return f"auth = {{ {pairs}, client_secret = {{ file = {json.dumps(str(secret / 'client_secret'))} }} }}"


def _mail_login(places: Places, secret: Path) -> str:
    if places.mail.security == "none":
        return 'security = "none"'
    return "\n".join(
        (
            f"security = {json.dumps(places.mail.security)}",
            f"username = {json.dumps(places.mail.username)}",
            f"password = {{ file = {json.dumps(str(secret / 'smtp_password'))} }}",
            f"ca_bundle = {json.dumps(places.mail.ca_bundle)}",
        )
    )
