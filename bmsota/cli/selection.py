"""Which nodes and which checks the user means: options that several commands share, and how they are read."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Annotated, TypeAlias

import typer

from bmsota.cli.fault_table import FaultError, FlashFault
from bmsota.flashing import Check, Targets
from bmsota.image import HardwareClass
from bmsota.node import POSITION_MAX

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from uuid import UUID

__all__ = [
    "AsJson",
    "ClassName",
    "Expect",
    "ManifestKey",
    "To",
    "Yes",
    "parse_checks",
    "parse_class_names",
    "parse_hwids",
    "parse_positions",
    "parse_targets",
]

AsJson: TypeAlias = Annotated[bool, typer.Option("--json", help="Print JSON, for tools.")]
ClassName: TypeAlias = Annotated[
    list[str] | None,
    typer.Option(
        "--class-name",
        metavar="VENDOR/NAME",
        envvar="BMSOTA_CLASS_NAMES",
        help="Show this hardware class by its name, such as acme.example/X1-slave. May be repeated.",
    ),
]
Expect: TypeAlias = Annotated[
    list[str] | None,
    typer.Option("--expect", metavar="POSITIONS", help="Require these nodes to answer, such as 0-8."),
]
ManifestKey: TypeAlias = Annotated[
    list[str] | None,
    typer.Option(
        "--manifest-key",
        metavar="PEM",
        envvar="BMSOTA_MANIFEST_KEY",
        help="Require the manifest to be signed with this public key. May be repeated.",
    ),
]
To: TypeAlias = Annotated[
    list[str] | None,
    typer.Option("--to", metavar="TARGET", help="Select master, slaves, all, or positions such as 0 or 1-4,7."),
]
Yes: TypeAlias = Annotated[bool, typer.Option("--yes", "-y", help="Do not ask for confirmation.")]

_SAMPLE_VENDOR = "bmsota.example"
_SAMPLE_CLASSES = ("F7-master", "F7-slave", "E7-master", "E7-slave")
"""Of the sample images and the bench."""

_RANGE = re.compile(r"(\d{1,3})(?:-(\d{1,3}))?")


def parse_positions(texts: Iterable[str], option: str) -> tuple[int, ...]:
    """Positions as "0", "1-4" or "1,3".

    Raises:
        FaultError: BAD_TARGET.
    """
    positions: set[int] = set()
    for text in ",".join(texts).split(","):
        match = _RANGE.fullmatch(text.strip())
        first = int(match[1]) if match else POSITION_MAX + 1
        last = int(match[2]) if match and match[2] else first
        if not first <= last <= POSITION_MAX:
            words = "master, slaves, all or " if option == "--to" else ""
            raise FaultError(
                FlashFault.BAD_TARGET,
                f"{option}: expected {words}positions 0 to {POSITION_MAX}, got {text!r}",
                advice=None if option == "--to" else "Name positions: 0 is the master, 1 to 31 are slaves.",
            )
        positions.update(range(first, last + 1))
    return tuple(sorted(positions))


def parse_targets(texts: Sequence[str]) -> tuple[Targets, tuple[int, ...]]:
    """`--to`: a word, or positions.

    Raises:
        FaultError: BAD_TARGET.
    """
    words = {each.value: each for each in Targets if each is not Targets.DEFAULT}
    if not texts:
        return Targets.DEFAULT, ()
    if len(texts) == 1 and texts[0] in words:
        return words[texts[0]], ()
    return Targets.DEFAULT, parse_positions(texts, "--to")


def parse_checks(texts: Iterable[str], among: Iterable[Check] = Check) -> frozenset[Check]:
    """`--force`: those of *among* that the command has.

    Raises:
        FaultError: UNKNOWN_CHECK.
    """
    known = {check.value: check for check in among}
    checks: set[Check] = set()
    for text in texts:
        if text not in known:
            raise FaultError(FlashFault.UNKNOWN_CHECK, f"--force: expected one of {', '.join(known)}, got {text!r}")
        checks.add(known[text])
    return frozenset(checks)


def parse_class_names(texts: Iterable[str]) -> dict[UUID, str]:
    """`--class-name VENDOR/NAME`, and the classes of the samples: class -> its name.

    Raises:
        FaultError: BAD_OPTION.
    """
    names = {HardwareClass.named(_SAMPLE_VENDOR, name).class_id: name for name in _SAMPLE_CLASSES}
    for text in texts:
        vendor, sign, name = text.partition("/")
        if not vendor or not sign or not name:
            raise FaultError(FlashFault.BAD_OPTION, f"--class-name: expected VENDOR/NAME, got {text!r}")
        names[HardwareClass.named(vendor, name).class_id] = name
    return names


def parse_hwids(texts: Iterable[str]) -> dict[int, str]:
    """`--hwid POSITION=HWID`.

    Raises:
        FaultError: BAD_OPTION or BAD_TARGET.
    """
    hwids: dict[int, str] = {}
    for text in texts:
        position, sign, hwid = text.partition("=")
        if not sign or not hwid:
            raise FaultError(FlashFault.BAD_OPTION, f"--hwid: expected POSITION=HWID, got {text!r}")
        hwids |= dict.fromkeys(parse_positions([position], "--hwid"), hwid)
    return hwids
