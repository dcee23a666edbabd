"""init, doctor: before the first night, and before any other."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from esgbatch.cli import exits
from esgbatch.cli.options import AsJson, ConfigPath

app = typer.Typer()


@app.command(epilog=exits.epilog((0, 1, 2), "written"))
def init(
    path: Annotated[Path, typer.Argument(metavar="[PATH]", help="Where to write it.")] = Path("esgbatch.toml"),
    force: Annotated[bool, typer.Option("--force", help="Overwrite an existing file.")] = False,
) -> None:
    """Write a commented esgbatch.toml to fill in; on a terminal, it asks for the five things it needs first."""
    from esgbatch.cli.actions.init import write

    write(path, force=force)


@app.command(epilog=exits.epilog((0, 1, 2, 10, 16, 20, 130, 143), "no check failed; there may be warnings"))
def doctor(
    json: AsJson = False,
    trust_host: Annotated[
        bool,
        typer.Option("--trust-host", help="Only show the SFTP server's key, and ask whether to trust it."),
    ] = False,
    config: ConfigPath = None,
) -> None:
    """Check everything tomorrow's run needs, a line a check: ok, warn or FAIL, and what to do.

    It is safe at any time, also while a run is going on, and leaves nothing behind.
    It ends with 10 and 16 only where --trust-host cannot write, or gets no key or a wrong one.
    """
    from esgbatch.cli.actions import doctor
    from esgbatch.errors import WrongUsage

    if trust_host and json:
        raise WrongUsage("--trust-host has no --json.")
    if trust_host:
        doctor.trust_host(config)
    else:
        doctor.check(config, as_json=json)
