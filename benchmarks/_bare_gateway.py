"""A bare GB/T 32960 gateway, as a process of its own: it answers what is owed an answer, counts, and nothing else.

    python -m benchmarks._bare_gateway [PORT]

Prints its port, and when its input ends what it has counted, as JSON. It knows neither of our sessions, so it can lose or double
nothing that they would hide; and it is cheap enough for tens of thousands of links.
"""

from __future__ import annotations

import asyncio
import json
import resource
import sys
from collections import Counter
from typing import Final

HEADER_SIZE_BYTES: Final = 24
TIME_SIZE_BYTES: Final = 6
COMMAND: Final = 0xFE
SUCCESS: Final = 0x01
LOGIN, HEARTBEAT, TIME_SYNC = 0x01, 0x07, 0x08
REPORTS: Final = (0x02, 0x03)
BACKLOG: Final = 4096


def _answer(frame: bytes) -> bytes:
    """The same header with the flag of success, and the time of the question."""
    time = frame[HEADER_SIZE_BYTES : HEADER_SIZE_BYTES + TIME_SIZE_BYTES]
    if frame[2] == HEARTBEAT:
        time = b""
    elif frame[2] == TIME_SYNC:
        time = bytes((26, 1, 1, 0, 0, 0))
    head = frame[:3] + bytes((SUCCESS,)) + frame[4:22] + len(time).to_bytes(2, "big") + time
    check = 0
    for octet in head[2:]:
        check ^= octet
    return head + bytes((check,))


class _Link(asyncio.Protocol):
    __slots__ = ("_counts", "_rest", "_transport", "_vins")

    def __init__(self, counts: Counter[str], vins: set[bytes]) -> None:
        self._counts, self._vins = counts, vins
        self._rest = b""
        self._transport: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport
        self._counts["links"] += 1

    def data_received(self, data: bytes) -> None:
        assert self._transport is not None
        data = self._rest + data
        at = 0
        while at + HEADER_SIZE_BYTES < len(data):
            end = at + HEADER_SIZE_BYTES + int.from_bytes(data[at + 22 : at + 24], "big") + 1
            if end > len(data):
                break
            frame = data[at:end]
            at = end
            command = frame[2]
            self._counts[f"{command:#04x}"] += 1
            if command in REPORTS:
                self._counts["reports"] += 1
            elif frame[3] == COMMAND:
                if command == LOGIN:
                    self._vins.add(frame[4:21])
                self._transport.write(_answer(frame))
        self._rest = data[at:]


async def _serve(port: int) -> None:
    counts: Counter[str] = Counter()
    vins: set[bytes] = set()
    loop = asyncio.get_running_loop()
    server = await loop.create_server(lambda: _Link(counts, vins), "127.0.0.1", port, backlog=BACKLOG)
    print(server.sockets[0].getsockname()[1], flush=True)
    await loop.run_in_executor(None, sys.stdin.read)
    print(json.dumps({**counts, "vins": len(vins)}), flush=True)


if __name__ == "__main__":
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    asyncio.run(_serve(int(sys.argv[1]) if len(sys.argv) > 1 else 0))
