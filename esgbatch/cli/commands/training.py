"""demo and sandbox: the job on this machine, without any of the firm's servers."""

from __future__ import annotations

from typing import Annotated

import typer

from esgbatch.cli import exits

app = typer.Typer()

Accounts = Annotated[int, typer.Option(min=1, metavar="N", help="Active accounts of the firm.")]
Rate = Annotated[
    float | None,
    typer.Option(min=0.1, metavar="R", help="Requests a second (default: as fast as this machine can)."),
]


@app.command(epilog=exits.epilog(exits.NIGHT))
def demo(accounts: Accounts = 1000, rate: Rate = None) -> None:
    """Do the whole job on a local sandbox; nothing to configure.

    Account system, ESG API, login and SFTP server are started on this machine; the
    delivered file is decrypted at the end, for you to look at.
    """
    from esgbatch.cli.actions import sandbox

    sandbox.play(accounts, rate)


@app.command(epilog=exits.epilog((0, 1, 2, 10, 15), "ended by Ctrl-C"))
def sandbox(accounts: Accounts = 1000, rate: Rate = None) -> None:
    """Leave the sandbox running, for training.

    It says where its configuration is, and how faults are switched on and off.
    """
    from esgbatch.cli.actions import sandbox

    sandbox.stay(accounts, rate)
