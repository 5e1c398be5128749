"""Two providers in the place of one, and the breaker between them."""

import asyncio
from collections.abc import AsyncIterator, Sequence

import numpy as np
import pytest

from fastagent.media.errors import SpeechError
from fastagent.media.frame import PCMU_8K, AudioFormat, AudioFrame
from fastagent.media.speech.breaker import Breaker
from fastagent.media.speech.contracts import SttStream, Transcript
from fastagent.media.speech.fallback import FallbackStt, FallbackTts
from fastagent.media.speech.openai_config import SpeechFault
from fastagent.media.speech.scripted import ScriptedStt, ScriptedTts

WRONG_KEY = SpeechFault("auth", "the endpoint refuses the key")


class Voice:
    """Says frames of one value each, then fails if told so."""

    def __init__(self, name: str, frames: Sequence[int] = (), error: Exception | None = None) -> None:
        self.name, self.frames, self.error = name, frames, error
        self.asked: list[str] = []
        self.closed = 0

    async def stream(self, text: str) -> AsyncIterator[AudioFrame]:
        self.asked.append(text)
        try:
            for value in self.frames:
                yield AudioFrame(np.full(160, value, np.int16), 8000)
            if self.error is not None:
                raise self.error
        finally:
            self.closed += 1

    async def warm_up(self) -> None:
        self.asked.append("warm up")
        if self.error is not None:
            raise self.error

    async def aclose(self) -> None:
        self.closed = -1


class Ear:
    """Tells how many bytes it heard, or fails."""

    def __init__(self, name: str, error: Exception | None = None) -> None:
        self.name, self.error = name, error
        self.streams: list[EarStream] = []

    def open(self, audio: AudioFormat) -> SttStream:
        self.streams.append(EarStream(self))
        return self.streams[-1]

    async def warm_up(self) -> None:
        if self.error is not None:
            raise self.error


class EarStream:
    def __init__(self, ear: Ear) -> None:
        self.ear, self.heard, self.finalized, self.closed = ear, b"", 0, 0

    def push(self, payload: bytes) -> None:
        self.heard += payload

    async def finalize(self) -> Transcript:
        self.finalized += 1
        if self.ear.error is not None:
            raise self.ear.error
        return Transcript(f"{self.ear.name} {len(self.heard)}")

    def restart(self) -> None:
        self.heard = b""

    async def aclose(self) -> None:
        self.closed += 1
        if self.ear.error is not None:
            raise self.ear.error


async def said(tts: FallbackTts, heard: list[int] | None = None) -> list[int]:
    heard = [] if heard is None else heard
    async for frame in tts.stream("Hello."):
        heard.append(int(frame.samples[0]))
    return heard


# -- voices ----------------------------------------------------------------------------------------------------------


async def test_the_first_voice_speaks_while_it_can() -> None:
    faults: list[tuple[str, str]] = []
    first, second = Voice("a", [1, 2]), Voice("b", [7])
    tts = FallbackTts(first, second, on_fault=lambda name, kind: faults.append((name, kind)))
    assert await said(tts) == [1, 2]
    assert (tts.name, second.asked, faults) == ("a", [], [])


@pytest.mark.parametrize(("error", "kind"), [(WRONG_KEY, "auth"), (SpeechError("no"), "failed")])
async def test_the_second_voice_says_what_the_first_did_not_begin(error: SpeechError, kind: str) -> None:
    faults: list[tuple[str, str]] = []
    first, second = Voice("a", error=error), Voice("b", [7])
    tts = FallbackTts(first, second, on_fault=lambda name, kind: faults.append((name, kind)))
    assert await said(tts) == [7]
    assert second.asked == ["Hello."]
    assert faults == [("a", kind)]


async def test_a_sentence_that_breaks_off_is_not_said_again_by_another_voice() -> None:
    faults: list[tuple[str, str]] = []
    heard: list[int] = []
    first, second = Voice("a", [1], WRONG_KEY), Voice("b", [7])
    tts = FallbackTts(first, second, on_fault=lambda name, kind: faults.append((name, kind)))
    with pytest.raises(SpeechError, match="refuses the key"):
        await said(tts, heard)
    assert (heard, second.asked, faults) == ([1], [], [("a", "auth")])


async def test_when_both_voices_fail_the_second_fault_is_told() -> None:
    tts = FallbackTts(Voice("a", error=WRONG_KEY), Voice("b", error=SpeechError("no voice")))
    with pytest.raises(SpeechError, match="no voice"):
        await said(tts)


async def test_a_defect_of_ours_is_not_hidden() -> None:
    tts = FallbackTts(Voice("a", error=ZeroDivisionError()), Voice("b", [7]))
    with pytest.raises(ZeroDivisionError):
        await said(tts)


async def test_a_sentence_that_is_cut_off_closes_its_voice_at_once() -> None:
    for first, second in ((Voice("a", [1, 2]), Voice("b")), (Voice("b", error=WRONG_KEY), Voice("a", [1, 2]))):
        frames = FallbackTts(first, second).stream("Hello.")
        await anext(frames)
        await frames.aclose()  # type: ignore[attr-defined]
        assert first.closed == 1
        assert second.closed == len(second.asked)


