"""The way of a datagram leg's audio: packets in at any time, 20 ms of audio out on each tick, always.

packet --> source rules --> Reception --> JitterBuffer --tick--> decode | conceal | comfort noise --> 20 ms
                                \\-> DigitReceiver --> keys
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

import numpy as np

from fastagent.media.errors import AudioFormatError
from fastagent.media.frame import FRAME_MS
from fastagent.media.g711 import Int16Array
from fastagent.media.level import rms
from fastagent.media.rtp.codecs import Codec
from fastagent.media.rtp.concealment import Concealer
from fastagent.media.rtp.digits import DigitReceiver
from fastagent.media.rtp.jitter_buffer import Dry, JitterBuffer, Lost, Pause, Play
from fastagent.media.rtp.packet import RtpPacket
from fastagent.media.rtp.reception import Reception

_SILENT_RMS = 32768 * 10 ** (-50 / 20)
_COMFORT_NOISE = 13  # payload type (RFC 3389)
_DRY_S = 0.06  # so long an empty buffer is concealed; then it is quiet


@dataclass(slots=True)
class RtpInboundStats:
    """Of one call; streams that began anew are counted together. Packets, but for what says frames."""

    received: int = 0
    lost: int = 0
    late: int = 0
    duplicates: int = 0
    reordered: int = 0
    foreign: int = 0
    """Of a payload type that was not negotiated."""
    undecodable: int = 0
    restarts: int = 0
    played_frames: int = 0
    concealed_frames: int = 0
    silent_frames: int = 0
    dropped_frames: int = 0
    repeated_frames: int = 0
    jitter_ms: list[float] = field(default_factory=list)
    """Sampled once a second, an hour at most."""


class RtpInbound:
    """One caller's stream.

    Args:
        codecs: by payload type; all have one rate and one clock.
        event_types: payload types of telephone events.
    """

    def __init__(self, codecs: Mapping[int, Codec], *, event_types: frozenset[int] = frozenset()) -> None:
        first = next(iter(codecs.values()))
        self.rate_hz, self.clock_hz = first.rate_hz, first.clock_hz
        self._decoders: dict[int, Codec] = {}  # also of packets that came before a change
        self._expect(codecs, event_types)
        self._counts = RtpInboundStats()  # of all but the stream under way
        self.reception: Reception | None = None
        self._buffer = JitterBuffer(self.clock_hz)
        self._digits = DigitReceiver()
        self._concealer = Concealer(self.rate_hz)
        self._frame = self.rate_hz * FRAME_MS // 1000
        self._ready: Int16Array = np.empty(0, np.int16)
        self._dry_s = 0.0
        self._silent = True  # what was heard last
        self._sampled_at = 0.0
        self.last_packet_at: float | None = None

    def _expect(self, codecs: Mapping[int, Codec], event_types: frozenset[int]) -> None:
        if {(one.rate_hz, one.clock_hz) for one in codecs.values()} != {(self.rate_hz, self.clock_hz)}:
            raise AudioFormatError("the codecs of one stream have one rate and one clock")
        self._expected = frozenset(codecs)
        self._event_types = event_types
        self._decoders |= codecs

    def switch(self, codecs: Mapping[int, Codec], *, event_types: frozenset[int]) -> None:
        """The call goes on with other codecs or numbers, at the same rate; what is counted stays counted.

        Raises:
            AudioFormatError: the rate is another one.
        """
        clock_hz = next(iter(codecs.values())).clock_hz
        if clock_hz != self.clock_hz:
            self.clock_hz = clock_hz
            self._decoders = {}
            self._end_stream()
        self._expect(codecs, event_types)

    @property
    def buffer(self) -> JitterBuffer:
        """The jitter buffer, to be looked at."""
        return self._buffer

    @property
    def stats(self) -> RtpInboundStats:
        """What has happened so far."""
        counts, reception = self._counts, self.reception
        return replace(
            counts,
            lost=counts.lost + (reception.lost if reception else 0),
            reordered=counts.reordered + (reception.reordered if reception else 0),
            late=counts.late + self._buffer.stats.late,
        )

    def knows(self, payload_type: int) -> bool:
        """Whether packets of this type are expected."""
        return payload_type in self._expected or payload_type in self._event_types or payload_type == _COMFORT_NOISE

    # -- packets ---------------------------------------------------------------------------------------------------

    def push(self, packet: RtpPacket, now: float) -> str | None:
        """Take a packet; return a key that was pressed."""
        if not self.knows(packet.payload_type):
            self._counts.foreign += 1
            return None
        reception = self.reception
        if reception is None or reception.restarted(packet):
            reception = self._begin(packet)
        is_key = packet.payload_type in self._event_types
        taken = reception.take(packet, now, timed=not is_key)
        if taken is None:
            self._counts.duplicates += 1
            return None
        self.last_packet_at = now
        self._counts.received += 1
        self._sample(reception, now)
        sequence, timestamp = taken
        audio = packet.payload_type in self._expected
        duration = self._decoders[packet.payload_type].duration(packet.payload) if audio else 0
        if duration > 0:
            self._buffer.push(sequence, timestamp, packet.payload, packet.payload_type, duration, now)
        else:
            self._buffer.skip(sequence)
        return self._digits.take(packet.ssrc, timestamp, packet.payload) if is_key else None

    def _begin(self, packet: RtpPacket) -> Reception:
        """Another source, or the same one anew: what is buffered of the old one is of no use."""
        if self.reception is not None:
            self._counts.restarts += 1
            self._end_stream()
        self.reception = Reception(packet.ssrc, self.clock_hz)
        return self.reception

    def _end_stream(self) -> None:
        """Keep what the stream so far has counted, and forget it."""
        self._counts = self.stats
        self.reception, self._buffer = None, JitterBuffer(self.clock_hz)

    def _sample(self, reception: Reception, now: float) -> None:
        if now - self._sampled_at >= 1.0 and len(self._counts.jitter_ms) < 3600:
            self._sampled_at = now
            self._counts.jitter_ms.append(round(reception.jitter_ms, 2))

    # -- the tick --------------------------------------------------------------------------------------------------

    def tick(self, now: float) -> Int16Array:
        """Return the next 20 ms, whatever came."""
        if len(self._ready) < self._frame and self._silent and self._buffer.too_shallow(now):
            self._counts.repeated_frames += 1
            return self._quiet()
        while len(self._ready) < self._frame:
            played = self._counts.played_frames
            more = self._next(now)
            real = self._counts.played_frames > played
            if real and self._buffer.too_deep(now, silent=self._silent):
                self._counts.dropped_frames += 1
                more = self._next(now)
            self._ready = np.concatenate((self._ready, more)) if len(self._ready) else more
        out, self._ready = self._ready[: self._frame], self._ready[self._frame :]
        return out

    def _next(self, now: float) -> Int16Array:
        match self._buffer.pop(now):
            case Play(payload, payload_type, _):
                self._dry_s = 0.0
                return self._played(payload, payload_type)
            case Lost():
                return self._conceal()
            case Pause():
                return self._quiet()
            case Dry():
                self._dry_s += FRAME_MS / 1000
                began = self._counts.played_frames > 0
                return self._conceal() if began and self._dry_s <= _DRY_S and not self._silent else self._quiet()

    def _played(self, payload: bytes, payload_type: int) -> Int16Array:
        try:
            samples = self._decoders[payload_type].decode(payload)
        except AudioFormatError:
            self._counts.undecodable += 1
            return self._conceal()
        self._counts.played_frames += 1
        level = rms(samples)
        self._silent = level < _SILENT_RMS
        return self._concealer.heard(samples, level)

    def _conceal(self) -> Int16Array:
        self._counts.concealed_frames += 1
        return self._concealer.conceal(self._frame)

    def _quiet(self) -> Int16Array:
        self._counts.silent_frames += 1
        self._silent = True
        return self._concealer.noise(self._frame)
