"""The commands that people wait for."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

from scripts.bench_rows.figures import Figure, Scale, compared, row
from scripts.bench_rows.processes import timed
from scripts.bench_rows.site import DAY, JOB_PYTHON, PEERS, site

HELLO = (JOB_PYTHON, PEERS / "hello.py")
MILLI = 1e3


@row("help", "esgbatch --help against a Typer hello-world's --help")
def help_(scale: Scale, folder: Path) -> Iterator[Figure]:
    ours, theirs = (JOB_PYTHON, "-m", "esgbatch", "--help"), (*HELLO, "--help")
    yield _figure("help", "`esgbatch --help`", ours, theirs, {}, scale, "hello-world --help", 1.3)


@row("status", "esgbatch status against a Typer hello-world")
def status(scale: Scale, folder: Path) -> Iterator[Figure]:
    with site(folder, 200) as place:
        place.job("state", "run")
        ours, environment = place.command("status", "--date", DAY), place.environment("state")
        yield _figure("status", "`esgbatch status`", ours, HELLO, environment, scale, "hello-world", 4.0)


def _figure(
    name: str,
    what: str,
    ours: Sequence[str | Path],
    theirs: Sequence[str | Path],
    environment: dict[str, str],
    scale: Scale,
    peer: str,
    at_most: float,
) -> Figure:
    mine: list[float] = []
    others: list[float] = []
    for _ in range(scale.rounds(25)):
        mine.append(timed(ours, environment) * MILLI)
        others.append(timed(theirs) * MILLI)
    return compared(name, what, mine, others, scale=scale, unit="ms", peer=peer, at_most=at_most)
