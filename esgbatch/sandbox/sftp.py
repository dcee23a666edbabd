"""The drop: an SFTP server that knows one user, by key, and shows one folder as its root."""

from __future__ import annotations

import os
from pathlib import Path

import asyncssh

USERNAME = "esgbatch"
DIRECTORY = "/esg"


class Drop:
    """Makes the keys under `keys`; files land in `folder`, which clients see as `/esg`."""

    def __init__(self, root: Path, keys: Path) -> None:
        self.folder = root / DIRECTORY.lstrip("/")
        self.folder.mkdir(parents=True, exist_ok=True)
        self.private_key = keys / "sftp_ed25519"
        self.known_hosts = keys / "known_hosts"
        self.connections = 0
        self._root = root
        self._host_key = asyncssh.generate_private_key("ssh-ed25519")
        self._client_key = asyncssh.generate_private_key("ssh-ed25519", comment=USERNAME)
        self.private_key.touch(0o600)
        self._client_key.write_private_key(self.private_key)

    async def start(self) -> asyncssh.SSHAcceptor:
        """Listen on a free loopback port, and write the known_hosts file for it."""
        acceptor = await asyncssh.listen(
            "127.0.0.1",
            0,
            server_factory=self._user,
            server_host_keys=[self._host_key],
            gss_host=None,  # the default asks the name service for this machine's full name
            sftp_factory=self._view,
        )
        public = self._host_key.export_public_key().decode().strip()
        self.known_hosts.write_text(f"[127.0.0.1]:{acceptor.get_port()} {public}\n", encoding="ascii")
        return acceptor

    def counts(self) -> dict[str, object]:
        """The counters, for the control endpoint."""
        return {"connections": self.connections}

    def _user(self) -> asyncssh.SSHServer:
        self.connections += 1
        return _OneUser(self._client_key.public_data)

    def _view(self, channel: asyncssh.SSHServerChannel[bytes]) -> asyncssh.SFTPServer:
        return asyncssh.SFTPServer(channel, chroot=os.fsencode(self._root))


class _OneUser(asyncssh.SSHServer):
    def __init__(self, key: bytes) -> None:
        self._key = key

    def public_key_auth_supported(self) -> bool:
        return True

    def validate_public_key(self, username: str, key: asyncssh.SSHKey) -> bool:
        return username == USERNAME and key.public_data == self._key
