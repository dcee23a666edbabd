"""Encryption against the real gpg, and against everything that can go wrong with it."""

from __future__ import annotations

import io
import os
import re
import shutil
import signal
import stat
import subprocess
import sys
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from esgbatch.config.model import Encryption
from esgbatch.encryption import process, signing
from esgbatch.encryption.gpg import GpgEncryptor, remove_stale_parts
from esgbatch.encryption.keys import load_recipients
from esgbatch.encryption.packets import read_recipients
from esgbatch.errors import ConfigError, EncryptionError
from esgbatch.model import SealedFile
from tests.keys import KeyPair, decrypt, make_key

NAME = "FirmESGRatings_20261124.csv"
PASSPHRASE = "open sesame"
CHUNK = b"A-000001,Smith Family Trust,71.24,64.10,80.00,71.79,Success\r\n" * 1000


@pytest.fixture(scope="module")
def keys(tmp_path_factory: pytest.TempPathFactory) -> dict[str, KeyPair]:
    folder = tmp_path_factory.mktemp("keys")
    past = "20200101T000000"
    return {
        "alice": make_key(folder, "alice"),
        "bob": make_key(folder, "bob", algorithm="rsa"),
        "mallory": make_key(folder, "mallory"),
        "expired": make_key(folder, "expired", born=past, expires="1d"),
        "expired subkey": make_key(folder, "expired-subkey", born=past, subkey_expires="1d"),
        "revoked": make_key(folder, "revoked", revoked=True),
        "soon": make_key(folder, "soon", expires="10d"),
        "subkey soon": make_key(folder, "subkey-soon", expires="20d", subkey_expires="5d"),
        "two subkeys": make_key(folder, "two-subkeys", encryption_subkeys=2),
        "sign only": make_key(folder, "sign-only", encryption_subkeys=0),
        "signing": make_key(folder, "signing", passphrase=PASSPHRASE),
    }


