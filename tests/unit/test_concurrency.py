"""Where the search for the number of requests in flight begins."""

from __future__ import annotations

import pytest

from esgbatch.fetching.concurrency import AutoConcurrency


@pytest.mark.parametrize(
    ("limit", "maximum", "start"),
    [(0.5, 256, 8), (50, 256, 8), (500, 256, 13), (2000, 256, 32), (100_000, 256, 32), (500, 4, 4)],
)
def test_a_large_quota_begins_with_what_a_fast_api_needs(limit: float, maximum: int, start: int) -> None:
    assert AutoConcurrency(maximum, limit).value == start
