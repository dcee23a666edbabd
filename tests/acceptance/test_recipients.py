"""Whom a file may be for: the key files against the configuration, the finished file against both."""

from __future__ import annotations

import os
import shutil
import stat
import subprocess
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from esgbatch.encryption.gpg import GpgEncryptor
from esgbatch.encryption.keys import load_recipients
from esgbatch.errors import ConfigError, EncryptionError
from tests.keys import KeyPair, decrypt, make_key
from tests.sealing import (
    CHUNK,
    encryption,
    make_target,
    seal,
    wrapper,
)


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
    }


@pytest.fixture
def keyring(tmp_path: Path) -> Path:
    return tmp_path / "keyring"


@pytest.fixture
def target(tmp_path: Path) -> Path:
    return make_target(tmp_path)


# --- key files --------------------------------------------------------------------------------


def test_keys_are_copied_into_a_private_keyring_in_the_order_of_the_fingerprints(
    keys: dict[str, KeyPair], keyring: Path
) -> None:
    alice, bob = keys["alice"], keys["bob"]
    both = encryption(alice, bob, fingerprints=[bob.fingerprint, alice.fingerprint])

    first, second = load_recipients(both, keyring, time.time())

    assert (first.fingerprint, second.fingerprint) == (bob.fingerprint, alice.fingerprint)
    assert first.source == bob.public
    assert first.copy == keyring / f"{bob.fingerprint}.asc"
    assert first.copy.read_bytes() == bob.public.read_bytes()
    assert first.subkey_ids == bob.subkeys
    assert first.expires is None
    assert stat.S_IMODE(keyring.stat().st_mode) == 0o700
    assert stat.S_IMODE(first.copy.stat().st_mode) == 0o600


def test_a_trust_database_that_a_crash_has_cut_is_no_trouble(
    keys: dict[str, KeyPair], keyring: Path, target: Path
) -> None:
    keyring.mkdir(mode=0o700)
    (keyring / "trustdb.gpg").write_bytes(b"\1gpg")
    seal(GpgEncryptor(encryption(keys["alice"]), keyring), target)
    assert target.exists()


def test_keys_that_did_not_change_are_not_written_again(keys: dict[str, KeyPair], keyring: Path) -> None:
    [first] = load_recipients(encryption(keys["alice"]), keyring, time.time())
    written = first.copy.stat().st_ino
    load_recipients(encryption(keys["alice"]), keyring, time.time())
    assert first.copy.stat().st_ino == written
    assert [path.name for path in keyring.glob("*.asc*")] == [first.copy.name]
    first.copy.write_bytes(b"another")
    load_recipients(encryption(keys["alice"]), keyring, time.time())
    assert first.copy.read_bytes() == keys["alice"].public.read_bytes()


@pytest.mark.parametrize(("key", "days"), [("soon", 10), ("subkey soon", 5)])
def test_expiry_is_the_day_the_recipient_can_no_longer_be_encrypted_to(
    keys: dict[str, KeyPair], keyring: Path, key: str, days: int
) -> None:
    (recipient,) = load_recipients(encryption(keys[key]), keyring, time.time())
    assert recipient.expires is not None
    left = recipient.expires - datetime.now(UTC)
    assert timedelta(days=days, hours=-1) < left <= timedelta(days=days)

    with pytest.raises(EncryptionError, match=f"expired on {recipient.expires:%Y-%m-%d}"):
        load_recipients(encryption(keys[key]), keyring, recipient.expires.timestamp())


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
        seal(GpgEncryptor(encryption(keys["alice"], keys[key]), keyring), target)
    assert list(target.parent.iterdir()) == []


def test_what_the_key_files_hold_must_be_exactly_what_is_pinned(
    keys: dict[str, KeyPair], keyring: Path
) -> None:
    alice, bob = keys["alice"], keys["bob"]
    now = time.time()
    with pytest.raises(ConfigError, match=alice.fingerprint):  # exchanged
        load_recipients(encryption(bob, recipients=[alice.public]), keyring, now)
    with pytest.raises(ConfigError, match=alice.fingerprint):  # one file too many
        load_recipients(encryption(bob, recipients=[bob.public, alice.public]), keyring, now)
    with pytest.raises(ConfigError, match=alice.fingerprint):  # one file too few
        load_recipients(encryption(alice, bob, recipients=[bob.public]), keyring, now)
    with pytest.raises(ConfigError, match="the same key"):
        load_recipients(encryption(alice, recipients=[alice.public, alice.public]), keyring, now)


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
        load_recipients(encryption(keys["alice"], recipients=[file]), keyring, time.time())


def dearmored(key: KeyPair) -> bytes:
    return subprocess.run(["gpg", "--dearmor"], input=key.public.read_bytes(), stdout=-1, check=True).stdout


def test_binary_key_file_serves_too(
    keys: dict[str, KeyPair], keyring: Path, target: Path, tmp_path: Path
) -> None:
    file = tmp_path / "alice.gpg"
    file.write_bytes(dearmored(keys["alice"]))
    seal(GpgEncryptor(encryption(keys["alice"], recipients=[file]), keyring), target)
    assert decrypt(target, keys["alice"]).plaintext == CHUNK


def test_key_file_exchanged_after_the_check_changes_nothing(
    keys: dict[str, KeyPair], keyring: Path, target: Path, tmp_path: Path
) -> None:
    file = tmp_path / "recipient.asc"
    shutil.copy(keys["alice"].public, file)
    exchange = wrapper(tmp_path, f'cp "{keys["mallory"].public}" "{file}"; exec gpg "$@"')

    seal(GpgEncryptor(encryption(keys["alice"], recipients=[file], gpg=exchange), keyring), target)

    assert file.read_bytes() == keys["mallory"].public.read_bytes()
    assert decrypt(target, keys["alice"]).plaintext == CHUNK


# --- whom the file is for ---------------------------------------------------------------------


def test_one_of_several_subkeys_is_enough(keys: dict[str, KeyPair], keyring: Path, target: Path) -> None:
    seal(GpgEncryptor(encryption(keys["two subkeys"]), keyring), target)
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
    encryptor = GpgEncryptor(encryption(keys["alice"], keys["bob"], gpg=program), keyring)
    with pytest.raises(EncryptionError, match=message.format(subkey=keys["mallory"].subkeys[0])):
        seal(encryptor, target)
    assert list(target.parent.iterdir()) == []
