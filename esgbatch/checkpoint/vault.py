"""Names and scores at rest: encrypted by a key of their run, which the master key wraps.

AES-256-GCM (NIST SP 800-38D) with random nonces: a run has some millions of values at most, far
below the 2**32 that its section 8.3 allows a key. What a value is (name or scores), its run, its
position and, for a name, the account's ID are authenticated with it, so that a value that was
changed, or moved to another row, is refused. To delete a run's key is to delete its names and
scores, wherever a copy of them still lies.
"""

from __future__ import annotations

import hashlib
import hmac
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from sqlalchemy import Connection, select, update

from esgbatch.checkpoint.tables import run_keys
from esgbatch.errors import CheckpointError, ConfigError

KEY_BYTES = 32
NONCE_BYTES = 12
NONCES = 256
_UNREADABLE = (InvalidTag, ValueError, TypeError)


@dataclass(frozen=True, slots=True, repr=False)
class MasterKey:
    """The key that wraps the runs' keys; `id` names it without telling it."""

    key: bytes

    @property
    def id(self) -> str:
        return hmac.new(self.key, b"esgbatch checkpoint key", hashlib.sha256).hexdigest()[:16]

    def wrap(self, run: int, run_key: bytes) -> bytes:
        nonce = os.urandom(NONCE_BYTES)
        return nonce + AESGCM(self.key).encrypt(nonce, run_key, b"run key/%d" % run)

    def unwrap(self, run: int, wrapped: bytes) -> bytes:
        """Raises CheckpointError: it was changed, or is another run's."""
        try:
            nonce, sealed = wrapped[:NONCE_BYTES], wrapped[NONCE_BYTES:]
            return AESGCM(self.key).decrypt(nonce, sealed, b"run key/%d" % run)
        except _UNREADABLE:
            raise _changed(f"The key of run {run}") from None


class MasterKeys(Protocol):
    """Where the master key comes from; `masterkey.py` has the two ways."""

    def known(self) -> Mapping[str, MasterKey]:
        """Every key that may have wrapped something, by ID; the one to use first, if there is one.

        Raises:
            ConfigError: a key cannot be read, or is none.
        """

    def make(self) -> MasterKey:
        """The first key of a checkpoint that has none yet."""


class NoKeys:
    """For those who look at figures only: names and scores stay closed to them."""

    def known(self) -> Mapping[str, MasterKey]:
        return {}

    def make(self) -> MasterKey:
        raise ConfigError("The checkpoint was opened without its key.")


class RunCipher:
    """Encrypts and opens the values of one run; it encrypts in one thread only."""

    def __init__(self, run: int, key: bytes) -> None:
        self._run = run
        self._cipher = AESGCM(key)
        self._nonces = _nonces()

    def seal_names(self, rows: Sequence[tuple[int, str, str]]) -> list[bytes]:
        """The names of rows of position, account ID and name."""
        encrypt, name_of = self._cipher.encrypt, self._name_of
        return [
            nonce + encrypt(nonce, name.encode(), name_of(position, account_id))
            for (position, account_id, name), nonce in zip(rows, self._nonces, strict=False)
        ]

    def open_name(self, position: int, account_id: str, sealed: bytes) -> str:
        """Raises CheckpointError: it is not the name that was written here, for this account."""
        try:
            nonce, text = sealed[:NONCE_BYTES], sealed[NONCE_BYTES:]
            return self._cipher.decrypt(nonce, text, self._name_of(position, account_id)).decode()
        except _UNREADABLE:
            raise _changed(f"The name at position {position} of run {self._run}") from None

    def open_names(
        self, positions: Iterable[int], account_ids: Iterable[str], sealed: Iterable[bytes]
    ) -> list[str]:
        """Many names, cheaper than one by one.

        Raises:
            CheckpointError: as `open_name`.
        """
        decrypt, name_of, n = self._cipher.decrypt, self._name_of, NONCE_BYTES
        rows = list(zip(positions, account_ids, sealed, strict=True))
        try:
            return [decrypt(name[:n], name[n:], name_of(at, who)).decode() for at, who, name in rows]
        except _UNREADABLE:
            return [self.open_name(*row) for row in rows]

    def open_many_scores(self, positions: Iterable[int], sealed: Iterable[bytes | None]) -> list[str | None]:
        """Likewise, None staying None.

        Raises:
            CheckpointError: as `open_scores`.
        """
        decrypt, scores_of, n = self._cipher.decrypt, self._scores_of, NONCE_BYTES
        rows = list(zip(positions, sealed, strict=True))
        try:
            return [
                None if each is None else decrypt(each[:n], each[n:], scores_of(at)).decode()
                for at, each in rows
            ]
        except _UNREADABLE:
            return [None if each is None else self.open_scores(at, each) for at, each in rows]

    def seal_scores(self, position: int, scores: str) -> bytes:
        nonce = next(self._nonces)
        return nonce + self._cipher.encrypt(nonce, scores.encode(), self._scores_of(position))

    def open_scores(self, position: int, sealed: bytes) -> str:
        """Raises CheckpointError: they are not the scores that were written here."""
        try:
            nonce, text = sealed[:NONCE_BYTES], sealed[NONCE_BYTES:]
            return self._cipher.decrypt(nonce, text, self._scores_of(position)).decode()
        except _UNREADABLE:
            raise _changed(f"The scores at position {position} of run {self._run}") from None

    def _name_of(self, position: int, account_id: str) -> bytes:
        return f"{self._run}/name/{position}/{account_id}".encode()

    def _scores_of(self, position: int) -> bytes:
        return f"{self._run}/scores/{position}".encode()


