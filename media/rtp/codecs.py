"""Codecs of RTP streams: payloads to samples and back, at the rate that the gateway works at (8 or 16 kHz)."""

from typing import Any, Protocol

import numpy as np

from fastagent.media import g711
from fastagent.media.errors import AudioFormatError
from fastagent.media.g711 import Int16Array
from fastagent.media.opus import OpusDecoder, OpusEncoder
from fastagent.media.resample import FrameResampler

WIDE_HZ = 16000


class Codec(Protocol):
    """One direction each of one stream."""

    name: str
    clock_hz: int
    """Of the timestamps; G.722 counts at 8000 although it samples at 16000 (RFC 3551, 4.5.2)."""
    rate_hz: int
    """Of the samples."""

    def duration(self, payload: bytes) -> int:
        """Return how long a payload is, in units of the clock, without decoding it."""
        ...

    def decode(self, payload: bytes) -> Int16Array:
        """Return a payload's samples.

        Raises:
            AudioFormatError: it is none of this codec.
        """
        ...

    def encode(self, samples: Int16Array) -> bytes:
        """Return samples as one payload; for Opus 10, 20, 40 or 60 ms of them."""
        ...


class G711:
    """PCMU or PCMA."""

    clock_hz = rate_hz = 8000

    def __init__(self, name: str) -> None:
        self.name = name
        ulaw = name == "PCMU"
        self._decode, self._encode = (
            (g711.ulaw_decode, g711.ulaw_encode) if ulaw else (g711.alaw_decode, g711.alaw_encode)
        )

    def duration(self, payload: bytes) -> int:
        """One byte a sample."""
        return len(payload)

    def decode(self, payload: bytes) -> Int16Array:
        """By table."""
        return self._decode(payload)

    def encode(self, samples: Int16Array) -> bytes:
        """By table."""
        return self._encode(samples)


class L16:
    """Big-endian samples, mono (RFC 3551, 4.5.11), at 8 or 16 kHz."""

    name = "L16"

    def __init__(self, rate_hz: int) -> None:
        self.clock_hz = self.rate_hz = rate_hz

    def duration(self, payload: bytes) -> int:
        """Two bytes a sample."""
        return len(payload) // 2

    def decode(self, payload: bytes) -> Int16Array:
        """Swap bytes."""
        return np.frombuffer(payload[: len(payload) // 2 * 2], ">i2").astype(np.int16)

    def encode(self, samples: Int16Array) -> bytes:
        """Swap bytes."""
        return samples.astype(">i2").tobytes()


class G722:
    """64 kbit/s by FFmpeg's codec; eight bits carry two samples at 16 kHz."""

    name = "G722"
    clock_hz, rate_hz = 8000, WIDE_HZ

    def __init__(self) -> None:
        import av

        self._av = av
        self._decoder: Any = av.CodecContext.create("g722", "r")
        self._decoder.sample_rate, self._decoder.layout = WIDE_HZ, "mono"
        self._encoder: Any = av.CodecContext.create("g722", "w")
        self._encoder.sample_rate, self._encoder.layout, self._encoder.format = WIDE_HZ, "mono", "s16"
        # Frames of 10 ms, so that nothing of a packet of 10 or 30 ms stays inside; its own are of 20.
        self._encoder.options = {"frame_size": str(WIDE_HZ // 100)}
        self._encoder.open()
        self._at = 0

    def duration(self, payload: bytes) -> int:
        """One byte a tick of the clock."""
        return len(payload)

    def decode(self, payload: bytes) -> Int16Array:
        """Two samples a byte."""
        try:
            frames = self._decoder.decode(self._av.Packet(payload)) if payload else []
        except (self._av.FFmpegError, ValueError) as error:
            raise AudioFormatError("no G.722") from error
        parts = [frame.to_ndarray().reshape(-1) for frame in frames]
        return np.asarray(np.concatenate(parts), np.int16) if parts else np.empty(0, np.int16)

    def encode(self, samples: Int16Array) -> bytes:
        """A byte for two samples."""
        frame = self._av.AudioFrame.from_ndarray(np.ascontiguousarray(samples)[None], "s16", "mono")
        frame.sample_rate, frame.pts = WIDE_HZ, self._at
        self._at += len(samples)
        return b"".join(bytes(packet) for packet in self._encoder.encode(frame))


class Opus:
    """By libopus; 16 kHz inside, whatever was sent."""

    name = "opus"
    clock_hz, rate_hz = 48000, WIDE_HZ

    def __init__(self) -> None:
        self._decoder = OpusDecoder()
        self._encoder: OpusEncoder | None = None
        self._resampler = FrameResampler(OpusDecoder.rate_hz, WIDE_HZ)

    def duration(self, payload: bytes) -> int:
        """From the table of contents (RFC 6716, 3.1)."""
        return opus_duration(payload)

    def decode(self, payload: bytes) -> Int16Array:
        """Decode at 48 kHz, resample."""
        return self._resampler.push(self._decoder.decode(payload).samples)

    def encode(self, samples: Int16Array) -> bytes:
        """One packet, as long as the samples are."""
        frame_ms = len(samples) * 1000 // WIDE_HZ
        if self._encoder is None or self._encoder.frame_ms != frame_ms:
            self._encoder = OpusEncoder(WIDE_HZ, frame_ms)
        return b"".join(self._encoder.encode(samples))


class Rerated:
    """A codec whose samples come and go at another rate than its own: a call keeps its rate when its codec changes."""

    def __init__(self, codec: Codec, rate_hz: int) -> None:
        self.name, self.clock_hz, self.rate_hz = codec.name, codec.clock_hz, rate_hz
        self._codec = codec
        self._in, self._out = FrameResampler(codec.rate_hz, rate_hz), FrameResampler(rate_hz, codec.rate_hz)

    def duration(self, payload: bytes) -> int:
        """As the codec says."""
        return self._codec.duration(payload)

    def decode(self, payload: bytes) -> Int16Array:
        """Decode, then resample."""
        return self._in.push(self._codec.decode(payload))

    def encode(self, samples: Int16Array) -> bytes:
        """Resample, then encode."""
        return self._codec.encode(self._out.push(samples))


def opus_duration(packet: bytes) -> int:
    """Return the length of an Opus packet at 48 kHz; 20 ms for what cannot be read."""
    if not packet:
        return 960
    config, code = packet[0] >> 3, packet[0] & 3
    if config < 12:
        frame = (480, 960, 1920, 2880)[config & 3]
    elif config < 16:
        frame = (480, 960)[config & 1]
    else:
        frame = (120, 240, 480, 960)[config & 3]
    count = 1 if code == 0 else 2 if code < 3 else packet[1] & 0x3F if len(packet) > 1 else 1
    return frame * count if 0 < frame * count <= 5760 else 960


def codec(name: str, clock_hz: int = 8000, rate_hz: int | None = None) -> Codec:
    """Return a fresh codec by its name in SDP, whatever its case; with `rate_hz` one that works at that rate.

    Raises:
        AudioFormatError: none of ours.
    """
    found = _codec(name.lower(), clock_hz)
    return found if rate_hz in (None, found.rate_hz) else Rerated(found, rate_hz)


def _codec(name: str, clock_hz: int) -> Codec:
    if name in ("pcmu", "pcma"):
        return G711(name.upper())
    if name == "g722":
        return G722()
    if name == "opus":
        return Opus()
    if name == "l16" and clock_hz in (8000, WIDE_HZ):
        return L16(clock_hz)
    raise AudioFormatError(f"no codec {name!r} at {clock_hz}")
