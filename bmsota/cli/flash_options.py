"""The options of `bmsota flash`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

import typer

from bmsota.cli.bus_options import BusOptions
from bmsota.cli.selection import ClassName, Expect, ManifestKey, To, Yes
from bmsota.cli.waiting import Wait

__all__ = ["FlashOptions"]


@dataclass(frozen=True, slots=True, kw_only=True)
class FlashOptions(BusOptions):
    """The options of `bmsota flash`."""

    source: Annotated[
        str,
        typer.Argument(metavar="RELEASE_OR_IMAGE", help="A release's manifest (.manifest.cose) or one signed image."),
    ]
    to: To = None
    is_plan_only: Annotated[
        bool, typer.Option("--plan", help="Discover nodes and show what would happen; write nothing.")
    ] = False
    yes: Yes = False
    force: Annotated[
        list[str] | None,
        typer.Option("--force", metavar="CHECK", help="Continue although this check refuses. May be repeated."),
    ] = None
    expect: Expect = None
    wait: Wait = None
    hwid: Annotated[
        list[str] | None,
        typer.Option(
            "--hwid", metavar="POSITION=HWID", help="Require this hardware id at a position. May be repeated."
        ),
    ] = None
    access_key: Annotated[
        str | None,
        typer.Option(
            "--access-key", metavar="PEM", envvar="BMSOTA_ACCESS_KEY", help="Unlock locked nodes with this private key."
        ),
    ] = None
    image_key: Annotated[
        list[str] | None,
        typer.Option(
            "--image-key",
            metavar="PEM",
            envvar="BMSOTA_IMAGE_KEY",
            help="Require images to be signed with this public key. May be repeated.",
        ),
    ] = None
    manifest_key: ManifestKey = None
    class_name: ClassName = None
    report: Annotated[
        str | None, typer.Option("--report", metavar="FILE", help="Write the JSON report to this file.")
    ] = None
    report_dir: Annotated[
        str,
        typer.Option(
            "--report-dir",
            metavar="DIR",
            envvar="BMSOTA_REPORT_DIR",
            help="Write report and log to this directory; it is created if missing.",
        ),
    ] = "."
    log: Annotated[
        str | None,
        typer.Option(
            "--log", metavar="FILE", help="Write the CAN log to this file: .log (candump), .blf, .asc or .trc."
        ),
    ] = None
    no_log: Annotated[bool, typer.Option("--no-log", help="Write no CAN log.")] = False
    no_broadcast: Annotated[
        bool, typer.Option("--no-broadcast", help="Flash nodes one by one, even where they could share a transfer.")
    ] = False
    no_compress: Annotated[
        bool, typer.Option("--no-compress", help="Send images uncompressed, even where nodes could unpack them.")
    ] = False
