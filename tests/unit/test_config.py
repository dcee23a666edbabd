"""The configuration: what is documented loads, and every mistake is told at once and without a secret."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import time
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from esgbatch.config.load import find, fingerprint, load
from esgbatch.config.model import BasicAuth, BearerAuth, Config, HeaderAuth, NoAuth, OAuth2Auth, Ratings
from esgbatch.errors import ConfigError

# The example of interface.md, section 5, as it stands there.
EXAMPLE = Path(__file__).with_name("interface.toml").read_text()
FINGERPRINT = "0123456789ABCDEF0123456789ABCDEF01234567"
VALID = EXAMPLE.replace('["40 hex digits"]', f'["{FINGERPRINT}"]')
SMALLEST = """
accounts.url = "https://accounts.example/v1/accounts"
ratings.url = "https://esg.example/{account_id}"
encryption = { recipients = ["a.asc"], fingerprints = ["0123456789ABCDEF0123456789ABCDEF01234567"] }
delivery = { host = "h", username = "u", private_key = "k", known_hosts = "n", directory = "/d" }
"""


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "esgbatch.toml"


def read(path: Path, text: str = VALID, environment: Mapping[str, str] | None = None) -> Config:
    path.write_text(text, encoding="utf-8")
    return load(path, environment or {})


def changed(old: str, new: str) -> str:
    assert VALID.count(old) >= 1, old
    return VALID.replace(old, new, 1)


def problems(path: Path, text: str = VALID, environment: Mapping[str, str] | None = None) -> list[str]:
    """Each mistake that is told."""
    with pytest.raises(ConfigError) as raised:
        read(path, text, environment)
    first, *rest = str(raised.value).splitlines()
    assert first.startswith(f"The configuration {path}")
    assert first.endswith(f" has {len(rest)} mistake(s):")
    assert (" of the environment," in first) == any(name.startswith("ESGBATCH_") for name in environment or {})
    assert "S3cret" not in str(raised.value)
    return [line.removeprefix("  ") for line in rest]


# --- what is documented -----------------------------------------------------------------------


def test_the_documented_example_loads(path: Path) -> None:
    config = read(path)
    assert (config.job.start, config.job.deadline, config.zone.key) == (time(5), time(9), "America/Chicago")
    assert isinstance(config.accounts.auth, NoAuth)
    assert isinstance(config.ratings.auth, OAuth2Auth)
    assert config.ratings.score_range == (Decimal(0), Decimal(100))
    assert (config.ratings.backoff.max, config.ratings.timeout.read) == (60, 30)
    assert config.encryption.fingerprints == [FINGERPRINT]
    assert config.header == ("Account ID", "Account Name", "Environmental Score", "Processing Status")
    assert config.alerts.email is not None
    assert config.alerts.email.password is not None
    assert config.alerts.email.password.env == "SMTP_PASSWORD"
    assert config.alerts.pagerduty is not None
    assert config.retention.files_days == 2555


def test_the_documented_values_are_the_defaults(path: Path) -> None:
    """All but those that name the firm's own servers, people and keys, and the one score column it shows."""
    example, smallest = read(path), read(path, SMALLEST)
    for section in ("job", "checkpoint", "csv", "quality", "logging", "metrics", "retention"):
        assert getattr(example, section) == getattr(smallest, section), section
    ours = {
        "accounts": {"url"},
        "ratings": {"url", "auth", "scores"},
        "encryption": {"recipients", "fingerprints"},
        "delivery": {"host", "username", "private_key", "known_hosts", "directory"},
    }
    for section, keys in ours.items():
        one, other = (getattr(each, section).model_dump(exclude=keys) for each in (example, smallest))
        assert one == other, section
    assert smallest.alerts.failed_percent == example.alerts.failed_percent
    assert smallest.header == (
        "Account ID",
        "Account Name",
        "Environmental Score",
        "Social Score",
        "Governance Score",
        "Overall ESG Score",
        "Processing Status",
    )


