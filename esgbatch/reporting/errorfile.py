"""The day's failed accounts, as a log file of their own for Splunk: no names, no scores."""

from __future__ import annotations

import json
from collections.abc import Iterable
from datetime import UTC, datetime
from pathlib import Path

from esgbatch.errors import ConfigError
from esgbatch.files import replacing
from esgbatch.model import Failure, Run


def path(directory: Path, run: Run) -> Path:
    return directory / f"errors-{run.business_date:%Y%m%d}.jsonl"


def write(directory: Path, run: Run, failures: Iterable[Failure]) -> int:
    """Replace the day's error file with these failures; returns their number.

    It always agrees with the file in the making: a rerun's successes are gone from it.

    Raises:
        ConfigError: the log folder cannot be written.
    """
    target = path(directory, run)
    count = 0
    try:
        with replacing(target, 0o640) as file:
            for failure in failures:
                file.write(json.dumps(_line(run, failure)).encode() + b"\n")
                count += 1
    except OSError as error:
        raise ConfigError(
            f"The error file {target} cannot be written: {error.strerror}.",
            advice="correct logging.directory or its rights, then `esgbatch resume --date {date}`",
        ) from None
    return count


def _line(run: Run, failure: Failure) -> dict[str, object]:
    return {
        "account_id": failure.account_id,
        "reason": failure.reason,
        "http_status": failure.http_status,
        "attempts": failure.attempts,
        "first_attempt": _moment(failure.first_attempt),
        "last_attempt": _moment(failure.last_attempt),
        "run_id": run.run_id,
        "business_date": run.business_date.isoformat(),
    }


def _moment(seconds: float | None) -> str | None:
    if seconds is None:
        return None
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
