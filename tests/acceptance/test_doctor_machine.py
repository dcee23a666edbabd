"""doctor and its own machine: each thing broken in turn is told by its own check."""

from __future__ import annotations

import json
import resource
import sqlite3
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from sqlalchemy import create_engine, inspect, text

from esgbatch.checkpoint.database import Database
from esgbatch.compliance.audit import AuditTrail, load_or_create_key
from esgbatch.errors import ConfigError
from esgbatch.operations.doctor import folders
from esgbatch.operations.doctor.findings import Status, ok
from tests.acceptance.clinic import Clinic, admitted
from tests.acceptance.firm import TestFirm, firm
from tests.acceptance.postgres import Postgres
from tests.keys import make_key as make_pgp_key

pytestmark = pytest.mark.alone


@pytest.fixture(scope="module")
def servers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[TestFirm]:
    with firm(tmp_path_factory.mktemp("firm"), 300) as each:
        yield each


@pytest.fixture
def clinic(servers: TestFirm, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Clinic]:
    with admitted(servers, tmp_path, monkeypatch) as each:
        yield each


# --- secrets ----------------------------------------------------------------------------------------


def test_each_missing_secret_is_told(clinic: Clinic):
    clinic.set(
        RATINGS__AUTH__CLIENT_SECRET='{ env = "NOT_HERE" }',
        ALERTS__PAGERDUTY__ROUTING_KEY='{ file = "/not/here" }',
    )
    clinic.fails("secrets", "token", "pagerduty")
    messages = [each.message for each in clinic.look()["secrets"]]
    assert len(messages) == 2
    assert "environment variable NOT_HERE is not set" in " ".join(messages)
    assert "/not/here cannot be read" in " ".join(messages)


# --- this machine -----------------------------------------------------------------------------------


def test_a_state_folder_that_others_can_enter(clinic: Clinic):
    clinic.state.mkdir(mode=0o755)
    clinic.state.chmod(0o755)
    found = clinic.fails("state_folder")
    assert "(mode 0700); it has mode 0755" in found.message
    assert f"`chmod 700 {clinic.state}`" in found.advice


def test_folders_that_cannot_be_made(clinic: Clinic):
    file = clinic.folder / "file"
    file.touch()
    clinic.set(JOB__STATE_DIR=file / "state", LOGGING__DIRECTORY=file / "logs")
    clinic.fails("state_folder", "log_folder")
    found = clinic.look()
    assert (
        found["log_folder"][0].message == f"The folder {file}/logs is not there, and cannot be made in {file}."
    )
    assert "install -d -m 0700" in found["state_folder"][0].advice


def test_a_log_folder_that_is_a_file(clinic: Clinic):
    (clinic.folder / "logs").touch()
    assert "Nothing can be written in" in clinic.fails("log_folder").message


def test_a_folder_without_room(tmp_path: Path):
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, hard))
    try:
        with pytest.raises(ConfigError, match="File too large"):
            folders._writable(tmp_path, "")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_no_temporary_folder(clinic: Clinic):
    clinic.monkeypatch.setattr(tempfile, "tempdir", str(clinic.folder / "missing"))
    found = clinic.fails("temporary_folder")
    assert "TMPDIR" in found.advice
    assert clinic.look()["encryption"][0].message == "not checked, since temporary folder failed"


def test_little_room(clinic: Clinic):
    clinic.monkeypatch.setattr(folders, "STATE_BYTES", 10**12)
    found = clinic.warns("disk_space")
    assert found.message.startswith(f"{clinic.state} has ")
    assert "a run of 1,000,000 accounts (no run has counted them yet) may need" in found.message


# --- the checkpoint and the audit trail -------------------------------------------------------------


def make_checkpoint(clinic: Clinic) -> Path:
    clinic.state.mkdir(mode=0o700)
    path = clinic.state / "checkpoint.sqlite"
    Database.sqlite(path).close()
    return path


def test_a_checkpoint_that_is_none(clinic: Clinic):
    clinic.state.mkdir(mode=0o700)
    (clinic.state / "checkpoint.sqlite").write_bytes(b"no database at all" * 100)
    found = clinic.fails("checkpoint")
    assert "file is not a database" in found.message
    assert found.advice == "correct what the database complains about, then `esgbatch doctor`"


