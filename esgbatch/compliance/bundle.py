"""The audit bundle: what an auditor takes away and checks without us; `VERIFY.txt` in it says how.

The records that were asked for are whole. Of every other one `chain.tsv` has the number, the two
hashes that link it, and the SHA-256 of its line: so the chain can be followed from the first
record to the last, and a record that is not shown cannot be exchanged later for another.
"""

from __future__ import annotations

import hashlib
import json
import zipfile
from collections.abc import Callable, Iterable, Mapping
from datetime import datetime
from importlib.resources import files
from typing import BinaryIO

from esgbatch import __version__
from esgbatch.compliance.audit import Anchor, Entry

SCHEMA = 1
SUMS = "SHA256SUMS"
SIGNATURE = "SHA256SUMS.asc"
SIGNING_KEY = "signing-key.asc"


class Bundle:
    """A bundle in the making."""

    def __init__(self, output: BinaryIO, created: datetime) -> None:
        self._zip = zipfile.ZipFile(output, "w", zipfile.ZIP_DEFLATED)
        self._created = created
        self._sums: list[str] = []

    def write(
        self,
        entries: Iterable[Entry],
        wanted: Callable[[Entry], bool],
        *,
        manifests: Mapping[str, bytes],
        anchors: Iterable[Anchor],
        asked: Mapping[str, str],
        sign: Callable[[bytes], tuple[bytes, bytes] | None],
    ) -> int:
        """Write everything; returns the number of records that are shown.

        `manifests` are files by name, `asked` the filters, and `sign` gives an armored detached
        signature and the public key that checks it. The files are in memory one at a time.

        Raises:
            AuditBroken: the trail is broken; the bundle is not to be used.
        """
        records: list[bytes] = []
        chain: list[str] = []
        head: Anchor | None = None
        for entry in entries:
            head = entry.anchor
            digest = hashlib.sha256(entry.line).hexdigest()
            chain.append(f"{head.n}\t{entry.record['prev']}\t{head.mac}\t{digest}\n")
            if wanted(entry):
                records.append(entry.line + b"\n")
        self._add("records.jsonl", b"".join(records))
        self._add("chain.tsv", "".join(chain).encode("ascii"))
        for name, content in manifests.items():
            self._add(f"manifests/{name}", content)
        kept = "".join(f"{anchor.n}\t{anchor.mac}\t{json.dumps(anchor.source)}\n" for anchor in anchors)
        self._add("anchors.tsv", kept.encode("ascii"))
        about = {
            "schema": SCHEMA,
            "created": self._created.isoformat(timespec="seconds").replace("+00:00", "Z"),
            "program": f"esgbatch {__version__}",
            "asked": dict(asked),
            "records": len(records),
            "head": None if head is None else str(head),
        }
        self._add("about.json", json.dumps(about, indent=2).encode("ascii") + b"\n")
        self._add("VERIFY.txt", (files("esgbatch.compliance") / "VERIFY.txt").read_bytes())
        sums = "".join(self._sums).encode()
        signed = sign(sums)
        self._add(SUMS, sums)
        if signed is not None:
            self._add(SIGNATURE, signed[0])
            self._add(SIGNING_KEY, signed[1])
        self._zip.close()
        return len(records)

    def _add(self, name: str, content: bytes) -> None:
        moment = self._created
        info = zipfile.ZipInfo(
            name, (moment.year, moment.month, moment.day, moment.hour, moment.minute, moment.second)
        )
        info.external_attr = 0o100600 << 16
        info.compress_type = zipfile.ZIP_DEFLATED
        self._zip.writestr(info, content)
        self._sums.append(f"{hashlib.sha256(content).hexdigest()}  {name}\n")