@pytest.mark.parametrize(
    ("written", "kind"),
    [
        ('{ kind = "bearer", token = { env = "T" } }', BearerAuth),
        ('{ kind = "header", name = "X-API-Key", value = { env = "K" } }', HeaderAuth),
        ('{ kind = "basic", username = "u", password = { env = "P" } }', BasicAuth),
        (
            '{ kind = "oauth2", token_url = "https://l/t", client_id = "c", client_secret = { env = "S" } }',
            OAuth2Auth,
        ),
    ],
)
def test_every_documented_way_to_log_in(path: Path, written: str, kind: type) -> None:
    assert isinstance(read(path, changed('{ kind = "none" }', written)).accounts.auth, kind)


@pytest.mark.parametrize(
    "written",
    [
        'source = "csv"\npath = "/data/accounts.csv"',
        'source = "sql"\ndatabase = { env = "ACCOUNTS_DB" }\nquery = "select id, name from a"',
        *(f'source = "rest"\nx_paging = "{style}"' for style in ("cursor", "offset", "page", "link", "none")),
        'source = "rest"\nsize_param = "n"\ncursor_param = "c"\nnext_cursor = "meta.next"',
        'source = "rest"\noffset_param = "o"\npage_param = "p"\nfirst_page = 0',
    ],
)
def test_every_documented_source(path: Path, written: str) -> None:
    text = changed('source = "rest"', written)
    if "x_paging" in written:
        text = text.replace('\npaging = "cursor"', "", 1).replace("x_paging", "paging")
    read(path, text)


def test_a_request_by_post(path: Path) -> None:
    text = changed(
        'url = "https://esg.example/v1/accounts/{account_id}/esg"',
        'url = "https://esg.example/v1/esg"\nmethod = "POST"\nbody = { query = [{ id = "{account_id}" }] }',
    )
    assert read(path, text).ratings.method == "POST"


# --- mistakes ---------------------------------------------------------------------------------


def test_every_mistake_is_told_at_once_under_its_dotted_path(path: Path) -> None:
    text = VALID
    for old, new in (
        ('timezone = "America/Chicago"', 'timezone = "America/Chicken"'),
        ("page_size = 1000", 'page_size = "many"'),
        ('items = "accounts"', 'items = "accounts[?"'),
        ("rate_limit = 50", "rate_limit = 0"),
        ('path = "scores.environmental"', 'path = "scores..environmental"'),
        ("commit_every = 500", "commit_evry = 500"),
        (FINGERPRINT, FINGERPRINT[-8:]),
        ('mode = "0640"', "mode = 640"),
        ("port = 587", "port = 70000"),
        ('[alerts.pagerduty]\nrouting_key = { env = "PD_ROUTING_KEY" }', "[alerts.pagerduty]"),
        ("[retention]", "[retension]"),
    ):
        assert old in text, old
        text = text.replace(old, new, 1)
    told = problems(path, text, {"ESGBATCH_QUALITY__MAX_MEAN_SHIFT": "much", "ESGBATCH_TYPO": "S3cret"})
    assert sorted(line.partition(": ")[0] for line in told) == [
        "ESGBATCH_TYPO",
        "accounts.items",
        "accounts.page_size",
        "alerts.email.port",
        "alerts.pagerduty.routing_key",
        "checkpoint.commit_evry",
        "delivery.mode",
        "encryption.fingerprints.0",
        "job.timezone",
        "quality.max_mean_shift",
        "ratings.rate_limit",
        "ratings.scores.0.path",
        "retension",
    ]


@pytest.mark.parametrize("name", ["none", "header", "basic", "oauth2", "jobs", "Job"])
def test_an_unknown_section_is_named(path: Path, name: str) -> None:
    assert problems(path, f"{VALID}\n[{name}]\nx = 1\n") == [f"{name}: unknown key"]


@pytest.mark.parametrize("value", ['"many"', "0", "1.5", "[]"])
def test_one_mistake_is_told_once(path: Path, value: str) -> None:
    [told] = problems(path, changed('concurrency = "auto"', f"concurrency = {value}"))
    assert told.startswith("ratings.concurrency: ")
    assert "auto" in told


