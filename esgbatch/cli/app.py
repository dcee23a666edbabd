"""The program's entry: commands are put together here, and errors become exit codes here."""

from __future__ import annotations

import gc
import inspect
import os
import re
import resource
import signal
import sys
import threading
from typing import TYPE_CHECKING, Annotated

import typer

from esgbatch import __version__
from esgbatch.cli import streams
from esgbatch.cli.commands import evidence, keep, look, night, setup, training, watch

if TYPE_CHECKING:
    from esgbatch.errors import BatchError, StopRequested

# config.model.MAX_THREADS of connections, and what else is open; not imported, for `--help` to be quick.
FILES = 4096 + 1024

app = typer.Typer(
    name="esgbatch",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    help="Every active account of a firm, rated, in one encrypted file, before nine.",
)


def _take_in(family: typer.Typer) -> None:
    """Take its commands in, with their docstrings as help: lines flow, and brackets are no markup."""
    groups = [group.typer_instance for group in family.registered_groups]
    for each in (family, *filter(None, groups)):
        for command in each.registered_commands:
            paragraphs = inspect.getdoc(command.callback) or ""
            command.help = re.sub(r"(?<!\n)\n(?!\n)", " ", paragraphs).replace("[", r"\[")
    app.registered_commands += family.registered_commands
    app.registered_groups += family.registered_groups


for each in (setup.app, night.app, look.app, evidence.app, keep.app, watch.app, training.app):
    _take_in(each)


def _version(wanted: bool) -> None:
    if wanted:
        print(f"esgbatch {__version__}")
        raise typer.Exit


@app.callback()
def options(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Show the version and exit.")
    ] = False,
) -> None:
    pass


def main() -> None:
    """The console script. Files that the program makes are its user's alone unless it says otherwise."""
    os.umask(0o077)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))  # nor is what it knows written to a disk when it crashes
    signal.signal(signal.SIGTERM, _terminate)
    _allow_files()
    # A night makes millions of objects and hardly a cycle; each search goes through all that is loaded.
    gc.set_threshold(20_000)
    streams.guard()
    code = run(sys.argv[1:])
    if any(thread.name.startswith(("rating", "login", "doctor")) for thread in threading.enumerate()):
        # An aborted attempt, log-in or check may still hang; everything is committed, so it is left behind.
        os._exit(code)
    sys.exit(code)


def _allow_files() -> None:
    """As many as the most connections need, where the system lets us: each is one."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = FILES if hard == resource.RLIM_INFINITY else min(FILES, hard)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


def _terminate(signum: int, _frame: object) -> None:
    """While nothing is under way that listens for signals itself."""
    from esgbatch.errors import StopRequested

    raise StopRequested.by_signal(signum)


def run(arguments: list[str]) -> int:
    """Run one command; returns its exit code."""
    code = 0
    try:
        try:
            app(args=arguments, prog_name="esgbatch")
        except SystemExit as end:
            code = end.code if isinstance(end.code, int) else int(end.code is not None)
        if sys.stdout is not None:
            sys.stdout.flush()
    except BaseException as error:  # noqa: BLE001 - the last place where anything can become an exit code
        return code or _failed(error)
    return code


def _failed(error: BaseException) -> int:
    from esgbatch.errors import BatchError, ExitCode, StopRequested

    if isinstance(error, BatchError | StopRequested):
        _explain(error)
        return error.code
    import traceback

    from esgbatch.config.secrets import redact

    print(redact("".join(traceback.format_exception(error))), file=sys.stderr)
    print(
        "esgbatch: This is a bug; everything committed is safe. Please report the lines above.\n"
        "Next: `esgbatch resume` may go on.",
        file=sys.stderr,
    )
    return ExitCode.BUG


def _explain(error: BatchError | StopRequested) -> None:
    from esgbatch.config.secrets import redact

    print(redact(f"esgbatch: {error}"), file=sys.stderr)
    if error.advice:
        # Where no date is known, the command's own default is meant.
        print(redact(f"Next: {error.advice.replace(' --date {date}', '')}"), file=sys.stderr)
