"""watchdog, alert test: that people are told, whatever the job does."""

from __future__ import annotations

import typer

from esgbatch.cli import exits
from esgbatch.cli.options import BusinessDate, ConfigPath

app = typer.Typer()
alert = typer.Typer(no_args_is_help=True, help="Try the ways in which people are told.")
app.add_typer(alert, name="alert")


@app.command(
    epilog=exits.epilog(
        (0, 1, 2, 10, 21, 130, 143), "the file is delivered, or its run is on its way and in time"
    )
)
def watchdog(date: BusinessDate = None, config: ConfigPath = None) -> None:
    """The independent check at the deadline: end a run that is still going, alert where there is no file.

    It works where configuration or checkpoint are broken, and sends the alerts that could
    not be sent before. Start it from a scheduler entry of its own.
    """
    from esgbatch.cli.actions import watchdog

    watchdog.check(config, date)


@alert.command("test", epilog=exits.epilog((0, 1, 2, 10, 130, 143), "every channel took it"))
def rehearse(config: ConfigPath = None) -> None:
    """Send a test alert down every channel, and say which took it.

    It ends with 10 where one did not, or none is configured.
    """
    from esgbatch.cli.actions import watchdog

    watchdog.rehearse_alerts(config)


@alert.callback()
def _group() -> None:
    pass