def test_a_checkpoint_of_a_newer_program(clinic: Clinic):
    path = make_checkpoint(clinic)
    with sqlite3.connect(path) as connection:
        connection.execute("update esgbatch_schema set version = 99")
    connection.close()
    assert "is of a newer esgbatch" in clinic.fails("checkpoint").message


def test_a_checkpoint_that_cannot_be_written(clinic: Clinic):
    path = make_checkpoint(clinic)
    with sqlite3.connect(path) as connection:
        connection.execute(
            "create trigger broken before update on esgbatch_schema "
            "begin select raise(abort, 'no writing'); end"
        )
    connection.close()
    assert "no writing" in clinic.fails("checkpoint").message


def test_what_is_written_to_the_checkpoint_is_taken_back(clinic: Clinic):
    path = make_checkpoint(clinic)
    with sqlite3.connect(path) as connection:
        connection.execute("create table witness (seen)")
        connection.execute(
            "create trigger seen before update on esgbatch_schema begin insert into witness values (1); end"
        )
    connection.close()
    assert clinic.ok("checkpoint") == "it can be read and written"
    with sqlite3.connect(path) as connection:
        assert connection.execute("select count(*) from witness").fetchone() == (0,)
    connection.close()


def test_a_sqlite_url_is_not_made_by_looking(clinic: Clinic):
    path = clinic.folder / "elsewhere.sqlite"
    clinic.set(CHECKPOINT__URL=f"sqlite:///{path}")
    assert clinic.ok("checkpoint") == f"{path} is made by the first run"
    assert not path.exists()


def test_a_checkpoint_url_that_is_none(clinic: Clinic):
    clinic.set(CHECKPOINT__URL="postgresql+psycopg:/user:S3cret@host")
    found = clinic.fails("checkpoint")
    assert "is no SQLAlchemy URL" in found.message
    assert "S3cret" not in found.message


@pytest.fixture(scope="module")
def postgres() -> Iterator[Postgres]:
    with Postgres() as server:
        yield server


def test_postgresql_empty_then_with_tables_then_down(clinic: Clinic, postgres: Postgres):
    def checkpoint_at(url: str) -> None:
        clinic.monkeypatch.setenv("CHECKPOINT_URL", url)
        clinic.set(CHECKPOINT__URL='{ env = "CHECKPOINT_URL" }')

    checkpoint_at(postgres.url)
    engine = create_engine(postgres.url)
    assert "has no tables yet: the first run makes them" in clinic.ok("checkpoint")
    assert inspect(engine).get_table_names() == []
    with engine.begin() as connection:
        connection.execute(text("create user poor password 'poor-and-secret'"))
    poor = postgres.url.replace(f"{postgres.user}:{postgres.password}", "poor:poor-and-secret")
    checkpoint_at(poor)
    found = clinic.fails("checkpoint")
    assert found.message == (
        "The checkpoint database has no tables yet, and refuses them: permission denied for schema public."
    )
    checkpoint_at(postgres.url)
    Database(postgres.url).close()
    assert clinic.ok("checkpoint") == "it can be read and written"
    clinic.set(CHECKPOINT__URL=postgres.url)
    assert "password in plain" in clinic.warns("checkpoint").message
    checkpoint_at(postgres.url)
    engine.dispose()
    postgres.stop()
    try:
        found = clinic.fails("checkpoint")
    finally:
        postgres.start()
    assert "The checkpoint database failed: " in found.message
    assert postgres.password not in found.message


def test_an_audit_trail_that_was_changed_or_lost_its_key(clinic: Clinic):
    clinic.state.mkdir(mode=0o700)
    trail = clinic.state / "audit.jsonl"
    AuditTrail(trail, load_or_create_key(clinic.state)).append("tried")
    assert clinic.ok("audit_trail") == "the last of its 1 records is genuine"
    whole = trail.read_text()
    trail.write_text(whole.replace("tried", "fried"))
    assert "its mac is wrong" in clinic.fails("audit_trail").message
    trail.write_text(whole)
    (clinic.state / "keyring" / "audit.key").unlink()
    assert "key" in clinic.fails("audit_trail").message
    assert not (clinic.state / "keyring" / "audit.key").exists()


