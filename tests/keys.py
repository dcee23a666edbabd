"""OpenPGP keys for tests, made and used by the real gpg: independent of everything in esgbatch."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

AGENT = "allow-loopback-pinentry\ndefault-cache-ttl 0\nmax-cache-ttl 0\ndisable-scdaemon\ns2k-count 65536\n"
ALGORITHMS = {"ed25519": ("ed25519", "cv25519"), "rsa": ("rsa2048", "rsa2048")}


@dataclass(frozen=True, slots=True)
class KeyPair:
    """A key as files: `public` and `secret` are ASCII-armored exports, `subkeys` 16-digit IDs in order."""

    fingerprint: str
    public: Path
    secret: Path
    passphrase: str
    subkeys: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Opened:
    """A decrypted file: its content, the name inside it, and the fingerprint of a good signature."""

    plaintext: bytes
    name: str
    signer: str | None


@contextmanager
def gpg_home() -> Iterator[Path]:
    """A gpg home with a path short enough for the agent's socket; nothing of it stays."""
    if shutil.which("gpg") is None:
        raise RuntimeError("these tests need gpg: apt-get install gnupg")
    home = Path(tempfile.mkdtemp(prefix="gpg-", dir="/tmp"))
    (home / "gpg-agent.conf").write_text(AGENT)
    try:
        yield home
    finally:
        subprocess.run(["gpgconf", "--homedir", home, "--kill", "all"], check=False, capture_output=True)
        shutil.rmtree(home, ignore_errors=True)


def gpg(
    home: Path, *arguments: str | Path, data: bytes = b"", passphrase: str = ""
) -> subprocess.CompletedProcess[bytes]:
    """Run gpg; a failure raises with its words. Status lines are on stderr."""
    command: list[str | Path] = ["gpg", "--homedir", home, "--batch", "--no-tty", "--status-fd", "2"]
    loopback = ["--pinentry-mode", "loopback", "--passphrase", passphrase]
    done = subprocess.run(
        [*command, *loopback, *arguments],
        input=data,
        capture_output=True,
        env={**os.environ, "LC_ALL": "C"},
        timeout=60,
    )
    if done.returncode != 0:
        raise RuntimeError(f"gpg {arguments}: {done.stderr.decode(errors='replace')}")
    return done


def make_key(
    folder: Path,
    name: str = "compliance",
    *,
    algorithm: Literal["ed25519", "rsa"] = "ed25519",
    expires: str = "never",
    subkey_expires: str | None = None,
    born: str | None = None,
    passphrase: str = "",
    encryption_subkeys: int = 1,
    revoked: bool = False,
) -> KeyPair:
    """Make a key and export it to `folder` as `NAME.asc` and `NAME.secret.asc`.

    `expires` is gpg's period (`10d`, `seconds=60`, `never`), counted from `born`
    (`20200101T000000`, UTC), by default now; so `born="20200101T000000", expires="1d"` is
    an expired key. Without encryption subkeys it can only sign.
    """
    primary, subkey = ALGORITHMS[algorithm]
    past = ["--faked-system-time", born] if born else []
    with gpg_home() as home:
        uid = f"{name} <{name}@firm.example>"
        gpg(home, *past, "--quick-gen-key", uid, primary, "cert,sign", expires, passphrase=passphrase)
        fingerprint = _records(home, "fpr", 9)[0]
        for _ in range(encryption_subkeys):
            period = subkey_expires or expires
            gpg(home, *past, "--quick-add-key", fingerprint, subkey, "encr", period, passphrase=passphrase)
        if revoked:
            prepared = (home / "openpgp-revocs.d" / f"{fingerprint}.rev").read_text()
            gpg(home, "--import", data=prepared.replace(":-----BEGIN", "-----BEGIN").encode())
        public, secret = folder / f"{name}.asc", folder / f"{name}.secret.asc"
        public.write_bytes(gpg(home, "--armor", "--export", fingerprint).stdout)
        secret.touch(mode=0o600)
        secret.write_bytes(
            gpg(home, "--armor", "--export-secret-keys", fingerprint, passphrase=passphrase).stdout
        )
        return KeyPair(fingerprint, public, secret, passphrase, tuple(_records(home, "sub", 4)))


def decrypt(sealed: Path, key: KeyPair, *, signer: KeyPair | None = None) -> Opened:
    """Open a file as its recipient would, checking the signature if `signer` is given; a damaged one raises."""
    with gpg_home() as home:
        gpg(home, "--import", data=key.secret.read_bytes(), passphrase=key.passphrase)
        if signer is not None:
            gpg(home, "--import", data=signer.public.read_bytes())
        verify = ["--trust-model", "always"] if signer is not None else ["--skip-verify"]
        done = gpg(home, *verify, "--decrypt", sealed, passphrase=key.passphrase)
    status = [
        line.removeprefix("[GNUPG:] ").split(" ")
        for line in done.stderr.decode().splitlines()
        if line.startswith("[GNUPG:] ")
    ]
    said = {words[0]: words[1:] for words in status}
    if "DECRYPTION_OKAY" not in said or "GOODMDC" not in said:
        raise RuntimeError(f"gpg does not call {sealed} whole: {done.stderr.decode()}")
    valid = said.get("VALIDSIG")
    return Opened(done.stdout, said["PLAINTEXT"][2], valid[-1] if valid else None)


def _records(home: Path, kind: str, column: int) -> list[str]:
    """A column of gpg's colon listing (GnuPG's doc/DETAILS)."""
    listing = gpg(home, "--list-keys", "--with-colons").stdout.decode()
    return [line.split(":")[column] for line in listing.splitlines() if line.startswith(f"{kind}:")]
