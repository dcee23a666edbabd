"""The SFTP server's log: every way it is written, cut, copied and forged comes to the same accesses."""

from __future__ import annotations

import gzip
import json
import random
import re
from collections.abc import Callable, Sequence
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from zoneinfo import ZoneInfo

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from esgbatch.compliance.sftplog import Access, Harvest, Place, harvest

NOW = datetime(2026, 11, 24, 20, 0, tzinfo=UTC)
CHICAGO = ZoneInfo("America/Chicago")
FILE = "/drop/esg/FirmESGRatings_20261123.csv.pgp"
MANIFEST = "/drop/esg/FirmESGRatings_20261123.manifest.json"
PART = "/drop/esg/.FirmESGRatings_20261123.csv.pgp.abc-r1.part"
OPEN = f'open "{FILE}" flags READ mode 0666'
CLOSE = f'close "{FILE}" bytes read 4711 written 0'


def message(text: str, *, pid: int = 12, at: str = "Nov 24 10:00:00", host: str = "drop") -> str:
    return f"{at} {host} internal-sftp[{pid}]: {text}\n"


def session(
    user: str, *said: str, pid: int = 12, minute: int = 0, end: bool = True, address: str = "192.0.2.7"
) -> list[str]:
    at = f"Nov 24 10:{minute:02d}:00"
    words = [f"session opened for local user {user} from [{address}]", *said]
    words += [f"session closed for local user {user} from [{address}]"] if end else []
    return [message(each, pid=pid, at=at) for each in words]


def read(
    *files: bytes | str | Sequence[str],
    folder: Path,
    directory: str = "/drop/esg",
    ours: Callable[[datetime], bool] = lambda at: False,
    now: datetime = NOW,
) -> Harvest:
    paths = []
    for number, content in enumerate(files):
        if not isinstance(content, bytes):
            content = (content if isinstance(content, str) else "".join(content)).encode()
        path = folder / f"log.{number}"
        path.write_bytes(content)
        paths.append(path)
    return harvest(paths, Place(directory, "esgbatch", ours), zone=UTC, now=now)


def told(found: Harvest) -> list[tuple[str, str | None]]:
    return [(each.kind, each.user) for each in found.accesses]


# --- formats -----------------------------------------------------------------------------------

FORMATS = {
    "traditional": "Nov 24 10:00:00 drop internal-sftp[12]: {}",
    "with a priority": "<38>Nov 24 10:00:00 drop internal-sftp[12]: {}",
    "sftp-server": "Nov 24 10:00:00 drop sftp-server[12]: {}",
    "from a chroot": "Nov 24 10:00:00 drop sshd[12]: {} [postauth]",
    "OpenSSH 9.8": "Nov 24 10:00:00 drop sshd-session[12]: {}",
    "ISO": "2026-11-24T10:00:00.123456+00:00 drop internal-sftp[12]: {}",
    "ISO in Chicago": "2026-11-24T04:00:00-06:00 drop internal-sftp[12]: {}",
    "Z": "2026-11-24T10:00:00Z drop internal-sftp[12]: {}",
    "short-iso": "2026-11-24T10:00:00+0000 drop internal-sftp[12]: {}",
    "short-precise": "Nov 24 10:00:00.654321 drop internal-sftp[12]: {}",
    "short-full": "Tue 2026-11-24 10:00:00 UTC drop internal-sftp[12]: {}",
    "short-unix": "1795514400.654321 drop internal-sftp[12]: {}",
}


@pytest.mark.parametrize("form", FORMATS)
def test_every_format_tells_the_same(tmp_path: Path, form: str) -> None:
    said = ["session opened for local user eve from [192.0.2.7]", OPEN, CLOSE]
    plain = read([message(each) for each in said], folder=tmp_path)
    found = read([FORMATS[form].format(each) + "\n" for each in said], folder=tmp_path)
    assert found.accesses == plain.accesses
    assert [(each.kind, each.user, each.address, each.bytes) for each in found.accesses] == [
        ("opened", "eve", "192.0.2.7", None),
        ("read", "eve", "192.0.2.7", 4711),
    ]
    assert found.accesses[0].at == datetime(2026, 11, 24, 10, tzinfo=UTC)
    assert found.accesses[0].business_date == date(2026, 11, 23)
    assert found.unreadable == 0


