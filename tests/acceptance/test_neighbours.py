"""When a neighbour fails: the exit code, one clear paragraph, and the night completed by the command in it."""

from __future__ import annotations

import csv
import os
import shutil
import sqlite3
import subprocess
from pathlib import Path

import pytest

from tests.acceptance.firm import DAY, Ran, TestFirm, firm
from tests.acceptance.sshd import make_key
from tests.keys import make_key as make_pgp_key

FAST = {"ESGBATCH_DELIVERY__ATTEMPTS": "1", "ESGBATCH_DELIVERY__TIMEOUT": "2"}


@pytest.fixture
def few(tmp_path: Path):
    with firm(tmp_path, 40) as each:
        each.environment |= FAST
        yield each


def clear(ran: Ran, *words: str) -> None:
    """One message and one next step, which names the date."""
    told = [line for line in ran.err.splitlines() if line.startswith("esgbatch: ")]
    nexts = [line for line in ran.err.splitlines() if line.startswith("Next: ")]
    assert len(nexts) == 1, ran.err
    for word in words:
        assert word in " ".join(told + nexts), ran.err


def completes(few: TestFirm, command: str) -> None:
    few.run(command)
    assert few.plaintext() == few.expected()
    assert not [path for path in few.drop.iterdir() if path.name.startswith(".")]


def test_a_dead_sftp_server(few: TestFirm):
    few.sshd.kill()
    clear(few.run("run", code=16), f"esgbatch deliver --date {DAY}")
    assert few.status()["stage"] == "delivering"
    few.sshd.start()
    asked = few.server.stats()["esg"]["requests"]
    completes(few, "deliver")
    assert few.server.stats()["esg"]["requests"] == asked


def test_a_frozen_sftp_server(few: TestFirm):
    few.sshd.freeze()
    clear(few.run("run", code=16), "deliver")
    few.sshd.thaw()
    completes(few, "deliver")


def test_a_changed_host_key(few: TestFirm, tmp_path: Path):
    good = few.environment["ESGBATCH_DELIVERY__KNOWN_HOSTS"]
    other = make_key(tmp_path / "other_host_key")
    few.environment["ESGBATCH_DELIVERY__KNOWN_HOSTS"] = str(
        few.sshd.write_known_hosts(tmp_path / "other_known_hosts", other)
    )
    clear(few.run("run", code=16), "SHA256:")
    assert not list(few.drop.iterdir())
    few.environment["ESGBATCH_DELIVERY__KNOWN_HOSTS"] = good
    completes(few, "deliver")


def test_an_unknown_host_key(few: TestFirm, tmp_path: Path):
    empty = tmp_path / "empty"
    empty.touch()
    good = few.environment["ESGBATCH_DELIVERY__KNOWN_HOSTS"]
    few.environment["ESGBATCH_DELIVERY__KNOWN_HOSTS"] = str(empty)
    few.run("run", code=16)
    few.environment["ESGBATCH_DELIVERY__KNOWN_HOSTS"] = good
    completes(few, "resume")


def test_a_missing_drop_folder(few: TestFirm):
    away = few.drop.with_name("away")
    few.drop.rename(away)
    clear(few.run("run", code=16), "deliver")
    away.rename(few.drop)
    completes(few, "deliver")


def test_gpg_that_fails(few: TestFirm, tmp_path: Path):
    broken = tmp_path / "gpg"
    unlucky = 'case "$*" in *"-e"*) echo "gpg: no luck today" >&2; exit 2;; esac'
    broken.write_text(f'#!/bin/sh\n{unlucky}\nexec {shutil.which("gpg")} "$@"\n')
    broken.chmod(0o755)
    few.environment["ESGBATCH_ENCRYPTION__GPG"] = str(broken)
    clear(few.run("run", code=15), f"esgbatch resume --date {DAY}", "no luck today")
    assert not list(few.state.rglob("*.pgp*"))
    del few.environment["ESGBATCH_ENCRYPTION__GPG"]
    asked = few.server.stats()["esg"]["requests"]
    completes(few, "resume")
    assert few.server.stats()["esg"]["requests"] == asked


