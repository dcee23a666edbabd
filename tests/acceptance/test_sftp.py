"""Delivery to a real sshd that is killed, frozen, full, strict, slow, or run by somebody else."""

from __future__ import annotations

import os
import pwd
import shutil
import signal
import socket
import stat
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path

import paramiko
import pytest

from esgbatch.config.model import Delivery
from esgbatch.config.secrets import Secret
from esgbatch.delivery import session, sftp
from esgbatch.delivery.session import open_session
from esgbatch.delivery.sftp import SftpCourier
from esgbatch.errors import ConfigError, DeliveryError, ExitCode, HostKeyMismatch, StopRequested
from esgbatch.model import Package, Receipt, Step
from tests.acceptance.sshd import Sshd, make_key
from tests.couriers import MANIFEST, NAME, Notes, has_arrived, make_package
from tests.sealing import until
from tests.simulated import RecordingListener, SleeplessClock

BIG = 32 * 1024 * 1024
LONGEST = 255 * 1024  # write that OpenSSH's server takes
POSIX_RENAME = "posix-rename@openssh.com"


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Sshd]:
    with Sshd(tmp_path / "server") as server:
        yield server


@pytest.fixture
def package(tmp_path: Path) -> Package:
    return make_package(tmp_path, size=10 * LONGEST)


class Courier:
    """An `SftpCourier` with its clock and listener at hand."""

    def __init__(self, config: Delivery, instead_of_waiting: Callable[[], None] = lambda: None) -> None:
        self.clock = SleeplessClock(instead=instead_of_waiting)
        self.listener = RecordingListener()
        self._courier = SftpCourier(config, self.clock, self.listener)

    def deliver(self, package: Package, notes: Notes | None = None) -> Receipt:
        notes = notes or Notes()
        return self._courier.deliver(package, done=tuple(notes.done), note=notes)

    @property
    def errors(self) -> list[str]:
        return [str(fields["error"]) for fields in self.listener.named("delivery_attempt_failed")]


@contextmanager
def within(seconds: float) -> Iterator[None]:
    """The block takes no longer, and leaves no thread that would keep the process alive."""
    before = {thread for thread in threading.enumerate() if not thread.daemon}
    start = time.monotonic()
    yield
    assert time.monotonic() - start < seconds
    assert {thread for thread in threading.enumerate() if not thread.daemon} <= before


@contextmanager
def meanwhile(condition: Callable[[], bool], action: Callable[[], None]) -> Iterator[threading.Event]:
    """Do `action` once `condition` holds, beside the block; the event tells whether it was done."""
    done, over = threading.Event(), threading.Event()

    def watch() -> None:
        while not over.is_set():
            if condition():
                action()
                done.set()
                return
            time.sleep(0.001)

    thread = threading.Thread(target=watch)
    thread.start()
    try:
        yield done
    finally:
        over.set()
        thread.join()


def uploading(drop: Path) -> Callable[[], bool]:
    """Whether some, by far not all, of a big file is there."""
    return lambda: any(part.stat().st_size > 1_000_000 for part in drop.glob(f".{NAME}.*.part"))


# --- what arrives ------------------------------------------------------------------------------


def test_files_have_the_configured_mode_and_the_manifest_comes_last(server: Sshd, package: Package) -> None:
    Courier(server.delivery(mode="0440")).deliver(package)
    assert has_arrived(package, server.drop)
    assert [stat.S_IMODE(entry.stat().st_mode) for entry in server.drop.iterdir()] == [0o440, 0o440]
    assert server.renames() == [NAME, MANIFEST]


def test_until_it_is_whole_nobody_else_can_read_the_temporary_file(server: Sshd, package: Package) -> None:
    modes: list[int] = []

    def look() -> None:
        modes.extend(stat.S_IMODE(entry.stat().st_mode) for entry in server.drop.iterdir())

    Courier(server.delivery()).deliver(package, Notes(at={Step.UPLOADED: look}))
    assert modes == [0o600, 0o600]


def test_a_new_revision_brings_both_files_again_the_manifest_last(server: Sshd, tmp_path: Path) -> None:
    for revision in (1, 2):
        package = make_package(tmp_path, revision=revision)
        Courier(server.delivery()).deliver(package)
        assert has_arrived(package, server.drop)
    assert server.renames() == [NAME, MANIFEST, NAME, MANIFEST]


