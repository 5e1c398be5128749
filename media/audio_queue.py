"""Audio that waits for its clock: written ahead, marked, taken in frames, dropped with a short fade."""

from collections import deque
from collections.abc import Iterator

import numpy as np

from fastagent.media.g711 import Int16Array

_FADE_MS = 10


class AudioQueue:
    """One stream's.

    Args:
        rate_hz: of its samples.
    """

    def __init__(self, rate_hz: int) -> None:
        self._rate_hz = rate_hz
        self._parts: deque[Int16Array] = deque()
        self._queued = 0
        self._marks: deque[tuple[int, str]] = deque()
        self.taken = 0
        """Samples that were taken, since the beginning."""

    @property
    def queued_s(self) -> float:
        """Seconds of audio that wait."""
        return self._queued / self._rate_hz

    def write(self, samples: Int16Array) -> None:
        """Queue audio."""
        self._parts.append(samples)
        self._queued += len(samples)

    def mark(self, name: str) -> None:
        """Note the place behind the audio so far."""
        self._marks.append((self.taken + self._queued, name))

    def reached(self) -> Iterator[str]:
        """Yield the marks that have been passed since this was asked last."""
        while self._marks and self._marks[0][0] <= self.taken:
            yield self._marks.popleft()[1]

    def clear(self) -> None:
        """Drop what is queued, marks too, but for a fade of 10 ms."""
        self._marks.clear()
        tail = self._get(min(self._queued, self._rate_hz * _FADE_MS // 1000))
        self._parts.clear()
        self._queued = 0
        if len(tail):
            self.write((tail * np.linspace(1, 0, len(tail), endpoint=False)).astype(np.int16))

    def take(self, count: int) -> Int16Array:
        """Return the next samples, filled with silence."""
        found = self._get(min(count, self._queued))
        self.taken += len(found)
        if len(found) == count:
            return found
        return np.concatenate((found, np.zeros(count - len(found), np.int16)))

    def _get(self, count: int) -> Int16Array:
        parts: list[Int16Array] = []
        self._queued -= count
        while count:
            first = self._parts.popleft()
            if len(first) > count:
                self._parts.appendleft(first[count:])
                first = first[:count]
            parts.append(first)
            count -= len(first)
        return parts[0] if len(parts) == 1 else np.concatenate(parts) if parts else np.empty(0, np.int16)