def test_a_wrong_fingerprint(few: TestFirm):
    few.environment["ESGBATCH_ENCRYPTION__FINGERPRINTS"] = f'["{"0" * 40}"]'
    clear(few.run("run", code=10), few.desk.fingerprint)
    del few.environment["ESGBATCH_ENCRYPTION__FINGERPRINTS"]
    completes(few, "run")


def test_a_private_key_that_others_can_read(few: TestFirm):
    few.sshd.client_key.chmod(0o644)
    clear(few.run("run", code=10), "chmod 600")
    few.sshd.client_key.chmod(0o600)
    completes(few, "run")


def test_a_checkpoint_that_is_no_database(few: TestFirm):
    few.state.mkdir(mode=0o700)
    path = few.state / "checkpoint.sqlite"
    path.write_bytes(os.urandom(4096))
    clear(few.run("run", code=17), "checkpoint")
    path.unlink()
    completes(few, "run")


def test_a_checkpoint_locked_by_somebody(few: TestFirm):
    few.run("run", "--limit", "1")
    few.run("rerun", "--accounts", few.books.account_id(0))
    with sqlite3.connect(few.state / "checkpoint.sqlite", isolation_level=None) as stranger:
        stranger.execute("BEGIN IMMEDIATE")
        few.status()
        stranger.execute("ROLLBACK")


def test_a_full_disk_at_sealing(few: TestFirm):
    """The archive on a file system of its own that has no room."""
    archive = few.state / "archive"
    few.state.mkdir(mode=0o700)
    archive.mkdir(mode=0o700)
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=4k,mode=0700", "tmpfs", str(archive)], check=True)
    try:
        clear(few.run("run", code=15), f"esgbatch resume --date {DAY}")
    finally:
        subprocess.run(["umount", str(archive)], check=True)
    completes(few, "resume")


def test_a_log_folder_that_cannot_be_written(few: TestFirm):
    logs = few.folder / "logs"
    logs.write_text("a file, not a folder")
    clear(few.run("run", code=10), "logs")
    logs.unlink()
    completes(few, "run")


def test_a_state_folder_that_others_can_read(few: TestFirm):
    few.state.mkdir(mode=0o755)
    few.state.chmod(0o755)
    clear(few.run("run", code=10), "chmod 700")


def test_a_state_folder_of_another_user(few: TestFirm):
    few.state.mkdir(mode=0o700)
    os.chown(few.state, 65534, -1)
    clear(few.run("run", code=10), "belongs to user 65534", "`sudo -u '#65534' esgbatch run`")


def test_a_state_folder_that_cannot_be_made(few: TestFirm):
    few.environment["ESGBATCH_JOB__STATE_DIR"] = "/proc/nobody/state"
    clear(few.run("run", code=10), "cannot be made", "`esgbatch run`")


def test_a_keyring_folder_that_cannot_be_made(few: TestFirm):
    few.state.mkdir(mode=0o700)
    (few.state / "keyring").touch()
    clear(few.run("run", code=10), "keyring folder")
    (few.state / "keyring").unlink()
    completes(few, "run")


def test_no_active_accounts_is_never_an_empty_file(few: TestFirm):
    few.environment["ESGBATCH_ACCOUNTS__ACTIVE"] = '["nothing like that"]'
    clear(few.run("run", code=12), "none of them an active account")
    del few.environment["ESGBATCH_ACCOUNTS__ACTIVE"]
    completes(few, "resume")


def test_an_api_that_gives_no_connection(few: TestFirm):
    few.environment |= {
        "ESGBATCH_RATINGS__URL": "http://127.0.0.1:9/{account_id}",
        "ESGBATCH_RATINGS__MAX_HOLD": "2",
    }
    clear(few.run("run", code=13), f"esgbatch resume --date {DAY}")
    few.environment.pop("ESGBATCH_RATINGS__URL")
    completes(few, "resume")


