"""The way of a datagram leg's audio: packets in at any time, 20 ms of audio out on each tick, always.

packet --> source rules --> Reception --> JitterBuffer --tick--> decode | conceal | comfort noise --> 20 ms
                                \\-> DigitReceiver --> keys

A stream under way is not left for a packet that went astray: another source, or a jump of the numbers, is followed at
its second packet in sequence (RFC 3550, A.1), and then from its first one on. Keys may have a source of their own; they
begin no stream and end none.
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
    """Of one call; streams that began anew are counted together. Packets, but for what says frames: 20 ms each,
    whatever the packets' length."""

    received: int = 0
    lost: int = 0
    late: int = 0
    """They came, and could not be played: too late, or too many at once."""
    duplicates: int = 0
    reordered: int = 0
    foreign: int = 0
    """Of a payload type that was not negotiated, or of another source that no second packet confirmed."""
    undecodable: int = 0
    restarts: int = 0
    played_frames: int = 0
    concealed_frames: int = 0
    """Made up for what was lost or late."""
    silent_frames: int = 0
    """Of pauses, and of an empty buffer that was not filled by then."""
    dropped_frames: int = 0
    repeated_frames: int = 0
    jitter_ms: list[float] = field(default_factory=list)
    """Sampled once a second, an hour at most."""


@dataclass(slots=True)
class _Heard:
    """What ticks were made of, in samples."""

    played: int = 0
    concealed: int = 0
    silent: int = 0
    dropped: int = 0
    undecided: int = 0
    """Of those that count as silent: made up since the buffer is empty, for a loss or for a pause."""


