"""The SFTP client: paramiko's, with what OpenSSH's own client does and paramiko does not.

paramiko waits for the replies to pipelined requests in the requests' order and throws away
those that it was not waiting for, failures included; it forgets which extensions the server
has announced; and it hides the result of closing a file. Here every reply is kept until
somebody has looked at it, in whatever order they come.
"""

from __future__ import annotations

import errno
import hashlib
from collections import deque
from collections.abc import Iterable, Iterator
from functools import cached_property
from typing import TYPE_CHECKING, BinaryIO

import paramiko
from paramiko.sftp import (
    CMD_CLOSE,
    CMD_DATA,
    CMD_EXTENDED,
    CMD_EXTENDED_REPLY,
    CMD_HANDLE,
    CMD_INIT,
    CMD_NAMES,
    CMD_OPEN,
    CMD_READ,
    CMD_STATUS,
    CMD_VERSION,
    CMD_WRITE,
    SFTP_FLAG_CREATE,
    SFTP_FLAG_READ,
    SFTP_FLAG_WRITE,
    int64,
)

from esgbatch.model import Digest

FSYNC = "fsync@openssh.com"
LIMITS = "limits@openssh.com"
POSIX_RENAME = "posix-rename@openssh.com"
UNEXPLAINED = errno.EREMOTEIO

PROTOCOL_VERSION = 3
# What every server takes (draft-ietf-secsh-filexfer-02, 3), and what OpenSSH's takes.
BLOCK = 32 * 1024
LARGEST_BLOCK = 255 * 1024
UNDER_WAY = 2 * 1024 * 1024  # as much as OpenSSH's client has
SLOWEST = 64 * 1024  # bytes a second: a line as slow as this is allowed for
RECEIVED = 512 * 1024  # at once: of more, more would have to be kept
PRIVATE = 0o600


if TYPE_CHECKING:

    class _Base(paramiko.SFTPClient):
        """paramiko's own building blocks, which its type stubs leave out."""

        def _send_packet(self, kind: int, message: paramiko.Message) -> None: ...
        def _read_packet(self) -> tuple[int, bytes]: ...
        def _request(self, kind: int, *arguments: object) -> tuple[int, paramiko.Message]: ...
        def _async_request(self, receiver: object, kind: int, *arguments: object) -> int: ...
        def _read_response(self) -> object: ...
        def _convert_status(self, message: paramiko.Message) -> None: ...
else:
    _Base = paramiko.SFTPClient


