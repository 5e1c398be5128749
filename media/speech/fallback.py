"""A second recogniser or synthesiser for when the first one fails.

The second one takes over as long as the caller cannot hear the change: before the first sound of a sentence, and for
the whole of an utterance. Both recognisers are given all audio, so the second should be one that only keeps it until it
is asked.
"""

import asyncio
import logging
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from contextlib import aclosing
from typing import Any

from fastagent.media.errors import SpeechError
from fastagent.media.frame import AudioFormat, AudioFrame
from fastagent.media.speech.breaker import Breaker
from fastagent.media.speech.contracts import Stt, SttStream, Transcript, Tts
from fastagent.media.speech.openai_config import SpeechFaultKind, fault_kind

_log = logging.getLogger(__name__)

OnFault = Callable[[str, SpeechFaultKind], None]


class _First:
    """The first provider of a pair: whether it may be asked, and what became of it."""

    def __init__(self, name: str, on_fault: OnFault) -> None:
        self.name = name
        self.breaker = Breaker()
        self._on_fault = on_fault

    def allowed(self) -> bool:
        return self.breaker.allows(asyncio.get_running_loop().time())

    def failed(self, error: SpeechError) -> None:
        self.breaker.failed(asyncio.get_running_loop().time())
        self._on_fault(self.name, fault_kind(error))


class FallbackTts:
    """A synthesiser that is two."""

    def __init__(self, first: Tts, second: Tts, *, on_fault: OnFault = lambda name, kind: None) -> None:
        self.name = first.name
        self._tts, self._second = first, second
        self._first = _First(first.name, on_fault)

    @property
    def breaker(self) -> Breaker:
        """The first one's."""
        return self._first.breaker

    async def stream(self, text: str) -> AsyncIterator[AudioFrame]:
        """Yield the first one's audio, or the second one's.

        Raises:
            SpeechError: both failed, or the first one did when something of it had been yielded: another voice in the
                middle of a sentence would say its beginning again.
        """
        if self._first.allowed():
            yielded = False
            try:
                async with aclosing(_closable(self._tts.stream(text))) as frames:
                    async for frame in frames:
                        yielded = True
                        yield frame
                self._first.breaker.succeeded()
                return
            except SpeechError as error:
                self._first.failed(error)
                if yielded:
                    raise
            except (asyncio.CancelledError, GeneratorExit):
                if yielded:  # nobody listens any more, but it did speak
                    self._first.breaker.succeeded()
                raise
        async with aclosing(_closable(self._second.stream(text))) as frames:
            async for frame in frames:
                yield frame

    async def warm_up(self) -> None:
        """Warm up both; that the first one fails is a fault like others, and does not keep the second from work.

        Raises:
            SpeechError: the second one failed.
        """
        await _warm_up(self._first, self._tts, self._second)

    async def aclose(self) -> None:
        """Close what can be closed of both."""
        await _close(self._tts, self._second)


class _FallbackStream:
    def __init__(self, provider: _First, first: SttStream, second: SttStream) -> None:
        self._provider, self._first, self._second = provider, first, second

    def push(self, payload: bytes) -> None:
        self._first.push(payload)
        self._second.push(payload)

    async def finalize(self) -> Transcript:
        if self._provider.allowed():
            try:
                transcript = await self._first.finalize()
            except SpeechError as error:
                self._provider.failed(error)
            else:
                self._provider.breaker.succeeded()
                return transcript
        return await self._second.finalize()

    def restart(self) -> None:
        self._first.restart()
        self._second.restart()

    async def aclose(self) -> None:
        try:
            await self._first.aclose()
        finally:
            await self._second.aclose()


class FallbackStt:
    """A recogniser that is two."""

    def __init__(self, first: Stt, second: Stt, *, on_fault: OnFault = lambda name, kind: None) -> None:
        self.name = first.name
        self._stt, self._second = first, second
        self._first = _First(first.name, on_fault)

    @property
    def breaker(self) -> Breaker:
        """The first one's."""
        return self._first.breaker

    def open(self, audio: AudioFormat) -> SttStream:
        """Begin recognising one call, twice."""
        return _FallbackStream(self._first, self._stt.open(audio), self._second.open(audio))

    async def warm_up(self) -> None:
        """As for `FallbackTts`."""
        await _warm_up(self._first, self._stt, self._second)

    async def aclose(self) -> None:
        """Close what can be closed of both."""
        await _close(self._stt, self._second)


async def _warm_up(provider: _First, first: Stt | Tts, second: Stt | Tts) -> None:
    async def forgiving() -> None:
        try:
            await first.warm_up()
        except SpeechError as error:
            provider.failed(error)
            _log.warning("a speech provider cannot be used yet", extra={"provider": first.name, "error": str(error)})

    await asyncio.gather(forgiving(), second.warm_up())


async def _close(*providers: Any) -> None:
    for provider in providers:
        if hasattr(provider, "aclose"):
            await provider.aclose()


async def _closable(frames: AsyncIterator[AudioFrame]) -> AsyncGenerator[AudioFrame, None]:
    """Yield frames, and close where they come from at once when this is closed."""
    try:
        async for frame in frames:
            yield frame
    finally:
        close = getattr(frames, "aclose", None)
        if close is not None:
            await close()
