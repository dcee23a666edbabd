"""A million accounts: memory, enrolment, resume, and what comes after the last answer."""

from __future__ import annotations

import shutil
import signal
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from statistics import median

from scripts.bench_rows.figures import Figure, Scale, compared, measured, row
from scripts.bench_rows.processes import run, timed
from scripts.bench_rows.site import DAY, PEERS, ROOT, SEED, Site, site
from tests.acceptance.sshd import Sshd

MILLION = 1_000_000
MOST_MIB = 120
PREPARE = (sys.executable, "-m", "scripts.bench_rows.prepare")


@row("memory", "peak memory of the whole job at 1,000,000 accounts against 100,000")
def memory(scale: Scale, folder: Path) -> Iterator[Figure]:
    accounts = scale.accounts(MILLION)
    with site(folder, accounts) as place:
        large = place.job("large", "run").peak
        small = place.job("small", "run", "--limit", str(accounts // 10)).peak
    ratio = large / small
    yield Figure(
        "memory",
        "peak memory at 1,000,000 accounts",
        f"{large:.0f} MiB",
        f"{small:.0f} MiB at 100,000",
        f"{ratio:.2f} x",
        f"≤ 1.1 x, ≤ {MOST_MIB} MB",
        (ratio <= 1.1 and large * 1.048576 <= MOST_MIB) if scale.is_full else None,
        {"ours": [large], "theirs": [small]},
    )


@row("closing", "from the last answer to the delivered file, against raw gpg and OpenSSH's sftp")
def closing(scale: Scale, folder: Path) -> Iterator[Figure]:
    accounts = scale.accounts(MILLION)
    whole: list[float] = []
    theirs: list[float] = []
    resumed: list[float] = []
    with site(folder, accounts) as place, Sshd(folder / "sshd") as sshd:
        _prepare(place, "prepared", accounts, accounts - 1)
        for number in range(scale.rounds(3)):
            whole.append(_close(place, sshd, f"state{number}", "run"))
            theirs.append(_raw(place, sshd, folder / f"raw{number}"))
            shutil.copytree(folder / "prepared", folder / f"resumed{number}")
            resumed.append(_close(place, sshd, f"resumed{number}", "resume"))
    yield compared(
        "closing",
        f"last answer to delivered file, {accounts:,} rows",
        whole,
        theirs,
        scale=scale,
        unit="s",
        peer="gpg + OpenSSH's sftp",
        at_most=1.5,
    )
    yield measured(
        "closing-resumed",
        "the same where all but one account were rated by a process that died",
        resumed,
        f"{median(resumed):.3g} s ({min(resumed):.3g} to {max(resumed):.3g})",
        scale=scale,
    )


@row("resume", "with half of 1,000,000 accounts done: to the first request at the server")
def resume(scale: Scale, folder: Path) -> Iterator[Figure]:
    accounts = scale.accounts(MILLION)
    seconds = []
    with site(folder, accounts) as place:
        _prepare(place, "prepared", accounts, accounts // 2)
        for number in range(scale.rounds(5)):
            shutil.copytree(folder / "prepared", folder / f"state{number}")
            place.server.switch(forget_arrivals=True)
            used = place.job(
                f"state{number}",
                "resume",
                codes=(0, 143, -signal.SIGTERM),
                stop_when=lambda _: place.esg()["first_arrival"] is not None,
            )
            seconds.append(place.esg()["first_arrival"] - used.began)
            shutil.rmtree(folder / f"state{number}")
    middle = median(seconds)
    yield measured(
        "resume",
        f"resume with {accounts // 2:,} of {accounts:,} done, to the first request",
        seconds,
        f"{middle:.2f} s ({min(seconds):.2f} to {max(seconds):.2f})",
        scale=scale,
        target="≤ 2 s",
        met=middle <= 2,
    )


@row("enrolment", "enrolment of 1,000,000 accounts against sqlite3's executemany of the same rows")
def enrolment(scale: Scale, folder: Path) -> Iterator[Figure]:
    accounts = scale.accounts(MILLION)
    ours: list[float] = []
    theirs: list[float] = []
    with site(folder, 1) as place:
        for number in range(scale.rounds(3)):
            ours.append(_prepare(place, f"state{number}", accounts, 0))
            log = folder / f"raw{number}.log"
            command = [
                sys.executable,
                PEERS / "executemany.py",
                folder / f"raw{number}",
                str(accounts),
                str(SEED),
            ]
            run(command, log, environment={"PYTHONPATH": str(ROOT)})
            theirs.append(float(log.read_text()))
    yield compared(
        "enrolment",
        f"enrolment of {accounts:,} accounts",
        ours,
        theirs,
        scale=scale,
        unit="s",
        peer="sqlite3 executemany",
        at_most=2.0,
    )


def _prepare(place: Site, state: str, accounts: int, done: int) -> float:
    """A state folder in the middle of a night; returns the seconds of the enrolment."""
    log = place.folder / f"{state}.log"
    command = [*PREPARE, place.config, DAY, str(accounts), str(done), str(SEED)]
    run(command, log, environment={**place.environment(state), "PYTHONPATH": str(ROOT)})
    return float(log.read_text().split()[0])


def _close(place: Site, sshd: Sshd, state: str, command: str) -> float:
    """Rate what is left, and see when the manifest, which comes last, lies there."""
    for each in sshd.drop.iterdir():
        each.unlink()
    delivery = {
        "PORT": sshd.port,
        "USERNAME": sshd.username,
        "PRIVATE_KEY": sshd.client_key,
        "KNOWN_HOSTS": sshd.known_hosts,
        "DIRECTORY": sshd.drop,
    }
    place.job(state, command, **{f"DELIVERY__{key}": value for key, value in delivery.items()})
    arrived = next(sshd.drop.glob("*.manifest.json")).stat().st_ctime
    plain = place.folder / "FirmESGRatings.csv"
    if not plain.exists():
        place.desk.decrypt(next(sshd.drop.glob("*.pgp")), plain)
    shutil.rmtree(place.folder / state)
    return arrived - (place.esg()["last_arrival"] + time.time() - time.monotonic())


def _raw(place: Site, sshd: Sshd, folder: Path) -> float:
    folder.mkdir()
    plain = place.folder / "FirmESGRatings.csv"
    where = (sshd.host, str(sshd.port), sshd.username, sshd.client_key, sshd.known_hosts, sshd.drop)
    return timed([PEERS / "gpg_sftp", plain, place.desk.public_key, folder, *where])
