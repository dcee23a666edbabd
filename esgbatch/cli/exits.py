"""What each exit code means, in one place: `--help`, README and the tests all take it from here."""

from __future__ import annotations

MEANINGS: dict[int, str] = {
    0: "this date's file is delivered, now or by an earlier call; failed accounts within tolerance",
    1: "a bug: unexpected error",
    2: "wrong usage",
    10: "configuration or a secret is wrong: fix, then run",
    11: "another process holds this run: nothing to do, the other one goes on",
    12: "the account system failed, or gave no accounts: resume later",
    13: "the ESG API refused our credentials, or stayed down: fix or wait, then resume",
    14: "a quality gate withholds the file: look, then approve or rerun --failed",
    15: "encryption failed: fix, then resume",
    16: "delivery failed; the sealed file is kept: deliver",
    17: "the checkpoint database failed: fix, then resume",
    18: "the deadline passed: resume",
    19: "nothing to resume, deliver or approve for this date: look at the date",
    20: "doctor found a problem: fix before tonight",
    21: "watchdog found no file of that date: the run is late, failed, withheld or missing; people are told",
    22: "the audit trail is broken: keep it as it is, and tell those who answer for security",
    130: "stopped by SIGINT; state is safe: resume",
    143: "stopped by SIGTERM; state is safe: resume",
}

NIGHT = (0, 1, 2, 10, 11, 12, 13, 14, 15, 16, 17, 18, 22, 130, 143)
LATER = (0, 1, 2, 10, 11, 12, 13, 14, 15, 16, 17, 18, 19, 22, 130, 143)
LOOK = (0, 1, 2, 10, 17, 19)


# What they mean where a command belongs to no run that could be resumed.
BESIDE = {
    10: "configuration or a secret is wrong: fix it",
    15: "the keys or the file cannot be used: fix that",
    16: "the SFTP server gave no key, or a wrong one: look at it",
    17: "the checkpoint database cannot be used: fix it",
    19: "there is nothing of that date or account: look at what was asked for",
    130: "stopped by SIGINT: call it again",
    143: "stopped by SIGTERM: call it again",
}


def epilog(codes: tuple[int, ...], success: str = "") -> str:
    """The end of a command's help: its exit codes. Without `success` it is a command of the night."""
    meanings = MEANINGS | BESIDE | {0: success} if success else MEANINGS
    return "\n".join(("Exit codes:", "", *(f"{code}: {meanings[code]}" for code in codes)))
