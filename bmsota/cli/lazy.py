"""Commands that are imported when they are called: a command line starts in the time that the one command needs."""

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

    def _load(self, name: str) -> None:
        if name not in self.commands:
            part = typer.Typer(rich_markup_mode=self.rich_markup_mode)
            self.later[name](part)
            self.commands.update(typer.main.get_group(part).commands)
