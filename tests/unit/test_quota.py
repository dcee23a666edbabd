"""What is left of the API's quota, as headers say it."""

from __future__ import annotations

import pytest

from esgbatch.model import Quota
from esgbatch.ratings.quota import read_quota

NOW = 1_795_500_000.0


@pytest.mark.parametrize(
    ("lines", "quota"),
    [
        ([b'RateLimit: "default";r=50;t=30'], Quota(50, 30)),
        ([b'ratelimit: "minute";r=50;t=30, "day"; r=10 ;t=3600'], Quota(10, 3600)),
        ([b"RateLimit-Limit: 100", b"RateLimit-Remaining: 5", b"RateLimit-Reset: 20"], Quota(5, 20)),
        ([b"X-RateLimit-Remaining: 0", b"X-RateLimit-Reset: 1795500060"], Quota(0, 60)),
        ([b"X-RateLimit-Remaining: 7", b"X-RateLimit-Reset: 12.5"], Quota(7, 12.5)),
        (
            [b'RateLimit: "default";r=900;t=30', b"X-RateLimit-Remaining: 7", b"X-RateLimit-Reset: 60"],
            Quota(7, 60),
        ),
        ([b"HTTP/1.1 200 OK", b"Content-Type: application/json", b""], None),
        ([b'RateLimit: "default";r=50'], None),
        ([b'RateLimit-Policy: "default";q=100;w=60'], None),
        ([b"X-RateLimit-Remaining: many", b"X-RateLimit-Reset: 60"], None),
        ([b"X-RateLimit-Remaining: -1", b"X-RateLimit-Reset: 60"], None),
        ([b"X-RateLimit-Remaining: 5", b"X-RateLimit-Reset: 1795499990"], None),
        ([b"X-RateLimit-Remaining: 5", b"X-RateLimit-Reset: 0"], None),
        ([b"X-RateLimit-Remaining: 5", b"X-RateLimit-Reset: 1795999999"], None),
        ([b"X-RateLimit-Remaining: \xff", b"\xff\xfe: 3", b": 5"], None),
    ],
)
def test_every_way_of_saying_it(lines: list[bytes], quota: Quota | None) -> None:
    assert read_quota([line + b"\r\n" for line in lines], NOW) == quota
