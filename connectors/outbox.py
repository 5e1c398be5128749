"""What a leg sends: in order, by one writer, within a bound. Too late audio is dropped first, control never."""

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable
from typing import Generic, TypeVar

from fastagent.connectors.leg import HangupReason

_WRITE_TIMEOUT_S = 5.0

Item = TypeVar("Item")


class Outbox(Generic[Item]):
    """One leg's queue and its writer.

    Args:
        write: sends one item; may wait for a slow reader.
        max_audio: bytes of audio that may wait; beyond them the oldest is dropped.
        dropped: told how many bytes of audio were.
        failed: told that the reader is too slow, or the connection gone; the writer has ended then.
    """

    def __init__(
        self,
        write: Callable[[Item], Awaitable[None]],
        *,
        max_audio: int,
        dropped: Callable[[int], None],
        failed: Callable[[HangupReason], None],
        max_items: int = 10_000,
    ) -> None:
        self._send, self._max_audio, self._max_items = write, max_audio, max_items
        self._dropped, self._failed = dropped, failed
        self._items: deque[tuple[Item, int]] = deque()
        self._audio = 0
        self._wake = asyncio.Event()
        self._sent = asyncio.Event()
        self._writer = asyncio.create_task(self._write(), name="outbox")

    def put(self, item: Item, audio_bytes: int = 0) -> None:
        """Queue an item; never waits."""
        self._items.append((item, audio_bytes))
        self._audio += audio_bytes
        while self._audio > self._max_audio:
            self._drop_oldest_audio()
        if len(self._items) > self._max_items:  # control that nobody reads
            self._items.clear()
            self._audio = 0
            self._failed(HangupReason.SLOW_PEER)
        self._wake.set()

    def _drop_oldest_audio(self) -> None:
        at = next(at for at, (_, size) in enumerate(self._items) if size)
        size = self._items[at][1]
        del self._items[at]
        self._audio -= size
        self._dropped(size)

    def last(self) -> Item | None:
        """The item that would be sent last."""
        return self._items[-1][0] if self._items else None

    def drop(self, unwanted: Callable[[Item], bool]) -> None:
        """Forget what is queued and unwanted."""
        kept = [(item, size) for item, size in self._items if not unwanted(item)]
        self._items = deque(kept)
        self._audio = sum(size for _, size in kept)

    async def drained(self, patience_s: float) -> None:
        """Return when all was sent, or patience is over."""
        if self._items and not self._writer.done():
            try:
                async with asyncio.timeout(patience_s):
                    await self._sent.wait()
            except TimeoutError:
                pass

    async def aclose(self) -> None:
        """End the writer; may be called twice."""
        self._writer.cancel()
        await asyncio.gather(self._writer, return_exceptions=True)

    async def _write(self) -> None:
        try:
            while True:
                await self._wake.wait()
                async with asyncio.timeout(_WRITE_TIMEOUT_S):
                    while self._items:
                        item, size = self._items.popleft()
                        self._audio -= size
                        await self._send(item)
                self._wake.clear()
                self._sent.set()
                self._sent.clear()
        except TimeoutError:
            self._failed(HangupReason.SLOW_PEER)
        except (ConnectionError, RuntimeError):  # the socket is closing under us
            self._failed(HangupReason.CONNECTION_LOST)
