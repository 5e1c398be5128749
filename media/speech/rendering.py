"""From a text to wire audio: synthesis, resampling, encoding, and a cache of what is said again and again."""

import asyncio
from collections import OrderedDict
from collections.abc import Callable, Iterable

import numpy as np

from fastagent.media.frame import AudioFormat
from fastagent.media.g711 import Int16Array
from fastagent.media.level import frame_levels_db
from fastagent.media.playout import RenderedSpeech
from fastagent.media.resample import StreamResampler, resample_block
from fastagent.media.speech.contracts import Tts

_CACHE_BYTES = 16 << 20


class Renderer:
    """Renders for all calls of one synthesiser. Only texts named to `keep` are cached: they are the agent's own
    fixed phrases, never what a caller said."""

    def __init__(
        self,
        tts: Tts,
        *,
        emergency: "Renderer | None" = None,
        on_render: Callable[[str], None] = lambda outcome: None,
    ) -> None:
        self.tts, self._emergency = tts, emergency
        self._on_render = on_render
        self._kept: OrderedDict[tuple[str, AudioFormat], RenderedSpeech] = OrderedDict()
        self._kept_bytes = 0
        self._wanted: set[str] = set()

    def want(self, texts: Iterable[str]) -> None:
        """Keep texts from the first time that they are rendered."""
        self._wanted.update(texts)

    async def keep(self, texts: Iterable[str], audio: AudioFormat) -> None:
        """Render texts now and keep them, within a bound of 16 MiB."""
        for text in texts:
            self._wanted.add(text)
            await self.render(text, audio)

    def kept(self, text: str, audio: AudioFormat) -> RenderedSpeech | None:
        """Return a cached rendering, without waiting; where there is none in this format, one made from another, and
        where there is none at all, the one of the voice for emergencies."""
        speech = self._kept.get((text, audio))
        if speech is None:
            other = next((form for kept, form in self._kept if kept == text), None)
            if other is not None:
                samples = resample_block(other.decode(self._kept[text, other].payload), other.rate_hz, audio.rate_hz)
                speech = encode_speech(text, samples, audio)
        if speech is None and self._emergency is not None:
            speech = self._emergency.kept(text, audio)
        return speech

    async def render(self, text: str, audio: AudioFormat) -> RenderedSpeech:
        """Return a text as wire audio.

        Raises:
            SpeechError: the synthesiser failed.
        """
        speech = self._kept.get((text, audio))
        if speech is not None:
            self._on_render("cached")
            return speech
        speech = await self._make(text, audio)
        self._on_render("made")
        if text in self._wanted:
            self._store(text, audio, speech)
        return speech

    def _store(self, text: str, audio: AudioFormat, speech: RenderedSpeech) -> None:
        if (text, audio) in self._kept:  # another call was quicker
            return
        self._kept[(text, audio)] = speech
        self._kept_bytes += len(speech.payload)
        while self._kept_bytes > _CACHE_BYTES:
            _, oldest = self._kept.popitem(last=False)
            self._kept_bytes -= len(oldest.payload)

    async def _make(self, text: str, audio: AudioFormat) -> RenderedSpeech:
        resampler: StreamResampler | None = None
        parts: list[Int16Array] = []
        loop = asyncio.get_running_loop()
        async for frame in self.tts.stream(text):
            resampler = resampler or StreamResampler(frame.rate_hz, audio.rate_hz)
            if len(frame.samples) < frame.rate_hz // 10:
                parts.append(resampler.push(frame.samples))
            else:  # over a millisecond of work
                parts.append(await loop.run_in_executor(None, resampler.push, frame.samples))
        if resampler is not None:
            parts.append(resampler.flush())
        samples = np.concatenate(parts) if parts else np.empty(0, np.int16)
        return encode_speech(text, samples, audio)


def encode_speech(text: str, samples: Int16Array, audio: AudioFormat) -> RenderedSpeech:
    """Return samples at the wire's rate as wire audio with its levels."""
    return RenderedSpeech(text, audio.encode(samples), frame_levels_db(samples, audio.frame_samples))