def test_a_login_that_is_refused(few: TestFirm):
    secret = few.folder / "secrets" / "client_secret"
    good = secret.read_text()
    secret.write_text("wrong-secret")
    clear(few.run("run", code=13), "credentials")
    secret.write_text(good)
    completes(few, "resume")


@pytest.mark.parametrize("style", ["offset", "page", "link", "none"])
def test_every_paging_style(few: TestFirm, style: str):
    urls = few.server.places.accounts_urls
    few.environment |= {
        "ESGBATCH_ACCOUNTS__PAGING": style,
        "ESGBATCH_ACCOUNTS__URL": urls["all" if style == "none" and "all" in urls else style],
        "ESGBATCH_ACCOUNTS__PAGE_SIZE": "7",
    }
    completes(few, "run")


def test_accounts_from_a_csv_file(few: TestFirm, tmp_path: Path):
    path = tmp_path / "accounts.csv"
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(("number", "title"))
        writer.writerows((few.books.account_id(n), few.books.name(n)) for n in range(few.books.accounts))
    few.environment |= {
        "ESGBATCH_ACCOUNTS__SOURCE": "csv",
        "ESGBATCH_ACCOUNTS__PATH": str(path),
        "ESGBATCH_ACCOUNTS__ID": "number",
        "ESGBATCH_ACCOUNTS__NAME": "title",
    }
    completes(few, "run")


def test_accounts_from_a_database(few: TestFirm, tmp_path: Path):
    path = tmp_path / "accounts.sqlite"
    with sqlite3.connect(path) as connection:
        connection.execute("create table clients (n integer primary key, id text, name text, state text)")
        rows = [(few.books.account_id(n), few.books.name(n), "open") for n in range(few.books.accounts)]
        connection.executemany("insert into clients (id, name, state) values (?, ?, ?)", rows)
        connection.execute("insert into clients (id, name, state) values ('X', 'Y', 'closed')")
    few.environment |= {
        "ACCOUNTS_DB": f"sqlite:///{path}",
        "ESGBATCH_ACCOUNTS__SOURCE": "sql",
        "ESGBATCH_ACCOUNTS__DATABASE": '{ env = "ACCOUNTS_DB" }',
        "ESGBATCH_ACCOUNTS__QUERY": "select id, name, state as status from clients order by n",
        "ESGBATCH_ACCOUNTS__ID": "id",
        "ESGBATCH_ACCOUNTS__NAME": "name",
        "ESGBATCH_ACCOUNTS__ACTIVE": '["open"]',
    }
    completes(few, "run")


def test_ratings_by_post_with_numbers_as_text(few: TestFirm):
    few.environment |= {
        "ESGBATCH_RATINGS__METHOD": "POST",
        "ESGBATCH_RATINGS__URL": few.server.places.ratings_post_url,
        "ESGBATCH_RATINGS__BODY": '{ accountId = "{account_id}" }',
    }
    completes(few, "run")


def test_a_signed_file(few: TestFirm, tmp_path: Path):
    """gpg checks the signature by the public half; a wrong passphrase is an error."""
    signer = make_pgp_key(tmp_path, "signer", passphrase="correct horse")
    few.environment |= {
        "ESGBATCH_ENCRYPTION__SIGN_WITH": str(signer.secret),
        "ESGBATCH_ENCRYPTION__PASSPHRASE": '{ env = "SIGNING" }',
        "SIGNING": "battery staple",
    }
    clear(few.run("run", code=10), "passphrase")
    few.environment["SIGNING"] = "correct horse"
    command = ["gpg", "--homedir", str(few.desk.home), "--batch", "--status-fd", "1"]
    subprocess.run([*command, "--import", str(signer.public)], check=True, capture_output=True)
    completes(few, "run")
    seen = subprocess.run([*command, "--decrypt", str(few.sealed)], check=True, capture_output=True)
    assert f"VALIDSIG {signer.fingerprint}".encode() in seen.stdout
