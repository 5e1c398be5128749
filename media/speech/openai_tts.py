"""Synthesis by `/v1/audio/speech`: a sentence is one request, its audio is passed on as it comes.

PCM is asked for, and `PcmReader` sees to it that nothing but audio is played: some servers answer WAV whatever they are
asked for, some answer MP3 or a web page with status 200, and the network cuts samples in two.
"""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import AsyncExitStack, aclosing
from typing import Any

from fastagent.media.errors import AudioFormatError
from fastagent.media.frame import AudioFrame
from fastagent.media.speech.openai_config import (
    OpenAiEndpoint,
    OpenAiTtsConfig,
    SpeechFault,
    fault_of,
    may_try_again,
)
from fastagent.media.wav import WavForm, read_head

_MAX_AUDIO_S = 120.0  # no sentence is as long
_RATES_HZ = range(4000, 96001)
_COMPRESSED = ("mpeg", "mp3", "ogg", "opus", "aac", "flac", "mp4", "webm")
_NO_AUDIO = (b"ID3", b"OggS", b"fLaC", b"<!DO", b"<!do", b"<htm", b"<HTM", b'{"er', b'{"de')


class PcmReader:
    """Bytes as they come to whole samples: headless 16-bit mono PCM, or a WAV that says what it is."""

    def __init__(self, rate_hz: int) -> None:
        self._headless = WavForm(1, 16, 1, rate_hz)
        self._form: WavForm | None = None
        self._held = b""
        self._left: int | None = None  # bytes that a WAV still has to give; chunks may follow them
        self.duration_s = 0.0

    def push(self, data: bytes) -> AudioFrame | None:
        """Return the whole samples so far; None where there is none yet.

        Raises:
            SpeechFault: this is no audio, or it has no end.
        """
        self._held += data
        if self._form is None and len(self._held) >= 4:
            self._begin()
        return None if self._form is None else self._take(self._form)

    def finish(self) -> AudioFrame | None:
        """Return what is left; half a sample is dropped.

        Raises:
            SpeechFault: there was no audio at all.
        """
        if self._form is None and not self._held.startswith(b"RIFF"):  # so short that it was not looked at yet
            self._form = self._headless
        frame = None if self._form is None else self._take(self._form)
        if not self.duration_s:
            raise SpeechFault("broken", "the answer has no audio")
        return frame

    def _begin(self) -> None:
        if self._held.startswith(_NO_AUDIO):
            raise SpeechFault("broken", "the answer is no PCM")
        if not self._held.startswith(b"RIFF"):
            self._form = self._headless
            return
        try:
            head = read_head(self._held)
        except AudioFormatError as error:
            raise SpeechFault("broken", "the answer is a WAV that is not read") from error
        if head is None:
            return
        if head.form.rate_hz not in _RATES_HZ:
            raise SpeechFault("broken", f"the answer is a WAV at {head.form.rate_hz} Hz")
        self._form, self._left = head.form, head.size
        self._held = self._held[head.offset :]

    def _take(self, form: WavForm) -> AudioFrame | None:
        size = len(self._held) if self._left is None else min(len(self._held), self._left)
        size -= size % form.frame_bytes
        data, self._held = self._held[:size], self._held[size:]
        if self._left is not None:
            self._left -= size
            if self._left < form.frame_bytes:  # what follows is no audio
                self._left, self._held = 0, b""
        if not data:
            return None
        frame = AudioFrame(form.decode(data), form.rate_hz)
        self.duration_s += frame.duration_s
        if self.duration_s > _MAX_AUDIO_S:
            raise SpeechFault("broken", "the answer has no end")
        return frame


class _Download:
    """The body of one answer, with the time limits of waiting for it."""

    def __init__(self, config: OpenAiTtsConfig) -> None:
        self._config = config
        self._stack = AsyncExitStack()
        self._chunks: AsyncIterator[bytes] | None = None
        self._left_s = config.total_s

    async def chunk(self, request: Any) -> bytes | None:
        """Return the next bytes, the first time with sending the request; None at the end."""
        config = self._config
        limit_s = config.first_byte_s if self._chunks is None else config.between_bytes_s
        loop = asyncio.get_running_loop()
        began = loop.time()
        async with asyncio.timeout(min(limit_s, self._left_s)):
            if self._chunks is None:
                response = await self._stack.enter_async_context(request)
                _check_type(response.headers.get("content-type", ""))
                self._chunks = aiter(response.iter_bytes())
            chunk = await anext(self._chunks, None)
        # Only waiting counts: between two chunks playout takes its time, and that is no fault of the endpoint.
        self._left_s = max(0.0, self._left_s - (loop.time() - began))
        return chunk

    async def aclose(self) -> None:
        await self._stack.aclose()


class OpenAiTts:
    """One endpoint."""

    def __init__(self, config: OpenAiTtsConfig | None = None, *, name: str = "openai") -> None:
        self.name = name
        self._config = config or OpenAiTtsConfig()
        self._endpoint = OpenAiEndpoint(self._config)

    async def stream(self, text: str) -> AsyncIterator[AudioFrame]:
        """Yield the audio as it comes; of a text without words, none.

        Asked once more if the endpoint was unavailable and nothing was yielded yet.

        Raises:
            SpeechError: the endpoint failed, or kept us waiting.
        """
        if not any(character.isalnum() for character in text):  # endpoints refuse it, or make noises
            return
        self._endpoint.open()  # the library is slow to load: not on the endpoint's account
        for last in (False, True):
            yielded = False
            try:
                async with aclosing(self._speak(text)) as frames:
                    async for frame in frames:
                        yielded = True
                        yield frame
                return
            except SpeechFault as fault:
                if yielded or last:
                    raise
                await may_try_again(fault)

    async def warm_up(self) -> None:
        """Load the library and say one word: this connects, and proves the key.

        Raises:
            SpeechError: the endpoint cannot be used.
        """
        await self._endpoint.load()
        async for _ in self.stream("Hello."):
            pass

    async def aclose(self) -> None:
        """Close the connections; may be called twice."""
        await self._endpoint.aclose()

    async def _speak(self, text: str) -> AsyncGenerator[AudioFrame, None]:
        """Yield the audio of one request; every failure becomes a `SpeechFault`."""
        reader = PcmReader(self._config.rate_hz)
        download = _Download(self._config)
        request = self._request(text)
        try:
            while (chunk := await download.chunk(request)) is not None:
                if (frame := reader.push(chunk)) is not None:
                    yield frame
            if (frame := reader.finish()) is not None:
                yield frame
        except Exception as error:  # the client's own and its transport's
            # `from None`: the cause's text is what the endpoint wrote, which may hold the key.
            raise fault_of(error) from None
        finally:
            await download.aclose()

    def _request(self, text: str) -> Any:
        config = self._config
        return self._endpoint.open().audio.speech.with_streaming_response.create(
            model=config.model, voice=config.voice, input=text, response_format="pcm", extra_body=config.extra
        )


def _check_type(content_type: str) -> None:
    kind = content_type.partition(";")[0].strip().lower()
    group, _, name = kind.partition("/")
    if group == "text" or name.endswith(("json", "xml")) or any(word in name for word in _COMPRESSED):
        raise SpeechFault("broken", "the answer is no PCM")
