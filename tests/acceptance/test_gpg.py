"""Encryption with a gpg that fails, hangs or is killed, and on disks that do."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest

from esgbatch.encryption import process, signing
from esgbatch.encryption.gpg import GpgEncryptor
from esgbatch.encryption.keys import load_recipients
from esgbatch.errors import ConfigError, EncryptionError
from tests.keys import KeyPair, decrypt, make_key
from tests.sealing import (
    CHUNK,
    NAME,
    encryption,
    endless,
    gpg_at_work,
    make_target,
    running,
    seal,
    signing_homes,
    until,
    wrapper,
)

pytestmark = pytest.mark.alone


@pytest.fixture(scope="module")
def keys(tmp_path_factory: pytest.TempPathFactory) -> dict[str, KeyPair]:
    folder = tmp_path_factory.mktemp("keys")
    return {name: make_key(folder, name) for name in ("alice", "mallory")}


@pytest.fixture(autouse=True)
def signing_prefix(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each test looks for leftovers of its own only."""
    monkeypatch.setattr(signing, "PREFIX", f"esgbatch-sign-{uuid.uuid4().hex[:8]}-")


@pytest.fixture
def keyring(tmp_path: Path) -> Path:
    return tmp_path / "keyring"


@pytest.fixture
def target(tmp_path: Path) -> Path:
    return make_target(tmp_path)


# --- gpg that fails ---------------------------------------------------------------------------


def test_missing_gpg_is_told_with_what_to_install(
    keys: dict[str, KeyPair], keyring: Path, target: Path
) -> None:
    with pytest.raises(ConfigError, match="no-such-gpg") as caught:
        seal(GpgEncryptor(encryption(keys["alice"], gpg="no-such-gpg"), keyring), target)
    assert "apt-get install gnupg" in caught.value.advice


def test_program_that_is_no_gpg(keys: dict[str, KeyPair], keyring: Path, target: Path) -> None:
    with pytest.raises(EncryptionError, match="false does not run"):
        seal(GpgEncryptor(encryption(keys["alice"], gpg="false"), keyring), target)


@pytest.mark.parametrize(
    ("script", "message"),
    [
        ('echo "gpg: the stars are wrong" >&2; exit 3', "code 3: the stars are wrong"),
        ("exec <&-; echo gpg: no more >&2; exit 4", "code 4: no more"),
        ('yes "gpg: chatter" | head -c 3000000 >&2; exit 5', "code 5: chatter"),
        ("cat >/dev/null; exit 0", "without saying that the encryption is complete"),
        ("head -c 1000 >/dev/null; exit 0", "code 0"),
        ('gpg "$@"; exit 2', "code 2"),
        ('head -c 1000 | gpg "$@"; exit 0', "code 0"),
        ("cat >/dev/null; kill -SEGV $$", "signal SIGSEGV"),
    ],
    ids=[
        "words",
        "closed input",
        "floods its messages",
        "no END_ENCRYPTION",
        "took a part",
        "END_ENCRYPTION with code 2",
        "valid file of a part",
        "crash",
    ],
)
def test_gpg_that_fails_gives_its_own_words_and_no_file(
    keys: dict[str, KeyPair], keyring: Path, target: Path, tmp_path: Path, script: str, message: str
) -> None:
    encryptor = GpgEncryptor(encryption(keys["alice"], gpg=wrapper(tmp_path, script)), keyring, stall=10)
    with pytest.raises(EncryptionError, match=message):
        seal(encryptor, target, [CHUNK] * 50)
    assert list(target.parent.iterdir()) == []
    until(lambda: running(keyring) == [])


def test_killed_gpg_is_an_error_and_leaves_nothing(
    keys: dict[str, KeyPair], keyring: Path, target: Path
) -> None:
    def strike() -> None:
        os.kill(gpg_at_work(keyring), signal.SIGKILL)

    with pytest.raises(EncryptionError, match="signal SIGKILL"):
        seal(GpgEncryptor(encryption(keys["alice"]), keyring), target, endless(strike))
    assert list(target.parent.iterdir()) == []


