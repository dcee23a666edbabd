"""The bar as a terminal shows it: a real one, tmux, in the widths that operators have."""

from __future__ import annotations

import os
import shlex
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]

# Draws, says so when the terminal has taken it in (it answers a question about its cursor), and
# waits, so that the screen is looked at without any sleep.
SCRIPT = r"""
import os, subprocess, sys, tty
from dataclasses import replace
from datetime import date, datetime
from pathlib import Path
from zoneinfo import ZoneInfo
from esgbatch.config.model import Logging
from esgbatch.model import Snapshot, Stage
from esgbatch.observability.logs import LogListener, configure
from esgbatch.observability.progress import Broadcast, people_listener

tty.setcbreak(0)

def show():
    os.write(2, b"\x1b[6n")
    while os.read(0, 1) != b"R":
        pass
    subprocess.run(["tmux", "-S", sys.argv[1], "wait-for", "-S", "shown"], check=True)
    subprocess.run(["tmux", "-S", sys.argv[1], "wait-for", "seen"], check=True)

zone = ZoneInfo("America/Chicago")
at = lambda day, hour, minute: datetime(2026, 11, day, hour, minute, tzinfo=zone).timestamp()
configure(Logging(directory=Path(sys.argv[2])), environment="test", business_date=date(2026, 11, 24))
# The longest there is to show.
night = Snapshot(at=at(24, 5, 0), stage=Stage.RATING, done=420_000, total=1_000_000, failed=100_000,
                 rate=5000.0, in_flight=256, held="throttled", held_until=at(24, 5, 47), eta=at(25, 8, 12))
with people_listener(sys.stderr, zone, None) as people:
    everybody = Broadcast([LogListener(), people])
    everybody.event("rating_started", pending=1_000_000)
    everybody.progress(night)
    show()
    everybody.event("circuit_opened", accounts=20, error="HTTP 503")
    everybody.progress(replace(night, done=1_000_000))
    show()
    everybody.event("sealing_started")
print("the result")
show()
"""


class Tmux:
    """A terminal of its own, with its own server, of a given width."""

    def __init__(self, folder: Path, columns: int, command: Sequence[str] | None = None) -> None:
        self._home = Path(tempfile.mkdtemp(prefix="tmux-"))  # a socket's path is at most 107 bytes
        self._socket = self._home / "socket"
        if command is None:
            script = folder / "draw.py"
            script.write_text(SCRIPT, encoding="utf-8")
            command = [sys.executable, str(script), str(self._socket), str(folder / "logs")]
        size = ("-x", str(columns), "-y", "24")
        self._run("-f", "/dev/null", "new-session", "-d", *size, shlex.join(command))

    def _run(self, *words: str, check: bool = True) -> str:
        environment = {**os.environ, "LC_ALL": "C.UTF-8", "PYTHONPATH": str(ROOT), "TERM": "xterm-256color"}
        return subprocess.run(
            ["tmux", "-u", "-S", str(self._socket), *words],
            env=environment, check=check, capture_output=True, text=True, timeout=60,
        ).stdout  # fmt: skip

    def look(self) -> list[str]:
        """The lines of the screen when the script has drawn; then it goes on."""
        self._run("wait-for", "shown")
        screen = self._run("capture-pane", "-p")
        self._run("wait-for", "-S", "seen")
        return screen.rstrip("\n").split("\n")

    def screen(self, *, colours: bool = False) -> str:
        return self._run("capture-pane", "-p", *(["-e"] if colours else []))

    def press(self, key: str) -> None:
        self._run("send-keys", key)

    def cursor_is_shown(self) -> bool:
        return self._run("display-message", "-p", "#{cursor_flag}").strip() == "1"

    def close(self) -> None:
        self._run("kill-server", check=False)  # it ends by itself when the script has ended
        shutil.rmtree(self._home)


@pytest.fixture(params=[80, 200])
def screen(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[tuple[Tmux, int]]:
    assert shutil.which("tmux"), "install tmux"
    terminal = Tmux(tmp_path, request.param)
    yield terminal, request.param
    terminal.close()


def test_the_bar_on_a_real_terminal(screen: tuple[Tmux, int]) -> None:
    terminal, columns = screen
    facts = "throttled until 05:47 CST, ETA Wed 08:12 CST, 5,000.0/s, 100,000 failed, 256 in flight"

    bar, below = terminal.look()
    assert bar.startswith("rating  ━")
    assert bar.endswith("420,000/1,000,000 (42%)")
    assert len(bar) <= columns
    assert below == facts[:columns].rstrip()

    *warning, bar, below = terminal.look()
    assert " ".join(line.strip() for line in warning).endswith(
        "UTC warning: the ESG API is down: 20 accounts failed, none succeeded (HTTP 503)"
    )
    assert bar.endswith("1,000,000/1,000,000 (100%)")
    assert below == facts[:columns].rstrip()

    assert terminal.look() == [*warning, "sealing  encrypting the file", "the result"]
