"""What the tests of the ESG API's client stand on."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.sockets.provider import WAYS, ways


@pytest.fixture(params=WAYS)
def way(request: pytest.FixtureRequest) -> Iterator[str]:
    """Each way to the ESG API, by which `provider` opens its clients."""
    with ways.going(request.param):
        yield request.param
