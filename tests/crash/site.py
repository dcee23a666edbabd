"""Where nights take place: one firm with its servers for all; a state, log and drop folder for each worker."""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import sqlite3
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.acceptance.firm import DAY, TestFirm, firm

ROOT = Path(__file__).parents[2]
ACCOUNTS = 10
BAD_ACCOUNT = "A-000003"  # so that the error file has a line
PATIENCE = 60.0
LINGER = 10.0


@dataclass(frozen=True, slots=True)
class Ran:
    """A command that has ended."""

    code: int
    out: str
    err: str


@dataclass(frozen=True, slots=True)
class Start:
    """Where a night stands before it is struck, and the command that takes it on."""

    command: tuple[str, ...]
    code: int = 0  # of the run that led there, by this trouble
    trouble: Mapping[str, str] = field(default_factory=dict)
    environment: Mapping[str, str] = field(default_factory=dict)  # for all its commands
    revision: int = 1  # what is to be delivered in the end


STARTS: Mapping[str, Start] = {
    "nothing": Start(("run",)),
    "listed": Start(("resume",), 13, {"ESGBATCH_RATINGS__AUTH__CLIENT_ID": "a stranger"}),
    "sealed": Start(("deliver",), 16, {"ESGBATCH_DELIVERY__PORT": "1", "ESGBATCH_DELIVERY__ATTEMPTS": "1"}),
    "delivered": Start(("rerun", "--failed"), revision=2),
    "withheld": Start(
        ("approve", "--by", "C. Officer", "--reason", "a trial"),
        14,
        environment={"ESGBATCH_QUALITY__MAX_FAILED_PERCENT": "1"},
    ),
}
FOLDERS = ("state", "logs", "drop")


class Site:
    """One worker's place, the same paths for every night of his."""

    def __init__(self, folder: Path, firm: TestFirm) -> None:
        self.folder = folder
        self.state = folder / "state"
        self.logs = folder / "logs"
        self.drop = folder / "drop"
        self.traces = folder / "traces"
        self.firm = firm
        self.start = STARTS["nothing"]
        self._environment = firm.environment | {
            "ESGBATCH_JOB__STATE_DIR": str(self.state),
            "ESGBATCH_LOGGING__DIRECTORY": str(self.logs),
            "ESGBATCH_RATINGS__CONCURRENCY": "1",
            "ESGBATCH_RATINGS__BACKOFF__BASE": "0.05",
            "ESGBATCH_QUALITY__MAX_FAILED_PERCENT": "20",
            "ESGBATCH_DELIVERY__DIRECTORY": str(self.drop),
            "PYTHONHASHSEED": "0",
            "PYTHONPATH": str(ROOT),
            "PYTHONPYCACHEPREFIX": str(folder.parent / "bytecode"),
            "PYTHONDONTWRITEBYTECODE": "",
        }
        folder.mkdir()
        self.traces.mkdir()
        self._save("listed")
        # By now all is compiled; no night is to differ from the next by that.
        self._environment["PYTHONDONTWRITEBYTECODE"] = "1"

    # --- the nights ---

    def begin(self, name: str) -> None:
        """Forget the last night, and stand where one of `STARTS` is."""
        if name != "nothing" and not (self.folder / name).exists():
            self._save(name)
        self.start = STARTS[name]
        self._clear()
        if name != "nothing":
            for each in FOLDERS:
                shutil.copytree(self.folder / name / each, self.folder / each, dirs_exist_ok=True)

    @property
    def environment(self) -> dict[str, str]:
        return self._environment | dict(self.start.environment)

    @property
    def first_command(self) -> list[str]:
        """The one that takes the night on."""
        return self.command(*self.start.command, "--date", DAY.isoformat())

    def command(self, *arguments: str) -> list[str]:
        return [sys.executable, "-m", "esgbatch", *arguments, "--config", str(self.firm.config)]

    def ran(self, *arguments: str, trouble: Mapping[str, str] | None = None) -> Ran:
        """Run a command of the job to its end."""
        dated = arguments if "--date" in arguments else (*arguments, "--date", DAY.isoformat())
        ended = subprocess.run(
            self.command(*dated),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="replace",
            env=os.environ | self.environment | dict(trouble or {}),
            timeout=PATIENCE,
            check=False,
        )
        return Ran(ended.returncode, ended.stdout, ended.stderr)

    def next_command(self, ran: Ran) -> tuple[str, ...] | None:
        """What is to be typed after a command has ended so; None when the night is completed."""
        if ran.code == 0:
            return None if self._delivered() == self.start.revision else self.start.command
        return self.start.command if ran.code == 14 else advised(ran)

    def _delivered(self) -> int:
        with closing(sqlite3.connect(self.state / "checkpoint.sqlite")) as connection:
            found = connection.execute("select max(revision) from revisions where delivered is not null")
            return int(found.fetchone()[0] or 0)

    def _save(self, name: str) -> None:
        """Go where a start is, and keep what there is then."""
        self.start = STARTS[name]
        self._clear()
        ended = self.ran("run", trouble=self.start.trouble)
        assert ended.code == self.start.code, ended
        for each in FOLDERS:
            shutil.copytree(self.folder / each, self.folder / name / each)

    def _clear(self) -> None:
        for each in FOLDERS:
            shutil.rmtree(self.folder / each, ignore_errors=True)
        self.drop.mkdir()

    # --- what is left of them ---

    def processes(self) -> list[str]:
        """Command lines of processes that work here; given some time to end by themselves."""
        until = time.monotonic() + LINGER
        while (found := self._processes()) and time.monotonic() < until:
            time.sleep(0.02)
        return found

    def _processes(self) -> list[str]:
        found = []
        for path in Path("/proc").glob("[0-9]*/cmdline"):
            try:
                words = path.read_bytes().decode(errors="replace").split("\0")
            except OSError:
                continue
            if any(str(self.folder) in word for word in words) and int(path.parent.name) != os.getpid():
                found.append(shlex.join(words))
        return found


@contextmanager
def sites(folder: Path, number: int) -> Iterator[list[Site]]:
    """A firm with real servers, and so many places to work against them."""
    with firm(folder, ACCOUNTS, f"--account-fault={BAD_ACCOUNT}=no_rating") as shared:
        yield [Site(folder / f"site{each}", shared) for each in range(number)]


def advised(ran: Ran) -> tuple[str, ...]:
    """The command that a failed one says comes next; what an operator types where it could say nothing.

    A killed process is resumed; where there is no run of that date yet, it is run.
    """
    if ran.code == 19:
        return ("run",)
    advice = next((line for line in ran.err.splitlines() if line.startswith("Next: ")), "")
    commands = re.findall(r"`esgbatch ((?:run|resume|deliver)\b[^`]*)`", advice)
    return tuple(shlex.split(commands[0])) if commands else ("resume",)


def read_lines(path: Path) -> list[dict[str, Any]]:
    """The objects of a JSON lines file."""
    return [json.loads(line) for line in path.read_text().splitlines()]
