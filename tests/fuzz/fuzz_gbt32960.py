"""Coverage-guided fuzzing of the cloud link (atheris): `python tests/fuzz/fuzz_gbt32960.py -runs=100000`.

The invariant: whatever comes, the codec refuses it with a documented error or gives a frame that encodes to the same bytes and
is explained byte by byte without a gap, and a reader hands back every byte of a stream once, in the same frames however the
stream was split.

An input's first byte says what is done with the rest (`MODES`): a frame as it is, a frame whose length and check byte are put
right first (or the check byte would hide everything behind it), or a stream that is cut into pieces. The kept corpus is seeded
from the conformance vectors; `--seed` writes it anew. Without atheris the module still gives `check`, by which an
ordinary test replays the corpus.
"""

from __future__ import annotations

import gc
import json
import sys
import tempfile
from contextlib import nullcontext
from pathlib import Path
from types import FunctionType

try:
    import atheris
except ImportError:  # Replaying needs no fuzzer.
    atheris = None

with (
    atheris.instrument_imports(include=["bmsota"]) if atheris is not None and __name__ == "__main__" else nullcontext()
):
    from bmsota.checksums import bcc_xor
    from bmsota.errors import FrameError
    from bmsota.gbt32960 import (
        FRAME_SIZE_BYTES_MAX,
        HEADER_SIZE_BYTES,
        Frame,
        FrameReader,
        FrameReceived,
        decode,
        decode_header,
        encode,
        explain,
    )

HERE = Path(__file__).resolve().parent
CORPUS = HERE / "corpus" / "gbt32960"
VECTORS = HERE.parent / "bmsota" / "gbt32960" / "vectors.json"

# The first byte modulo this many. Repaired frames have two of four: that is where the bodies are.
MODES = ("frame", "repaired", "stream", "repaired as 2025")


def repaired(data: bytes, start: bytes) -> bytes:
    """Make *data* a frame around whatever data unit it has: start, length and check byte put right."""
    raw = bytearray(data.ljust(HEADER_SIZE_BYTES + 1, b"\1")[:FRAME_SIZE_BYTES_MAX])
    raw[:2] = start
    raw[22:24] = (len(raw) - HEADER_SIZE_BYTES - 1).to_bytes(2, "big")
    raw[-1] = bcc_xor(bytes(raw[2:-1]))
    return bytes(raw)


def check_frame(data: bytes) -> None:
    """One frame: refused by name, or the same bytes again, and explained without a gap."""
    refusal = None
    try:
        frame = decode(data)
    except FrameError as error:
        refusal = error
    if refusal is not None:
        assert 0 <= refusal.offset <= max(len(data), HEADER_SIZE_BYTES), refusal
        return
    assert isinstance(frame, Frame)
    assert encode(frame) == data, "encode(decode(x)) is not x"
    header = decode_header(data)
    assert (header.command, header.vin, header.edition) == (frame.command, frame.vin, frame.edition)
    at = 0
    for field in explain(data):
        assert field.offset == at, f"explained up to {at}, goes on at {field.offset}"
        assert field.data == data[at : at + len(field.data)]
        at += len(field.data)
    assert at == len(data), f"explained up to {at} of {len(data)}"


def events(pieces: list[bytes]) -> tuple[list[tuple[int, bytes]], bytes]:
    """The frames of a stream that comes in *pieces*, and all bytes that the reader gave back, in its order."""
    reader = FrameReader()
    frames: list[tuple[int, bytes]] = []
    given = bytearray()

    def take() -> None:
        while (event := reader.next_event()) is not None:
            assert event.offset == len(given), f"expected offset {len(given)}, got {event.offset}"
            if isinstance(event, FrameReceived):
                frames.append((event.offset, event.raw))
                given.extend(event.raw)
            else:
                assert event.data, "an empty bad stretch"
                given.extend(event.data)

    for piece in pieces:
        reader.receive_data(piece)
        take()
    reader.end()
    take()
    return frames, bytes(given)


def check_stream(data: bytes) -> None:
    """A stream: every byte comes back once, and how it was cut makes no difference to the frames."""
    if not data:
        return
    # The first byte says how long the pieces are; the stream is what follows, in 16 pieces at most: more find nothing new
    # and cost the time of other inputs.
    stream = data[1:1025]
    size = max(data[0] % 61 + 1, -(-len(stream) // 16))
    whole, given = events([stream])
    assert given == stream, "the reader does not give back the stream"
    cut, given = events([stream[at : at + size] for at in range(0, len(stream), size)])
    assert given == stream, "the reader does not give back the stream in pieces"
    assert cut == whole, "other frames when the stream comes in pieces"
    for _, raw in whole:
        check_frame(raw)


def check(data: bytes) -> None:
    """Hold the invariant on one input of the fuzzer."""
    if not data:
        return
    mode, rest = MODES[data[0] % len(MODES)], data[1:]
    if mode == "frame":
        check_frame(rest)
    elif mode == "stream":
        check_stream(rest)
    else:
        check_frame(repaired(rest, b"$$" if mode.endswith("2025") else b"##"))


def seed(folder: Path) -> int:
    """Write the seeds: each vector as a repaired frame of both editions, some as they are, and streams of three."""
    vectors = [bytes.fromhex(vector["hex"]) for vector in json.loads(VECTORS.read_text(encoding="utf-8"))]
    names = [vector["id"] for vector in json.loads(VECTORS.read_text(encoding="utf-8"))]
    folder.mkdir(parents=True, exist_ok=True)
    seeds: dict[str, bytes] = {}
    for index, (name, data) in enumerate(zip(names, vectors, strict=True)):
        seeds[f"{name}.repaired"] = bytes([3 if data[:2] == b"$$" else 1]) + data
        if index % 8 == 0:
            seeds[f"{name}.frame"] = b"\0" + data
            seeds[f"{name}.stream"] = bytes([2, index]) + b"".join(vectors[index : index + 3])[:2048]
    for name, data in seeds.items():
        (folder / name).write_bytes(data)
    return len(seeds)


def corpus() -> list[Path]:
    """Every kept input: seeds, inputs that reached something new, and all findings ever made."""
    return sorted(path for path in CORPUS.iterdir() if path.is_file())


def instrument_compiled() -> int:
    """Count coverage in the codec that is compiled at run time, too; the import hook does not see it."""
    for path in corpus():
        check(path.read_bytes())
    found = [
        item
        for item in gc.get_objects()
        if isinstance(item, FunctionType) and item.__code__.co_filename.startswith("<gbt32960 ")
    ]
    for function in found:
        atheris.instrument_func(function)
    return len(found)


def main() -> None:
    if sys.argv[1:2] == ["--seed"]:
        print(seed(CORPUS), "seeds written")  # noqa: T201 - the answer of a command
        return
    if atheris is None:
        sys.exit("fuzz: expected atheris (pip install atheris), got none")
    print(instrument_compiled(), "compiled functions instrumented")  # noqa: T201
    options = [argument for argument in sys.argv[1:] if argument.startswith("-")]
    folders = [argument for argument in sys.argv[1:] if not argument.startswith("-")]
    # The kept corpus is read and never written: what is new goes into the first folder that is named, or away.
    folders = folders or [tempfile.mkdtemp(prefix="fuzz-gbt32960-")]
    atheris.Setup([sys.argv[0], *options, *folders, str(CORPUS)], check)
    atheris.Fuzz()


if __name__ == "__main__":
    main()