@pytest.mark.parametrize(
    ("old", "new", "where"),
    [
        ('start = "05:00"', 'start = "24:00"', "job.start"),
        ('start = "05:00"', 'start = "5:00"', "job.start"),
        ('deadline = "09:00"', 'deadline = "9am"', "job.deadline"),
        ('on_deadline = "hold"', 'on_deadline = "panic"', "job.on_deadline"),
        ('timezone = "America/Chicago"', 'timezone = "../../etc/passwd"', "job.timezone"),
        ('source = "rest"', 'source = "ldap"', "accounts.source"),
        ('source = "rest"', 'source = "csv"', "accounts"),
        ('source = "rest"', 'source = "sql"', "accounts"),
        ('url = "https://accounts.example/v1/accounts"\n', "", "accounts"),
        ('active = ["active"]', "active = []", "accounts.active"),
        ("[accounts]", "[accounts]\ntimeout = inf", "accounts.timeout"),
        ("connect = 5", "connect = inf", "ratings.timeout.connect"),
        ("base = 0.5", "base = nan", "ratings.backoff.base"),
        ("attempts = 5\nbackoff", "attempts = 0\nbackoff", "ratings.attempts"),
        ("/{account_id}/", "/x/", "ratings"),
        ("score_range = [0, 100]", "score_range = [100, 0]", "ratings"),
        ("score_range = [0, 100]", "score_range = [0, nan]", "ratings.score_range.1"),
        ("score_range = [0, 100]", "score_range = [0]", "ratings.score_range.1"),
        ("max_failed_percent = 5.0", "max_failed_percent = 101", "quality.max_failed_percent"),
        ("max_mean_shift = 10.0", "max_mean_shift = nan", "quality.max_mean_shift"),
        ('security = "starttls"', 'security = "ssl"', "alerts.email.security"),
        ('username = "esgbatch"                 # may', "# may", "alerts.email"),
        ('level = "INFO"', 'level = "LOUD"', "logging.level"),
        ("files_days = 2555", "files_days = 0", "retention.files_days"),
        ('{ kind = "none" }', '{ kind = "magic" }', "accounts.auth"),
        ('{ kind = "none" }', '{ kind = "bearer" }', "accounts.auth.token"),
        (
            '{ kind = "none" }',
            '{ kind = "header", name = "X Y:", value = { env = "K" } }',
            "accounts.auth.name",
        ),
        ("[encryption]", "[encryption]\npassphrase = { env = 'X' }", "encryption"),
    ],
)
def test_a_value_that_makes_no_sense(path: Path, old: str, new: str, where: str) -> None:
    [told] = problems(path, changed(old, new))
    assert told.partition(": ")[0] == where


def test_pages_are_asked_for_as_often_as_ratings(path: Path) -> None:
    assert read(path, SMALLEST).accounts.attempts == 5
    assert read(path, SMALLEST, {"ESGBATCH_RATINGS__ATTEMPTS": "3"}).accounts.attempts == 3
    both = {"ESGBATCH_RATINGS__ATTEMPTS": "3", "ESGBATCH_ACCOUNTS__ATTEMPTS": "7"}
    assert read(path, SMALLEST, both).accounts.attempts == 7


