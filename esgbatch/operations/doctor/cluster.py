"""The Dask cluster, where the ratings are to run on one."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Mapping
from contextlib import suppress
from typing import Any

from esgbatch import __version__
from esgbatch.config.model import Dask, is_private_address
from esgbatch.errors import DoctorFailed
from esgbatch.fetching.cluster import connector, reason
from esgbatch.operations.doctor.findings import PATIENCE, Finding, Setup, ok, warn


def cluster(setup: Setup) -> Iterator[Finding]:
    """Ask the scheduler for its workers, and each of them for its program; nothing is run there."""
    config = setup.config.ratings.dask
    assert config is not None
    workers = asyncio.run(_workers(config))
    if not workers:
        raise DoctorFailed(
            f"The Dask scheduler {config.scheduler} has no worker.",
            advice="start workers, docs/scaling.md says how",
        )
    useful = 0
    for address, version in sorted(workers.items()):
        if not is_private_address(address):
            yield warn(f"the worker {address} is reached without TLS, and gets nothing to do")
        elif version != __version__:
            has = f"esgbatch {version}" if version else "no esgbatch"
            yield warn(f"the worker {address} has {has}, and gets nothing to do", "install this version there")
        else:
            useful += 1
    if not useful:
        raise DoctorFailed(
            f"None of the {len(workers)} workers can be used.", advice="correct them, then `esgbatch doctor`"
        )
    yield ok(f"{config.scheduler} has {useful} worker(s) with esgbatch {__version__}")


async def _workers(config: Dask) -> Mapping[str, str | None]:
    connect = connector(config)
    try:
        client = await asyncio.wait_for(connect(), PATIENCE)
    except OSError as error:  # TimeoutError is one
        raise DoctorFailed(
            f"The Dask scheduler {config.scheduler} cannot be reached: {reason(error)}.",
            advice="look whether it runs, and at [ratings.dask]",
        ) from None
    try:
        told: dict[str, Any] = await asyncio.wait_for(client.get_versions(packages=["esgbatch"]), PATIENCE)
    except (OSError, TimeoutError):
        raise DoctorFailed(
            f"The Dask cluster of {config.scheduler} does not say what it has.",
            advice="look at its workers' logs",
        ) from None
    finally:
        with suppress(Exception):
            await asyncio.wait_for(client.close(), 2.0)
    return {address: each["packages"].get("esgbatch") for address, each in told["workers"].items()}
