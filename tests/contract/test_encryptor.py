"""What every `ports.Encryptor` promises, proved by opening its files with the real gpg."""

from __future__ import annotations

import hashlib
import stat
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from esgbatch.config.model import Encryption
from esgbatch.encryption.gpg import GpgEncryptor
from esgbatch.errors import EncryptionError, StopRequested
from esgbatch.ports import Encryptor
from tests.keys import KeyPair, decrypt, make_key

NAME = "FirmESGRatings_20261124.csv"
ROWS = [b"Account ID,Account Name\r\n", *(b"A-%06d,Smith Family Trust\r\n" % i for i in range(20_000))]


@pytest.fixture(scope="module")
def keys(tmp_path_factory: pytest.TempPathFactory) -> dict[str, KeyPair]:
    folder = tmp_path_factory.mktemp("keys")
    return {
        "compliance": make_key(folder, "compliance"),
        "archive": make_key(folder, "archive", algorithm="rsa"),
        "signing": make_key(folder, "signing"),
    }


@pytest.fixture(params=["plain", "zlib", "signed"])
def encryptor(request: pytest.FixtureRequest, tmp_path: Path, keys: dict[str, KeyPair]) -> Encryptor:
    recipients = [keys["compliance"], keys["archive"]]
    options: dict[str, dict[str, object]] = {
        "plain": {},
        "zlib": {"compression": "zlib"},
        "signed": {"sign_with": keys["signing"].secret},
    }
    return GpgEncryptor(
        Encryption.model_validate(
            {
                "recipients": [key.public for key in recipients],
                "fingerprints": [key.fingerprint for key in recipients],
                **options[request.param],
            }
        ),
        tmp_path / "keyring",
    )


@pytest.fixture
def target(tmp_path: Path) -> Path:
    folder = tmp_path / "outbox"
    folder.mkdir()
    return folder / f"{NAME}.pgp"


def test_sealed_file_opens_to_the_stream_for_every_recipient(
    encryptor: Encryptor, target: Path, keys: dict[str, KeyPair]
) -> None:
    sealed = encryptor.seal(iter(ROWS), rows=lambda: 20_000, name=NAME, target=target)

    plaintext = b"".join(ROWS)
    for recipient in ("compliance", "archive"):
        opened = decrypt(target, keys[recipient], signer=keys["signing"])
        assert opened.plaintext == plaintext
        assert opened.name == NAME
    assert sealed.path == target
    assert sealed.rows == 20_000
    assert (sealed.plaintext.sha256, sealed.plaintext.size) == (
        hashlib.sha256(plaintext).hexdigest(),
        len(plaintext),
    )
    encrypted = target.read_bytes()
    assert (sealed.encrypted.sha256, sealed.encrypted.size) == (
        hashlib.sha256(encrypted).hexdigest(),
        len(encrypted),
    )
    assert sealed.recipients == (keys["compliance"].fingerprint, keys["archive"].fingerprint)
    assert stat.S_IMODE(target.stat().st_mode) == 0o600
    assert list(target.parent.iterdir()) == [target]


@pytest.mark.parametrize(
    "chunks",
    [[], [b""], [b"x"], [b"", b"a", b"", b"b"], [b"y" * 3_000_000], [bytes(range(256))] * 3000],
    ids=["none", "empty", "one byte", "with empty ones", "larger than any pipe", "binary"],
)
def test_chunks_of_any_size(
    encryptor: Encryptor, target: Path, keys: dict[str, KeyPair], chunks: list[bytes]
) -> None:
    encryptor.seal(chunks, rows=lambda: 0, name=NAME, target=target)
    assert decrypt(target, keys["compliance"]).plaintext == b"".join(chunks)


def test_target_appears_only_at_the_end_and_rows_are_asked_after_the_stream(
    encryptor: Encryptor, target: Path
) -> None:
    seen = []

    def stream() -> Iterator[bytes]:
        yield from ROWS
        seen.append(("ended", target.exists()))

    def rows() -> int:
        seen.append(("rows", target.exists()))
        return 7

    assert encryptor.seal(stream(), rows=rows, name=NAME, target=target).rows == 7
    assert seen == [("ended", False), ("rows", False)]


def _broken_stream(error: BaseException, after: int) -> Iterator[bytes]:
    yield from ROWS[:after]
    raise error


@pytest.mark.parametrize("after", [0, 10, len(ROWS)], ids=["first", "midway", "last"])
@pytest.mark.parametrize(
    "error",
    [ValueError("row"), OSError(28, "not gpg's"), KeyboardInterrupt(), StopRequested.by_signal(15)],
    ids=lambda error: type(error).__name__,
)
def test_what_the_stream_raises_comes_out_and_leaves_nothing(
    encryptor: Encryptor, target: Path, error: BaseException, after: int
) -> None:
    with pytest.raises(type(error)) as caught:
        encryptor.seal(_broken_stream(error, after), rows=lambda: 0, name=NAME, target=target)
    assert caught.value is error
    assert list(target.parent.iterdir()) == []


def test_rows_that_disagree_prevent_the_file(encryptor: Encryptor, target: Path) -> None:
    def rows() -> int:
        raise EncryptionError("19999 rows, not 20000")

    with pytest.raises(EncryptionError, match="19999"):
        encryptor.seal(ROWS, rows=rows, name=NAME, target=target)
    assert list(target.parent.iterdir()) == []


def test_an_older_file_is_replaced_only_by_a_whole_one(
    encryptor: Encryptor, target: Path, keys: dict[str, KeyPair]
) -> None:
    target.write_bytes(b"older")
    with pytest.raises(ValueError, match="row"):
        encryptor.seal(_broken_stream(ValueError("row"), 10), rows=lambda: 0, name=NAME, target=target)
    assert target.read_bytes() == b"older"

    encryptor.seal(ROWS, rows=lambda: 0, name=NAME, target=target)
    assert decrypt(target, keys["archive"]).plaintext == b"".join(ROWS)


def test_missing_folder_is_an_encryption_error(encryptor: Encryptor, tmp_path: Path) -> None:
    with pytest.raises(EncryptionError, match="No such file"):
        encryptor.seal(ROWS, rows=lambda: 0, name=NAME, target=tmp_path / "nowhere" / "f.pgp")


def test_plaintext_lies_in_no_file_while_it_streams(
    encryptor: Encryptor, target: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    monkeypatch.setenv("TMPDIR", str(scratch))
    marker = b"Smith Family Trust"
    found: list[Path] = []

    def look() -> None:
        files = (path for path in tmp_path.rglob("*") if path.is_file())
        found.extend(path for path in files if marker in path.read_bytes())

    def stream() -> Iterator[bytes]:
        for number, row in enumerate(ROWS * 5):
            if number % 40_000 == 0:
                look()
            yield row

    encryptor.seal(stream(), rows=_look_and_count(look), name=NAME, target=target)
    assert found == []
    assert list(scratch.iterdir()) == []


def _look_and_count(look: Callable[[], None]) -> Callable[[], int]:
    def rows() -> int:
        look()
        return 0

    return rows
