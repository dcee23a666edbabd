"""The charts of the daily report: how the night went over time, the scores, and the days before.

Each comes with a key and a table that says the same, for those who cannot see it or want the figures.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import date, datetime
from typing import Any

from markupsafe import Markup

from esgbatch.model import Histogram, Sample
from esgbatch.reporting import charts
from esgbatch.reporting.charts import Axis, Series
from esgbatch.reporting.history import Day
from esgbatch.reporting.night import Night, Pace, holds, lives, paces

MOST_TABLE_ROWS = 12
MOST_TREND_ROWS = 62


@dataclass(frozen=True, slots=True)
class Chart:
    """A chart with its key and the table that says the same; `keys` are (style, text)."""

    title: str
    keys: Sequence[tuple[str, str]]
    svg: Markup
    head: Sequence[str]
    rows: Sequence[Sequence[str]]


# --- over time --------------------------------------------------------------------------------

# A line of a chart: style, text, and a part for each process that worked on the run.
Parts = list[list[charts.Point]]
Line = tuple[str, str, Parts]


def over_time(night: Night) -> Iterator[Chart]:
    """The charts of the night; none of one that was too short to be sampled."""
    samples = night.samples
    if len(samples) >= 2 and samples[-1].at - samples[0].at >= 1:
        timeline = _Timeline(night)
        for chart in (_requests, _done, _forecast, _in_flight, _latency, _errors):
            found = chart(timeline)
            if found is not None:
                yield found


class _Timeline:
    """What the charts over time have in common: the axis of time, the processes, the held periods."""

    def __init__(self, night: Night) -> None:
        self.night = night
        self.lives = lives(night.samples)
        self.paces = [paces(life) for life in self.lives]
        self.began, self.ended = night.samples[0].at, night.samples[-1].at
        self._x = charts.clock(self.began, self.ended, night.zone)
        self._held = holds(night.samples)

    def sampled(self, value: Callable[[Sample], float | None]) -> Parts:
        return [[(s.at, found) for s in life if (found := value(s)) is not None] for life in self.lives]

    def paced(self, value: Callable[[Pace], float]) -> Parts:
        return [[(pace.end, value(pace)) for pace in life] for life in self.paces]

    def chart(
        self,
        title: str,
        lines: Sequence[Line],
        *,
        y: Axis | None = None,
        limit: tuple[str, float] | None = None,
        bands: bool = False,
    ) -> Chart:
        """Lines over time; `limit` is drawn across, `bands` shows the held periods behind."""
        x = self._x
        points = [point for _, _, parts in lines for part in parts for point in part]
        top = max([value for _, value in points] + ([limit[1]] if limit else []), default=0.0)
        axis = y or charts.figures(0.0, top or 1.0)
        drawn = [Series(text, part, style) for style, text, parts in lines for part in parts]
        keys = [(style, text) for style, text, _ in lines]
        if limit:
            drawn.append(Series(limit[0], [(x.low, limit[1]), (x.high, limit[1])], "limit"))
            keys.append(("limit", limit[0]))
        if bands and self._held:
            shapes = [[(a, axis.low), (a, axis.high), (b, axis.high), (b, axis.low)] for a, b, _ in self._held]
            drawn = [*(Series("held", shape, "held", "band") for shape in shapes), *drawn]
            keys.append(("held", f"held: {', '.join(sorted({why for *_, why in self._held}))}"))
        rows = _rows(self.night, [parts for _, _, parts in lines], axis)
        words = _in_words(lines, axis, limit)
        svg = Markup(charts.draw(title, words, drawn, x, axis))  # noqa: S704 - escaped by ElementTree
        return Chart(title, keys, svg, ["Time", *(text for _, text, _ in lines)], rows)


def _requests(timeline: _Timeline) -> Chart:
    limit = timeline.night.rate_limit
    requests = timeline.paced(lambda pace: pace.requests)
    most = max((value for part in requests for _, value in part), default=0.0)
    return timeline.chart(
        "Requests a second, against the limit",
        [("c1", "requests", requests)],
        limit=(f"limit, {limit:,.0f}", limit) if limit <= 20 * max(most, 1.0) else None,
        bands=True,
    )


def _done(timeline: _Timeline) -> Chart:
    rows = max(timeline.night.summary.tally.rows, 1)
    return timeline.chart(
        "Accounts done",
        [("c1", "done, in percent", timeline.sampled(lambda s: 100.0 * s.done / rows))],
        y=charts.figures(0.0, 100.0, "{:.0f}%".format),
        bands=True,
    )


def _forecast(timeline: _Timeline) -> Chart | None:
    night = timeline.night
    forecasts = timeline.sampled(lambda s: s.forecast)
    deadlines = [s.deadline for s in night.samples if s.deadline is not None]
    ends = [end for life in forecasts for _, end in life]
    if not deadlines or not ends:
        return None
    # An early forecast can be days away; it is drawn at the edge.
    edge = deadlines[-1] + max(night.deadline.timestamp() - timeline.began, 60.0)
    shown = [[(at, min(end, edge)) for at, end in life] for life in forecasts]
    latest = max(deadlines[-1], *(min(end, edge) for end in ends))
    return timeline.chart(
        "Forecast of the end, against the deadline",
        [("c1", "forecast", shown)],
        y=charts.clock(timeline.began, latest, night.zone),
        limit=("deadline", deadlines[-1]),
    )


def _in_flight(timeline: _Timeline) -> Chart:
    return timeline.chart(
        "Requests in flight",
        [
            ("c1", "in flight", timeline.sampled(lambda s: float(s.in_flight))),
            ("c2", "allowed at once", timeline.sampled(lambda s: float(s.concurrency))),
        ],
    )


def _latency(timeline: _Timeline) -> Chart | None:
    half = timeline.sampled(lambda s: s.latency_p50)
    most = timeline.sampled(lambda s: s.latency_p95)
    if not any(half):
        return None
    lines = [("c1", "half within", half), ("c2", "95% within", most)]
    return timeline.chart("Latency of the ESG API, in seconds", lines)


def _errors(timeline: _Timeline) -> Chart | None:
    errors = timeline.paced(lambda pace: pace.errors)
    if not any(value for part in errors for _, value in part):
        return None
    return timeline.chart(
        "Failed attempts a second (each is made again)", [("c2", "errors", errors)], bands=True
    )


def _rows(night: Night, lines: Sequence[Parts], axis: Axis) -> list[list[str]]:
    tables = [dict(point for part in parts for point in part) for parts in lines]
    moments = sorted({at for each in tables for at in each})
    every = max(1, -(-len(moments) // MOST_TABLE_ROWS))
    return [
        [
            f"{datetime.fromtimestamp(at, night.zone):%H:%M:%S}",
            *("" if each.get(at) is None else axis.text(each[at]) for each in tables),
        ]
        for at in moments[::every]
    ]


def _in_words(lines: Sequence[Line], axis: Axis, limit: tuple[str, float] | None) -> str:
    """What a chart shows, for those who hear it."""
    told = []
    for _, text, parts in lines:
        values = [value for part in parts for _, value in part]
        if values:
            told.append(f"{text}: from {axis.text(min(values))} to {axis.text(max(values))}")
    if limit:
        told.append(f"{limit[0].partition(',')[0]}: {axis.text(limit[1])}")
    return "; ".join(told) + "."


# --- scores and past days ---------------------------------------------------------------------


def scores(night: Night) -> dict[str, Any]:
    columns = night.summary.run.columns
    if not any(sum(each.counts) for each in night.histograms):
        return {"scores": []}
    before = night.before
    then = before.means if before else (None,) * len(columns)
    old = before.histograms if before and len(before.histograms) == len(columns) else (None,) * len(columns)
    rows, drawn = [], []
    for column, mean, mean_then, now, was in zip(
        columns, night.means, then, night.histograms, old, strict=False
    ):
        shift = f"{mean - mean_then:+.2f}" if mean is not None and mean_then is not None else ""
        rows.append([column, _figure(mean), _figure(mean_then), shift])
        drawn.append(_histogram(column, now, was))
    compared = "The last file delivered for an earlier date is what they are compared with."
    if before is None:
        compared = "No earlier file was delivered to compare them with."
    return {
        "scores": drawn,
        "compared": compared,
        "score_head": ["Score", "Mean", "Mean before", "Shift"],
        "score_rows": rows,
    }


def _figure(value: float | None) -> str:
    return "" if value is None else f"{value:.2f}"


def _histogram(column: str, now: Histogram, was: Histogram | None) -> Chart:
    """Shares in percent, so that days with different numbers of accounts can be compared."""
    shares = _shares(now)
    width = (now.high - now.low) / len(now.counts)
    drawn = [Series("now", charts.step_shape(now.low, width, shares), "now", "area")]
    keys = [("area", "this file")]
    rows = [
        [f"{now.low + at * width:g} to {now.low + (at + 1) * width:g}", f"{now.counts[at]:,}"]
        for at in range(len(shares))
    ]
    head = [column, "accounts"]
    old: list[float] = []
    if was is not None and (was.low, was.high, len(was.counts)) == (now.low, now.high, len(now.counts)):
        old = _shares(was)
        drawn.append(Series("before", charts.step_shape(was.low, width, old), "c2"))
        keys.append(("c2", "the file before"))
        rows = [[*row, f"{count:,}"] for row, count in zip(rows, was.counts, strict=True)]
        head.append("before")
    y = charts.figures(0.0, max([*shares, *old]) or 1.0, "{:g}%".format, most=4)
    top = max(range(len(shares)), key=shares.__getitem__)
    words = f"Most accounts, {shares[top]:.0f}%, are from {rows[top][0]}."
    x = charts.figures(now.low, now.high)
    svg = Markup(charts.draw(f"Distribution of {column}", words, drawn, x, y))  # noqa: S704
    return Chart(f"{column}, percent of accounts", keys, svg, head, rows)


def _shares(histogram: Histogram) -> list[float]:
    total = sum(histogram.counts) or 1
    return [100.0 * count / total for count in histogram.counts]


def trends(days: Sequence[Day]) -> Iterator[Chart]:
    yield _trend(
        "Accounts with a rating, in percent",
        [("c1", "succeeded", lambda day: day.success_percent)],
        days,
        "{:.2f}".format,
        low=None,
    )
    yield _trend(
        "Minutes from start to delivery",
        [("c1", "duration", lambda day: None if day.duration is None else day.duration / 60)],
        days,
        "{:.4g}".format,
    )
    yield _trend(
        "Minutes left before the deadline",
        [("c1", "headroom", lambda day: None if day.headroom is None else day.headroom / 60)],
        days,
        "{:.4g}".format,
    )
    columns = days[-1].summary.run.columns[: len(_LINES)]
    yield _trend(
        "Average scores",
        [(style, column, _mean_of(column)) for style, column in zip(_LINES, columns, strict=False)],
        days,
        "{:.2f}".format,
        low=None,
    )


_LINES = ("c1", "c2", "c3", "c4")
Value = Callable[[Day], float | None]


def _mean_of(column: str) -> Value:
    return lambda day: day.means.get(column)


def _trend(
    title: str,
    lines: Sequence[tuple[str, str, Value]],
    days: Sequence[Day],
    text: Callable[[float], str],
    *,
    low: float | None = 0.0,
) -> Chart:
    """A line over the days; without `low` the axis begins near the smallest value."""
    first, last = days[0].date.toordinal(), days[-1].date.toordinal()
    every = max(1, -(-(last - first) // (charts.MOST_TICKS - 1)))
    x = Axis(first, last, range(first, last + 1, every), lambda at: f"{date.fromordinal(round(at)):%d %b}")
    points = [
        [(float(day.date.toordinal()), found) for day in days if (found := value(day)) is not None]
        for _, _, value in lines
    ]
    values = [value for each in points for _, value in each] or [0.0, 1.0]
    bottom = min(values) if low is None else min(low, *values)
    y = charts.figures(bottom, max(max(values), bottom + 1e-3))
    drawn = [Series(name, each, style) for (style, name, _), each in zip(lines, points, strict=True)]
    words = _in_words(
        [(style, name, [each]) for (style, name, _), each in zip(lines, points, strict=True)], y, None
    )
    svg = Markup(charts.draw(title, words, drawn, x, y))  # noqa: S704 - escaped by ElementTree
    rows = [
        [day.date.isoformat(), *("" if (found := value(day)) is None else text(found) for _, _, value in lines)]
        for day in days[-MOST_TREND_ROWS:]
    ]
    return Chart(
        title, [(style, name) for style, name, _ in lines], svg, ["Date", *(n for _, n, _ in lines)], rows
    )