class SftpClient(_Base):
    """One SFTP session. After any error but a plain refusal by the server it is of no more use."""

    def __init__(self, channel: paramiko.Channel, timeout: float) -> None:
        """`timeout` is the channel's, in seconds."""
        self._timeout = timeout
        self.extensions: dict[str, bytes] = {}
        self._channel = channel
        self._replies: dict[int, tuple[int, paramiko.Message]] = {}
        self._received, self._taken = b"", 0
        super().__init__(channel)

    def upload(self, source: BinaryIO, path: str) -> Digest:
        """Write everything in `source` to `path` and see it on the server's disk, where it has fsync.

        An existing file is written over, not emptied first: whatever a stalled session of an
        earlier attempt still executes then writes the same bytes to the same places.

        Returns:
            The digest of what was sent.
        """
        _, longest = self._longest
        handle = self._open(path, SFTP_FLAG_WRITE | SFTP_FLAG_CREATE)
        content = hashlib.sha256()
        size = 0

        def writes() -> Iterator[tuple[object, ...]]:
            nonlocal size
            while block := source.read(longest):
                content.update(block)
                yield CMD_WRITE, handle, int64(size), block
                size += len(block)

        for _ in self._pipelined(writes(), UNDER_WAY // longest):
            pass
        if (self.stat(path).st_size or 0) > size:
            self.truncate(path, size)
        if FSYNC in self.extensions:
            self._request(CMD_EXTENDED, FSYNC, handle)
        self._request(CMD_CLOSE, handle)
        return Digest(content.hexdigest(), size)

    def holds(self, path: str, digest: Digest) -> bool:
        """Whether the file at `path`, read back in full, has this size and hash; False where there is none."""
        try:
            if self.stat(path).st_size != digest.size:
                return False
            handle = self._open(path, SFTP_FLAG_READ)
        except FileNotFoundError:
            return False
        content = hashlib.sha256()
        for block in self._blocks(handle, digest.size):
            content.update(block)
        self._request(CMD_CLOSE, handle)
        return content.hexdigest() == digest.sha256

    @property
    def can_replace(self) -> bool:
        """Whether a rename over an existing file is one atomic step, as in POSIX."""
        return POSIX_RENAME in self.extensions

    def replace(self, source: str, target: str) -> None:
        """Rename over `target`; unless `can_replace`, it is an error that there is one (filexfer-02, 6.5)."""
        if self.can_replace:
            self.posix_rename(source, target)
        else:
            self.rename(source, target)

    def exists(self, path: str) -> bool:
        """Whether there is anything at `path`."""
        try:
            self.stat(path)
        except FileNotFoundError:
            return False
        return True

    @cached_property
    def _longest(self) -> tuple[int, int]:
        """The longest read and write: what the server says it takes (OpenSSH's PROTOCOL, 4.8), up to a bound.

        Every request costs the same, however long it is; but its answer must come in time on a slow line.
        """
        if LIMITS not in self.extensions:
            return BLOCK, BLOCK
        try:
            kind, reply = self._request(CMD_EXTENDED, LIMITS)
        except OSError as error:
            if error.errno is None:  # not the server's answer
                raise
            return BLOCK, BLOCK
        if kind != CMD_EXTENDED_REPLY:
            return BLOCK, BLOCK
        _packet, read, write = reply.get_int64(), reply.get_int64(), reply.get_int64()
        most = max(BLOCK, min(LARGEST_BLOCK, int(SLOWEST / 2 * self._timeout)))
        return min(read or BLOCK, most), min(write or BLOCK, most)

    def _open(self, path: str, flags: int) -> bytes:
        attributes = paramiko.SFTPAttributes()
        attributes.st_mode = PRIVATE
        kind, reply = self._request(CMD_OPEN, path, flags, attributes)
        if kind != CMD_HANDLE:
            raise paramiko.SFTPError("the server gave no handle for an opened file")
        return reply.get_binary()

    def _blocks(self, handle: bytes, size: int) -> Iterator[bytes]:
        longest, _ = self._longest
        extents = [(offset, min(longest, size - offset)) for offset in range(0, size, longest)]
        reads = ((CMD_READ, handle, int64(offset), length) for offset, length in extents)
        replies = self._pipelined(reads, UNDER_WAY // longest)
        for (offset, length), reply in zip(extents, replies, strict=True):
            block = _data(*reply)
            yield block
            while (got := len(block)) < length:  # a server may give less than asked for
                offset, length = offset + got, length - got
                block = _data(*self._request(CMD_READ, handle, int64(offset), length))
                yield block

    def _pipelined(
        self, requests: Iterable[tuple[object, ...]], most: int
    ) -> Iterator[tuple[int, paramiko.Message]]:
        """Send up to `most` requests ahead of their replies; these in the requests' order, a failure raised."""
        waiting: deque[int] = deque()
        for kind, *arguments in requests:
            assert isinstance(kind, int)
            if len(waiting) == most:
                yield self._reply(waiting.popleft())
            waiting.append(self._async_request(self, kind, *arguments))
        while waiting:
            yield self._reply(waiting.popleft())

    def _reply(self, number: int) -> tuple[int, paramiko.Message]:
        while number not in self._replies:
            self._read_response()
        return self._replies.pop(number)

    def _read_all(self, size: int) -> bytes:
        """The next bytes, out of all that have come: paramiko moves the rest of its buffer at each read."""
        parts: list[bytes] = []
        while size:
            if self._taken == len(self._received):
                self._received, self._taken = self._channel.recv(RECEIVED), 0
                if not self._received:
                    raise EOFError
            part = self._received[self._taken : self._taken + size]
            self._taken += len(part)
            size -= len(part)
            parts.append(part)
        return b"".join(parts)

    def _async_response(self, kind: int, message: paramiko.Message, number: int) -> None:
        """Called by paramiko for each reply to an `_async_request` of ours."""
        if kind == CMD_STATUS:
            self._convert_status(message)
        self._replies[number] = kind, message

    def _request(self, kind: int, *arguments: object) -> tuple[int, paramiko.Message]:
        try:
            return super()._request(kind, *arguments)
        except OSError as error:
            if error.errno is None:  # not the server's answer
                raise
            operation = arguments[0] if kind == CMD_EXTENDED else CMD_NAMES[kind]
            raise OSError(error.errno, f"{operation}: {error.strerror}") from error

    def _convert_status(self, message: paramiko.Message) -> None:
        """Give the failures that the protocol does not explain (SSH_FX_FAILURE and others) an errno, too."""
        try:
            super()._convert_status(message)
        except OSError as error:
            raise OSError(error.errno or UNEXPLAINED, error.strerror or str(error)) from None

    def _send_version(self) -> int:
        """Begin the session, and keep what paramiko drops: the extensions announced (filexfer-02, 4)."""
        self._send_packet(CMD_INIT, paramiko.Message().add_int(PROTOCOL_VERSION))
        kind, data = self._read_packet()
        if kind != CMD_VERSION:
            raise paramiko.SFTPError("what answers is no SFTP server")
        reply = paramiko.Message(data)
        version = reply.get_int()
        while reply.get_remainder():
            name = reply.get_text()
            self.extensions[name] = reply.get_binary()
        return version


def _data(kind: int, reply: paramiko.Message) -> bytes:
    if kind != CMD_DATA:
        raise paramiko.SFTPError("the server answered a read without data")
    data = reply.get_binary()
    if not data:
        raise paramiko.SFTPError("the server answered a read with no byte")
    return data
