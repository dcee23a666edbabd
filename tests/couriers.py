"""What tests of delivery share: a package, a clock that does not wait, a listener that remembers."""

from __future__ import annotations

import hashlib
import random
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from esgbatch.model import Digest, Package, Step

NAME = "FirmESGRatings_20261124.csv.pgp"
MANIFEST = "FirmESGRatings_20261124.manifest.json"


@dataclass
class Notes:
    """A ledger kept in memory; `at` runs when a step is noted, before (or after) it is written down."""

    at: dict[Step, Callable[[], None]] = field(default_factory=dict)
    written_first: bool = False
    done: list[Step] = field(default_factory=list)

    def __call__(self, step: Step, detail: str) -> None:
        assert detail
        if self.written_first:
            self.done.append(step)
        self.at.get(step, lambda: None)()
        if not self.written_first:
            self.done.append(step)


def make_package(folder: Path, *, revision: int = 1, size: int = 300_000) -> Package:
    """A sealed file with its manifest, the same for the same revision and size."""
    content = random.Random(revision).randbytes(size)
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"revision-{revision}.pgp"
    path.write_bytes(content)
    digest = Digest(hashlib.sha256(content).hexdigest(), size)
    manifest = b'{"schema": 1, "revision": %d}\n' % revision
    return Package(path, NAME, digest, MANIFEST, manifest, token=f"5f2c-r{revision}")


def has_arrived(package: Package, drop: Path) -> bool:
    """Whether exactly this package lies in the drop folder, whole, and nothing else."""
    return (
        sorted(entry.name for entry in drop.iterdir()) == sorted([package.name, package.manifest_name])
        and (drop / package.name).read_bytes() == package.path.read_bytes()
        and (drop / package.manifest_name).read_bytes() == package.manifest
    )
