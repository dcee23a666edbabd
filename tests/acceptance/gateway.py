"""A real pushgateway, and how to read what it and a textfile hold."""

from __future__ import annotations

import math
import socket
import subprocess
import time
import urllib.request
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from prometheus_client.parser import text_string_to_metric_families

Labels = frozenset[tuple[str, str]]


class Metrics:
    """Samples by name and labels; `environment` and what the gateway adds may be left out."""

    def __init__(self, text: str) -> None:
        self.text = text
        self._samples: dict[str, list[tuple[Mapping[str, str], float]]] = {}
        for family in text_string_to_metric_families(text):
            for sample in family.samples:
                self._samples.setdefault(sample.name, []).append((sample.labels, sample.value))

    def __contains__(self, name: str) -> bool:
        return f"esgbatch_{name}" in self._samples

    def __call__(self, name: str, **labels: str) -> float:
        found = [
            value for has, value in self._samples[f"esgbatch_{name}"] if labels.items() <= dict(has).items()
        ]
        assert len(found) == 1, (name, labels, found)
        return found[0]

    def labels(self, name: str) -> Mapping[str, str]:
        ((labels, _),) = self._samples[f"esgbatch_{name}"]
        return labels

    def shown(self) -> dict[str, float]:
        """Every sample of ours, as one would write it; NaN as None, so that they can be compared."""
        return {
            f"{name}{sorted(labels.items())}": None if math.isnan(value) else value
            for name, samples in self._samples.items()
            if name.startswith("esgbatch_")
            for labels, value in samples
        }


class Gateway:
    def __init__(self, port: int) -> None:
        self.url = f"http://127.0.0.1:{port}"

    def metrics(self) -> Metrics:
        with urllib.request.urlopen(f"{self.url}/metrics", timeout=5) as answer:
            return Metrics(answer.read().decode())

    def is_ready(self) -> bool:
        try:
            with urllib.request.urlopen(f"{self.url}/-/ready", timeout=5) as answer:
                return bool(answer.status == 200)
        except OSError:
            return False


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@contextmanager
def gateway(folder: Path) -> Iterator[Gateway]:
    port = free_port()
    log = (folder / "pushgateway.log").open("w")
    # Debian's keeps what was pushed in a file of the machine unless it is told not to.
    command = [
        "prometheus-pushgateway",
        f"--web.listen-address=127.0.0.1:{port}",
        "--persistence.file=",
    ]
    with log, subprocess.Popen(command, stdout=log, stderr=log) as process:
        try:
            server = Gateway(port)
            until = time.monotonic() + 20
            while not server.is_ready():
                assert process.poll() is None, (folder / "pushgateway.log").read_text()
                assert time.monotonic() < until, "the pushgateway does not get ready"
                time.sleep(0.05)
            yield server
        finally:
            process.terminate()