async def test_a_voice_that_keeps_failing_is_left_alone_and_tried_again_later() -> None:
    first = Voice("a", [1], WRONG_KEY)
    first.frames = []
    tts = FallbackTts(first, Voice("b", [7]))
    for _ in range(7):
        assert await said(tts) == [7]
    assert len(first.asked) == 5
    assert tts.breaker.open
    await asyncio.sleep(10)
    assert await said(tts) == [7]
    assert await said(tts) == [7]
    assert len(first.asked) == 6
    await asyncio.sleep(10)
    first.frames, first.error = [1], None
    assert await said(tts) == [1]
    assert not tts.breaker.open


async def test_a_voice_that_was_cut_off_by_the_caller_did_speak() -> None:
    first = Voice("a", error=WRONG_KEY)
    tts = FallbackTts(first, Voice("b", [7]))
    for _ in range(5):
        await said(tts)
    await asyncio.sleep(10)
    first.frames, first.error = [1, 2], None
    frames = tts.stream("Hello.")
    await anext(frames)
    await frames.aclose()  # type: ignore[attr-defined]
    assert not tts.breaker.open


# -- ears ------------------------------------------------------------------------------------------------------------


async def test_the_first_ear_is_asked_while_it_can_and_the_second_only_keeps_the_audio() -> None:
    first, second = Ear("a"), Ear("b")
    stt = FallbackStt(first, second)
    stream = stt.open(PCMU_8K)
    stream.push(b"abc")
    stream.restart()
    stream.push(b"de")
    assert (await stream.finalize()).text == "a 2"
    assert (stt.name, second.streams[0].heard, second.streams[0].finalized) == ("a", b"de", 0)


async def test_the_second_ear_has_heard_it_all_when_the_first_fails() -> None:
    faults: list[tuple[str, str]] = []
    stt = FallbackStt(Ear("a", WRONG_KEY), Ear("b"), on_fault=lambda name, kind: faults.append((name, kind)))
    stream = stt.open(PCMU_8K)
    for _ in range(3):
        stream.push(b"abc")
    assert (await stream.finalize()).text == "b 9"
    assert faults == [("a", "auth")]


async def test_when_both_ears_fail_the_second_fault_is_told() -> None:
    stream = FallbackStt(Ear("a", WRONG_KEY), Ear("b", SpeechError("deaf"))).open(PCMU_8K)
    with pytest.raises(SpeechError, match="deaf"):
        await stream.finalize()


async def test_an_ear_that_keeps_failing_is_left_alone_by_every_call() -> None:
    first = Ear("a", WRONG_KEY)
    stt = FallbackStt(first, Ear("b"))
    streams = [stt.open(PCMU_8K) for _ in range(7)]
    assert [(await stream.finalize()).text for stream in streams] == ["b 0"] * 7
    assert sum(stream.finalized for stream in first.streams) == 5
    assert stt.breaker.open
    await asyncio.sleep(10)
    first.error = None
    assert [(await stream.finalize()).text for stream in streams[:2]] == ["a 0", "a 0"]


async def test_closing_a_stream_closes_the_second_even_if_the_first_will_not() -> None:
    first, second = Ear("a", WRONG_KEY), Ear("b")
    stream = FallbackStt(first, second).open(PCMU_8K)
    with pytest.raises(SpeechError):
        await stream.aclose()
    assert second.streams[0].closed == 1


# -- both ------------------------------------------------------------------------------------------------------------


async def test_a_first_provider_that_cannot_warm_up_is_a_fault_and_no_more() -> None:
    faults: list[tuple[str, str]] = []
    await FallbackTts(Voice("a", error=WRONG_KEY), Voice("b"), on_fault=lambda *fault: faults.append(fault)).warm_up()
    await FallbackStt(Ear("c", WRONG_KEY), Ear("d"), on_fault=lambda *fault: faults.append(fault)).warm_up()
    assert faults == [("a", "auth"), ("c", "auth")]


async def test_a_second_provider_has_to_warm_up() -> None:
    with pytest.raises(SpeechError):
        await FallbackTts(Voice("a"), Voice("b", error=SpeechError("no"))).warm_up()


async def test_closing_closes_what_can_be_closed() -> None:
    first = Voice("a")
    await FallbackTts(first, ScriptedTts()).aclose()
    await FallbackStt(ScriptedStt(), ScriptedStt()).aclose()
    assert first.closed == -1


def test_a_breaker_opens_for_failures_in_half_a_minute_only() -> None:
    slow, quick, mended = Breaker(), Breaker(), Breaker()
    for at in range(5):
        slow.failed(at * 8.0)
        quick.failed(at * 7.0)
        mended.failed(at)
        if at == 3:
            mended.succeeded()
    assert (slow.open, quick.open, mended.open) == (False, True, False)
    assert not quick.allows(37.9)
    assert quick.allows(38.0)
    assert not quick.allows(38.1)
    quick.succeeded()
    assert quick.allows(38.2)
