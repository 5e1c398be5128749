"""WAV: PCM of 8, 16, 24 or 32 bits, floats and G.711, any rate, one or more channels; read as mono, written as 16 bits.

Headers are read as they are found in the wild: chunks in any order before `data`, the extensible form, and the sizes 0
or 2^32-1 that a live encoder writes, since it cannot know them.
"""

import struct
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from fastagent.media import g711
from fastagent.media.errors import AudioFormatError
from fastagent.media.frame import AudioFrame, to_int16
from fastagent.media.g711 import Int16Array

_PCM, _FLOAT, _ALAW, _ULAW, _EXTENSIBLE = 1, 3, 6, 7, 0xFFFE
_WIDTHS = {_PCM: (8, 16, 24, 32), _FLOAT: (32, 64), _ALAW: (8,), _ULAW: (8,)}
_UNKNOWN = frozenset((0, 0xFFFFFFFF, 0x7FFFFFFF, 0xFFFFFFFF - 36))
_MAX_HEADER = 64 * 1024


@dataclass(frozen=True, slots=True)
class WavForm:
    """How a WAV's samples are written."""

    kind: int
    bits: int
    channels: int
    rate_hz: int

    @property
    def frame_bytes(self) -> int:
        """Bytes of one sample of every channel."""
        return self.bits // 8 * self.channels

    def decode(self, data: bytes) -> Int16Array:
        """Return whole sample frames as int16 mono."""
        samples = self._samples(data)
        if self.channels == 1:
            return samples
        return np.asarray(samples.reshape(-1, self.channels).mean(axis=1), np.int16)

    def _samples(self, data: bytes) -> Int16Array:
        if self.kind == _ULAW:
            return g711.ulaw_decode(data)
        if self.kind == _ALAW:
            return g711.alaw_decode(data)
        if self.kind == _FLOAT:
            floats = np.frombuffer(data, "<f4" if self.bits == 32 else "<f8")
            return to_int16(np.clip(np.nan_to_num(floats), -1.0, 1.0))
        if self.bits == 8:
            return ((np.frombuffer(data, np.uint8).astype(np.int16) - 128) << 8).astype(np.int16)
        if self.bits == 16:
            return np.frombuffer(data, "<i2").astype(np.int16, copy=False)
        columns = np.frombuffer(data, np.uint8).reshape(-1, self.bits // 8)
        return np.asarray(columns[:, -2:].copy().view("<i2")[:, 0], np.int16)  # the two highest bytes


@dataclass(frozen=True, slots=True)
class WavHead:
    """A header: the form, where the samples begin, and how many bytes of them there are; None where it does not say."""

    form: WavForm
    offset: int
    size: int | None


def read_head(data: bytes) -> WavHead | None:
    """Return the header at the start of a WAV; None while it is not complete.

    Raises:
        AudioFormatError: it is no WAV that we read.
    """
    if not b"RIFF".startswith(data[:4]) and data[:4] != b"RIFF":
        raise AudioFormatError("no RIFF header")
    if len(data) >= 12 and data[8:12] != b"WAVE":
        raise AudioFormatError("a RIFF file, but no WAVE")
    at, form = 12, None
    while at + 8 <= len(data):
        name, size = data[at : at + 4], int.from_bytes(data[at + 4 : at + 8], "little")
        if name == b"data":
            if form is None:
                raise AudioFormatError("WAV: no fmt chunk before the data")
            return WavHead(form, at + 8, None if size in _UNKNOWN else size)
        if at + 8 + size > _MAX_HEADER:
            raise AudioFormatError("WAV: a header without end")
        if at + 8 + size > len(data):
            return None
        if name == b"fmt ":
            form = _form(data[at + 8 : at + 8 + size])
        at += 8 + size + size % 2
    return None


def _form(chunk: bytes) -> WavForm:
    if len(chunk) < 16:
        raise AudioFormatError("WAV: a short fmt chunk")
    kind, channels, rate_hz, _, _, bits = struct.unpack("<HHIIHH", chunk[:16])
    if kind == _EXTENSIBLE and len(chunk) >= 26:
        kind = int.from_bytes(chunk[24:26], "little")
    if bits not in _WIDTHS.get(kind, ()):
        raise AudioFormatError(f"WAV: {bits} bits of format {kind} are not read")
    if not 1 <= channels <= 32 or not rate_hz:
        raise AudioFormatError(f"WAV: {channels} channels at {rate_hz} Hz")
    return WavForm(kind, bits, channels, rate_hz)


def decode_wav(data: bytes) -> AudioFrame:
    """Return the audio of a whole WAV, its channels mixed to one; less than the header says, if it was cut short.

    Raises:
        AudioFormatError: it is no WAV that we read.
    """
    head = read_head(data)
    if head is None:
        raise AudioFormatError("WAV: the header is cut short")
    body = data[head.offset :] if head.size is None else data[head.offset : head.offset + head.size]
    whole = len(body) // head.form.frame_bytes * head.form.frame_bytes
    return AudioFrame(head.form.decode(body[:whole]), head.form.rate_hz)


def read_wav(path: str | Path) -> AudioFrame:
    """Return a file's audio, its channels mixed to one.

    Raises:
        AudioFormatError: it is no WAV file that we read.
        OSError: it cannot be read.
    """
    try:
        return decode_wav(Path(path).read_bytes())
    except AudioFormatError as error:
        raise AudioFormatError(f"{path}: {error}") from error


def encode_wav(samples: Int16Array, rate_hz: int, *, channels: int = 1) -> bytes:
    """Return interleaved samples as a WAV of 16 bits."""
    data = samples.astype("<i2", copy=False).tobytes()
    form = struct.pack("<HHIIHH", _PCM, channels, rate_hz, 2 * channels * rate_hz, 2 * channels, 16)
    return b"RIFF" + struct.pack("<I", 36 + len(data)) + b"WAVEfmt \x10\0\0\0" + form + _chunk(data)


def _chunk(data: bytes) -> bytes:
    return b"data" + struct.pack("<I", len(data)) + data


def write_wav(path: str | Path, channels: list[Int16Array], rate_hz: int) -> None:
    """Write channels of equal or unequal length side by side; short ones are padded with silence."""
    length = max(len(channel) for channel in channels)
    padded = [np.pad(channel, (0, length - len(channel))) for channel in channels]
    sides = np.stack(padded, axis=1).astype(np.int16).reshape(-1)
    Path(path).write_bytes(encode_wav(sides, rate_hz, channels=len(channels)))
