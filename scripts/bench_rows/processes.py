"""A process, and what it used."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

POLL_SECONDS = 0.2
PATIENCE = 10_000.0
# Two cores for the job, the others for the servers; with fewer than four, all share all.
JOB_CORES = (0, 1)


class Failed(RuntimeError):
    """A process ended as it should not have; the text has its last words."""


@dataclass(frozen=True)
class Used:
    """`began` is monotonic; `seconds` to its end, `cpu` user and system, those of ended children too; MiB."""

    began: float
    seconds: float
    cpu: float
    peak: float


def run(
    command: Sequence[str | Path],
    log: Path,
    *,
    environment: Mapping[str, str] | None = None,
    codes: Sequence[int] = (0,),
    stop_when: Callable[[float], bool] | None = None,
) -> Used:
    """Run to the end, or SIGTERM it once `stop_when`, given its age in seconds, says so.

    The peak is the process' own: the kernel's figure for an ended child begins with its parent's.

    Raises:
        Failed: another exit code.
    """
    with log.open("wb") as output:
        began = time.monotonic()
        process = subprocess.Popen(
            [*_pinned(), *map(str, command)],
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            env=clean(environment or {}),
        )
        peak = 0.0
        try:
            while True:
                pid, status, usage = os.wait4(process.pid, os.WNOHANG)
                age = time.monotonic() - began
                if pid:
                    break
                peak = max(peak, _peak(process.pid))
                if stop_when is not None and stop_when(age):
                    process.send_signal(signal.SIGTERM)
                    stop_when = None
                if age > PATIENCE:
                    raise Failed(f"{command} does not end")
                time.sleep(POLL_SECONDS)
        except BaseException:
            process.kill()
            raise
        process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode not in codes:
        words = log.read_text(errors="replace").strip().splitlines()[-8:]
        raise Failed(f"exit code {process.returncode}: " + " | ".join(words))
    return Used(began, age, usage.ru_utime + usage.ru_stime, peak)


def timed(command: Sequence[str | Path], environment: Mapping[str, str] | None = None) -> float:
    """Seconds that a short command takes."""
    began = time.monotonic()
    subprocess.run(
        [*map(str, command)],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        env=clean(environment or {}),
        check=True,
    )
    return time.monotonic() - began


def clean(more: Mapping[str, str]) -> dict[str, str]:
    """The environment without what would change the job or the peers."""
    unwanted = (
        "ESGBATCH_",
        "SSL_CERT",
        "REQUESTS_CA",
        "CURL_CA",
        "HTTP_PROXY",
        "HTTPS_PROXY",
        "PYTHONDONTWRITEBYTECODE",  # an installed program is not compiled at each start
    )
    kept = {name: value for name, value in os.environ.items() if not name.upper().startswith(unwanted)}
    return kept | dict(more)


def server_cores() -> set[int]:
    """The cores that are left to the servers."""
    cores = os.sched_getaffinity(0)
    return cores - set(JOB_CORES) if len(cores) >= 4 else cores


def _pinned() -> list[str]:
    if server_cores() == os.sched_getaffinity(0):
        return []
    return ["taskset", "--cpu-list", ",".join(map(str, JOB_CORES))]


def _peak(pid: int) -> float:
    try:
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    except OSError:
        return 0.0
    return next((int(line.split()[1]) / 1024 for line in lines if line.startswith("VmHWM:")), 0.0)


def describe_machine() -> str:
    """Cores, model, memory and Python; no name of the machine."""
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    model = next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), "unknown")
    memory = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / 2**30
    cores = len(os.sched_getaffinity(0))
    shared = "two for the job" if server_cores() != os.sched_getaffinity(0) else "shared by job and servers"
    python = ".".join(map(str, sys.version_info[:3]))
    return f"{cores} cores of {model}, {shared}, {memory:.0f} GiB, Linux {os.uname().release}, Python {python}"
