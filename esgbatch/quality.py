"""The gates before a file is sealed. Pure: figures in, findings out."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from esgbatch.config.model import Quality
from esgbatch.model import Census, Histogram, Reason, Revision, Row, Tally


@dataclass(frozen=True, slots=True)
class Finding:
    """A gate that is shut. `gate` is its name in logs and alerts."""

    gate: str
    figure: float
    limit: float
    text: str


@dataclass(frozen=True, slots=True)
class Distribution:
    """A file's scores in figures, by column: nothing of an account."""

    means: tuple[float | None, ...]
    histograms: tuple[Histogram, ...]


@dataclass(frozen=True, slots=True)
class Comparison:
    """What is compared between two days; `means` are None where a column has no score."""

    rows: int
    means: tuple[float | None, ...]

    @classmethod
    def of(cls, revision: Revision) -> Comparison:
        return cls(revision.sealed.rows, revision.means)


STEPS = 20


def describe(rows: Iterable[Row], columns: int, low: float, high: float) -> Distribution:
    """Each score column's mean and histogram over the accounts that have scores from `low` to `high`."""
    totals, count = [0.0] * columns, 0
    counts = [[0] * (STEPS + 1) for _ in range(columns)]
    scale = STEPS / (high - low)
    for row in rows:
        if row.scores is not None:
            count += 1
            for column, text in enumerate(row.scores):
                score = float(text)
                totals[column] += score
                # One from outside was rated when the range was another one.
                counts[column][min(max(int((score - low) * scale), 0), STEPS)] += 1
    for each in counts:
        highest = each.pop()  # it belongs to the last step
        each[-1] += highest
    return Distribution(
        tuple(total / count if count else None for total in totals),
        tuple(Histogram(low, high, tuple(each)) for each in counts),
    )


def reconcile(census: Census, tally: Tally) -> None:
    """Every listed row is accounted for, or the program itself is wrong.

    Raises:
        AssertionError: a bug; the file must not be made.
    """
    if tally.pending or tally.deferred:
        raise AssertionError(f"{tally.pending + tally.deferred} accounts have no outcome")
    if census.rows != tally.succeeded + tally.failed:
        raise AssertionError(
            f"{census.listed} listed, {census.excluded} excluded, but {tally.succeeded} succeeded "
            f"and {tally.failed} failed"
        )


def require_rows(written: int, tally: Tally) -> int:
    """The file holds what the checkpoint counted; returns that number.

    Raises:
        AssertionError: a bug; the file must not be made.
    """
    if written != tally.rows:
        raise AssertionError(f"{written} rows were written, {tally.rows} counted")
    return written


def findings(
    tally: Tally,
    today: Comparison,
    before: Comparison | None,
    limits: Quality,
    columns: Sequence[str],
) -> list[Finding]:
    """Every gate that keeps the file back; a first run has nothing to be compared with."""
    found = []
    # A partial file says by itself what is missing; the gate is for what was tried and failed.
    spared = tally.failed_by.get(Reason.NOT_ATTEMPTED, 0)
    failed, tried = tally.failed - spared, tally.rows - spared
    percent = 100.0 * failed / tried if tried else 100.0 * bool(spared)
    if percent > limits.max_failed_percent:
        found.append(
            Finding(
                "failed",
                percent,
                limits.max_failed_percent,
                f"{failed} of {tried} accounts failed: {percent:.2f}%, "
                f"more than {limits.max_failed_percent:g}%",
            )
        )
    if before is None:
        return found
    drop = 100.0 * (before.rows - today.rows) / before.rows if before.rows else 0.0
    if drop > limits.max_account_drop_percent:
        found.append(
            Finding(
                "account_drop",
                drop,
                limits.max_account_drop_percent,
                f"{today.rows} accounts, after {before.rows} in the last delivered file: "
                f"{drop:.2f}% fewer, more than {limits.max_account_drop_percent:g}%",
            )
        )
    for column, now, then in zip(columns, today.means, before.means, strict=False):
        if now is None or then is None:
            continue
        # To six decimals, so that a shift of exactly the limit is not more for binary fractions' sake.
        shift = round(now - then, 6)
        if abs(shift) > limits.max_mean_shift:
            found.append(
                Finding(
                    "mean_shift",
                    abs(shift),
                    limits.max_mean_shift,
                    f"the mean of {column} moved by {shift:+.2f}, more than {limits.max_mean_shift:g}",
                )
            )
    return found
