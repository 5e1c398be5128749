"""The agent's voice as a track: 20 ms of audio on an absolute clock, silence where nothing is said."""

import asyncio
import fractions
from collections import deque

import numpy as np
from aiortc.mediastreams import MediaStreamError, MediaStreamTrack
from av import AudioFrame

from fastagent.media.frame import FRAME_MS
from fastagent.media.g711 import Int16Array

RATE_HZ = 16000
_FRAME = RATE_HZ * FRAME_MS // 1000
_FADE = RATE_HZ // 100
_MAX_LATE_S = 0.08


class AgentTrack(MediaStreamTrack):
    """Given audio by `write`, asked for frames by aiortc."""

    kind = "audio"

    def __init__(self) -> None:
        super().__init__()
        self._queue: deque[Int16Array] = deque()
        self._queued = 0
        self._marks: deque[tuple[int, str]] = deque()  # the position at which each is reached
        self._written = self._sent = 0
        self._at = 0
        self._due: float | None = None
        self.reached: deque[str] = deque()
        """Marks that playout has passed; the leg takes them from here."""
        self.moved = asyncio.Event()

    def write(self, samples: Int16Array) -> None:
        """Queue audio at 16 kHz."""
        self._queue.append(samples)
        self._queued += len(samples)
        self._written += len(samples)

    def mark(self, name: str) -> None:
        """Note a place behind the audio so far."""
        self._marks.append((self._written, name))

    def clear(self) -> None:
        """Drop what is queued, but for a fade of 10 ms."""
        tail = np.concatenate(self._queue)[:_FADE] if self._queue else np.empty(0, np.int16)
        self._queue.clear()
        self._marks.clear()
        self._written -= self._queued
        self._queued = 0
        if len(tail):
            self.write((tail * np.linspace(1, 0, len(tail), endpoint=False)).astype(np.int16))

    async def recv(self) -> AudioFrame:
        """Return the next frame when it is due."""
        if self.readyState != "live":
            raise MediaStreamError
        loop = asyncio.get_running_loop()
        now = loop.time()
        if self._due is None or now - self._due > _MAX_LATE_S:  # the first one, or after a stall: no burst
            self._due = now
        if self._due > now:
            await asyncio.sleep(self._due - now)
        self._due += FRAME_MS / 1000
        frame = AudioFrame.from_ndarray(self._take()[None], "s16", "mono")
        frame.sample_rate, frame.pts, frame.time_base = RATE_HZ, self._at, fractions.Fraction(1, RATE_HZ)
        self._at += _FRAME
        self._tell()
        return frame

    def _take(self) -> Int16Array:
        parts: list[Int16Array] = []
        missing = _FRAME
        while missing and self._queue:
            first = self._queue.popleft()
            if len(first) > missing:
                self._queue.appendleft(first[missing:])
                first = first[:missing]
            parts.append(first)
            missing -= len(first)
        taken = _FRAME - missing
        self._queued -= taken
        self._sent += taken
        if missing:
            parts.append(np.zeros(missing, np.int16))
        return np.concatenate(parts)

    def _tell(self) -> None:
        while self._marks and self._marks[0][0] <= self._sent:
            self.reached.append(self._marks.popleft()[1])
            self.moved.set()
