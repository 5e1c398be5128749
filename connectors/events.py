"""The events of a leg: a small bounded queue with one reader, and an end after which nothing comes."""

import asyncio
from collections.abc import AsyncIterator

from fastagent.connectors.leg import HangupReason, LegEnded, LegEvent

_MAX_EVENTS = 512


class LegEvents:
    """One leg's events."""

    def __init__(self) -> None:
        self._queue: asyncio.Queue[LegEvent] = asyncio.Queue(_MAX_EVENTS)
        self.ended = asyncio.Event()
        self.reason: HangupReason | None = None
        """Why it ended, once it has."""

    def put(self, event: LegEvent) -> bool:
        """Take an event; after the end there are no more, and more than anybody reads are an end. Return whether this
        ended the leg."""
        if self.ended.is_set():
            return False
        if self._queue.qsize() >= _MAX_EVENTS - 1:
            event = LegEnded(HangupReason.PROTOCOL_ERROR)
        self._queue.put_nowait(event)
        if isinstance(event, LegEnded):
            self.reason = event.reason
            self.ended.set()
            return True
        return False

    async def __aiter__(self) -> AsyncIterator[LegEvent]:
        while True:
            event = await self._queue.get()
            yield event
            if isinstance(event, LegEnded):
                return
