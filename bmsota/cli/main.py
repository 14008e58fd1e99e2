"""`bmsota`: the front door of the command line.

Exit codes, the same for every command: 0 done, 1 the input or the other side was at fault (said in one line),
2 the command was called wrongly. The commands that use a CAN adapter have more (`bmsota.flashing.ExitCode`). A user's mistake
never shows a traceback.
"""

from __future__ import annotations

from importlib import import_module
from importlib.util import find_spec
from typing import Annotated

import typer
from rich.console import Console

from bmsota import __version__
from bmsota.cli import decode, encode, send
from bmsota.errors import BmsotaError

app = typer.Typer(
    name="bmsota",
    help="Update and monitor battery management systems: cloud frames, CAN, firmware images.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
)


def _print_version(value: bool) -> None:
    if value:
        typer.echo(f"bmsota {__version__}")
        raise typer.Exit


@app.callback()
def bmsota(
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Show the version and leave.")
    ] = False,
) -> None:
    """Update and monitor battery management systems."""


app.command(name="decode")(decode.command)
app.command(name="encode")(encode.command)
app.command(name="send")(send.command)

# CAN commands need the extra `can`; without it they are not offered, and the core stays light.
if find_spec("cantools") is not None:
    app.add_typer(import_module("bmsota.cli.dbc").app, name="dbc")
    _can = import_module("bmsota.cli.canbus").CanCommand
    _nodes = import_module("bmsota.cli.nodes")
    app.command(name="adapters", cls=_can)(import_module("bmsota.cli.adapters").command)
    app.command(name="nodes", cls=_can)(_nodes.nodes_command)
    app.command(name="flash", cls=_can)(import_module("bmsota.cli.flash").command)
    app.command(name="verify", cls=_can)(_nodes.verify_command)
    app.command(name="reset", cls=_can)(_nodes.reset_command)


def main() -> None:
    """Run the command line and turn the library's refusals into one line and exit code 1."""
    try:
        app()
    except BmsotaError as error:
        Console(stderr=True, soft_wrap=True).print(f"bmsota: {error}", style="red", markup=False, highlight=False)
        raise SystemExit(1) from error


if __name__ == "__main__":
    main()
