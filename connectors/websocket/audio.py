"""Audio of the WebSocket API: what clients send becomes 16-bit samples at one rate, ours goes out as they asked.

In: a chunk that begins with a RIFF header has its form; chunks without one go on in the form of the last header until
its data is complete, so that a file may be cut anywhere. Without any header they are what was negotiated.
"""

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from fastagent.connectors.websocket.messages import AudioSpec
from fastagent.media.errors import AudioFormatError
from fastagent.media.frame import PCMU_8K, AudioFormat
from fastagent.media.g711 import Int16Array
from fastagent.media.opus import OpusDecoder, OpusEncoder
from fastagent.media.resample import StreamResampler
from fastagent.media.wav import WavForm, encode_wav, read_head

_WAV = frozenset(("audio/x-wav", "audio/wav", "audio/wave", "audio/vnd.wave"))
_PCM = frozenset(("audio/pcm", "audio/l16", "audio/raw", "audio/x-raw"))
_ULAW = frozenset(("audio/x-mulaw", "audio/mulaw", "audio/pcmu", "audio/basic"))
_ALAW = frozenset(("audio/x-alaw", "audio/alaw", "audio/pcma"))
_OPUS = frozenset(("audio/opus",))
_OUT_HZ = (8000, 16000, 24000, 48000)
_MAX_CHUNK_S = 10.0
_MAX_TAIL = 64 * 1024
_RATES_HZ = range(4000, 96001)
DEFAULT_HZ = 16000


class UnsupportedFormat(AudioFormatError):
    """A format that was not negotiated, or that nobody has heard of; `supported` says what is."""

    def __init__(self, format_: str, supported: str) -> None:
        super().__init__(f"Unsupported audio format: {format_:.80}")
        self.supported = supported


@dataclass(frozen=True, slots=True)
class Wire:
    """A negotiated format: its family (`wav`, `pcm`, `mulaw`, `alaw`, `opus`), its name on the wire, and its rate."""

    family: str
    name: str
    rate_hz: int

    @property
    def internal(self) -> AudioFormat:
        """How the session writes it."""
        if self.family == "mulaw":
            return PCMU_8K
        return AudioFormat("PCMA", 8000) if self.family == "alaw" else AudioFormat("L16", self.rate_hz)


def family(name: str) -> tuple[str, int | None]:
    """Return the family of a MIME type, and the rate that it may name: `audio/pcm;rate=8000`.

    Raises:
        UnsupportedFormat: none of ours.
    """
    kind, _, parameters = name.lower().partition(";")
    kind = kind.strip()
    for found, names in (("wav", _WAV), ("pcm", _PCM), ("mulaw", _ULAW), ("alaw", _ALAW), ("opus", _OPUS)):
        if kind in names:
            rate = next((p.split("=")[1] for p in parameters.split(";") if p.strip().startswith("rate=")), "").strip()
            return found, int(rate) if rate.isascii() and rate.isdecimal() and len(rate) < 7 else None
    raise UnsupportedFormat(name, "audio/x-wav, audio/pcm, audio/x-mulaw, audio/x-alaw and audio/opus are supported")


def negotiated(spec: AudioSpec, *, output: bool) -> Wire:
    """Return what a client has asked for.

    Raises:
        UnsupportedFormat, AudioFormatError: it cannot be had.
    """
    kind, rate = family(spec.format)
    rate_hz = spec.sample_rate or rate or (8000 if kind in ("mulaw", "alaw") else DEFAULT_HZ)
    if kind in ("mulaw", "alaw") and rate_hz != 8000:
        raise AudioFormatError(f"{spec.format} has 8000 Hz, not {rate_hz}")
    if rate_hz not in _RATES_HZ or (output and rate_hz not in _OUT_HZ):
        raise AudioFormatError(f"{rate_hz} Hz is not supported; {', '.join(map(str, _OUT_HZ))} are")
    return Wire(kind, spec.format.partition(";")[0].strip(), rate_hz)


