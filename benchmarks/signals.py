"""The DBC codecs against cantools: one message at a time, and columns of 10,000.

Pack: a 29-bit id, four scaled signals of 16 bits. Cells: an 8-bit multiplexer, 32 pages of three cells. cantools decodes and
encodes as it does by default: names for numbers, strict checks. Both sides give and get the same values; that is asserted.
"""

from __future__ import annotations

import cantools
import numpy as np

from benchmarks._figures import Figure, compare, print_figures
from bmsota.signals import Message, loads

BATCH = 10_000
# Few enough that a round fits between two looks at the clock, enough that looking costs nothing.
SINGLE = 200

PACK = """BU_: A B
BO_ 2566844645 Pack: 8 A
 SG_ Voltage : 0|16@1+ (0.1,0) [0|1000] "V" B
 SG_ Current : 16|16@1+ (0.1,-1000) [-1000|1000] "A" B
 SG_ StateOfCharge : 32|16@1+ (0.01,0) [0|100] "%" B
 SG_ Temperature : 48|16@1- (0.1,0) [-40|125] "degC" B
"""
PAGES = 32
CELLS = (
    'BU_: A B\nBO_ 256 Cells: 8 A\n SG_ Page M : 0|8@1+ (1,0) [0|31] "" B\n'
    + "".join(
        f' SG_ Cell_{3 * page + place + 1:02d} m{page} : {8 + 16 * place}|16@1+ (0.0001,0) [0|6.5535] "V" B\n'
        for page in range(PAGES)
        for place in range(3)
    )
)  # fmt: skip


def pack_frames() -> np.ndarray:
    draw = np.random.default_rng(1)
    words = np.empty((BATCH, 4), dtype="<u2")
    for place, (low, high) in enumerate(((0, 10_001), (0, 20_001), (0, 10_001), (-400, 1251))):
        words[:, place] = draw.integers(low, high, BATCH).astype("<i2" if low < 0 else "<u2").view("<u2")
    return words.view(np.uint8)


def cells_frames() -> np.ndarray:
    frames = np.random.default_rng(2).integers(0, 256, (BATCH, 8), dtype=np.uint8)
    frames[:, 0] %= PAGES
    frames[:, 7] = 0
    return frames


def figures() -> list[Figure]:
    ours = {name: loads(text)[name] for name, text in (("Pack", PACK), ("Cells", CELLS))}
    theirs = {
        name: cantools.database.load_string(text, "dbc").get_message_by_name(name)
        for name, text in (("Pack", PACK), ("Cells", CELLS))
    }
    arrays = {"Pack": pack_frames(), "Cells": cells_frames()}
    columns = {name: ours[name].decode_batch(array) for name, array in arrays.items()}
    frames = {name: [bytes(row) for row in array[:SINGLE]] for name, array in arrays.items()}
    values = {name: [theirs[name].decode(frame) for frame in rows] for name, rows in frames.items()}
    for name, rows in values.items():
        assert [ours[name].decode(frame) for frame in frames[name]] == rows
        assert [ours[name].encode(row) for row in rows] == frames[name]
        assert (ours[name].encode_batch(columns[name]) == arrays[name]).all()
        for signal in columns[name]:
            found = zip(columns[name].rows(signal).tolist(), columns[name][signal].tolist(), strict=True)
            assert all(rows[row][signal] == value for row, value in found if row < SINGLE)

    def each(function: object, arguments: list) -> object:
        def work() -> int:
            for argument in arguments:
                function(argument)
            return len(arguments)

        return work

    def whole(function: object, argument: object) -> object:
        def work() -> int:
            function(argument)
            return BATCH

        return work

    def columns_of(message: Message) -> object:
        """Decode and look at every column: those of pages are cut when they are asked for."""

        def work(array: np.ndarray) -> None:
            for column in message.decode_batch(array).values():
                assert column.ndim == 1

        return work

    contenders = {
        "cantools decode pack": each(theirs["Pack"].decode, frames["Pack"]),
        "cantools encode pack": each(theirs["Pack"].encode, values["Pack"]),
        "cantools decode cells": each(theirs["Cells"].decode, frames["Cells"]),
        "cantools encode cells": each(theirs["Cells"].encode, values["Cells"]),
        "batch decode pack": whole(columns_of(ours["Pack"]), arrays["Pack"]),
        "batch encode pack": whole(ours["Pack"].encode_batch, columns["Pack"]),
        "batch decode cells": whole(columns_of(ours["Cells"]), arrays["Cells"]),
        "batch encode cells": whole(ours["Cells"].encode_batch, columns["Cells"]),
        "single decode pack": each(ours["Pack"].decode, frames["Pack"]),
        "single encode pack": each(ours["Pack"].encode, values["Pack"]),
    }
    baselines = {name: f"cantools {name.split(' ', 1)[1]}" for name in contenders if not name.startswith("cantools")}
    return compare(contenders, baselines, unit="messages/CPU-s")


if __name__ == "__main__":
    print_figures("signals", figures)
