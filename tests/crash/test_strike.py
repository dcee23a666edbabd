"""A strike is found in strace's output, however strace tells it."""

from __future__ import annotations

import pytest

from tests.crash.points import Fault
from tests.crash.strike import struck_at

SENT = '11 sendto(8<socket:[1]>, "\\0\\1"..., 52, 0, NULL, 0) = 52'
KILLED = "11 +++ killed by SIGKILL +++"
OPEN = '11 sendto(8<socket:[1]>, "\\3\\320"..., 996, 0, NULL, 0 <unfinished ...>'


@pytest.mark.parametrize(
    ("fault", "lines", "found"),
    [
        (Fault.KILL, [SENT, "11 sendto(8, 996) = ?", KILLED], "11 sendto(8, 996) = ?"),
        # Another thread died between the two halves of the line.
        (Fault.KILL, [SENT, OPEN, "12 " + KILLED, "11 <... sendto resumed>)       = ?", KILLED], OPEN),
        (Fault.KILL, [SENT, OPEN, "12 " + KILLED, KILLED], OPEN),
        (Fault.KILL, [OPEN, "12 close(3) = 0", "11 <... sendto resumed>) = 996", KILLED], ""),
        (Fault.KILL, [SENT, KILLED], ""),
        (Fault.TERM, [SENT, "11 --- SIGTERM {si_signo=SIGTERM} ---"], SENT),
        (Fault.EIO, [SENT, "11 sendto(8) = -1 EIO (INJECTED)"], "11 sendto(8) = -1 EIO (INJECTED)"),
        (Fault.EIO, [SENT, "11 +++ exited with 0 +++"], ""),
    ],
)
def test_a_strike_is_found(fault: Fault, lines: list[str], found: str) -> None:
    assert struck_at(["\n".join(lines)], fault) == found
