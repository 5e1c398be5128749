"""A WebSocket and what carries it, closed in one way whoever wants it closed."""

import asyncio
from dataclasses import dataclass

from aiohttp import WSCloseCode, web

from fastagent.connectors.transports import abort

_CLOSE_S = 1.0


@dataclass(eq=False, slots=True)
class Line:
    """A socket and what carries it.

    It is closed by the task that reads it: a socket that is closed under its reader is cut off with the caller's audio
    still on its way, and the answer to that (RST) may overtake our last words.
    """

    socket: web.WebSocketResponse
    transport: asyncio.Transport | None
    reading: asyncio.Timeout | None = None
    """The reader's deadline, while it reads."""
    farewell: tuple[int, bytes] | None = None
    broken: bool = False
    """Whether the client has violated the protocol; the code of the close does not tell it."""

    def close(self, code: int, message: bytes = b"") -> None:
        """Have it closed; only the first code counts."""
        if self.farewell is not None:
            return
        self.farewell = code, message
        loop = asyncio.get_running_loop()
        # A client that reads nothing cannot keep it open; for one that is gone by then this does nothing.
        loop.call_later(_CLOSE_S, self.abort)
        if self.reading is not None and not self.reading.expired():
            self.reading.reschedule(loop.time())

    def read_on(self) -> None:
        """A session has begun: the reader has no deadline any more."""
        if self.farewell is None and self.reading is not None and not self.reading.expired():
            self.reading.reschedule(None)

    async def leave(self) -> None:
        """Say goodbye; for the reader, once it has ceased to read."""
        self.reading = None
        if self.farewell is None:
            self.close(WSCloseCode.OK)
        assert self.farewell is not None
        code, message = self.farewell
        if not self.socket.closed:
            await self.socket.close(code=code, message=message, drain=False)

    def abort(self) -> None:
        """Cut it off."""
        abort(self.transport)
