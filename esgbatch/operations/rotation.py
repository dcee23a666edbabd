"""Bringing the checkpoint's next master key into use."""

from __future__ import annotations

from esgbatch.checkpoint.database import Database
from esgbatch.checkpoint.masterkey import Rotatable
from esgbatch.checkpoint.vault import rewrap
from esgbatch.ports import Audit


def rotate(database: Database, keys: Rotatable, audit: Audit) -> int:
    """Let the next master key wrap the key of every run, and retire the old one; returns how many it did.

    Safe at any time, also beside a run at work, and safe to be killed in: until the old key is
    retired both are at hand, and the next call finishes.

    Raises:
        ConfigError: a key that is still in use is not at hand; nothing was changed.
    """
    new = keys.successor()
    audit.append("key_rotation", key=new.id, before=[each for each in keys.known() if each != new.id])
    total = 0
    while True:
        with database.writing() as connection:
            count = rewrap(connection, keys.known(), new)
            if not count:
                # In this transaction, since nobody can begin a run with the old key meanwhile.
                keys.retire()
                break
        total += count
    # The old wraps lie in the log and on free pages: without them, a copy of the old key opens nothing.
    database.scrub()
    audit.append("key_rotated", key=new.id, runs=total)
    return total
