"""A dataclass of options as the parameters of a command."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

import pytest
import typer
from typer.testing import CliRunner

from bmsota.cli.app import app
from bmsota.cli.options import takes


@dataclass(frozen=True, slots=True, kw_only=True)
class Shared:
    speed: Annotated[float, typer.Option("--speed", min=0.0, help="How fast.")] = 1.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Own(Shared):
    name: Annotated[str, typer.Argument(metavar="NAME")]
    port: Annotated[list[int] | None, typer.Option("--port")] = None


@takes(Own)
def command(ctx: typer.Context, options: Own) -> None:
    """Say it back."""
    typer.echo(f"{ctx.info_name}: {options}")


@pytest.fixture
def run(runner):
    return runner(command)


def test_options_and_defaults_arrive_in_one_object(run):
    assert run("a").stdout == "command: Own(speed=1.0, name='a', port=None)\n"
    assert run("b", "--port", "1", "--speed", "2", "--port", "3").stdout.endswith(
        "Own(speed=2.0, name='b', port=[1, 3])\n"
    )


@pytest.mark.parametrize(
    "arguments", [[], ["a", "--speed", "-1"], ["a", "--port", "x"], ["a", "b"], ["a", "--nothing"]]
)
def test_typer_checks_them(run, arguments):
    assert run(*arguments).exit_code == 2


def test_the_help_has_the_commands_own_options_first(run):
    shown = run("--help").stdout
    assert "Say it back." in shown
    assert shown.index("NAME") < shown.index("--port") < shown.index("--speed")


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ("decode --port 0", "'--port': expected 1 or more, got 0"),
        ("decode --port 65536", "'--port': expected at most 65535, got 65536"),
        ("decode --port x", "'--port': expected a whole number, got x"),
        ("send x --to host:1 --speed -1", "'--speed': expected 0 or more, got -1"),
        ("send x --to host:1 --speed fast", "'--speed': expected a number, got fast"),
    ],
)
def test_a_number_that_is_none_or_out_of_range_is_told_in_our_words(arguments, said):
    done = CliRunner().invoke(app, arguments.split())
    assert done.exit_code == 2
    assert f"Invalid value for {said}\n" in done.stderr


@pytest.mark.parametrize(
    ("arguments", "has_words"),
    [("reset master --yes", False), ("nodes --expect all", False), ("verify --to slave", True)],
)
def test_the_cure_names_only_what_the_option_takes(arguments, has_words):
    """`--to` takes words, what is reset or expected are positions."""
    done = CliRunner().invoke(app, arguments.split())
    assert done.exit_code == 2
    assert ("`all`" in done.stderr) is has_words
    assert "0 is the master, 1 to 31 are slaves" in done.stderr
