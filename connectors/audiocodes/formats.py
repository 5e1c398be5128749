"""The media formats of the Bot API, and the one that we take.

`raw/lpcm16` without a suffix is 16 kHz. Of the `wav/*` forms it is not known where their headers come, so they are
taken only where nothing else is offered: in, a header may begin any chunk; out, one begins each play stream.
"""

import struct
from collections.abc import Sequence
from dataclasses import dataclass

from fastagent.media.errors import AudioFormatError
from fastagent.media.frame import PCMU_8K, AudioFormat
from fastagent.media.wav import read_head

_NAMES = {
    "lpcm16_8": AudioFormat("L16", 8000),
    "mulaw": PCMU_8K,
    "lpcm16": AudioFormat("L16", 16000),
    "lpcm16_24": AudioFormat("L16", 24000),
}
PREFERENCE = (*(f"raw/{name}" for name in _NAMES), *(f"wav/{name}" for name in _NAMES))
"""A telephone line has 8 kHz, and its loss would be ours to code again: so the plainest form of that comes first."""

MAX_CHUNK_S = 10


@dataclass(frozen=True, slots=True)
class MediaFormat:
    """One of the eight."""

    name: str

    @property
    def audio(self) -> AudioFormat:
        """What is in it."""
        return _NAMES[self.name.partition("/")[2]]

    @property
    def wav(self) -> bool:
        """Whether it has headers."""
        return self.name.startswith("wav/")

    @property
    def header(self) -> bytes:
        """What begins a play stream: nothing, or the header of a WAV whose length nobody knows yet."""
        if not self.wav:
            return b""
        audio, kind = self.audio, 7 if self.audio.encoding == "PCMU" else 1
        size, rate = audio.sample_bytes, audio.rate_hz
        form = struct.pack("<HHIIHH", kind, 1, rate, rate * size, size, size * 8)
        return b"RIFF\xff\xff\xff\xffWAVEfmt \x10\x00\x00\x00" + form + b"data\xff\xff\xff\xff"


def choose(offered: Sequence[str], preference: Sequence[str] = PREFERENCE) -> MediaFormat | None:
    """Return the first of our formats that is offered; None where none is."""
    return next((MediaFormat(name) for name in preference if name in offered), None)


class CallerAudio:
    """One user stream: chunks of any length in, whole samples out."""

    def __init__(self, form: MediaFormat) -> None:
        self._form, self._rest = form, b""

    def push(self, chunk: bytes) -> bytes:
        """Return a chunk's samples; an odd byte at its end waits for the next chunk.

        Raises:
            AudioFormatError: a chunk of more than ten seconds, or a WAV in another form.
        """
        audio = self._form.audio
        if len(chunk) > MAX_CHUNK_S * audio.rate_hz * audio.sample_bytes:
            raise AudioFormatError("more than ten seconds in a chunk")
        if self._form.wav and chunk.startswith(b"RIFF"):
            chunk, self._rest = self._body(chunk), b""
        if audio.sample_bytes == 1:
            return chunk
        data = self._rest + chunk
        whole = len(data) & ~1
        self._rest = data[whole:]
        return data[:whole]

    def _body(self, chunk: bytes) -> bytes:
        head, audio = read_head(chunk), self._form.audio
        if head is None:
            raise AudioFormatError("a WAV header that is cut short")
        form = head.form
        kind = {7: "PCMU", 1: "L16"}.get(form.kind)
        if (kind, form.rate_hz, form.channels, form.bits) != (audio.encoding, audio.rate_hz, 1, 8 * audio.sample_bytes):
            raise AudioFormatError("a WAV in another form than was accepted")
        return chunk[head.offset :] if head.size is None else chunk[head.offset : head.offset + head.size]
