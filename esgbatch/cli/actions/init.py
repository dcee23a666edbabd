"""init: a configuration to fill in; on a terminal, with the answers to five questions in it."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from esgbatch.errors import BatchError, WrongUsage
from esgbatch.files import replacing
from esgbatch.operations import newconfig
from esgbatch.operations.newconfig import Answers

T = TypeVar("T")


def write(path: Path, *, force: bool) -> None:
    if path.is_dir():
        path = path / "esgbatch.toml"
    if path.exists() and not force:
        raise WrongUsage(
            f"{path} is already there.", advice="choose another PATH, or overwrite it with --force"
        )
    on_terminal = sys.stdin.isatty() and sys.stderr.isatty()
    written = newconfig.fill(_ask()) if on_terminal else newconfig.template()
    try:
        with replacing(path, 0o640) as file:
            file.write(written.encode())
    except OSError as error:
        raise WrongUsage(f"{path} cannot be written: {error.strerror}.", advice="choose another PATH") from None
    print(f"{path} is written. Fill in what is left, and where the secrets are; then:")
    print(f"  esgbatch doctor --config {path}")


def _ask() -> Answers:
    """Ask a person; an empty answer leaves the example in the file."""
    print("Five questions; Enter leaves an example to fill in later. No secret is asked.\n", file=sys.stderr)
    accounts = _answer("1. Account system, the URL of its list", newconfig.web_url)
    ratings = _answer("2. ESG API, the URL of a rating, with {account_id} in it", newconfig.rating_url)
    token = _answer("3. ESG API, its OAuth2 token URL, or none", _token)
    key = _answer("4. The recipient's public key file", _key)
    drop = _answer("5. SFTP drop folder, like esgbatch@sftp.example/drop/esg", newconfig.drop)
    path, fingerprint = key or (None, None)
    if path and not fingerprint:
        print(f"\n{path} is not there yet: enter its fingerprint when you have it.", file=sys.stderr)
    elif fingerprint:
        blocks = " ".join(fingerprint[at : at + 4] for at in range(0, 40, 4))
        print(f"\nThe key's fingerprint is {blocks}: ask its owner, by telephone.", file=sys.stderr)
    return Answers(accounts, ratings, token, path, fingerprint, drop)


def _answer(question: str, read: Callable[[str], T]) -> T | None:
    while True:
        print(f"{question}: ", end="", file=sys.stderr, flush=True)
        text = sys.stdin.readline().strip()
        if not text:
            return None
        try:
            return read(text)
        except (ValueError, BatchError) as error:
            print(f"   {error}", file=sys.stderr)


def _token(text: str) -> str:
    return "" if text == "none" else newconfig.web_url(text)


def _key(text: str) -> tuple[Path, str | None]:
    path = Path(text).expanduser().absolute()
    return path, newconfig.fingerprint(path) if path.exists() else None
