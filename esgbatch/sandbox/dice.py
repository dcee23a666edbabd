"""Chance that can be repeated: every draw is a pure function of the seed and of what it is drawn for."""

from __future__ import annotations

from hashlib import blake2b


class Dice:
    """Draws keyed by a label and numbers, so that order and concurrency change nothing."""

    def __init__(self, seed: int) -> None:
        self._key = str(seed).encode()[:64]

    def bits(self, label: bytes, number: int, more: int = 0) -> int:
        """160 random bits. `label` has 16 bytes at most: it is BLAKE2's personalisation."""
        message = b"%d/%d" % (number, more)
        return int.from_bytes(blake2b(message, digest_size=20, key=self._key, person=label).digest(), "big")

    def uniform(self, label: bytes, number: int, more: int = 0) -> float:
        """A number in (0, 1)."""
        return ((self.bits(label, number, more) >> 108) + 0.5) / (1 << 52)

    def text(self, label: bytes, number: int) -> str:
        """32 hex digits, for the tokens and passwords of a sandbox."""
        return f"{self.bits(label, number) >> 32:032x}"
