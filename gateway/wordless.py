"""Speech for legs that take words: each sentence has one frame of silence, so that turns go as they always do."""

from collections.abc import AsyncIterator

import numpy as np

from fastagent.media.frame import AudioFormat, AudioFrame
from fastagent.media.level import FLOOR_DB
from fastagent.media.playout import RenderedSpeech
from fastagent.media.speech.rendering import Renderer


class _Silence:
    """A synthesiser that is never asked."""

    name = "none"

    async def stream(self, text: str) -> AsyncIterator[AudioFrame]:
        """One frame of silence."""
        yield AudioFrame(np.zeros(160, np.int16), 8000)

    async def warm_up(self) -> None:
        """Nothing to load."""


class WordlessRenderer(Renderer):
    """Renders every text as a frame of silence, at once."""

    def __init__(self) -> None:
        super().__init__(_Silence())

    def kept(self, text: str, audio: AudioFormat) -> RenderedSpeech:
        """Every phrase is there."""
        return RenderedSpeech(text, audio.silence(audio.frame_samples), np.full(1, FLOOR_DB, np.float32))

    async def render(self, text: str, audio: AudioFormat) -> RenderedSpeech:
        """The same."""
        return self.kept(text, audio)
