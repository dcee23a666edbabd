"""The servers, the job and the peers in one folder."""

from __future__ import annotations

import csv
import os
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from io import StringIO
from pathlib import Path
from typing import Any

from esgbatch.operations.demo import Recipient, recipient, write_config
from esgbatch.sandbox.data import Firm
from esgbatch.sandbox.launch import RunningSandbox, sandbox
from scripts.bench_rows.processes import Used, clean, run, server_cores

ROOT = Path(__file__).parents[2]
PEERS = ROOT / "scripts" / "peers"
PEERS_PYTHON = ROOT / ".venv-bench" / "bin" / "python"
JOB_PYTHON = ROOT / ".venv-job" / "bin" / "python"
SEED = 7
DAY = "2026-11-23"
SCORES = "Environmental Score,Social Score,Governance Score,Overall ESG Score"
HEADER = f"Account ID,Account Name,{SCORES},Processing Status"
PLAIN = ("--inactive=0", "--duplicates=0", "--refused=0", "--odd-ids=0", "--no-auth", "--tls")


@dataclass
class Site:
    """A firm's servers over TLS, and a configuration for them. Each run has a state folder of its own."""

    folder: Path
    server: RunningSandbox
    desk: Recipient
    config: Path
    accounts: int

    def command(self, *arguments: str) -> list[str]:
        return [str(JOB_PYTHON), "-m", "esgbatch", *arguments, "--config", str(self.config)]

    def job(
        self,
        state: str,
        *arguments: str,
        codes: Sequence[int] = (0,),
        stop_when: Callable[[float], bool] | None = None,
        **overrides: object,
    ) -> Used:
        """A command of the job for `DAY`; `overrides` as `RATINGS__RATE_LIMIT=50`."""
        return run(
            self.command(*arguments, "--date", DAY),
            self.folder / f"{state}.log",
            environment=self.environment(state, **overrides),
            codes=codes,
            stop_when=stop_when,
        )

    def environment(self, state: str, **overrides: object) -> dict[str, str]:
        told = {
            "JOB__STATE_DIR": self.folder / state,
            "LOGGING__DIRECTORY": self.folder / f"{state}-logs",
            "LOGGING__LEVEL": "WARNING",
            **overrides,
        }
        return {f"ESGBATCH_{key}": str(value) for key, value in told.items()}

    def peer(self, name: str, folder: str) -> Used:
        """A peer's whole run; it leaves `ratings.csv` in the folder."""
        target = self.folder / folder
        target.mkdir()
        places = self.server.places
        where = (places.accounts_url, places.ratings_url, places.ca_bundle, target)
        return run([PEERS_PYTHON, PEERS / f"{name}.py", *where], self.folder / f"{folder}.log")

    def esg(self) -> dict[str, Any]:
        """What the ESG API has counted."""
        counted: dict[str, Any] = self.server.stats()["esg"]
        return counted

    def delivered(self) -> list[str]:
        """The lines of the file in the drop folder, sorted, without the header; the folder is empty then."""
        opened = self.folder / "opened.csv"
        for each in Path(self.server.places.sftp.folder).rglob("*.*"):
            if each.suffix == ".pgp":
                self.desk.decrypt(each, opened)
            each.unlink()
        return lines(opened)

    def expected(self) -> list[str]:
        """The same, computed from the firm's books alone."""
        books = Firm(self.accounts, SEED)
        text = StringIO()
        csv.writer(text).writerows(
            (books.account_id(index), books.name(index), *books.cells(index), "Success")
            for index in range(self.accounts)
        )
        return sorted(text.getvalue().splitlines())


def lines(path: Path) -> list[str]:
    """A CSV file's lines in sorted order: some peers write in the order of answers."""
    header, *rows = path.read_text(encoding="utf-8").splitlines()
    assert header == HEADER, header
    return sorted(rows)


@contextmanager
def site(folder: Path, accounts: int, *arguments: str) -> Iterator[Site]:
    """`arguments` go to the sandbox."""
    folder.mkdir(exist_ok=True)
    firm = (f"--accounts={accounts}", f"--seed={SEED}", f"--root={folder / 'firm'}", *PLAIN)
    with sandbox(*firm, *arguments) as server, recipient(folder) as desk:
        os.sched_setaffinity(server.places.pid, server_cores())
        yield Site(folder, server, desk, write_config(folder, server.places, desk, rate=None), accounts)


def set_up() -> None:
    """Make `.venv-bench` and `.venv-job`, where they are not there yet.

    The tests' packages are not in them: some of the job's libraries load more where they find it.
    """
    subprocess.run(
        [ROOT / "scripts" / "setup", "bench"], stdout=sys.stderr, env=os.environ | clean({}), check=True
    )
