"""The web server's connections are bounded, and idle strangers keep nobody out."""

import asyncio
import socket

import pytest
import uvicorn
from bmsota_cloud.web_server import WebServer

MAX = 6
REQUEST = b"GET / HTTP/1.1\r\nHost: x\r\n\r\n"


@pytest.fixture
def serve():
    """Run a coroutine beside a server; `application` answers "done" when it is let go."""

    def run(play):
        async def main():
            let_go = asyncio.Event()
            let_go.set()

            async def application(scope, receive, send):
                await let_go.wait()
                await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"4")]})
                await send({"type": "http.response.body", "body": b"done"})

            config = uvicorn.Config(
                application, lifespan="off", log_level="error", timeout_keep_alive=60, timeout_graceful_shutdown=1
            )
            listening = socket.create_server(("127.0.0.1", 0))
            port = listening.getsockname()[1]
            server = WebServer(config, listening, connections_max=MAX)
            serving = asyncio.create_task(server.serve())
            try:
                async with asyncio.timeout(120):
                    await play(port, let_go)
            finally:
                server.should_exit = True
                await serving

        asyncio.run(main())

    return run


async def connect(port, data=b""):
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(data)
    return reader, writer


async def answered(reader):
    return (await reader.readuntil(b"done")).startswith(b"HTTP/1.1 200")


def test_the_longest_idle_connection_makes_room(serve):
    async def play(port, let_go):
        idle = [await connect(port) for _ in range(MAX)]
        # The first has asked since, so the second has been idle longest.
        idle[0][1].write(REQUEST)
        assert await answered(idle[0][0])
        reader, _writer = await connect(port, REQUEST)
        assert await answered(reader)
        with pytest.raises((ConnectionError, asyncio.IncompleteReadError)):
            await idle[1][0].readexactly(1)
        for kept in (idle[0], idle[2]):
            kept[1].write(REQUEST)
            assert await answered(kept[0])

    serve(play)


def test_a_connection_that_waits_for_its_answer_is_not_closed(serve):
    async def play(port, let_go):
        let_go.clear()
        busy = [await connect(port, REQUEST) for _ in range(MAX - 1)]
        _ = await connect(port)
        late = await connect(port, REQUEST)
        # All are busy now: one more is not taken.
        beyond = await connect(port, REQUEST)
        with pytest.raises((ConnectionError, asyncio.IncompleteReadError)):
            await beyond[0].readexactly(1)
        let_go.set()
        for reader, _writer in [*busy, late]:
            assert await answered(reader)

    serve(play)


def test_a_connection_without_a_request_ends(serve, monkeypatch):
    monkeypatch.setattr("bmsota_cloud.web_server._FIRST_REQUEST_S", 0.1)

    async def play(port, let_go):
        silent, slow = await connect(port), await connect(port, REQUEST[:-2])
        asked = await connect(port, REQUEST)
        assert await answered(asked[0])
        for reader, _writer in (silent, slow):
            with pytest.raises((ConnectionError, asyncio.IncompleteReadError)):
                await reader.readexactly(1)
        asked[1].write(REQUEST)
        assert await answered(asked[0])

    serve(play)


def test_what_is_no_http_is_refused_and_said_once_a_minute(serve, monkeypatch, caplog):
    """A line each would fill the disk for whoever wants that."""

    async def garbage(port, times):
        for _ in range(times):
            reader, _writer = await connect(port, b"\x16\x03\x01 no HTTP\r\n\r\n")
            assert (await reader.read()).startswith(b"HTTP/1.1 400")

    async def play(port, let_go):
        await garbage(port, 30)
        monkeypatch.setattr("bmsota_cloud.web_server._SAY_EVERY_S", 0.0)
        await garbage(port, 1)

    serve(play)
    words = "requests could not be read, the last from 127.0.0.1: Invalid HTTP request received"
    assert [record.getMessage() for record in caplog.records] == [f"1 {words}", f"30 {words}"]