@pytest.fixture(autouse=True)
def signing_prefix(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each test looks for leftovers of its own only."""
    monkeypatch.setattr(signing, "PREFIX", f"esgbatch-sign-{uuid.uuid4().hex[:8]}-")


@pytest.fixture
def keyring(tmp_path: Path) -> Path:
    return tmp_path / "keyring"


@pytest.fixture
def target(tmp_path: Path) -> Path:
    folder = tmp_path / "outbox"
    folder.mkdir()
    return folder / f"{NAME}.pgp"


def config(*recipients: KeyPair, **options: object) -> Encryption:
    return Encryption.model_validate(
        {
            "recipients": [key.public for key in recipients],
            "fingerprints": [key.fingerprint for key in recipients],
            **options,
        }
    )


def wrapper(folder: Path, script: str) -> str:
    """A program in gpg's place. `script` runs for the encryption; keys are read by the real gpg."""
    path = folder / "gpg-wrapper"
    path.write_text(f'#!/bin/sh\ncase " $* " in *" --encrypt "*) ;; *) exec gpg "$@";; esac\n{script}\n')
    path.chmod(0o755)
    return str(path)


def seal(encryptor: GpgEncryptor, target: Path, chunks: object = (CHUNK,)) -> SealedFile:
    return encryptor.seal(chunks, rows=lambda: 1000, name=NAME, target=target)  # type: ignore[arg-type]  # any iterable


def running(argument: Path) -> list[int]:
    """The live processes with this path on their command line."""
    found = []
    for entry in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            # A zombie has an empty command line.
            if str(argument).encode() in (entry / "cmdline").read_bytes():
                found.append(int(entry.name))
    return found


def until(condition: Callable[[], bool]) -> None:
    """Wait for the system: a starting process has no command line for a moment, a killed one still has."""
    give_up = time.monotonic() + 5
    while not condition():
        assert time.monotonic() < give_up
        time.sleep(0.002)


def gpg_at_work(keyring: Path) -> int:
    """The pid of the gpg that encrypts."""
    until(lambda: len(running(keyring)) == 1)
    (pid,) = running(keyring)
    return pid


def endless(at_third: Callable[[], None]) -> Iterator[bytes]:
    """More than any pipe takes, with something happening on the way."""
    for number in range(1000):
        if number == 3:
            at_third()
        yield CHUNK


def signing_homes() -> list[Path]:
    return [*Path("/dev/shm").glob(f"{signing.PREFIX}*"), *Path("/tmp").glob(f"{signing.PREFIX}*")]


# --- key files --------------------------------------------------------------------------------


def test_keys_are_copied_into_a_private_keyring_in_the_order_of_the_fingerprints(
    keys: dict[str, KeyPair], keyring: Path
) -> None:
    alice, bob = keys["alice"], keys["bob"]
    both = config(alice, bob, fingerprints=[bob.fingerprint, alice.fingerprint])

    first, second = load_recipients(both, keyring, time.time())

    assert (first.fingerprint, second.fingerprint) == (bob.fingerprint, alice.fingerprint)
    assert first.source == bob.public
    assert first.copy == keyring / f"{bob.fingerprint}.asc"
    assert first.copy.read_bytes() == bob.public.read_bytes()
    assert first.subkey_ids == bob.subkeys
    assert first.expires is None
    assert stat.S_IMODE(keyring.stat().st_mode) == 0o700
    assert stat.S_IMODE(first.copy.stat().st_mode) == 0o600


@pytest.mark.parametrize(("key", "days"), [("soon", 10), ("subkey soon", 5)])
def test_expiry_is_the_day_the_recipient_can_no_longer_be_encrypted_to(
    keys: dict[str, KeyPair], keyring: Path, key: str, days: int
) -> None:
    (recipient,) = load_recipients(config(keys[key]), keyring, time.time())
    assert recipient.expires is not None
    left = recipient.expires - datetime.now(UTC)
    assert timedelta(days=days, hours=-1) < left <= timedelta(days=days)

    with pytest.raises(EncryptionError, match=f"expired on {recipient.expires:%Y-%m-%d}"):
        load_recipients(config(keys[key]), keyring, recipient.expires.timestamp())


@pytest.mark.parametrize(
    ("key", "message"),
    [
        ("expired", r"The key in .*/expired\.asc expired on 2020-01-02"),
        ("expired subkey", r"The encryption subkey in .*/expired-subkey\.asc expired on 2020-01-02"),
        ("revoked", r"The key in .*/revoked\.asc is revoked"),
        ("sign only", r"The key in .*/sign-only\.asc cannot encrypt"),
    ],
)
def test_unusable_key_is_refused_with_its_file_and_date(
    keys: dict[str, KeyPair], keyring: Path, target: Path, key: str, message: str
) -> None:
    with pytest.raises(EncryptionError, match=message):
        seal(GpgEncryptor(config(keys["alice"], keys[key]), keyring), target)
    assert list(target.parent.iterdir()) == []


def test_what_the_key_files_hold_must_be_exactly_what_is_pinned(
    keys: dict[str, KeyPair], keyring: Path
) -> None:
    alice, bob = keys["alice"], keys["bob"]
    now = time.time()
    with pytest.raises(ConfigError, match=alice.fingerprint):  # exchanged
        load_recipients(config(bob, recipients=[alice.public]), keyring, now)
    with pytest.raises(ConfigError, match=alice.fingerprint):  # one file too many
        load_recipients(config(bob, recipients=[bob.public, alice.public]), keyring, now)
    with pytest.raises(ConfigError, match=alice.fingerprint):  # one file too few
        load_recipients(config(alice, bob, recipients=[bob.public]), keyring, now)
    with pytest.raises(ConfigError, match="the same key"):
        load_recipients(config(alice, recipients=[alice.public, alice.public]), keyring, now)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (lambda keys: None, "cannot be read: No such file"),
        (lambda keys: b"", "holds no readable OpenPGP key"),
        (lambda keys: b"hello\n" * 100, "holds no readable OpenPGP key"),
        (lambda keys: os.urandom(5000), "holds no readable OpenPGP key"),
        (lambda keys: b"x" * (2 << 20), "larger than 1 MiB"),
        (lambda keys: keys["alice"].public.read_bytes()[:200], "is damaged or cut off"),
        (lambda keys: dearmored(keys["alice"])[:-20], "holds no readable OpenPGP key"),
        (lambda keys: keys["alice"].secret.read_bytes(), "holds a secret key"),
        (lambda keys: keys["alice"].public.read_bytes() + keys["bob"].secret.read_bytes(), "a secret key"),
        (lambda keys: keys["alice"].public.read_bytes() + keys["bob"].public.read_bytes(), "holds 2 keys"),
        (lambda keys: dearmored(keys["alice"]) + dearmored(keys["bob"]), "holds 2 keys"),
    ],
    ids=[
        *("missing", "empty", "text", "random", "huge", "cut", "cut-binary"),
        *("secret", "public+secret", "two", "two-binary"),
    ],
)
def test_bad_key_file_is_a_configuration_error(
    keys: dict[str, KeyPair],
    keyring: Path,
    tmp_path: Path,
    content: Callable[[dict[str, KeyPair]], bytes | None],
    message: str,
) -> None:
    file = tmp_path / "recipient.asc"
    data = content(keys)
    if data is not None:
        file.write_bytes(data)
    with pytest.raises(ConfigError, match=f"{file}.*{message}"):
        load_recipients(config(keys["alice"], recipients=[file]), keyring, time.time())


