"""init."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from esgbatch.cli import exits

app = typer.Typer()


@app.command(epilog=exits.epilog((0, 1, 2), "written"))
def init(
    path: Annotated[Path, typer.Argument(metavar="[PATH]", help="Where to write it.")] = Path("esgbatch.toml"),
    force: Annotated[bool, typer.Option("--force", help="Overwrite an existing file.")] = False,
) -> None:
    """Write a commented esgbatch.toml to fill in."""
    from importlib.resources import files

    from esgbatch.errors import WrongUsage
    from esgbatch.files import replacing

    template = (files("esgbatch.config") / "template.toml").read_bytes()
    if path.is_dir():
        path = path / "esgbatch.toml"
    if path.exists() and not force:
        raise WrongUsage(
            f"{path} is already there.", advice="choose another PATH, or overwrite it with --force"
        )
    try:
        with replacing(path, 0o640) as file:
            file.write(template)
    except OSError as error:
        raise WrongUsage(f"{path} cannot be written: {error.strerror}.", advice="choose another PATH") from None
    print(f"{path} is written. Fill in your servers, then: esgbatch doctor --config {path}")
