"""decrypt: the file for who holds its key."""

from __future__ import annotations

import getpass
import shutil
import sys
from pathlib import Path
from typing import BinaryIO

from esgbatch.cli.context import read_config, tell
from esgbatch.config.secrets import read_private_text, remember
from esgbatch.encryption.opening import Holder
from esgbatch.errors import ConfigError, WrongUsage
from esgbatch.operations.decryption import Decrypted, Desk
from esgbatch.untrusted import printable
from esgbatch.wiring import open_audit, open_state


def open_file(
    config_path: Path | None,
    source: Path,
    output: Path | None,
    *,
    force: bool,
    key: Path | None,
    passphrase_file: Path | None,
) -> None:
    config = read_config(config_path)
    state_dir = open_state(config)
    holder = Holder(config.encryption.gpg, key, lambda: _passphrase(passphrase_file))
    desk = Desk(open_audit(state_dir), holder, state_dir / "archive")
    if output is not None:
        done, target = desk.to_file(source, output, force=force)
        tell(f"{printable(str(target))} is written. {_verdict(done)}")
        return
    with desk.to_memory(source) as (done, plaintext):
        _emit(plaintext)
    tell(_verdict(done))


def _verdict(done: Decrypted) -> str:
    name = printable(done.opened.name)
    if done.manifest is None:
        return f"It is {name}; no manifest was found to compare it with."
    return f"It is {name}, revision {done.revision}, all of it as {printable(str(done.manifest))} says."


def _emit(plaintext: BinaryIO) -> None:
    """The bytes as they are; on a terminal, which would act on some of them, as text that is safe there."""
    sys.stdout.flush()
    try:
        if not sys.stdout.isatty():
            shutil.copyfileobj(plaintext, sys.stdout.buffer)
            sys.stdout.buffer.flush()
            return
    except OSError as error:
        raise WrongUsage(f"The output cannot be written: {error.strerror}.", advice="use --output") from None
    for line in plaintext:
        print(printable(line.decode("utf-8", "replace").rstrip("\r\n")))


def _passphrase(file: Path | None) -> str:
    if file is not None:
        return remember(read_private_text(file).rstrip("\r\n"))
    if not sys.stdin.isatty():
        return ""
    try:
        return remember(getpass.getpass("Passphrase of the secret key (empty for none): "))
    except EOFError:
        raise ConfigError("No passphrase was given.", advice="try again, or use --passphrase-file") from None