def dearmored(key: KeyPair) -> bytes:
    return subprocess.run(["gpg", "--dearmor"], input=key.public.read_bytes(), stdout=-1, check=True).stdout


def test_binary_key_file_serves_too(
    keys: dict[str, KeyPair], keyring: Path, target: Path, tmp_path: Path
) -> None:
    file = tmp_path / "alice.gpg"
    file.write_bytes(dearmored(keys["alice"]))
    seal(GpgEncryptor(config(keys["alice"], recipients=[file]), keyring), target)
    assert decrypt(target, keys["alice"]).plaintext == CHUNK


def test_key_file_exchanged_after_the_check_changes_nothing(
    keys: dict[str, KeyPair], keyring: Path, target: Path, tmp_path: Path
) -> None:
    file = tmp_path / "recipient.asc"
    shutil.copy(keys["alice"].public, file)
    exchange = wrapper(tmp_path, f'cp "{keys["mallory"].public}" "{file}"; exec gpg "$@"')

    seal(GpgEncryptor(config(keys["alice"], recipients=[file], gpg=exchange), keyring), target)

    assert file.read_bytes() == keys["mallory"].public.read_bytes()
    assert decrypt(target, keys["alice"]).plaintext == CHUNK


# --- whom the file is for ---------------------------------------------------------------------


def test_one_of_several_subkeys_is_enough(keys: dict[str, KeyPair], keyring: Path, target: Path) -> None:
    seal(GpgEncryptor(config(keys["two subkeys"]), keyring), target)
    assert decrypt(target, keys["two subkeys"]).plaintext == CHUNK


@pytest.mark.parametrize(
    ("script", "message"),
    [
        ('exec gpg --recipient-file "{mallory}" "$@"', "could also be opened by the key {subkey}"),
        ('exec gpg --hidden-recipient-file "{mallory}" "$@"', "hidden recipient"),
        ('exec gpg --throw-keyids "$@"', "hidden recipient"),
        (
            'exec gpg --homedir "{home}" --batch --status-fd "$2" --set-filename x -f "{alice}" -o - --encrypt',
            "for each recipient exactly once",
        ),
        ('exec gpg --armor "$@"', "does not begin with a packet"),
    ],
    ids=["added", "added and hidden", "all hidden", "left out", "armored"],
)
def test_other_recipients_than_configured_are_found_in_the_file(
    keys: dict[str, KeyPair], keyring: Path, target: Path, tmp_path: Path, script: str, message: str
) -> None:
    program = wrapper(
        tmp_path,
        script.format(mallory=keys["mallory"].public, alice=keys["alice"].public, home=keyring),
    )
    encryptor = GpgEncryptor(config(keys["alice"], keys["bob"], gpg=program), keyring)
    with pytest.raises(EncryptionError, match=message.format(subkey=keys["mallory"].subkeys[0])):
        seal(encryptor, target)
    assert list(target.parent.iterdir()) == []


RECIPIENT = bytes.fromhex("840c 03 0123456789abcdef 12 0000".replace(" ", ""))


