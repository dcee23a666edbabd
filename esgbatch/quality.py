"""The gates before a file is sealed. Pure: figures in, findings out."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import islice

from esgbatch.config.model import Quality
from esgbatch.model import Census, Histogram, Reason, Revision, Tally


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
PAGE = 1000


class _Column:
    """One column's scores."""

    def __init__(self, low: float, high: float) -> None:
        self.count, self.total = 0, 0.0
        self._low, self._scale = low, STEPS / (high - low)
        self._steps: Counter[int] = Counter()

    def add(self, texts: Sequence[str]) -> None:
        scores = list(map(float, texts))
        low, scale = self._low, self._scale
        self.count += len(scores)
        self.total += math.fsum(scores)
        self._steps.update([int((score - low) * scale) for score in scores])

    @property
    def steps(self) -> tuple[int, ...]:
        """How many scores lie in each step."""
        counts = [0] * STEPS
        for step, number in self._steps.items():
            # The highest score belongs to the last step; one from outside was rated with another range.
            counts[min(max(step, 0), STEPS - 1)] += number
        return tuple(counts)


class Scores:
    """Score columns on their way to figures; `low` and `high` are the range of a score."""

    def __init__(self, columns: int, low: float, high: float) -> None:
        self._columns = [_Column(low, high) for _ in range(columns)]
        self._range = low, high

    def add(self, scored: Sequence[tuple[str, ...]]) -> None:
        """Count the scores of some accounts, as they stand in the file."""
        if scored:
            for column, texts in zip(self._columns, zip(*scored, strict=True), strict=True):
                column.add(texts)

    def distribution(self) -> Distribution:
        """Each column's mean and histogram."""
        return Distribution(
            tuple(column.total / column.count if column.count else None for column in self._columns),
            tuple(Histogram(*self._range, column.steps) for column in self._columns),
        )


def describe(scored: Iterable[tuple[str, ...]], columns: int, low: float, high: float) -> Distribution:
    """The figures of all these scores; memory does not grow with their number."""
    scores = Scores(columns, low, high)
    remaining = iter(scored)
    while page := list(islice(remaining, PAGE)):
        scores.add(page)
    return scores.distribution()


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
    """The file holds what was counted; returns that number.

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
