"""demo and sandbox: the job on this machine."""

from __future__ import annotations

import shlex
import shutil
import signal
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from esgbatch import manifest
from esgbatch.cli.actions import report
from esgbatch.cli.context import CLOCK, the_date, working_job
from esgbatch.config.load import load
from esgbatch.deadline import Deadline
from esgbatch.errors import ConfigError
from esgbatch.operations import demo, night
from esgbatch.reporting.text import render
from esgbatch.sandbox.launch import RunningSandbox, SandboxFailed, sandbox


def play(accounts: int, rate: float | None) -> None:
    """The demo."""
    with _sandbox(accounts, rate) as (folder, server, desk, path):
        config = load(path, {})
        day = the_date(config, None)
        with working_job(config, day) as job:
            result = night.run(job, day, limit=None, deadline=Deadline(None, CLOCK))
        delivered = Path(server.places.sftp.folder) / manifest.sealed_name(day)
        opened = folder / manifest.plain_name(day)
        desk.decrypt(delivered, opened)
    page = folder / "report.html"
    report.write(path, day, None, form="html", output=page)
    print(render(result.summary, config.zone))
    print(f"Delivered file   {delivered}")
    print(f"Manifest         {delivered.with_name(manifest.manifest_name(day))}")
    print(f"Decrypted file   {opened}")
    print(f"Report           {page}")
    print(f"Mails            {server.places.mail.folder}")
    print(f"Logs             {config.logging.directory}")
    print(f"All of it is in {folder}; delete it when you have seen enough.")


def stay(accounts: int, rate: float | None) -> None:
    """The sandbox, until Ctrl-C."""
    with _sandbox(accounts, rate) as (folder, server, desk, path):
        places = server.places
        names = {
            "ESGBATCH_CONFIG": path,
            "CONTROL": places.control_url,
            "DROP": places.sftp.folder,
            "MAILS": places.mail.folder,
            "PAGES": places.pager.events,
            "LOGS": folder / "logs",
            "DESK": desk.home,
        }
        print(
            f"The sandbox runs until Ctrl-C; everything it keeps is in {folder}.\n\n"
            "In another terminal, take over where everything is:\n"
            + "".join(f"  export {name}={shlex.quote(str(value))}\n" for name, value in names.items())
            + "\nRun the job, look at it:\n"
            "  esgbatch run\n"
            "  esgbatch status\n\n"
            "Switch a fault on, see what is in force, see what was counted:\n"
            '  curl -d \'{"outage": "503"}\' $CONTROL/faults\n'
            "  curl $CONTROL/faults\n"
            "  curl $CONTROL/stats\n\n"
            "A course of an hour with seven labs is in docs/training.md.",
            flush=True,
        )
        _wait_for_signal()


def _wait_for_signal() -> None:
    numbers = {signal.SIGINT, signal.SIGTERM}
    signal.pthread_sigmask(signal.SIG_BLOCK, numbers)
    signal.sigwait(numbers)


@contextmanager
def _sandbox(accounts: int, rate: float | None) -> Iterator[tuple[Path, RunningSandbox, demo.Recipient, Path]]:
    if shutil.which("gpg") is None:
        raise ConfigError("gpg is not installed.", advice="`apt-get install gnupg`, then try again")
    folder = Path(tempfile.mkdtemp(prefix="esgbatch-demo-"))
    few = max(1, accounts // 500)
    arguments = ["--accounts", str(accounts), "--root", str(folder / "firm"), "--ignore-status"]
    for kind in ("inactive", "duplicates", "refused", "odd-ids"):
        arguments += [f"--{kind}", str(min(few, 20))]
    try:
        with sandbox(*arguments) as server, demo.recipient(folder) as desk:
            yield folder, server, desk, demo.write_config(folder, server.places, desk, rate=rate)
    except SandboxFailed as error:
        raise ConfigError(
            f"The sandbox cannot be started: {error}.",
            advice="install it with the program: `pip install 'esgbatch[sandbox]'`",
        ) from None