@pytest.mark.parametrize(
    ("packets", "found"),
    [
        (RECIPIENT + b"\xd2\xff\x00\x00\x10\x00", ["0123456789ABCDEF"]),
        (b"\xc1\x0c" + RECIPIENT[2:] + RECIPIENT + b"\xd4\xe0", ["0123456789ABCDEF"] * 2),
        (b"\xc1\xc0\x08" + RECIPIENT[2:12] + bytes(190) + b"\xd2\x05", ["0123456789ABCDEF"]),
        (
            b"\x85\x00\x0c" + RECIPIENT[2:] + b"\xc1\xff\0\0\0\x0c" + RECIPIENT[2:] + b"\xd2\x05",
            ["0123456789ABCDEF"] * 2,
        ),
    ],
    ids=["old format", "both formats, AEAD", "two-octet length", "long lengths"],
)
def test_recipients_are_read_from_packets(packets: bytes, found: list[str]) -> None:
    assert list(read_recipients(io.BytesIO(packets))) == found


@pytest.mark.parametrize(
    "packets",
    [
        b"",
        b"-----BEGIN PGP MESSAGE-----",
        b"\xd2\x05",  # encrypted to nobody
        RECIPIENT + b"\x8c\x04\x04\x09\x00\x02\xd2\x05",  # a password as well (tag 3)
        RECIPIENT + b"\xc9\x05",  # no integrity protection (tag 9)
        RECIPIENT[:8],
        b"\x84\x0c\x06" + RECIPIENT[3:] + b"\xd2\x05",  # a version that carries no key ID
        b"\x84\x03\x03\x01\x23\xd2\x05",
    ],
)
def test_anything_else_than_recipients_first_is_refused(packets: bytes) -> None:
    with pytest.raises(EncryptionError):
        read_recipients(io.BytesIO(packets))


# --- gpg that fails ---------------------------------------------------------------------------


def test_missing_gpg_is_told_with_what_to_install(
    keys: dict[str, KeyPair], keyring: Path, target: Path
) -> None:
    with pytest.raises(ConfigError, match="no-such-gpg") as caught:
        seal(GpgEncryptor(config(keys["alice"], gpg="no-such-gpg"), keyring), target)
    assert "apt-get install gnupg" in caught.value.advice


def test_program_that_is_no_gpg(keys: dict[str, KeyPair], keyring: Path, target: Path) -> None:
    with pytest.raises(EncryptionError, match="false does not run"):
        seal(GpgEncryptor(config(keys["alice"], gpg="false"), keyring), target)


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
    encryptor = GpgEncryptor(config(keys["alice"], gpg=wrapper(tmp_path, script)), keyring, stall=10)
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
        seal(GpgEncryptor(config(keys["alice"]), keyring), target, endless(strike))
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
        seal(GpgEncryptor(config(keys["alice"]), keyring, stall=0.3), target, chunks)
    assert time.monotonic() - began < 5
    until(lambda: running(keyring) == [])
    assert list(target.parent.iterdir()) == []


def test_children_of_a_hanging_wrapper_die_with_it(
    keys: dict[str, KeyPair], keyring: Path, target: Path, tmp_path: Path
) -> None:
    hanging = wrapper(tmp_path, f'tail -f "{tmp_path}/gpg-wrapper" >/dev/null & cat >/dev/null; wait')
    with pytest.raises(EncryptionError, match="no sign of life"):
        seal(GpgEncryptor(config(keys["alice"], gpg=hanging), keyring, stall=0.3), target)
    until(lambda: running(tmp_path) == [])


def test_gpg_that_closes_everything_and_does_not_end_is_killed(
    keys: dict[str, KeyPair], keyring: Path, target: Path, tmp_path: Path
) -> None:
    silent = "import os, signal; os.closerange(0, 256); signal.pause()"
    hanging = wrapper(tmp_path, f'cat >/dev/null; exec "{sys.executable}" -c \'{silent}\' "$@"')
    with pytest.raises(EncryptionError, match="no sign of life"):
        seal(GpgEncryptor(config(keys["alice"], gpg=hanging), keyring, stall=0.3), target)
    until(lambda: running(keyring) == [])