def test_a_file_that_is_lost_is_brought_again_with_its_manifest_after_it(
    server: Sshd, package: Package
) -> None:
    Courier(server.delivery()).deliver(package)
    (server.drop / NAME).unlink()
    Courier(server.delivery()).deliver(package)
    assert has_arrived(package, server.drop)
    assert server.renames() == [NAME, MANIFEST, NAME, MANIFEST]


def test_a_longer_leftover_under_the_temporary_name_is_overwritten(server: Sshd, package: Package) -> None:
    leftover = package.path.read_bytes() + b"and more"
    (server.drop / f".{NAME}.{package.token}.part").write_bytes(leftover)
    assert Courier(server.delivery()).deliver(package).attempts == 1
    assert has_arrived(package, server.drop)


def test_a_whole_leftover_under_the_temporary_name_is_not_written_again(server: Sshd, package: Package) -> None:
    """It may have its final mode already, and that may forbid to write it."""
    notes = Notes(at={Step.RENAMING: server.kill}, written_first=True)
    with pytest.raises(DeliveryError):
        Courier(server.delivery(attempts=1)).deliver(package, notes)
    server.start()
    Courier(server.delivery()).deliver(package, Notes(done=notes.done))
    assert has_arrived(package, server.drop)
    assert server.sftp_log.read_text(encoding="utf-8").count("flags WRITE") == 2


def test_a_relative_folder_is_below_the_users_home(server: Sshd, package: Package) -> None:
    relative = os.path.relpath(server.drop, pwd.getpwuid(os.getuid()).pw_dir)
    receipt = Courier(server.delivery(directory=relative)).deliver(package)
    assert has_arrived(package, server.drop)
    assert receipt.location == f"sftp://127.0.0.1:{server.port}/{relative}/{NAME}"


# --- who is trusted ----------------------------------------------------------------------------


def fingerprint(key: Path) -> str:
    return str(paramiko.PKey.from_path(key).fingerprint)


def test_another_host_key_is_refused_at_once_with_both_fingerprints(
    server: Sshd, package: Package, tmp_path: Path
) -> None:
    expected = make_key(tmp_path / "expected")
    known_hosts = server.write_known_hosts(tmp_path / "known_hosts", expected)
    courier = Courier(server.delivery(known_hosts=known_hosts))
    with pytest.raises(HostKeyMismatch) as caught:
        courier.deliver(package)
    for part in (fingerprint(server.host_keys[0]), fingerprint(expected), str(known_hosts)):
        assert part in str(caught.value)
    assert len(courier.errors) == 1
    assert courier.clock.slept == []
    assert "Accepted publickey" not in server.log.read_text(encoding="utf-8")


def test_an_unknown_host_is_refused_with_its_fingerprint_and_what_to_do(
    server: Sshd, package: Package, tmp_path: Path
) -> None:
    known_hosts = tmp_path / "known_hosts"
    known_hosts.write_text("# nobody yet\n", encoding="utf-8")
    with pytest.raises(HostKeyMismatch, match="has no key for it") as caught:
        Courier(server.delivery(known_hosts=known_hosts)).deliver(package)
    assert fingerprint(server.host_keys[0]) in str(caught.value)
    subprocess.run(["/bin/sh", "-c", caught.value.advice.split("`")[1]], check=True)
    Courier(server.delivery(known_hosts=known_hosts)).deliver(package)
    assert has_arrived(package, server.drop)


@pytest.mark.parametrize("pinned", ["ed25519", "ecdsa", "rsa"])
def test_the_server_is_asked_for_the_kind_of_key_that_is_known(
    tmp_path: Path, package: Package, pinned: str
) -> None:
    with Sshd(tmp_path / "server", host_keys=("ed25519", "ecdsa", "rsa")) as server:
        key = server.folder / f"host_key_{pinned}"
        known_hosts = server.write_known_hosts(tmp_path / "known_hosts", key, hashed=pinned == "ecdsa")
        Courier(server.delivery(known_hosts=known_hosts)).deliver(package)
        assert has_arrived(package, server.drop)


