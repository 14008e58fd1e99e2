"""Write a page in docs/dbc/ for every file in dbc/, and their table in docs/dbc.md.

`python scripts/make_dbc_pages.py` writes them, `--check` only says whether they are as this script would write them (exit
code 1 if not), `FILE.dbc` prints the page of any DBC. Everything about messages and signals comes from the DBC, through
the library's own loader; a new file needs nothing here.

Strategy. Buses repeat messages: one for each slave, one for each place in a block. Messages whose names differ only in a
two-digit number, whose ids rise evenly with it and whose signals are laid out alike become one entry, with NN in place of
the number; whatever differs in another way stays an entry of its own.
"""

from __future__ import annotations

import argparse
import re
import sys
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from bmsota.adapters.files import load_dbc

sys.path.insert(0, str(Path(__file__).resolve().parent))
from pages import made

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from bmsota.signals import Message, Signal

ROOT = Path(__file__).resolve().parents[1]

# A number of two digits, not a part of a longer one.
NUMBER = re.compile(r"(?<!\d)\d\d(?!\d)")
# Three in a row are worth "to".
RUN_MIN = 3


# ---- families of messages


@dataclass(frozen=True)
class Family:
    """One message, or several that differ only in a number."""

    name: str  # with NN for the number
    numbers: tuple[int, ...]  # empty: one message
    members: tuple[Message, ...]
    comment: str
    signals: tuple[Signal, ...]  # names and comments with NN and N

    @property
    def first(self) -> Message:
        return self.members[0]


def families(messages: Iterable[Message]) -> list[Family]:
    """The messages in the order of the file, a family where its first member stands."""
    groups: dict[str, list[Message]] = {}
    for message in messages:
        groups.setdefault(NUMBER.sub("NN", message.name, count=1), []).append(message)
    found: list[Family] = []
    for name, members in groups.items():
        family = together(name, members) if len(members) > 1 else None
        if family is not None:
            found.append(family)
        else:
            found += [Family(each.name, (), (each,), each.comment, each.signals) for each in members]
    return found


def together(name: str, members: list[Message]) -> Family | None:
    """One entry for *members*, or None if they differ in more than their number."""
    numbers = [int(match.group()) for each in members if (match := NUMBER.search(each.name))]
    first = members[0]
    step = (members[1].can_id - first.can_id) // (numbers[1] - numbers[0])
    comment = template([each.comment for each in members], numbers)
    if comment is None or step < 1:
        return None
    if any(
        each.can_id - first.can_id != step * (number - numbers[0])
        or (each.length, each.is_extended_id, each.is_fd, each.cycle_time_ms, len(each.signals))
        != (first.length, first.is_extended_id, first.is_fd, first.cycle_time_ms, len(first.signals))
        for number, each in zip(numbers, members, strict=True)
    ):
        return None
    signals: list[Signal] = []
    for versions in zip(*(each.signals for each in members), strict=True):
        signal_name = template([each.name for each in versions], numbers)
        multiplexer = template([each.multiplexer or "" for each in versions], numbers)
        said = [(each.comment, number) for each, number in zip(versions, numbers, strict=True) if each.comment]
        signal_comment = template([text for text, _ in said], [number for _, number in said])
        if signal_name is None or multiplexer is None or signal_comment is None:
            return None
        alike = {
            replace(each, name=signal_name, comment=signal_comment, multiplexer=multiplexer or None, receivers=())
            for each in versions
        }
        if len(alike) > 1:
            return None
        signals.append(alike.pop())
    return Family(name, tuple(numbers), tuple(members), comment, tuple(signals))


