"""The agent's side of a datagram leg: one packet each ptime, on an absolute clock, silence where nothing is said.

The stream never stops: it holds bindings of NATs open and keeps phones from hanging up. An interruption drops what is
queued; sequence, timestamp and source go on without a seam.
"""

import secrets
from collections import deque
from collections.abc import Iterator

from fastagent.media.audio_queue import AudioQueue
from fastagent.media.frame import FRAME_MS
from fastagent.media.rtp import digits
from fastagent.media.rtp.codecs import Codec
from fastagent.media.rtp.packet import RtpPacket

_MAX_LATE = 4  # frames sent at once after a stall; more is a burst that overflows phones
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
        self.queue = AudioQueue(codec.rate_hz)
        """What we say, at the codec's rate."""
        self._next_at: float | None = None
        self._key_began = 0
        self._marker = True
        self.held = False
        """Send nothing: the other side has put us on hold."""
        self.packets_sent = self.octets_sent = self.skipped = 0

    @property
    def timestamp(self) -> int:
        """Of the next packet."""
        return self._timestamp

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
        samples = self.queue.take(self._samples)
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
