"""`python -m esgbatch.sandbox`: the sandbox as a process of its own."""

from __future__ import annotations

import argparse
import asyncio
import gc
import os
import signal
import stat
import sys
import tempfile
from collections.abc import Callable
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

import uvloop

from esgbatch.sandbox.faults import ACCOUNT_FAULTS, COUNTED_FAULTS, BadFault, Faults
from esgbatch.sandbox.places import Places
from esgbatch.sandbox.server import Options, Sandbox

SERVER_OPTIONS = {
    "accounts": "active accounts of the firm",
    "seed": "everything follows from it",
    "inactive": "inactive rows in the account list",
    "duplicates": "rows with an ID that was listed before, and another name",
    "refused": "rows without an ID",
    "odd_ids": "accounts whose ID or name needs care, a quarter of all at most",
    "token_lifetime": "seconds",
}


def main(arguments: list[str] | None = None) -> int:
    """Run until SIGTERM, SIGINT, or, if asked for, the end of standard input."""
    parser = _parser()
    chosen = vars(parser.parse_args(arguments))
    as_json, with_parent = chosen.pop("json"), chosen.pop("exit_with_parent")
    if with_parent and not stat.S_ISFIFO(os.fstat(sys.stdin.fileno()).st_mode):
        parser.error("--exit-with-parent needs a pipe as standard input")
    try:
        options = _options(chosen)
        options.firm()
    except (BadFault, ValueError) as error:
        parser.error(str(error))
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(_serve(options, as_json=as_json, with_parent=with_parent))
    return 0


async def _serve(options: Options, *, as_json: bool, with_parent: bool) -> None:
    loop, stop = asyncio.get_running_loop(), asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    if with_parent:
        loop.add_reader(sys.stdin.fileno(), _drain, stop.set)
    async with Sandbox(options) as places:
        # What is here now stays to the end: the collector need not look at it again and again.
        gc.freeze()
        print(places.to_json() if as_json else _describe(places), flush=True)
        await stop.wait()


def _drain(at_end: Callable[[], None]) -> None:
    if not os.read(sys.stdin.fileno(), 4096):
        at_end()


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser("esgbatch.sandbox", description="The firm's neighbours on this machine.")
    add = parser.add_argument
    add("--root", type=Path, help="folder for keys, mails and delivered files; default: a new one")
    add("--json", action="store_true", help="say where everything is as one line of JSON")
    add("--exit-with-parent", action="store_true", help="end when standard input, a pipe of the caller, ends")
    defaults = Options(Path())
    for name, text in SERVER_OPTIONS.items():
        default = getattr(defaults, name)
        add(_flag(name), type=type(default), default=default, help=f"{text} ({default})")
    add("--ignore-status", action="store_true", help="list inactive accounts whatever is asked for")
    add("--no-auth", action="store_true", help="the ESG API wants no token")
    add(
        "--tls", action="store_true", help="account system, login and ESG API speak https, by a CA of their own"
    )
    add("--mail-security", choices=("starttls", "none"), default="starttls")
    faults = parser.add_argument_group("faults, switched at run time by POST {control}/faults")
    for each in fields(Faults):
        if each.name == "accounts":
            continue
        kind = type(each.default)
        if kind is bool:
            faults.add_argument(_flag(each.name), action="store_true", help=each.metadata["help"])
        else:
            faults.add_argument(_flag(each.name), type=kind, default=each.default, help=each.metadata["help"])
    kinds = ", ".join((*ACCOUNT_FAULTS, *(f"{name}[:N]" for name in COUNTED_FAULTS)))
    faults.add_argument(
        "--account-fault", action="append", default=[], metavar="ID=KIND", help=f"KIND is one of {kinds}"
    )
    return parser


def _options(chosen: dict[str, Any]) -> Options:
    """From the command line's names to `Options`.

    Raises:
        BadFault: a fault that does not exist, or with a value that it cannot have.
    """
    pairs = (text.rpartition("=") for text in chosen.pop("account_fault"))
    changes: dict[str, Any] = {"accounts": {account_id: kind for account_id, _, kind in pairs}}
    changes |= {each.name: chosen.pop(each.name) for each in fields(Faults) if each.name != "accounts"}
    faults = Faults().changed(changes)
    root = chosen.pop("root") or Path(tempfile.mkdtemp(prefix="esgbatch-sandbox-"))
    return Options(root, auth=not chosen.pop("no_auth"), faults=faults, **chosen)


def _flag(name: str) -> str:
    return "--" + name.replace("_", "-")


def _describe(places: Places) -> str:
    lines = []
    for name, value in asdict(places).items():
        if isinstance(value, dict):
            lines += [f"{name}.{key}: {each}" for key, each in value.items()]
        else:
            lines.append(f"{name}: {value}")
    lines.append(f"""to switch a fault: curl -d '{{"outage": "503"}}' {places.control_url}/faults""")
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())
