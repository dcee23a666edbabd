"""The ratings on a real Dask cluster: the same file as from one machine, whatever becomes of the workers."""

from __future__ import annotations

import asyncio
import json
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from esgbatch.config.model import Dask
from esgbatch.fetching.cluster import connector
from esgbatch.sandbox.dice import Dice
from tests.acceptance.cluster import Cluster
from tests.acceptance.firm import SEED, TestFirm, firm
from tests.sockets.certificates import Authority

RATE = 100
ACCOUNTS = 400


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    folder = tmp_path_factory.mktemp("cluster")
    with Cluster(folder / "nodes", workers=2, authority=Authority(folder)) as running:
        yield running


@pytest.fixture
def slow(tmp_path: Path) -> Iterator[TestFirm]:
    with firm(tmp_path, ACCOUNTS, rate=RATE) as each:
        yield each


def elsewhere(each: TestFirm, name: str) -> dict[str, str]:
    """Another state folder: for the program, another machine."""
    return {"ESGBATCH_JOB__STATE_DIR": str(each.folder / name)}


def cluster_state(cluster: Cluster, target: Path) -> str:
    """All that scheduler and workers tell of themselves: tasks, graphs, events, logs."""

    async def dump() -> None:
        config = Dask(
            scheduler=cluster.address,
            tls_ca_file=str(cluster.tls["ca-file"]),
            tls_client_cert=str(cluster.tls["cert"]),
            tls_client_key=str(cluster.tls["key"]),
        )
        client = await connector(config)()
        try:
            await client.dump_cluster_state(str(target), format="yaml")
        finally:
            await client.close()

    asyncio.run(dump())
    return target.with_suffix(".yaml").read_text()


def until(condition: Callable[[], bool], process: subprocess.Popen[str]) -> None:
    give_up = time.monotonic() + 30
    while not condition():
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < give_up
        time.sleep(0.05)


def test_the_file_is_the_same_as_from_one_machine(cluster: Cluster, slow: TestFirm):
    """With accounts that fail in every way, a token that is taken back, and no secret in the cluster."""
    faults = {
        "A-000003": "no_rating",
        "A-000005": "bad_null",
        "A-000007": "forbidden",
        "A-000009": "always_500",
    }
    slow.environment |= {"ESGBATCH_RATINGS__ATTEMPTS": "2", "ESGBATCH_RATINGS__BACKOFF__BASE": "0.05"}
    slow.server.switch(accounts=faults)
    alone = slow.environment | elsewhere(slow, "alone") | {"ESGBATCH_RATINGS__RATE_LIMIT": "1000"}
    slow.environment, mine = alone, slow.environment
    slow.run("run")
    from_one_machine, failed_there = slow.plaintext(), slow.errors()
    asked = slow.server.stats()["login"]["requests"]

    slow.environment = mine | cluster.environment()
    process = slow.process("run")
    slow.wait_until_done(150, process)
    slow.server.switch(revoke_tokens=True)
    slow.wait_until_done(250, process)
    state = cluster_state(cluster, slow.folder / "dump")
    out, err = process.communicate(timeout=60)
    assert process.returncode == 0, err

    assert slow.plaintext() == from_one_machine == slow.expected(set(faults))
    fields = ("account_id", "reason", "http_status", "attempts")
    assert [[each[field] for field in fields] for each in slow.errors()] == [
        [each[field] for field in fields] for each in failed_there
    ]
    assert slow.server.stats()["login"]["requests"] == asked + 2, (
        "one login, renewed once for the whole cluster"
    )
    assert "Agent" in state
    told = json.loads(slow.process("doctor", "--json", day=None).communicate(timeout=60)[0])
    found = [each for each in told["checks"] if each["check"] == "cluster"]
    assert [each["status"] for each in found] == ["ok"], found
    dice = Dice(SEED)
    secrets = [slow.server.places.login.client_secret, *(dice.text(b"token", number) for number in range(4))]
    for secret in (*secrets, str(slow.folder / "secrets")):
        assert secret not in state
        assert secret not in cluster.logs
        assert secret not in out + err
    for score in slow.books.cells(40):
        assert f"'{score}'" not in state + cluster.logs


def test_workers_are_killed_freeze_and_come(cluster: Cluster, slow: TestFirm):
    """The limit holds all the while, also when the frozen one wakes up with old permits in its hands."""
    slow.environment |= cluster.environment()
    slow.server.switch(latency=0.2)
    frozen, killed = cluster.start_worker(), cluster.start_worker()
    process = slow.process("run")
    slow.wait_until_done(100, process)
    frozen.send_signal(signal.SIGSTOP)
    slow.wait_until_done(150, process)
    killed.kill()
    slow.wait_until_done(200, process)
    cluster.start_worker()
    slow.wait_until_done(300, process)
    frozen.send_signal(signal.SIGCONT)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 0, err
    assert slow.plaintext() == slow.expected()
    esg = slow.server.stats()["esg"]
    assert esg["max_per_second"] <= RATE
    asked_again = sum(count for number, count in esg["accounts_by_attempts"].items() if int(number) > 1)
    assert 0 < asked_again < 60, "what the two had in hand, and nothing else"
    frozen.kill()


def test_a_pause_and_a_stop_reach_every_worker(cluster: Cluster, slow: TestFirm):
    slow.environment |= cluster.environment()
    slow.server.switch(retry_after_every=100, retry_after_seconds=1)
    process = slow.process("run")
    slow.wait_until_done(150, process)
    assert slow.server.stats()["esg"]["during_retry_after"] <= 10, "only what was on its way already"
    process.send_signal(signal.SIGTERM)
    _, err = process.communicate(timeout=10)
    assert process.returncode == 143, err
    asked = slow.server.stats()["esg"]["requests"]
    time.sleep(0.5)
    assert slow.server.stats()["esg"]["requests"] == asked
    slow.server.switch(retry_after_every=0)
    slow.environment["ESGBATCH_RATINGS__RATE_LIMIT"] = "1000"
    slow.run("resume")
    assert slow.plaintext() == slow.expected()


def test_a_cluster_that_is_lost_is_told_and_resumed(tmp_path: Path):
    with firm(tmp_path, 200, rate=100) as small, Cluster(tmp_path / "nodes", workers=1) as own:
        own.wait_for_workers()
        small.environment |= own.environment() | {"ESGBATCH_RATINGS__DASK__WAIT": "8"}
        process = small.process("run")
        small.wait_until_done(50, process)
        own.scheduler.kill()
        for worker in own.workers:
            worker.kill()
        _, err = process.communicate(timeout=30)
        assert process.returncode == 13, err
        assert "No worker has rated anything for 8 s" in err
        assert "esgbatch resume" in err
        small.environment["ESGBATCH_RATINGS__DASK__WAIT"] = "0.5"
        ran = small.run("resume", code=13)
        assert own.address in ran.err
        assert "Traceback" not in ran.err
        own.scheduler.wait()
        own.start_scheduler()
        own.start_worker()
        small.environment |= own.environment()
        small.run("resume")
        assert small.plaintext() == small.expected()
