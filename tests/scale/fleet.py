"""A night of a large cluster, second by second, as flows: 100 million accounts on 100 workers.

This is an aggregate model, not the program: accounts are a liquid, and a second is one step.
What flows is bound by the quota, by the coordinator and by the workers that live; what a
worker had in flight when it died is asked again. The rates come from `scripts/throughput`,
the pauses from the program's own time limits. What the model leaves out (order of accounts,
retries of single accounts, holds) the tests of the dispatcher and `scripts/simulate` cover.
"""

from __future__ import annotations

import argparse
import random
from dataclasses import dataclass

from esgbatch.config.model import Dask, Ratings
from esgbatch.fetching.cluster import LOST_SECONDS, SILENT_SECONDS
from esgbatch.operations.capacity import COORDINATOR_RATE, WORKER_IN_FLIGHT, WORKER_RATE, effective

FAILOVER_SECONDS = 90.0  # the database notices a dead host in a minute; then the next `resume` starts


@dataclass(frozen=True)
class Night:
    """What the night is like. Times are seconds; `mtbf` is one worker's time between failures."""

    accounts: int = 100_000_000
    workers: int = 100
    quota: float = 10_000.0
    latency: float = 1.0
    error_rate: float = 0.01
    mtbf: float = 2 * 3600.0
    restart: float = 60.0
    coordinators: int = 1
    coordinator_rate: float = COORDINATOR_RATE
    failovers: int = 1
    outage: float = 600.0
    seed: int = 1


@dataclass
class Told:
    seconds: float = 0.0
    rated: float = 0.0
    attempts: float = 0.0
    asked_again: float = 0.0
    worker_failures: int = 0
    most_a_second: float = 0.0
    bound_by: str = ""


def live(night: Night) -> Told:
    """The night, until every account is rated."""
    dice = random.Random(night.seed)
    url = "https://esg.example/{account_id}"
    cluster = Dask(scheduler="tcp://127.0.0.1:1")
    quota = effective(night.quota, Ratings(url=url, engine="dask", dask=cluster))
    back_at = [0.0] * night.workers
    # Nothing goes on while the API is down, or while the coordinator moves to another host.
    ideal = night.accounts / min(quota, night.coordinators * night.coordinator_rate)
    pauses = [(dice.uniform(0, ideal), FAILOVER_SECONDS) for _ in range(night.failovers)]
    if night.outage:
        pauses.append((dice.uniform(0, ideal), night.outage))
    told = Told()
    bounds = {"quota": 0, "coordinator": 0, "workers": 0}
    while told.rated < night.accounts:
        now = told.seconds
        told.seconds += 1.0
        alive = sum(at <= now for at in back_at)
        each = min(WORKER_RATE, WORKER_IN_FLIGHT / night.latency)
        limits = {
            "quota": quota,
            "coordinator": night.coordinators * night.coordinator_rate,
            "workers": alive * each,
        }
        bound = min(limits, key=lambda name: limits[name])
        flow = 0.0 if any(at <= now < at + length for at, length in pauses) else limits[bound]
        bounds[bound] += 1
        told.attempts += flow
        told.most_a_second = max(told.most_a_second, flow)
        good = flow * (1 - night.error_rate)
        in_flight = flow * night.latency / max(1, alive)
        for index, at in enumerate(back_at):
            if at <= now and dice.random() < 1 / night.mtbf:
                # Half of them are killed, which shows at once; half freeze, which is noticed later.
                frozen = dice.random() < 0.5
                noticed = LOST_SECONDS if frozen else 0.0
                lost = in_flight + (SILENT_SECONDS * flow / max(1, alive) if frozen else 0.0)
                told.worker_failures += 1
                told.asked_again += lost
                good -= lost
                back_at[index] = now + noticed + night.restart
        told.rated += good
    told.bound_by = max(bounds, key=lambda name: bounds[name])
    return told


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    for name, value in vars(Night()).items():
        parser.add_argument(f"--{name.replace('_', '-')}", type=type(value), default=value)
    night = Night(**vars(parser.parse_args()))
    told = live(night)
    print(
        f"{night.accounts:,} accounts, {night.workers} workers, {night.coordinators} coordinator(s), quota "
        f"{night.quota:,.0f}/s, latency {night.latency:g} s: {told.seconds / 60:,.0f} minutes, bound by "
        f"{told.bound_by}; {told.worker_failures} workers failed, {told.asked_again:,.0f} attempts made again, "
        f"at most {told.most_a_second:,.0f} attempts in a second"
    )


if __name__ == "__main__":
    main()
