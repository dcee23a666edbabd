"""What a run would rate."""

from __future__ import annotations

from esgbatch.errors import AccountSystemError
from esgbatch.model import Census
from esgbatch.ports import AccountSource


def census(source: AccountSource, limit: int | None) -> Census:
    """Count the list as a run would, in memory and without writing anything.

    Raises:
        AccountSystemError: as for a run.
    """
    listed = inactive = duplicate = refused = 0
    seen: set[str] = set()
    for listing in source.accounts():
        listed += 1
        if listing.account_id is None:
            refused += 1
        elif not listing.active:
            inactive += 1
        elif listing.account_id in seen:
            duplicate += 1
        else:
            seen.add(listing.account_id)
            if limit is not None and len(seen) >= limit:
                break
    if not seen:
        raise AccountSystemError(f"The account system listed {listed} rows, none of them an active account.")
    return Census(listed, inactive, duplicate, refused)
