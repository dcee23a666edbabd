"""`scripts/setup` looks for what the tests need, and installs nothing that is there."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

ROOT = Path(__file__).parents[2]


def test_what_is_there_is_not_installed_again(tmp_path: Path) -> None:
    """Whoever runs this has run it before; without root it would end here for good."""
    apt = tmp_path / "apt-get"
    apt.write_text("#!/bin/sh\nexit 7\n")
    apt.chmod(0o755)
    python = tmp_path / "python"  # it goes no further than the system's packages
    python.write_text('#!/bin/sh\ncase "$2" in *ensurepip*) exit 0 ;; esac\nexit 1\n')
    python.chmod(0o755)
    path = f"{tmp_path}:{os.environ['PATH']}:/usr/sbin"
    ran = subprocess.run(
        [ROOT / "scripts" / "setup", "test"],
        env=os.environ | {"PATH": path, "PYTHON": str(python)},
        capture_output=True,
        text=True,
    )
    assert "apt-get" not in ran.stdout, ran
    assert "Python 3.11 or newer is needed" in ran.stderr, ran
