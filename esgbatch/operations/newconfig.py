"""A first configuration from the five things that the job cannot guess."""

from __future__ import annotations

import json
import re
import tempfile
import tomllib
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path

from pydantic import TypeAdapter, ValidationError

from esgbatch.config.model import Config, WebUrl
from esgbatch.encryption.keys import list_only_key, read_key_file
from esgbatch.encryption.process import open_library


@dataclass(frozen=True, slots=True)
class Drop:
    """Where the file is delivered, as `user@host:port/directory` tells it."""

    username: str
    host: str
    port: int
    directory: str


@dataclass(frozen=True, slots=True)
class Answers:
    """What was answered; None leaves the template's example."""

    accounts_url: str | None = None
    ratings_url: str | None = None
    token_url: str | None = None
    recipient: Path | None = None
    fingerprint: str | None = None
    drop: Drop | None = None


def template() -> str:
    """The commented file, with every default and examples for the rest."""
    return (files("esgbatch.config") / "template.toml").read_text(encoding="utf-8")


def fill(answers: Answers) -> str:
    """The template with the answers in it; it is a valid configuration."""
    text = template()
    if answers.accounts_url:
        text = _set(text, "accounts", "url", answers.accounts_url)
    if answers.ratings_url:
        text = _set(text, "ratings", "url", answers.ratings_url)
    if answers.token_url == "":
        text = re.sub(r'(?m)^auth = \{ kind = "oauth2".*$', 'auth = { kind = "none" }', text)
    elif answers.token_url:
        text = text.replace('"https://login.example/token"', json.dumps(answers.token_url))
    if answers.recipient:
        text = text.replace('"/etc/esgbatch/keys/compliance.asc"', json.dumps(str(answers.recipient)))
    if answers.fingerprint:
        text = text.replace("0" * 40, answers.fingerprint)
    if answers.drop:
        drop = answers.drop
        for key, value in (("host", drop.host), ("username", drop.username), ("directory", drop.directory)):
            text = _set(text, "delivery", key, value)
        text = text.replace("\nport = 22\n", f"\nport = {drop.port}\n").replace(
            "ssh-keyscan sftp.example", f"ssh-keyscan -p {drop.port} {drop.host}"
        )
    Config.model_validate(tomllib.loads(text))
    return text


def _set(text: str, section: str, key: str, value: str) -> str:
    """The first `key = …` under `[section]`; a JSON string is a TOML string."""
    pattern = rf"(?ms)(^\[{section}\]$.*?^{key} = )\"[^\"\n]*\""
    return re.sub(pattern, lambda found: found.group(1) + json.dumps(value), text, count=1)


def web_url(text: str) -> str:
    """An address that the configuration would take.

    Raises:
        ValueError: with what is wrong.
    """
    try:
        return TypeAdapter(WebUrl).validate_python(text)
    except ValidationError as error:
        raise ValueError(error.errors(include_input=False)[0]["msg"].removeprefix("Value error, ")) from None


def rating_url(text: str) -> str:
    """Likewise, with a place for the account's ID."""
    if "{account_id}" not in text:
        raise ValueError("it must hold {account_id}, where an account's ID belongs")
    return web_url(text)


def drop(text: str) -> Drop:
    """`user@host/directory`, with a port behind the host where it is not 22.

    Raises:
        ValueError: it is not written like that.
    """
    found = re.fullmatch(r"([^@\s]+)@([^:/@\s]+)(?::(\d{1,5}))?:?(/.*)", text)
    if not found or not 0 < int(found.group(3) or 22) < 65536:
        raise ValueError("write it like esgbatch@sftp.example/drop/esg, or esgbatch@sftp.example:2222/drop/esg")
    return Drop(found.group(1), found.group(2), int(found.group(3) or 22), found.group(4))


def fingerprint(key_file: Path) -> str:
    """The full fingerprint of the one public key in the file.

    Raises:
        ConfigError, EncryptionError: there is no such file, or not exactly one public key in it.
    """
    with tempfile.TemporaryDirectory(prefix="esgkey-") as home:
        library = open_library("gpg", Path(home), "--no-autostart", "--no-keyring")
        found: str = list_only_key(library, key_file, read_key_file(key_file))["fingerprint"]
        return found
