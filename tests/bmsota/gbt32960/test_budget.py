"""What a connection of the cloud link may cost at most in memory. Rates are measured by `benchmarks.codec`."""

from __future__ import annotations

import tracemalloc

from bmsota.gbt32960 import Command, Frame, FrameReader, FrameReceived, Heartbeat, encode

READERS = 200
READER_SIZE_BYTES_MAX = 1536


def test_an_idle_connection_holds_little_memory():
    """Thousands of terminals are connected and most of them say nothing: less than 1.5 kB each, also after a frame."""
    frame = encode(Frame(command=Command.HEARTBEAT, vin="LTEST000000000001", message=Heartbeat()))

    def reader():
        made = FrameReader()
        made.receive_data(frame * 3)
        assert [type(made.next_event()) for _ in range(3)] == [FrameReceived] * 3
        assert made.next_event() is None
        return made

    reader()
    tracemalloc.start()
    try:
        before, _ = tracemalloc.get_traced_memory()
        kept = [reader() for _ in range(READERS)]
        after, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert len(kept) == READERS
    assert (after - before) / READERS < READER_SIZE_BYTES_MAX
