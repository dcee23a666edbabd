"""Files that are whole or not there, whatever happens and whoever has put something in the way."""

from __future__ import annotations

import fcntl
import os
import resource
import signal
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from esgbatch.files import alone, lock, private_folder, replacing, sync_folder

ROOT = Path(__file__).parents[2]


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def test_the_file_appears_when_the_block_ends(tmp_path: Path) -> None:
    path = tmp_path / "file"
    with replacing(path) as file:
        file.write(b"new")
        file.flush()
        assert not path.exists()
    assert path.read_bytes() == b"new"
    assert [each.name for each in tmp_path.iterdir()] == ["file"]


def test_the_old_file_stays_until_then(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"old")
    with path.open("rb") as reader:
        with replacing(path) as file:
            file.write(b"new and longer")
            assert path.read_bytes() == b"old"
        assert reader.read() == b"old"
    assert path.read_bytes() == b"new and longer"


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt, SystemExit])
@pytest.mark.parametrize("there", [True, False])
def test_a_block_that_fails_leaves_everything_as_it_was(
    tmp_path: Path, error: type[BaseException], there: bool
) -> None:
    path = tmp_path / "file"
    if there:
        path.write_bytes(b"old")

    def break_off() -> None:
        with replacing(path) as file:
            file.write(b"half")
            raise error

    with pytest.raises(error):
        break_off()
    assert [each.read_bytes() for each in tmp_path.iterdir()] == ([b"old"] if there else [])


def test_a_disk_that_fills_up_leaves_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"old")
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, before[1]))
    try:
        with pytest.raises(OSError, match="large"), replacing(path) as file:
            file.write(b"x" * 1001)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert path.read_bytes() == b"old"
    assert [each.name for each in tmp_path.iterdir()] == ["file"]


KILLED = """
import os, signal, sys
from pathlib import Path
from esgbatch.files import replacing

with replacing(Path(sys.argv[1])) as file:
    file.write(b"half")
    file.flush()
    os.kill(os.getpid(), signal.SIGKILL)
"""


def test_a_killed_writer_leaves_no_half_file_and_does_not_block_the_next(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"old")
    done = subprocess.run([sys.executable, "-c", KILLED, str(path)], cwd=ROOT, check=False, timeout=30)
    assert done.returncode == -signal.SIGKILL
    assert path.read_bytes() == b"old"
    with replacing(path) as file:
        file.write(b"new")
    assert [each.read_bytes() for each in tmp_path.iterdir()] == [b"new"]


@pytest.mark.parametrize("wanted", [0o600, 0o640, 0o644])
@pytest.mark.parametrize("mask", [0o077, 0o000, 0o777])
def test_the_mode_is_exact_whatever_the_umask(tmp_path: Path, wanted: int, mask: int) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"old")
    path.chmod(0o666)
    before = os.umask(mask)
    try:
        with replacing(path, wanted) as file:
            assert mode(tmp_path / "file.part") & ~wanted == 0, (
                "never more open than wanted, not even meanwhile"
            )
            file.write(b"new")
    finally:
        os.umask(before)
    assert mode(path) == wanted


def test_it_is_private_unless_said_otherwise(tmp_path: Path) -> None:
    with replacing(tmp_path / "file"):
        pass
    assert mode(tmp_path / "file") == 0o600


def test_nothing_is_written_through_a_symbolic_link(tmp_path: Path) -> None:
    precious = tmp_path / "precious"
    precious.write_bytes(b"content")
    folder = tmp_path / "folder"
    folder.mkdir()
    for name in ("file", "file.part"):
        (folder / name).symlink_to(precious)
    with replacing(folder / "file") as file:
        file.write(b"new")
    assert precious.read_bytes() == b"content"
    assert (folder / "file").read_bytes() == b"new"
    assert not (folder / "file").is_symlink()


def test_nothing_is_written_through_a_hard_link(tmp_path: Path) -> None:
    precious = tmp_path / "precious"
    precious.write_bytes(b"content")
    os.link(precious, tmp_path / "file.part")
    with replacing(tmp_path / "file") as file:
        file.write(b"new")
    assert precious.read_bytes() == b"content"


@pytest.mark.parametrize("kind", ["pipe", "folder", "link to a pipe"])
def test_what_is_no_file_is_not_replaced(tmp_path: Path, kind: str) -> None:
    """`report --output /dev/stdout` by root must not make a file of the device."""
    path, there = tmp_path / "path", tmp_path / "there"
    if kind == "folder":
        path.mkdir()
    else:
        os.mkfifo(there if kind.startswith("link") else path)
        if kind.startswith("link"):
            path.symlink_to(there)
    with pytest.raises(OSError) as raised, replacing(path) as file:
        file.write(b"new")
    assert raised.value.strerror
    assert not path.is_file()
    assert not (tmp_path / "path.part").exists()


def test_a_folder_that_is_missing(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError), replacing(tmp_path / "missing" / "file"):
        pass


def test_no_descriptor_is_left_open(tmp_path: Path) -> None:
    before = len(list(Path("/proc/self/fd").iterdir()))
    for number in range(20):
        with replacing(tmp_path / "file"):
            pass
        with pytest.raises(ValueError, match="x"), replacing(tmp_path / f"file{number}"):
            raise ValueError("x")
        sync_folder(tmp_path)
    assert len(list(Path("/proc/self/fd").iterdir())) == before


def test_a_private_folder_is_made_and_one_that_is_there_is_kept(tmp_path: Path) -> None:
    before = os.umask(0)
    try:
        folder = private_folder(tmp_path / "a" / "b")
    finally:
        os.umask(before)
    assert mode(folder) == 0o700
    (folder / "kept").touch()
    assert private_folder(folder) == folder
    assert (folder / "kept").exists()


def test_content_and_name_are_on_disk_in_this_order(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """fsync of the file, then the rename, then fsync of the folder: else a power cut may leave it empty."""
    calls: list[tuple[str, str]] = []
    sync, rename = os.fsync, os.replace

    def recording_sync(descriptor: int) -> None:
        path = Path(f"/proc/self/fd/{descriptor}").readlink()
        calls.append(("sync", f"{path.name} with {path.stat().st_size} bytes" if path.is_file() else path.name))
        sync(descriptor)

    def recording_rename(old: Path, new: Path) -> None:
        calls.append(("rename", f"{old.name} to {new.name}"))
        rename(old, new)

    monkeypatch.setattr(os, "fsync", recording_sync)
    monkeypatch.setattr(os, "replace", recording_rename)
    with replacing(tmp_path / "file") as file:
        file.write(b"new")
    assert calls == [
        ("sync", "file.part with 3 bytes"),
        ("rename", "file.part to file"),
        ("sync", tmp_path.name),
    ]


def test_a_folder_is_had_alone_until_its_holder_ends(tmp_path: Path) -> None:
    code = (
        "import sys, time; from pathlib import Path; from esgbatch.files import alone\n"
        "with alone(Path(sys.argv[1])): print('mine', flush=True); time.sleep(60)"
    )
    with subprocess.Popen(
        [sys.executable, "-c", code, str(tmp_path)], stdout=subprocess.PIPE, cwd=ROOT
    ) as holder:
        assert holder.stdout is not None
        holder.stdout.readline()
        folder = os.open(tmp_path, os.O_RDONLY)
        with pytest.raises(TimeoutError, match=r"another process has kept it locked for 0\.01 s"):
            lock(folder, fcntl.LOCK_EX, 0.01)
        holder.kill()
        with alone(tmp_path):
            pass
        os.close(folder)
