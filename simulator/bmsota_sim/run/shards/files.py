"""A shard's part as a file, for shards that nobody coordinates: a Kubernetes Indexed Job, say, or machines one logs in to.

`shard-INDEX-of-COUNT.json.gz`: what the run was given and how the shard ended, with what it knew at each moment that has to be judged.
Arrays are sparse: most counters of most units are 0. A file is whole or not there.
"""

from __future__ import annotations

import gzip
import json
import os
import re
from dataclasses import asdict, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from bmsota.errors import ConfigurationError
from bmsota_sim.run.driving import Generator
from bmsota_sim.run.expectations import COUNTERS
from bmsota_sim.run.given import RunGiven
from bmsota_sim.run.ledger import LATENCY_BUCKETS, First, LedgerPart
from bmsota_sim.run.outputs.series import Sample
from bmsota_sim.run.shards.part import EventFacts, Shard, ShardEnd, ShardPart

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

__all__ = ["find_parts", "load_part", "write_part"]

FORMAT = 1
_NAME = re.compile(r"shard-(\d+)-of-(\d+)\.json\.gz")
# A part of 100,000 units has some 100 MB of text; more is none of ours.
PART_SIZE_BYTES_MAX = 1 << 30


def write_part(folder: Path, shard: Shard, given: RunGiven, end: ShardEnd) -> Path:
    """Write the part of *shard* into *folder*, which other shards may write into too.

    Raises:
        OSError: it cannot be written.
    """
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"shard-{shard.index}-of-{shard.count}.json.gz"
    # How the shards are carried out, and where this one reads its files, makes no other run of it.
    document = {
        "format": FORMAT,
        "index": shard.index,
        "count": shard.count,
        "given": asdict(replace(given, workers=None, dask=None)),
        "end": _end_document(end),
    }
    temporary = path.with_name(f"{path.name}.new")
    try:
        temporary.write_bytes(gzip.compress(json.dumps(document).encode(), 6, mtime=0))
        os.replace(temporary, path)  # noqa: PTH105 - says what it does
    finally:
        temporary.unlink(missing_ok=True)
    return path


def find_parts(paths: Sequence[Path]) -> list[Path]:
    """The parts that are meant: files, and all of a folder.

    Raises:
        ConfigurationError: there is none.
    """
    found: list[Path] = []
    for path in paths:
        if path.is_dir():
            inside = sorted(each for each in path.iterdir() if _NAME.fullmatch(each.name))
            if not inside:
                raise ConfigurationError(f"{path}: no part of a run, such as shard-0-of-5.json.gz")
            found += inside
        elif path.is_file():
            found.append(path)
        else:
            raise ConfigurationError(f"no such file or folder: {path}")
    return found


def load_part(path: Path) -> tuple[Shard, ShardEnd]:
    """Read a part.

    Raises:
        ConfigurationError: it cannot be read, or is none.
    """
    try:
        with gzip.open(path) as file:
            data = file.read(PART_SIZE_BYTES_MAX + 1)
        if len(data) > PART_SIZE_BYTES_MAX:
            raise ConfigurationError(f"{path}: expected at most {PART_SIZE_BYTES_MAX:,} bytes, got more")
        document = json.loads(data)
        if document["format"] != FORMAT:
            raise ConfigurationError(f"{path}: expected format {FORMAT}, got {document['format']}")
        shard = Shard(_given(document["given"]), int(document["index"]), int(document["count"]))
        return shard, _end(document["end"])
    except OSError as error:  # gzip.BadGzipFile is one.
        raise ConfigurationError(f"{path}: {error.strerror or error}") from error
    except (KeyError, TypeError, ValueError, AttributeError, IndexError, EOFError) as error:
        raise ConfigurationError(f"{path}: expected a part of a run, got another file ({error})") from error


def _given(document: dict[str, Any]) -> RunGiven:
    if document["api"] is not None:
        raise ValueError("a shard has no API")
    return RunGiven(
        **{
            **document,
            "recording": tuple(document["recording"]),
            "steered": tuple(document["steered"]),
        }
    )


# -- sparse arrays -------------------------------------------------------------------------------------------------------


