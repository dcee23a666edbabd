"""audit, decrypt: who did what to which file, and the file itself for those who may open it."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from esgbatch.cli import exits
from esgbatch.cli.options import AsJson, ConfigPath, OnlyDate

app = typer.Typer()
trail = typer.Typer(
    no_args_is_help=True, help="Show, verify, export the audit trail; read the SFTP server's log."
)
app.add_typer(trail, name="audit")

Since = Annotated[
    str | None,
    typer.Option("--since", metavar="TIME", help="From here on: YYYY-MM-DD in the job's zone, or RFC 3339."),
]
Until = Annotated[str | None, typer.Option("--until", metavar="TIME", help="Before this, likewise.")]
Force = Annotated[bool, typer.Option("--force", help="Overwrite an existing file.")]


@trail.command(epilog=exits.epilog((0, 1, 2, 10, 17, 19, 22), "shown"))
def show(
    date: OnlyDate = None,
    account: Annotated[
        str | None,
        typer.Option("--account", metavar="ID", help="All that is kept of this account: an access request."),
    ] = None,
    action: Annotated[str | None, typer.Option("--action", help="Only this action.")] = None,
    since: Since = None,
    until: Until = None,
    json: AsJson = False,
    config: ConfigPath = None,
) -> None:
    """Show records, oldest first, each checked before it is shown. Without --date: of every date."""
    from esgbatch.cli.actions import audit

    if account is None:
        audit.show(config, date, action, since, until, as_json=json)
    elif (date, action, since, until) == (None,) * 4:
        audit.show_account(config, account, as_json=json)
    else:
        raise typer.BadParameter("--account goes with --json only: it shows everything of that account")


@trail.command(epilog=exits.epilog((0, 1, 2, 10, 17, 19, 22), "every record is genuine and in its place"))
def verify(
    anchor: Annotated[
        list[str] | None,
        typer.Option(
            "--anchor", metavar="N:HASH", help="Compare with this, too: from a log, manifest or mail."
        ),
    ] = None,
    files: Annotated[
        bool, typer.Option("--files", help="Compare the archived files with the hashes in the trail, too.")
    ] = False,
    json: AsJson = False,
    config: ConfigPath = None,
) -> None:
    """Check every record, and the whole against every anchor that the job has kept."""
    from esgbatch.cli.actions import audit

    audit.verify(config, anchor or [], files=files, as_json=json)


@trail.command(epilog=exits.epilog((0, 1, 2, 10, 15, 17, 19, 22), "written"))
def export(
    output: Annotated[Path, typer.Option("--output", metavar="F", help="The zip file to write.")],
    date: OnlyDate = None,
    since: Since = None,
    until: Until = None,
    force: Force = False,
    config: ConfigPath = None,
) -> None:
    """Write a bundle that an auditor checks without us; VERIFY.txt in it says how."""
    from esgbatch.cli.actions import audit

    audit.export(config, output, date, since, until, force=force)


@trail.command(epilog=exits.epilog((0, 1, 2, 10, 11, 17, 19, 22), "every access that was new is in the trail"))
def ingest(
    files: Annotated[list[Path], typer.Argument(metavar="FILE...", help="Logs, also rotated and .gz.")],
    zone: Annotated[
        str | None,
        typer.Option("--zone", metavar="ZONE", help="Of times without a zone (default: this machine's)."),
    ] = None,
    config: ConfigPath = None,
) -> None:
    """Read the SFTP server's log: who else opened and read the delivered files, each once."""
    from esgbatch.cli.actions import audit

    audit.ingest(config, files, zone)


@app.command(epilog=exits.epilog((0, 1, 2, 10, 15, 17, 22), "opened, and all of it as its manifest says"))
def decrypt(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="An archived or delivered .csv.pgp file.")],
    output: Annotated[
        Path | None,
        typer.Option("--output", metavar="F", help="Write to F, or into that folder, instead of stdout."),
    ] = None,
    force: Force = False,
    key: Annotated[
        Path | None,
        typer.Option("--key", metavar="F", help="A secret key file, instead of your own keyring."),
    ] = None,
    passphrase_file: Annotated[
        Path | None,
        typer.Option("--passphrase-file", metavar="F", help="With --key: a private file (default: asked for)."),
    ] = None,
    config: ConfigPath = None,
) -> None:
    """Open a file for someone who holds its key, and leave an audit record.

    The key comes from your own keyring (GNUPGHOME, or ~/.gnupg), or from --key.
    """
    from esgbatch.cli.actions import decrypt

    if passphrase_file is not None and key is None:
        raise typer.BadParameter("--passphrase-file goes with --key")
    decrypt.open_file(config, file, output, force=force, key=key, passphrase_file=passphrase_file)
