"""Options that several commands have."""

from __future__ import annotations

import re
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
