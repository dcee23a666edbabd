"""`scripts/simulate`."""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Sequence

from tests.simulator.campaign import Report, campaign, on_disk, simulate

PROGRESS_SECONDS = 10.0


def main(arguments: Sequence[str] | None = None) -> int:
    """Returns the exit code: 1 where something did not hold."""
    parser = argparse.ArgumentParser(
        prog="scripts/simulate", description="Nights in simulated time: docs/reliability.md."
    )
    parser.add_argument("--nights", type=int, default=1000, help="how many (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="the first night's seed (default: %(default)s)")
    parser.add_argument("--processes", type=int, default=1, help="nights at a time (default: %(default)s)")
    parser.add_argument("--replay", type=int, metavar="SEED", help="live through this one night again")
    parser.add_argument("--verbose", action="store_true", help="with --replay: everything that happened")
    options = parser.parse_args(arguments)
    if options.replay is not None:
        return _replay(options.replay, verbose=options.verbose)
    return _many(range(options.seed, options.seed + options.nights), options.processes)


def _many(seeds: Sequence[int], processes: int) -> int:
    began = told = time.monotonic()
    total = Report()
    for report in campaign(seeds, processes):
        for seed, complaints in report.failures.items():
            _complain(seed, complaints)
        total.add(report)
        if time.monotonic() - told >= PROGRESS_SECONDS:
            told = time.monotonic()
            print(
                f"{total.counts['nights']:,} of {len(seeds):,} nights, {len(total.failures)} failed", flush=True
            )
    print(total.table(time.monotonic() - began))
    for seed in sorted(total.failures):
        print(f"again: scripts/simulate --replay {seed} --verbose")
    return 1 if total.failures else 0


def _replay(seed: int, *, verbose: bool) -> int:
    with on_disk() as disk:
        report, night = simulate(seed, disk)
    if verbose:
        print(night.plan)
    for execution in night.executions:
        print(execution)
        if verbose:
            for entry in execution.log:
                print(f"     {entry}")
    for complaints in report.failures.values():
        _complain(seed, complaints)
    print("Something did not hold." if report.failures else "Everything held.")
    return 1 if report.failures else 0


def _complain(seed: int, complaints: Sequence[str]) -> None:
    for complaint in complaints:
        print(f"night {seed}: {complaint}", flush=True)


if __name__ == "__main__":
    sys.exit(main())