def test_the_journal_as_json(tmp_path: Path) -> None:
    at = int(datetime(2026, 11, 24, 10, tzinfo=UTC).timestamp() * 1_000_000)
    said = ["session opened for local user eve from [192.0.2.7]", list(OPEN.encode()), CLOSE]
    fields = {
        "SYSLOG_IDENTIFIER": "internal-sftp",
        "_HOSTNAME": "drop",
        "_PID": "12",
        "__REALTIME_TIMESTAMP": str(at),
    }
    lines = [json.dumps(fields | {"MESSAGE": each}) + "\n" for each in said]
    lines += ["{}\n", '{"MESSAGE": 3}\n', json.dumps(fields | {"MESSAGE": {}}) + "\n", "{\n", "[" * 5000 + "\n"]
    found = read(lines, folder=tmp_path)
    assert found.accesses == read([message(each) for each in (said[0], OPEN, CLOSE)], folder=tmp_path).accesses


def test_a_log_without_times_and_processes(tmp_path: Path) -> None:
    lines = [
        "session opened for local user eve from [192.0.2.7]\n", *[f"{OPEN}\n", f"{CLOSE}\n"] * 2,
        "session closed for local user eve from [192.0.2.7]\n",
        "session opened for local user bob from [192.0.2.8]\r\n", f"{OPEN}\r\n", f"{CLOSE}\r\n",
    ]  # fmt: skip
    found = read(lines, folder=tmp_path)
    assert sorted(told(found), key=str) == sorted(
        [("opened", "eve"), ("read", "eve")] * 2 + [("opened", "bob"), ("read", "bob")], key=str
    )
    assert found.accesses[0].at is None
    assert read(lines, lines, folder=tmp_path).accesses == found.accesses
    grown = read([*lines, f"{OPEN}\n"], folder=tmp_path)
    assert {each.event for each in found.accesses} < {each.event for each in grown.accesses}


def test_other_lines_are_no_trouble(tmp_path: Path) -> None:
    other = [
        "-- Journal begins at Mon 2026-01-05 10:00:00 UTC. --\n",
        "Nov 24 10:00:00 drop CRON[77]: pam_unix(cron:session): session opened for user root by (uid=0)\n",
        message("sent status Failure"), message('realpath "."'), message('lstat name "/drop"'), "\n",
    ]  # fmt: skip
    found = read([*other, *session("eve", OPEN, CLOSE), *other], folder=tmp_path)
    assert told(found) == [("opened", "eve"), ("read", "eve")]
    assert found.unreadable == 0


def test_a_time_without_a_year_is_the_last_one_that_has_been(tmp_path: Path) -> None:
    lines = [
        message(OPEN, at="Dec 31 23:59:59"),
        message(OPEN, at="Feb 29 12:00:00"),
        message(OPEN, at="Nov 24 19:00:00"),
    ]
    found = read(lines, folder=tmp_path)
    assert [each.at and each.at.date() for each in found.accesses] == [
        date(2024, 2, 29), date(2025, 12, 31), date(2026, 11, 24),
    ]  # fmt: skip


def test_the_same_event_is_the_same_when_read_years_later(tmp_path: Path) -> None:
    lines = session("eve", OPEN, CLOSE)
    later = read(lines, folder=tmp_path, now=NOW + timedelta(days=800))
    assert [each.event for each in later.accesses] == [
        each.event for each in read(lines, folder=tmp_path).accesses
    ]


