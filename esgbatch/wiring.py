"""From a configuration to a job: the only place that picks adapters.

Those that speak to servers are imported where they are needed, since their libraries take
longer to load than `status` has.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Callable, Iterator, Sequence
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from pydantic import BaseModel

from esgbatch.alerting.channels import channels
from esgbatch.alerting.desk import Desk
from esgbatch.alerting.outbox import Outbox
from esgbatch.checkpoint.database import Database
from esgbatch.checkpoint.history import SqlHistory
from esgbatch.checkpoint.ledger import SqlLedger
from esgbatch.checkpoint.masterkey import ConfiguredKeys, FileKeys, Rotatable
from esgbatch.checkpoint.outcomes import SqlOutcomes
from esgbatch.checkpoint.ownership import ownership
from esgbatch.checkpoint.privacy import SqlPrivacy
from esgbatch.checkpoint.runs import SqlRuns
from esgbatch.compliance.audit import FILE_NAME, AuditTrail, load_or_create_key
from esgbatch.config.load import fingerprint
from esgbatch.config.model import Config, Dask, NoAuth, Ratings
from esgbatch.config.salvage import Essentials
from esgbatch.config.secrets import Secret, require_private
from esgbatch.errors import ConfigError, EncryptionError, NothingToDo
from esgbatch.fetching.concurrency import AutoConcurrency, FixedConcurrency
from esgbatch.fetching.dispatcher import Dispatcher
from esgbatch.fetching.engines import ThreadEngine
from esgbatch.fetching.limiter import GUARDED_CATCH_UP, RateLimiter, WindowGuard
from esgbatch.fetching.retry import Backoff
from esgbatch.fetching.ticket import Pace
from esgbatch.files import private_folder
from esgbatch.http.trust import EXPIRES_SOON, ending_certificates
from esgbatch.job import Job
from esgbatch.ports import AccountSource, Clock, Engine, Listener
from esgbatch.records import Records
from esgbatch.stopping import StopSignal

if TYPE_CHECKING:
    from esgbatch.encryption.keys import RecipientKey


def build_job(config: Config, listener: Listener, clock: Clock, stop: StopSignal) -> Job:
    """The job for the firm's own servers.

    Raises:
        ConfigError, CheckpointError: the state folder or the database cannot be used.
    """
    from esgbatch.delivery.sftp import SftpCourier
    from esgbatch.encryption.gpg import GpgEncryptor

    state_dir = open_state(config)
    database = open_checkpoint(config)
    return Job(
        config=config,
        config_sha256=fingerprint(config),
        open_source=lambda: open_source(config, clock, listener),
        make_dispatcher=lambda *, deadline_binds, tick: make_dispatcher(
            config, listener, clock, stop, deadline_binds=deadline_binds, tick=tick
        ),
        encryptor=GpgEncryptor(config.encryption, keyring(state_dir), now=clock.time),
        courier=SftpCourier(config.delivery, clock, listener, before_replacing=database.require_ours),
        records=open_records(database, clock, listener),
        audit=open_audit(state_dir),
        listener=listener,
        clock=clock,
        stop=stop,
        own=partial(ownership, database),
    )


def open_state(config: Config) -> Path:
    """The state folder, private to this user.

    Raises:
        ConfigError: it cannot be made, is somebody else's, or others can look into it.
    """
    folder = config.job.state_dir
    try:
        private_folder(folder)
        status = folder.stat()
    except OSError as error:
        raise ConfigError(
            f"The state folder {folder} cannot be made: {error.strerror}.",
            advice=f"`install -d -m 0700 -o $(id -un) {folder}`, or another job.state_dir, then `esgbatch run`",
        ) from None
    mine = status.st_uid == os.getuid()
    if not mine or status.st_mode & 0o077:
        raise ConfigError(
            f"The state folder {folder} must belong to this user alone (mode 0700); it has mode "
            f"{status.st_mode & 0o7777:04o} and belongs to user {status.st_uid}.",
            advice=f"`chmod 700 {folder}`, then `esgbatch run`"
            if mine
            else f"as that user: `sudo -u '#{status.st_uid}' esgbatch run`, or another job.state_dir",
        )
    return folder


def open_audit(state_dir: Path) -> AuditTrail:
    """The audit trail, to be added to."""
    return AuditTrail(state_dir / FILE_NAME, load_or_create_key(state_dir))


def keyring(state_dir: Path) -> Path:
    """The folder of the keys that the job works with.

    Raises:
        ConfigError: it cannot be made.
    """
    folder = state_dir / "keyring"
    try:
        return private_folder(folder)
    except OSError as error:
        raise ConfigError(
            f"The keyring folder {folder} cannot be made: {error.strerror}.",
            advice="look at the disk, then `esgbatch run`",
        ) from None


def open_checkpoint(config: Config | Essentials, *, create: bool = True) -> Database:
    """The checkpoint database.

    Raises:
        NothingToDo: without `create`, where nothing was ever run.
    """
    keys = master_keys(config)
    if url := config.checkpoint.reveal_url():
        return Database(url, create=create, keys=keys)
    path = config.job.state_dir / "checkpoint.sqlite"
    if not create and not path.exists():
        raise NothingToDo(f"Nothing was ever run here: there is no {path}.")
    return Database.sqlite(path, create=create, keys=keys)


def master_keys(config: Config | Essentials) -> Rotatable:
    """Where the key of the checkpoint's names and scores comes from; it is read when it is needed."""
    settings, folder = config.checkpoint, config.job.state_dir / "keyring"
    if settings.key is None:
        return FileKeys(folder)
    return ConfiguredKeys(settings.key, settings.previous_key, folder)


