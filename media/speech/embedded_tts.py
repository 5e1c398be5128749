"""Embedded synthesis: hibari, voice "heart", from a package that carries the model.

A sentence takes 20 to 60 ms. The model surrounds it with up to half a second of silence, which would be dead air before
an answer, so both ends are trimmed.
"""

import asyncio
from collections.abc import AsyncIterator
from concurrent.futures import Executor
from typing import Any

import numpy as np

from fastagent.media.errors import SpeechError
from fastagent.media.frame import AudioFrame, to_int16
from fastagent.media.g711 import Int16Array
from fastagent.media.level import frame_levels_db

_RATE_HZ = 24000
_AUDIBLE_DB = -50.0
_LEAD_FRAMES = 1
_TAIL_FRAMES = 8  # 160 ms between sentences
_DEADLINE_S = 10.0


def trim_silence(samples: Int16Array, rate_hz: int) -> Int16Array:
    """Cut silence before the first and after the last audible frame, but for a short margin."""
    frame = rate_hz // 50
    audible = np.flatnonzero(frame_levels_db(samples, frame) > _AUDIBLE_DB)
    if not len(audible):
        return samples[:0]
    first = max(0, int(audible[0]) - _LEAD_FRAMES)
    return samples[first * frame : (int(audible[-1]) + 1 + _TAIL_FRAMES) * frame]


class EmbeddedTts:
    """The synthesiser that needs no account."""

    name = "embedded"

    def __init__(self, executor: Executor) -> None:
        self._executor = executor
        self._model: Any = None

    async def stream(self, text: str) -> AsyncIterator[AudioFrame]:
        """Yield a sentence as one frame at 24 kHz."""
        try:
            async with asyncio.timeout(_DEADLINE_S):
                samples = await asyncio.get_running_loop().run_in_executor(self._executor, self._run, text)
        except TimeoutError as error:
            raise SpeechError("synthesis took too long") from error
        except Exception as error:  # a model may raise anything at a text or a sound that it does not expect
            raise SpeechError(f"synthesis failed: {error}") from error
        yield AudioFrame(samples, _RATE_HZ)

    async def warm_up(self) -> None:
        """Load the model and say one sentence."""
        loop = asyncio.get_running_loop()
        self._model = await loop.run_in_executor(self._executor, _load)
        await loop.run_in_executor(self._executor, self._run, "Hello.")

    def _run(self, text: str) -> Int16Array:
        if self._model is None:
            raise RuntimeError("the model is not loaded")
        return trim_silence(to_int16(self._model(text, seed=0)), _RATE_HZ)


def _load() -> Any:
    from hibari import Hibari

    return Hibari()
