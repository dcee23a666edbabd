"""Starts the sandbox as a child process, and talks to its control endpoint.

Only the standard library is loaded here, so that the caller does not carry the
servers' libraries.
"""

from __future__ import annotations

import json
import os
import select
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from esgbatch.sandbox.places import Places

START_TIMEOUT = 30.0
STOP_TIMEOUT = 5.0
CONTROL_TIMEOUT = 10.0

# Never through a proxy: the sandbox is on this machine.
_opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))


class SandboxFailed(RuntimeError):
    """It did not start; its standard error says why."""


class RunningSandbox:
    """A sandbox in another process."""

    def __init__(self, places: Places) -> None:
        self.places = places

    def stats(self) -> dict[str, Any]:
        """What has been counted since the start, by service."""
        return self._ask("/stats", None)

    def switch(self, **faults: Any) -> dict[str, Any]:
        """Switch fields of `faults.Faults`, or do what `control.py` lists; returns all that is in force."""
        return self._ask("/faults", json.dumps(faults).encode())

    def _ask(self, path: str, body: bytes | None) -> dict[str, Any]:
        with _opener.open(self.places.control_url + path, body, CONTROL_TIMEOUT) as answer:
            found: dict[str, Any] = json.load(answer)
            return found


@contextmanager
def sandbox(*arguments: str) -> Iterator[RunningSandbox]:
    """Run `python -m esgbatch.sandbox` with these arguments; it ends with the context, or with this process.

    Raises:
        SandboxFailed: it ended, or said nothing, instead of starting.
    """
    command = [sys.executable, "-m", "esgbatch.sandbox", "--json", "--exit-with-parent", *arguments]
    source = str(Path(__file__).parents[2])
    path = os.pathsep.join(filter(None, (source, os.environ.get("PYTHONPATH"))))
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=os.environ | {"PYTHONPATH": path}
    ) as process:
        try:
            assert process.stdout is not None
            ready, _, _ = select.select([process.stdout], [], [], START_TIMEOUT)
            line = process.stdout.readline() if ready else b""
            if not line:
                raise SandboxFailed("the sandbox did not start")
            yield RunningSandbox(Places.from_json(line.decode()))
        finally:
            process.terminate()
            try:
                process.wait(STOP_TIMEOUT)
            except subprocess.TimeoutExpired:
                process.kill()
