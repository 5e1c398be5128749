"""Recognition by `/v1/audio/transcriptions`: an utterance is one upload.

The WAV is made in memory at the wire's own rate: the endpoint resamples better than a phone line deserves, and 8 kHz
are a third of the bytes. A stream keeps its utterance, at most 30 s of it, and asks when it is finalised; a call that
takes a finalize back (the caller went on) cancels it, which closes the request.
"""

import asyncio
import json
from typing import Any

from fastagent.media.frame import PCMU_8K, AudioFormat
from fastagent.media.speech.contracts import SttStream, Transcript
from fastagent.media.speech.openai_config import OpenAiEndpoint, OpenAiSttConfig, SpeechFault, fault_of, may_try_again
from fastagent.media.wav import encode_wav

MAX_UTTERANCE_S = 30.0
MIN_UTTERANCE_S = 0.12  # the endpoint refuses less than 0.1 s; no word is as short
_MAX_ANSWER = 256 * 1024
_MAX_TEXT = 16_000
_WARM_UP_S = 0.5


def spoken(text: str) -> str:
    """Return a recognised text, or nothing where it has neither letter nor digit: Whisper's "." and "..." for noise."""
    text = text.strip()
    return text if any(character.isalnum() for character in text) else ""


class _OpenAiStream:
    def __init__(self, stt: "OpenAiStt", audio: AudioFormat) -> None:
        self._stt, self._audio = stt, audio
        self._utterance = bytearray()

    def push(self, payload: bytes) -> None:
        room = int(MAX_UTTERANCE_S * self._audio.rate_hz) * self._audio.sample_bytes - len(self._utterance)
        self._utterance += payload[: max(0, room)]

    async def finalize(self) -> Transcript:
        return await self._stt.recognise(bytes(self._utterance), self._audio)

    def restart(self) -> None:
        self._utterance.clear()

    async def aclose(self) -> None:
        self._utterance.clear()


class OpenAiStt:
    """One endpoint; its streams share the connections."""

    def __init__(self, config: OpenAiSttConfig | None = None, *, name: str = "openai") -> None:
        self.name = name
        self._config = config or OpenAiSttConfig()
        self._endpoint = OpenAiEndpoint(self._config)

    def open(self, audio: AudioFormat) -> SttStream:
        """Begin recognising one call."""
        return _OpenAiStream(self, audio)

    async def recognise(self, payload: bytes, audio: AudioFormat) -> Transcript:
        """Return the text of a stretch of wire audio; one too short for a word is not sent.

        Raises:
            SpeechError: the endpoint failed, or did not answer within `timeout_s`.
        """
        samples = audio.decode(payload[: len(payload) // audio.sample_bytes * audio.sample_bytes])
        if len(samples) < MIN_UTTERANCE_S * audio.rate_hz:
            return Transcript("")
        wav = encode_wav(samples, audio.rate_hz)
        self._endpoint.open()  # the library is slow to load: not on the endpoint's account
        try:
            async with asyncio.timeout(self._config.timeout_s):
                text = await self._ask(wav)
        except TimeoutError:
            raise SpeechFault("silent", "recognition took too long") from None
        return Transcript(spoken(text))

    async def warm_up(self) -> None:
        """Load the library, and have half a second of silence recognised: this connects, and proves the key.

        Raises:
            SpeechError: the endpoint cannot be used.
        """
        await self._endpoint.load()
        await self.recognise(PCMU_8K.silence(int(_WARM_UP_S * PCMU_8K.rate_hz)), PCMU_8K)

    async def aclose(self) -> None:
        """Close the connections; may be called twice."""
        await self._endpoint.aclose()

    async def _ask(self, wav: bytes) -> str:
        try:
            return await self._request(wav)
        except SpeechFault as fault:
            await may_try_again(fault)
        return await self._request(wav)

    async def _request(self, wav: bytes) -> str:
        config = self._config
        options: dict[str, Any] = {"model": config.model, "response_format": config.response_format}
        if config.language is not None:
            options["language"] = config.language
        transcriptions = self._endpoint.open().audio.transcriptions.with_streaming_response
        try:
            async with transcriptions.create(
                file=("utterance.wav", wav, "audio/wav"), extra_body=config.extra, **options
            ) as response:
                return _text_of(await _body(response), response.headers.get("content-type", ""), config)
        except Exception as error:  # the client's own, its transport's and its parser's
            # `from None`: the cause's text is what the endpoint wrote, which may hold the key.
            raise fault_of(error) from None


async def _body(response: Any) -> bytes:
    body = b""
    async for chunk in response.iter_bytes():
        body += chunk
        if len(body) > _MAX_ANSWER:
            raise SpeechFault("broken", "the answer has no end")
    return body


def _text_of(body: bytes, content_type: str, config: OpenAiSttConfig) -> str:
    """Return the text of an answer; a web page, as proxies send one, is never taken for what the caller said.

    Raises:
        SpeechError: it is none.
    """
    kind = content_type.partition(";")[0].strip().lower()
    try:
        text = body.decode()
        if kind == "application/json" or config.response_format == "json":  # some know nothing but JSON
            text = json.loads(text)["text"]
    except (ValueError, LookupError, TypeError, RecursionError):
        raise SpeechFault("broken", "the answer is no transcription") from None
    if not isinstance(text, str) or kind == "text/html" or text.lstrip().startswith("<") or len(text) > _MAX_TEXT:
        raise SpeechFault("broken", "the answer is no transcription")
    return text
