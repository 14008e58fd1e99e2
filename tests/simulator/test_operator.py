"""The operator's way through HTTP: what happens when a server closes an idle connection just as it is used again."""

from __future__ import annotations

import asyncio
import contextlib

import httpx
import pytest
from bmsota_sim.operator import Operator

ANSWER = b'HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 39\r\n\r\n{"upgrades": {"items": [], "total": 0}}'


async def talk(action, closes):
    """Run *action* against a server that closes the connections numbered in *closes* without an answer; the requests."""
    requests = []

    async def serve(reader, writer):
        while request := await reader.readuntil(b"\r\n\r\n"):
            requests.append(request.split(b" ", 1)[0].decode())
            if len(requests) in closes:
                break
            writer.write(ANSWER)
        writer.close()

    def quietly(reader, writer):
        return asyncio.ensure_future(_until_closed(serve(reader, writer)))

    async def _until_closed(serving):
        with contextlib.suppress(asyncio.IncompleteReadError, ConnectionError):
            await serving

    server = await asyncio.start_server(quietly, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    try:
        async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}") as client:
            await action(Operator(client))
    finally:
        server.close()
    return requests


def test_a_look_is_repeated_when_the_connection_is_closed_under_it():
    async def look_twice(operator):
        assert await operator.upgrades(1) == []
        assert await operator.upgrades(1) == []

    assert asyncio.run(talk(look_twice, {2})) == ["GET"] * 3


def test_a_look_is_not_repeated_for_ever():
    async def look(operator):
        with pytest.raises(httpx.RemoteProtocolError):
            await operator.upgrades(1)

    assert asyncio.run(talk(look, {1, 2, 3})) == ["GET"] * 3


def test_what_changes_something_is_not_repeated():
    """Nobody knows whether it has been done."""

    async def approve(operator):
        with pytest.raises(httpx.RemoteProtocolError):
            await operator.approve(1, "123456")

    assert asyncio.run(talk(approve, {1})) == ["POST"]
