"""What a row is, and what it comes to."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median


@dataclass(frozen=True)
class Scale:
    """How large everything is. Only at full size do figures mean anything, and targets count."""

    part: float = 1.0
    most_rounds: int | None = None

    @property
    def is_full(self) -> bool:
        return self.part == 1

    def accounts(self, number: int) -> int:
        return max(200, round(number * self.part))

    def seconds(self, number: float) -> float:
        return max(1.0, number * self.part)

    def latency(self, seconds: float) -> float:
        """As it is, but where all is so small that nothing would be answered in time."""
        return seconds if self.part > 0.05 else seconds / 20

    def rounds(self, number: int) -> int:
        return min(number, self.most_rounds or number)


@dataclass(frozen=True)
class Figure:
    """One line of the table. `met` is None where there is no target, or no verdict."""

    name: str
    what: str
    ours: str
    theirs: str = ""
    result: str = ""
    target: str = ""
    met: bool | None = None
    samples: Mapping[str, Sequence[float]] = field(default_factory=dict)


Measure = Callable[[Scale, Path], Iterable[Figure]]


@dataclass(frozen=True)
class Row:
    """`measure` is given the scale and an empty folder."""

    name: str
    about: str
    measure: Measure


ROWS: dict[str, Row] = {}


def row(name: str, about: str) -> Callable[[Measure], Measure]:
    """Enter a function into the table of rows."""

    def enter(measure: Measure) -> Measure:
        ROWS[name] = Row(name, about, measure)
        return measure

    return enter


def chosen(names: Sequence[str]) -> list[Row]:
    """The rows with these names, or names that begin so; all without any.

    Raises:
        KeyError: nothing is called so.
    """
    for name in names:
        if not any(known.startswith(name) for known in ROWS):
            raise KeyError(name)
    return [each for each in ROWS.values() if not names or each.name.startswith(tuple(names))]


def compared(
    name: str,
    what: str,
    ours: Sequence[float],
    theirs: Sequence[float],
    *,
    scale: Scale,
    unit: str,
    peer: str,
    at_most: float | None = None,
    at_least: float | None = None,
) -> Figure:
    """The ratio of the medians, with the smallest and the largest of the rounds' own ratios."""
    ratio = median(ours) / median(theirs)
    each = [mine / other for mine, other in zip(ours, theirs, strict=True)]
    met = (at_most is None or ratio <= at_most) and (at_least is None or ratio >= at_least)
    return Figure(
        name,
        what,
        f"{_figure(median(ours))} {unit}",
        f"{_figure(median(theirs))} {unit}, {peer}",
        f"{ratio:.2f} x ({min(each):.2f} to {max(each):.2f})",
        f"≤ {at_most:g} x" if at_most is not None else f"≥ {at_least:g} x",
        met if scale.is_full else None,
        {"ours": list(ours), "theirs": list(theirs)},
    )


def measured(
    name: str,
    what: str,
    samples: Sequence[float],
    shown: str,
    *,
    scale: Scale,
    target: str = "",
    met: bool | None = None,
    result: str = "",
) -> Figure:
    """A figure that is compared with a fixed number, or with nothing."""
    return Figure(
        name, what, shown, "", result, target, met if scale.is_full else None, {"ours": list(samples)}
    )


def _figure(value: float) -> str:
    """Four digits, and all of a larger number's."""
    return f"{value:,.0f}" if value >= 1000 else f"{value:.4g}"
