"""Two hosts, one PostgreSQL: the coordinator's host dies or freezes, and the other one goes on."""

from __future__ import annotations

import hashlib
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psycopg
import pytest

from esgbatch.errors import ExitCode
from tests.acceptance.firm import TestFirm, firm
from tests.acceptance.postgres import Postgres


@dataclass
class Hosts:
    """`first` and `second` are the environments of two machines; a host is its state folder."""

    firm: TestFirm
    url: str

    def on(self, name: str) -> TestFirm:
        """The firm as that host sees it, from now on."""
        own = {
            "ESGBATCH_JOB__STATE_DIR": str(self.firm.folder / name),
            "ESGBATCH_LOGGING__DIRECTORY": str(self.firm.folder / f"{name}-logs"),
        }
        self.firm.environment |= own
        return self.firm

    def query(self, statement: str) -> Any:
        with psycopg.connect(self.url.replace("+psycopg", "")) as connection:
            return connection.execute(statement).fetchone()[0]

    def wait(self, process: subprocess.Popen[str], condition: Callable[[], bool]) -> None:
        until = time.monotonic() + 30
        while True:
            try:
                if condition():
                    return
            except psycopg.errors.UndefinedTable:
                pass
            assert process.poll() is None, process.communicate()
            assert time.monotonic() < until
            time.sleep(0.02)

    def rated(self) -> int:
        return int(self.query("select count(*) from accounts where state in ('succeeded', 'failed')"))

    def steps(self) -> list[str]:
        with psycopg.connect(self.url.replace("+psycopg", "")) as connection:
            return [step for (step,) in connection.execute("select step from delivery_steps order by id")]


@pytest.fixture(scope="module")
def postgres() -> Iterator[Postgres]:
    with Postgres() as server:
        yield server


@pytest.fixture
def hosts(tmp_path: Path, postgres: Postgres) -> Iterator[Hosts]:
    with psycopg.connect(postgres.url.replace("+psycopg", ""), autocommit=True) as connection:
        connection.execute("drop schema public cascade")
        connection.execute("create schema public")
    with firm(tmp_path, 300, rate=150) as each:
        key = tmp_path / "checkpoint.key"
        key.write_text("5a" * 32)
        key.chmod(0o600)
        each.environment |= {
            "ESGBATCH_CHECKPOINT__URL": postgres.url,
            "ESGBATCH_CHECKPOINT__KEY": f'{{ file = "{key}" }}',
        }
        yield Hosts(each, postgres.url)


def test_the_second_host_goes_on_when_the_first_one_dies(hosts: Hosts):
    hosts.firm.environment["ESGBATCH_RATINGS__RATE_LIMIT"] = "20"
    first = hosts.on("first").process("run")
    hosts.wait(first, lambda: hosts.rated() >= 20)
    second = hosts.on("second")
    refused = second.run("resume", code=ExitCode.HELD)
    assert f"process {first.pid}" in refused.err
    assert second.status()["owner"]["pid"] == first.pid
    first.kill()
    first.wait()
    committed = hosts.rated()
    asked = second.server.stats()["esg"]["requests"]
    second.environment["ESGBATCH_RATINGS__RATE_LIMIT"] = "1000"
    second.run("resume")
    assert second.plaintext() == second.expected()
    assert second.server.stats()["esg"]["requests"] - asked <= 300 - committed, (
        "what was committed is not asked again"
    )
    assert "delivered by an earlier call" in hosts.on("first").run("run").out


def test_a_frozen_host_is_not_doubled_and_one_that_wakes_up_too_late_stops(hosts: Hosts):
    """As long as its lock lives nobody else goes on; once the lock is gone, it must not write again."""
    first = hosts.on("first").process("run")
    hosts.wait(first, lambda: hosts.rated() >= 100)
    first.send_signal(signal.SIGSTOP)
    second = hosts.on("second")
    second.run("resume", code=ExitCode.HELD)
    # What the database does a minute after the host was cut off.
    hosts.query(
        "select count(pg_terminate_backend(pid, 5000)) from pg_stat_activity "
        "where backend_type = 'client backend' and pid <> pg_backend_pid()"
    )
    second.run("resume")
    sealed = second.sealed.read_bytes()
    first.send_signal(signal.SIGCONT)
    _, err = first.communicate(timeout=60)
    assert first.returncode == ExitCode.HELD, err
    assert "taken over" in err
    assert second.sealed.read_bytes() == sealed
    assert second.plaintext() == second.expected()


@pytest.mark.parametrize("step", ["intended", "renamed"])
def test_the_sealed_file_is_lost_with_its_host(hosts: Hosts, step: str):
    """Before anything of it reached the drop folder it is sealed again; afterwards it is recognised there."""
    first = hosts.on("first")
    first.environment["ESGBATCH_DELIVERY__ATTEMPTS"] = "1"
    if step == "intended":
        first.environment["ESGBATCH_DELIVERY__PORT"] = "1"
        first.run("run", code=ExitCode.DELIVERY)
        first.environment["ESGBATCH_DELIVERY__PORT"] = str(first.sshd.port)
    else:
        process = first.process("run")
        hosts.wait(process, lambda: step in hosts.steps() or "recorded" in hosts.steps())
        process.kill()
        process.wait()
        hosts.query("update runs set stage = 'delivering' returning 1")
    old = hosts.query("select encrypted_sha256 from revisions")
    shutil.rmtree(first.folder / "first")

    second = hosts.on("second")
    second.run("resume")
    sha256 = hashlib.sha256(second.sealed.read_bytes()).hexdigest()
    manifest = second.manifest()
    assert (sha256 == old) == (step == "renamed")
    assert manifest["encrypted"]["sha256"] == sha256
    assert (manifest["revision"], manifest["supersedes"]) == (1, None)
    assert second.plaintext() == second.expected()
    assert sorted(path.name for path in second.drop.iterdir()) == sorted(
        [second.sealed.name, second.sealed.name.replace(".csv.pgp", ".manifest.json")]
    )


def test_a_delivered_file_that_is_not_here_is_not_delivered_as_another(hosts: Hosts):
    first = hosts.on("first")
    first.run("run")
    shutil.rmtree(first.folder / "first" / "archive")
    first.sealed.unlink()
    ran = hosts.on("second").run("deliver", code=ExitCode.DELIVERY)
    assert "from the host that sealed it" in ran.err
    assert not first.sealed.exists()


def test_without_the_key_the_second_host_says_so(hosts: Hosts):
    first = hosts.on("first")
    del first.environment["ESGBATCH_CHECKPOINT__KEY"]
    first.environment["ESGBATCH_DELIVERY__PORT"] = "1"
    first.environment["ESGBATCH_DELIVERY__ATTEMPTS"] = "1"
    first.run("run", code=ExitCode.DELIVERY)
    shutil.move(first.folder / "first" / "archive", first.folder / "gone")
    first.environment["ESGBATCH_DELIVERY__PORT"] = str(first.sshd.port)
    ran = hosts.on("second").run("resume", code=ExitCode.CONFIG)
    assert "key" in ran.err
