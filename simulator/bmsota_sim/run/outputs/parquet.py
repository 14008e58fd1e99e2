"""`units.parquet`: a row for each unit, with every counter, for those who ask more of a run than its report says."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from bmsota._extras import needs
from bmsota_sim.run.expectations import COUNTERS
from bmsota_sim.run.ledger import FAULTS

if TYPE_CHECKING:
    from pathlib import Path

__all__ = ["write_parquet"]


def write_parquet(document: dict[str, Any], path: Path) -> None:
    """Write the units of a `run.json` document.

    Columns: `unit`, `group`, `number`, `vin`, `hash`, `logged_in`, each counter as int64, and for each fault the time of its first
    in seconds from the start (`first_garbage_s`, null where there was none).

    Raises:
        MissingExtraError: pyarrow is not installed.
        OSError: it cannot be written.
    """
    with needs("units.parquet", "pyarrow", "parquet"):
        import pyarrow as pa  # noqa: PLC0415 - half a second, and only a report needs it
        from pyarrow import parquet  # noqa: PLC0415
    units = document["units"]
    rows = list(units.values())
    places = [name.rpartition("/") for name in units]
    columns = {
        "unit": pa.array(list(units), pa.string()),
        "group": pa.array([group for group, _, _ in places], pa.string()),
        "number": pa.array([int(number) for _, _, number in places], pa.int64()),
        "vin": pa.array([row["vin"] for row in rows], pa.string()),
        "hash": pa.array([row["hash"] for row in rows], pa.string()),
        "logged_in": pa.array([row["logged_in"] for row in rows], pa.bool_()),
        **{name: pa.array([row["counters"].get(name, 0) for row in rows], pa.int64()) for name in COUNTERS},
        **{
            f"first_{name}_s": pa.array([row["first"].get(name, {}).get("at_s") for row in rows], pa.float64())
            for name in FAULTS
        },
    }
    parquet.write_table(pa.table(columns), path)
