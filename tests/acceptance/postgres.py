"""A real PostgreSQL server in a folder of its own, for as long as a test module needs it.

Use::

    @pytest.fixture(scope="module")
    def database() -> Iterator[Postgres]:
        with Postgres() as server:
            yield server
"""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from pathlib import Path
from typing import Self

from tests.ports import free_port

INSTALL = "the PostgreSQL server is missing: `apt-get install postgresql` (any version from 13)"
SYSTEM_USER = "postgres"


class Postgres:
    """`url` is a SQLAlchemy URL with a password; a restart loses nothing, leaving loses everything."""

    user = "esg"
    password = "S3cret-of-the-database"

    def __init__(self) -> None:
        # Root's own temporary folders are closed to the user that the server has to run as.
        self._folder = Path(tempfile.mkdtemp(prefix="pg"))
        self._data = self._folder / "data"
        self._as_root = os.geteuid() == 0
        self.port = free_port()

    @property
    def url(self) -> str:
        return f"postgresql+psycopg://{self.user}:{self.password}@127.0.0.1:{self.port}/postgres"

    def __enter__(self) -> Self:
        secret = self._folder / "password"
        secret.write_text(self.password)
        if self._as_root:
            for path in (self._folder, secret):
                shutil.chown(path, SYSTEM_USER)
        self._run(
            "initdb",
            *("-D", self._data, "-U", self.user, "--pwfile", secret, "--auth", "scram-sha-256"),
            *("--encoding", "UTF8", "--locale", "C", "--no-sync"),
        )
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()
        shutil.rmtree(self._folder)

    def start(self) -> None:
        options = f"-c listen_addresses=127.0.0.1 -p {self.port} -c fsync=off -k {self._folder}"
        self._run("pg_ctl", "-D", self._data, "-w", "-l", self._folder / "log", "-o", options, "start")

    def stop(self) -> None:
        self._run("pg_ctl", "-D", self._data, "-w", "-m", "immediate", "stop")

    def _run(self, program: str, *arguments: str | Path) -> None:
        command = [_find(program), *map(str, arguments)]
        if self._as_root:
            command = ["runuser", "-u", SYSTEM_USER, "--", *command]
        # No pipes: the server would inherit them, and reading them would never end.
        with (self._folder / "commands").open("ab") as output:
            done = subprocess.run(
                command,
                check=False,
                cwd="/",
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                timeout=60,
            )
        assert done.returncode == 0, (self._folder / "commands").read_text()


def _find(program: str) -> str:
    """Debian keeps the server's programs out of the PATH."""
    folders = sorted(map(str, Path("/usr/lib/postgresql").glob("*/bin")), reverse=True)
    found = shutil.which(program, path=os.pathsep.join([os.environ.get("PATH", ""), *folders]))
    assert found, INSTALL
    return found
