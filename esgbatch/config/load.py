"""From a file and the environment to a `Config`, or to all that is wrong with them at once."""

from __future__ import annotations

import hashlib
import os
import tomllib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from esgbatch.config.model import Config
from esgbatch.errors import ConfigError

PREFIX = "ESGBATCH_"
PATH_VARIABLE = "ESGBATCH_CONFIG"
DEFAULT_PATHS = (Path("esgbatch.toml"), Path("/etc/esgbatch/esgbatch.toml"))


def find(explicit: Path | None, environment: Mapping[str, str] = os.environ) -> Path:
    """The configuration file: `--config`, then $ESGBATCH_CONFIG, then the default places.

    Raises:
        ConfigError: there is none.
    """
    if explicit is not None:
        return explicit
    if named := environment.get(PATH_VARIABLE):
        return Path(named)
    for path in DEFAULT_PATHS:
        if path.exists():
            return path
    places = " or ".join(str(path) for path in DEFAULT_PATHS)
    raise ConfigError(
        f"There is no configuration file at {places}.",
        advice="write one with `esgbatch init`, or name one with --config; `esgbatch demo` needs none",
    )


def load(path: Path, environment: Mapping[str, str] = os.environ) -> Config:
    """Read `path`, let the environment override it, and check everything.

    Raises:
        ConfigError: its message lists every mistake, each under its dotted path.
    """
    try:
        data = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        advice = None
        if isinstance(error, PermissionError):
            advice = f"`sudo chgrp $(id -gn) {path}` lets this user read it, then `esgbatch doctor`"
        elif isinstance(error, FileNotFoundError):
            advice = f"name another one with --config, or write it with `esgbatch init {path}`"
        raise ConfigError(
            f"The configuration {path} cannot be read: {error.strerror}.", advice=advice
        ) from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"The configuration {path} is no valid TOML: {error}.") from None
    problems = override(data, environment)
    try:
        config = Config.model_validate(data)
    except ValidationError as error:
        problems += _mistakes(error)
    if problems:
        listed = "\n".join(f"  {problem}" for problem in problems)
        names = ", ".join(_overriding(environment))
        also = f", with {names} of the environment," if names else ""
        raise ConfigError(f"The configuration {path}{also} has {len(problems)} mistake(s):\n{listed}")
    return config


def fingerprint(config: Config) -> str:
    """SHA-256 of the effective configuration; secrets are in it as references only."""
    return hashlib.sha256(config.model_dump_json().encode()).hexdigest()


def _mistakes(error: ValidationError) -> list[str]:
    """One line a mistake, under its dotted path; what was tried in vain for a union is one mistake."""
    told: dict[str, list[str]] = {}
    for item in error.errors(include_url=False, include_input=False):
        message = item["msg"].removeprefix("Value error, ")
        if item["type"] == "extra_forbidden":
            message = "unknown key"
        told.setdefault(_dotted(item["loc"]), []).append(message)
    return [f"{path or 'the file'}: {', or: '.join(messages)}" for path, messages in told.items()]


def _dotted(location: Sequence[int | str]) -> str:
    """Without what pydantic puts behind a union, the name of the kind that it tried."""
    return ".".join(str(part) for at, part in enumerate(location) if at == 0 or location[at - 1] not in _UNIONS)


_UNIONS = ("auth", "concurrency", "url")


def _overriding(environment: Mapping[str, str]) -> list[str]:
    return sorted(name for name in environment if name.startswith(PREFIX) and name != PATH_VARIABLE)


def override(data: dict[str, Any], environment: Mapping[str, str]) -> list[str]:
    """Merge `ESGBATCH_SECTION__KEY` variables; an unknown one fails validation like an unknown key."""
    problems = []
    for variable in _overriding(environment):
        text = environment[variable]
        *parents, key = variable.removeprefix(PREFIX).lower().split("__")
        table: Any = data
        for parent in parents:
            table = table.setdefault(parent, {}) if isinstance(table, dict) else None
        if isinstance(table, dict) and parents:
            table[key] = _value(text)
        else:
            problems.append(f"{variable}: no such key; write it like ESGBATCH_RATINGS__RATE_LIMIT")
    return problems


def _value(text: str) -> Any:
    """Lists and tables are written as in TOML; everything else is taken as text and converted by its type."""
    if text.lstrip().startswith(("[", "{")):
        try:
            return tomllib.loads(f"value = {text}")["value"]
        except tomllib.TOMLDecodeError:
            return text
    return text