def template(texts: Sequence[str], numbers: Sequence[int]) -> str | None:
    """The text all have in common, with N (two digits: NN) where each has its own number; None if they differ elsewhere."""
    if len(set(texts)) <= 1:
        return texts[0] if texts else ""
    pieces = [re.split(r"(\d+)", text) for text in texts]
    if len({len(each) for each in pieces}) > 1:
        return None
    result = ""
    for column in zip(*pieces, strict=True):
        if len(set(column)) == 1:
            result += column[0]
        elif all(piece.isdigit() and int(piece) == number for piece, number in zip(column, numbers, strict=True)):
            result += "NN" if all(len(piece) == 2 for piece in column) else "N"
        else:
            return None
    return result


# ---- words and numbers


def number_text(value: float) -> str:
    return repr(int(value)) if float(value).is_integer() else repr(value)


def can_id_text(can_id: int, *, extended: bool) -> str:
    return f"0x{can_id:08X}" if extended else f"0x{can_id:03X}"


def id_of(family: Family) -> str:
    """The id, or how it follows from the number."""
    first = family.first
    if not family.numbers:
        return can_id_text(first.can_id, extended=first.is_extended_id)
    step = (family.members[1].can_id - first.can_id) // (family.numbers[1] - family.numbers[0])
    base = can_id_text(first.can_id - step * family.numbers[0], extended=first.is_extended_id)
    return f"{base} + NN" if step == 1 else f"{base} + {step} * NN"


def names_text(names: Iterable[str]) -> str:
    """Node names, runs of numbered ones as "Slave01 to Slave16"."""
    runs: list[list[str]] = []
    for name in names:
        if runs and name == following(runs[-1][-1]):
            runs[-1].append(name)
        else:
            runs.append([name])
    parts: list[str] = []
    for run in runs:
        parts += [f"{run[0]} to {run[-1]}"] if len(run) >= RUN_MIN else run
    return ", ".join(parts)


def following(name: str) -> str:
    """The name with the next number, if it ends with one of two digits."""
    return f"{name[:-2]}{int(name[-2:]) + 1:02d}" if re.search(r"\d\d$", name) else ""


def numbers_text(numbers: Sequence[int]) -> str:
    return names_text(f"{number:02d}" for number in numbers)


def sender_of(family: Family) -> str:
    """The node's name with NN if it carries the message's number, else the names."""
    common = template([" ".join(each.senders) for each in family.members], family.numbers or (0,))
    return (
        common.replace(" ", ", ")
        if common is not None
        else names_text(unique(n for m in family.members for n in m.senders))
    )


def receivers_of(family: Family) -> str:
    return names_text(unique(name for each in family.members for signal in each.signals for name in signal.receivers))


def unique(names: Iterable[str]) -> list[str]:
    return list(dict.fromkeys(names))


def kind_of(message: Message) -> str:
    return f"{'CAN FD' if message.is_fd else 'classic CAN'}, {29 if message.is_extended_id else 11}-bit ids"


def cell(text: str) -> str:
    """Text that stays in its cell of a table."""
    return " ".join(text.split()).replace("|", "\\|")


# ---- pages


@dataclass(frozen=True)
class Source:
    """A DBC: what the library loads, and the two things in the head of the file that it does not keep."""

    name: str
    messages: tuple[Message, ...]
    comment: str
    nodes: tuple[str, ...]

    @classmethod
    def read(cls, path: Path) -> Source:
        text = path.read_text(encoding="utf-8", errors="replace")
        database = load_dbc(path)
        comment = re.search(r'^CM_\s+"((?:[^"\\]|\\.)*)"', text, re.MULTILINE)
        nodes = re.search(r"^BU_\s*:(.*)$", text, re.MULTILINE)
        return cls(
            name=path.stem,
            messages=database.messages,
            comment=" ".join(comment[1].split()) if comment else "",
            nodes=tuple(nodes[1].split()) if nodes else (),
        )

    @property
    def ids(self) -> str:
        """From the lowest to the highest, per kind of id."""
        parts = []
        for extended in (False, True):
            ids = [each.can_id for each in self.messages if each.is_extended_id is extended]
            if ids:
                ends = unique(can_id_text(end, extended=extended) for end in (min(ids), max(ids)))
                parts.append(" to ".join(ends))
        return ", ".join(parts)

    @property
    def frames(self) -> str:
        return "; ".join(unique(kind_of(each) for each in self.messages))


