"""Opening a sealed file, with the keyring of whoever asks, or with a key file."""

from __future__ import annotations

import errno
import hashlib
import os
import shlex
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO
from urllib.parse import unquote

from esgbatch.config.secrets import require_private
from esgbatch.encryption.keys import list_only_key, read_key_file
from esgbatch.encryption.process import OFFLINE, GpgProcess, open_library
from esgbatch.encryption.signing import readable, temporary_home
from esgbatch.errors import ConfigError, EncryptionError
from esgbatch.model import Digest

CHUNK = 1 << 16
PATIENCE = 600.0  # seconds: a person may have to look for a passphrase or a smart card
TERMINAL = ("HOME", "TERM", "GPG_TTY", "DISPLAY", "WAYLAND_DISPLAY", "XAUTHORITY", "DBUS_SESSION_BUS_ADDRESS")


@dataclass(frozen=True, slots=True)
class Opened:
    """What was in the file, both ends' digests, the name inside (RFC 9580, 5.9), and whose key opened it."""

    plaintext: Digest
    encrypted: Digest
    name: str
    key: str | None


@dataclass(frozen=True, slots=True)
class Holder:
    """Who opens: the own keyring, or `key`, a secret key file, with what `passphrase` gives."""

    gpg: str
    key: Path | None = None
    passphrase: Callable[[], str] = lambda: ""

    def open(self, source: BinaryIO, output: int) -> Opened:
        """Decrypt `source` to the descriptor `output`, all of it.

        gpg gives out plaintext before it knows that the file is whole: nothing may be used of it
        before this has returned.

        Raises:
            EncryptionError: no key there opens it, or it is not whole.
            ConfigError: the keyring, the key file or its passphrase cannot be used.
        """
        digest, size = hashlib.sha256(), 0
        with self._home() as (arguments, inherit):
            options = ("--no-options", "--batch", "--no-tty", *OFFLINE, "--skip-verify", "--output", "-")
            gpg = GpgProcess(
                self.gpg,
                (*arguments, *options, "--decrypt"),
                output=output,
                stall=PATIENCE,
                inherit=inherit,
                terminal=_terminal(),
            )
            try:
                with gpg:
                    while chunk := source.read(CHUNK):
                        gpg.write(chunk)
                        digest.update(chunk)
                        size += len(chunk)
                    status = gpg.finish()
            except EncryptionError as error:
                raise self._explained(error) from error
        said = {words[0]: words[1:] for words in (line.split(" ") for line in status) if words[0]}
        if "DECRYPTION_OKAY" not in said or "GOODMDC" not in said:
            raise EncryptionError("gpg does not say that the file is whole.", advice="get it again")
        named = said.get("PLAINTEXT", [])
        key = said.get("DECRYPTION_KEY", [])
        return Opened(
            _digest(output),
            Digest(digest.hexdigest(), size),
            unquote(named[2]) if len(named) > 2 else "",
            key[1] if len(key) > 1 else None,
        )

    @contextmanager
    def _home(self) -> Iterator[tuple[Sequence[str], Sequence[int]]]:
        if self.key is None:
            home = Path(os.environ.get("GNUPGHOME") or Path.home() / ".gnupg")
            if not home.is_dir():
                raise ConfigError(
                    f"There is no keyring at {home}.",
                    advice="set GNUPGHOME to yours, or name a secret key file with --key",
                )
            yield ("--homedir", str(home)), ()
            return
        require_private(self.key)
        data = read_key_file(self.key)
        with temporary_home(self.gpg) as home:
            library = open_library(self.gpg, home)
            list_only_key(library, self.key, data, secret=True)
            if not library.import_keys(data).sec_imported:
                raise EncryptionError(f"gpg does not take the secret key in {self.key}.")
            with readable(self.passphrase().encode() + b"\n") as descriptor:
                loopback = ("--pinentry-mode", "loopback", "--passphrase-fd", str(descriptor))
                yield ("--homedir", str(home), *loopback), (descriptor,)

    def _explained(self, error: EncryptionError) -> EncryptionError | ConfigError:
        words = str(error)
        if "assphrase" in words or "Operation cancelled" in words or "No pinentry" in words:
            return ConfigError(
                "The secret key's passphrase is missing or wrong.",
                advice="try again in a terminal, or give it with --key and --passphrase-file",
            )
        if "No secret key" in words:
            where = "your keyring" if self.key is None else shlex.quote(str(self.key))
            return EncryptionError(
                f"Nothing in {where} opens this file.",
                advice="set GNUPGHOME to the keyring of one of its recipients, or name the key with --key",
            )
        return EncryptionError(f"The file cannot be opened: {words.rstrip('.')}.", advice="get it again")


def _terminal() -> dict[str, str]:
    known = {name: os.environ[name] for name in TERMINAL if name in os.environ}
    if "GPG_TTY" not in known and sys.stdin is not None and sys.stdin.isatty():
        known["GPG_TTY"] = os.ttyname(sys.stdin.fileno())
    return known


def _digest(output: int) -> Digest:
    """Of what stands behind a descriptor that can be read from its beginning."""
    try:
        with open(output, "rb", closefd=False) as file:
            file.seek(0)
            return Digest(hashlib.file_digest(file, "sha256").hexdigest(), file.tell())
    except OSError as error:
        raise EncryptionError(
            f"What gpg wrote cannot be read back: {error.strerror or errno.errorcode[errno.EIO]}."
        ) from None
