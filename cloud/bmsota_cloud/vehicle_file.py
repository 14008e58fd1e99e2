"""CSV files of vehicles, as spreadsheets and `bmsota-sim vehicles --csv` write them."""

from __future__ import annotations

import base64
import binascii
import csv
from dataclasses import fields
from typing import TYPE_CHECKING, Final

from bmsota.errors import ConfigurationError
from bmsota_cloud.domain.errors import InvalidInputError
from bmsota_cloud.domain.vehicles import EquipmentData
from bmsota_cloud.services import VehicleEntry

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path
    from typing import Protocol

    class Rows(Iterator[list[str]], Protocol):
        """What `csv.reader` gives."""

        @property
        def line_num(self) -> int: ...


__all__ = ["VEHICLES_MAX", "load_vehicles", "parse_vehicles"]

# What one request may register: some seconds of work. A file on the command line may have more.
VEHICLES_MAX: Final = 5000

# What we call it, and what `bmsota-sim vehicles` does.
_COLUMNS: Final = {
    "vin": ("vin",),
    "series": ("series", "profile"),
    "project": ("project",),
    "hwid": ("hwid", "master_hwid"),
    "device_public_key": ("device_public_key", "public_key"),
    "battery_number": ("battery_number",),
    "frame_number": ("frame_number",),
    "model": ("model", "vehicle_model"),
    "plate": ("plate",),
    "city": ("city",),
}
_EQUIPMENT: Final = tuple(each.name for each in fields(EquipmentData))
_DELIMITERS: Final = (",", ";", "\t")
_KEY_HEX_DIGITS: Final = 64
# Our columns need 600 characters. How much the csv module takes depends on what else the process reads.
_LINE_LENGTH_MAX: Final = 20_000


def load_vehicles(path: Path, *, project: str = "") -> list[VehicleEntry]:
    """Read a file of vehicles; see `parse_vehicles`.

    Args:
        path: the file.
        project: of vehicles that have none in the file.

    Raises:
        ConfigurationError: it cannot be read.
        InvalidInputError: as `parse_vehicles`.
    """
    try:
        data = path.read_bytes()
    except OSError as error:
        raise ConfigurationError(f"cannot read {path}: {error.strerror}") from error
    return parse_vehicles(data, name=str(path), project=project, project_hint="name the project of all with --project")


def parse_vehicles(
    data: bytes, *, name: str, project: str = "", project_hint: str = "", count_max: int | None = None
) -> list[VehicleEntry]:
    """Parse a file of vehicles: UTF-8, a line of names, then a line for each vehicle.

    Columns: `vin`, `series` (or `profile`), `project`, `hwid` (or `master_hwid`), `device_public_key` (or `public_key`; base64, or 64
    hexadecimal digits), `battery_number`, `frame_number`, `model` (or `vehicle_model`), `plate`, `city`. Others are not looked at. Between them stand commas, semicolons or tabs.

    Args:
        data: what is in the file.
        name: of the file, for messages.
        project: of vehicles that have none in the file.
        project_hint: how the user can say *project*, for messages.
        count_max: how many vehicles it may have; None: any number.

    Raises:
        InvalidInputError: it is not UTF-8 or no CSV, a column is missing, a line has too many values or a key that is none, or it has too
            many vehicles; with each place.
    """
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise _wrong(f"{name}: expected UTF-8, got the byte 0x{error.object[error.start]:02x}") from error
    lines = text.splitlines()
    for number, line in enumerate(lines, 1):
        if len(line) > _LINE_LENGTH_MAX:
            raise _wrong(f"{name}:{number}: expected lines of up to {_LINE_LENGTH_MAX:,} characters, got {len(line):,}")
    head = lines[0] if lines else ""
    rows = csv.reader(lines, delimiter=max(_DELIMITERS, key=head.count))
    try:
        return _entries(rows, name, project, project_hint, count_max)
    except csv.Error as error:
        raise _wrong(f"{name}:{rows.line_num}: {error}") from error


def _wrong(message: str) -> InvalidInputError:
    return InvalidInputError("bad-file", message)


def _entries(rows: Rows, file_name: str, project: str, project_hint: str, count_max: int | None) -> list[VehicleEntry]:
    names = [name.strip().lower() for name in next(rows, [])]
    places = {
        what: next((names.index(name) for name in known if name in names), None) for what, known in _COLUMNS.items()
    }
    needed = ["vin", "series", *([] if project else ["project"])]
    missing = [" or ".join(_COLUMNS[what]) for what in needed if places[what] is None]
    if missing:
        hint = f"; or {project_hint}" if "project" in missing and project_hint else ""
        raise _wrong(
            f"{file_name}:1: expected the columns vin, series and project, got {', '.join(names) or 'an empty line'}: "
            f"{', '.join(missing)} is missing{hint}"
        )
    entries: list[VehicleEntry] = []
    faults: list[str] = []
    for row in rows:
        place = f"{file_name}:{rows.line_num}"
        if not any(value.strip() for value in row):
            continue
        if len(row) > len(names):
            faults.append(f"{place}: expected {len(names)} values, got {len(row)}")
            continue
        found = {what: row[at].strip() if at is not None and at < len(row) else "" for what, at in places.items()}
        try:
            key = _key(found["device_public_key"])
        except ValueError as error:
            faults.append(f"{place}: device_public_key: {error}")
            continue
        entries.append(
            VehicleEntry(
                place=place,
                vin=found["vin"],
                series=found["series"],
                project=found["project"] or project,
                hwid=found["hwid"],
                device_public_key=key,
                equipment=EquipmentData(**{what: found[what] for what in _EQUIPMENT}),
            )
        )
    if faults:
        raise _wrong("\n".join(faults[:20]))
    if count_max is not None and len(entries) > count_max:
        raise _wrong(f"{file_name}: expected at most {count_max:,} vehicles, got {len(entries):,}; divide the file")
    return entries


def _key(text: str) -> bytes | None:
    if not text:
        return None
    if len(text) == _KEY_HEX_DIGITS:
        try:
            return bytes.fromhex(text)
        except ValueError:
            pass
    try:
        return base64.b64decode(text, validate=True)
    except binascii.Error as error:
        raise ValueError(f"expected base64, or 64 hexadecimal digits, got {text[:80]!r}") from error
