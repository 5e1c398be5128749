"""The agent's side of a datagram leg: one packet each ptime, on an absolute clock, silence where nothing is said.

The stream never stops: it holds bindings of NATs open and keeps phones from hanging up. An interruption drops what is
queued; sequence, timestamp and source go on without a seam.
"""

import secrets
from collections import deque
from collections.abc import Iterator

import numpy as np

from fastagent.media.frame import FRAME_MS
from fastagent.media.g711 import Int16Array
from fastagent.media.rtp import digits
from fastagent.media.rtp.codecs import Codec
from fastagent.media.rtp.packet import RtpPacket

_MAX_LATE = 4  # frames sent at once after a stall; more is a burst that overflows phones
_FADE_MS = 10
_KEY_MS, _KEY_GAP_MS = 160, 80


class RtpOutbound:
    """One stream out.

    Args:
        payload_type, codec: as negotiated.
        ptime_ms: audio in a packet, 10 to 60; on a tick of 20 ms those of 10 go out in pairs.
        event_type: payload type of telephone events; None where there are none.
    """

    def __init__(
        self, payload_type: int, codec: Codec, *, ptime_ms: int = FRAME_MS, event_type: int | None = None
    ) -> None:
        self._keys: deque[tuple[bytes, bool]] = deque()
        self.switch(payload_type, codec, ptime_ms=ptime_ms, event_type=event_type)
        self.ssrc = secrets.randbits(32)
        self._sequence = secrets.randbits(16)
        self._timestamp = secrets.randbits(32)
        self._queue: deque[Int16Array] = deque()
        self._queued = 0
        self._next_at: float | None = None
        self._key_began = 0
        self._marker = True
        self.held = False
        """Send nothing: the other side has put us on hold."""
        self.packets_sent = self.octets_sent = self.skipped = 0
        self.max_late_s = 0.0

    @property
    def queued_s(self) -> float:
        """Seconds of audio that wait."""
        return self._queued / self._codec.rate_hz

    @property
    def queued_samples(self) -> int:
        """Samples that wait."""
        return self._queued

    @property
    def timestamp(self) -> int:
        """Of the next packet."""
        return self._timestamp

    def write(self, samples: Int16Array) -> None:
        """Queue audio at the codec's rate."""
        self._queue.append(samples)
        self._queued += len(samples)

    def clear(self) -> int:
        """Drop what is queued but for a fade of 10 ms; return how many samples were dropped."""
        before = self._queued
        fade = self._codec.rate_hz * _FADE_MS // 1000
        tail = np.concatenate(self._queue)[:fade] if self._queue else np.empty(0, np.int16)
        self._queue.clear()
        self._queued = 0
        if len(tail):
            self.write((tail * np.linspace(1, 0, len(tail), endpoint=False)).astype(np.int16))
        return before - self._queued

    def switch(self, payload_type: int, codec: Codec, *, ptime_ms: int, event_type: int | None) -> None:
        """Go on with another codec of the same rate, or other numbers; the stream stays one."""
        self._payload_type, self._codec, self._event_type = payload_type, codec, event_type
        self._samples, self._ticks = codec.rate_hz * ptime_ms // 1000, codec.clock_hz * ptime_ms // 1000
        self._period_s = ptime_ms / 1000
        if event_type is None:
            self._keys.clear()

    def press(self, keys: str) -> None:
        """Send keys as telephone events, one after the other.

        Raises:
            ValueError: none were negotiated, or one is no key.
        """
        if self._event_type is None:
            raise ValueError("no telephone events were negotiated")
        clock = self._codec.clock_hz
        for key in keys:
            self._keys.extend(digits.packets(key, frame=self._ticks, duration=clock * _KEY_MS // 1000))
            self._keys.extend([(b"", False)] * max(1, round(_KEY_GAP_MS / 1000 / self._period_s)))

    def tick(self, now: float) -> list[bytes]:
        """Return the packets that are due."""
        if self._next_at is None:
            self._next_at = now
        due: list[bytes] = []
        while self._next_at <= now + 1e-6:
            self.max_late_s = max(self.max_late_s, now - self._next_at)
            behind = int((now - self._next_at) / self._period_s)
            if behind >= _MAX_LATE:  # after a stall: what is older than this is not worth a burst
                self._skip(behind - _MAX_LATE + 1)
            self._next_at += self._period_s
            due.extend(self._packet())
        return due

    def _skip(self, count: int) -> None:
        """Let time pass without packets: the timestamp is a clock."""
        assert self._next_at is not None
        self.skipped += count
        self._next_at += count * self._period_s
        self._timestamp = (self._timestamp + count * self._ticks) & 0xFFFFFFFF
        self._marker = True

    def _packet(self) -> Iterator[bytes]:
        timestamp = self._timestamp
        self._timestamp = (timestamp + self._ticks) & 0xFFFFFFFF
        if self.held:
            self._marker = True
            return
        samples = self._take()
        if self._keys:
            payload, first = self._keys.popleft()
            if payload:
                if first:
                    self._key_began = timestamp
                assert self._event_type is not None
                yield self._sent(
                    RtpPacket(self._event_type, self._sequence, self._key_began, self.ssrc, payload, first)
                )
                return
        payload = self._codec.encode(samples)
        yield self._sent(RtpPacket(self._payload_type, self._sequence, timestamp, self.ssrc, payload, self._marker))
        self._marker = False

    def _sent(self, packet: RtpPacket) -> bytes:
        self._sequence = (self._sequence + 1) & 0xFFFF
        self.packets_sent += 1
        self.octets_sent += len(packet.payload)
        return bytes(packet)

    def _take(self) -> Int16Array:
        """The next samples, filled with silence."""
        parts: list[Int16Array] = []
        missing = self._samples
        while missing and self._queue:
            first = self._queue[0]
            if len(first) <= missing:
                parts.append(self._queue.popleft())
                missing -= len(first)
            else:
                parts.append(first[:missing])
                self._queue[0] = first[missing:]
                missing = 0
        self._queued -= self._samples - missing
        if missing:
            parts.append(np.zeros(missing, np.int16))
        return np.concatenate(parts) if len(parts) > 1 else parts[0]
