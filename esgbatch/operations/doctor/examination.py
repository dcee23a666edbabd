"""The examination: independent checks beside each other, told in a fixed order."""

from __future__ import annotations

import math
import shutil
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, InvalidStateError
from contextlib import suppress
from pathlib import Path
from typing import TypeVar

from esgbatch.config.model import Config, OAuth2Auth
from esgbatch.errors import BatchError, DoctorFailed
from esgbatch.operations.doctor import alarms, cluster, drop, folders, keys, records, servers
from esgbatch.operations.doctor.findings import Check, Finding, Setup, Status, failed, ok, warn

LIMIT = 20.0  # seconds that a check may take
SLICE = 0.2
T = TypeVar("T")


def examine(open_setup: Callable[[], Setup]) -> Iterator[tuple[str, Finding]]:
    """Each check's name with a finding of it, as soon as all before it are told.

    A configuration that cannot be loaded is a finding, too. A check that raises anything
    but a `BatchError` is a bug; it is raised after the last finding.
    """
    try:
        setup = open_setup()
    except BatchError as error:
        yield "config", failed(error)
        return
    yield "config", ok(f"{setup.path} is valid")
    try:
        yield from _together(setup, _checks(setup.config))
    finally:
        if setup.scratch is not None:
            _remove(setup.scratch)


def _remove(scratch: Path) -> None:
    """Under another name, where no check that is left behind puts anything more."""
    gone = scratch.with_name(f"{scratch.name}.gone")
    with suppress(OSError):  # it was not made yet
        scratch.rename(gone)
    shutil.rmtree(gone, ignore_errors=True)


def _checks(config: Config) -> Sequence[Check]:
    """The checks that this configuration calls for. Those that a check needs stand before it."""
    gpg = ("temporary_folder", "gpg")
    folder = ("state_folder",)
    alerts, metrics = config.alerts, config.metrics
    wanted = (
        (True, Check("secrets", folders.secrets)),
        (True, Check("account_system", servers.account_system)),
        (isinstance(config.ratings.auth, OAuth2Auth), Check("token", servers.token)),
        (True, Check("esg_api", servers.esg_api, ("account_system", "token"))),
        (config.ratings.engine == "dask", Check("cluster", cluster.cluster)),
        (True, Check("clock", servers.clock)),
        (True, Check("state_folder", folders.state_folder)),
        (True, Check("log_folder", folders.log_folder)),
        (True, Check("temporary_folder", folders.temporary_folder)),
        (True, Check("disk_space", folders.disk_space, (*folder, "log_folder", "temporary_folder"))),
        (True, Check("checkpoint", records.checkpoint, folder)),
        (True, Check("audit_trail", records.audit_trail, folder)),
        (True, Check("gpg", keys.gpg, ("temporary_folder",))),
        (True, Check("recipient_key", keys.recipient_keys, gpg)),
        (config.encryption.sign_with is not None, Check("signing_key", keys.signing_key, gpg)),
        (True, Check("encryption", keys.encryption, (*gpg, "recipient_key", "signing_key"))),
        (True, Check("sftp_login", drop.sftp_login)),
        (True, Check("drop_folder", drop.drop_folder, ("sftp_login",))),
        (alerts.email is not None, Check("email", alarms.email)),
        (alerts.pagerduty is not None, Check("pagerduty", alarms.pagerduty)),
        (bool(metrics.textfile), Check("metrics_textfile", folders.metrics_folder)),
        (bool(metrics.pushgateway), Check("pushgateway", alarms.pushgateway)),
        (bool(metrics.heartbeat_url), Check("heartbeat", alarms.heartbeat)),
    )
    return [check for applies, check in wanted if applies]


def _together(setup: Setup, checks: Sequence[Check]) -> Iterator[tuple[str, Finding]]:
    running: dict[str, _Running] = {}
    for check in checks:
        running[check.name] = _Running(check, setup, [running[need] for need in check.needs if need in running])
    for each in running.values():
        for finding in each.outcome():
            yield each.name, finding
    for each in running.values():
        if each.bug is not None:
            raise each.bug


class _Running:
    """One check in a thread of its own, which is left behind where it hangs."""

    def __init__(self, check: Check, setup: Setup, needs: Sequence[_Running]) -> None:
        self.name = check.name
        self.bug: Exception | None = None
        self._check = check
        self._setup = setup
        self._needs = needs
        self._found: list[Finding] = []
        self._begun: Future[float] = Future()
        self._outcome: Future[list[Finding]] = Future()
        threading.Thread(target=self._work, name=f"doctor-{check.name}", daemon=True).start()

    def outcome(self) -> Sequence[Finding]:
        """What was found; its time counts from its own beginning, not from when others held it up."""
        until = _awaited(self._begun, math.inf) + LIMIT
        try:
            return _awaited(self._outcome, until)
        except TimeoutError:
            late = failed(DoctorFailed(f"no answer within {LIMIT:g} s", advice="look whether it hangs"))
            self._settle([*self._found, late])
        return self._outcome.result()

    def _work(self) -> None:
        broken = [need.name for need in self._needs if need.has_failed()]
        self._begun.set_result(time.monotonic())
        if broken:
            self._settle([warn(f"not checked, since {_spoken(broken[0])} failed")])
            return
        try:
            for finding in self._check.look(self._setup):
                self._found.append(finding)
        except BatchError as error:
            self._found.append(failed(error))
        except Exception as error:  # noqa: BLE001 - raised again in the main thread, after the other checks
            self.bug = error
            self._found.append(failed(DoctorFailed("this check has a bug; see the end")))
        self._settle(self._found)

    def has_failed(self) -> bool:
        """Waits for the outcome."""
        return any(finding.status is Status.FAIL for finding in self._outcome.result())

    def _settle(self, findings: list[Finding]) -> None:
        with suppress(InvalidStateError):  # the other side was first
            self._outcome.set_result(findings)


def _awaited(future: Future[T], until: float) -> T:
    """The future's result, by an instant of the monotonic clock; else `TimeoutError`.

    In slices: the C library blocks signals while a thread is started, so one that comes then is taken by
    another thread, and what does not wake up does not notice it.
    """
    while True:
        left = until - time.monotonic()
        try:
            return future.result(timeout=max(0.0, min(left, SLICE)))
        except TimeoutError:
            if left <= SLICE:
                raise


def _spoken(name: str) -> str:
    return name.replace("_", " ")
