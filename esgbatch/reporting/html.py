"""The daily report as one HTML file that needs nothing else: no script, no network, no font.

It holds figures and, behind a fold, the IDs of failed accounts; no name, and no account's score.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import date, datetime
from importlib.resources import files
from typing import Any

from jinja2 import Environment, StrictUndefined
from markupsafe import Markup

from esgbatch import __version__
from esgbatch.model import Histogram, Reason
from esgbatch.reporting import charts
from esgbatch.reporting.charts import Axis, Series
from esgbatch.reporting.history import Day
from esgbatch.reporting.night import Night, Tone, bound, holds, lives, paces, tone
from esgbatch.reporting.summary import next_step, verdict
from esgbatch.reporting.text import duration, printable, spelled

MEANINGS: Mapping[Reason, str] = {
    Reason.BAD_RATING: "The ESG API answered, but a score is missing, no number, or out of range.",
    Reason.FORBIDDEN: "The ESG API does not let us see this account.",
    Reason.NO_RATING: "The ESG API knows no rating of this account.",
    Reason.REJECTED: "The ESG API does not accept the request for this account.",
    Reason.UNAVAILABLE: "The ESG API failed at every attempt, to the end.",
    Reason.NOT_ATTEMPTED: "The deadline came before this account was asked for.",
}
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


def render(night: Night, *, environment: str) -> str:
    """The page."""
    jinja = Environment(
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        finalize=lambda value: printable(value) if type(value) is str else value,
    )
    folder = files("esgbatch.reporting")
    template = jinja.from_string((folder / "page.html.j2").read_text(encoding="utf-8"))
    css = Markup((folder / "page.css").read_text(encoding="utf-8"))  # noqa: S704 - the package's own
    return template.render(css=css, environment=environment, **_content(night))


def _content(night: Night) -> dict[str, Any]:
    summary = night.summary
    run, tally, census = summary.run, summary.tally, summary.run.census
    word = tone(night)
    trends = list(_trends(night.days)) if len(night.days) > 1 else []
    return {
        "title": f"ESG ratings of {run.business_date:%A, %d %B %Y}",
        "run": run,
        "tally": tally,
        "tone": word.value,
        "tone_class": {Tone.GOOD: "good", Tone.MIXED: "mixed", Tone.OPEN: "open", Tone.BAD: "bad"}[word],
        "verdict": verdict(summary),
        "timing": _timing(night),
        "next": _commands(next_step(summary)),
        "excluded": spelled(census.excluded_by),
        "success": f"{100 - tally.failed_percent:.2f}%" if tally.rows and tally.done == tally.rows else "",
        "failed": f"{tally.failed_percent:.2f}%" if tally.failed else "",
        "reconciled": _reconciled(night),
        "reasons": _reasons(night),
        "error_file": night.error_file,
        "bound": bound(night),
        **_stages(night),
        "charts": list(_night_charts(night)),
        **_scores(night),
        "trends": trends,
        "days": (night.days[-1].date - night.days[0].date).days + 1 if trends else 0,
        "facts": list(_facts(night)),
        "footer": f"Written by esgbatch {__version__}, {_when(night, night.now)}. No names, no single scores.",
    }


def _timing(night: Night) -> str:
    first = min((each.delivered for each in night.summary.revisions if each.delivered), default=None)
    deadline = _when(night, night.deadline)
    if first is None:
        return f"The deadline is {deadline}." if night.now < night.deadline else f"The deadline was {deadline}."
    if first > night.deadline and not any(sample.deadline for sample in night.samples):
        return f"In the drop folder at {_when(night, first)}; no deadline bound this run."
    headroom = (night.deadline - first).total_seconds()
    side = f"{duration(abs(headroom))} {'before' if headroom >= 0 else 'after'} the deadline of {deadline}"
    return f"In the drop folder at {_when(night, first)}, {side}."


def _reconciled(night: Night) -> str:
    census, tally = night.summary.run.census, night.summary.tally
    listed = f"{census.listed:,} listed, less {census.excluded:,} excluded = {census.rows:,} rows"
    rated = f"{tally.succeeded:,} succeeded + {tally.failed:,} failed"
    if tally.done != tally.rows:
        return f"{listed}; {rated} so far."
    if census.rows != tally.rows:
        return f"{listed}, but {rated} = {tally.done:,}: this is a bug, please report it."
    return f"{listed} = {rated}. Every listed account is accounted for."


def _reasons(night: Night) -> list[dict[str, Any]]:
    tally = night.summary.tally
    found = []
    for reason, number in sorted(tally.failed_by.items(), key=lambda item: (-item[1], item[0])):
        listed = night.failures.get(reason)
        found.append(
            {
                "reason": str(reason),
                "meaning": MEANINGS[reason],
                "count": number,
                "share": f"{100 * number / tally.rows:.2f}%",
                "ids": listed.ids if listed else (),
                "more": listed.more if listed else 0,
            }
        )
    return found


def _commands(text: str) -> Markup:
    """Text whose commands stand between backticks."""
    parts = text.split("`")
    escaped = [
        Markup("<code>{}</code>").format(part) if at % 2 else Markup.escape(part)
        for at, part in enumerate(parts)
    ]
    return Markup("").join(escaped)


def _when(night: Night, moment: datetime) -> str:
    local = moment.astimezone(night.zone)
    same_day = local.date() == night.summary.run.business_date
    return local.strftime("%H:%M %Z" if same_day else "%Y-%m-%d %H:%M %Z")


# --- the stages -------------------------------------------------------------------------------


def _stages(night: Night) -> dict[str, Any]:
    """A bar for each process that worked on the run, in the order in which it went through the stages."""
    executions = [each for each in night.summary.executions if each.stages]
    if not executions:
        return {"stages": []}
    first = executions[0].started.timestamp()
    last = max(each.started.timestamp() + sum(each.stages.values()) for each in executions)
    span = max(last - first, 1e-3)
    bars, rows = [], []
    names = list(dict.fromkeys(name for each in executions for name in each.stages))
    for each in executions:
        at = each.started.timestamp() - first
        parts = []
        for name, seconds in each.stages.items():
            parts.append(
                {"name": name, "left": round(100 * at / span, 2), "width": round(100 * seconds / span, 2)}
            )
            at += seconds
        label = f"{each.command}, {each.started.astimezone(night.zone):%H:%M:%S}"
        bars.append({"label": label, "parts": parts})
        code = "at work, or died" if each.exit_code is None else f"code {each.exit_code}"
        rows.append([label, *(duration(each.stages[n]) if n in each.stages else "" for n in names), code])
    return {
        "stages": bars,
        "stage_names": names,
        "stage_head": ["Command", *names, "ended with"],
        "stage_rows": rows,
        "stages_from": f"{datetime.fromtimestamp(first, night.zone):%H:%M:%S}",
        "stages_to": f"{datetime.fromtimestamp(last, night.zone):%H:%M:%S %Z}",
    }


# --- over time --------------------------------------------------------------------------------


def _night_charts(night: Night) -> Iterator[Chart]:
    samples = night.samples
    if len(samples) < 2 or samples[-1].at - samples[0].at < 1:
        return
    x = charts.clock(samples[0].at, samples[-1].at, night.zone)
    went = [paces(life) for life in lives(samples)]
    steps = [pace for life in went for pace in life]
    held = holds(samples)

    def over_time(
        title: str,
        lines: Sequence[tuple[str, str, list[list[charts.Point]]]],
        *,
        y: Axis | None = None,
        limit: tuple[str, float] | None = None,
        bands: bool = False,
    ) -> Chart:
        points = [point for _, _, parts in lines for part in parts for point in part]
        top = max([value for _, value in points] + ([limit[1]] if limit else []), default=0.0)
        axis = y or charts.figures(0.0, top or 1.0)
        drawn = [Series(text, part, style) for style, text, parts in lines for part in parts]
        keys = [(style, text) for style, text, _ in lines]
        if limit:
            drawn.append(Series(limit[0], [(x.low, limit[1]), (x.high, limit[1])], "limit"))
            keys.append(("limit", limit[0]))
        if bands and held:
            shapes = [[(a, axis.low), (a, axis.high), (b, axis.high), (b, axis.low)] for a, b, _ in held]
            drawn = [*(Series("held", shape, "held", "band") for shape in shapes), *drawn]
            keys.append(("held", f"held: {', '.join(sorted({why for *_, why in held}))}"))
        rows = _over_time_rows(night, [parts for _, _, parts in lines], axis)
        words = _in_words(lines, axis, limit)
        svg = Markup(charts.draw(title, words, drawn, x, axis))  # noqa: S704 - escaped by ElementTree
        return Chart(title, keys, svg, ["Time", *(text for _, text, _ in lines)], rows)

    limit = night.rate_limit
    most = max((pace.requests for pace in steps), default=0.0)
    yield over_time(
        "Requests a second, against the limit",
        [("c1", "requests", [[(pace.end, pace.requests) for pace in life] for life in went])],
        limit=(f"limit, {limit:,.0f}", limit) if limit <= 20 * max(most, 1.0) else None,
        bands=True,
    )
    rows = max(night.summary.tally.rows, 1)
    yield over_time(
        "Accounts done",
        [
            (
                "c1",
                "done, in percent",
                [[(s.at, 100.0 * s.done / rows) for s in life] for life in lives(samples)],
            )
        ],
        y=charts.figures(0.0, 100.0, "{:.0f}%".format),
        bands=True,
    )
    forecasts = [[(s.at, s.forecast) for s in life if s.forecast is not None] for life in lives(samples)]
    deadlines = [s.deadline for s in samples if s.deadline is not None]
    ends = [end for life in forecasts for _, end in life]
    if deadlines and ends:
        span = night.deadline.timestamp() - samples[0].at
        # An early forecast can be days away; it is drawn at the edge.
        edge = deadlines[-1] + max(span, 60.0)
        shown = [[(at, min(end, edge)) for at, end in life] for life in forecasts]
        yield over_time(
            "Forecast of the end, against the deadline",
            [("c1", "forecast", shown)],
            y=charts.clock(samples[0].at, max(deadlines[-1], *(min(end, edge) for end in ends)), night.zone),
            limit=("deadline", deadlines[-1]),
        )
    yield over_time(
        "Requests in flight",
        [
            ("c1", "in flight", [[(s.at, float(s.in_flight)) for s in life] for life in lives(samples)]),
            (
                "c2",
                "allowed at once",
                [[(s.at, float(s.concurrency)) for s in life] for life in lives(samples)],
            ),
        ],
    )
    half = [[(s.at, s.latency_p50) for s in life if s.latency_p50 is not None] for life in lives(samples)]
    most_of = [[(s.at, s.latency_p95) for s in life if s.latency_p95 is not None] for life in lives(samples)]
    latencies = [("c1", "half within", half), ("c2", "95% within", most_of)]
    if any(half):
        yield over_time("Latency of the ESG API, in seconds", latencies)
    if any(pace.errors for pace in steps):
        yield over_time(
            "Failed attempts a second (each is made again)",
            [("c2", "errors", [[(pace.end, pace.errors) for pace in life] for life in went])],
            bands=True,
        )


def _over_time_rows(night: Night, lines: Sequence[list[list[charts.Point]]], axis: Axis) -> list[list[str]]:
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


def _in_words(
    lines: Sequence[tuple[str, str, list[list[charts.Point]]]], axis: Axis, limit: tuple[str, float] | None
) -> str:
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


def _scores(night: Night) -> dict[str, Any]:
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


def _trends(days: Sequence[Day]) -> Iterator[Chart]:
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


# --- the record -------------------------------------------------------------------------------


def _facts(night: Night) -> Iterator[tuple[str, str]]:
    summary = night.summary
    if summary.run.approval is not None:
        approval = summary.run.approval
        yield "Approved by", f"{approval.by}, {_when(night, approval.at)}: {approval.reason}"
    for revision in summary.revisions:
        delivered = f"delivered {_when(night, revision.delivered)}" if revision.delivered else "not delivered"
        partial = ", partial" if revision.partial else ""
        yield f"Revision {revision.number}", f"sealed {_when(night, revision.created)}, {delivered}{partial}"
        if revision.location:
            yield "Delivered to", revision.location
        yield "SHA-256 of the encrypted file", revision.sealed.encrypted.sha256
        yield "SHA-256 of the CSV inside", revision.sealed.plaintext.sha256
        yield "Encrypted for", ", ".join(revision.sealed.recipients)
    yield "Audit anchor", night.anchor
