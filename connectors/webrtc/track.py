"""The agent's voice as a track: packets of Opus that the shared clock makes, taken by aiortc as they come."""

import asyncio
import fractions
from collections import deque
from typing import Any

from aiortc.mediastreams import MediaStreamError, MediaStreamTrack
from av import Packet

from fastagent.media.audio_queue import AudioQueue
from fastagent.media.frame import FRAME_MS
from fastagent.media.rtp.codecs import WIDE_HZ, Opus

_FRAME = WIDE_HZ * FRAME_MS // 1000
_MAX_WAITING = 4  # packets that nobody has taken: more is a burst that overflows the browser


class AgentTrack(MediaStreamTrack):
    """Given audio through `queue`, driven by `tick`, asked for packets by aiortc."""

    kind = "audio"

    def __init__(self) -> None:
        super().__init__()
        self.queue = AudioQueue(WIDE_HZ)
        self.packets_sent = 0
        self._codec = Opus()
        self._packets: deque[Any] = deque(maxlen=_MAX_WAITING)
        self._there = asyncio.Event()
        self._at = 0

    def tick(self) -> None:
        """Make the packet of the next 20 ms."""
        packet: Any = Packet(self._codec.encode(self.queue.take(_FRAME)))
        packet.pts, packet.time_base = self._at, fractions.Fraction(1, WIDE_HZ)
        self._at += _FRAME
        self._packets.append(packet)
        self._there.set()

    async def recv(self) -> Any:
        """Return the next packet, once there is one."""
        while not self._packets and self.readyState == "live":
            self._there.clear()
            await self._there.wait()
        if self.readyState != "live":
            raise MediaStreamError
        self.packets_sent += 1
        return self._packets.popleft()

    def stop(self) -> None:
        """Whoever waits for a packet waits no longer."""
        super().stop()
        self._there.set()