def open_records(database: Database, clock: Clock, listener: Listener) -> Records:
    return Records(
        SqlRuns(database, clock, listener),
        SqlOutcomes(database),
        SqlLedger(database, clock),
        SqlHistory(database, clock),
        SqlPrivacy(database, clock),
    )


def open_source(config: Config, clock: Clock, listener: Listener) -> AccountSource:
    accounts = config.accounts
    match accounts.source:
        case "rest":
            from esgbatch.accounts.rest import RestAccounts
            from esgbatch.http.auth import authenticator

            return RestAccounts(accounts, authenticator(accounts), clock, listener)
        case "csv":
            from esgbatch.accounts.csvfile import CsvAccounts

            return CsvAccounts(accounts)
        case "sql":
            from esgbatch.accounts.sql import SqlAccounts

            return SqlAccounts(accounts)


def make_dispatcher(
    config: Config,
    listener: Listener,
    clock: Clock,
    stop: StopSignal,
    *,
    deadline_binds: bool,
    tick: Callable[[Pace], None],
) -> Dispatcher:
    ratings = config.ratings
    automatic = ratings.concurrency == "auto"
    most = ratings.max_concurrency if ratings.concurrency == "auto" else ratings.concurrency
    engine: Engine
    if ratings.dask is not None and ratings.engine == "dask":
        engine = open_cluster(ratings, ratings.dask, most, listener)
        limiter = RateLimiter(ratings.rate_limit, most, validity=ratings.dask.permit_seconds)
    else:
        from esgbatch.http.auth import authenticator
        from esgbatch.ratings.attempts import CurlAttempts

        guard = WindowGuard(ratings.rate_limit)
        engine = ThreadEngine(CurlAttempts(ratings, authenticator(ratings), most, before_sending=guard.wait))
        limiter = RateLimiter(ratings.rate_limit, most, catch_up=GUARDED_CATCH_UP)
    return Dispatcher(
        engine,
        limiter,
        AutoConcurrency(most, ratings.rate_limit) if automatic else FixedConcurrency(most),
        Backoff(ratings.backoff.base, ratings.backoff.max),
        clock,
        listener,
        attempts=ratings.attempts,
        commit_every=config.checkpoint.commit_every,
        max_hold=float("inf") if deadline_binds else ratings.max_hold,
        stopped=lambda: stop.requested is not None,
        tick=tick,
    )


def open_cluster(ratings: Ratings, cluster: Dask, most: int, listener: Listener) -> Engine:
    """The engine on a Dask cluster. Only this process logs in: workers are told the header to send."""
    from esgbatch.fetching.cluster import DaskEngine
    from esgbatch.http.auth import authenticator
    from esgbatch.ratings.client import CurlRatings

    workers = ratings.model_copy(update={"auth": NoAuth(), "engine": "threads", "dask": None})
    return DaskEngine(cluster, authenticator(ratings), partial(CurlRatings, workers), most, listener)


def open_desk(essentials: Essentials, clock: Clock, log: Listener) -> Desk:
    """Where alerts are kept and sent from; nothing is written before there is one."""
    environment, host = essentials.job.environment, socket.gethostname()
    outbox = Outbox(essentials.job.state_dir / "alerts", environment, host)
    ways = channels(essentials.alerts, essentials.zone, clock)
    return Desk(outbox, ways, environment, host, clock, log)


def preflight(config: Config, listener: Listener, clock: Clock) -> None:
    """Find at five what would otherwise be found at half past eight.

    What `doctor` checks in depth is only looked at here: every secret can be read, the
    SFTP key is private, the host key file is there, a few bytes can be encrypted. A
    recipient key that has expired is told, but does not keep the accounts from being
    rated meanwhile.

    Raises:
        ConfigError: with what to correct.
    """
    from esgbatch.encryption.gpg import GpgEncryptor

    reveal_secrets(config)
    require_private(config.delivery.private_key)
    if not config.delivery.known_hosts.is_file():
        raise ConfigError(f"delivery.known_hosts: the file {config.delivery.known_hosts} is not there.")
    try:
        keys = GpgEncryptor(config.encryption, keyring(config.job.state_dir), now=clock.time).check()
    except EncryptionError as error:
        listener.event("preflight_warning", error=str(error))
        keys = ()
    _tell_expiries(config, keys, listener, clock)


def _tell_expiries(config: Config, keys: Sequence[RecipientKey], listener: Listener, clock: Clock) -> None:
    """Say in time that a key or certificate ends, so that somebody sees to it."""
    now = datetime.fromtimestamp(clock.time(), UTC)
    ends = [
        (f"The recipient key {key.fingerprint}", str(key.source), key.expires)
        for key in keys
        if key.expires is not None and now < key.expires <= now + EXPIRES_SOON
    ]
    for path in _own_certificates(config):
        found = ending_certificates(path, now)
        ends += [(f"The certificate of {subject}", path, expires) for subject, expires in found]
    for what, source, expires in ends:
        listener.event("expiring", what=what, source=source, expires=expires, days=(expires - now).days)
    listener.event("expiry_checked", expiring=len(ends))


def _own_certificates(config: Config) -> Iterator[str]:
    email = config.alerts.email
    for web in (config.accounts, config.ratings):
        yield from filter(None, (web.ca_bundle, web.client_cert))
    if email is not None and email.ca_bundle:
        yield email.ca_bundle


def reveal_secrets(section: BaseModel) -> None:
    """Read every secret, so that a missing one is told now and all are kept out of the logs."""
    for secret in secrets(section):
        secret.reveal()


def secrets(section: BaseModel) -> Iterator[Secret]:
    """Every secret that a section refers to, at any depth."""
    for _, value in section:
        if isinstance(value, Secret):
            yield value
        elif isinstance(value, BaseModel):
            yield from secrets(value)
