"""The work behind rotate-key."""

from __future__ import annotations

from contextlib import closing
from pathlib import Path

from esgbatch.cli.context import read_config
from esgbatch.operations import rotation
from esgbatch.wiring import master_keys, open_audit, open_checkpoint, open_state


def rotate(config_path: Path | None) -> None:
    config = read_config(config_path)
    audit = open_audit(open_state(config))
    with closing(open_checkpoint(config, create=False)) as database:
        count = rotation.rotate(database, master_keys(config), audit)
    runs = f"names and scores of {count} run(s)" if count else "nothing was locked with another one"
    print(f"The new key is in use: {runs}.")
    if config.checkpoint.previous_key is not None:
        print("checkpoint.previous_key is not needed any more.")
