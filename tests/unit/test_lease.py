"""A run belongs to one process, also when processes are killed, race, or forge the lock file."""

from __future__ import annotations

import errno
import json
import os
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import asdict, replace
from datetime import date, timedelta
from pathlib import Path
from types import FrameType
from typing import Any, Self

import pytest

from esgbatch.checkpoint.lease import Owner, holder, lease, lock_path
from esgbatch.errors import CheckpointError, RunHeld

ROOT = Path(__file__).parents[2]
DAY = date(2026, 11, 24)

# Takes the lease at a given moment, says what came of it, and gives it back when told.
CHILD = """
import sys, time
from datetime import date
from pathlib import Path
from esgbatch.checkpoint.lease import lease
from esgbatch.errors import RunHeld

folder, day, comm = Path(sys.argv[1]), date.fromisoformat(sys.argv[2]), sys.argv[3]
if comm:
    Path("/proc/self/comm").write_text(comm)
print("ready", flush=True)
for line in sys.stdin:
    at = float(line)
    while time.monotonic() < at:
        pass
    try:
        with lease(folder, day, "run") as died:
            print("held", died.pid if died else 0, flush=True)
            sys.stdin.readline()
    except RunHeld as error:
        print("refused", error, flush=True)
        sys.stdin.readline()
    print("given back", flush=True)
"""


class Child:
    """Another process that can hold the lease."""

    def __init__(self, folder: Path, comm: str = "") -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-c", CHILD, str(folder), DAY.isoformat(), comm],
            cwd=ROOT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self.pid = self._process.pid

    def __enter__(self) -> Self:
        assert self.hears() == "ready"
        return self

    def __exit__(self, *_: object) -> None:
        self._process.kill()
        self._process.communicate()

    def told(self, line: str) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write(f"{line}\n")
        self._process.stdin.flush()

    def hears(self) -> str:
        assert self._process.stdout is not None
        return self._process.stdout.readline().strip()

    def take(self) -> str:
        self.told("0")
        return self.hears()

    def give_back(self) -> None:
        self.told("")
        assert self.hears() == "given back"

    def kill(self, *, reap: bool = True) -> None:
        self._process.send_signal(signal.SIGKILL)
        if reap:
            self._process.wait(10)
        else:
            os.waitid(os.P_PID, self.pid, os.WEXITED | os.WNOWAIT)


@pytest.fixture
def child(tmp_path: Path) -> Iterator[Child]:
    with Child(tmp_path) as child:
        yield child


def write_lock(folder: Path, content: bytes) -> Path:
    path = lock_path(folder, DAY)
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(content)
    return path


def test_nobody_holds_what_was_never_taken(tmp_path: Path) -> None:
    assert holder(tmp_path, DAY) is None
    assert list(tmp_path.iterdir()) == []


def test_the_holder_is_told_while_it_holds(tmp_path: Path, child: Child) -> None:
    assert child.take() == "held 0"
    found = holder(tmp_path, DAY)
    assert found is not None
    assert (found.pid, found.command) == (child.pid, "run")
    assert found.is_alive()
    child.give_back()
    assert holder(tmp_path, DAY) is None
    assert not Owner(**asdict(replace(found, start_ticks=found.start_ticks + 1))).is_alive()


def test_a_living_holder_keeps_everybody_else_out(tmp_path: Path, child: Child) -> None:
    child.take()
    for _ in range(3):
        with pytest.raises(RunHeld, match=rf"2026-11-24 is held by `esgbatch run`, process {child.pid} on"):
            lease(tmp_path, DAY, "resume").__enter__()
    found = holder(tmp_path, DAY)
    assert found is not None
    assert found.command == "run", "who is refused must not write into the lock file"
    child.give_back()
    with lease(tmp_path, DAY, "resume") as died:
        assert died is None


def test_one_process_does_not_get_it_twice(tmp_path: Path) -> None:
    with lease(tmp_path, DAY, "run"), pytest.raises(RunHeld):
        lease(tmp_path, DAY, "run").__enter__()


def test_other_dates_are_free(tmp_path: Path, child: Child) -> None:
    child.take()
    with lease(tmp_path, DAY + timedelta(days=1), "run") as died:
        assert died is None


def test_a_killed_holder_never_blocks_and_is_named_once(tmp_path: Path, child: Child) -> None:
    child.take()
    child.kill()
    assert holder(tmp_path, DAY) is None
    with lease(tmp_path, DAY, "resume") as died:
        assert died is not None
        assert (died.pid, died.command) == (child.pid, "run")
        assert not died.is_alive()
    with lease(tmp_path, DAY, "resume") as died:
        assert died is None


def test_a_killed_holder_that_nobody_has_reaped_is_dead(tmp_path: Path, child: Child) -> None:
    child.take()
    child.kill(reap=False)
    with lease(tmp_path, DAY, "resume") as died:
        assert died is not None
        assert not died.is_alive()


def test_whatever_ends_the_work_gives_the_lease_back(tmp_path: Path) -> None:
    for error in (ValueError, KeyboardInterrupt, SystemExit):
        with pytest.raises(error), lease(tmp_path, DAY, "run"):
            raise error
        with lease(tmp_path, DAY, "run") as died:
            assert died is None


