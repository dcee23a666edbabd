"""A real Dask cluster on this machine: a scheduler and workers as processes of their own.

Use::

    with Cluster(folder, workers=2) as cluster:
        ...
        cluster.workers[0].kill()
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path
from typing import Self

from tests.sockets.certificates import Authority

ROOT = Path(__file__).parents[2]


class Cluster:
    """`address` is the scheduler's. With an `Authority` everything speaks TLS, and `tls` has the files."""

    def __init__(
        self, folder: Path, workers: int = 0, authority: Authority | None = None, *, debug: bool = True
    ) -> None:
        self._folder = folder
        self._count = workers
        self._level = "debug" if debug else "warning"
        self.workers: list[subprocess.Popen[bytes]] = []
        self.tls: dict[str, Path] = {}
        self._protocol = "tcp"
        folder.mkdir(parents=True, exist_ok=True)
        if authority is not None:
            pair = authority.sign("localhost")
            self.tls = {"ca-file": authority.pem, "cert": pair.cert, "key": pair.key}
            self._protocol = "tls"

    @property
    def address(self) -> str:
        return f"{self._protocol}://127.0.0.1:{self.port}"

    def environment(self) -> dict[str, str]:
        """What makes the job use it."""
        names = {"ca-file": "TLS_CA_FILE", "cert": "TLS_CLIENT_CERT", "key": "TLS_CLIENT_KEY"}
        files = {f"ESGBATCH_RATINGS__DASK__{names[kind]}": str(path) for kind, path in self.tls.items()}
        return files | {
            "ESGBATCH_RATINGS__ENGINE": "dask",
            "ESGBATCH_RATINGS__DASK__SCHEDULER": self.address,
            "ESGBATCH_RATINGS__DASK__WAIT": "40",
        }

    @property
    def logs(self) -> str:
        """What scheduler and workers have written."""
        return "".join(path.read_text(errors="replace") for path in sorted(self._folder.glob("*.log")))

    def __enter__(self) -> Self:
        self.start_scheduler()
        for _ in range(self._count):
            self.start_worker()
        return self

    def __exit__(self, *_: object) -> None:
        for process in (*self.workers, self.scheduler):
            with suppress(ProcessLookupError):
                process.send_signal(signal.SIGCONT)
            process.kill()
            process.wait()

    def start_scheduler(self) -> None:
        found = self._folder / "scheduler.json"
        found.unlink(missing_ok=True)
        self.scheduler = self._start(
            "scheduler", "dask_scheduler", "--port", "0", "--scheduler-file", str(found), "--no-dashboard"
        )
        until = time.monotonic() + 60
        while not found.exists() or not found.read_text().endswith("}"):
            assert time.monotonic() < until, self.logs
            assert self.scheduler.poll() is None, self.logs
            time.sleep(0.05)
        self.port = int(json.loads(found.read_text())["address"].rpartition(":")[2])

    def start_worker(self) -> subprocess.Popen[bytes]:
        options = ("--no-nanny", "--nthreads", "1", "--no-dashboard", "--memory-limit", "0")
        name = f"worker-{len(self.workers)}"
        worker = self._start(name, "dask_worker", self.address, *options, "--death-timeout", "60")
        self.workers.append(worker)
        return worker

    def wait_for_workers(self) -> None:
        """Until every worker has registered."""

        async def wait() -> None:
            async with Client(self.address, asynchronous=True) as client:
                await client.wait_for_workers(len(self.workers), timeout=60)

        from distributed import Client

        asyncio.run(wait())

    def _start(self, name: str, module: str, *arguments: str) -> subprocess.Popen[bytes]:
        folder = self._folder / name
        folder.mkdir(exist_ok=True)
        tls = [item for kind, path in self.tls.items() for item in (f"--tls-{kind}", str(path))]
        with (self._folder / f"{name}.log").open("ab") as log:
            return subprocess.Popen(
                [
                    *(sys.executable, "-m", f"distributed.cli.{module}", *arguments),
                    *("--host", "127.0.0.1", "--protocol", self._protocol, *tls),
                ],
                cwd=folder,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env=os.environ | {"PYTHONPATH": str(ROOT), "DASK_LOGGING__DISTRIBUTED": self._level},
            )
