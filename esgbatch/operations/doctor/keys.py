"""gpg, every key, and a file of a few bytes sealed like tonight's."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

from esgbatch.config.secrets import require_private
from esgbatch.encryption.gpg import GpgEncryptor
from esgbatch.encryption.keys import list_only_key, load_recipients, make_private_folder, read_key_file
from esgbatch.encryption.process import Library, find_program, open_library
from esgbatch.errors import BatchError, EncryptionError
from esgbatch.operations.doctor.findings import PATIENCE, Finding, Setup, failed, ok, warn

EXPIRES_SOON = timedelta(days=30)
FEW_BYTES = b"esgbatch doctor\r\n"


def gpg(setup: Setup) -> Iterator[Finding]:
    version = ".".join(map(str, _library(setup).version))
    yield ok(f"{find_program(setup.config.encryption.gpg)}, version {version}")


def recipient_keys(setup: Setup) -> Iterator[Finding]:
    """Each file by itself, so that every bad one is told; that together they are all is for `encryption`."""
    for source in setup.config.encryption.recipients:
        try:
            yield _recipient(setup, source)
        except BatchError as error:
            yield failed(error)


def _recipient(setup: Setup, source: Path) -> Finding:
    config = setup.config.encryption
    fingerprint = list_only_key(_library(setup), source, read_key_file(source))["fingerprint"]
    pinned = [fingerprint] if fingerprint in config.fingerprints else config.fingerprints
    alone = config.model_copy(update={"recipients": [source], "fingerprints": pinned})
    (key,) = load_recipients(alone, _keyring(setup), setup.clock.time())
    return _lifetime(
        f"{source} holds {key.fingerprint}, which",
        key.expires,
        setup,
        f"ask its owner for a renewed public key, put it into {source}, then `esgbatch doctor`",
    )


def signing_key(setup: Setup) -> Iterator[Finding]:
    """When it expires; whether it signs is seen by `encryption`."""
    source = setup.config.encryption.sign_with
    assert source is not None
    require_private(source)
    key = list_only_key(_library(setup), source, read_key_file(source), secret=True)
    able = [each for each in (key, *key.get("subkey_info", {}).values()) if "s" in each["cap"]]
    if not able:
        raise EncryptionError(f"The key in {source} cannot sign.", advice="export another one for sign_with")
    end = min(float(key["expires"] or "inf"), max(float(each["expires"] or "inf") for each in able))
    expires = None if end == float("inf") else datetime.fromtimestamp(end, UTC)
    advice = f"renew it, export it to {source}, then `esgbatch doctor`"
    if end <= setup.clock.time():
        raise EncryptionError(f"The signing key in {source} expired on {expires:%Y-%m-%d}.", advice=advice)
    yield _lifetime(f"{source} holds {key['fingerprint']}, which", expires, setup, advice)


def encryption(setup: Setup) -> Iterator[Finding]:
    """The whole way of tonight's file, in the scratch folder."""
    config = setup.config.encryption
    assert setup.scratch is not None
    encryptor = GpgEncryptor(config, _keyring(setup), stall=PATIENCE, now=setup.clock.time)
    target = setup.scratch / "doctor.pgp"
    sealed = encryptor.seal([FEW_BYTES], rows=lambda: 1, name="doctor.txt", target=target)
    signed = "" if config.sign_with is None else ", and signed"
    yield ok(f"a few bytes were sealed for {len(sealed.recipients)} recipient(s){signed}")


def _lifetime(what: str, expires: datetime | None, setup: Setup, advice: str) -> Finding:
    if expires is None:
        return ok(f"{what} does not expire")
    left = expires - datetime.fromtimestamp(setup.clock.time(), UTC)
    if left > EXPIRES_SOON:
        return ok(f"{what} is good until {expires:%Y-%m-%d}")
    return warn(f"{what} expires on {expires:%Y-%m-%d}, in {left.days} day(s)", advice)


def _keyring(setup: Setup) -> Path:
    """A keyring folder of the examination's own: a run may be using the job's."""
    assert setup.scratch is not None
    folder = setup.scratch / "keyring"
    make_private_folder(folder)
    return folder


def _library(setup: Setup) -> Library:
    return open_library(setup.config.encryption.gpg, _keyring(setup), "--no-autostart")