def test_two_that_start_at_once_never_both_hold_it(tmp_path: Path) -> None:
    with Child(tmp_path) as one, Child(tmp_path) as other:
        for _ in range(50):
            at = time.monotonic() + 0.003
            for child in (one, other):
                child.told(f"{at}")
            said = {one: one.hears(), other: other.hears()}
            assert sorted(text.split()[0] for text in said.values()) == ["held", "refused"]
            winner = one if said[one].startswith("held") else other
            refusal = said[other if winner is one else one]
            assert f"process {winner.pid} on" in refusal or "another process" in refusal
            for child in (one, other):
                child.give_back()


def test_looking_never_keeps_a_start_out(tmp_path: Path) -> None:
    """`status --watch` asks all the time: at every single line of it a run may start and is not refused."""
    write_lock(tmp_path, b"")
    lines = 0

    def start(_frame: FrameType, event: str, _arg: object) -> Any:
        nonlocal lines
        if event == "line":
            lines += 1
            with lease(tmp_path, DAY, "run"):
                pass
        return start

    before = sys.gettrace()
    sys.settrace(start)
    try:
        holder(tmp_path, DAY)
    finally:
        sys.settrace(before)
    assert lines > 3


@pytest.mark.parametrize("comm", [") Z 1 (", "a b", "((", "\n"])
def test_a_process_may_have_any_name(tmp_path: Path, comm: str) -> None:
    with Child(tmp_path, comm) as child:
        child.take()
        found = holder(tmp_path, DAY)
        assert found is not None
        assert found.is_alive()


def test_an_owner_is_told_from_later_processes_and_other_boots() -> None:
    me = Owner.this_process("run")
    assert me.is_alive()
    assert me.pid == os.getpid()
    assert not replace(me, start_ticks=me.start_ticks - 1).is_alive(), "a reused process number"
    assert not replace(me, boot_id="11111111-2222-3333-4444-555555555555").is_alive(), "another boot"
    assert not replace(me, pid=2**22 + 1).is_alive()


@pytest.mark.parametrize("forged", ["another boot", "a reused pid", "a living process"])
def test_what_the_file_says_never_decides_who_may_run(tmp_path: Path, forged: str) -> None:
    me = Owner.this_process("run")
    owner = {
        "another boot": replace(me, boot_id="11111111-2222-3333-4444-555555555555"),
        "a reused pid": replace(me, pid=1),
        "a living process": me,
    }[forged]
    write_lock(tmp_path, json.dumps(asdict(owner)).encode())
    assert holder(tmp_path, DAY) == (owner if owner is me else None)
    with lease(tmp_path, DAY, "run") as died:
        assert died == owner


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\xff\xfe",
        b"4711",
        b"null",
        b"[]",
        b"{}",
        b'{"pid": 1',
        b'{"pid": 1, "boot_id": "x", "start_ticks": 1, "host": "h", "command": "run", "more": 1}',
        b"\0" * 100_000,
    ],
)
def test_a_lock_file_of_nonsense_is_as_good_as_an_empty_one(tmp_path: Path, content: bytes) -> None:
    path = write_lock(tmp_path, content)
    assert holder(tmp_path, DAY) is None
    with lease(tmp_path, DAY, "run") as died:
        assert died is None
        found = holder(tmp_path, DAY)
        assert found is not None
        assert found.pid == os.getpid()
    assert path.read_bytes() == b""


def test_the_lock_is_its_owners_alone(tmp_path: Path) -> None:
    before = os.umask(0)
    try:
        with lease(tmp_path, DAY, "run"):
            assert lock_path(tmp_path, DAY).stat().st_mode & 0o777 == 0o600
            assert lock_path(tmp_path, DAY).parent.stat().st_mode & 0o777 == 0o700
    finally:
        os.umask(before)


def test_a_symbolic_link_in_the_locks_place_is_refused(tmp_path: Path) -> None:
    precious = tmp_path / "precious"
    precious.write_text("content")
    lock_path(tmp_path, DAY).parent.mkdir()
    lock_path(tmp_path, DAY).symlink_to(precious)
    with pytest.raises(CheckpointError, match="cannot be opened"):
        lease(tmp_path, DAY, "run").__enter__()
    assert precious.read_text() == "content"


def test_a_lock_that_cannot_be_made(tmp_path: Path) -> None:
    (tmp_path / "locks").write_text("")
    with pytest.raises(CheckpointError, match="cannot be opened") as raised:
        lease(tmp_path, DAY, "run").__enter__()
    assert "\n" not in str(raised.value)


def test_a_full_disk_is_a_trouble_of_the_state_folder(tmp_path: Path) -> None:
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, before[1]))
    try:
        with pytest.raises(CheckpointError, match="lock file"):
            lease(tmp_path, DAY, "run").__enter__()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    with lease(tmp_path, DAY, "run") as died:
        assert died is None


def test_a_disk_that_fails_at_the_end_is_no_trouble_of_the_work(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(descriptor: int, length: int) -> None:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    with lease(tmp_path, DAY, "run"):
        monkeypatch.setattr(os, "ftruncate", fail)
    monkeypatch.undo()
    assert lock_path(tmp_path, DAY).read_bytes(), "the disk did not fail"
    with lease(tmp_path, DAY, "resume"):
        pass


def test_programs_that_are_started_meanwhile_do_not_keep_the_lock(tmp_path: Path) -> None:
    with lease(tmp_path, DAY, "run"):
        sleeper = subprocess.Popen(["sleep", "60"], close_fds=False)
    try:
        with lease(tmp_path, DAY, "run"):
            pass
    finally:
        sleeper.kill()
        sleeper.wait()
