"""A proxy in front of the Prefect API that counts what clients send; websockets pass too."""

from __future__ import annotations

import asyncio
import re
import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field

REQUEST = re.compile(rb"(GET|HEAD|POST|PUT|PATCH|DELETE) (/\S*) HTTP/1\.1\r\n")
LONGEST_REQUEST_LINE = 500
IDENTIFIER = re.compile(r"[0-9a-f]{8}-[0-9a-f-]{27}")
READ_BYTES = 1 << 16


@dataclass
class Sent:
    """What clients sent: bytes, headers and websocket frames included, and requests by path."""

    bytes: int = 0
    requests: Counter[str] = field(default_factory=Counter)


@contextmanager
def counting_proxy(port: int) -> Iterator[tuple[str, Sent]]:
    """Stand in front of a port of this machine; gives the address of the API, and the counts."""
    sent = Sent()
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever)
    thread.start()

    async def serve() -> asyncio.Server:
        return await asyncio.start_server(
            lambda reader, writer: _pass_on(reader, writer, port, sent), "127.0.0.1", 0
        )

    async def close(server: asyncio.Server) -> None:
        server.close()
        others = asyncio.all_tasks() - {asyncio.current_task()}
        for task in others:
            task.cancel()
        await asyncio.gather(*others, return_exceptions=True)

    server = asyncio.run_coroutine_threadsafe(serve(), loop).result()
    try:
        yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/api", sent
    finally:
        asyncio.run_coroutine_threadsafe(close(server), loop).result()
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.close()


async def _pass_on(
    reader: asyncio.StreamReader, writer: asyncio.StreamWriter, port: int, sent: Sent
) -> None:
    try:
        far_reader, far_writer = await asyncio.open_connection("127.0.0.1", port)
    except ConnectionRefusedError:
        writer.close()
        return
    await asyncio.gather(_copy(reader, far_writer, sent), _copy(far_reader, writer, None))


async def _copy(
    reader: asyncio.StreamReader, writer: asyncio.StreamWriter, sent: Sent | None
) -> None:
    tail = b""
    with suppress(ConnectionError):
        while data := await reader.read(READ_BYTES):
            if sent is not None:
                sent.bytes += len(data)
                tail = _count(tail + data, sent)
            writer.write(data)
            await writer.drain()
    with suppress(ConnectionError, RuntimeError):
        writer.close()


def _count(data: bytes, sent: Sent) -> bytes:
    """Count the request lines, and return what may be the beginning of another one."""
    end = 0
    for match in REQUEST.finditer(data):
        method, path = (part.decode() for part in match.groups())
        sent.requests[f"{method} {IDENTIFIER.sub('…', path.split('?')[0])}"] += 1
        end = match.end()
    return data[max(end, len(data) - LONGEST_REQUEST_LINE) :]
