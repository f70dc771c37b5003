"""Passes TCP connections from an inherited listening socket on to an address of this network namespace."""

import asyncio
import socket


async def relay(listener: socket.socket, target: tuple[str, int]) -> None:
    """Serve for ever. A connection that the target refuses is closed at once, as by a server that is down."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            there, back = await asyncio.wait_for(asyncio.open_connection(*target), timeout=10)
        except OSError:
            writer.transport.abort()
            return
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(_pump(reader, back))
                group.create_task(_pump(there, writer))
        except* OSError:  # one end was reset: the other learns of it below
            pass
        finally:
            back.close()
            writer.close()

    server = await asyncio.start_server(serve, sock=listener)
    await server.serve_forever()


async def _pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while data := await reader.read(65_536):
        writer.write(data)
        await writer.drain()
    writer.write_eof()
