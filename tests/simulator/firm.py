"""The servers around the job in a simulated night: account system, gpg, drop folder, audit trail."""

from __future__ import annotations

import hashlib
import json
import posixpath
import random
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import date
from pathlib import Path
from typing import BinaryIO

import paramiko

from esgbatch.config.model import Delivery
from esgbatch.errors import AccountSystemError, CheckpointError, EncryptionError
from esgbatch.model import Digest, Listing, SealedFile
from tests.simulator.plan import Plan
from tests.simulator.world import Process

PAGE = 100
FINGERPRINT = "A" * 40


@dataclass(frozen=True, slots=True)
class Arrival:
    """A file that appeared under its final name in the drop folder."""

    at: float
    name: str
    content: bytes


@dataclass(slots=True)
class Firm:
    """What outlives every process of the night."""

    plan: Plan
    drop: dict[str, bytes] = field(default_factory=dict)
    arrivals: list[Arrival] = field(default_factory=list)
    trail: list[tuple[str, dict[str, object]]] = field(default_factory=list)
    listed: int = 0
    sealings: int = 0
    audits: int = 0
    remote_troubles: int = 0
    dice: random.Random = field(init=False)

    def __post_init__(self) -> None:
        self.dice = random.Random(f"firm {self.plan.seed}")


class AccountSystem:
    """Implements `ports.AccountSource`; fails in the middle of the list as often as planned."""

    def __init__(self, firm: Firm, process: Process) -> None:
        self._firm = firm
        self._process = process

    def accounts(self) -> Iterator[Listing]:
        firm, plan = self._firm, self._firm.plan
        firm.listed += 1
        breaks_at = len(plan.listings) // 2 if firm.listed <= plan.listing_failures else None
        for number, listing in enumerate(plan.listings):
            if number % PAGE == 0:
                self._process.comes_to("page")
                self._process.clock.sleep(plan.page_seconds)
            if number == breaks_at:
                raise AccountSystemError("The account system answered HTTP 500.")
            yield listing


class Sealer:
    """Implements `ports.Encryptor`. Its cipher is a first line with a nonce: nothing hides the rows."""

    def __init__(self, firm: Firm, process: Process) -> None:
        self._firm = firm
        self._process = process

    def seal(self, chunks: Iterable[bytes], *, rows: Callable[[], int], name: str, target: Path) -> SealedFile:
        firm, process = self._firm, self._process
        process.comes_to("seal")
        firm.sealings += 1
        plaintext = bytearray()
        for chunk in chunks:
            process.comes_to("chunk")
            plaintext += chunk
        process.clock.sleep(firm.plan.sealing_seconds)
        if firm.sealings <= firm.plan.sealing_failures:
            raise EncryptionError("gpg failed: No space left on device.")
        content = json.dumps({"name": name, "nonce": firm.sealings}).encode() + b"\n" + plaintext
        part = target.with_name(target.name + ".part")
        part.write_bytes(content)
        process.comes_to("rename")
        part.replace(target)
        process.comes_to("sealed")
        return SealedFile(target, digest(bytes(plaintext)), digest(content), (FINGERPRINT,), rows())


def unseal(content: bytes) -> bytes:
    """The plaintext of what `Sealer` has sealed."""
    return content.partition(b"\n")[2]


def digest(content: bytes) -> Digest:
    return Digest(hashlib.sha256(content).hexdigest(), len(content))


class DropFolder:
    """What `SftpCourier` asks of a session; any request can fail, before or after it took effect."""

    can_replace = True

    def __init__(self, firm: Firm, process: Process) -> None:
        self._firm = firm
        self._process = process
        self._files = firm.drop

    def upload(self, source: BinaryIO, path: str) -> Digest:
        content = source.read()
        self._process.comes_to("remote")
        self._files[path] = content[: len(content) // 2]
        with self._asked("uploaded"):
            self._files[path] = content
        return digest(content)

    def holds(self, path: str, wanted: Digest) -> bool:
        with self._asked("remote"):
            return path in self._files and digest(self._files[path]) == wanted

    def exists(self, path: str) -> bool:
        with self._asked("remote"):
            return path in self._files

    def stat(self, path: str) -> paramiko.SFTPAttributes:
        with self._asked("remote"):
            if path not in self._files:
                raise FileNotFoundError(2, "No such file")
            attributes = paramiko.SFTPAttributes()
            attributes.st_size = len(self._files[path])
            return attributes

    def chmod(self, path: str, mode: int) -> None:
        with self._asked("remote"):
            assert path in self._files

    def replace(self, source: str, target: str) -> None:
        with self._asked("moved"):
            content = self._files.pop(source)
            name = posixpath.basename(target)
            self._firm.arrivals.append(Arrival(self._process.clock.now, name, content))
            if not self._firm.plan.remote_consumes_file:
                self._files[target] = content

    def listdir(self, folder: str) -> list[str]:
        with self._asked("remote"):
            return [posixpath.basename(path) for path in self._files]

    def remove(self, path: str) -> None:
        with self._asked("remote"):
            del self._files[path]

    @contextmanager
    def _asked(self, place: str) -> Iterator[None]:
        """A request: it may get lost, and so may its answer."""
        self._process.comes_to("remote")
        self._process.clock.sleep(self._firm.plan.remote_seconds)
        trouble = self._trouble()
        if trouble and self._firm.dice.random() < 0.5:
            raise trouble
        yield
        self._process.comes_to(place)
        if trouble:
            raise trouble

    def _trouble(self) -> Exception | None:
        firm = self._firm
        if firm.remote_troubles >= firm.plan.remote_troubles or firm.dice.random() >= firm.plan.remote_trouble:
            return None
        firm.remote_troubles += 1
        return firm.dice.choice(
            [TimeoutError(), OSError(5, "Failure"), paramiko.SSHException("closed"), EOFError()]
        )


@contextmanager
def session(firm: Firm, process: Process, _config: Delivery, _limit: float) -> Iterator[DropFolder]:
    """In the place of `open_session`."""
    folder = DropFolder(firm, process)
    folder.exists("/")  # logging in can fail, too
    yield folder


class AuditBook:
    """Implements `ports.Audit`; appends fail where the plan says so."""

    def __init__(self, firm: Firm, process: Process) -> None:
        self._firm = firm
        self._process = process

    def append(
        self,
        action: str,
        *,
        once: bool = False,
        business_date: date | None = None,
        run_id: str | None = None,
        **details: object,
    ) -> str:
        self._process.comes_to("audit")
        record = (action, {"business_date": business_date, "run_id": run_id, **details})
        if once and record in self._firm.trail:
            return f"{self._firm.trail.index(record) + 1}:{'0' * 64}"
        self._firm.audits += 1
        if self._firm.audits - 1 in self._firm.plan.audit_failures:
            raise CheckpointError("The audit trail cannot be written: No space left on device.")
        self._firm.trail.append(record)
        self._process.comes_to("audited")
        return f"{len(self._firm.trail)}:{'0' * 64}"

    def pseudonym(self, person: str) -> str:
        return person

    def head(self) -> None:
        return None