@pytest.mark.parametrize("when", ["writing", "finishing"])
def test_frozen_gpg_is_killed_after_the_time_limit(
    keys: dict[str, KeyPair], keyring: Path, target: Path, when: str
) -> None:
    def freeze() -> None:
        os.kill(gpg_at_work(keyring), signal.SIGSTOP)

    def stream() -> Iterator[bytes]:
        yield CHUNK
        freeze()

    chunks = endless(freeze) if when == "writing" else stream()
    began = time.monotonic()
    with pytest.raises(EncryptionError, match=r"no sign of life for 0\.3 seconds"):
        seal(GpgEncryptor(encryption(keys["alice"]), keyring, stall=0.3), target, chunks)
    assert time.monotonic() - began < 5
    until(lambda: running(keyring) == [])
    assert list(target.parent.iterdir()) == []


def test_children_of_a_hanging_wrapper_die_with_it(
    keys: dict[str, KeyPair], keyring: Path, target: Path, tmp_path: Path
) -> None:
    hanging = wrapper(tmp_path, f'tail -f "{tmp_path}/gpg-wrapper" >/dev/null & cat >/dev/null; wait')
    with pytest.raises(EncryptionError, match="no sign of life"):
        seal(GpgEncryptor(encryption(keys["alice"], gpg=hanging), keyring, stall=0.3), target)
    until(lambda: running(tmp_path) == [])


def test_gpg_that_closes_everything_and_does_not_end_is_killed(
    keys: dict[str, KeyPair], keyring: Path, target: Path, tmp_path: Path
) -> None:
    silent = "import os, signal; os.closerange(0, 256); signal.pause()"
    hanging = wrapper(tmp_path, f'cat >/dev/null; exec "{sys.executable}" -c \'{silent}\' "$@"')
    with pytest.raises(EncryptionError, match="no sign of life"):
        seal(GpgEncryptor(encryption(keys["alice"], gpg=hanging), keyring, stall=0.3), target)
    until(lambda: running(keyring) == [])


def test_slow_stream_is_no_stalled_gpg(keys: dict[str, KeyPair], keyring: Path, target: Path) -> None:
    def stream() -> Iterator[bytes]:
        for _ in range(3):
            yield CHUNK
            time.sleep(0.2)

    seal(GpgEncryptor(encryption(keys["alice"]), keyring, stall=0.15), target, stream())
    assert decrypt(target, keys["alice"]).plaintext == CHUNK * 3


def test_frozen_gpg_while_keys_are_read_is_bounded_too(
    keys: dict[str, KeyPair], keyring: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(process, "LIBRARY_TIMEOUT", 0.3)
    path = tmp_path / "gpg-frozen"
    path.write_text('#!/bin/sh\ncase " $* " in *" --import "*) kill -STOP $$;; esac\nexec gpg "$@"\n')
    path.chmod(0o755)
    with pytest.raises(EncryptionError, match="could not read the key file"):
        load_recipients(encryption(keys["alice"], gpg=str(path)), keyring, time.time())
    until(lambda: running(path) == [])


@pytest.mark.parametrize("error", [RuntimeError("row 17"), KeyboardInterrupt()], ids=["Exception", "Ctrl-C"])
def test_stream_that_breaks_leaves_no_gpg(
    keys: dict[str, KeyPair], keyring: Path, target: Path, error: BaseException
) -> None:
    def strike() -> None:
        os.kill(gpg_at_work(keyring), signal.SIGSTOP)  # it would end by itself when its input ends
        raise error

    signed = encryption(keys["alice"], sign_with=keys["mallory"].secret)
    for encryptor in (GpgEncryptor(encryption(keys["alice"]), keyring), GpgEncryptor(signed, keyring)):
        with pytest.raises(type(error)):
            seal(encryptor, target, endless(strike))
        until(lambda: running(keyring) == [])
        assert list(target.parent.iterdir()) == []
    assert signing_homes() == []


# --- disks ------------------------------------------------------------------------------------


@pytest.fixture(params=["rlimit", *(["tmpfs"] if os.geteuid() == 0 else [])])
def small_disk(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[tuple[Path, str]]:
    """A folder whose files end at 1 MiB, and the gpg to use there. Only root can mount a real one."""
    folder = tmp_path / "small"
    folder.mkdir()
    if request.param == "rlimit":
        yield folder, wrapper(tmp_path, "trap '' XFSZ; ulimit -f 2048; exec gpg \"$@\"")
        return
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "none", folder], check=True)
    try:
        yield folder, "gpg"
    finally:
        subprocess.run(["umount", folder], check=True)