def test_the_checkpoints_url_may_be_a_secret(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CHECKPOINT_URL", "postgresql+psycopg://esgbatch:s3cret@db/esg")
    config = read(path, SMALLEST, {"ESGBATCH_CHECKPOINT__URL": '{ env = "CHECKPOINT_URL" }'})
    assert config.checkpoint.reveal_url().endswith("@db/esg")
    assert "s3cret" not in config.model_dump_json()


def test_two_columns_of_one_name(path: Path) -> None:
    again = '\n[[ratings.scores]]\ncolumn = "Environmental Score"\npath = "x"\n'
    [told] = problems(path, VALID + again)
    assert told == "ratings: two scores have the same column"


@pytest.mark.parametrize(
    "text", ["= nonsense", "[job\n", 'password = S3cret"', "[job]\n[job]\n", "x = 1\nx = 2\n"]
)
def test_a_file_that_is_no_toml(path: Path, text: str) -> None:
    with pytest.raises(ConfigError, match="no valid TOML") as raised:
        read(path, text)
    assert "S3cret" not in str(raised.value)
    assert "\n" not in str(raised.value)


def test_a_file_that_cannot_be_read(path: Path) -> None:
    path.write_bytes(b"\xff\xfe")
    with pytest.raises(ConfigError, match="no valid TOML"):
        load(path, {})
    path.unlink()
    with pytest.raises(ConfigError, match="No such file") as raised:
        load(path, {})
    assert f"`esgbatch init {path}`" in raised.value.advice
    path.mkdir()
    with pytest.raises(ConfigError, match="cannot be read"):
        load(path, {})


# --- addresses --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "url",
    [
        "https://esg.example/{account_id}",
        "http://localhost:8080/{account_id}",
        "http://127.0.0.1/{account_id}",
        "http://127.9.9.9:1/{account_id}",
        "http://[::1]:8080/{account_id}",
        "HTTPS://ESG.EXAMPLE:8443/{account_id}?a=b",
    ],
)
def test_https_anywhere_and_http_to_this_machine(path: Path, url: str) -> None:
    assert read(path, changed("https://esg.example/v1/accounts/{account_id}/esg", url)).ratings.url == url


@pytest.mark.parametrize(
    "url",
    [
        "http://esg.example/{account_id}",
        "HTTP://ESG.EXAMPLE/{account_id}",
        "http://127.0.0.1.evil.example/{account_id}",
        "http://localhost.evil.example/{account_id}",
        "http://localhost@evil.example/{account_id}",
        "http://0.0.0.0/{account_id}",
        "http://2130706433/{account_id}",
        "http://[::2]/{account_id}",
        "http://192.168.1.1/{account_id}",
        "https://user:S3cret@esg.example/{account_id}",
        "https://S3cret@esg.example/{account_id}",
        "ftp://esg.example/{account_id}",
        "file:///{account_id}",
        "esg.example/{account_id}",
        "https:///{account_id}",
        "https://esg.example:port/{account_id}",
        "https://esg.example:0/{account_id}",
        "https://user:S3cret/{account_id}",
        "https://user:S3cret\u2100@esg.example/{account_id}",
        "https://esg.example:99999/{account_id}",
        "https://[::1/{account_id}",
        "",
    ],
)
def test_other_addresses_are_refused(path: Path, url: str) -> None:
    told = problems(path, changed("https://esg.example/v1/accounts/{account_id}/esg", url))
    assert {line.partition(": ")[0] for line in told} <= {"ratings.url", "ratings"}


@pytest.mark.parametrize(
    ("old", "new", "where"),
    [
        ("https://accounts.example/v1", "http://accounts.example/v1", "accounts.url"),
        ("https://login.example", "http://login.example", "ratings.auth.token_url"),
        ("https://events.pagerduty.com", "http://events.pagerduty.com", "alerts.pagerduty.url"),
        ('pushgateway = ""', 'pushgateway = "http://push.example"', "metrics.pushgateway"),
        ('heartbeat_url = ""', 'heartbeat_url = "http://beat.example"', "metrics.heartbeat_url"),
    ],
)
def test_no_address_is_an_exception(path: Path, old: str, new: str, where: str) -> None:
    [told] = problems(path, changed(old, new))
    assert told.startswith(f"{where}: plain http")


# --- secrets are references -------------------------------------------------------------------


@pytest.mark.parametrize(
    "literal",
    ['"S3cret"', "123456", "['S3cret']", "{ value = 'S3cret' }", "{ env = 'A', file = '/S3cret' }", "{}", '""'],
)
@pytest.mark.parametrize(
    ("old", "where"),
    [
        ('{ env = "ESG_CLIENT_SECRET" }', "ratings.auth.client_secret"),
        ('{ env = "SMTP_PASSWORD" }', "alerts.email.password"),
        ('{ env = "PD_ROUTING_KEY" }', "alerts.pagerduty.routing_key"),
    ],
)
def test_a_secret_in_the_file_is_refused_without_repeating_it(
    path: Path, literal: str, old: str, where: str
) -> None:
    told = problems(path, changed(old, literal))
    assert all(line.startswith(where) for line in told)


