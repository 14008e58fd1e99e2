"""`bmsota-sim ctl`: steer a run that goes on, from a second terminal."""

from __future__ import annotations

from pathlib import Path  # noqa: TC003 - typer reads the annotations
from typing import Annotated, Any

import typer
from rich.console import Console

from bmsota.errors import ConfigurationError
from bmsota_sim._exit_codes import WRONG_USAGE
from bmsota_sim.run.steering import SOCKET_NAME, ask_run

__all__ = ["register"]

_HELP = "status | stop | storm [WHO] | outage TIME | fault WHO VERB [KEY=VALUE]..."


def request_of(words: list[str]) -> dict[str, Any]:
    """What is asked of the run.

    Raises:
        ConfigurationError: the words are not understood.
    """
    match words:
        case ["status" | "stop" as do]:
            return {"do": do}
        case ["storm"]:
            return {"do": "storm"}
        case ["storm", who]:
            return {"do": "storm", "who": who}
        case ["outage", time]:
            return {"do": "platform_outage", "for": _value(time)}
        case ["fault", who, verb, *settings]:
            values: dict[str, Any] = {"do": verb, "who": who}
            for setting in settings:
                key, equals, value = setting.partition("=")
                if not equals or key in {"do", "who", "at"}:
                    raise ConfigurationError(f"expected KEY=VALUE, such as slave=2, got {setting}")
                values[key] = _value(value)
            return values
        case _:
            raise ConfigurationError(f"expected {_HELP}, got {' '.join(words)}")


def _socket(run: Path | None, path: Path | None) -> Path:
    if run is not None and path is None:
        return run / SOCKET_NAME
    if path is None or run is not None:
        raise ConfigurationError("give either --run FOLDER or --ctl PATH")
    return path


def _value(text: str) -> object:
    """A number where it is one, as in a scenario file."""
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            continue
    return text


def register(app: typer.Typer) -> None:
    """Add the command to *app*."""

    @app.command()
    def ctl(
        words: Annotated[list[str], typer.Argument(metavar="WHAT", help=_HELP)],
        run: Annotated[
            Path | None, typer.Option("--run", file_okay=False, help="The folder of the run's report.")
        ] = None,
        ctl_: Annotated[Path | None, typer.Option("--ctl", help="The socket, where the run was given --ctl.")] = None,
    ) -> None:
        """Steer a run that goes on: let the platform be away, drop all links, let a unit fail, stop, or ask how far it is.

        What was done is in the run's run.json, with its time, and counts as an event of the timeline: one that did not happen makes
        the run red.
        """
        try:
            typer.echo(ask_run(_socket(run, ctl_), request_of(words)))
        except ConfigurationError as error:
            Console(stderr=True, soft_wrap=True).print(str(error), style="red", markup=False, highlight=False)
            raise typer.Exit(WRONG_USAGE) from error
