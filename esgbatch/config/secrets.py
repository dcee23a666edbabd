"""Where secrets come from: an environment variable, a private file, or a command. Never the config file."""

from __future__ import annotations

import contextlib
import ctypes
import os
import resource
import shlex
import stat
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, model_validator

from esgbatch.errors import ConfigError

COMMAND_TIMEOUT = 30.0

_revealed: set[str] = set()
_variables: set[str] = set()


class Secret(BaseModel):
    """A reference to a secret: exactly one of `env`, `file`, `command`.

    The value is read at each `reveal`, so that a rotated secret is taken up without a restart.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    env: Annotated[str, Field(min_length=1)] | None = None
    file: Path | None = None
    command: Annotated[list[str], Field(min_length=1)] | None = None

    @model_validator(mode="before")
    @classmethod
    def _no_literal(cls, value: object) -> object:
        if isinstance(value, str):
            # The message must not repeat the value: somebody has just put a secret there.
            raise ValueError(
                'a secret is never written into the configuration: use { env = "NAME" }, '
                '{ file = "/path" } or { command = ["pass", "show", "x"] }'
            )
        return value

    @model_validator(mode="after")
    def _exactly_one(self) -> Secret:
        if sum(source is not None for source in (self.env, self.file, self.command)) != 1:
            raise ValueError("exactly one of env, file, command is needed")
        if self.env is not None:
            _variables.add(self.env)
        return self

    def __str__(self) -> str:
        if self.env is not None:
            return f"environment variable {self.env}"
        return f"file {self.file}" if self.file is not None else f"command {self.command and self.command[0]}"

    def reveal(self) -> str:
        """Read the secret; trailing line ends are not part of it.

        Raises:
            ConfigError: it is not there, empty, or others can read its file.
        """
        value = self._read().rstrip("\r\n")
        if not value:
            raise ConfigError(f"The secret from {self} is empty.", advice="provide it, then `esgbatch doctor`")
        _revealed.add(value)
        return value

    def _read(self) -> str:
        if self.env is not None:
            if self.env not in os.environ:
                raise ConfigError(
                    f"The secret's environment variable {self.env} is not set.",
                    advice=f"set {self.env} where the job is started, or name a file, then `esgbatch doctor`",
                )
            return os.environ[self.env]
        if self.file is not None:
            return read_private_text(self.file)
        assert self.command is not None
        try:
            return subprocess.run(
                self.command,
                check=True,
                capture_output=True,
                text=True,
                stdin=subprocess.DEVNULL,
                env=_without_secrets(os.environ),
                timeout=COMMAND_TIMEOUT,
            ).stdout
        except subprocess.CalledProcessError as error:
            raise ConfigError(
                f"The secret's command {shlex.join(self.command[:1])} ended with code {error.returncode}."
            ) from None
        except (OSError, subprocess.TimeoutExpired, UnicodeDecodeError) as error:
            raise ConfigError(
                f"The secret's command {shlex.join(self.command[:1])} failed: {type(error).__name__}."
            ) from None


def _without_secrets(environment: Mapping[str, str]) -> dict[str, str]:
    """A command that fetches one secret gets to see none of the others."""
    return {name: value for name, value in environment.items() if name not in _variables}


def keep_from_dumps() -> None:
    """Let nobody read this process's memory, where the secrets are: no core dump, no debugger of the same user.

    prctl(2), PR_SET_DUMPABLE: its files in /proc then belong to root, the environment among them.
    """
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None).prctl(4, 0, 0, 0, 0)


def require_private(path: Path) -> None:
    """Refuse a file that group or others can read or write.

    Raises:
        ConfigError: the file is missing, or its mode is too open.
    """
    try:
        mode = path.stat().st_mode
    except OSError as error:
        raise ConfigError(f"The file {path} cannot be read: {error.strerror}.") from None
    if stat.S_IMODE(mode) & 0o077:
        raise ConfigError(
            f"The file {path} holds a secret and others can read it (mode {stat.S_IMODE(mode):04o}).",
            advice=f"`chmod 600 {shlex.quote(str(path))}`, then `esgbatch doctor`",
        )


def read_private_text(path: Path) -> str:
    """The text of a private file, after `require_private`."""
    require_private(path)
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"The file {path} cannot be read: {type(error).__name__}.") from None


def remember(secret: str) -> str:
    """Add a secret that did not come through `Secret`, such as an access token, to what `redact` removes."""
    if secret:
        _revealed.add(secret)
    return secret


def redact(text: str) -> str:
    """`text` without any secret that this process has read. Very short ones would redact everything: 4 up."""
    # The longest first: one that begins like another would otherwise leave its tail.
    for secret in sorted(_revealed, key=len, reverse=True):
        if len(secret) >= 4 and secret in text:
            text = text.replace(secret, "[redacted]")
    return text