def test_a_secret_in_a_variable_is_refused_likewise(path: Path) -> None:
    [told] = problems(path, VALID, {"ESGBATCH_ALERTS__EMAIL__PASSWORD": "S3cret"})
    assert told.startswith("alerts.email.password: a secret is never written")


# --- the environment --------------------------------------------------------------------------


def test_variables_override_the_file(path: Path) -> None:
    config = read(
        path,
        VALID,
        {
            "ESGBATCH_RATINGS__RATE_LIMIT": "12.5",
            "ESGBATCH_RATINGS__CONCURRENCY": "16",
            "ESGBATCH_RATINGS__TIMEOUT__READ": "7",
            "ESGBATCH_RATINGS__SCORE_RANGE": "[-1.5, 99.9]",
            "ESGBATCH_JOB__START": "04:30",
            "ESGBATCH_CSV__GUARD_FORMULAS": "false",
            "ESGBATCH_DELIVERY__MODE": "0600",
            "ESGBATCH_DELIVERY__HOST": "123",
            "ESGBATCH_ACCOUNTS__ACTIVE": '["open", "1"]',
            "ESGBATCH_ALERTS__EMAIL__PASSWORD": '{ command = ["pass", "show", "x"] }',
            "ESGBATCH_ENCRYPTION__FINGERPRINTS": f' ["{FINGERPRINT.lower()}"]',
            "ESGBATCH_CONFIG": "/elsewhere",
            "ESGBATCHX": "other",
            "PATH": "/bin",
        },
    )
    assert config.ratings.rate_limit == 12.5
    assert config.ratings.concurrency == 16
    assert (config.ratings.timeout.connect, config.ratings.timeout.read) == (5, 7)
    assert config.ratings.score_range == (Decimal("-1.5"), Decimal("99.9"))
    assert config.job.start == time(4, 30)
    assert config.csv.guard_formulas is False
    assert (config.delivery.mode, config.delivery.host) == ("0600", "123")
    assert config.accounts.active == ["open", "1"]
    assert config.alerts.email is not None
    assert config.alerts.email.password is not None
    assert config.alerts.email.password.command == ["pass", "show", "x"]
    assert config.encryption.fingerprints == [FINGERPRINT]


def test_a_variable_may_stand_for_a_section_that_the_file_has_not(path: Path) -> None:
    config = read(path, SMALLEST, {"ESGBATCH_QUALITY__MAX_MEAN_SHIFT": "3", "ESGBATCH_CHECKPOINT__URL": "x"})
    assert (config.quality.max_mean_shift, config.checkpoint.url) == (3, "x")


@pytest.mark.parametrize(
    "variable",
    [
        "ESGBATCH_RATE_LIMIT",
        "ESGBATCH_RATINGS__RATE_LIMT",
        "ESGBATCH_RATINGS_RATE_LIMIT",
        "ESGBATCH_RATING__RATE_LIMIT",
        "ESGBATCH_RATINGS__RATE_LIMIT__X",
        "ESGBATCH_RATINGS__SCORES__0__COLUMN",
        "ESGBATCH_RATINGS__",
        "ESGBATCH_",
        "ESGBATCH___",
        "ESGBATCH_CONFIG__X",
    ],
)
def test_a_mistyped_variable_is_no_default(path: Path, variable: str) -> None:
    assert len(problems(path, VALID, {variable: "S3cret"})) == 1


@pytest.mark.parametrize("value", ["[", "{ env = ", '["a"', "a@b,c@d", "[S3cret]"])
def test_a_list_in_a_variable_is_written_as_in_the_file(path: Path, value: str) -> None:
    [told] = problems(path, VALID, {"ESGBATCH_ALERTS__EMAIL__RECIPIENTS": value})
    assert told.startswith("alerts.email.recipients: ")


