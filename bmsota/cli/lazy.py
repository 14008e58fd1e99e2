"""Commands that are imported when they are called: a command line starts in the time that the one command needs.

What is wrong with a number is said here too, in the words of every other fault.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar

import typer
from typer.core import TyperGroup

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

__all__ = ["LazyGroup"]


class LazyGroup(TyperGroup):
    """A group some of whose commands are in modules that are imported late. Give a subclass of it to `typer.Typer(cls=...)`."""

    later: ClassVar[Mapping[str, Callable[[typer.Typer], None]]]
    """By command, in the order of the help, behind the commands that the app has itself: what adds it to an app, and perhaps others."""

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        """The command, or None."""
        # All of them for a name that is none: something like it is suggested.
        for name in [cmd_name] if cmd_name in self.later else self.later:
            self._load(name)
        return super().get_command(ctx, cmd_name)

    def list_commands(self, ctx: Any) -> list[str]:
        """The names, for the help."""
        for name in self.later:
            self._load(name)
        own = [name for name in super().list_commands(ctx) if name not in self.later]
        return [*own, *self.later]

    def invoke(self, ctx: Any) -> Any:
        """Run the command; what is wrong with an option is said in our words, not in those of the library that checks it."""
        try:
            return super().invoke(ctx)
        except typer.BadParameter as error:
            error.message = _told(error.__cause__) or error.message
            raise

    def _load(self, name: str) -> None:
        if name not in self.commands:
            part = typer.Typer(rich_markup_mode=self.rich_markup_mode)
            self.later[name](part)
            self.commands.update(typer.main.get_group(part).commands)


def _told(cause: Any) -> str:
    """A failed check of Pydantic's in our words; empty if it is none of them."""
    faults = cause.errors() if hasattr(cause, "errors") else []
    if len(faults) != 1:
        return ""
    kind, limits, got = faults[0]["type"], faults[0].get("ctx", {}), faults[0]["input"]
    wanted = {
        "greater_than_equal": "{ge:g} or more",
        "greater_than": "more than {gt:g}",
        "less_than_equal": "at most {le:g}",
        "less_than": "less than {lt:g}",
        "int_parsing": "a whole number",
        "int_from_float": "a whole number",
        "float_parsing": "a number",
    }.get(kind)
    return f"expected {wanted.format(**limits)}, got {got}" if wanted else ""
