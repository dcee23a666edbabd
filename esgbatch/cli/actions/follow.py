"""status --watch: the run as it goes on, in place on a terminal, in plain lines elsewhere."""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable
from zoneinfo import ZoneInfo

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from esgbatch.errors import StopRequested
from esgbatch.model import Snapshot
from esgbatch.observability.progress import PlainProgress
from esgbatch.operations.status import Status, as_dict, headline, lines, render
from esgbatch.ports import Clock
from esgbatch.untrusted import printable

EVERY = 2.0
STYLES = {"AT RISK": "bold red", "held": "yellow", "failed": "", "at work": "dim"}


def follow(look: Callable[[], Status], zone: ZoneInfo, clock: Clock, *, as_json: bool) -> None:
    """Show the run until nobody is at work on it any more; with `as_json` an object a line.

    Raises:
        StopRequested: by SIGTERM; the run itself goes on.
    """
    try:
        if as_json:
            _json_lines(look)
        elif sys.stdout.isatty() and os.environ.get("TERM", "dumb") not in ("dumb", "unknown"):
            _in_place(look, zone)
        else:
            _plain(look, zone, clock)
    except StopRequested as stop:
        stop.advice = "the run goes on: `esgbatch status` shows it"
        raise


def _json_lines(look: Callable[[], Status]) -> None:
    while True:
        seen = look()
        print(json.dumps(as_dict(seen)), flush=True)
        if seen.owner is None:
            return
        time.sleep(EVERY)


def _in_place(look: Callable[[], Status], zone: ZoneInfo) -> None:
    console = Console(highlight=False, markup=False, emoji=False)
    with Live(console=console, auto_refresh=False, redirect_stdout=False, redirect_stderr=False) as live:
        while True:
            seen = look()
            live.update(_picture(seen, zone), refresh=True)
            if seen.owner is None:
                return
            time.sleep(EVERY)


def _picture(seen: Status, zone: ZoneInfo) -> RenderableType:
    bar = Table.grid(padding=(0, 2, 0, 0), expand=True)
    bar.add_column(no_wrap=True)
    bar.add_column(ratio=1)
    done, total = seen.tally.done, seen.tally.rows
    bar.add_row(
        Text(printable(headline(seen)), "bold"),
        ProgressBar(total=max(total, 1), completed=done, complete_style="cyan"),
    )
    facts = Table.grid(padding=(0, 2, 0, 0))
    facts.add_column(no_wrap=True, min_width=11)
    facts.add_column(overflow="fold")
    for label, text in lines(seen, zone):
        style = STYLES.get(label, "")
        facts.add_row(Text(label, style or "dim"), Text(printable(text), style))
    return Group(bar, facts)


def _plain(look: Callable[[], Status], zone: ZoneInfo, clock: Clock) -> None:
    with PlainProgress(sys.stdout, zone, clock) as people:
        while (seen := look()).owner is not None:
            people.progress(seen.live or _still(seen, clock))
            time.sleep(EVERY)
    print(render(seen, zone), end="", flush=True)


def _still(seen: Status, clock: Clock) -> Snapshot:
    """A run that is at work on something else than rating."""
    tally = seen.tally
    return Snapshot(clock.time(), seen.run.stage, done=tally.done, total=tally.rows, failed=tally.failed)
