"""The master key: a secret of the configuration, or a file in the keyring folder that is made at need."""

from __future__ import annotations

import base64
import binascii
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Protocol

from esgbatch.checkpoint.vault import KEY_BYTES, MasterKey, MasterKeys
from esgbatch.config.secrets import Secret, require_private
from esgbatch.errors import ConfigError
from esgbatch.files import alone, private_folder, replacing, sync_folder

FILE_NAME = "checkpoint.key"
NEXT_NAME = "checkpoint.key.next"


class Rotatable(MasterKeys, Protocol):
    """Keys of which the next can be brought into use."""

    def successor(self) -> MasterKey:
        """The key that `rotate-key` brings into use; the same one until that was finished."""

    def retire(self) -> None:
        """Nothing is wrapped by another key any more: let go of those that lie in our files."""


class ConfiguredKeys:
    """`[checkpoint] key`; `previous_key` and the keyring's file serve until `rotate-key` was called."""

    def __init__(self, key: Secret, previous: Secret | None, keyring: Path) -> None:
        self._key = key
        self._previous = previous
        self._files = FileKeys(keyring)

    def known(self) -> Mapping[str, MasterKey]:
        keys = [_parse(self._key, "key")]
        if self._previous is not None:
            keys.append(_parse(self._previous, "previous_key"))
        return {key.id: key for key in keys} | dict(self._files.known())

    def make(self) -> MasterKey:
        return _parse(self._key, "key")

    def successor(self) -> MasterKey:
        return self.make()

    def retire(self) -> None:
        self._files.remove()


class FileKeys:
    """`checkpoint.key` in the keyring folder, mode 0600."""

    def __init__(self, keyring: Path) -> None:
        self._folder = keyring

    def known(self) -> Mapping[str, MasterKey]:
        paths = (self._folder / FILE_NAME, self._folder / NEXT_NAME)
        keys = [_read(path) for path in paths if path.exists()]
        return {key.id: key for key in keys}

    def make(self) -> MasterKey:
        return _made(self._folder / FILE_NAME)

    def successor(self) -> MasterKey:
        return _made(self._folder / NEXT_NAME)

    def retire(self) -> None:
        path = self._folder / FILE_NAME
        try:
            with _overwriting(path):
                (self._folder / NEXT_NAME).replace(path)
                sync_folder(self._folder)
        except OSError as error:
            raise _unusable(path, error) from None

    def remove(self) -> None:
        """Overwrite and remove the files, as far as there are any."""
        for path in (self._folder / FILE_NAME, self._folder / NEXT_NAME):
            try:
                with _overwriting(path):
                    path.unlink(missing_ok=True)
            except OSError as error:
                raise _unusable(path, error) from None


def _made(path: Path) -> MasterKey:
    """The file's key; it appears whole or not at all, and never over another."""
    try:
        with alone(private_folder(path.parent)):
            if not path.exists():
                with replacing(path) as file:
                    file.write(os.urandom(KEY_BYTES))
    except OSError as error:
        raise _unusable(path, error) from None
    return _read(path)


def _read(path: Path) -> MasterKey:
    require_private(path)
    try:
        key = path.read_bytes()
    except OSError as error:
        raise _unusable(path, error) from None
    if len(key) != KEY_BYTES:
        raise ConfigError(
            f"The checkpoint's key {path} is damaged: it has {len(key)} bytes, not {KEY_BYTES}.",
            advice="bring it back from where you keep a copy of it, then `esgbatch doctor`",
        )
    return MasterKey(key)


@contextmanager
def _overwriting(path: Path) -> Iterator[None]:
    """Overwrite what `path` was before the block took its name away, where the file system writes in place."""
    if not path.exists():
        yield
        return
    descriptor = os.open(path, os.O_WRONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        yield
        os.pwrite(descriptor, bytes(KEY_BYTES), 0)
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _parse(secret: Secret, name: str) -> MasterKey:
    """32 bytes in hex or base64. A pass phrase is refused: it would have to be slow to be safe."""
    text = secret.reveal().strip()
    for decode in (bytes.fromhex, lambda encoded: base64.b64decode(encoded, validate=True)):
        try:
            key = decode(text)
        except (ValueError, binascii.Error):
            continue
        if len(key) == KEY_BYTES:
            return MasterKey(key)
    raise ConfigError(
        f"checkpoint.{name} must be {KEY_BYTES} random bytes in base64 or hex.",
        advice="make one with `openssl rand -base64 32`, keep a copy of it, then `esgbatch doctor`",
    )


def _unusable(path: Path, error: OSError) -> ConfigError:
    return ConfigError(
        f"The checkpoint's key {path} cannot be had: {error.strerror}.",
        advice="correct that, then `esgbatch doctor`",
    )
