"""Frames as a gateway hands them on to a store."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from bmsota_cloud.domain.errors import StorageUnavailableError
from bmsota_cloud.domain.telemetry import StoredFrame

from bmsota.checksums import bcc_xor

DAY_S = 86400
NOON_S = int(datetime(2026, 11, 22, 12, tzinfo=UTC).timestamp())
VIN = "LTESTVEHICLE00001"
# A file of reports on SQLite, as it was made by the first version that kept reports in files.
LAYOUT_1 = """
CREATE TABLE vehicle (number INTEGER PRIMARY KEY, vin TEXT NOT NULL UNIQUE);
CREATE TABLE frame (
    position INTEGER PRIMARY KEY,
    vehicle INTEGER NOT NULL,
    reported_at_s INTEGER NOT NULL,
    digest INTEGER NOT NULL,
    arrived_at_ns INTEGER NOT NULL,
    form INTEGER NOT NULL,
    clear BLOB NOT NULL,
    received BLOB,
    fault TEXT
);
CREATE UNIQUE INDEX frame_key ON frame (vehicle, reported_at_s, digest);
PRAGMA user_version = 1;
"""


def wire_time(at_s):
    at = datetime.fromtimestamp(at_s, UTC) + timedelta(hours=8)
    return bytes((at.year - 2000, at.month, at.day, at.hour, at.minute, at.second))


def wire_frame(vin, at_s, bodies=b"\x01\x02\x03", *, command=2, start=b"##", encryption=1, padding=b"\0"):
    unit = wire_time(at_s) + bodies
    head = (
        start
        + bytes((command, 0xFE))
        + vin.encode().ljust(17, padding)
        + bytes((encryption,))
        + len(unit).to_bytes(2, "big")
    )
    return head + unit + bytes((bcc_xor((head + unit)[2:]),))


def stored(at_s=NOON_S, *, vin=VIN, bodies=b"\x01\x02\x03", arrived_s=None, command=2, start=b"##", **fields):
    clear = wire_frame(vin, at_s, bodies, command=command, start=start)
    arrived_at_ns = (at_s if arrived_s is None else arrived_s) * 1_000_000_000 + 123_456_789
    asked = {"vin": vin, "frame": clear, "clear": clear, "reported_at_s": at_s, "arrived_at_ns": arrived_at_ns}
    return StoredFrame(**asked | {"is_backfill": command == 3} | fields)


def everything(telemetry, vin=VIN):
    return list(telemetry.read(vin, 0, 2**40))


def derive_all(telemetry):
    """Whatever this process, or one that is gone, has left."""
    while (unread := telemetry.unread(10_000)).frames:
        telemetry.save_derived([], [], unread.mark)
    while True:
        with telemetry.taking_over(10_000) as unread:
            if not unread.frames:
                return
            telemetry.save_derived([], [], unread.mark)


def with_retry(telemetry, frames):
    """As the writer does: the same call again."""
    for _ in range(3):
        try:
            return telemetry.append(frames)
        except StorageUnavailableError:
            continue
    return telemetry.append(frames)
