"""rotate-key: what is kept, and how it is locked."""

from __future__ import annotations

import typer

from esgbatch.cli import exits
from esgbatch.cli.options import ConfigPath

app = typer.Typer()


@app.command("rotate-key", epilog=exits.epilog((0, 1, 2, 10, 17, 19, 22), "the new key is in use"))
def rotate_key(config: ConfigPath = None) -> None:
    """Lock the checkpoint's names and scores with a new master key.

    The key file in the state folder is replaced by a new one. A key of your own is replaced by
    giving the new one as checkpoint.key and the old one as checkpoint.previous_key first; both may
    go on being used until this command was called. Nothing is rated, sent or made anew.
    """
    from esgbatch.cli.keeping import rotate

    rotate(config)
