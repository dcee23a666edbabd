"""The drop folder, by SFTP.

paramiko brings invoke along for one directive of ssh_config, which nobody here reads: 5 MiB of the job.
It does without where invoke is missing, so it is hidden from it.
"""

import sys

if "paramiko" not in sys.modules:
    hidden = sys.modules.setdefault("invoke", None) is None  # type: ignore[arg-type]
    try:
        import paramiko  # noqa: F401
    finally:
        if hidden:
            del sys.modules["invoke"]