# --- gpg and keys -----------------------------------------------------------------------------------


def test_no_gpg(clinic: Clinic):
    clinic.set(ENCRYPTION__GPG="gpg-of-nobody")
    found = clinic.fails("gpg")
    assert "gpg-of-nobody is not there" in found.message
    assert "apt-get install gnupg" in found.advice


def use_keys(clinic: Clinic, *pairs: tuple[Path, str]) -> None:
    clinic.set(
        ENCRYPTION__RECIPIENTS=json.dumps([str(path) for path, _ in pairs]),
        ENCRYPTION__FINGERPRINTS=json.dumps([fingerprint for _, fingerprint in pairs]),
    )


def test_every_recipient_key_is_told_with_what_is_wrong_with_it(clinic: Clinic):
    good = make_pgp_key(clinic.folder, "good")
    old = make_pgp_key(clinic.folder, "old", born="20200101T000000", expires="1d")
    other = make_pgp_key(clinic.folder, "other")
    use_keys(clinic, (good.public, good.fingerprint), (old.public, old.fingerprint), (other.public, "0" * 40))
    clinic.fails("recipient_key")
    first, second, third = clinic.look()["recipient_key"]
    assert first == ok(f"{good.public} holds {good.fingerprint}, which does not expire")
    assert (second.status, third.status) == (Status.FAIL, Status.FAIL)
    assert "expired on 2020-01-02" in second.message
    assert f"has the fingerprint {other.fingerprint}, which is not in encryption.fingerprints" in third.message


def test_a_key_that_expires_soon_warns(clinic: Clinic):
    soon = make_pgp_key(clinic.folder, "soon", expires="10d")
    use_keys(clinic, (soon.public, soon.fingerprint))
    found = clinic.warns("recipient_key")
    assert found.message.startswith(f"{soon.public} holds {soon.fingerprint}, which expires on ")
    assert found.message.endswith("in 9 day(s)")
    assert "ask its owner for a renewed public key" in found.advice
    later = make_pgp_key(clinic.folder, "later", expires="40d")
    use_keys(clinic, (later.public, later.fingerprint))
    assert "is good until" in clinic.ok("recipient_key")


def test_a_recipient_without_a_key_file(clinic: Clinic):
    desk = clinic.firm.desk
    use_keys(clinic, (desk.public_key, desk.fingerprint))
    clinic.set(ENCRYPTION__FINGERPRINTS=json.dumps([desk.fingerprint, "A" * 40]))
    assert f"holds the key {'A' * 40}" in clinic.fails("encryption").message


def test_signing_keys(clinic: Clinic):
    good = make_pgp_key(clinic.folder, "signer", passphrase="a good passphrase")
    clinic.set(ENCRYPTION__SIGN_WITH=good.secret, ENCRYPTION__PASSPHRASE='{ env = "SIGNING" }')
    clinic.monkeypatch.setenv("SIGNING", "a good passphrase")
    assert clinic.ok("encryption") == "a few bytes were sealed for 1 recipient(s), and signed"
    clinic.monkeypatch.setenv("SIGNING", "another passphrase")
    assert "is missing or wrong" in clinic.fails("encryption").message
    clinic.monkeypatch.setenv("SIGNING", "a good passphrase")
    good.secret.chmod(0o644)
    assert "others can read it" in clinic.fails("signing_key").message
    assert not list(Path("/dev/shm").glob("esgbatch-sign-*"))


def test_signing_keys_that_end(clinic: Clinic):
    soon = make_pgp_key(clinic.folder, "soon", expires="5d")
    clinic.set(ENCRYPTION__SIGN_WITH=soon.secret)
    assert "in 4 day(s)" in clinic.warns("signing_key").message
    old = make_pgp_key(clinic.folder, "old", born="20200101T000000", expires="1d")
    clinic.set(ENCRYPTION__SIGN_WITH=old.secret)
    assert "expired on 2020-01-02" in clinic.fails("signing_key").message
