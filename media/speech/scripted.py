"""Scripted speech: recognises every utterance at once as a fixed text, synthesises prepared speech at no cost.

With it anyone can measure the gateway itself, and tests have a deterministic world.
"""

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from functools import lru_cache
from importlib import resources

import numpy as np

from fastagent.media.errors import SpeechError
from fastagent.media.frame import AudioFormat, AudioFrame
from fastagent.media.g711 import ulaw_decode
from fastagent.media.speech.contracts import Speech, SttStream, Transcript

_RATE_HZ = 8000
_WORDS_PER_S = 8 / 3


@lru_cache(maxsize=1)
def prepared_speech() -> AudioFrame:
    """Return exactly three seconds of real speech at 8 kHz, which the package carries."""
    payload = resources.files(__package__).joinpath("assets/prepared.ulaw").read_bytes()
    samples = ulaw_decode(payload)
    if len(samples) != 3 * _RATE_HZ:
        raise SpeechError("the prepared speech is damaged")
    return AudioFrame(samples, _RATE_HZ)


class _ScriptedStream:
    def __init__(self, say: Callable[[], str]) -> None:
        self._say = say
        self._current: str | None = None

    def push(self, payload: bytes) -> None:
        """Nothing listens."""

    async def finalize(self) -> Transcript:
        if self._current is None:
            self._current = self._say()
        return Transcript(self._current, 1.0)

    def restart(self) -> None:
        self._current = None

    async def aclose(self) -> None:
        """Nothing to release."""


class ScriptedStt:
    """Every call hears the script from its beginning; its last line repeats."""

    name = "scripted"

    def __init__(self, script: Sequence[str] = ("Hello there.",)) -> None:
        self._script = tuple(script)

    def open(self, audio: AudioFormat) -> SttStream:
        """Begin the script for one call."""
        left = list(self._script)
        return _ScriptedStream(lambda: left.pop(0) if len(left) > 1 else left[0])

    async def warm_up(self) -> None:
        """Nothing to load."""


class ScriptedTts:
    """Prepared speech, as long as the text would take to say: eight words are three seconds."""

    name = "scripted"

    async def stream(self, text: str) -> AsyncIterator[AudioFrame]:
        """Yield one frame of prepared speech."""
        seconds = max(0.4, len(text.split()) / _WORDS_PER_S)
        samples = np.resize(prepared_speech().samples, round(seconds * _RATE_HZ))
        await asyncio.sleep(0)
        yield AudioFrame(samples, _RATE_HZ)

    async def warm_up(self) -> None:
        """Read the prepared speech."""
        prepared_speech()


def scripted_speech(script: Sequence[str] = ("Hello there.",)) -> Speech:
    """Return the scripted pair."""
    return Speech(ScriptedStt(script), ScriptedTts())
