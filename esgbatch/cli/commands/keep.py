"""purge, erase, rotate-key: how long names and scores are kept, and how they are locked."""

from __future__ import annotations

from typing import Annotated

import typer

from esgbatch.cli import exits
from esgbatch.cli.options import Accounts, ConfigPath, read_accounts

app = typer.Typer()
DryRun = Annotated[bool, typer.Option("--dry-run", help="Only list what would go.")]


@app.command(epilog=exits.epilog((0, 1, 2, 10, 17, 19, 22, 130, 143), "what is too old is gone, or was listed"))
def purge(dry_run: DryRun = False, config: ConfigPath = None) -> None:
    """Remove what is older than [retention] says, except what a legal hold names.

    Archived files and their runs' history, logs and error files, and the names and scores in the
    checkpoint, by the age of their business date. It follows every delivered run by itself.
    """
    from esgbatch.cli.actions import upkeep

    upkeep.purge(config, dry_run=dry_run)


@app.command(epilog=exits.epilog((0, 1, 2, 10, 11, 17, 19, 22, 130, 143), "erased, or was listed"))
def erase(
    accounts: Accounts,
    reason: Annotated[
        str,
        typer.Option(metavar="TEXT", help="Why, without naming anybody: it is kept for good, in the audit."),
    ],
    dry_run: DryRun = False,
    config: ConfigPath = None,
) -> None:
    """Remove accounts from everything the job keeps, and certify it.

    Names, scores and IDs go from the checkpoint, IDs from log and error files. Archived files can
    only be opened by their recipients: they are listed with the date on which they are purged.
    """
    from esgbatch.cli.actions import upkeep

    if not reason.strip() or not reason.isprintable():
        raise typer.BadParameter("--reason must be printable text, on one line, and not empty")
    upkeep.erase(config, read_accounts(accounts), reason, dry_run=dry_run)


@app.command("rotate-key", epilog=exits.epilog((0, 1, 2, 10, 17, 19, 22), "the new key is in use"))
def rotate_key(config: ConfigPath = None) -> None:
    """Lock the checkpoint's names and scores with a new master key.

    The key file in the state folder is replaced by a new one. A key of your own is replaced by
    giving the new one as checkpoint.key and the old one as checkpoint.previous_key first; both may
    go on being used until this command was called. Nothing is rated, sent or made anew.
    """
    from esgbatch.cli.actions import upkeep

    upkeep.rotate(config)
