"""Where a night can be struck: the system calls that change something outside the process."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum


class Fault(StrEnum):
    """What happens at the call. Signals arrive before it, errors instead of it."""

    KILL = "kill"
    GROUP = "group"  # SIGKILL for the job and all in its process group, at the same moment
    TERM = "term"
    ENOSPC = "ENOSPC"
    EIO = "EIO"
    EINTR = "EINTR"

    @property
    def is_error(self) -> bool:
        return self in (Fault.ENOSPC, Fault.EIO, Fault.EINTR)

    @property
    def injection(self) -> str:
        """As `strace -e inject=CALL:` wants it. A stopped group is then killed from outside."""
        signals = {Fault.KILL: "KILL", Fault.GROUP: "STOP", Fault.TERM: "TERM"}
        return f"error={self}" if self.is_error else f"signal={signals[self]}"


@dataclass(frozen=True, slots=True)
class Scope:
    """Which process or thread is struck, in which part of the night.

    strace counts calls a thread. Without `follow` only the main thread is traced, so N is exact;
    with it the first thread or child that comes to its N-th call is struck. `gpg` is a text that
    tells the calls of gpg to strike, instead of the job itself, by their arguments.
    """

    start: str  # of `site.STARTS`
    calls: tuple[str, ...]
    follow: bool = False
    gpg: str = ""
    only_killed: bool = False


# Calls that are not met today stand here too: whoever brings one in has it struck.
FILES = ("write", "pwrite64", "writev", "pwritev", "fsync", "fdatasync", "ftruncate", "fallocate", "openat")
NAMES = ("mkdir", "rmdir", "rename", "renameat", "renameat2", "link", "unlink", "unlinkat", "symlink")
RIGHTS = ("chmod", "fchmod")
SOCKETS = ("connect", "sendto", "sendmsg", "shutdown")
PROCESSES = ("vfork", "clone", "clone3", "kill")

SCOPES: Mapping[str, Scope] = {
    "main": Scope("nothing", (*FILES, *NAMES, *RIGHTS, *SOCKETS, *PROCESSES, "flock")),
    "children": Scope("nothing", ("execve",), follow=True),
    "raters": Scope("listed", ("sendto",), follow=True),
    "courier": Scope("sealed", ("connect", "sendto"), follow=True),
    "gpg-keys": Scope("nothing", ("write",), gpg="--with-colons"),
    "gpg-check": Scope("nothing", ("write",), gpg="--set-filename check"),
    "gpg-seal": Scope("nothing", ("write",), gpg="--set-filename Firm"),
    "rerun": Scope("delivered", (*FILES, *NAMES, "sendto"), only_killed=True),
    "approve": Scope("withheld", (*FILES, *NAMES, "sendto"), only_killed=True),
}

_NO_SPACE = frozenset(
    {"write", "pwrite64", "writev", "pwritev", "fsync", "fdatasync", "fallocate", "openat"}
    | {"mkdir", "rename", "renameat", "renameat2", "link", "symlink"}
)
_DISK = _NO_SPACE | {"ftruncate", "rmdir", "unlink", "unlinkat", *RIGHTS}
_SLOW = frozenset(
    {"write", "pwrite64", "writev", "pwritev", "fsync", "fdatasync", "ftruncate", "openat", "flock"}
    | {"sendto", "sendmsg"}
)
_GROUP = frozenset({"write", "fsync", "fdatasync", "rename", "sendto", "vfork"})


def faults(scope: str, call: str) -> Iterator[Fault]:
    """The faults that make sense for a call there; ENOSPC on a chmod does not."""
    where = SCOPES[scope]
    yield Fault.KILL
    if where.only_killed:
        return
    if scope == "main":
        if call in _GROUP:
            yield Fault.GROUP
        yield Fault.TERM
    if call in _NO_SPACE:
        yield Fault.ENOSPC
    if call in _DISK or (where.follow and call in SOCKETS):
        yield Fault.EIO
    if call in _SLOW:
        yield Fault.EINTR


@dataclass(frozen=True, slots=True, order=True)
class Group:
    """All the points that differ in N only."""

    scope: str
    call: str
    fault: Fault

    def __str__(self) -> str:
        return f"{self.scope}:{self.call}:{self.fault}"


@dataclass(frozen=True, slots=True, order=True)
class Point:
    """One place to die in."""

    group: Group
    n: int

    def __str__(self) -> str:
        return f"{self.group}:{self.n}"

    @classmethod
    def parse(cls, text: str) -> Point:
        """From SCOPE:CALL:FAULT:N.

        Raises:
            ValueError: it is none.
        """
        scope, call, fault, n = text.split(":")
        if scope not in SCOPES or int(n) < 1:
            raise ValueError(text)
        return cls(Group(scope, call, Fault(fault)), int(n))


Census = Mapping[tuple[str, str], Sequence[int]]
"""For each scope and call the numbers worth striking, as an undisturbed night had them."""


def groups(census: Census) -> list[Group]:
    """Every group that has a point."""
    return sorted(
        Group(scope, call, fault)
        for scope, call in census
        for fault in faults(scope, call)
        if census[scope, call]
    )


def sample(among: Sequence[Group], census: Census, size: int) -> list[Point]:
    """`size` points, the same ones each time, spread over all groups and over the length of each."""
    golden = 0.6180339887
    chosen: dict[Point, None] = {}
    for k in range(size):
        group = among[(k * len(among) // size) if size <= len(among) else k % len(among)]
        numbers = census[group.scope, group.call]
        chosen[Point(group, numbers[int(k * golden % 1 * len(numbers))])] = None
    return list(chosen)