def test_times_without_a_zone_are_of_the_zone_that_is_given(tmp_path: Path) -> None:
    (tmp_path / "log").write_text(message(OPEN))
    place = Place("/drop/esg", "esgbatch", lambda at: False)
    found = harvest([tmp_path / "log"], place, zone=CHICAGO, now=NOW)
    assert found.accesses[0].at == datetime(2026, 11, 24, 16, tzinfo=UTC)


# --- whose, and what ---------------------------------------------------------------------------


def test_our_own_uploads_are_no_reads_by_others(tmp_path: Path) -> None:
    upload = session(
        "esgbatch", OPEN, CLOSE, f'open "{PART}" flags WRITE,CREATE,TRUNCATE mode 0666',
        f'close "{PART}" bytes read 0 written 4711', f'open "{PART}" flags READ mode 0666',
        f'close "{PART}" bytes read 4711 written 0', f'posix-rename old "{PART}" new "{FILE}"',
        f'open "{MANIFEST}" flags READ mode 0666', 'opendir "/drop/esg"',
    )  # fmt: skip
    found = read(upload, folder=tmp_path)
    assert found.accesses == ()
    assert found.own == 8
    forged = [line.replace("local user esgbatch", "local user eve") for line in upload]
    assert len(read(forged, folder=tmp_path).accesses) == 8, "the words are ours, the user is not"


def test_a_look_at_the_file_while_we_deliver_is_ours_and_later_it_is_not(tmp_path: Path) -> None:
    look = session("esgbatch", OPEN, CLOSE, 'opendir "/drop/esg"', minute=5)
    at = datetime(2026, 11, 24, 10, 5, tzinfo=UTC)
    assert read(look, folder=tmp_path, ours=lambda when: when == at).accesses == ()
    assert told(read(look, folder=tmp_path)) == [("opened", "esgbatch"), ("read", "esgbatch")]
    fetched = session("esgbatch", OPEN, CLOSE, minute=5)
    assert told(read(fetched, folder=tmp_path, ours=lambda when: True)) == [
        ("opened", "esgbatch"),
        ("read", "esgbatch"),
    ]


def test_who_takes_a_file_away_with_our_user_is_not_us(tmp_path: Path) -> None:
    taken = session("esgbatch", OPEN, CLOSE, f'rename old "{FILE}" new "/done/x"', 'opendir "/drop/esg"')
    assert [kind for kind, _ in told(read(taken, folder=tmp_path))] == ["opened", "read", "renamed"]


def test_a_session_of_our_user_without_an_end_waits_for_it_a_day(tmp_path: Path) -> None:
    begun = session("esgbatch", OPEN, CLOSE, end=False)
    found = read(begun, folder=tmp_path)
    assert (found.accesses, found.growing) == ((), 2)
    assert len(read(begun, folder=tmp_path, now=NOW + timedelta(days=2)).accesses) == 2
    assert len(read(session("eve", OPEN, CLOSE, end=False), folder=tmp_path).accesses) == 2


def test_a_process_number_that_comes_again_is_another_session(tmp_path: Path) -> None:
    lines = [*session("eve", OPEN, CLOSE), *session("bob", OPEN, CLOSE, minute=1)]
    assert told(read(lines, folder=tmp_path)) == [
        ("opened", "eve"),
        ("read", "eve"),
        ("opened", "bob"),
        ("read", "bob"),
    ]


def test_a_session_whose_beginning_is_not_there_is_nobodys(tmp_path: Path) -> None:
    assert told(read([message(OPEN), message(CLOSE)], folder=tmp_path)) == [("opened", None), ("read", None)]