class RtpInbound:
    """One caller's stream.

    Args:
        codecs: by payload type; all have one rate and one clock.
        event_types: payload types of telephone events.
    """

    def __init__(self, codecs: Mapping[int, Codec], *, event_types: frozenset[int] = frozenset()) -> None:
        first = next(iter(codecs.values()))
        self.rate_hz, self.clock_hz = first.rate_hz, first.clock_hz
        self._decoders: dict[int, Codec] = {}
        self._event_types: frozenset[int] = frozenset()
        self._expect(codecs, event_types)
        self._counts = RtpInboundStats()  # of all but the stream under way, and but for frames
        self._heard = _Heard()
        self.reception: Reception | None = None
        self._candidate: tuple[RtpPacket, float] | None = None  # the first of another stream, and when it came
        self._buffer = JitterBuffer(self.clock_hz)
        self._digits = DigitReceiver()
        self._concealer = Concealer(self.rate_hz)
        self._frame = self.rate_hz * FRAME_MS // 1000
        self._ready: Int16Array = np.empty(0, np.int16)
        self._silent = True  # what was heard last
        self._sampled_at = 0.0
        self.last_packet_at: float | None = None

    def _expect(self, codecs: Mapping[int, Codec], event_types: frozenset[int]) -> None:
        if {(one.rate_hz, one.clock_hz) for one in codecs.values()} != {(self.rate_hz, self.clock_hz)}:
            raise AudioFormatError("the codecs of one stream have one rate and one clock")
        # Numbers of before stay good where they were not given to something else: packets are on their way, or wait.
        self._decoders |= codecs
        self._event_types = self._event_types - codecs.keys() | event_types

    def switch(self, codecs: Mapping[int, Codec], *, event_types: frozenset[int]) -> None:
        """The call goes on with other codecs or numbers, at the same rate; what is counted stays counted.

        Raises:
            AudioFormatError: the rate is another one.
        """
        clock_hz = next(iter(codecs.values())).clock_hz
        if clock_hz != self.clock_hz:
            self.clock_hz = clock_hz
            self._decoders, self._event_types = {}, frozenset()
            self._end_stream()
        self._expect(codecs, event_types)

    @property
    def buffer(self) -> JitterBuffer:
        """The jitter buffer, to be looked at."""
        return self._buffer

    @property
    def stats(self) -> RtpInboundStats:
        """What has happened so far."""
        counts, reception, buffer, heard = self._counts, self.reception, self._buffer.stats, self._heard
        return replace(
            counts,
            lost=counts.lost + (reception.lost if reception else 0),
            reordered=counts.reordered + (reception.reordered if reception else 0),
            late=counts.late + buffer.late + buffer.dropped,
            played_frames=round(heard.played / self._frame),
            concealed_frames=round(heard.concealed / self._frame),
            silent_frames=round(heard.silent / self._frame),
            dropped_frames=round(heard.dropped / self._frame),
        )

    def knows(self, payload_type: int) -> bool:
        """Whether packets of this type are expected."""
        return payload_type in self._decoders or payload_type in self._event_types or payload_type == _COMFORT_NOISE

    # -- packets ---------------------------------------------------------------------------------------------------

    def push(self, packet: RtpPacket, now: float) -> str | None:
        """Take a packet; return a key that was pressed."""
        if not self.knows(packet.payload_type):
            self._counts.foreign += 1
            return None
        if self.reception is None or self.reception.restarted(packet):
            if packet.payload_type in self._event_types:
                return self._key(packet, now)
            if self.reception is None:
                self.reception = Reception(packet.ssrc, self.clock_hz)
            elif not self._follow(packet, now):
                return None
        return self._accept(packet, now)

    def _key(self, packet: RtpPacket, now: float) -> str | None:
        """A key's packet that belongs to no stream, or to none that is under way."""
        self.last_packet_at = now
        self._counts.received += 1
        return self._digits.take(packet.ssrc, packet.timestamp, packet.payload)

    def _follow(self, packet: RtpPacket, now: float) -> bool:
        """Whether a packet confirms the one before it that another source, or the same one anew, is to be followed."""
        before, self._candidate = self._candidate, (packet, now)
        if before is None or not _is_next(before[0], packet):
            self._counts.foreign += 1
            return False
        self._counts.foreign -= 1
        self._counts.restarts += 1
        self._end_stream()
        self.reception = Reception(packet.ssrc, self.clock_hz)
        self._accept(*before)
        return True

    def _accept(self, packet: RtpPacket, now: float) -> str | None:
        """Take a packet of the stream under way."""
        assert self.reception is not None
        is_key = packet.payload_type in self._event_types
        taken = self.reception.take(packet, now, timed=not is_key)
        if taken is None:
            self._counts.duplicates += 1
            return None
        self._candidate = None
        self.last_packet_at = now
        self._counts.received += 1
        self._sample(self.reception, now)
        sequence, timestamp = taken
        decoder = None if is_key else self._decoders.get(packet.payload_type)
        duration = decoder.duration(packet.payload) if decoder is not None else 0
        if duration > 0:
            self._buffer.push(sequence, timestamp, packet.payload, packet.payload_type, duration, now)
        else:
            self._buffer.skip(sequence)
        return self._digits.take(packet.ssrc, packet.timestamp, packet.payload) if is_key else None

    def _end_stream(self) -> None:
        """Keep what the stream so far has counted, and forget it."""
        self._counts = self.stats
        self.reception, self._candidate, self._buffer = None, None, JitterBuffer(self.clock_hz)
        self._heard.undecided = 0

    def _sample(self, reception: Reception, now: float) -> None:
        if now - self._sampled_at >= 1.0 and len(self._counts.jitter_ms) < 3600:
            self._sampled_at = now
            self._counts.jitter_ms.append(round(reception.jitter_ms, 2))

    # -- the tick --------------------------------------------------------------------------------------------------

    def tick(self, now: float) -> Int16Array:
        """Return the next 20 ms, whatever came."""
        if len(self._ready) < self._frame and self._silent and self._buffer.too_shallow(now):
            self._counts.repeated_frames += 1
            return self._quiet(self._frame)
        while len(self._ready) < self._frame:
            played = self._heard.played
            more = self._next(now)
            real = self._heard.played > played
            if real and self._buffer.too_deep(now, silent=self._silent):
                self._heard.dropped += len(more)
                more = self._next(now)
            self._ready = np.concatenate((self._ready, more)) if len(self._ready) else more
        out, self._ready = self._ready[: self._frame], self._ready[self._frame :]
        return out

    def _next(self, now: float) -> Int16Array:
        match self._buffer.pop(now):
            case Play(payload, payload_type, units, paused):
                self._decide(lost=not paused)
                return self._played(payload, payload_type, self._samples(units))
            case Lost(units):
                self._decide(lost=True)
                return self._conceal(self._samples(units))
            case Pause(units):
                self._decide(lost=False)
                return self._quiet(self._samples(units))
            case Dry():
                return self._dry()

    def _samples(self, units: int) -> int:
        """What so many units of the clock are."""
        return units * self.rate_hz // self.clock_hz

    def _dry(self) -> Int16Array:
        """Make up a frame that may turn out to have been one of a pause."""
        if self._silent or self._heard.undecided >= _DRY_S * self.rate_hz:
            return self._quiet(self._frame)
        self._heard.silent += self._frame
        self._heard.undecided += self._frame
        return self._concealer.conceal(self._frame)

    def _decide(self, *, lost: bool) -> None:
        """It turns out what the empty buffer was filled for: a loss or a packet that was late, or else a pause."""
        if lost:
            self._heard.silent -= self._heard.undecided
            self._heard.concealed += self._heard.undecided
        self._heard.undecided = 0

    def _played(self, payload: bytes, payload_type: int, count: int) -> Int16Array:
        try:
            samples = self._decoders[payload_type].decode(payload)
        except AudioFormatError:
            self._counts.undecodable += 1
            return self._conceal(count)
        self._heard.played += len(samples)
        level = rms(samples)
        self._silent = level < _SILENT_RMS
        return self._concealer.heard(samples, level)

    def _conceal(self, count: int) -> Int16Array:
        self._heard.concealed += count
        return self._concealer.conceal(count)

    def _quiet(self, count: int) -> Int16Array:
        self._heard.silent += count
        self._silent = True
        return self._concealer.noise(count)


def _is_next(one: RtpPacket, other: RtpPacket) -> bool:
    return (other.ssrc, other.sequence) == (one.ssrc, one.sequence + 1 & 0xFFFF)
