"""The recipients' public keys: pinned by full fingerprint, checked, and kept in a keyring of the job's own."""

from __future__ import annotations

import shlex
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from esgbatch.config.model import Encryption
from esgbatch.encryption.process import Library, open_library
from esgbatch.errors import ConfigError, EncryptionError
from esgbatch.files import alone, replacing

MAX_KEY_FILE = 1 << 20

Colons = dict[str, Any]
"""One key as python-gnupg lists it: gpg's colon format (GnuPG's doc/DETAILS) by field name."""


@dataclass(frozen=True, slots=True)
class RecipientKey:
    """A public key that was checked, as it lies in the job's own keyring.

    `source` is the configured file, for messages; `copy` holds the bytes that were
    checked, and only they are encrypted with. `subkey_ids` are the 16-digit IDs of the
    keys in it that may encrypt, and `expires` is when none of them can any more.
    """

    fingerprint: str
    source: Path
    copy: Path
    subkey_ids: tuple[str, ...]
    expires: datetime | None


def load_recipients(config: Encryption, home: Path, now: float) -> tuple[RecipientKey, ...]:
    """Read every key file once, check it, and copy it into `home`; in the order of `config.fingerprints`.

    `now` is in seconds since the epoch.

    Raises:
        ConfigError: a file is missing or holds anything but one public key, or the keys
            are not exactly the pinned ones.
        EncryptionError: a key is expired, revoked, or cannot encrypt.
    """
    make_private_folder(home)
    keys: dict[str, RecipientKey] = {}
    with _fresh(home):
        library = open_library(config.gpg, home, "--no-autostart", "--no-keyring")
        for source in config.recipients:
            data = read_key_file(source)
            listed = list_only_key(library, source, data)
            fingerprint = _pinned(config, source, listed)
            if fingerprint in keys:
                raise ConfigError(f"The key files {keys[fingerprint].source} and {source} hold the same key.")
            subkey_ids, expires = _encryption_keys(source, listed, now)
            copy = home / f"{fingerprint}.asc"
            _write_private(copy, data)
            keys[fingerprint] = RecipientKey(fingerprint, source, copy, subkey_ids, expires)
    missing = [fingerprint for fingerprint in config.fingerprints if fingerprint not in keys]
    if missing:
        raise ConfigError(
            f"No file of encryption.recipients holds the key {missing[0]} of encryption.fingerprints."
        )
    return tuple(keys[fingerprint] for fingerprint in dict.fromkeys(config.fingerprints))


def make_private_folder(folder: Path) -> None:
    """A folder that only we can enter, as gpg wants its home, in one that is there.

    Raises:
        EncryptionError: it cannot be had.
    """
    try:
        folder.mkdir(mode=0o700, exist_ok=True)
        folder.chmod(0o700)
    except OSError as error:
        raise EncryptionError(f"The keyring folder {folder} cannot be made: {error.strerror}.") from error


def read_key_file(source: Path) -> bytes:
    """A key file's bytes.

    Raises:
        ConfigError: it cannot be read, or is no key file by its size.
    """
    try:
        with source.open("rb") as file:
            data = file.read(MAX_KEY_FILE + 1)
    except OSError as error:
        raise ConfigError(f"The key file {source} cannot be read: {error.strerror}.") from error
    if len(data) > MAX_KEY_FILE:
        raise ConfigError(f"The key file {source} is larger than 1 MiB, so it is no exported key.")
    return data


