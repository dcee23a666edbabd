"""Attempts a second by one thread, and by one and two Dask workers, against the sandbox's ESG API.

What is measured is dispatcher, engine, client and network; outcomes are kept in memory. The
limit is out of reach, so that the slowest part shows: the API of the sandbox included,
which is one process. `coordinator` is this process's CPU time for an account.
"""

from __future__ import annotations

import argparse
import logging
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from esgbatch.clock import SystemClock
from esgbatch.config.model import Dask, OAuth2Auth, Ratings
from esgbatch.config.secrets import Secret
from esgbatch.fetching.concurrency import FixedConcurrency
from esgbatch.fetching.dispatcher import Dispatcher
from esgbatch.fetching.engines import ThreadEngine
from esgbatch.fetching.limiter import RateLimiter
from esgbatch.fetching.retry import Backoff
from esgbatch.http.auth import authenticator
from esgbatch.model import Outcome, State, Work
from esgbatch.ports import Engine
from esgbatch.ratings.attempts import CurlAttempts
from esgbatch.sandbox.data import Firm
from esgbatch.sandbox.launch import sandbox
from esgbatch.wiring import open_cluster
from tests.acceptance.cluster import Cluster
from tests.simulated import RecordingListener

LIMIT = 100_000.0
SEED = 7


class InMemory:
    """A backlog of the sandbox's accounts, each wanted once; the clock starts at the first answer."""

    def __init__(self, ids: list[str]) -> None:
        self._left = [Work(position, account_id) for position, account_id in enumerate(ids)]
        self.rated: set[int] = set()
        self.began: tuple[float, float] | None = None

    def next(self, limit: int) -> list[Work]:
        page, self._left = self._left[:limit], self._left[limit:]
        return page

    def known_good(self) -> None:
        return None

    def anyone(self) -> None:
        return None

    def record(self, outcomes: list[Outcome]) -> None:
        if self.began is None:
            self.began = (time.monotonic(), time.process_time())
            self.rated.clear()
        for outcome in outcomes:
            assert outcome.state is State.SUCCEEDED, outcome
            self.rated.add(outcome.position)


def measure(name: str, ids: list[str], concurrency: int, open_engine: Callable[[], Engine]) -> None:
    backlog = InMemory(ids)
    dispatcher = Dispatcher(
        open_engine(),
        RateLimiter(LIMIT, concurrency, validity=0.1),
        FixedConcurrency(concurrency),
        Backoff(0.5, 60.0),
        SystemClock(),
        RecordingListener(),
        attempts=5,
        commit_every=500,
        max_hold=60.0,
        stopped=lambda: False,
        tick=lambda _pace: None,
    )
    dispatcher.run(backlog, final=False, remaining=lambda: 600.0)
    assert backlog.began is not None
    seconds = time.monotonic() - backlog.began[0]
    cpu = time.process_time() - backlog.began[1]
    dispatcher.close()
    done = len(backlog.rated)
    print(
        f"{name:18} {done:7,} accounts  {done / seconds:8,.0f}/s   coordinator {1e6 * cpu / done:6.0f} µs each"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--accounts", type=int, default=20_000)
    parser.add_argument("--concurrency", type=int, default=64)
    parser.add_argument("--latency", type=float, default=0.02, help="seconds that the API takes")
    arguments = parser.parse_args()
    plain = {"inactive": 0, "duplicates": 0, "refused": 0, "odd_ids": 0}
    books = Firm(arguments.accounts, SEED, **plain)
    flags = [f"--{name.replace('_', '-')}={value}" for name, value in plain.items()]
    ids = [books.account_id(index) for index in range(arguments.accounts)]
    logging.getLogger("distributed").setLevel(logging.CRITICAL)
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        with sandbox(
            f"--accounts={arguments.accounts}", f"--seed={SEED}", f"--root={root / 'firm'}", *flags
        ) as server:
            server.switch(latency=arguments.latency)
            secret = root / "secret"
            secret.write_text(server.places.login.client_secret)
            secret.chmod(0o600)
            login = OAuth2Auth(
                kind="oauth2",
                token_url=server.places.login.token_url,
                client_id=server.places.login.client_id,
                client_secret=Secret(file=secret),
            )
            ratings = Ratings(url=server.places.ratings_url, auth=login)
            measure(
                "one thread",
                ids,
                arguments.concurrency,
                lambda: ThreadEngine(CurlAttempts(ratings, authenticator(ratings), arguments.concurrency)),
            )
            for workers in (1, 2):
                with Cluster(root / f"nodes-{workers}", workers=workers, debug=False) as cluster:
                    dask = Dask(scheduler=cluster.address)
                    cluster.wait_for_workers()
                    measure(
                        f"{workers} dask worker(s)",
                        ids,
                        arguments.concurrency,
                        lambda dask=dask: open_cluster(
                            ratings, dask, arguments.concurrency, RecordingListener()
                        ),
                    )


if __name__ == "__main__":
    main()
