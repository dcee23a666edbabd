"""A firm in a test's folder: the sandbox as its servers, a compliance desk, and the job as a real process."""

from __future__ import annotations

import csv
import io
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import date
from pathlib import Path
from typing import Any

from esgbatch.operations.demo import Recipient, recipient, write_config
from esgbatch.sandbox.data import Firm
from esgbatch.sandbox.launch import RunningSandbox, sandbox
from tests.acceptance.sshd import Sshd

DAY = date(2026, 11, 23)
SEED = 7


@dataclass
class TestFirm:
    """Everything a test needs. `environment` overrides the configuration."""

    __test__ = False

    folder: Path
    server: RunningSandbox
    desk: Recipient
    config: Path
    books: Firm
    sshd: Sshd
    environment: dict[str, str] = field(default_factory=dict)

    # --- the job ---

    def command(self, *arguments: str) -> list[str]:
        return [sys.executable, "-m", "esgbatch", *arguments, "--config", str(self.config)]

    def process(
        self, *arguments: str, day: date | None = DAY, stderr: int = subprocess.PIPE
    ) -> subprocess.Popen[str]:
        dated = ["--date", day.isoformat()] if day else []
        return subprocess.Popen(
            self.command(*arguments, *dated),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=stderr,
            text=True,
            env=os.environ | self.environment,
        )

    def run(self, *arguments: str, code: int = 0, day: date | None = DAY, timeout: float = 60) -> Ran:
        """Run to the end, and insist on the exit code."""
        with self.process(*arguments, day=day) as process:
            try:
                out, err = process.communicate(timeout=timeout)
            except subprocess.TimeoutExpired:
                process.kill()
                raise AssertionError(f"{arguments} did not end: {process.communicate()}") from None
        assert process.returncode == code, f"{arguments} ended with {process.returncode}\n{out}\n{err}"
        if code != 1:
            assert "Traceback" not in err, err
        return Ran(out, err)

    def status(self) -> dict[str, Any]:
        found: dict[str, Any] = json.loads(self.run("status", "--json").out)
        return found

    def wait_until_done(self, accounts: int, process: subprocess.Popen[str]) -> None:
        """Until so many accounts are committed; the process must still be at work."""
        until = time.monotonic() + 30
        while time.monotonic() < until:
            assert process.poll() is None, process.communicate()
            if self.done() >= accounts:
                return
            time.sleep(0.02)
        raise AssertionError("the job makes no progress")

    def wait_for(self, event: str, log: Path, process: subprocess.Popen[str]) -> None:
        """Until the log tells of this event; the process must still be at work."""
        until = time.monotonic() + 30
        while not log.exists() or f'"{event}"' not in log.read_text():
            assert process.poll() is None, process.communicate()
            assert time.monotonic() < until, f"no {event}"
            time.sleep(0.02)

    def run_exists(self) -> bool:
        return self.process("status", "--json").wait() == 0

    def done(self) -> int:
        """How many accounts are committed."""
        import sqlite3

        path = self.state / "checkpoint.sqlite"
        if not path.exists():
            return 0
        try:
            with sqlite3.connect(f"file:{path}?mode=ro", uri=True) as connection:
                query = "select count(*) from accounts where state in ('succeeded', 'failed')"
                return int(connection.execute(query).fetchone()[0])
        except sqlite3.OperationalError:
            return 0

    # --- what it left ---

    @property
    def state(self) -> Path:
        return self.folder / "state"

    @property
    def drop(self) -> Path:
        return self.sshd.drop

    @property
    def sealed(self) -> Path:
        return self.drop / f"FirmESGRatings_{DAY:%Y%m%d}.csv.pgp"

    def manifest(self) -> dict[str, Any]:
        path = self.drop / f"FirmESGRatings_{DAY:%Y%m%d}.manifest.json"
        found: dict[str, Any] = json.loads(path.read_text())
        return found

    def plaintext(self, sealed: Path | None = None) -> bytes:
        target = self.folder / "opened.csv"
        self.desk.decrypt(sealed or self.sealed, target)
        return target.read_bytes()

    def errors(self) -> list[dict[str, Any]]:
        text = (self.folder / "logs" / f"errors-{DAY:%Y%m%d}.jsonl").read_text()
        return [json.loads(line) for line in text.splitlines()]

    # --- what it should have left, computed from the firm's books alone ---

    def expected(self, failed: set[str] | frozenset[str] = frozenset()) -> bytes:
        """The file, by another way than the program's."""
        header = "Account ID,Account Name,Environmental Score,Social Score,Governance Score,Overall ESG Score,"
        rows = (
            line(self.books, index, failed=self.books.account_id(index) in failed)
            for index in range(self.books.accounts)
        )
        return "".join((header, "Processing Status\r\n", *rows)).encode()


@dataclass(frozen=True)
class Ran:
    out: str
    err: str


def line(books: Firm, index: int, *, failed: bool) -> str:
    """The file's line of an account, computed from the firm's books alone."""
    cells = ("N/A",) * 4 if failed else books.cells(index)
    status = "Failed" if failed else "Success"
    texts = [_guarded(books.account_id(index)), _guarded(books.name(index)), *cells, status]
    return ",".join(_quoted(text) for text in texts) + "\r\n"


def _guarded(text: str) -> str:
    return "'" + text if text[:1] in ("=", "+", "-", "@", "\t", "\r") else text


def _quoted(text: str) -> str:
    if any(character in text for character in ',"\r\n'):
        return '"' + text.replace('"', '""') + '"'
    return text


@contextmanager
def firm(folder: Path, accounts: int, *arguments: str, rate: float | None = None) -> Iterator[TestFirm]:
    """A firm with its servers running; `arguments` go to the sandbox."""
    options = {"inactive": 7, "duplicates": 5, "refused": 3, "odd_ids": 12}
    flags = [f"--{name.replace('_', '-')}={value}" for name, value in options.items()]
    books = Firm(accounts, SEED, **options)
    extras = (f"--accounts={accounts}", f"--seed={SEED}", "--ignore-status", f"--root={folder / 'firm'}")
    with (
        sandbox(*extras, *flags, *arguments) as server,
        recipient(folder) as desk,
        Sshd(folder / "sshd") as sshd,
    ):
        config = write_config(folder, server.places, desk, rate=rate)
        yield TestFirm(folder, server, desk, config, books, sshd, _overrides(sshd))


def _overrides(sshd: Sshd) -> dict[str, str]:
    """OpenSSH instead of the sandbox's own server; no mail after a run, but where a test wants it."""
    delivery = {
        "PORT": sshd.port,
        "USERNAME": sshd.username,
        "PRIVATE_KEY": sshd.client_key,
        "KNOWN_HOSTS": sshd.known_hosts,
        "DIRECTORY": sshd.drop,
    }
    overrides = {f"ESGBATCH_DELIVERY__{key}": str(value) for key, value in delivery.items()}
    return overrides | {"ESGBATCH_ALERTS__EMAIL__REPORT_RECIPIENTS": "[]"}


def rows(plaintext: bytes) -> list[list[str]]:
    return list(csv.reader(io.StringIO(plaintext.decode(), newline="")))


def stop(process: subprocess.Popen[str], signum: signal.Signals) -> tuple[str, str]:
    process.send_signal(signum)
    return process.communicate(timeout=30)