class Vault:
    """The runs' keys."""

    def __init__(self, masters: MasterKeys) -> None:
        self._masters = masters
        self._ciphers: dict[int, RunCipher] = {}

    def begin(self, connection: Connection, run: int) -> None:
        """Give a new run its key, in the transaction that makes the run.

        Raises:
            ConfigError: the master key is missing, or is another one than wraps the other runs' keys.
        """
        # In use is what the database says: another process may be at rotating the master key.
        used = connection.scalars(select(run_keys.c.master).order_by(run_keys.c.run.desc()).limit(1)).first()
        known = self._masters.known()
        master = _find(known, used) if used is not None else next(iter(known.values()), None)
        if master is None:
            master = self._masters.make()
        wrapped = master.wrap(run, os.urandom(KEY_BYTES))
        connection.execute(run_keys.insert().values(run=run, master=master.id, wrapped=wrapped))

    def cipher(self, connection: Connection, run: int) -> RunCipher:
        """What opens and closes the run's values.

        Raises:
            ConfigError: the master key is missing or another one.
            CheckpointError: the run's key is gone, and with it every name and score, or it was changed.
        """
        cipher = self._ciphers.get(run)
        if cipher is None:
            row = connection.execute(
                select(run_keys.c.master, run_keys.c.wrapped).where(run_keys.c.run == run)
            ).first()
            if row is None:
                raise CheckpointError(
                    f"The key of run {run} is gone: its names and scores cannot be read any more.",
                    advice="look at the date: `esgbatch report --date {date}`",
                )
            key = _find(self._masters.known(), row.master).unwrap(run, row.wrapped)
            cipher = self._ciphers[run] = RunCipher(run, key)
        return cipher

    def forget(self) -> None:
        """Let go of every run's key."""
        self._ciphers.clear()

    def check(self, connection: Connection) -> int:
        """Try the master key on every run's key; returns their number.

        Raises:
            ConfigError, CheckpointError: as `cipher`.
        """
        runs = connection.scalars(select(run_keys.c.run)).all()
        for run in runs:
            self.cipher(connection, run)
        return len(runs)


def rewrap(connection: Connection, known: Mapping[str, MasterKey], new: MasterKey) -> int:
    """Let `new` wrap every run's key; returns how many had another. Names and scores stay as they are.

    Raises:
        ConfigError: a run's key is wrapped by a master key that is not known.
    """
    rows = connection.execute(select(run_keys).where(run_keys.c.master != new.id)).all()
    for run, master, wrapped in rows:
        again = new.wrap(run, _find(known, master).unwrap(run, wrapped))
        connection.execute(update(run_keys).where(run_keys.c.run == run).values(master=new.id, wrapped=again))
    return len(rows)


def _find(known: Mapping[str, MasterKey], wanted: str) -> MasterKey:
    if wanted not in known:
        raise ConfigError(
            f"The checkpoint's names and scores are locked with key {wanted}, and {_listed(known)}.",
            advice="bring back that key, as checkpoint.key, as checkpoint.previous_key or as its file in the "
            "keyring folder, then `esgbatch doctor`",
        )
    return known[wanted]


def _listed(ids: Iterable[str]) -> str:
    named = ", ".join(ids)
    return f"what is here is key {named}" if named else "no key is here"


def _nonces() -> Iterator[bytes]:
    """Random ones, of which the system gives many for almost the price of one."""
    while True:
        block = os.urandom(NONCE_BYTES * NONCES)
        for start in range(0, len(block), NONCE_BYTES):
            yield block[start : start + NONCE_BYTES]


def _changed(where: str) -> CheckpointError:
    return CheckpointError(
        f"{where} in the checkpoint is not what was written there: somebody has changed or moved it.",
        advice="restore the checkpoint from a backup, and tell those who answer for security",
    )
