"""Options that several commands have."""

from __future__ import annotations

import re
import sys
from datetime import date, time
from pathlib import Path
from typing import Annotated

import typer


def parse_date(text: str) -> date:
    """YYYY-MM-DD and nothing else: 20261124 and 2026-W48-2 are ISO 8601, too, and rarely meant."""
    if not re.fullmatch(r"\d{4}-\d{2}-\d{2}", text, re.ASCII):
        raise typer.BadParameter(f"{text!r} is no date; write it like 2026-11-24")
    try:
        return date.fromisoformat(text)
    except ValueError as error:
        raise typer.BadParameter(f"{text!r} is no date: {error}") from None


def parse_time(text: str) -> time:
    """HH:MM."""
    if not re.fullmatch(r"([01]\d|2[0-3]):[0-5]\d", text, re.ASCII):
        raise typer.BadParameter(f"{text!r} is no time of day; write it like 09:00")
    return time.fromisoformat(text)


ConfigPath = Annotated[
    Path | None,
    typer.Option(
        "--config",
        metavar="F",
        help="The configuration (default: $ESGBATCH_CONFIG, ./esgbatch.toml, /etc/esgbatch/esgbatch.toml).",
    ),
]
BusinessDate = Annotated[
    date | None,
    typer.Option(
        "--date",
        metavar="YYYY-MM-DD",
        parser=parse_date,
        help="The business date (default: today in the job's zone).",
    ),
]
RequiredDate = Annotated[
    date, typer.Option("--date", metavar="YYYY-MM-DD", parser=parse_date, help="The business date.")
]
OnlyDate = Annotated[
    date | None,
    typer.Option(
        "--date",
        metavar="YYYY-MM-DD",
        parser=parse_date,
        help="Only this business date (default: every one).",
    ),
]
DeadlineTime = Annotated[
    time | None,
    typer.Option(
        "--deadline",
        metavar="HH:MM",
        parser=parse_time,
        help="Stop at the next HH:MM in the job's zone instead of the configured deadline.",
    ),
]
AsJson = Annotated[bool, typer.Option("--json", help="Write JSON.")]
Accounts = Annotated[
    str,
    typer.Option(
        "--accounts",
        metavar="A,B|@FILE|-",
        help="IDs with commas between them, a file, or stdin (one ID a line).",
    ),
]


def read_accounts(argument: str) -> list[str]:
    """`A,B`, `@FILE` or `-`; files hold one ID a line, written as it came, with LF or CRLF ends."""
    if argument == "-":
        ids = _lines(sys.stdin.buffer.read(), "standard input")
    elif argument.startswith("@"):
        try:
            ids = _lines(Path(argument[1:]).read_bytes(), argument[1:])
        except OSError as error:
            raise typer.BadParameter(f"{argument[1:]} cannot be read: {error.strerror}") from None
    else:
        try:
            argument.encode()
        except UnicodeEncodeError:  # bytes that are no text in this locale came in as surrogates (PEP 383)
            raise typer.BadParameter("--accounts is not UTF-8") from None
        ids = [part for part in argument.split(",") if part]
    if not ids:
        raise typer.BadParameter("no account ID was given")
    return list(dict.fromkeys(ids))


def _lines(content: bytes, where: str) -> list[str]:
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError:
        raise typer.BadParameter(f"{where} is not UTF-8") from None
    return [line.removesuffix("\r") for line in text.split("\n") if line.removesuffix("\r")]
