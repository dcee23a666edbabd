"""`decrypt`: a sealed file, opened for whoever holds a key, and told in the audit trail either way."""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import date
from io import BufferedReader
from pathlib import Path
from typing import Any, BinaryIO

from esgbatch.encryption.opening import Holder, Opened
from esgbatch.errors import BatchError, EncryptionError, WrongUsage
from esgbatch.files import replacing
from esgbatch.manifest import manifest_name
from esgbatch.operations.evidence import reason
from esgbatch.ports import Audit

_NAME = re.compile(r"FirmESGRatings_(\d{4})(\d\d)(\d\d)\.csv\.pgp", re.ASCII)


@dataclass(frozen=True, slots=True)
class Decrypted:
    """An opened file; `manifest` is the one that vouches for it, where there is one."""

    opened: Opened
    manifest: Path | None
    revision: int | None


@dataclass(frozen=True, slots=True)
class Desk:
    """Opens files for one holder of a key; manifests are looked for beside the file and in `archive`."""

    audit: Audit
    holder: Holder
    archive: Path

    def to_file(self, source: Path, target: Path, *, force: bool) -> tuple[Decrypted, Path]:
        """Decrypt to a file of mode 0600, which appears only when all is well. Returns it, too.

        Raises:
            WrongUsage: it is there already, or cannot be written.
        """
        try:
            if target.is_dir():
                target = target / source.name.removesuffix(".pgp")
            if target.exists() and target.samefile(source):
                raise WrongUsage(f"{target} is the encrypted file itself.", advice="choose another --output")
            if target.exists() and not force:
                raise WrongUsage(
                    f"{target} is already there.", advice="choose another --output, or add --force"
                )
            with replacing(target) as file:
                done = self._open(source, file.fileno(), "file")
        except OSError as error:
            raise WrongUsage(
                f"{target} cannot be written: {error.strerror}.", advice="choose another --output"
            ) from None
        return done, target

    @contextmanager
    def to_memory(self, source: Path) -> Iterator[tuple[Decrypted, BinaryIO]]:
        """Decrypt to memory: nothing of it may be shown before all of it is known to be well."""
        with os.fdopen(os.memfd_create("plaintext"), "w+b") as file:
            done = self._open(source, file.fileno(), "stdout")
            file.seek(0)
            yield done, file

    def _open(self, source: Path, output: int, where: str) -> Decrypted:
        facts: dict[str, Any] = {"file": source.name}
        day = None
        try:
            with _reading(source) as file:
                facts["encrypted_sha256"] = hashlib.file_digest(file, "sha256").hexdigest()
                facts["bytes"] = file.tell()
                file.seek(0)
                day = _business_date(source.name)
                found = self._manifest(source, facts["encrypted_sha256"])
                opened = self.holder.open(file, output)
            done = _compared(opened, facts["encrypted_sha256"], found)
        except BatchError as error:
            self.audit.append("decryption_refused", business_date=day, **facts, **reason(error))
            raise
        self.audit.append(
            "decrypted",
            business_date=day,
            **facts,
            plaintext_sha256=opened.plaintext.sha256,
            key=opened.key,
            revision=done.revision,
            vouched=done.manifest is not None,
            output=where,
        )
        return done

    def _manifest(self, source: Path, sha256: str) -> tuple[Path, dict[str, Any]] | None:
        """The manifest of exactly this file.

        Raises:
            EncryptionError: one of the same name is there, and is of another file.
        """
        beside = source.with_name(source.name.removesuffix(".csv.pgp") + ".manifest.json")
        day = _business_date(source.name)
        archived = [] if day is None else sorted(self.archive.glob(f"{day:%Y%m%d}/*/{manifest_name(day)}"))
        known = [(path, content) for path in (beside, *archived) if (content := _read(path)) is not None]
        for path, content in known:
            if content.get("encrypted", {}).get("sha256") == sha256:
                return path, content
        if known:
            raise EncryptionError(
                f"{source.name} is not the file that the manifest {known[0][0]} tells of: it was changed, "
                "or is another revision.",
                advice="get the file and its manifest again, then `esgbatch audit verify`",
            )
        return None


def _compared(opened: Opened, sha256: str, found: tuple[Path, dict[str, Any]] | None) -> Decrypted:
    """Raises: EncryptionError: the file changed meanwhile, or holds something else than its manifest says."""
    if opened.encrypted.sha256 != sha256:
        raise EncryptionError("The file was changed while it was read.", advice="get it again")
    if found is None:
        return Decrypted(opened, None, None)
    path, content = found
    if content.get("plaintext", {}).get("sha256") != opened.plaintext.sha256:
        raise EncryptionError(
            f"What is in the file is not what the manifest {path} tells of.", advice="`esgbatch audit verify`"
        )
    return Decrypted(opened, path, content.get("revision"))


@contextmanager
def _reading(source: Path) -> Iterator[BufferedReader]:
    try:
        with source.open("rb") as file:
            yield file
    except OSError as error:
        raise WrongUsage(
            f"{source} cannot be read: {error.strerror}.",
            advice="name a file that this user can read: `esgbatch decrypt FILE`",
        ) from None


def _read(path: Path) -> dict[str, Any] | None:
    try:
        content = json.loads(path.read_bytes())
    except (OSError, ValueError, RecursionError):
        return None
    return content if isinstance(content, dict) and isinstance(content.get("encrypted"), dict) else None


def _business_date(name: str) -> date | None:
    found = _NAME.fullmatch(name)
    try:
        return None if found is None else date(int(found[1]), int(found[2]), int(found[3]))
    except ValueError:
        return None