class AudioIn:
    """One caller's audio: bytes of any supported form in, L16 at `rate_hz` out."""

    def __init__(self, wire: Wire, rate_hz: int) -> None:
        self._wire = wire
        self.rate_hz = rate_hz
        self._resamplers: dict[int, StreamResampler] = {}
        self._opus: OpusDecoder | None = None
        self._form: WavForm | None = None  # of the WAV under way
        self._due: int | None = 0  # bytes of it that are still to come; None: nobody knows
        self._tail = 0  # bytes of other chunks behind them
        self._file_kind = ""
        self._head = b""  # the beginning of a header
        self._rest = b""  # the beginning of a sample

    def push(self, data: bytes, format_: str | None = None) -> bytes:
        """Return a chunk as L16, without what is incomplete at its end.

        Raises:
            UnsupportedFormat: another format than what was negotiated, and no WAV.
            AudioFormatError: it cannot be decoded, or has more than ten seconds.
        """
        kind = self._kind(format_)
        if kind == "opus":
            self._opus = self._opus or OpusDecoder()
            return self._at_rate([self._opus.decode(data).samples], OpusDecoder.rate_hz)
        if self._head or self._begins_file(data, kind):
            return self._wav(data, kind)
        if kind == self._file_kind:
            if self._in_file:
                return self._more(data)
            data = self._without_tail(data)
        return self._raw(data, kind)

    @property
    def _in_file(self) -> bool:
        return self._form is not None and self._due != 0

    def _begins_file(self, data: bytes, kind: str) -> bool:
        """Whether a header begins here; amidst samples, or where none is expected, it must be beyond doubt."""
        if self._in_file or kind != "wav":
            return data[:4] == b"RIFF" and data[8:12] == b"WAVE"
        return bool(data) and (data[:4] == b"RIFF" or b"RIFF".startswith(data))

    def _without_tail(self, data: bytes) -> bytes:
        """Other chunks of a file, behind its samples, are no audio."""
        skipped = min(self._tail, len(data))
        self._tail -= skipped
        return data[skipped:]

    def _kind(self, format_: str | None) -> str:
        if format_ is None:
            return self._wire.family
        try:
            kind, _ = family(format_)
        except UnsupportedFormat:
            kind = ""
        if kind not in (self._wire.family, "wav"):
            only = "audio/x-wav is" if self._wire.family == "wav" else f"audio/x-wav and {self._wire.name} are"
            raise UnsupportedFormat(format_, f"Only {only} supported")
        return kind

    def _wav(self, data: bytes, kind: str) -> bytes:
        data, self._head = self._head + data, b""
        self._form, self._file_kind, self._tail = None, "", 0
        if not b"RIFF".startswith(data[:4]):
            return self._raw(data, kind)  # its first bytes only looked like a header
        head = read_head(data)
        if head is None:
            self._head = data
            return b""
        form = head.form
        if form.channels > 2 or form.rate_hz not in _RATES_HZ or form.bits not in (8, 16, 24, 32, 64):
            raise AudioFormatError(
                f"WAV: {form.channels} channels at {form.rate_hz} Hz; 1 or 2 at 4 to 96 kHz are read"
            )
        self._form, self._due, self._rest, self._file_kind = form, head.size, b"", kind
        if head.size is not None:
            tail = int.from_bytes(data[4:8], "little") + 8 - head.offset - head.size
            self._tail = tail if 0 < tail <= _MAX_TAIL else 0
        return self._more(data[head.offset :])

    def _more(self, data: bytes) -> bytes:
        """Go on with the WAV under way."""
        form = self._form
        assert form is not None
        if self._due is None:
            return self._decoded(data, form)
        data, behind = data[: self._due], data[self._due :]
        self._due -= len(data)
        self._without_tail(behind)
        try:
            return self._decoded(data, form)
        finally:
            if not self._due:
                self._rest = b""  # half a sample of a file is not the first half of another's

    def _decoded(self, data: bytes, form: WavForm) -> bytes:
        data = self._rest + data
        whole = len(data) // form.frame_bytes * form.frame_bytes
        self._rest = data[whole:]
        self._check(whole // form.frame_bytes, form.rate_hz)
        return self._at_rate([form.decode(data[:whole])], form.rate_hz)

    def _raw(self, data: bytes, kind: str) -> bytes:
        codec, bits = {"mulaw": (7, 8), "alaw": (6, 8)}.get(kind, (1, 16))
        return self._decoded(data, WavForm(codec, bits, 1, self._wire.rate_hz))

    @staticmethod
    def _check(samples: int, rate_hz: int) -> None:
        if samples > _MAX_CHUNK_S * rate_hz:
            raise AudioFormatError(f"a chunk has {_MAX_CHUNK_S:g} seconds at most")

    def _at_rate(self, parts: Iterable[Int16Array], from_hz: int) -> bytes:
        if from_hz not in self._resamplers:  # another rate is another stream
            self._resamplers = {from_hz: StreamResampler(from_hz, self.rate_hz)}
        resampler = self._resamplers[from_hz]
        return np.concatenate([resampler.push(part) for part in parts]).astype("<i2").tobytes()


class AudioOut:
    """The agent's audio as one client wants it."""

    def __init__(self, wire: Wire) -> None:
        self.wire = wire
        self._opus = OpusEncoder(wire.rate_hz) if wire.family == "opus" else None

    def chunks(self, payload: bytes) -> list[bytes]:
        """Return the messages' contents for a stretch of audio: one, or a packet for each 20 ms of Opus."""
        if not payload:
            return [self.end()]
        if self._opus is not None:
            return self._opus.encode(np.frombuffer(payload, "<i2").astype(np.int16, copy=False))
        return [self._one(payload)]

    def _one(self, payload: bytes) -> bytes:
        if self.wire.family == "wav":
            return encode_wav(np.frombuffer(payload, "<i2").astype(np.int16, copy=False), self.wire.rate_hz)
        return payload

    def end(self) -> bytes:
        """Return a chunk without samples, for an end that comes after the last one."""
        return encode_wav(np.empty(0, np.int16), self.wire.rate_hz) if self.wire.family == "wav" else b""
