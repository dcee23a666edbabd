"""Strikes a process at one of its system calls, by `strace`, and tells whether and where it did."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import signal
import subprocess
import time
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from tests.crash.points import SCOPES, Fault, Point

PATIENCE = 90.0
CREATES = re.compile(r"O_(CREAT|WRONLY|RDWR)\b")
# "write(5</tmp/x>, …", after the thread's number where several are traced.
CALL = re.compile(r"^(?:(\d+) +)?(\w+)\((.*)$")


@dataclass(frozen=True, slots=True)
class Struck:
    """How the process ended, and the call it was struck at; empty where it never came to it."""

    code: int
    out: str
    err: str
    call: str

    @property
    def strikes(self) -> bool:
        return bool(self.call)


def require_strace() -> str:
    found = shutil.which("strace")
    if found is None:
        raise RuntimeError("strace is missing: `apt-get install strace`")
    return found


def strike(point: Point, command: Sequence[str], environment: dict[str, str], folder: Path) -> Struck:
    """Run `command` to its end, struck at `point`; what it writes and the trace go to `folder`."""
    scope, fault = SCOPES[point.group.scope], point.group.fault
    call = point.group.call
    options = [f"--trace={call}", "-e", f"inject={call}:{fault.injection}:when={point.n}"]
    if scope.gpg:
        environment = environment | {"ESGBATCH_ENCRYPTION__GPG": str(_wrapper(folder, scope.gpg, options))}
        traced = list(command)
    else:
        traced = _strace(folder / "trace", options, follow=scope.follow) + list(command)
    code, out, err = _run(traced, environment, folder, kill_group=fault is Fault.GROUP)
    return Struck(code, out, err, struck_at(_traces(folder), fault))


def census(
    scope_name: str, command: Sequence[str], environment: dict[str, str], folder: Path
) -> dict[str, list[int]]:
    """The numbers to strike at for each call of the scope: all that an undisturbed run makes.

    Of `openat` only those that create or may write: the interpreter's start opens a thousand files.
    """
    scope = SCOPES[scope_name]
    options = [f"--trace={','.join(scope.calls)}"]
    if scope.gpg:
        environment = environment | {"ESGBATCH_ENCRYPTION__GPG": str(_wrapper(folder, scope.gpg, options))}
        traced = list(command)
    else:
        traced = _strace(folder / "trace", options, follow=scope.follow) + list(command)
    code, out, err = _run(traced, environment, folder, kill_group=False)
    assert code == 0, f"the undisturbed {command} under strace ended with {code}:\n{out}\n{err}"
    numbers: dict[str, set[int]] = defaultdict(set)
    for trace in _traces(folder):
        counted: Counter[tuple[str, str]] = Counter()
        for thread, call, arguments in _calls(trace):
            counted[thread, call] += 1
            if call != "openat" or CREATES.search(arguments):
                numbers[call].add(counted[thread, call])
    return {call: sorted(found) for call, found in numbers.items()}


def _strace(output: Path, options: Iterable[str], *, follow: bool) -> list[str]:
    # Not --seccomp-bpf, which would be faster: with it strace 6.1 strikes at the first call or never.
    following = ["--follow-forks"] if follow else []
    return [require_strace(), "-qq", "-y", "-s", "60", *following, "-o", str(output), *options]


def _wrapper(folder: Path, pattern: str, options: Iterable[str]) -> Path:
    """A gpg that is traced where its arguments hold `pattern`, each call of it in a file of its own."""
    gpg = shlex.quote(shutil.which("gpg") or "gpg")
    # The shell that becomes strace would be one more execve, but strace counts from its own child on.
    traced = shlex.join(_strace(folder / "trace", options, follow=False)).replace(
        str(folder / "trace"), f"{folder / 'trace'}.$$"
    )
    path = folder / "gpg"
    path.write_text(
        f'#!/bin/sh\ncase "$*" in *"{pattern}"*) exec {traced} {gpg} "$@" ;; esac\nexec {gpg} "$@"\n'
    )
    path.chmod(0o755)
    return path


def _traces(folder: Path) -> list[str]:
    return [path.read_text(errors="replace") for path in sorted(folder.glob("trace*"))]


def _run(
    command: Sequence[str], environment: dict[str, str], folder: Path, *, kill_group: bool
) -> tuple[int, str, str]:
    for left in folder.glob("trace*"):
        left.unlink()
    with (folder / "out").open("wb") as out, (folder / "err").open("wb") as err:
        process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=err,
            env=os.environ | environment,
            start_new_session=True,
        )
        try:
            if kill_group and _stopped(process, folder / "trace"):
                os.killpg(process.pid, signal.SIGKILL)
            code = process.wait(PATIENCE)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
            code = HUNG
    return code, (folder / "out").read_text(errors="replace"), (folder / "err").read_text(errors="replace")


HUNG = 1000


def _stopped(process: subprocess.Popen[bytes], trace: Path) -> bool:
    """Wait until the process is stopped, or has ended."""
    until = time.monotonic() + PATIENCE
    while process.poll() is None and time.monotonic() < until:
        if trace.exists() and "--- stopped by SIGSTOP ---" in trace.read_text(errors="replace"):
            return True
        time.sleep(0.005)
    return False


def _calls(trace: str) -> Iterable[tuple[str, str, str]]:
    """Thread, call and arguments of each call in a trace, in order."""
    for line in trace.splitlines():
        if found := CALL.match(line):
            yield found[1] or "", found[2], found[3]


def struck_at(traces: Sequence[str], fault: Fault) -> str:
    """The line of the struck call. An error marks its line, SIGKILL leaves it without a result.

    Where another thread spoke in between, the killed call is told in two lines, or its second is missing.
    """
    behind = {Fault.GROUP: "--- SIGSTOP", Fault.TERM: "--- SIGTERM"}
    for trace in traces:
        before: dict[str, str] = {}
        unfinished: dict[str, str] = {}
        for line in trace.splitlines():
            if fault.is_error and "(INJECTED)" in line:
                return line
            thread = line.partition(" ")[0] if line[:1].isdigit() else ""
            if fault is Fault.KILL and line.endswith(" = ?"):
                return line if CALL.match(line) else unfinished.get(thread, line)
            if fault in behind and behind[fault] in line:
                return before.get(thread) or line
            if CALL.match(line):
                unfinished.pop(thread, None)
                if line.endswith("<unfinished ...>"):
                    unfinished[thread] = line
            elif " resumed>" in line:
                unfinished.pop(thread, None)
            before[thread] = line
        if fault is Fault.KILL and unfinished and "+++ killed by SIGKILL +++" in trace:
            return next(reversed(unfinished.values()))
    return ""