def page_text(source: Source) -> str:
    """The page of one DBC."""
    found = families(source.messages)
    lines = [
        f"<!-- Made by scripts/make_dbc_pages.py from {source.name}.dbc. Do not edit. -->",
        "",
        f"# `{source.name}.dbc`",
        "",
        *([cell(source.comment), ""] if source.comment else []),
        "| | |",
        "|---|---|",
        f"| frames | {source.frames} |",
        f"| ids | {source.ids} |",
        f"| nodes | {names_text(source.nodes)} |",
        f"| messages | {len(source.messages)}, in {len(found)} layouts |",
        "",
        "## Messages",
        "",
        "| message | id | bytes | from | cycle |",
        "|---|---|---|---|---|",
        *(overview_line(family) for family in found),
        *(section(family) for family in found),
    ]
    return "\n".join(lines) + "\n"


def overview_line(family: Family) -> str:
    cycle = f"{family.first.cycle_time_ms} ms" if family.first.cycle_time_ms else "on event"
    link = f"[{family.name}](#{family.name.lower()})"
    return f"| {link} | {id_of(family)} | {family.first.length} | {sender_of(family)} | {cycle} |"


def section(family: Family) -> str:
    """One entry: what it is, where it goes, its signals."""
    first, last = family.members[0], family.members[-1]
    lines = ["", f"### {family.name}", ""]
    if family.comment:
        lines += [cell(family.comment), ""]
    facts = [f"id {id_of(family)}", kind_of(first), f"{first.length} bytes"]
    facts.append(f"every {first.cycle_time_ms} ms" if first.cycle_time_ms else "on event")
    facts.append(f"from {sender_of(family) or 'none'}; to {receivers_of(family) or 'none'}")
    lines.append("; ".join(facts) + ".")
    if family.numbers:
        lines.append(f"`{first.name}` to `{last.name}`: NN is {numbers_text(family.numbers)}.")
    lines += protection_of(family)
    is_multiplexed = any(signal.multiplexer for signal in family.signals)
    head = [
        "signal",
        *(["in frames with"] if is_multiplexed else []),
        "bits",
        "value",
        "range",
        "unit",
        "names",
        "meaning",
    ]
    lines += ["", f"| {' | '.join(head)} |", "|---" * len(head) + "|"]
    by_name = {signal.name: signal for signal in family.signals}
    for signal in sorted(family.signals, key=lambda each: place_of(each, by_name)):
        lines.append(signal_line(signal, by_name, is_multiplexed=is_multiplexed))
    return "\n".join(lines)


def protection_of(family: Family) -> list[str]:
    """What protects the frames, in a sentence; none if nothing does."""
    protection = family.first.protection
    if protection is None:
        return []
    parts = [f"Protected: E2E profile {protection.profile.value}"]
    if protection.crc:
        parts.append(f"CRC in {protection.crc}")
    if protection.counter:
        parts.append(f"alive counter in {protection.counter}")
    if protection.data_id is not None:
        is_can_id = all(each.protection and each.protection.data_id == each.can_id for each in family.members)
        data_id = "the CAN id" if is_can_id else f"0x{protection.data_id:04X}"
        parts.append(f"data id {data_id} ({protection.data_id_mode.value})")
    return [f"{', '.join(parts)}; see [signals.md](../signals.md#message-protection)."]


def place_of(signal: Signal, by_name: dict[str, Signal]) -> tuple[tuple[int, ...], int]:
    """Signals of every frame first, then those of each multiplexer number, each in the order of their bits."""
    path: tuple[int, ...] = ()
    above = signal
    while above.multiplexer:
        path = (min(above.multiplexer_ids), *path)
        above = by_name[above.multiplexer]
    return path, signal.start_bit