@pytest.mark.parametrize("kind", ["ecdsa", "rsa"])
def test_a_login_with_a_key_of_another_kind_and_a_passphrase(
    server: Sshd, package: Package, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    key = make_key(tmp_path / "key", kind, "correct horse")
    server.authorize(key)
    monkeypatch.setenv("SFTP_PASSPHRASE", "correct horse")
    config = server.delivery(private_key=key, passphrase=Secret(env="SFTP_PASSPHRASE"))
    Courier(config).deliver(package)
    assert has_arrived(package, server.drop)


def test_a_login_that_is_refused_is_not_tried_again(server: Sshd, package: Package, tmp_path: Path) -> None:
    stranger = make_key(tmp_path / "stranger")
    courier = Courier(server.delivery(private_key=stranger))
    with pytest.raises(DeliveryError, match="refuses the login") as caught:
        courier.deliver(package)
    assert fingerprint(stranger) in str(caught.value)
    assert courier.clock.slept == []


def test_no_other_key_is_tried(
    server: Sshd, package: Package, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    home = tmp_path / "home"
    home.joinpath(".ssh").mkdir(parents=True)
    shutil.copy(server.client_key, home / ".ssh" / "id_ed25519")
    monkeypatch.setenv("HOME", str(home))
    with pytest.raises(DeliveryError, match="refuses the login"):
        Courier(server.delivery(private_key=make_key(tmp_path / "stranger"))).deliver(package)


@pytest.mark.parametrize(
    ("passphrase", "complaint"), [(None, "delivery.passphrase is not set"), ("wrong", "is not its passphrase")]
)
def test_a_private_key_that_cannot_be_opened_is_a_config_error(
    server: Sshd,
    package: Package,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    passphrase: str | None,
    complaint: str,
) -> None:
    key = make_key(tmp_path / "key", passphrase="correct horse")
    monkeypatch.setenv("SFTP_PASSPHRASE", passphrase or "")
    secret = Secret(env="SFTP_PASSPHRASE") if passphrase else None
    with pytest.raises(ConfigError, match=complaint) as caught:
        Courier(server.delivery(private_key=key, passphrase=secret)).deliver(package)
    assert "wrong" not in str(caught.value)


def test_a_private_key_that_others_can_read_is_a_config_error(server: Sshd, package: Package) -> None:
    server.client_key.chmod(0o640)
    with pytest.raises(ConfigError, match="others can read it"):
        Courier(server.delivery()).deliver(package)


@pytest.mark.parametrize("name", ["private_key", "known_hosts"])
@pytest.mark.parametrize("content", [None, b"\xff\xfenothing of use"])
def test_key_files_that_are_missing_or_no_key_files_are_config_errors(
    server: Sshd, package: Package, tmp_path: Path, name: str, content: bytes | None
) -> None:
    path = tmp_path / "file"
    if content is not None:
        path.write_bytes(content)
        path.chmod(0o600)
    with pytest.raises(ConfigError, match=str(path)):
        Courier(server.delivery(**{name: path})).deliver(package)


# --- what does not pass is not tried again -----------------------------------------------------


def test_a_missing_drop_folder(server: Sshd, package: Package) -> None:
    courier = Courier(server.delivery(directory=str(server.drop / "nowhere")))
    with pytest.raises(DeliveryError, match=r"nowhere is not there"):
        courier.deliver(package)
    assert courier.clock.slept == []


def test_permission_denied_names_the_operation(tmp_path: Path, package: Package) -> None:
    with Sshd(tmp_path / "server", sftp_options="-R") as server:
        courier = Courier(server.delivery())
        with pytest.raises(DeliveryError, match="open: Permission denied"):
            courier.deliver(package)
    assert courier.clock.slept == []


def test_a_final_file_that_may_not_be_read_is_replaced(tmp_path: Path) -> None:
    old, new = make_package(tmp_path, revision=1), make_package(tmp_path, revision=2)
    with Sshd(tmp_path / "server", relay=["deny:open:1"]) as server:
        shutil.copy(old.path, server.drop / NAME)
        Courier(server.delivery()).deliver(new)
        assert has_arrived(new, server.drop)


# --- servers that cannot replace ---------------------------------------------------------------


def test_without_posix_rename_a_first_revision_is_delivered(tmp_path: Path, package: Package) -> None:
    with Sshd(tmp_path / "server", sftp_options="-P posix-rename") as server:
        Courier(server.delivery()).deliver(package)
        assert has_arrived(package, server.drop)
        assert server.renames() == [NAME, MANIFEST]


def test_without_posix_rename_the_old_revision_stays_untouched(tmp_path: Path) -> None:
    """rclone 6142, nifi 8914: replacing must never begin with deleting."""
    old, new = make_package(tmp_path, revision=1), make_package(tmp_path, revision=2)
    with Sshd(tmp_path / "server", relay=[f"hide:{POSIX_RENAME}"]) as server:
        Courier(server.delivery()).deliver(old)
        courier = Courier(server.delivery())
        with pytest.raises(DeliveryError, match="cannot replace a file in one step"):
            courier.deliver(new)
        assert (server.drop / NAME).read_bytes() == old.path.read_bytes()
        assert (server.drop / MANIFEST).read_bytes() == old.manifest
        assert courier.clock.slept == []


def test_without_fsync_and_with_answers_short_and_out_of_order(tmp_path: Path) -> None:
    package = make_package(tmp_path, size=100_000)
    faults = ["hide:fsync@openssh.com", "shuffle", "shorten"]
    with Sshd(tmp_path / "server", relay=faults) as server:
        Courier(server.delivery()).deliver(package)
        assert has_arrived(package, server.drop)


# --- writes that fail --------------------------------------------------------------------------


@pytest.mark.parametrize("write", [1, 5, 10])
def test_a_single_failed_write_is_noticed(tmp_path: Path, package: Package, write: int) -> None:
    """paramiko pipelines writes and loses the failures of those that it was not waiting for."""
    struck = tmp_path / "struck"
    with Sshd(tmp_path / "server", relay=[f"fail:write:{write}", f"once:{struck}"]) as server:
        notes = Notes(at={Step.UPLOADED: lambda: retried.append(bool(courier.errors))})
        retried: list[bool] = []
        courier = Courier(server.delivery())
        assert courier.deliver(package, notes).attempts == 2
        assert struck.exists()
        assert retried == [True]
        assert has_arrived(package, server.drop)


@pytest.mark.parametrize(
    ("faults", "timeout", "long"), [([], 10, True), (["hide:limits@openssh.com"], 10, False), ([], 1, False)]
)
def test_writes_are_as_long_as_the_server_and_a_slow_line_take(
    tmp_path: Path, faults: list[str], timeout: float, *, long: bool
) -> None:
    """The file in one write and the manifest in another; or the file in eight, which every server takes."""
    package, struck = make_package(tmp_path, size=LONGEST), tmp_path / "struck"
    with Sshd(tmp_path / "server", relay=[*faults, "fail:write:3", f"once:{struck}"]) as server:
        assert Courier(server.delivery(timeout=timeout)).deliver(package).attempts == (1 if long else 2)
        assert struck.exists() is not long


def test_a_server_that_does_not_tell_its_limits_gets_what_every_server_takes(tmp_path: Path) -> None:
    package = make_package(tmp_path, size=LONGEST)
    with Sshd(tmp_path / "server", relay=["fail:limits@openssh.com:1"]) as server:
        assert Courier(server.delivery()).deliver(package).attempts == 1
        assert has_arrived(package, server.drop)


def test_a_write_that_stores_other_bytes_is_noticed(tmp_path: Path, package: Package) -> None:
    """sftpgo 2260, rclone 7271: right size, wrong content must never get the final name."""
    struck = tmp_path / "struck"
    with Sshd(tmp_path / "server", relay=["corrupt:write:5", f"once:{struck}"]) as server:
        courier = Courier(server.delivery())
        assert courier.deliver(package).attempts == 2
        assert struck.exists()
        assert courier.errors == ["the server gives back other bytes than it was sent"]
        assert has_arrived(package, server.drop)


def test_a_server_that_always_spoils_the_file_gets_no_final_name(tmp_path: Path, package: Package) -> None:
    with Sshd(tmp_path / "server", relay=["corrupt:write:5"]) as server:
        with pytest.raises(DeliveryError, match="other bytes than it was sent"):
            Courier(server.delivery()).deliver(package)
        assert not (server.drop / NAME).exists()


@pytest.mark.parametrize("request_kind", ["fsync@openssh.com", "close"])
def test_an_error_that_comes_only_with_fsync_or_close_is_noticed(
    tmp_path: Path, package: Package, request_kind: str
) -> None:
    struck = tmp_path / "struck"
    errors_before_uploaded: list[str] = []
    with Sshd(tmp_path / "server", relay=[f"fail:{request_kind}:1", f"once:{struck}"]) as server:
        courier = Courier(server.delivery())
        notes = Notes(at={Step.UPLOADED: lambda: errors_before_uploaded.extend(courier.errors)})
        assert courier.deliver(package, notes).attempts == 2
        assert struck.exists()
        assert len(errors_before_uploaded) == 1
        assert has_arrived(package, server.drop)


def test_a_full_disk_fails_every_attempt_and_keeps_the_old_revision(tmp_path: Path) -> None:
    old, new = make_package(tmp_path, revision=1, size=1000), make_package(tmp_path, revision=2)
    limited = "ulimit -f 100; exec env --ignore-signal=XFSZ"  # in KiB: writes beyond fail
    with Sshd(tmp_path / "server", wrapper=limited) as server:
        Courier(server.delivery()).deliver(old)
        courier = Courier(server.delivery(attempts=3))
        with pytest.raises(DeliveryError, match="a full disk or quota looks like this"):
            courier.deliver(new)
        assert len(courier.errors) == 3
        assert courier.clock.slept == [1, 2]
        assert (server.drop / NAME).read_bytes() == old.path.read_bytes()


# --- servers that die --------------------------------------------------------------------------


def test_a_server_that_is_down_is_tried_with_growing_pauses(server: Sshd, package: Package) -> None:
    server.kill()
    courier = Courier(server.delivery(attempts=8))
    with pytest.raises(DeliveryError, match="8 times, at last with: Connection refused"):
        courier.deliver(package)
    assert courier.clock.slept == [1, 2, 4, 8, 16, 30, 30]
    assert courier.listener.named("delivery_attempt_failed")[0] == {"attempt": 1, "error": "Connection refused"}


def test_a_server_that_comes_back_gets_the_file(server: Sshd, package: Package) -> None:
    server.kill()
    assert Courier(server.delivery(), server.start).deliver(package).attempts == 2
    assert has_arrived(package, server.drop)


def test_a_server_that_dies_in_a_big_upload_and_comes_back_gets_the_file(server: Sshd, tmp_path: Path) -> None:
    package = make_package(tmp_path, size=BIG)
    courier = Courier(server.delivery(), server.start)
    with meanwhile(uploading(server.drop), server.kill) as killed:
        assert courier.deliver(package).attempts == 2
    assert killed.is_set()
    assert has_arrived(package, server.drop)


@pytest.mark.parametrize("step", [Step.UPLOADED, Step.VERIFIED, Step.RENAMING, Step.RENAMED])
def test_a_session_that_is_killed_between_steps_is_taken_up_again(
    server: Sshd, package: Package, step: Step
) -> None:
    courier = Courier(server.delivery())
    notes = Notes(at={step: server.kill_sessions})
    assert courier.deliver(package, notes).attempts == 2
    assert notes.done == list(Step)[:5]
    assert has_arrived(package, server.drop)


@pytest.mark.parametrize("rename", [1, 2])
def test_a_rename_that_was_done_but_not_answered_is_not_done_again(
    tmp_path: Path, package: Package, rename: int
) -> None:
    """dlt 3767: a look at the remote side settles what happened."""
    faults = [f"hangup:{POSIX_RENAME}:{rename}", f"once:{tmp_path / 'struck'}"]
    with Sshd(tmp_path / "server", relay=faults) as server:
        assert Courier(server.delivery()).deliver(package).attempts == 2
        assert has_arrived(package, server.drop)
        assert server.renames() == [NAME, MANIFEST]


# --- servers that hang -------------------------------------------------------------------------


@pytest.mark.parametrize("step", list(Step)[:5])
def test_a_server_that_freezes_at_any_step_is_given_up(server: Sshd, package: Package, step: Step) -> None:
    """paramiko 1380, 462, 515: time limits that do not fire."""
    courier = Courier(server.delivery(timeout=1, attempts=1))
    with within(4), pytest.raises(DeliveryError, match=r"within 1 s|longer than 1 s"):
        courier.deliver(package, Notes(at={step: server.freeze}))


def test_a_server_that_freezes_in_a_big_upload_is_given_up(server: Sshd, tmp_path: Path) -> None:
    package = make_package(tmp_path, size=BIG)
    courier = Courier(server.delivery(timeout=1, attempts=1))
    with within(6), meanwhile(uploading(server.drop), server.freeze) as frozen, pytest.raises(DeliveryError):
        courier.deliver(package)
    assert frozen.is_set()
    assert not (server.drop / NAME).exists()


@pytest.mark.parametrize("step", [Step.UPLOADED, Step.RENAMING])
def test_a_server_that_thaws_gets_the_file(server: Sshd, package: Package, step: Step) -> None:
    courier = Courier(server.delivery(timeout=1), server.thaw)
    assert courier.deliver(package, Notes(at={step: server.freeze})).attempts == 2
    assert has_arrived(package, server.drop)


@pytest.mark.parametrize("banner", [b"", b"SSH-2.0-Mute\r\n"], ids=["silent", "only a banner"])
def test_what_takes_the_connection_and_says_nothing_is_given_up(
    server: Sshd, package: Package, banner: bytes
) -> None:
    over = threading.Event()
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def greet() -> None:
            connection, _ = listener.accept()
            with connection:
                connection.sendall(banner)
                over.wait(30)

        threading.Thread(target=greet, daemon=True).start()
        courier = Courier(server.delivery(port=listener.getsockname()[1], timeout=1, attempts=1))
        with within(3), pytest.raises(DeliveryError, match="handshake took longer than 1 s"):
            courier.deliver(package)
        over.set()


def test_a_peer_that_takes_no_more_bytes_is_given_up_by_the_kernel(server: Sshd) -> None:
    """paramiko tries for ever to send to it, and its limits do not count."""
    endless = bytes(64 * 1024 * 1024)  # more than the buffers of both sides take
    with socket.create_server(("127.0.0.1", 0)) as listener:
        config = server.delivery(port=listener.getsockname()[1], timeout=0.5)
        with session._connect(config) as sock:
            sock.settimeout(None)
            with within(5), pytest.raises(TimeoutError):
                sock.sendall(endless)


def test_a_login_that_is_never_answered_is_given_up(server: Sshd, package: Package, tmp_path: Path) -> None:
    server.authorize(make_key(tmp_path / "somebody"))
    server.configure("AuthorizedKeysCommand /bin/sleep 1000", f"AuthorizedKeysCommandUser {server.username}")
    server.restart()
    courier = Courier(server.delivery(timeout=1, attempts=1))
    with within(4), pytest.raises(DeliveryError, match="login took longer than 1 s"):
        courier.deliver(package)


def test_a_login_that_takes_too_long_is_told_as_such_whichever_limit_strikes_first(
    server: Sshd, package: Package, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The wait for the answer and the limit around it are as long; once in hundreds the limit comes later."""
    server.authorize(make_key(tmp_path / "somebody"))
    server.configure("AuthorizedKeysCommand /bin/sleep 1000", f"AuthorizedKeysCommandUser {server.username}")
    server.restart()
    monkeypatch.setattr(session, "_limit", lambda *_: nullcontext())
    courier = Courier(server.delivery(timeout=1, attempts=1))
    with within(4), pytest.raises(DeliveryError, match="login took longer than 1 s"):
        courier.deliver(package)


@pytest.mark.parametrize("command", ["/bin/sleep 1000", "/bin/echo Welcome; /bin/sleep 1000", "/bin/false"])
def test_a_subsystem_that_is_no_sftp_server_is_given_up(tmp_path: Path, package: Package, command: str) -> None:
    with Sshd(tmp_path / "server", subsystem=command) as server:
        courier = Courier(server.delivery(timeout=1, attempts=1))
        with within(4), pytest.raises(DeliveryError):
            courier.deliver(package)


@pytest.mark.parametrize("request_kind", ["open:1", "write:3", "fsync@openssh.com:1", "read:2", "rename:1"])
def test_an_answer_that_never_comes_is_given_up(tmp_path: Path, package: Package, request_kind: str) -> None:
    with Sshd(tmp_path / "server", relay=[f"mute:{request_kind}", f"hide:{POSIX_RENAME}"]) as server:
        courier = Courier(server.delivery(timeout=1, attempts=1))
        with within(4), pytest.raises(DeliveryError, match="no answer within 1 s"):
            courier.deliver(package)


def test_answers_that_each_come_just_in_time_do_not_go_on_for_ever(
    tmp_path: Path, package: Package, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sftp, "REPLIES", 1)
    monkeypatch.setattr(sftp, "SLOWEST", 10**9)
    with Sshd(tmp_path / "server", relay=["delay:0.5"]) as server:
        courier = Courier(server.delivery(timeout=1, attempts=1))
        with within(4), pytest.raises(DeliveryError, match="whole transfer took longer than 1"):
            courier.deliver(package)


def test_a_channel_that_dies_just_before_the_subsystem_is_asked_for(
    server: Sshd, package: Package, monkeypatch: pytest.MonkeyPatch
) -> None:
    """paramiko then waits for an event that has been set, and cleared, already."""
    original = paramiko.Channel._event_pending  # type: ignore[attr-defined]  # private

    def too_late(channel: paramiko.Channel) -> None:
        transport = channel.get_transport()
        server.kill_sessions()
        transport.join()
        original(channel)

    monkeypatch.setattr(paramiko.Channel, "_event_pending", too_late)
    with within(4), pytest.raises(DeliveryError):
        Courier(server.delivery(timeout=1, attempts=1)).deliver(package)


def test_a_name_that_is_never_resolved_is_given_up(
    server: Sshd, package: Package, monkeypatch: pytest.MonkeyPatch
) -> None:
    over = threading.Event()

    def hang(*_: object, **__: object) -> list[object]:
        over.wait(30)
        return []

    monkeypatch.setattr(socket, "getaddrinfo", hang)
    with within(3), pytest.raises(DeliveryError, match="was not resolved within 1 s"):
        Courier(server.delivery(timeout=1, attempts=1)).deliver(package)
    over.set()


# --- stopping ----------------------------------------------------------------------------------


@pytest.fixture
def stop_signal() -> Iterator[Callable[[], None]]:
    """A signal to this process, whose handler raises `StopRequested` in the main thread."""

    def handler(signum: int, _: object) -> None:
        raise StopRequested("stopped by a test", ExitCode.SIGTERM)

    before = signal.signal(signal.SIGUSR1, handler)
    yield lambda: os.kill(os.getpid(), signal.SIGUSR1)
    signal.signal(signal.SIGUSR1, before)


@pytest.mark.parametrize("step", [Step.INTENDED, Step.UPLOADED, Step.RENAMING])
def test_a_stop_signal_ends_a_wait_for_a_frozen_server_at_once(
    server: Sshd, package: Package, stop_signal: Callable[[], None], step: Step
) -> None:
    stopped_at: list[float] = []

    def freeze() -> None:
        server.freeze()
        frozen.set()

    def stop() -> None:
        time.sleep(0.2)  # until the courier waits; were it early, the test would only prove less
        stopped_at.append(time.monotonic())
        stop_signal()

    frozen = threading.Event()
    courier = Courier(server.delivery(timeout=60))
    with within(5), meanwhile(frozen.is_set, stop), pytest.raises(StopRequested):
        courier.deliver(package, Notes(at={step: freeze}))
    assert time.monotonic() - stopped_at[0] < 1
    assert courier.errors == []


def test_a_stop_signal_ends_a_big_upload_at_once_and_the_next_call_finishes(
    server: Sshd, tmp_path: Path, stop_signal: Callable[[], None]
) -> None:
    package = make_package(tmp_path, size=BIG)
    notes = Notes()
    with within(5), meanwhile(uploading(server.drop), stop_signal), pytest.raises(StopRequested):
        Courier(server.delivery(timeout=60)).deliver(package, notes)
    assert notes.done == [Step.INTENDED]
    Courier(server.delivery()).deliver(package, notes)
    assert has_arrived(package, server.drop)


# --- receivers that take files away ------------------------------------------------------------


class Receiver:
    """Takes each file away as soon as it has its final name."""

    def __init__(self, drop: Path, inbox: Path) -> None:
        inbox.mkdir()
        self.drop, self.inbox = drop, inbox
        self.taken: list[str] = []

    def take(self) -> None:
        for name in (NAME, MANIFEST):
            if (self.drop / name).exists():
                (self.drop / name).rename(self.inbox / name)
                self.taken.append(name)

    @contextmanager
    def at_work(self) -> Iterator[None]:
        def everything_taken() -> bool:
            self.take()
            return False

        with meanwhile(everything_taken, lambda: None):
            yield
        self.take()


@pytest.fixture
def receiver(server: Sshd, tmp_path: Path) -> Receiver:
    return Receiver(server.drop, tmp_path / "inbox")


def test_a_file_that_the_receiver_takes_at_once_is_delivered(
    server: Sshd, package: Package, receiver: Receiver
) -> None:
    """paramiko 1843, 149: the file is gone before its size is checked."""
    with receiver.at_work():
        receipt = Courier(server.delivery(remote_consumes_file=True)).deliver(package)
    assert receipt.attempts == 1
    assert receiver.taken == [NAME, MANIFEST]
    assert has_arrived(package, receiver.inbox)
    assert list(server.drop.iterdir()) == []


@pytest.mark.parametrize("rename", [1, 2])
def test_a_file_taken_before_its_rename_was_answered_is_not_delivered_twice(
    tmp_path: Path, package: Package, rename: int
) -> None:
    faults = [f"hangup:{POSIX_RENAME}:{rename}", f"once:{tmp_path / 'struck'}"]
    with Sshd(tmp_path / "server", relay=faults) as server:
        receiver = Receiver(server.drop, tmp_path / "inbox")
        courier = Courier(server.delivery(remote_consumes_file=True), receiver.take)
        assert courier.deliver(package).attempts == 2
        receiver.take()
        assert sorted(receiver.taken) == sorted([NAME, MANIFEST])
        assert has_arrived(package, receiver.inbox)
        assert list(server.drop.iterdir()) == []


def test_a_renaming_that_never_happened_is_not_taken_for_a_receiver(
    server: Sshd, package: Package, receiver: Receiver
) -> None:
    config = server.delivery(remote_consumes_file=True)
    notes = Notes(at={Step.RENAMING: server.kill}, written_first=True)
    with pytest.raises(DeliveryError):
        Courier(config.model_copy(update={"attempts": 1})).deliver(package, notes)
    assert notes.done[-1] is Step.RENAMING
    server.start()
    Courier(config).deliver(package, Notes(done=notes.done))
    assert has_arrived(package, server.drop)


def test_without_such_a_receiver_a_file_that_is_gone_is_brought_again(server: Sshd, package: Package) -> None:
    notes = Notes()
    Courier(server.delivery()).deliver(package, notes)
    (server.drop / NAME).unlink()
    Courier(server.delivery()).deliver(package, Notes(done=notes.done))
    assert has_arrived(package, server.drop)


def test_a_file_that_vanishes_although_nobody_may_take_it_is_not_delivered_again(
    server: Sshd, package: Package, receiver: Receiver
) -> None:
    courier = Courier(server.delivery())
    with pytest.raises(DeliveryError, match="is gone already") as caught:
        courier.deliver(package, Notes(at={Step.RENAMED: receiver.take}))
    assert "remote_consumes_file = true" in caught.value.advice
    assert courier.clock.slept == []
    assert receiver.taken == [NAME, MANIFEST]


# --- sessions ----------------------------------------------------------------------------------


def test_a_session_by_itself_leaves_nothing_behind(server: Sshd) -> None:
    before = set(threading.enumerate())
    with open_session(server.delivery()) as client:
        client.mkdir(f"{server.drop}/made")
        assert client.can_replace
        assert set(threading.enumerate()) > before
    assert (server.drop / "made").is_dir()
    until(lambda: set(threading.enumerate()) == before)


def test_a_failed_session_prints_nothing(server: Sshd) -> None:
    """Without a handler Python prints what paramiko logs; pytest has one, a process by itself has not."""
    server.freeze()
    code = (
        "import sys\n"
        "from esgbatch.config.model import Delivery\n"
        "from esgbatch.delivery.session import open_session\n"
        "try:\n"
        "    open_session(Delivery.model_validate_json(sys.argv[1])).__enter__()\n"
        "except TimeoutError:\n"
        "    print('given up')\n"
    )
    config = server.delivery(timeout=0.5).model_dump_json()
    ended = subprocess.run([sys.executable, "-c", code, config], capture_output=True, text=True, timeout=30)
    assert (ended.stdout, ended.stderr, ended.returncode) == ("given up\n", "", 0)
