"""Secrets: where they may come from, who may read them, and that no text repeats them."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest
from pydantic import ValidationError

from esgbatch.config import secrets
from esgbatch.config.secrets import Secret, read_private_text, redact, remember, require_private
from esgbatch.errors import ConfigError


@pytest.fixture(autouse=True)
def forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    """What one test reveals is not redacted in the next one."""
    monkeypatch.setattr(secrets, "_revealed", set())


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "secret"
    path.write_text("S3cret\n")
    path.chmod(0o600)
    return path


def refused(secret: Secret) -> str:
    with pytest.raises(ConfigError) as raised:
        secret.reveal()
    text = f"{raised.value} {raised.value.advice}"
    assert "S3cret" not in text
    assert "\n" not in text
    assert raised.value.__context__ is None or raised.value.__suppress_context__
    return text


def test_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NIGHT_TOKEN", "S3cret")
    assert Secret(env="NIGHT_TOKEN").reveal() == "S3cret"
    monkeypatch.setenv("NIGHT_TOKEN", "")
    assert "empty" in refused(Secret(env="NIGHT_TOKEN"))
    monkeypatch.delenv("NIGHT_TOKEN")
    assert "NIGHT_TOKEN is not set" in refused(Secret(env="NIGHT_TOKEN"))


def test_from_a_file(file: Path) -> None:
    assert Secret(file=file).reveal() == "S3cret"
    file.write_text("  S3cret with spaces \r\n\n")
    assert Secret(file=file).reveal() == "  S3cret with spaces "
    file.write_text("\n\n")
    assert "empty" in refused(Secret(file=file))
    file.write_bytes(b"S3cret\xff")
    assert "cannot be read" in refused(Secret(file=file))
    file.unlink()
    assert "No such file" in refused(Secret(file=file))


def test_it_is_read_anew_each_time(file: Path) -> None:
    secret = Secret(file=file)
    secret.reveal()
    file.write_text("rotated")
    assert secret.reveal() == "rotated"


@pytest.mark.parametrize("mode", [0o604, 0o640, 0o660, 0o622, 0o601, 0o777])
def test_a_file_that_others_can_read_or_write_is_refused(file: Path, mode: int) -> None:
    file.chmod(mode)
    told = refused(Secret(file=file))
    assert f"(mode {mode:04o})" in told
    assert f"chmod 600 {file}" in told
    with pytest.raises(ConfigError):
        read_private_text(file)


@pytest.mark.parametrize("mode", [0o600, 0o400, 0o700])
def test_a_file_of_our_own_is_read(file: Path, mode: int) -> None:
    file.chmod(mode)
    require_private(file)
    assert read_private_text(file) == "S3cret\n"


def test_a_link_is_judged_by_what_it_leads_to(file: Path, tmp_path: Path) -> None:
    link = tmp_path / "link"
    link.symlink_to(file)
    assert Secret(file=link).reveal() == "S3cret"
    file.chmod(0o644)
    assert "0644" in refused(Secret(file=link))


def test_a_folder_is_no_secret(tmp_path: Path) -> None:
    folder = tmp_path / "folder"
    folder.mkdir(mode=0o700)
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    assert "cannot be read" in refused(Secret(file=folder))


def test_from_a_command() -> None:
    assert Secret(command=["printf", "S3cret\\n\\n"]).reveal() == "S3cret"
    assert Secret(command=["echo", "-n", "$HOME `id` S3cret"]).reveal() == "$HOME `id` S3cret", "no shell"


@pytest.mark.parametrize(
    ("command", "why"),
    [
        (["sh", "-c", "echo S3cret; echo S3cret >&2; exit 3"], "ended with code 3"),
        (["sh", "-c", "kill -9 $$; echo S3cret"], "ended with code -9"),
        (["/no/such/program", "S3cret"], "FileNotFoundError"),
        (["/", "S3cret"], "PermissionError"),
        (["printf", "S3cret\\377"], "UnicodeDecodeError"),
        (["true"], "empty"),
    ],
)
def test_a_command_that_fails_is_told_without_what_it_said(command: list[str], why: str) -> None:
    assert why in refused(Secret(command=command))


def test_a_command_that_hangs_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(secrets, "COMMAND_TIMEOUT", 0.05)
    assert "TimeoutExpired" in refused(Secret(command=["sleep", "30"]))


def test_a_command_that_asks_gets_no_answer() -> None:
    """Not even what stands on the job's own standard input, such as the accounts of `rerun --accounts -`."""
    before, (reading, writing) = os.dup(0), os.pipe()
    os.write(writing, b"A-1\n")
    os.dup2(reading, 0)
    try:
        assert "code 1" in refused(Secret(command=["sh", "-c", "read answer && echo $answer"]))
    finally:
        os.dup2(before, 0)
        for descriptor in (before, reading, writing):
            os.close(descriptor)


@pytest.mark.parametrize(
    "value",
    [
        "S3cret",
        "",
        {},
        {"env": "A", "command": ["b"]},
        {"env": ""},
        {"command": []},
        {"command": "pass show S3cret"},
        {"env": "A", "default": "S3cret"},
        ["S3cret"],
        None,
    ],
)
def test_exactly_one_source_and_never_a_literal(value: object) -> None:
    with pytest.raises(ValidationError) as raised:
        Secret.model_validate(value)
    for item in raised.value.errors(include_url=False, include_input=False):
        assert "S3cret" not in item["msg"]


def test_people_are_told_where_it_comes_from(file: Path) -> None:
    assert str(Secret(env="TOKEN")) == "environment variable TOKEN"
    assert str(Secret(file=file)) == f"file {file}"
    assert str(Secret(command=["pass", "show", "private/path"])) == "command pass"


# --- redaction --------------------------------------------------------------------------------


def test_what_was_revealed_is_taken_out_of_every_text(monkeypatch: pytest.MonkeyPatch) -> None:
    text = "token S3cret, again S3cret"
    assert redact(text) == text
    monkeypatch.setenv("NIGHT_TOKEN", "S3cret")
    Secret(env="NIGHT_TOKEN").reveal()
    assert redact(text) == "token [redacted], again [redacted]"
    assert redact("") == ""


def test_an_access_token_is_remembered_too() -> None:
    assert remember("eyJhbGciOi") == "eyJhbGciOi"
    assert remember("") == ""
    assert redact("Bearer eyJhbGciOi") == "Bearer [redacted]"


@pytest.mark.parametrize("turn", range(5))
def test_a_secret_that_begins_like_another_leaves_no_tail(turn: int) -> None:
    """Several, since a set has another order in each process, and for each text."""
    tail = os.urandom(4).hex()
    for secret in (f"S3cret{turn}", f"S3cret{turn}-{tail}", f"S3cret{turn}-{tail}-2", f"x-S3cret{turn}"):
        remember(secret)
    assert redact(f"a S3cret{turn}-{tail}-2 b x-S3cret{turn} c") == "a [redacted] b [redacted] c"


def test_very_short_secrets_do_not_make_every_text_unreadable() -> None:
    remember("e")
    remember("abc")
    assert redact("the abc") == "the abc"
    remember("four")
    assert redact("the four") == "the [redacted]"
