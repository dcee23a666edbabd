"""Everything that can end a run, and the exit code each one becomes.

::

    BatchError
    ├── WrongUsage             2   the call itself is wrong
    ├── ConfigError           10   configuration or a secret is wrong
    ├── ChannelError          10   a mail or a page was not taken
    ├── RunHeld               11   another process holds this run
    ├── AccountSystemError    12   the account system failed, or gave no accounts
    ├── RatingsError          13   the ESG API as a whole, not one account
    │   ├── CredentialsRefused     it does not accept who we are
    │   ├── OutageTooLong          it stayed down past the longest hold
    │   └── ClusterLost            no worker is left to ask it
    ├── Withheld              14   a quality gate keeps the file back
    ├── EncryptionError       15
    ├── DeliveryError         16
    │   ├── SealedFileMissing      it is not on this machine: another one sealed it
    │   └── HostKeyMismatch        never retried: this may be an attack
    ├── CheckpointError       17
    ├── DeadlinePassed        18
    ├── NothingToDo           19   no such run, or nothing left to do for it
    ├── DoctorFailed          20
    ├── WatchdogAlarm         21
    └── AuditBroken           22

    StopRequested (BaseException)  a signal or the deadline, on its way out

One account's failure is never an exception: it is an `Outcome`. What is not in
this tree is a bug and ends with code 1.
"""

from __future__ import annotations

import signal
from enum import IntEnum
from typing import ClassVar


class ExitCode(IntEnum):
    """The codes of the command line. They are an interface: never renumber one."""

    DELIVERED = 0
    BUG = 1
    USAGE = 2
    CONFIG = 10
    HELD = 11
    ACCOUNTS = 12
    RATINGS = 13
    WITHHELD = 14
    ENCRYPTION = 15
    DELIVERY = 16
    CHECKPOINT = 17
    DEADLINE = 18
    NOTHING = 19
    DOCTOR = 20
    WATCHDOG = 21
    AUDIT = 22
    SIGINT = 130
    SIGTERM = 143


class BatchError(Exception):
    """A failure that an operator can act on.

    The message says what happened and why, in one paragraph and without any
    secret, account name or score; `advice` is the next thing to do, a command
    to type where there is one (`{date}` stands for the business date).
    """

    code: ClassVar[ExitCode] = ExitCode.BUG
    default_advice: ClassVar[str] = ""

    def __init__(self, message: str, *, advice: str | None = None) -> None:
        super().__init__(message)
        self.advice = self.default_advice if advice is None else advice


class WrongUsage(BatchError):
    code = ExitCode.USAGE
    default_advice = "see the command's --help"


class ConfigError(BatchError):
    code = ExitCode.CONFIG
    default_advice = "correct the configuration, then `esgbatch run`"


class ChannelError(BatchError):
    """A mail server or pager did not take what it should bring to people.

    `sent` is true where it took it for some of them: sent again, it would reach those twice.
    """

    code = ExitCode.CONFIG
    default_advice = "look at [alerts], then `esgbatch doctor`"

    def __init__(self, message: str, *, advice: str | None = None, sent: bool = False) -> None:
        super().__init__(message, advice=advice)
        self.sent = sent


class RunHeld(BatchError):
    code = ExitCode.HELD
    default_advice = "nothing to do, the other process goes on: `esgbatch status --date {date}` shows it"


class AccountSystemError(BatchError):
    code = ExitCode.ACCOUNTS
    default_advice = "when the account system answers again: `esgbatch resume --date {date}`"


class RatingsError(BatchError):
    code = ExitCode.RATINGS
    default_advice = "when the ESG API answers again: `esgbatch resume --date {date}`"


class CredentialsRefused(RatingsError):
    default_advice = (
        "correct the credentials under [ratings.auth], or have the API's owner let the job in again; "
        "then `esgbatch resume --date {date}`"
    )


class OutageTooLong(RatingsError):
    pass


class ClusterLost(RatingsError):
    default_advice = (
        "look at the scheduler and its workers, `esgbatch doctor` does, then `esgbatch resume --date {date}`"
    )


class Withheld(BatchError):
    code = ExitCode.WITHHELD
    default_advice = (
        "look at `esgbatch report --date {date}`, then `esgbatch rerun --failed --date {date}`, "
        "or `esgbatch approve --date {date} --by WHO --reason TEXT`"
    )


class EncryptionError(BatchError):
    code = ExitCode.ENCRYPTION
    default_advice = "correct what gpg complains about, then `esgbatch resume --date {date}`"


class DeliveryError(BatchError):
    code = ExitCode.DELIVERY
    default_advice = "the sealed file is kept; when the SFTP server is well: `esgbatch deliver --date {date}`"


class SealedFileMissing(DeliveryError):
    default_advice = (
        "bring it back to its place from the host that sealed it or from a backup, then "
        "`esgbatch deliver --date {date}`"
    )


class HostKeyMismatch(DeliveryError):
    default_advice = (
        "ask the server's owner for the right key by another way, correct delivery.known_hosts, "
        "then `esgbatch deliver --date {date}`"
    )


class CheckpointError(BatchError):
    code = ExitCode.CHECKPOINT
    default_advice = "correct what the database complains about, then `esgbatch resume --date {date}`"


class DeadlinePassed(BatchError):
    code = ExitCode.DEADLINE
    default_advice = "everything done is kept: `esgbatch resume --date {date}` goes on from there"


class NothingToDo(BatchError):
    code = ExitCode.NOTHING
    default_advice = "look at the date: `esgbatch report --days 7` lists the last runs"


class DoctorFailed(BatchError):
    code = ExitCode.DOCTOR


class WatchdogAlarm(BatchError):
    code = ExitCode.WATCHDOG


class AuditBroken(BatchError):
    code = ExitCode.AUDIT


class StopRequested(BaseException):
    """A signal, or the deadline, asks the run to end now.

    It is no `Exception`, so that no handler of ordinary failures keeps it.
    """

    def __init__(self, message: str, code: ExitCode) -> None:
        super().__init__(message)
        self.code = code
        self.advice = "`esgbatch resume --date {date}` goes on from there"

    @classmethod
    def by_signal(cls, signum: int) -> StopRequested:
        name = signal.Signals(signum).name
        return cls(f"Stopped by {name}; everything done is kept.", ExitCode(128 + signum))