# --- where it lies, and what it is ------------------------------------------------------------


def test_a_file_that_this_user_may_not_read_is_no_mistake_in_it(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def forbidden(*_: object, **__: object) -> str:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "read_text", forbidden)
    with pytest.raises(ConfigError, match="Permission denied") as raised:
        load(path, {})
    assert "chgrp" in raised.value.advice
    assert "`esgbatch doctor`" in raised.value.advice


def test_a_mistake_in_the_environment_is_not_blamed_on_the_file_alone(path: Path) -> None:
    path.write_text(VALID)
    with pytest.raises(ConfigError, match=r"with ESGBATCH_FOO__BAR of the environment, has 1 mistake"):
        load(path, {"ESGBATCH_FOO__BAR": "1"})


def test_the_file_is_looked_for_in_the_documented_order(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    # The machine may have a configuration of its own.
    monkeypatch.setattr("esgbatch.config.load.DEFAULT_PATHS", (Path("esgbatch.toml"), tmp_path / "nowhere"))
    named, explicit = Path("/named.toml"), Path("/explicit.toml")
    with pytest.raises(ConfigError, match="no configuration file") as raised:
        find(None, {})
    assert "esgbatch init" in raised.value.advice
    Path("esgbatch.toml").touch()
    assert find(None, {}) == Path("esgbatch.toml")
    assert find(None, {"ESGBATCH_CONFIG": ""}) == Path("esgbatch.toml")
    assert find(None, {"ESGBATCH_CONFIG": str(named)}) == named
    assert find(explicit, {"ESGBATCH_CONFIG": str(named)}) == explicit


def test_the_fingerprint_is_of_what_is_in_force(path: Path) -> None:
    one = fingerprint(read(path))
    assert len(one) == 64
    assert one == fingerprint(read(path, VALID + "\n# a remark\n"))
    assert one != fingerprint(read(path, VALID, {"ESGBATCH_RATINGS__RATE_LIMIT": "49"}))
    assert one == fingerprint(read(path, changed("rate_limit = 50 ", "rate_limit = 50.0 ")))


# --- a Dask cluster ---------------------------------------------------------------------------

API = "https://esg.example/{account_id}"
FILES = {"tls_ca_file": "ca.pem", "tls_client_cert": "cert.pem", "tls_client_key": "key.pem"}


@pytest.mark.parametrize(
    ("ratings", "mistake"),
    [
        ({"engine": "dask"}, "needs scheduler"),
        ({"dask": {"scheduler": "scheduler.example:8786"}}, "tls://scheduler.example:8786"),
        ({"dask": {"scheduler": "tcp://scheduler.example:8786"}}, "tcp:// is refused"),
        ({"dask": {"scheduler": "tls://scheduler.example:8786"}}, "needs tls_ca_file"),
        ({"dask": {"scheduler": "tcp://127.0.0.1:8786"} | FILES}, "need a tls:// scheduler"),
        ({"dask": {"scheduler": "tcp://127.0.0.1:8786", "adress": "x"}}, "adress"),
        ({"max_concurrency": 5000}, "at most 4096"),
    ],
)
def test_a_cluster_that_cannot_be_meant(ratings: dict[str, Any], mistake: str):
    with pytest.raises(ValidationError, match=mistake):
        Ratings.model_validate({"url": API} | ratings)


@pytest.mark.parametrize("scheduler", ["tcp://127.0.0.1:8786", "tcp://localhost:1", "tcp://[::1]:8786"])
def test_a_cluster_on_this_machine_needs_no_tls(scheduler: str):
    found = Ratings.model_validate({"url": API, "engine": "dask", "dask": {"scheduler": scheduler}})
    assert found.dask is not None
    assert found.dask.scheduler == scheduler


def test_a_cluster_elsewhere_may_have_thousands_in_flight():
    cluster = {"scheduler": "tls://scheduler.example:8786"} | FILES
    Ratings.model_validate({"url": API, "engine": "dask", "max_concurrency": 50_000, "dask": cluster})