def test_full_disk_is_named_or_the_file_is_whole(
    keys: dict[str, KeyPair], keyring: Path, small_disk: tuple[Path, str]
) -> None:
    """Around the size that just fits gpg 2.2 says END_ENCRYPTION with code 2, aborts, or succeeds."""
    folder, program = small_disk
    encryptor = GpgEncryptor(encryption(keys["alice"], gpg=program), keyring)
    target = folder / f"{NAME}.pgp"
    outcomes = set()
    for size in (*range(1_047_600, 1_048_600, 100), 5_000_000):
        failure = None
        try:
            seal(encryptor, target, [os.urandom(size)])
        except EncryptionError as error:
            failure = error
        if failure is None:
            assert len(decrypt(target, keys["alice"]).plaintext) == size
            target.unlink()
        else:
            assert re.search(r"The disk is full.*(No space left on device|File too large)", str(failure))
            assert "make room" in failure.advice
            assert list(folder.iterdir()) == []
        outcomes.add("full" if failure else "whole")
    assert outcomes == {"full", "whole"}


@pytest.mark.parametrize("failing", [1, 2], ids=["the file", "its folder"])
def test_file_that_is_not_certainly_on_disk_is_no_file(
    keys: dict[str, KeyPair], keyring: Path, target: Path, monkeypatch: pytest.MonkeyPatch, failing: int
) -> None:
    calls: list[int] = []

    def fsync(descriptor: int) -> None:
        calls.append(descriptor)
        if len(calls) == failing:
            raise OSError(5, "Input/output error")

    monkeypatch.setattr(os, "fsync", fsync)
    with pytest.raises(EncryptionError, match="Input/output error"):
        seal(GpgEncryptor(encryption(keys["alice"]), keyring), target)
    assert len(calls) == failing
    assert list(target.parent.iterdir()) == []


def test_a_name_that_cannot_be_removed_is_no_reason_to_lose_a_whole_file(
    keys: dict[str, KeyPair], keyring: Path, target: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    removed = Path.unlink

    def unlink(path: Path, missing_ok: bool = False) -> None:
        if path.name.endswith(".csv.pgp.part") and target.exists():
            raise OSError(5, "Input/output error")
        removed(path, missing_ok)

    monkeypatch.setattr(Path, "unlink", unlink)
    seal(GpgEncryptor(encryption(keys["alice"]), keyring), target)
    assert target.exists()


def test_a_check_without_dev_null_ends_in_an_error_of_ours(
    keys: dict[str, KeyPair], keyring: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    encryptor = GpgEncryptor(encryption(keys["alice"]), keyring)
    monkeypatch.setattr("esgbatch.encryption.gpg.os.devnull", str(tmp_path / "none" / "null"))
    with pytest.raises(EncryptionError, match="cannot be written"):
        encryptor.check()


# --- part files -------------------------------------------------------------------------------


def test_symlink_in_the_part_files_place_is_refused(
    keys: dict[str, KeyPair], keyring: Path, target: Path, tmp_path: Path
) -> None:
    victim = tmp_path / "victim"
    victim.write_bytes(b"precious")
    part = target.with_name(f"{target.name}.part")
    part.symlink_to(victim)
    with pytest.raises(EncryptionError, match="symbolic link"):
        seal(GpgEncryptor(encryption(keys["alice"]), keyring), target)
    assert victim.read_bytes() == b"precious"
    assert not target.exists()


def test_stale_part_is_replaced(keys: dict[str, KeyPair], keyring: Path, target: Path) -> None:
    part = target.with_name(f"{target.name}.part")
    part.write_bytes(b"half of it" * 100_000)
    hold = part.open("rb")  # another name or descriptor of the old file must not see the new one
    seal(GpgEncryptor(encryption(keys["alice"]), keyring), target)
    assert hold.read() == b"half of it" * 100_000
    hold.close()
    assert decrypt(target, keys["alice"]).plaintext == CHUNK
    assert not part.exists()
