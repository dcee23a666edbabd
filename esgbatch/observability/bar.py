"""The run on a terminal: a bar, and a line of facts. A module of its own, since rich takes memory."""

from __future__ import annotations

from types import TracebackType
from typing import Self, TextIO
from zoneinfo import ZoneInfo

from rich import progress_bar
from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.table import Table
from rich.text import Text

from esgbatch.model import Snapshot
from esgbatch.observability.progress import View


class ProgressBar:
    """A bar and a line of facts at the bottom of the terminal; what else goes to stderr stands above.

    It is drawn when something comes in, never by a thread of its own, which would
    take the interpreter from the workers.
    """

    def __init__(self, stream: TextIO, zone: ZoneInfo) -> None:
        self._view = View(zone)
        console = Console(file=stream, highlight=False, markup=False, emoji=False)
        self._live = Live(console=console, auto_refresh=False, redirect_stdout=False)

    def __enter__(self) -> Self:
        self._live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, where: TracebackType | None, /
    ) -> None:
        self._live.stop()

    def event(self, name: str, /, **fields: object) -> None:
        self._view.event(name, fields)
        if self._view.snapshot is None:
            self._draw()

    def progress(self, snapshot: Snapshot) -> None:
        self._view.progress(snapshot)
        self._draw()

    def _draw(self) -> None:
        self._live.update(self._picture(), refresh=True)

    def _picture(self) -> RenderableType:
        facts = Text(self._view.facts, no_wrap=True, overflow="crop")
        now = self._view.snapshot
        if now is None:
            return Text.assemble((self._view.stage or "", "bold"), "  ", facts, no_wrap=True, overflow="crop")
        grid = Table.grid(padding=(0, 2, 0, 0), expand=True)
        grid.add_column(no_wrap=True)
        grid.add_column(ratio=1)
        grid.add_column(no_wrap=True, justify="right")
        bar = progress_bar.ProgressBar(total=max(now.total, 1), completed=now.done, complete_style="cyan")
        grid.add_row(Text(now.stage, "bold"), bar, self._view.count)
        return Group(grid, facts)
