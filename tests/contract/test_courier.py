"""What every `ports.Courier` promises, on two SFTP servers that have no code in common."""

from __future__ import annotations

import asyncio
import os
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import asyncssh
import pytest

from esgbatch.config.model import Delivery
from esgbatch.delivery.sftp import SftpCourier
from esgbatch.errors import DeliveryError
from esgbatch.model import Step
from esgbatch.ports import Courier
from tests.acceptance.sshd import Sshd, make_key
from tests.couriers import NAME, Notes, has_arrived, make_package
from tests.simulated import RecordingListener, SleeplessClock

STEPS = [Step.INTENDED, Step.UPLOADED, Step.VERIFIED, Step.RENAMING, Step.RENAMED]


@dataclass
class Drop:
    """A courier, and the folder that it delivers to as seen on the server."""

    courier: Courier
    folder: Path


@contextmanager
def asyncssh_server(folder: Path) -> Iterator[Callable[[str], Delivery]]:
    """asyncssh's SFTP server, in a thread of its own; yields how to reach a folder below `folder`."""
    host_key, client_key = make_key(folder / "host_key"), make_key(folder / "client_key")
    loop = asyncio.new_event_loop()

    async def listen() -> asyncssh.SSHAcceptor:
        return await asyncssh.listen(
            "127.0.0.1",
            0,
            server_host_keys=[str(host_key)],
            authorized_client_keys=str(client_key.with_suffix(".pub")),
            sftp_factory=lambda channel: asyncssh.SFTPServer(channel, chroot=os.fsencode(folder)),
        )

    acceptor = loop.run_until_complete(listen())
    thread = threading.Thread(target=loop.run_forever, daemon=True)
    thread.start()
    known_hosts = folder / "known_hosts"
    public = host_key.with_suffix(".pub").read_text(encoding="utf-8")
    known_hosts.write_text(f"[127.0.0.1]:{acceptor.get_port()} {public}", encoding="utf-8")
    try:
        yield lambda name: Delivery(
            host="127.0.0.1",
            port=acceptor.get_port(),
            username="esgbatch",
            private_key=client_key,
            known_hosts=known_hosts,
            directory=f"/{name}",
            timeout=10,
            attempts=2,
        )
    finally:
        loop.call_soon_threadsafe(acceptor.close)
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.close()


@contextmanager
def openssh_server(folder: Path) -> Iterator[Callable[[str], Delivery]]:
    with Sshd(folder / "server") as server:
        yield lambda name: server.delivery(directory=str(folder / name), attempts=2)


@pytest.fixture(scope="module", params=[openssh_server, asyncssh_server])
def server(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[Path, Callable[[str], Delivery]]]:
    folder = tmp_path_factory.mktemp("server")
    with request.param(folder) as delivery:
        yield folder, delivery


@pytest.fixture
def drop(server: tuple[Path, Callable[[str], Delivery]], tmp_path: Path) -> Drop:
    folder, delivery = server
    mine = folder / f"drop-{len(list(folder.iterdir()))}"
    mine.mkdir()
    return Drop(SftpCourier(delivery(mine.name), SleeplessClock(), RecordingListener()), mine)


class Crash(BaseException):
    """The process ends here."""


def crash() -> None:
    raise Crash


def test_both_files_arrive_whole(drop: Drop, tmp_path: Path) -> None:
    package = make_package(tmp_path)
    receipt = drop.courier.deliver(package, done=(), note=Notes())
    assert has_arrived(package, drop.folder)
    assert receipt.location.startswith("sftp://127.0.0.1:")
    assert receipt.location.endswith(f"/{package.name}")
    assert (receipt.verified_by, receipt.attempts) == ("sha256 read back", 1)


def test_every_step_is_noted_once_and_in_order(drop: Drop, tmp_path: Path) -> None:
    notes = Notes()
    drop.courier.deliver(make_package(tmp_path), done=(), note=notes)
    assert notes.done == STEPS


def test_an_empty_file_is_delivered_too(drop: Drop, tmp_path: Path) -> None:
    package = make_package(tmp_path, size=0)
    drop.courier.deliver(package, done=(), note=Notes())
    assert has_arrived(package, drop.folder)


@pytest.mark.parametrize("written_first", [False, True], ids=["note-lost", "note-kept"])
@pytest.mark.parametrize("step", STEPS)
def test_after_a_crash_at_any_step_the_next_call_finishes(
    drop: Drop, tmp_path: Path, step: Step, written_first: bool
) -> None:
    package = make_package(tmp_path)
    notes = Notes(at={step: crash}, written_first=written_first)
    with pytest.raises(Crash):
        drop.courier.deliver(package, done=(), note=notes)
    assert (drop.folder / NAME).exists() == (step is Step.RENAMED)

    later = Notes(done=list(notes.done))
    drop.courier.deliver(package, done=tuple(notes.done), note=later)
    assert has_arrived(package, drop.folder)
    assert later.done == STEPS


def test_delivering_again_touches_nothing(drop: Drop, tmp_path: Path) -> None:
    package = make_package(tmp_path)
    drop.courier.deliver(package, done=(), note=Notes())
    before = {entry: (entry.stat().st_ino, entry.stat().st_mtime_ns) for entry in drop.folder.iterdir()}
    again = drop.courier.deliver(package, done=(), note=Notes())
    after = {entry: (entry.stat().st_ino, entry.stat().st_mtime_ns) for entry in drop.folder.iterdir()}
    assert before == after
    assert again.location.endswith(package.name)


def test_a_new_revision_replaces_the_old_one_which_is_whole_until_then(drop: Drop, tmp_path: Path) -> None:
    old, new = make_package(tmp_path, revision=1), make_package(tmp_path, revision=2)
    drop.courier.deliver(old, done=(), note=Notes())

    def old_is_whole() -> None:
        assert (drop.folder / NAME).read_bytes() == old.path.read_bytes()

    notes = Notes(at=dict.fromkeys(STEPS[:-1], old_is_whole))
    drop.courier.deliver(new, done=(), note=notes)
    assert notes.done == STEPS
    assert has_arrived(new, drop.folder)


def test_what_an_abandoned_revision_left_is_removed_and_a_strangers_file_is_not(
    drop: Drop, tmp_path: Path
) -> None:
    old, new = make_package(tmp_path, revision=1), make_package(tmp_path, revision=2)
    with pytest.raises(Crash):
        drop.courier.deliver(old, done=(), note=Notes(at={Step.UPLOADED: crash}))
    strangers = [drop.folder / name for name in (f".{NAME}.part", ".other.csv.pgp.x.part", f"{NAME}.x.part")]
    for stranger in strangers:
        stranger.touch()
    drop.courier.deliver(new, done=(), note=Notes())
    for stranger in strangers:
        stranger.unlink()
    assert has_arrived(new, drop.folder)


def test_a_damaged_sealed_file_is_never_delivered(drop: Drop, tmp_path: Path) -> None:
    package = make_package(tmp_path)
    content = package.path.read_bytes()
    package.path.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    notes = Notes()
    with pytest.raises(DeliveryError, match="not what was sealed"):
        drop.courier.deliver(package, done=(), note=notes)
    assert notes.done == [Step.INTENDED]
    assert not (drop.folder / NAME).exists()


def test_a_missing_sealed_file_is_a_delivery_error(drop: Drop, tmp_path: Path) -> None:
    package = make_package(tmp_path)
    package.path.unlink()
    with pytest.raises(DeliveryError, match="cannot be read"):
        drop.courier.deliver(package, done=(), note=Notes())
