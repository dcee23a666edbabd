"""Where nights take place: a firm with its servers, shared; a state, log and drop folder for each worker."""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.acceptance.firm import DAY, TestFirm, firm
from tests.acceptance.sshd import Sshd
from tests.crash.points import SCOPES

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


class Site:
    """One worker's place, the same paths for every night of his."""

    def __init__(self, folder: Path, firm: TestFirm, server: Sshd) -> None:
        self.folder = folder
        self.state = folder / "state"
        self.logs = folder / "logs"
        self.drop = folder / "drop"
        self.traces = folder / "traces"
        self.firm = firm
        self.environment = {
            "ESGBATCH_JOB__STATE_DIR": str(self.state),
            "ESGBATCH_LOGGING__DIRECTORY": str(self.logs),
            "ESGBATCH_RATINGS__CONCURRENCY": "1",
            "ESGBATCH_RATINGS__BACKOFF__BASE": "0.05",
            "ESGBATCH_QUALITY__MAX_FAILED_PERCENT": "20",
            "ESGBATCH_DELIVERY__HOST": server.host,
            "ESGBATCH_DELIVERY__PORT": str(server.port),
            "ESGBATCH_DELIVERY__USERNAME": server.username,
            "ESGBATCH_DELIVERY__PRIVATE_KEY": str(server.client_key),
            "ESGBATCH_DELIVERY__KNOWN_HOSTS": str(server.known_hosts),
            "ESGBATCH_DELIVERY__DIRECTORY": str(self.drop),
            "PYTHONHASHSEED": "0",
            "PYTHONPATH": str(ROOT),
            "PYTHONPYCACHEPREFIX": str(folder.parent / "bytecode"),
            "PYTHONDONTWRITEBYTECODE": "",
        }
        folder.mkdir()
        self.traces.mkdir()
        self._save_starts()
        # By now all is compiled; no night is to differ from the next by that.
        self.environment["PYTHONDONTWRITEBYTECODE"] = "1"

    # --- the nights ---

    def begin(self, start: str) -> None:
        """Forget the last night, and stand where the command `start` takes over."""
        for folder in (self.state, self.logs, self.drop):
            shutil.rmtree(folder, ignore_errors=True)
        saved = self.folder / f"before-{start}"
        if saved.exists():
            for name in ("state", "logs", "drop"):
                shutil.copytree(saved / name, self.folder / name)
        else:
            self.drop.mkdir()

    def command(self, *arguments: str) -> list[str]:
        return [sys.executable, "-m", "esgbatch", *arguments, "--config", str(self.firm.config)]

    def ran(self, *arguments: str, **environment: str) -> Ran:
        """Run a command of the job to its end."""
        dated = arguments if "--date" in arguments else (*arguments, "--date", DAY.isoformat())
        ended = subprocess.run(
            self.command(*dated),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="replace",
            env=os.environ | self.environment | environment,
            timeout=PATIENCE,
            check=False,
        )
        return Ran(ended.returncode, ended.stdout, ended.stderr)

    def struck_command(self, scope: str) -> list[str]:
        return self.command(SCOPES[scope].start, "--date", DAY.isoformat())

    def _save_starts(self) -> None:
        """Nights that stand before the rating and before the delivery, to begin from."""
        stops = {
            "resume": (13, {"ESGBATCH_RATINGS__AUTH__CLIENT_ID": "a stranger"}),
            "deliver": (16, {"ESGBATCH_DELIVERY__PORT": "1", "ESGBATCH_DELIVERY__ATTEMPTS": "1"}),
        }
        for start, (code, trouble) in stops.items():
            self.begin("run")
            ended = self.ran("run", **trouble)
            assert ended.code == code, ended
            saved = self.folder / f"before-{start}"
            for name in ("state", "logs", "drop"):
                shutil.copytree(self.folder / name, saved / name)

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
    with (
        firm(folder, ACCOUNTS, f"--account-fault={BAD_ACCOUNT}=no_rating") as shared,
        Sshd(folder / "ssh") as server,
    ):
        yield [Site(folder / f"site{each}", shared, server) for each in range(number)]


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
