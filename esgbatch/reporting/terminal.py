"""The report and the history on a terminal of any width, readable without colour."""

from __future__ import annotations

from collections.abc import Sequence

from rich.console import Console, Group, RenderableType
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from esgbatch.reporting.history import Day
from esgbatch.reporting.night import Night, Tone, bound, holds, lives, paces, tone
from esgbatch.reporting.summary import next_step, verdict
from esgbatch.reporting.text import duration, execution_lines, moment, spelled, state
from esgbatch.untrusted import printable

STYLES = {Tone.GOOD: "green", Tone.MIXED: "yellow", Tone.OPEN: "cyan", Tone.BAD: "red"}
BLOCKS = "▁▂▃▄▅▆▇█"
WIDE = 120
WIDEST = 160


def report(night: Night, console: Console) -> None:
    """The night: verdict, counts, failures, how it went, the files, who worked on it."""
    summary = night.summary
    run, tally, census = summary.run, summary.tally, summary.run.census
    word = tone(night)
    console.print(Text(f"ESG ratings of {run.business_date:%A, %d %B %Y}", "bold"))
    lead = Text.assemble(
        (verdict(summary), "bold"), "\n", ("Next: ", "bold"), printable(next_step(summary).replace("`", ""))
    )
    console.print(Panel(lead, title=word.value, title_align="left", border_style=STYLES[word]))
    counts = Table.grid(padding=(0, 3, 0, 0))
    counts.add_column()
    counts.add_column(justify="right")
    counts.add_column(style="dim")
    for name, count, remark in (
        ("Listed by the account system", census.listed, ""),
        ("Excluded", census.excluded, spelled(census.excluded_by)),
        ("Rows in the file", tally.rows, ""),
        (
            "Succeeded",
            tally.succeeded,
            _percent(100 - tally.failed_percent) if tally.done == tally.rows else "",
        ),
        ("Failed", tally.failed, _percent(tally.failed_percent) if tally.failed else ""),
        ("Still to do", tally.pending + tally.deferred, ""),
    ):
        if count or name in ("Succeeded", "Failed"):
            counts.add_row(name, f"{count:,}", remark)
    console.print(_side_by_side(console, counts, _reasons(night)))
    _curves(night, console)
    for revision in summary.revisions:
        delivered = f"delivered {moment(revision.delivered, night.zone, run.business_date)}"
        state = delivered if revision.delivered else "not delivered"
        console.print(Text(f"\nRevision {revision.number}, {state}", "bold"))
        console.print(Text(printable(f"  {revision.location or revision.sealed.path}"), overflow="fold"))
        console.print(Text(f"  sha256 {revision.sealed.encrypted.sha256}", "dim", overflow="fold"))
    if summary.executions:
        console.print(Text("\nWorked on by", "bold"))
        for line in execution_lines(summary.executions, night.zone, run.business_date):
            console.print(Text(printable(f"  {line}")))


def history(days: Sequence[Day], console: Console) -> None:
    """A line a day, the curve of the nights at the end; a wide terminal shows more, a wider one the means."""
    wide = console.width >= WIDE
    table = Table(box=None, pad_edge=False, header_style="bold")
    columns = [
        "Date",
        "State",
        "Rows",
        "Failed",
        "%",
        "Took",
        "To spare",
        *(["Rev", "Requests", "p50", "p95"] * wide),
    ]
    titles = list(days[-1].summary.run.columns) if console.width >= WIDEST else []
    for name in (*columns, *titles):
        table.add_column(
            name, justify="left" if name in ("Date", "State") else "right", no_wrap=name not in titles
        )
    for day in days:
        run, tally = day.summary.run, day.tally
        cells: list[str | Text] = [
            run.business_date.isoformat(),
            Text(state(day.summary), "green" if state(day.summary) == "delivered" else "red"),
            f"{tally.rows:,}",
            f"{tally.failed:,}",
            f"{tally.failed_percent:.2f}",
            "" if day.duration is None else duration(day.duration),
            "" if day.headroom is None else _signed(day.headroom),
        ]
        if wide:
            busiest = max(day.summary.executions, key=lambda each: each.attempts, default=None)
            cells += [
                str(run.revision),
                f"{sum(each.attempts for each in day.summary.executions):,}",
                _seconds(busiest.latency_p50 if busiest else None),
                _seconds(busiest.latency_p95 if busiest else None),
                *("" if (mean := day.means.get(title)) is None else f"{mean:.2f}" for title in titles),
            ]
        table.add_row(*cells)
    console.print(table)
    rates = [day.success_percent for day in days if day.success_percent is not None]
    spare = [day.headroom for day in days if day.headroom is not None]
    if len(rates) > 1:
        console.print(Text(f"\nsucceeded  {spark(rates, 60)}  {min(rates):.2f}% to {max(rates):.2f}%"))
    if len(spare) > 1:
        console.print(Text(f"to spare   {spark(spare, 60)}  {_signed(min(spare))} to {_signed(max(spare))}"))


def spark(values: Sequence[float], width: int) -> str:
    """The values as a line of blocks, at most `width` of them; of each part the highest."""
    size = -(-len(values) // width)
    heights = [max(values[at : at + size]) for at in range(0, len(values), size)]
    low, high = min(heights), max(heights)
    span = high - low
    return "".join(BLOCKS[round((each - low) / span * 7) if span else 3] for each in heights)


def _curves(night: Night, console: Console) -> None:
    steps = [pace for life in lives(night.samples) for pace in paces(life)]
    console.print(Text.assemble(("\nWhat bounded the night: ", "bold"), bound(night)))
    if len(steps) < 2:
        return
    width = max(8, min(60, console.width - 40))
    rates = [pace.requests for pace in steps]
    console.print(Text(f"  requests/s  {spark([0.0, *rates], width)[1:]}  most {max(rates):,.0f}"))
    latencies = [each.latency_p95 for each in night.samples if each.latency_p95 is not None]
    if len(latencies) > 1:
        console.print(
            Text(f"  latency     {spark([0.0, *latencies], width)[1:]}  95% within {max(latencies):.2f} s")
        )
    held = sum(end - begin for begin, end, _ in holds(night.samples))
    if held:
        console.print(
            Text(f"  held        {duration(held)}: {', '.join({why for *_, why in holds(night.samples)})}")
        )


def _reasons(night: Night) -> RenderableType | None:
    tally = night.summary.tally
    if not tally.failed:
        return None
    grid = Table.grid(padding=(0, 2, 0, 0))
    grid.add_column()
    grid.add_column(justify="right")
    grid.add_column()
    most = max(tally.failed_by.values())
    for reason, count in sorted(tally.failed_by.items(), key=lambda each: -each[1]):
        grid.add_row(str(reason), f"{count:,}", Text("█" * max(1, round(20 * count / most)), "red"))
    return grid


def _side_by_side(console: Console, left: Table, right: RenderableType | None) -> RenderableType:
    if right is None:
        return left
    if console.width < WIDE:
        return Group(left, Text("\nFailed, by reason", "bold"), right)
    grid = Table.grid(padding=(0, 8, 0, 0))
    grid.add_row(left, right)
    return grid


def _percent(value: float) -> str:
    return f"{value:.2f}%"


def _seconds(value: float | None) -> str:
    return "" if value is None else f"{value:.2f} s"


def _signed(seconds: float) -> str:
    return duration(seconds) if seconds >= 0 else f"-{duration(-seconds)}"
