"""Bringing the metrics out: to a file for node_exporter, and to a pushgateway.

A thread of its own does it, with bounded waits, so that neither a full disk nor a dead
gateway can break or delay the job.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from contextlib import closing
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Self

import requests
from prometheus_client import CollectorRegistry, generate_latest, pushadd_to_gateway
from prometheus_client.core import Metric
from prometheus_client.parser import text_string_to_metric_families
from prometheus_client.registry import Collector

from esgbatch.config.model import Metrics, Web
from esgbatch.errors import BatchError, CheckpointError, ConfigError, ExitCode, StopRequested
from esgbatch.files import replacing
from esgbatch.http.session import explain, open_session
from esgbatch.model import Snapshot
from esgbatch.observability.logs import LogListener
from esgbatch.observability.metrics import RunMetrics

EVERY = 30.0
PUSH_SECONDS = 3.0
LAST_SECONDS = 5.0
HURRY = 1.0
NEWS = ("run_started", "rating_started", "sealing_started", "gate_withheld", "delivery_started", "delivered")
# They end a command before it has begun to work, and nothing else tells of it.
UNBEGUN = (ConfigError, CheckpointError)


class Publisher:
    """Implements `ports.Listener`; publishes at every news, every 30 seconds, and at the end of its block.

    A command that finds nothing to do, or the run in another's hands, publishes nothing.
    """

    def __init__(
        self, settings: Metrics, metrics: RunMetrics, *, environment: str, every: float = EVERY
    ) -> None:
        self.metrics = metrics
        self._targets = tuple(_targets(settings, metrics, environment))
        self._every = every
        self._failing: set[str] = set()
        self._wake = threading.Event()
        self._closing = threading.Event()
        self._thread: threading.Thread | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, where: TracebackType | None, /
    ) -> None:
        """Publish the end, for at most 5 seconds; a second where a signal asks for haste."""
        known = isinstance(error, BatchError | StopRequested)
        if not self.metrics.begun and (error is None or (known and not isinstance(error, UNBEGUN))):
            return
        if error is not None:
            self.metrics.ended(error.code if isinstance(error, BatchError | StopRequested) else ExitCode.BUG)
        self._closing.set()
        self._wake.set()
        self._start().join(HURRY if isinstance(error, StopRequested) else LAST_SECONDS)

    def event(self, name: str, /, **fields: object) -> None:
        self.metrics.event(name, **fields)
        if name in NEWS:
            self._start()
            self._wake.set()

    def progress(self, snapshot: Snapshot) -> None:
        self.metrics.progress(snapshot)

    def _start(self) -> threading.Thread:
        if self._thread is None:
            self._thread = threading.Thread(target=self._work, name="metrics", daemon=True)
            self._thread.start()
        return self._thread

    def _work(self) -> None:
        while True:
            self._wake.wait(self._every)
            self._wake.clear()
            last = self._closing.is_set()
            for name, publish in self._targets:
                self._publish(name, publish)
            if last:
                return

    def _publish(self, name: str, publish: Callable[[], None]) -> None:
        """A failure is told once, and once that it is over."""
        try:
            publish()
        except Exception as error:  # noqa: BLE001 whatever it is, the job goes on
            if name not in self._failing:
                self._failing.add(name)
                LogListener().event("metrics_failed", target=name, error=_words(error))
        else:
            if name in self._failing:
                self._failing.remove(name)
                LogListener().event("metrics_back", target=name)


def _targets(
    settings: Metrics, metrics: RunMetrics, environment: str
) -> Sequence[tuple[str, Callable[[], None]]]:
    registry = CollectorRegistry()
    registry.register(metrics)
    targets: list[tuple[str, Callable[[], None]]] = []
    if settings.textfile:
        targets.append(("textfile", partial(write, Path(settings.textfile), registry)))
    if settings.pushgateway:
        targets.append(("pushgateway", partial(push, settings.pushgateway, registry, environment)))
    return targets


def write(path: Path, registry: CollectorRegistry) -> None:
    """Replace the file, readable by node_exporter; a family that is not known now stays as it was.

    Raises:
        OSError: the old file is still there.
    """
    known = generate_latest(registry)
    names = {line.split(maxsplit=3)[2] for line in known.decode().splitlines() if line.startswith("# TYPE ")}
    with replacing(path, 0o644) as file:
        file.write(known + generate_latest(_Kept(_old(path), names)))


def _old(path: Path) -> Sequence[Metric]:
    try:
        return list(text_string_to_metric_families(path.read_text("utf-8")))
    except (OSError, ValueError):
        return []


class _Kept(Collector):
    """Those of the old families that are ours and not among the new ones."""

    def __init__(self, families: Sequence[Metric], names: set[str]) -> None:
        self._families = families
        self._names = names

    def collect(self) -> Sequence[Metric]:
        return [
            family
            for family in self._families
            if family.name.startswith("esgbatch_") and not {family.name, f"{family.name}_total"} & self._names
        ]


def push(gateway: str, registry: CollectorRegistry, environment: str) -> None:
    """Replace the families that are known now in the environment's group; POST leaves the others.

    Raises:
        requests.RequestException: the gateway cannot be reached in 3 seconds, or refuses.
    """
    pushadd_to_gateway(
        gateway,
        job="esgbatch",
        registry=registry,
        grouping_key={"environment": environment},
        timeout=PUSH_SECONDS,
        handler=_send,
    )


def _send(
    url: str, method: str, timeout: float | None, headers: Sequence[tuple[str, str]], data: bytes
) -> Callable[[], None]:
    """prometheus-client's own would go through the environment's proxies, and limit single reads only."""

    def send() -> None:
        with (
            closing(open_session(Web())) as session,
            session.request(
                method,
                url,
                data=data,
                headers=dict(headers),
                timeout=timeout,
                allow_redirects=False,
                stream=True,
            ) as response,
        ):
            if response.status_code >= 300:
                raise requests.HTTPError(f"HTTP {response.status_code}")

    return send


def _words(error: Exception) -> str:
    if isinstance(error, requests.HTTPError):
        return str(error)
    if isinstance(error, requests.RequestException):
        return explain(error)
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    return type(error).__name__