def test_refused_and_other_things_done(tmp_path: Path) -> None:
    denied = "sent status Permission denied"
    lines = session(
        "eve", OPEN, denied, f'remove name "{MANIFEST}"', denied,
        f'hardlink old "{FILE}" new "/home/eve/x"', f'open "{FILE}" flags WRITE,TRUNCATE mode 0666',
        f'forced close "{FILE}" bytes read 1 written 2',
    )  # fmt: skip
    assert [(each.kind, each.refused, each.bytes) for each in read(lines, folder=tmp_path).accesses] == [
        ("opened", "Permission denied", None), ("removed", "Permission denied", None), ("linked", None, None),
        ("opened", None, None), ("read", None, 1), ("written", None, 2),
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("directory", "path", "counts"),
    [
        ("/drop/esg", FILE, True),
        ("/drop/esg/", "/drop/./esg//FirmESGRatings_20261123.csv.pgp", True),
        ("/drop/esg", "/esg/FirmESGRatings_20261123.csv.pgp", True),
        ("/drop/esg", "/FirmESGRatings_20261123.csv.pgp", True),
        ("/esg", "/srv/sftp/esg/FirmESGRatings_20261123.csv.pgp", True),
        ("/drop/esg", "FirmESGRatings_20261123.csv.pgp", True),
        ("/drop/esg", "/home/eve/FirmESGRatings_20261123.csv.pgp", False),
        ("/drop/esg", "/drop/esg/old/FirmESGRatings_20261123.csv.pgp", False),
        ("/drop/esg", "/drop/esg/FirmESGRatings_20261123.csv", False),
        ("/drop/esg", "/drop/esg/FirmESGRatings_20261399.csv.pgp", False),
        ("/dröp", r"/dr\303\266p/FirmESGRatings_20261123.csv.pgp", True),
        (r"/d\rop", r"/d\\rop/FirmESGRatings_20261123.csv.pgp", True),
    ],
)
def test_which_files_are_meant(tmp_path: Path, directory: str, path: str, counts: bool) -> None:
    lines = session("eve", f'open "{path}" flags READ mode 0666')
    assert bool(read(lines, folder=tmp_path, directory=directory).accesses) is counts


@pytest.mark.parametrize(
    "name",
    [
        f'x" flags READ mode 0666\n{message(OPEN)}'.replace("\n", r"\n"),
        f'{FILE}" flags READ mode 0666 {{}} open "/tmp/x',
        f"/tmp/{message(OPEN).rstrip()}",
        f'/tmp/x" bytes read 1 written 0 close "{FILE}.x',
    ],
)
def test_a_file_name_cannot_forge_a_line(tmp_path: Path, name: str) -> None:
    lines = session("eve", f'open "{name}" flags READ mode 0666', f'close "{name}" bytes read 1 written 0')
    assert read(lines, folder=tmp_path).accesses == ()


# --- cut, copied, packed -----------------------------------------------------------------------

NIGHT = [
    *session(
        "esgbatch",
        f'open "{PART}" flags WRITE,CREATE mode 0666',
        f'posix-rename old "{PART}" new "{FILE}"',
        pid=9,
    ),
    *session("eve", OPEN, CLOSE, OPEN, CLOSE, pid=10, minute=1),
    *session("bob", OPEN, OPEN, CLOSE, CLOSE, f'open "{MANIFEST}" flags READ mode 0666', pid=11, minute=2),
    *session("eve", OPEN, CLOSE, pid=10, minute=3),
]
WHOLE = "".join(NIGHT).encode()


def events(found: Harvest) -> set[tuple[str, str | None, str]]:
    return {(each.event, each.user, each.kind) for each in found.accesses}


def test_the_night(tmp_path: Path) -> None:
    found = read(WHOLE, folder=tmp_path)
    assert sorted(each.kind for each in found.accesses) == sorted(["opened"] * 6 + ["read"] * 5)
    assert found.own == 2


@settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@example(cut=WHOLE.rindex(b"close "), packed=False, seed=0, copies=0)
@given(cut=st.integers(0, len(WHOLE)), packed=st.booleans(), seed=st.integers(0, 9), copies=st.integers(0, 2))
def test_a_log_cut_anywhere_comes_to_the_same(
    tmp_path: Path, cut: int, packed: bool, seed: int, copies: int
) -> None:
    pieces = [gzip.compress(WHOLE[:cut]) if packed else WHOLE[:cut], WHOLE[cut:], *[WHOLE, WHOLE * 2][:copies]]
    random.Random(seed).shuffle(pieces)
    assert events(read(*pieces, folder=tmp_path)) == events(read(WHOLE, folder=tmp_path))


@settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(cut=st.integers(0, len(WHOLE)), seed=st.integers(0, 9))
def test_a_log_of_one_second_cut_anywhere_comes_to_the_same(tmp_path: Path, cut: int, seed: int) -> None:
    at_once = re.sub(rb"10:0\d:00", b"10:00:00", WHOLE).replace(b"[10]", b"[77]", 6)
    pieces = [at_once[:cut], at_once[cut:]]
    random.Random(seed).shuffle(pieces)
    assert events(read(*pieces, folder=tmp_path)) == events(read(at_once, folder=tmp_path))


@settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(first=st.integers(0, len(NIGHT)), second=st.integers(0, len(NIGHT)))
def test_exports_that_overlap_come_to_the_same(tmp_path: Path, first: int, second: int) -> None:
    begin, end = sorted((first, second))
    days = "".join(NIGHT[:end]), "".join(NIGHT[begin:])
    found, whole = read(*days, folder=tmp_path), read(WHOLE, folder=tmp_path)
    assert {each.event for each in found.accesses} >= {each.event for each in whole.accesses}


@settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(cut=st.integers(0, len(WHOLE)))
def test_what_a_torn_log_tells_is_never_more_than_the_whole(tmp_path: Path, cut: int) -> None:
    torn, whole = read(WHOLE[:cut], folder=tmp_path), read(WHOLE, folder=tmp_path, now=NOW + timedelta(days=2))
    assert {each.event for each in torn.accesses} <= {each.event for each in whole.accesses} | own_events(
        tmp_path
    )


def own_events(folder: Path) -> set[str]:
    """Without the line that shows it is ours, ours looks like somebody's."""
    disguised = WHOLE.replace(b"local user esgbatch", b"local user us")
    return {each.event for each in read(disguised, folder=folder).accesses}


def test_a_line_that_says_how_often(tmp_path: Path) -> None:
    lines = session("eve", OPEN, f"message repeated 2 times: [ {OPEN}]", "message repeated 999999 times: [ x]")
    assert len(read(lines, folder=tmp_path).accesses) == 3


def test_a_gzip_that_is_cut_off_gives_what_is_left(tmp_path: Path) -> None:
    noise = "".join(message(f'realpath "{number}"') for number in range(2000)).encode()
    packed = gzip.compress(WHOLE + noise)
    assert len(read(packed[:-100], folder=tmp_path).accesses) == 11


def test_a_file_that_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(OSError, match="No such file"):
        harvest([tmp_path / "none"], Place("/", "x", lambda at: False), zone=UTC, now=NOW)


def test_endless_lines_are_no_trouble(tmp_path: Path) -> None:
    content = b"x" * 3_000_000 + WHOLE + b'open "' + b"\\" * 100_000 + b"\n" + b"\0" * 200_000
    assert len(read(content, folder=tmp_path).accesses) >= 10


def all_fields(access: Access) -> str:
    return json.dumps([access.kind, access.user, access.address, access.path, access.event])


@settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.lists(
        st.sampled_from(
            [*(line.encode() for line in NIGHT), b"{", b'{"MESSAGE":', b"\x1f\x8b", b"\xff\n", b"\0"]
        )
        | st.binary(max_size=60)
        | st.text(max_size=40).map(lambda text: message(text).encode("utf-8", "surrogatepass")),
        max_size=12,
    )
)
def test_whatever_is_in_a_log_it_is_read_to_the_end(tmp_path: Path, pieces: list[bytes]) -> None:
    found = read(b"".join(pieces), folder=tmp_path)
    for access in found.accesses:
        all_fields(access)
    assert read(b"".join(pieces), folder=tmp_path) == found
