"""Frames and formats: what audio is called while it is inside the gateway."""

from dataclasses import dataclass
from typing import Literal

import numpy as np

from fastagent.media import g711
from fastagent.media.errors import AudioFormatError
from fastagent.media.g711 import Int16Array

FRAME_MS = 20

Encoding = Literal["PCMU", "PCMA", "L16"]


@dataclass(frozen=True, slots=True)
class AudioFrame:
    """A stretch of decoded audio: int16 mono `samples` at `rate_hz`."""

    samples: Int16Array
    rate_hz: int

    @property
    def duration_s(self) -> float:
        """Length in seconds."""
        return len(self.samples) / self.rate_hz


@dataclass(frozen=True, slots=True)
class AudioFormat:
    """How a leg's payloads are encoded. `L16` here is little-endian, as every WebSocket provider sends it."""

    encoding: Encoding
    rate_hz: int

    def __post_init__(self) -> None:
        if self.encoding not in ("PCMU", "PCMA", "L16"):
            raise AudioFormatError(f"unknown encoding {self.encoding!r}")
        if self.rate_hz not in (8000, 16000, 24000, 48000):
            raise AudioFormatError(f"unsupported sample rate {self.rate_hz}")

    @property
    def sample_bytes(self) -> int:
        """Bytes per sample."""
        return 2 if self.encoding == "L16" else 1

    @property
    def frame_samples(self) -> int:
        """Samples in a frame of 20 ms."""
        return self.rate_hz * FRAME_MS // 1000

    @property
    def frame_bytes(self) -> int:
        """Bytes of a frame of 20 ms."""
        return self.frame_samples * self.sample_bytes

    def decode(self, payload: bytes | bytearray | memoryview) -> Int16Array:
        """Return the samples of a payload; its length must be a whole number of samples."""
        if self.encoding == "PCMU":
            return g711.ulaw_decode(payload)
        if self.encoding == "PCMA":
            return g711.alaw_decode(payload)
        return np.frombuffer(payload, "<i2").astype(np.int16, copy=False)

    def encode(self, samples: Int16Array) -> bytes:
        """Return int16 samples as a payload."""
        if self.encoding == "PCMU":
            return g711.ulaw_encode(samples)
        if self.encoding == "PCMA":
            return g711.alaw_encode(samples)
        return samples.astype("<i2", copy=False).tobytes()

    def silence(self, samples: int) -> bytes:
        """Return that many samples of silence."""
        if self.encoding == "PCMU":
            return bytes((g711.ULAW_SILENCE,)) * samples
        if self.encoding == "PCMA":
            return bytes((g711.ALAW_SILENCE,)) * samples
        return bytes(2 * samples)


PCMU_8K = AudioFormat("PCMU", 8000)


def to_int16(samples: np.typing.ArrayLike) -> Int16Array:
    """Return float samples in [-1, 1] as int16, clipped."""
    scaled = np.asarray(samples, np.float32) * 32767.0
    return np.asarray(np.clip(np.rint(scaled), -32768, 32767), np.int16)
