"""The configuration file, as types. Every key's description is its documentation."""

from __future__ import annotations

import ipaddress
import re
from datetime import date, time
from decimal import Decimal
from pathlib import Path
from typing import Annotated, Any, Literal
from urllib.parse import urlsplit
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

import jmespath
import jmespath.exceptions
from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    PlainSerializer,
    model_validator,
)

from esgbatch.config.secrets import Secret

# --- kinds of values --------------------------------------------------------------------------


def _web_url(value: str) -> str:
    """`https`, or `http` to this machine: a token or a score never crosses a network in clear."""
    try:
        parts = urlsplit(value)
        host, port = parts.hostname, parts.port
    except ValueError:  # its words repeat a part of the URL, which may be a password
        raise ValueError("an http(s) URL is needed") from None
    if parts.scheme not in ("http", "https") or not host or port == 0:
        raise ValueError("an http(s) URL is needed")
    if parts.scheme == "http" and not _is_loopback(host):
        raise ValueError("plain http is refused except to this machine: use https")
    if parts.username or parts.password:
        raise ValueError("credentials do not belong into a URL: use auth")
    return value


def _is_loopback(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _jmespath(value: str) -> str:
    try:
        jmespath.compile(value)
    except jmespath.exceptions.JMESPathError as error:
        raise ValueError(f"no valid JMESPath expression: {str(error).splitlines()[0]}") from None
    return value


def _clock_time(value: Any) -> Any:
    if isinstance(value, str) and re.fullmatch(r"([01][0-9]|2[0-3]):[0-5][0-9]", value):
        return time.fromisoformat(value)
    if isinstance(value, time):
        return value
    raise ValueError("a time of day as HH:MM is needed")


def _zone(value: str) -> str:
    try:
        ZoneInfo(value)
    except (ZoneInfoNotFoundError, ValueError, OSError):
        raise ValueError(f"no such time zone: {value!r}; use a name like America/Chicago") from None
    return value


def _fingerprint(value: str) -> str:
    bare = value.replace(" ", "").upper()
    if not re.fullmatch(r"[0-9A-F]{40}", bare):
        raise ValueError("a full fingerprint of 40 hex digits is needed; a short key ID can be forged")
    return bare


def _mode(value: Any) -> Any:
    if isinstance(value, str) and re.fullmatch(r"0?[0-7]{3}", value):
        return value.rjust(4, "0")
    raise ValueError('an octal mode in quotes is needed, like "0640"')


WebUrl = Annotated[str, AfterValidator(_web_url)]
OptionalWebUrl = Annotated[str, AfterValidator(lambda value: _web_url(value) if value else value)]
JMESPath = Annotated[str, AfterValidator(_jmespath)]
ClockTime = Annotated[
    time,
    BeforeValidator(_clock_time),
    PlainSerializer(lambda value: value.strftime("%H:%M"), return_type=str),
]
Zone = Annotated[str, AfterValidator(_zone)]
Fingerprint = Annotated[str, AfterValidator(_fingerprint)]
FileMode = Annotated[str, BeforeValidator(_mode)]
Text = Annotated[str, Field(min_length=1)]
Seconds = Annotated[float, Field(gt=0, allow_inf_nan=False)]
Count = Annotated[int, Field(ge=1)]
Percent = Annotated[float, Field(ge=0, le=100)]


class Section(BaseModel):
    """A table of the file. Unknown keys are errors, so that a typing mistake is never a default."""

    model_config = ConfigDict(extra="forbid", frozen=True, hide_input_in_errors=True)


# --- the job ----------------------------------------------------------------------------------


class Job(Section):
    timezone: Zone = Field("America/Chicago", description="the zone of business dates, start and deadline")
    start: ClockTime = Field(time(5), description="when the scheduler starts the run")
    deadline: ClockTime = Field(time(9), description="when the run must be done or stopped")
    on_deadline: Literal["hold", "deliver_partial"] = Field(
        "hold", description="hold: stop and deliver nothing; deliver_partial: deliver in time what there is"
    )
    state_dir: Path = Field(
        Path("/var/lib/esgbatch"), description="checkpoint, archive and keyring; made with mode 0700"
    )
    environment: Text = Field("production", description="a name for logs, alerts and metrics")


# --- logging in -------------------------------------------------------------------------------


class NoAuth(Section):
    kind: Literal["none"] = "none"


class BearerAuth(Section):
    kind: Literal["bearer"]
    token: Secret = Field(description="sent as `Authorization: Bearer …` (RFC 6750)")


class HeaderAuth(Section):
    kind: Literal["header"]
    name: Annotated[str, Field(pattern=r"^[!#$%&'*+.^_`|~0-9A-Za-z-]+$")] = Field(
        description="the header's name"
    )
    value: Secret = Field(description="the header's value")


class BasicAuth(Section):
    kind: Literal["basic"]
    username: Text = Field(description="RFC 7617")
    password: Secret


class OAuth2Auth(Section):
    """Client credentials (RFC 6749, 4.4)."""

    kind: Literal["oauth2"]
    token_url: WebUrl = Field(description="the token endpoint")
    client_id: Text
    client_secret: Secret
    scope: str = Field("", description="asked for where it is not empty")


Auth = Annotated[NoAuth | BearerAuth | HeaderAuth | BasicAuth | OAuth2Auth, Field(discriminator="kind")]


class Web(Section):
    """How a web server is reached. TLS verification cannot be switched off; only a CA can be given."""

    auth: Auth = Field(NoAuth(), description="none, bearer, header, basic or oauth2")
    ca_bundle: str = Field("", description="a PEM file of the CAs to trust instead of the system's")
    client_cert: str = Field("", description="a PEM file with our certificate, for mutual TLS")
    client_key: str = Field("", description="the PEM file of its key, where the certificate's file has none")
    proxy: str = Field("", description="the URL of an HTTP proxy; the environment's proxies are not used")

    @model_validator(mode="after")
    def _key_has_certificate(self) -> Web:
        if self.client_key and not self.client_cert:
            raise ValueError("client_key needs client_cert")
        return self


# --- the account system -----------------------------------------------------------------------


class Accounts(Web):
    source: Literal["rest", "csv", "sql"] = Field("rest", description="where the list comes from")
    url: OptionalWebUrl = Field("", description="rest: the address of the list")
    params: dict[str, str] = Field(
        {"status": "active"}, description="rest: query parameters of every page's request"
    )
    paging: Literal["cursor", "offset", "page", "link", "none"] = Field(
        "cursor", description="rest: how the next page is asked for; link is the RFC 8288 header"
    )
    page_size: Annotated[int, Field(ge=1, le=100_000)] = Field(
        1000, description="rest: rows asked for in a page"
    )
    size_param: str = Field("limit", description="the page size's parameter; empty: not sent")
    cursor_param: Text = Field("cursor", description="the cursor's parameter")
    next_cursor: JMESPath = Field("nextCursor", description="JMESPath of the next page's cursor")
    offset_param: Text = Field("offset", description="the parameter of the number of rows before the page")
    page_param: Text = Field("page", description="the parameter of the page's number")
    first_page: int = Field(1, description="the first page's number")
    items: JMESPath = Field("accounts", description="JMESPath of the list in a page")
    id: Text = Field("accountId", description="JMESPath in an item (rest), or the column's name (csv, sql)")
    name: Text = Field("accountName", description="likewise")
    status: Text = Field("status", description="likewise; a csv or sql list without this column is all active")
    active: Annotated[list[str], Field(min_length=1)] = Field(["active"], description="what counts as active")
    path: Path | None = Field(None, description="csv: the file")
    database: Secret | None = Field(None, description="sql: a SQLAlchemy URL")
    query: str = Field("", description="sql: the query whose rows are the accounts, in the order of the file")
    timeout: Seconds = Field(60.0, description="seconds for one page")
    attempts: Count = Field(5, description="for each page; ratings.attempts where it is not set")

    @model_validator(mode="after")
    def _source_is_complete(self) -> Accounts:
        if self.source == "rest":
            if not self.url:
                raise ValueError('source = "rest" needs url')
            for key in ("id", "name", "status"):
                _jmespath(getattr(self, key))
        if self.source == "csv" and self.path is None:
            raise ValueError('source = "csv" needs path')
        if self.source == "sql" and (self.database is None or not self.query):
            raise ValueError('source = "sql" needs database and query')
        return self


# --- the ESG API ------------------------------------------------------------------------------


class Backoff(Section):
    """Exponential backoff with full jitter: a random wait up to base x 2^n, at most max."""

    base: Seconds = 0.5
    max: Seconds = 60.0


class Timeout(Section):
    connect: Seconds = 5.0
    read: Seconds = 30.0


class Score(Section):
    column: Text = Field(description="the column's title in the file")
    path: JMESPath = Field(description="JMESPath of the score in the answer")


DEFAULT_SCORES = (
    Score(column="Environmental Score", path="scores.environmental"),
    Score(column="Social Score", path="scores.social"),
    Score(column="Governance Score", path="scores.governance"),
    Score(column="Overall ESG Score", path="scores.overall"),
)


def _scheduler(value: str) -> str:
    if not re.fullmatch(r"(tls|tcp)://[^\s/@]+:[0-9]+", value):
        raise ValueError("an address like tls://scheduler.example:8786 is needed")
    if not is_private_address(value):
        raise ValueError("tcp:// is refused except to this machine: use tls://")
    return value


def is_private_address(address: str) -> bool:
    """Whether nobody on the way to this Dask address can read along: it is TLS, or this machine."""
    scheme, _, rest = address.partition("://")
    return scheme == "tls" or _is_loopback(rest.rpartition(":")[0].strip("[]"))


class Dask(Section):
    """A Dask cluster for the ratings; the names are those of `distributed.Security`."""

    scheduler: Annotated[str, AfterValidator(_scheduler)] = Field(
        description="the scheduler's address, tls://host:8786"
    )
    tls_ca_file: str = Field("", description="a PEM file of the CA that signs the cluster's certificates")
    tls_client_cert: str = Field("", description="a PEM file with our certificate for the cluster")
    tls_client_key: str = Field("", description="the PEM file of its key")
    wait: Seconds = Field(60.0, description="seconds to wait for a scheduler and a worker that works")
    permit_seconds: Annotated[float, Field(ge=0.01, le=1)] = Field(
        0.1, description="how long after its permit a request may leave; the rate is lower by as much a second"
    )

    @model_validator(mode="after")
    def _tls_is_whole(self) -> Dask:
        files = (self.tls_ca_file, self.tls_client_cert, self.tls_client_key)
        if self.scheduler.startswith("tls:") and not all(files):
            raise ValueError("a tls:// scheduler needs tls_ca_file, tls_client_cert and tls_client_key")
        if self.scheduler.startswith("tcp:") and any(files):
            raise ValueError("certificates need a tls:// scheduler")
        return self


MAX_THREADS = 4096


class Ratings(Web):
    url: WebUrl = Field(description="holds {account_id}, which is percent-encoded (RFC 3986, 2.1)")
    method: Literal["GET", "POST"] = Field("GET", description="how a rating is asked for")
    body: dict[str, Any] | None = Field(
        None, description="POST: sent as JSON; {account_id} in any text is the account's ID"
    )
    rate_limit: Annotated[float, Field(gt=0, le=100_000)] = Field(
        50.0, description="requests a second over the whole job; never more in any one-second window"
    )
    concurrency: Literal["auto"] | Count = Field(
        "auto", description="requests in flight; auto finds the number"
    )
    max_concurrency: Annotated[int, Field(ge=1, le=100_000)] = Field(
        256, description="the upper end of auto, over the whole cluster; threads: at most 4096"
    )
    attempts: Count = Field(5, description="charged attempts an account")
    backoff: Backoff = Field(
        Backoff(), description="seconds before a retry: random, up to base x 2^n, at most max"
    )
    timeout: Timeout = Field(Timeout(), description="seconds for a connection, and for the whole answer")
    score_range: tuple[Decimal, Decimal] = Field(
        (Decimal(0), Decimal(100)), description="lowest and highest allowed score, after rounding"
    )
    max_hold: Seconds = Field(3600.0, description="seconds to wait out an outage where no deadline binds")
    engine: Literal["threads", "dask"] = Field("threads", description="dask: on the workers of [ratings.dask]")
    dask: Dask | None = Field(None, description="the cluster, read where engine is dask")
    scores: Annotated[list[Score], Field(min_length=1)] = Field(
        list(DEFAULT_SCORES),
        description="the score columns in the file's order: title, and JMESPath in the answer",
    )

    @model_validator(mode="after")
    def _consistent(self) -> Ratings:
        if self.method == "GET" and "{account_id}" not in self.url:
            raise ValueError("url must hold {account_id}")
        if self.method == "GET" and self.body is not None:
            raise ValueError('body needs method = "POST"')
        if self.method == "POST" and "{account_id}" not in self.url and not _mentions_account(self.body):
            raise ValueError("url or body must hold {account_id}")
        if self.engine == "dask" and self.dask is None:
            raise ValueError('engine = "dask" needs scheduler in [ratings.dask]')
        if self.engine == "threads" and self.max_concurrency > MAX_THREADS:
            raise ValueError(f'engine = "threads" has at most {MAX_THREADS} in flight')
        if self.score_range[0] >= self.score_range[1]:
            raise ValueError("score_range is [lowest, highest]")
        titles = [score.column for score in self.scores]
        if len(set(titles)) != len(titles):
            raise ValueError("two scores have the same column")
        return self


def _mentions_account(value: object) -> bool:
    if isinstance(value, dict):
        return any(_mentions_account(item) for item in value.values())
    if isinstance(value, list):
        return any(_mentions_account(item) for item in value)
    return isinstance(value, str) and "{account_id}" in value


# --- checkpoint, file, delivery ---------------------------------------------------------------


class Checkpoint(Section):
    url: str | Secret = Field(
        "",
        description="a SQLAlchemy URL, as a secret where there is a password in it; empty: SQLite in state_dir",
    )
    commit_every: Annotated[int, Field(ge=1, le=10_000)] = Field(500, description="outcomes in a transaction")
    key: Secret | None = Field(
        None, description="32 random bytes that lock names and scores; without it, a key file in state_dir"
    )
    previous_key: Secret | None = Field(
        None, description="the key before this one, until `esgbatch rotate-key`"
    )

    def reveal_url(self) -> str:
        """The URL, wherever it comes from."""
        return self.url.reveal() if isinstance(self.url, Secret) else self.url

    @model_validator(mode="after")
    def _previous_has_successor(self) -> Checkpoint:
        if self.previous_key is not None and self.key is None:
            raise ValueError("previous_key needs key")
        return self


class Csv(Section):
    guard_formulas: bool = Field(True, description="a leading ' before text that a spreadsheet would run")
    id_column: Text = Field("Account ID", description="the title of the IDs' column")
    name_column: Text = Field("Account Name", description="the title of the names' column")
    status_column: Text = Field("Processing Status", description="the title of the last column")


class Encryption(Section):
    recipients: Annotated[list[Path], Field(min_length=1)] = Field(description="public key files")
    fingerprints: Annotated[list[Fingerprint], Field(min_length=1)] = Field(
        description="the recipients' primary keys' full fingerprints; must match the files exactly"
    )
    compression: Literal["none", "zlib"] = Field("none", description="zlib: smaller, and slower to make")
    sign_with: Path | None = Field(None, description="a secret key file: the file is signed, too")
    passphrase: Secret | None = Field(None, description="the signing key's")
    gpg: str = Field("gpg", description="the gpg program")

    @model_validator(mode="after")
    def _passphrase_has_key(self) -> Encryption:
        if self.passphrase is not None and self.sign_with is None:
            raise ValueError("passphrase needs sign_with")
        return self


class Delivery(Section):
    host: Text = Field(description="the SFTP server")
    port: Annotated[int, Field(ge=1, le=65535)] = Field(22, description="its port")
    username: Text = Field(description="our user there")
    private_key: Path = Field(description="an OpenSSH private key file; others must not be able to read it")
    passphrase: Secret | None = Field(None, description="the private key's")
    known_hosts: Path = Field(description="the server's host key; an unknown key is never accepted")
    directory: Text = Field(description="the drop folder; it must exist")
    mode: FileMode = Field("0640", description="the delivered files' mode")
    timeout: Seconds = Field(30.0, description="seconds that any single answer of the server may take")
    attempts: Count = Field(5, description="for the whole upload")
    remote_consumes_file: bool = Field(
        False, description="the receiver takes files away at once: nothing is checked after the rename"
    )


# --- gates, alerts, logs, metrics, retention --------------------------------------------------


class Quality(Section):
    max_failed_percent: Percent = Field(5.0, description="more failed accounts: the file is withheld")
    max_account_drop_percent: Percent = Field(
        20.0, description="fewer accounts than in the last delivered run: likewise"
    )
    max_mean_shift: Annotated[float, Field(ge=0)] = Field(
        10.0, description="any score column's mean further from the last delivered run's: likewise"
    )


class Email(Section):
    host: Text = Field(description="the SMTP server")
    port: Annotated[int, Field(ge=1, le=65535)] = Field(587, description="its port; 465 is usual for tls")
    security: Literal["starttls", "tls", "none"] = Field(
        "starttls", description="how the connection is encrypted"
    )
    username: str = Field("", description="may be left out together with password")
    password: Secret | None = Field(None, description="the user's")
    sender: Text = Field(description="the address that mails come from")
    recipients: Annotated[list[Text], Field(min_length=1)] = Field(description="who gets alerts")
    report_recipients: list[Text] = Field([], description="who gets the daily report")
    ca_bundle: str = Field("", description="a PEM file of the CAs to trust instead of the system's")
    timeout: Seconds = Field(30.0, description="seconds that any single answer of the server may take")

    @model_validator(mode="after")
    def _login_is_whole(self) -> Email:
        if bool(self.username) != (self.password is not None):
            raise ValueError("username and password belong together")
        return self


class PagerDuty(Section):
    routing_key: Secret = Field(description="the Events API v2 integration's key")
    url: WebUrl = Field("https://events.pagerduty.com", description="another base URL for tests and proxies")
    timeout: Seconds = Field(10.0, description="seconds for one event")


class Alerts(Section):
    failed_percent: Percent = Field(1.0, description="alert above this")
    email: Email | None = None
    pagerduty: PagerDuty | None = None


class Logging(Section):
    directory: Path = Field(
        Path("/var/log/esgbatch"), description="the folder of esgbatch-YYYYMMDD.jsonl and errors-YYYYMMDD.jsonl"
    )
    level: Literal["DEBUG", "INFO", "WARNING", "ERROR"] = Field("INFO", description="what is logged, and above")


class Metrics(Section):
    textfile: str = Field("", description="a file for node_exporter's textfile collector")
    pushgateway: OptionalWebUrl = Field("", description="a Prometheus Pushgateway's URL")
    heartbeat_url: OptionalWebUrl = Field("", description="a dead man's switch: URL, URL/start, URL/fail")


HELD_ACCOUNT = "account:"


def _hold(value: object) -> object:
    # TOML knows dates of its own.
    text = value.isoformat() if isinstance(value, date) else value
    if not isinstance(text, str):
        raise ValueError('a hold is written like "2026-11-24" or "account:A-000017"')
    if not (text.startswith(HELD_ACCOUNT) and text != HELD_ACCOUNT):
        try:
            date.fromisoformat(text)
        except ValueError:
            raise ValueError('a hold is written like "2026-11-24" or "account:A-000017"') from None
    return text


Hold = Annotated[str, BeforeValidator(_hold)]


class Retention(Section):
    files_days: Count = Field(2555, description="archived files and manifests")
    logs_days: Count = Field(400, description="log and error files")
    ratings_days: Count = Field(30, description="scores and names in the checkpoint")
    holds: list[Hold] = Field(
        [], description='legal holds, which nothing removes: business dates, and accounts as "account:ID"'
    )

    @property
    def held_dates(self) -> frozenset[date]:
        return frozenset(date.fromisoformat(hold) for hold in self.holds if not hold.startswith(HELD_ACCOUNT))

    @property
    def held_accounts(self) -> frozenset[str]:
        return frozenset(
            hold.removeprefix(HELD_ACCOUNT) for hold in self.holds if hold.startswith(HELD_ACCOUNT)
        )


class Config(Section):
    """The whole file."""

    job: Job = Job()
    accounts: Accounts
    ratings: Ratings
    checkpoint: Checkpoint = Checkpoint()
    csv: Csv = Csv()
    encryption: Encryption
    delivery: Delivery
    quality: Quality = Quality()
    alerts: Alerts = Alerts()
    logging: Logging = Logging()
    metrics: Metrics = Metrics()
    retention: Retention = Retention()

    @model_validator(mode="after")
    def _pages_are_asked_for_like_ratings(self) -> Config:
        if "attempts" in self.accounts.model_fields_set:
            return self
        accounts = self.accounts.model_copy(update={"attempts": self.ratings.attempts})
        return self.model_copy(update={"accounts": accounts})

    @property
    def zone(self) -> ZoneInfo:
        return ZoneInfo(self.job.timezone)

    @property
    def header(self) -> tuple[str, ...]:
        """The file's header row."""
        scores = (score.column for score in self.ratings.scores)
        return (self.csv.id_column, self.csv.name_column, *scores, self.csv.status_column)
