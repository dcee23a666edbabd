"""Whatever comes from outside: never a traceback, never a hang, never a silent wrong value.

Each test hands arbitrary input to the part that reads it, and says which endings are
allowed; any other exception is a failure. `scripts/fuzz` tries many more.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
import responses
import typer
from hypothesis import assume, example, given
from hypothesis import strategies as st

from esgbatch.accounts.csvfile import CsvAccounts
from esgbatch.cli.options import parse_time, read_accounts
from esgbatch.compliance.audit import AuditTrail
from esgbatch.compliance.sftplog import Place, harvest
from esgbatch.config.load import load
from esgbatch.config.model import Accounts, Config, Encryption
from esgbatch.delivery.hostkeys import PinnedKeys
from esgbatch.encryption.keys import load_recipients
from esgbatch.errors import AccountSystemError, AuditBroken, BatchError, ConfigError, EncryptionError
from esgbatch.http.links import next_link
from esgbatch.http.session import retry_after
from esgbatch.model import Listing
from esgbatch.ratings.mapping import BadRating, NotJson, RatingMapper
from tests.accounts import rest

URL = "https://accounts.example/v1/accounts"
TEMPLATE = Path("esgbatch/config/template.toml").read_text()
CONFIG = Config.model_validate(
    {
        "accounts": {"url": URL},
        "ratings": {"url": "https://esg.example/v1/accounts/{account_id}/esg"},
        "encryption": {"recipients": ["/key.asc"], "fingerprints": ["A" * 40]},
        "delivery": {
            "host": "sftp.example",
            "username": "esgbatch",
            "private_key": "/key",
            "known_hosts": "/known_hosts",
            "directory": "/drop",
        },
    }
)

scalars = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=12)
documents = st.recursive(
    scalars, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4)
)


@contextmanager
def may_be_refused(*errors: type[BatchError], naming: object = "") -> Iterator[None]:
    """These endings are right, if they say something, and which file it is about."""
    try:
        yield
    except errors as error:
        told = str(error)
    else:
        told = f"no trouble with {naming}"
    assert told
    assert str(naming) in told


def mangled(text: bytes) -> st.SearchStrategy[bytes]:
    """`text` with a piece cut out, and another put in."""
    place = st.integers(0, len(text))
    return st.builds(
        lambda first, second, piece: text[: min(first, second)] + piece + text[max(first, second) :],
        place,
        place,
        st.binary(max_size=8)
        | st.sampled_from([b"\x00", b"\xff", b"\r", b"\n", b'"', b"{", b"[", b"=", b"\x1b[2J"]),
    )


# --- the account system -------------------------------------------------------------------------

items = st.fixed_dictionaries(
    {}, optional={"accountId": scalars, "accountName": scalars, "status": scalars | st.just("active")}
)
pages = st.fixed_dictionaries(
    {}, optional={"accounts": st.lists(items | scalars, max_size=4) | scalars, "nextCursor": scalars}
)


@given(
    st.lists(pages | documents, min_size=1, max_size=3), st.sampled_from(["cursor", "offset", "page", "link"])
)
@example([{"accounts": [{"accountId": "\ud800", "accountName": "", "status": "active"}]}], "none")
def test_pages_of_any_shape(bodies: list[Any], paging: str) -> None:
    with responses.RequestsMock(assert_all_requests_are_fired=False) as server:
        for body in bodies:
            server.get(URL, body=json.dumps(body), content_type="application/json")
        server.get(URL, json={"accounts": []})
        _read(rest(URL, paging=paging, attempts=1).source.accounts())


@given(
    st.binary(max_size=200)
    | mangled(b'{"accounts": [{"accountId": "A", "accountName": "n", "status": "active"}]}')
)
def test_pages_of_any_bytes(body: bytes) -> None:
    with responses.RequestsMock() as server:
        server.get(URL, body=body)
        _read(rest(URL, paging="none", attempts=1).source.accounts())


@given(
    st.binary(max_size=200)
    | mangled(b'accountId,accountName,status\r\nA-1,"Smith, ""J""",active\r\nA-2,x,closed\r\n')
)
def test_csv_files(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "accounts.csv"
    path.write_bytes(content)
    _read(CsvAccounts(Accounts(source="csv", path=path)).accounts())


def _read(listings: Any) -> None:
    with may_be_refused(AccountSystemError):
        for listing in listings:
            assert isinstance(listing, Listing)
            assert listing.account_id is None or isinstance(listing.account_id, str)


@given(
    st.text(max_size=120)
    | mangled(b'<https://a.example/2>; rel="next", </1>; rel=prev').map(lambda b: b.decode("latin-1"))
)
def test_link_headers(header: str) -> None:
    found = next_link(header)
    assert found is None or found in header


# --- the ESG API --------------------------------------------------------------------------------

MAPPER = RatingMapper(CONFIG.ratings.scores, (Decimal(0), Decimal(100)))
numbers = st.decimals(allow_nan=False, allow_infinity=False, min_value=-200, max_value=300, places=4)
PILLARS = ("environmental", "social", "governance", "overall")
scores = st.fixed_dictionaries(dict.fromkeys(PILLARS, numbers | scalars))


@given(scores)
def test_scores_are_right_or_refused(given_scores: dict[str, Any]) -> None:
    body = json.dumps({"scores": given_scores}, default=str).encode()
    exact = [_exact(given_scores[name]) for name in PILLARS]
    try:
        found = MAPPER.map(body)
    except BadRating:
        assert None in exact
        return
    assert list(found) == exact


def _exact(value: object) -> Decimal | None:
    """By the interface's words: decimal, half up to two places, then 0 to 100."""
    if isinstance(value, bool) or not isinstance(value, int | float | Decimal | str):
        return None
    text = value if isinstance(value, str) else str(value) if isinstance(value, Decimal) else json.dumps(value)
    if not re.fullmatch(r"-?(0|[1-9][0-9]*)(\.[0-9]+)?([eE][+-]?[0-9]+)?", text):
        return None
    number = Decimal(text)
    if abs(number) > 1000:
        return None
    doubled = math.floor(abs(number) * 100 + Decimal("0.5"))
    rounded = Decimal(doubled).scaleb(-2) * (-1 if number < 0 and doubled else 1)
    return rounded if 0 <= rounded <= 100 else None


@given(
    st.binary(max_size=200)
    | mangled(b'{"scores": {"environmental": 71.235, "social": 1, "governance": 2, "overall": 3}}')
)
def test_bodies_of_any_bytes(body: bytes) -> None:
    try:
        found = MAPPER.map(body)
    except (NotJson, BadRating):
        return
    assert all(0 <= score <= 100 for score in found)


@given(
    st.text(max_size=40)
    | st.integers(min_value=-(10**400), max_value=10**400).map(str)
    | mangled(b"Tue, 24 Nov 2026 11:00:05 GMT").map(lambda b: b.decode("latin-1")),
    st.none() | mangled(b"Tue, 24 Nov 2026 11:00:00 GMT").map(lambda b: b.decode("latin-1")),
)
def test_retry_after_is_a_time_or_nothing(value: str, sent: str | None) -> None:
    wait = retry_after({"Retry-After": value} | ({} if sent is None else {"Date": sent}), 1_795_000_000.0)
    assert wait is None or wait >= 0


# --- what an operator writes --------------------------------------------------------------------


@given(mangled(TEMPLATE.encode()) | st.binary(max_size=200))
def test_configuration_files(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "esgbatch.toml"
    path.write_bytes(content)
    with may_be_refused(ConfigError, naming=path):
        load(path, {})


sections = st.sampled_from(["RATINGS", "JOB", "ALERTS", "ALERTS__EMAIL", "CSV", "X"])
keys = st.sampled_from(["RATE_LIMIT", "DEADLINE", "SCORES", "AUTH", "PASSWORD", "TIMEOUT__READ"])
overrides = st.builds("{}__{}".format, sections, keys) | st.text(alphabet="ABC_", max_size=9)


@given(st.dictionaries(overrides, st.text(max_size=20), max_size=4))
def test_overrides_by_the_environment(tmp_path: Path, variables: dict[str, str]) -> None:
    path = tmp_path / "esgbatch.toml"
    path.write_text(TEMPLATE)
    with may_be_refused(ConfigError, naming=path):
        load(path, {f"ESGBATCH_{name}": value for name, value in variables.items()})


@given(st.binary(max_size=120) | mangled(b"A-1\r\nA-2\n\xc3\xbc\n"))
def test_lists_of_ids(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "ids"
    path.write_bytes(content)
    try:
        ids = read_accounts(f"@{path}")
    except typer.BadParameter:
        return
    assert ids
    assert all(ids)
    assert len(set(ids)) == len(ids)


@given(st.text(max_size=12) | mangled(b"05:00").map(lambda b: b.decode("latin-1")))
def test_times(text: str) -> None:
    try:
        found = parse_time(text)
    except typer.BadParameter:
        return
    assert text == f"{found:%H:%M}"


# --- files beside the job -----------------------------------------------------------------------

HOST_KEY = b"sftp.example ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIHjhmWQbU5mWAvxJ0v9wH0yZQ9hGkDQzYjH3NxgA7Qxk\n"


@given(mangled(HOST_KEY) | st.binary(max_size=100))
def test_known_hosts_files(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "known_hosts"
    path.write_bytes(content)
    config = CONFIG.delivery.model_copy(update={"known_hosts": path})
    with may_be_refused(ConfigError, naming=path):
        PinnedKeys.load(config)


@given(st.data())
def test_the_audit_trail_is_whole_or_broken(tmp_path: Path, data: st.DataObject) -> None:
    path = tmp_path / "audit.jsonl"
    path.unlink(missing_ok=True)
    trail = AuditTrail(path, b"k" * 32)
    for number in range(3):
        anchor = trail.append("sealed", number=number)
    whole = path.read_bytes()
    damaged = data.draw(mangled(whole))
    # A last line without its end is what a crash leaves: nothing that was committed is missing.
    assume(not damaged.startswith(whole) or b"\n" in damaged[len(whole) :])
    path.write_bytes(damaged)
    with pytest.raises(AuditBroken):
        trail.verify(anchor)


@pytest.fixture(scope="module")
def public_key(tmp_path_factory: pytest.TempPathFactory) -> tuple[bytes, str]:
    from esgbatch.operations.demo import recipient

    with recipient(tmp_path_factory.mktemp("key")) as desk:
        return desk.public_key.read_bytes(), desk.fingerprint


@given(st.data())
def test_key_files(tmp_path: Path, public_key: tuple[bytes, str], data: st.DataObject) -> None:
    content, fingerprint = public_key
    path = tmp_path / "key.asc"
    path.write_bytes(data.draw(mangled(content) | st.binary(max_size=200)))
    with may_be_refused(ConfigError, EncryptionError):
        pinned = Encryption(recipients=[path], fingerprints=[fingerprint])
        found = load_recipients(pinned, tmp_path / "home", 1_795_000_000.0)
        assert [key.fingerprint for key in found] == [fingerprint]


# --- the SFTP server's log ----------------------------------------------------------------------

SAID = (
    "session opened for local user eve from [192.0.2.7]",
    'open "/drop/FirmESGRatings_20261123.csv.pgp" flags READ mode 0666',
    'close "/drop/FirmESGRatings_20261123.csv.pgp" bytes read 4711 written 0',
    "session closed for local user eve from [192.0.2.7]",
)
HEADERS = ("Nov 24 10:00:00 h internal-sftp[12]: ", "2026-11-24T10:00:00+00:00 h sftp-server[12]: ", "")
LOGS = ["".join(f"{header}{each}\n" for each in SAID).encode() for header in HEADERS]


@given(st.sampled_from(LOGS).flatmap(mangled) | st.binary(max_size=300), st.sampled_from(LOGS).flatmap(mangled))
def test_sftp_logs_of_any_shape(tmp_path: Path, first: bytes, second: bytes) -> None:
    paths = [tmp_path / "auth.log", tmp_path / "auth.log.1"]
    for path, content in zip(paths, (first, second), strict=True):
        path.write_bytes(content)
    now = datetime(2026, 11, 24, 20, tzinfo=UTC)
    found = harvest(paths, Place("/drop", "esgbatch", lambda at: False), zone=UTC, now=now)
    for access in found.accesses:
        assert re.fullmatch(r"FirmESGRatings_\d{8}\.(csv\.pgp|manifest\.json)", access.file)
        assert access.at is None or access.at < datetime(2026, 11, 26, tzinfo=UTC)
    assert len({access.event for access in found.accesses}) == len(found.accesses)
