"""The signature, what a killed job leaves of it, and that no secret and no plaintext lies anywhere."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import uuid
from pathlib import Path

import pytest

from esgbatch.config.model import Encryption
from esgbatch.encryption import process, signing
from esgbatch.encryption.gpg import GpgEncryptor
from esgbatch.errors import ConfigError, EncryptionError
from tests.keys import KeyPair, decrypt, make_key
from tests.sealing import (
    CHUNK,
    encryption,
    make_target,
    running,
    seal,
    signing_homes,
    until,
    wrapper,
)

pytestmark = pytest.mark.alone

PASSPHRASE = "open sesame"


@pytest.fixture(scope="module")
def keys(tmp_path_factory: pytest.TempPathFactory) -> dict[str, KeyPair]:
    folder = tmp_path_factory.mktemp("keys")
    return {
        "alice": make_key(folder, "alice"),
        "mallory": make_key(folder, "mallory"),
        "soon": make_key(folder, "soon", expires="10d"),
        "expired": make_key(folder, "expired", born="20200101T000000", expires="1d"),
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
    return make_target(tmp_path)


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
    signed = encryption(keys["alice"], sign_with=keys["mallory"].secret)
    with job(signed, keyring, target) as child:
        assert child.stdout is not None
        assert child.stdout.readline() == b"streaming\n"
        (home,) = signing_homes()
        until(lambda: len(running(home)) == 2)  # gpg and its agent
        (gpg,) = running(home, "--encrypt")
        os.kill(gpg, signal.SIGSTOP)  # it would end by itself when its input ends
        child.kill()
    until(lambda: running(keyring) == [])
    assert [path.name for path in target.parent.iterdir()] == [f"{target.name}.part"]

    seal(GpgEncryptor(signed, keyring), target)

    assert signing_homes() == []
    until(lambda: running(home) == [])
    assert decrypt(target, keys["alice"], signer=keys["mallory"]).plaintext == CHUNK


def test_signing_home_of_a_living_job_is_left_alone(
    keys: dict[str, KeyPair], keyring: Path, target: Path
) -> None:
    signed = encryption(keys["alice"], sign_with=keys["mallory"].secret)
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
    signed = encryption(keys["alice"], sign_with=keys["mallory"].secret)
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
    right = encryption(keys["alice"], sign_with=secret, passphrase={"env": "RIGHT"})
    seal(GpgEncryptor(right, keyring), target)
    assert decrypt(target, keys["alice"], signer=keys["signing"]).signer == keys["signing"].fingerprint
    target.unlink()

    # After the right one: an agent that had kept it would sign now.
    for wrong in (
        encryption(keys["alice"], sign_with=secret, passphrase={"env": "WRONG"}),
        encryption(keys["alice"], sign_with=secret),
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
            seal(GpgEncryptor(encryption(keys["alice"], sign_with=path), keyring), target)


def test_expired_signing_key_is_an_error(keys: dict[str, KeyPair], keyring: Path, target: Path) -> None:
    with pytest.raises(EncryptionError, match="code 2"):
        seal(GpgEncryptor(encryption(keys["alice"], sign_with=keys["expired"].secret), keyring), target)
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
            GpgEncryptor(encryption(keys["alice"], sign_with=keys["mallory"].secret, gpg=unsigned), keyring),
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
    for program in ("gpg", "gpgconf"):
        spy = tmp_path / program
        spy.write_text(f'#!/bin/sh\n{{ echo {program} "$@"; env; }} >> "{seen}"\nexec {program} "$@"\n')
        spy.chmod(0o755)
    options = {"sign_with": keys["signing"].secret, "passphrase": {"env": "RIGHT"}}
    seal(GpgEncryptor(encryption(keys["alice"], gpg=str(tmp_path / "gpg"), **options), keyring), target)

    text = seen.read_text()
    assert "--encrypt" in text
    assert "--import" in text
    assert re.search(r"^gpgconf .*--kill all$", text, re.MULTILINE)  # the agent's end
    assert "sesame" not in text
    assert "/elsewhere" not in text


def test_zlib_makes_the_file_smaller(keys: dict[str, KeyPair], keyring: Path, target: Path) -> None:
    plain = seal(GpgEncryptor(encryption(keys["alice"]), keyring), target, [CHUNK] * 10)
    small = seal(GpgEncryptor(encryption(keys["alice"], compression="zlib"), keyring), target, [CHUNK] * 10)
    assert decrypt(target, keys["alice"]).plaintext == CHUNK * 10
    assert plain.encrypted.size > plain.plaintext.size
    assert small.encrypted.size < plain.plaintext.size / 5


def test_check_seals_nothing_and_tells_the_keys(keys: dict[str, KeyPair], keyring: Path) -> None:
    encryptor = GpgEncryptor(encryption(keys["soon"], sign_with=keys["mallory"].secret), keyring)
    (recipient,) = encryptor.check()
    assert recipient.fingerprint == keys["soon"].fingerprint
    assert recipient.expires is not None
    with pytest.raises(EncryptionError, match="expired on"):
        GpgEncryptor(encryption(keys["soon"]), keyring, now=recipient.expires.timestamp).check()