def _sparse(array: np.ndarray[Any, Any]) -> dict[str, Any]:
    flat = array.ravel()
    places = np.flatnonzero(flat)
    return {"shape": list(array.shape), "places": places.tolist(), "values": flat[places].tolist()}


def _dense(document: dict[str, Any], kind: type[np.generic], shape: tuple[int, ...]) -> np.ndarray[Any, Any]:
    if tuple(document["shape"]) != shape:
        raise ValueError(f"expected an array of {shape}, got {document['shape']}")
    array = np.zeros(shape, kind)
    array.ravel()[document["places"]] = document["values"]
    return array


# -- values ----------------------------------------------------------------------------------------------------------------


def _end_document(end: ShardEnd) -> dict[str, Any]:
    return {
        "part": _part_document(end.part),
        "hashes": end.hashes,
        "samples": [_sample_document(sample) for sample in end.samples],
        "generator": None if end.generator is None else asdict(end.generator),
        "moments": {str(at_ns): _part_document(part) for at_ns, part in end.moments.items()},
    }


def _end(document: dict[str, Any]) -> ShardEnd:
    generator, unit_count = document["generator"], len(document["hashes"])
    return ShardEnd(
        part=_part(document["part"], unit_count),
        hashes={str(unit): str(digest) for unit, digest in document["hashes"].items()},
        samples=tuple(_sample(each) for each in document["samples"]),
        generator=None
        if generator is None
        else Generator(**{**generator, "lag_time_ns": tuple(generator["lag_time_ns"])}),
        moments={int(at_ns): _part(part, unit_count) for at_ns, part in document["moments"].items()},
    )


def _part_document(part: ShardPart) -> dict[str, Any]:
    ledger = part.ledger
    return {
        "at_ns": part.at_ns,
        "counts": _sparse(ledger.counts),
        "latencies": _sparse(ledger.latencies),
        "reply_sum_s": ledger.reply_sum_s,
        "is_up": np.flatnonzero(ledger.is_up).tolist(),
        "is_logged_in": np.flatnonzero(ledger.is_logged_in).tolist(),
        "firsts": {
            str(row): {name: [first.at_ns, first.data.hex(), first.detail] for name, first in firsts.items()}
            for row, firsts in ledger.firsts.items()
        },
        "events": {str(order): list(facts) for order, facts in part.events.items()},
        "not_started": list(part.not_started),
        "ramp_ns": part.ramp_ns,
    }


def _part(document: dict[str, Any], unit_count: int) -> ShardPart:
    counts = _dense(document["counts"], np.int64, (unit_count, len(COUNTERS)))
    rows = range(unit_count)
    if not set(document["not_started"]) <= set(rows) or not set(map(int, document["firsts"])) <= set(rows):
        raise ValueError("a unit that is not of this shard")

    def flags(rows: list[int]) -> np.ndarray[Any, Any]:
        array = np.zeros(len(counts), np.bool_)
        array[rows] = True
        return array

    return ShardPart(
        at_ns=int(document["at_ns"]),
        ledger=LedgerPart(
            counts=counts,
            latencies=_dense(document["latencies"], np.uint32, (unit_count, LATENCY_BUCKETS)),
            reply_sum_s=float(document["reply_sum_s"]),
            is_up=flags(document["is_up"]),
            is_logged_in=flags(document["is_logged_in"]),
            firsts={
                int(row): {
                    str(name): First(int(at_ns), bytes.fromhex(data), str(detail))
                    for name, (at_ns, data, detail) in firsts.items()
                }
                for row, firsts in document["firsts"].items()
            },
        ),
        events={
            int(order): EventFacts(str(outcome), str(reason)) for order, (outcome, reason) in document["events"].items()
        },
        not_started=tuple(map(int, document["not_started"])),
        ramp_ns=None if document["ramp_ns"] is None else int(document["ramp_ns"]),
    )


def _sample_document(sample: Sample) -> dict[str, Any]:
    return {**asdict(sample), "counts": sample.counts.tolist(), "replies": _sparse(sample.replies)}


def _sample(document: dict[str, Any]) -> Sample:
    return Sample(
        **{
            **document,
            "counts": np.array(document["counts"], np.int64),
            "replies": _dense(document["replies"], np.int64, (LATENCY_BUCKETS,)),
        }
    )
