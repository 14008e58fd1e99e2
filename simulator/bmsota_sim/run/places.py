"""YAML text as plain values, with the line and column of every one.

The scalars are those of YAML 1.2, so that `yes`, `22:00` and `010` mean what they look like: text, text and ten. A document is one
mapping; tags are not supported. Everything is bounded: size, nesting, and what aliases expand to.
"""

from __future__ import annotations

import difflib
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple, TypeAlias

import yaml

from bmsota.errors import ConfigurationError

if TYPE_CHECKING:
    from collections.abc import Iterable

    from yaml._yaml import Mark as CMark
    from yaml.error import Mark

__all__ = ["Document", "Path", "Place", "did_you_mean", "read_document", "shown"]

Path: TypeAlias = tuple[str | int, ...]
"""Keys and positions that lead to a value."""

# A scenario of a thousand entries has some 100 kB; PyYAML reads a megabyte in about ten seconds.
SIZE_BYTES_MAX = 1 << 20
# Far more than a scenario needs; PyYAML recurses.
DEPTH_MAX = 32
# What a document may hold once its aliases are expanded.
VALUES_MAX = 100_000
# Nobody reads more at once.
PROBLEMS_MAX = 20
TEXT_LENGTH_MAX = 60

_INTEGER = re.compile(r"[-+]?[0-9]{1,18}")
_FLOAT = re.compile(r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?")
_LONE_SURROGATE = re.compile("[\ud800-\udfff]")
_TAG = "tag:yaml.org,2002:"
_PLAIN_TAGS = {_TAG + kind for kind in ("str", "int", "float", "bool", "null", "timestamp", "merge", "value")}
_NULLS = frozenset({"", "~", "null", "Null", "NULL"})
_BOOLEANS = {"true": True, "True": True, "TRUE": True, "false": False, "False": False, "FALSE": False}


class Place(NamedTuple):
    """Where a value or a key stands; line and column count from 1."""

    line: int
    column: int
    text: str | None = None
    """A scalar as it was written, without quotes; None for mappings and lists."""


@dataclass(frozen=True, slots=True)
class Document:
    """A mapping read from YAML, and where each of its values stands."""

    name: str
    tree: dict[str, Any]
    values: dict[Path, Place]
    keys: dict[Path, Place]

    def place(self, path: Path, *, of_key: bool = False) -> Place:
        """Of the value at *path*, or of its key; where there is no such value, of the nearest one around it."""
        if of_key and path in self.keys:
            return self.keys[path]
        while path not in self.values:
            path = path[:-1]
        return self.values[path]

    def error(self, problems: Iterable[tuple[Path, str, bool]]) -> ConfigurationError:
        """One error for *problems* (path, text, whether the key is meant), in the order of the file.

        Each problem is one line: `file:line:column: key: text`.
        """
        lines = []
        for path, text, of_key in problems:
            place = self.place(path, of_key=of_key)
            key = dotted(path)
            lines.append((place.line, place.column, f"{key}: {text}" if key else text))
        # One mistake may be found in several ways; it is told once.
        unique = sorted(set(lines))
        told = [f"{self.name}:{line}:{column}: {text}" for line, column, text in unique[:PROBLEMS_MAX]]
        if len(unique) > PROBLEMS_MAX:
            told.append(f"{self.name}: {len(unique) - PROBLEMS_MAX} more problems are not listed")
        return ConfigurationError("\n".join(told))


def dotted(path: Path) -> str:
    """`timeline[2].who`."""
    text = ""
    for part in path:
        text += f"[{part}]" if isinstance(part, int) else f".{shown(part, quote=False)}"
    return text.removeprefix(".")


def shown(value: object, *, quote: bool = True) -> str:
    """A value of the file on one short line."""
    if isinstance(value, dict):
        return "a mapping"
    if isinstance(value, list | tuple):
        return "a list"
    if value is None:
        return "nothing"
    if isinstance(value, bool):
        return "true" if value else "false"
    text = repr(value) if quote else repr(value)[1:-1]
    return text if len(text) <= TEXT_LENGTH_MAX else text[: TEXT_LENGTH_MAX - 3] + "..."


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """`; did you mean 'offline'?`, or what there is if nothing is alike."""
    names = sorted(known)
    close = difflib.get_close_matches(
        word[:TEXT_LENGTH_MAX].casefold(), [name.casefold() for name in names], n=1, cutoff=0.6
    )
    if close:
        return f"; did you mean {next(name for name in names if name.casefold() == close[0])!r}?"
    return f"; there are {', '.join(names)}" if names else ""


def read_document(data: bytes, name: str) -> Document:
    """Read one mapping.

    Raises:
        ConfigurationError: not text, not YAML, or not one mapping; the message says where.
    """
    text = _decoded(data, name)
    try:
        _check_depth(text, name)
        node = yaml.compose(text, Loader=yaml.SafeLoader)
    except yaml.reader.ReaderError as error:
        line, column = _line_and_column(text, error.position)
        raise _error(
            name, line, column, f"a character that YAML does not allow: U+{_code(error.character):04X}"
        ) from error
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        raise _error(name, *_of(mark), _yaml_problem(error)) from error
    except yaml.YAMLError as error:
        raise _error(name, 1, 1, f"not valid YAML: {shown(str(error), quote=False)}") from error
    if node is None:
        raise _error(name, 1, 1, "the file is empty; expected a scenario, a mapping that starts with a name")
    return _Builder(name).document(node)


def _decoded(data: bytes, name: str) -> str:
    if len(data) > SIZE_BYTES_MAX:
        raise ConfigurationError(f"{name}: expected at most {SIZE_BYTES_MAX:,} bytes, got {len(data):,}")
    if data.startswith((b"\xff\xfe", b"\xfe\xff")):
        raise _error(name, 1, 1, "expected UTF-8 text, got UTF-16; save the file as UTF-8")
    data = data.removeprefix(b"\xef\xbb\xbf")
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError as error:
        line, column = _line_and_column(data[: error.start].decode("utf-8"), error.start)
        raise _error(name, line, column, f"expected UTF-8 text, got the byte 0x{data[error.start]:02X}") from error


def _line_and_column(text: str, position: int) -> tuple[int, int]:
    before = text[:position]
    return before.count("\n") + 1, len(before) - (before.rfind("\n") + 1) + 1


def _code(character: object) -> int:
    return ord(character) if isinstance(character, str) and len(character) == 1 else int(str(character) or "0", 0)


def _of(mark: Mark | CMark | None) -> tuple[int, int]:
    return (1, 1) if mark is None else (mark.line + 1, mark.column + 1)


def _error(name: str, line: int, column: int, text: str) -> ConfigurationError:
    return ConfigurationError(f"{name}:{line}:{column}: {text}")


def _yaml_problem(error: yaml.MarkedYAMLError) -> str:
    problem = " ".join((error.problem or error.context or "").split())
    if "'\\t'" in problem:
        return "a tab where YAML expects spaces; indent with spaces"
    if "expected a single document" in (error.context or ""):
        return "a second document; expected one scenario in the file"
    if "undefined alias" in problem:
        return f"no anchor of this name is defined: {problem.removeprefix('found undefined alias ')}"
    return f"not valid YAML: {problem}" + (f" ({error.context})" if error.context and error.problem else "")


def _check_depth(text: str, name: str) -> None:
    depth = 0
    last = None
    try:
        for event in yaml.parse(text, Loader=yaml.SafeLoader):
            last = event.end_mark
            if isinstance(event, yaml.CollectionStartEvent):
                depth += 1
                if depth > DEPTH_MAX:
                    raise _error(name, *_of(event.start_mark), f"expected at most {DEPTH_MAX} levels of nesting")
            elif isinstance(event, yaml.CollectionEndEvent):
                depth -= 1
    except (ValueError, OverflowError) as error:
        # PyYAML converts escapes and version numbers without a look at their range.
        raise _error(name, *_of(last), "not valid YAML: a number is out of range after this") from error


class _Builder:
    def __init__(self, name: str) -> None:
        self._name = name
        self._values: dict[Path, Place] = {}
        self._keys: dict[Path, Place] = {}
        self._problems: list[tuple[Path, str, bool]] = []

    def document(self, node: yaml.Node) -> Document:
        tree = self._value(node, ())
        if not isinstance(tree, dict):
            mark = node.start_mark
            raise _error(
                self._name,
                mark.line + 1,
                mark.column + 1,
                f"expected a mapping, such as `name: storm`, got {shown(tree)}",
            )
        document = Document(self._name, tree, self._values, self._keys)
        if self._problems:
            raise document.error(self._problems)
        return document

    def _value(self, node: yaml.Node, path: Path) -> Any:
        mark = node.start_mark
        if len(self._values) >= VALUES_MAX:
            raise _error(self._name, *_of(mark), f"the aliases expand to more than {VALUES_MAX:,} values")
        if len(path) > DEPTH_MAX:
            raise _error(
                self._name, *_of(mark), f"the aliases nest more than {DEPTH_MAX} levels deep, or hold themselves"
            )
        self._values[path] = Place(
            mark.line + 1, mark.column + 1, node.value if isinstance(node, yaml.ScalarNode) else None
        )
        if isinstance(node, yaml.ScalarNode):
            return self._scalar(node, path)
        if node.tag not in {f"{_TAG}map", f"{_TAG}seq"}:
            self._problems.append((path, f"tags are not supported: {shown(node.tag)}", False))
        if isinstance(node, yaml.SequenceNode):
            return [self._value(item, (*path, index)) for index, item in enumerate(node.value)]
        return self._mapping(node, path)

    def _mapping(self, node: yaml.Node, path: Path) -> dict[str, Any]:
        found: dict[str, Any] = {}
        for key_node, value_node in node.value:
            mark = key_node.start_mark
            if not isinstance(key_node, yaml.ScalarNode):
                raise _error(
                    self._name,
                    mark.line + 1,
                    mark.column + 1,
                    f"expected a word as key, got {'a mapping' if isinstance(key_node, yaml.MappingNode) else 'a list'}",
                )
            key = key_node.value
            if _LONE_SURROGATE.search(key):
                raise _error(self._name, *_of(mark), "half of a UTF-16 surrogate pair is not text")
            if key in found:
                first = self._keys[*path, key]
                raise _error(
                    self._name,
                    mark.line + 1,
                    mark.column + 1,
                    f"the key {shown(key)} is here twice; the first is in line {first.line}",
                )
            self._keys[*path, key] = Place(*_of(mark), key)
            found[key] = self._value(value_node, (*path, key))
        return found

    def _scalar(self, node: yaml.ScalarNode, path: Path) -> Any:
        text: str = node.value
        if _LONE_SURROGATE.search(text):
            self._problems.append((path, "half of a UTF-16 surrogate pair is not text", False))
        # What is plain has the tag that PyYAML finds for it in YAML 1.1; only its text counts.
        plain = node.style is None
        if node.tag not in (_PLAIN_TAGS if plain else {f"{_TAG}str"}):
            self._problems.append((path, f"tags are not supported: {shown(node.tag)}", False))
        if not plain:
            return text
        if text in _NULLS:
            return None
        if text in _BOOLEANS:
            return _BOOLEANS[text]
        if _INTEGER.fullmatch(text):
            return int(text)
        if _FLOAT.fullmatch(text):
            return float(text)
        return text