def signal_line(signal: Signal, by_name: dict[str, Signal], *, is_multiplexed: bool) -> str:
    value = "raw" if signal.scale == 1 else f"raw * {number_text(signal.scale)}"
    value += f" {'+' if signal.offset > 0 else '-'} {number_text(abs(signal.offset))}" if signal.offset else ""
    value += ", signed" if signal.is_signed else ", float" if signal.is_float else ""
    limits = ""
    if signal.minimum is not None and signal.maximum is not None:
        limits = f"{number_text(signal.minimum)} to {number_text(signal.maximum)}"
    cells = [
        signal.name,
        *([condition_of(signal, by_name)] if is_multiplexed else []),
        f"{signal.start_bit}, {signal.length_bits} {'LE' if signal.byte_order == 'little' else 'BE'}",
        value,
        limits,
        signal.unit,
        ", ".join(f"{raw} {name}" for raw, name in sorted(signal.choices.items())),
        signal.comment,
    ]
    return "| " + " | ".join(cell(each) for each in cells) + " |"


def condition_of(signal: Signal, by_name: dict[str, Signal]) -> str:
    """Which numbers of the multiplexer bring this signal, by name where the value table has one."""
    if not signal.multiplexer:
        return "any"
    names = by_name[signal.multiplexer].choices
    numbers = [f"{number} {names[number]}" if number in names else str(number) for number in signal.multiplexer_ids]
    return f"{signal.multiplexer} = {', '.join(numbers)}"


# ---- the index, whose sentences a person writes

INDEX_WITHOUT_WORDS = "# CAN messages\n\n<!-- made: files -->\n<!-- /made -->\n"


def files_table(sources: Sequence[Source]) -> str:
    rows = ["| file | what it is for | frames | ids | nodes |", "|---|---|---|---|---|"]
    for source in sources:
        # The first sentence of the file's own comment.
        what = re.split(r"(?<=\.)\s", source.comment, maxsplit=1)[0]
        cells = [
            f"[{source.name}.dbc](dbc/{source.name}.md)",
            what,
            source.frames,
            source.ids,
            names_text(source.nodes),
        ]
        rows.append("| " + " | ".join(cell(each) for each in cells) + " |")
    return "\n".join(rows)


def outputs() -> dict[Path, str]:
    """Every file this script is responsible for, and what must be in it."""
    sources = [Source.read(path) for path in sorted((ROOT / "dbc").glob("*.dbc"))]
    pages = {ROOT / "docs" / "dbc" / f"{source.name}.md": page_text(source) for source in sources}
    index = ROOT / "docs" / "dbc.md"
    text = index.read_text(encoding="utf-8") if index.exists() else INDEX_WITHOUT_WORDS
    return {index: made(text, {"files": lambda: files_table(sources)}), **pages}


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--check", action="store_true", help="write nothing, exit with 1 if a page is out of date")
    parser.add_argument(
        "file", nargs="?", type=Path, metavar="FILE", help="a DBC whose page is printed, nothing written"
    )
    options = parser.parse_args(arguments)
    if options.file is not None:
        try:
            print(page_text(Source.read(options.file)), end="")
        except OSError as error:
            parser.error(f"{options.file}: expected a readable file, got: {error.strerror or error}")
        return 0
    wanted = outputs()
    stale = [path for path, text in wanted.items() if not path.exists() or path.read_text(encoding="utf-8") != text]
    # A page whose DBC is gone would describe what is not there.
    orphans = [path for path in sorted((ROOT / "docs" / "dbc").glob("*.md")) if path not in wanted]
    for path in [*stale, *orphans]:
        name = path.relative_to(ROOT)
        if options.check:
            print(f"out of date, run scripts/make_dbc_pages.py: {name}")
        elif path in wanted:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(wanted[path], encoding="utf-8")
            print(f"written: {name}")
        else:
            path.unlink()
            print(f"removed: {name}")
    return 1 if options.check and (stale or orphans) else 0


if __name__ == "__main__":
    sys.exit(main())
