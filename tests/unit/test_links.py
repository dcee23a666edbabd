"""The Link header, by RFC 8288's own examples and what servers make of them."""

from __future__ import annotations

import pytest

from esgbatch.http.links import next_link


@pytest.mark.parametrize(
    ("header", "expected"),
    [
        ('<https://h/a?cursor=x>; rel="next"', "https://h/a?cursor=x"),
        ("</a?page=2>;rel=next", "/a?page=2"),
        ('<?page=1>; rel="prev", <?page=3>; rel="next"', "?page=3"),
        ('<https://h/a;v=1?x=1,2;y=3>; REL="Next"', "https://h/a;v=1?x=1,2;y=3"),
        ('<a>; title="one, <b>; rel=next; \\"x\\"", <c>; rel="last next"', "c"),
        ('<a>; rel="prev"; rel="next", <b>; rel=next', "b"),
        ('<a>; rel="next"; anchor="#part"', None),
        ('<a>; rel="nextish"', None),
        ("<a>", None),
        ("rel=next", None),
        ("<a; rel=next", None),
        ("", None),
    ],
)
def test_the_next_link_is_found(header: str, expected: str | None) -> None:
    assert next_link(header) == expected


def test_a_hostile_header_takes_no_time() -> None:
    for header in ("<" * 50_000, "<a>" + ';rel="' * 20_000, '<a>;"' + '\\"' * 30_000, "<a>;" + " " * 50_000):
        assert next_link(header) is None
