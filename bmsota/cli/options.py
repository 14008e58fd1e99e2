"""The options of a command as one frozen dataclass, from which typer gets its parameters.

Each option is declared once, as an annotated field with its help; groups of options that several commands share are base
classes. A command gets the context and its options, and hands them on as they are.
"""

from __future__ import annotations

import inspect
from dataclasses import MISSING, fields
from typing import TYPE_CHECKING, Any, TypeVar, get_type_hints

import typer

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["takes"]

OptionsT = TypeVar("OptionsT")


def takes(options: type[OptionsT]) -> Callable[[Callable[[typer.Context, OptionsT], None]], Callable[..., None]]:
    """Make a command of typer out of a function of a context and *options*, a dataclass of annotated fields."""
    hints = get_type_hints(options, include_extras=True)
    defaults = {each.name: each.default for each in fields(options)}  # type: ignore[arg-type]  # a dataclass
    # What a command has of its own comes first in its help, what it shares behind it.
    names = [name for each in options.__mro__ for name in inspect.get_annotations(each) if name in defaults]
    keyword = inspect.Parameter.KEYWORD_ONLY
    parameters = [inspect.Parameter("ctx", keyword, annotation=typer.Context)]
    for name in names:
        default = inspect.Parameter.empty if defaults[name] is MISSING else defaults[name]
        parameters.append(inspect.Parameter(name, keyword, default=default, annotation=hints[name]))

    def decorate(function: Callable[[typer.Context, OptionsT], None]) -> Callable[..., None]:
        def command(ctx: typer.Context, **values: Any) -> None:
            function(ctx, options(**values))

        command.__doc__ = function.__doc__
        command.__annotations__ = {}
        command.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]  # what typer reads
        return command

    return decorate