def list_only_key(library: Library, source: Path, data: bytes, *, secret: bool = False) -> Colons:
    """What gpg reads in a key file that must hold exactly one key, public or secret.

    Raises:
        ConfigError: it holds another number of keys, or the other kind.
        EncryptionError: gpg gave no answer.
    """
    found = library.scan_keys_mem(data)
    if found.returncode not in (0, 2):
        raise EncryptionError(
            f"gpg could not read the key file {source}: it ended with code {found.returncode}."
        )
    kinds = {key["type"] for key in found}
    if "sec" in kinds and not secret:
        raise ConfigError(
            f"The key file {source} holds a secret key, which must never lie here.",
            advice="replace it with the output of `gpg --armor --export FINGERPRINT`, then `esgbatch doctor`",
        )
    if not found:
        raise ConfigError(f"The key file {source} holds no readable OpenPGP key.")
    if found.returncode != 0:
        raise ConfigError(f"The key file {source} is damaged or cut off.")
    if len(found) > 1:
        raise ConfigError(f"The key file {source} holds {len(found)} keys; it must hold exactly one.")
    if secret and "sec" not in kinds:
        raise ConfigError(f"The key file {source} holds no secret key, so nothing can be signed with it.")
    key: Colons = found[0]
    return key


def _pinned(config: Encryption, source: Path, listed: Colons) -> str:
    fingerprint: str = listed["fingerprint"]
    if fingerprint not in config.fingerprints:
        raise ConfigError(
            f"The key in {source} has the fingerprint {fingerprint}, which is not in encryption.fingerprints: "
            "the file was exchanged, or the configuration names another key.",
            advice="ask the key's owner for the fingerprint by another way, correct the one that is wrong, "
            "then `esgbatch doctor`",
        )
    return fingerprint


def _encryption_keys(source: Path, listed: Colons, now: float) -> tuple[tuple[str, ...], datetime | None]:
    """The IDs of the keys that may encrypt, and when the last of them ends."""
    _refuse_unusable(source, "key", listed, now)
    subkeys: dict[str, Colons] = listed.get("subkey_info", {})
    able = {
        key_id: key
        for key_id, key in {listed["keyid"]: listed, **subkeys}.items()
        if "e" in key["cap"]  # lower case: this key itself, not the whole
    }
    if not able:
        raise _unusable(source, "cannot encrypt: it has no encryption subkey")
    usable = {key_id: key for key_id, key in able.items() if _defect(key, now) is None}
    if not usable:
        _refuse_unusable(source, "encryption subkey", max(able.values(), key=_end), now)
    end = min(_end(listed), max(map(_end, usable.values())))
    return tuple(usable), None if end == float("inf") else datetime.fromtimestamp(end, UTC)


def _refuse_unusable(source: Path, what: str, key: Colons, now: float) -> None:
    defect = _defect(key, now)
    if defect is not None:
        raise _unusable(source, defect, what)


def _defect(key: Colons, now: float) -> str | None:
    if key["trust"] == "r":
        return "is revoked"
    if key["trust"] == "e" or _end(key) <= now:
        return f"expired on {datetime.fromtimestamp(_end(key), UTC):%Y-%m-%d}"
    return "does not carry its own valid signature" if key["trust"] in ("d", "i", "n") else None


def _end(key: Colons) -> float:
    """The key's expiry in seconds since the epoch."""
    return float(key["expires"] or "inf")


def _unusable(source: Path, defect: str, what: str = "key") -> EncryptionError:
    return EncryptionError(
        f"The {what} in {source} {defect}, so nothing may be encrypted to it.",
        advice=f"ask its owner for a good public key, put it into {shlex.quote(str(source))}, "
        "then `esgbatch resume --date {date}`",
    )


@contextmanager
def _fresh(home: Path) -> Iterator[None]:
    """The home to ourselves, without gpg's trust database: a crash may have cut it, which is fatal to gpg.

    gpg has to make one anew where a key is expired; nothing of ours depends on what is in it.
    """
    with ExitStack() as stack:
        try:
            stack.enter_context(alone(home))
            (home / "trustdb.gpg").unlink(missing_ok=True)
        except OSError as error:
            raise EncryptionError(f"The keyring folder {home} cannot be used: {error.strerror}.") from error
        yield


def _write_private(path: Path, data: bytes) -> None:
    """Replace the file in one step, where it is another: a process of ours may be encrypting with it."""
    try:
        if not path.exists() or path.read_bytes() != data:
            with replacing(path) as file:
                file.write(data)
    except OSError as error:
        raise EncryptionError(f"The keyring file {path} cannot be written: {error.strerror}.") from error