def test_slow_stream_is_no_stalled_gpg(keys: dict[str, KeyPair], keyring: Path, target: Path) -> None:
    def stream() -> Iterator[bytes]:
        for _ in range(3):
            yield CHUNK
            time.sleep(0.2)

    seal(GpgEncryptor(config(keys["alice"]), keyring, stall=0.15), target, stream())
    assert decrypt(target, keys["alice"]).plaintext == CHUNK * 3


def test_frozen_gpg_while_keys_are_read_is_bounded_too(
    keys: dict[str, KeyPair], keyring: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(process, "LIBRARY_TIMEOUT", 0.3)
    path = tmp_path / "gpg-frozen"
    path.write_text('#!/bin/sh\ncase " $* " in *" --import "*) kill -STOP $$;; esac\nexec gpg "$@"\n')
    path.chmod(0o755)
    with pytest.raises(EncryptionError, match="could not read the key file"):
        load_recipients(config(keys["alice"], gpg=str(path)), keyring, time.time())
    until(lambda: running(path) == [])


@pytest.mark.parametrize("error", [RuntimeError("row 17"), KeyboardInterrupt()], ids=["Exception", "Ctrl-C"])
def test_stream_that_breaks_leaves_no_gpg(
    keys: dict[str, KeyPair], keyring: Path, target: Path, error: BaseException
) -> None:
    def strike() -> None:
        assert gpg_at_work(keyring)
        raise error

    signed = config(keys["alice"], sign_with=keys["mallory"].secret)
    for encryptor in (GpgEncryptor(config(keys["alice"]), keyring), GpgEncryptor(signed, keyring)):
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
    encryptor = GpgEncryptor(config(keys["alice"], gpg=program), keyring)
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
        seal(GpgEncryptor(config(keys["alice"]), keyring), target)
    assert len(calls) == failing
    assert list(target.parent.iterdir()) == []


# --- part files -------------------------------------------------------------------------------


def test_symlink_in_the_part_files_place_is_refused(
    keys: dict[str, KeyPair], keyring: Path, target: Path, tmp_path: Path
) -> None:
    victim = tmp_path / "victim"
    victim.write_bytes(b"precious")
    part = target.with_name(f"{target.name}.part")
    part.symlink_to(victim)
    with pytest.raises(EncryptionError, match="symbolic link"):
        seal(GpgEncryptor(config(keys["alice"]), keyring), target)
    assert victim.read_bytes() == b"precious"
    assert not target.exists()


def test_stale_part_is_replaced(keys: dict[str, KeyPair], keyring: Path, target: Path) -> None:
    part = target.with_name(f"{target.name}.part")
    part.write_bytes(b"half of it" * 100_000)
    hold = part.open("rb")  # another name or descriptor of the old file must not see the new one
    seal(GpgEncryptor(config(keys["alice"]), keyring), target)
    assert hold.read() == b"half of it" * 100_000
    hold.close()
    assert decrypt(target, keys["alice"]).plaintext == CHUNK
    assert not part.exists()


def test_stale_parts_are_removed_and_nothing_else(tmp_path: Path) -> None:
    keep = [tmp_path / "a.csv.pgp", tmp_path / "part", tmp_path / "b.part.json"]
    stale = [tmp_path / "a.csv.pgp.part", tmp_path / "z.part"]
    for path in (*keep, stale[0]):
        path.touch()
    stale[1].symlink_to(keep[0])
    (tmp_path / "folder.part").mkdir()

    assert remove_stale_parts(tmp_path) == tuple(stale)
    assert sorted(tmp_path.iterdir()) == sorted([*keep, tmp_path / "folder.part"])
    assert remove_stale_parts(tmp_path) == ()


# --- a job that is killed ---------------------------------------------------------------------

JOB = """
import sys
from pathlib import Path
from esgbatch.config.model import Encryption
from esgbatch.encryption import signing
from esgbatch.encryption.gpg import GpgEncryptor

def stream():
    yield b"MARKER12" * 10_000
    print("streaming", flush=True)
    sys.stdin.readline()
    yield b"MARKER12" * 10_000

signing.PREFIX = sys.argv[4]
config = Encryption.model_validate_json(sys.argv[1])
encryptor = GpgEncryptor(config, Path(sys.argv[2]))
encryptor.seal(stream(), rows=lambda: 1, name="n.csv", target=Path(sys.argv[3]))
"""


def job(config: Encryption, keyring: Path, target: Path, *before: str) -> subprocess.Popen[bytes]:
    root = str(Path(process.__file__).parents[2])
    arguments = [config.model_dump_json(), str(keyring), str(target), signing.PREFIX]
    return subprocess.Popen(
        [*before, sys.executable, "-c", JOB, *arguments],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": root},
    )


def test_killed_job_leaves_no_gpg_no_file_and_nothing_that_stays(
    keys: dict[str, KeyPair], keyring: Path, target: Path
) -> None:
    signed = config(keys["alice"], sign_with=keys["mallory"].secret)
    with job(signed, keyring, target) as child:
        assert child.stdout is not None
        assert child.stdout.readline() == b"streaming\n"
        (home,) = signing_homes()
        until(lambda: len(running(home)) == 2)  # gpg and its agent
        child.kill()
    until(lambda: running(keyring) == [])
    assert [path.name for path in target.parent.iterdir()] == [f"{target.name}.part"]

    remove_stale_parts(target.parent)
    seal(GpgEncryptor(signed, keyring), target)

    assert signing_homes() == []
    until(lambda: running(home) == [])
    assert decrypt(target, keys["alice"], signer=keys["mallory"]).plaintext == CHUNK


def test_signing_home_of_a_living_job_is_left_alone(
    keys: dict[str, KeyPair], keyring: Path, target: Path
) -> None:
    signed = config(keys["alice"], sign_with=keys["mallory"].secret)
    with job(signed, keyring, target) as child:
        assert child.stdout is not None
        assert child.stdin is not None
        assert child.stdout.readline() == b"streaming\n"
        GpgEncryptor(signed, keyring).check()
        assert len(signing_homes()) == 1
        child.stdin.close()
    assert child.returncode == 0
    assert decrypt(target, keys["alice"], signer=keys["mallory"]).plaintext == b"MARKER12" * 20_000


def test_no_process_writes_plaintext_to_any_file(
    keys: dict[str, KeyPair], keyring: Path, target: Path, tmp_path: Path
) -> None:
    """Every write of the job, of gpg and of its agent, as the kernel sees it."""
    trace = tmp_path / "trace"
    strace = ["strace", "-f", "-y", "-qq", "-s", "256", "-o", str(trace)]
    calls = "trace=write,writev,pwrite64,pwritev,pwritev2,mmap,sendfile,splice,copy_file_range,sendto,sendmsg"
    signed = config(keys["alice"], sign_with=keys["mallory"].secret)
    with job(signed, keyring, target, *strace, "-e", calls) as child:
        child.communicate(b"\n")
    assert child.returncode == 0
    assert decrypt(target, keys["alice"], signer=keys["mallory"]).plaintext == b"MARKER12" * 20_000

    lines = trace.read_text(errors="replace").splitlines()
    where = [re.search(r"\((\d+)<([^>]*)>", line) for line in lines if "MARKER12" in line]
    assert len(where) >= 2
    assert {match[2].partition(":")[0] for match in where if match} == {"pipe"}
    assert any(f"<{target}.part>" in line for line in lines)
    assert not [line for line in lines if "mmap" in line and "MAP_SHARED" in line and "PROT_WRITE" in line]


# --- signature, compression, environment ------------------------------------------------------


@pytest.fixture
def passphrases(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RIGHT", PASSPHRASE)
    monkeypatch.setenv("WRONG", "close sesame")


@pytest.mark.usefixtures("passphrases")
def test_signature_with_passphrase_and_never_with_a_wrong_one(
    keys: dict[str, KeyPair], keyring: Path, target: Path
) -> None:
    secret = keys["signing"].secret
    right = config(keys["alice"], sign_with=secret, passphrase={"env": "RIGHT"})
    seal(GpgEncryptor(right, keyring), target)
    assert decrypt(target, keys["alice"], signer=keys["signing"]).signer == keys["signing"].fingerprint
    target.unlink()

    # After the right one: an agent that had kept it would sign now.
    for wrong in (
        config(keys["alice"], sign_with=secret, passphrase={"env": "WRONG"}),
        config(keys["alice"], sign_with=secret),
    ):
        with pytest.raises(ConfigError, match=r"passphrase .* is missing or wrong") as caught:
            seal(GpgEncryptor(wrong, keyring), target)
        assert "sesame" not in str(caught.value)
        with pytest.raises(ConfigError, match="passphrase"):
            GpgEncryptor(wrong, keyring).check()
        assert list(target.parent.iterdir()) == []
    assert signing_homes() == []


def test_signing_key_file_must_be_private_and_a_secret_key(
    keys: dict[str, KeyPair], keyring: Path, target: Path, tmp_path: Path
) -> None:
    exposed = tmp_path / "exposed.asc"
    exposed.write_bytes(keys["mallory"].secret.read_bytes())
    exposed.chmod(0o640)
    public = tmp_path / "public.asc"
    public.write_bytes(keys["mallory"].public.read_bytes())
    public.chmod(0o600)
    for path, message in ((exposed, "others can read it"), (public, "holds no secret key")):
        with pytest.raises(ConfigError, match=message):
            seal(GpgEncryptor(config(keys["alice"], sign_with=path), keyring), target)


def test_expired_signing_key_is_an_error(keys: dict[str, KeyPair], keyring: Path, target: Path) -> None:
    with pytest.raises(EncryptionError, match="code 2"):
        seal(GpgEncryptor(config(keys["alice"], sign_with=keys["expired"].secret), keyring), target)
    assert list(target.parent.iterdir()) == []


def test_file_that_gpg_did_not_sign_is_refused(
    keys: dict[str, KeyPair], keyring: Path, target: Path, tmp_path: Path
) -> None:
    unsigned = wrapper(
        tmp_path,
        f'exec gpg --homedir "{keyring}" --batch --status-fd "$2" -f "{keys["alice"].public}" -o - --encrypt',
    )
    with pytest.raises(EncryptionError, match="did not sign"):
        seal(
            GpgEncryptor(config(keys["alice"], sign_with=keys["mallory"].secret, gpg=unsigned), keyring),
            target,
        )
    assert list(target.parent.iterdir()) == []


@pytest.mark.usefixtures("passphrases")
def test_no_secret_reaches_gpgs_arguments_or_environment(
    keys: dict[str, KeyPair],
    keyring: Path,
    target: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("ESG_CLIENT_SECRET", "sesame as well")
    monkeypatch.setenv("GNUPGHOME", "/elsewhere")
    seen = tmp_path / "seen"
    spy = tmp_path / "gpg-spy"
    spy.write_text(f'#!/bin/sh\n{{ echo "$@"; env; }} >> "{seen}"\nexec gpg "$@"\n')
    spy.chmod(0o755)
    options = {"sign_with": keys["signing"].secret, "passphrase": {"env": "RIGHT"}}
    seal(GpgEncryptor(config(keys["alice"], gpg=str(spy), **options), keyring), target)

    text = seen.read_text()
    assert "--encrypt" in text
    assert "--import" in text
    assert "sesame" not in text
    assert "/elsewhere" not in text


def test_zlib_makes_the_file_smaller(keys: dict[str, KeyPair], keyring: Path, target: Path) -> None:
    plain = seal(GpgEncryptor(config(keys["alice"]), keyring), target, [CHUNK] * 10)
    small = seal(GpgEncryptor(config(keys["alice"], compression="zlib"), keyring), target, [CHUNK] * 10)
    assert decrypt(target, keys["alice"]).plaintext == CHUNK * 10
    assert plain.encrypted.size > plain.plaintext.size
    assert small.encrypted.size < plain.plaintext.size / 5


def test_check_seals_nothing_and_tells_the_keys(keys: dict[str, KeyPair], keyring: Path) -> None:
    encryptor = GpgEncryptor(config(keys["soon"], sign_with=keys["mallory"].secret), keyring)
    (recipient,) = encryptor.check()
    assert recipient.fingerprint == keys["soon"].fingerprint
    assert recipient.expires is not None
    with pytest.raises(EncryptionError, match="expired on"):
        GpgEncryptor(config(keys["soon"]), keyring, now=recipient.expires.timestamp).check()
