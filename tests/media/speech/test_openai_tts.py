"""Synthesis by request, against a server that speaks the wire format."""

import asyncio
import struct
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import numpy as np
import pytest

from fastagent.media.errors import SpeechError
from fastagent.media.frame import PCMU_8K, AudioFrame
from fastagent.media.g711 import Int16Array
from fastagent.media.speech.openai_config import OpenAiTtsConfig, fault_kind
from fastagent.media.speech.openai_tts import OpenAiTts, PcmReader
from fastagent.media.speech.rendering import Renderer
from fastagent.media.wav import encode_wav
from tests.support.audio import tone
from tests.support.fake_speech import Answer, FakeSpeech, fake_speech

real = pytest.mark.real
TONE = tone(0.5, rate_hz=24000)
PCM = TONE.tobytes()
GOOD = Answer(audio=PCM)
PAGE = "<html><h1>It works!</h1></html>"


@asynccontextmanager
async def synthesiser(*answers: Answer, **options: Any) -> AsyncIterator[tuple[OpenAiTts, FakeSpeech]]:
    async with fake_speech(*answers) as server:
        tts = OpenAiTts(OpenAiTtsConfig(base_url=server.base_url, **{"api_key": "sk-secret", **options}))
        try:
            yield tts, server
        finally:
            await tts.aclose()
            await tts.aclose()


async def hear(tts: OpenAiTts, heard: list[AudioFrame], *, pause_s: float = 0.0) -> None:
    async for frame in tts.stream("Hello there."):
        heard.append(frame)
        await asyncio.sleep(pause_s)


async def said(tts: OpenAiTts, text: str = "Hello there.") -> list[AudioFrame]:
    return [frame async for frame in tts.stream(text)]


def joined(frames: list[AudioFrame]) -> Int16Array:
    return np.concatenate([frame.samples for frame in frames])


def read(*chunks: bytes, rate_hz: int = 24000) -> tuple[Int16Array, set[int]]:
    reader = PcmReader(rate_hz)
    frames = [frame for chunk in chunks if (frame := reader.push(chunk)) is not None]
    if (rest := reader.finish()) is not None:
        frames.append(rest)
    return joined(frames), {frame.rate_hz for frame in frames}


# -- reading ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [1, 2, 3, 7, 999, len(PCM)])
def test_audio_may_be_cut_anywhere(size: int) -> None:
    for body in (PCM, encode_wav(TONE, 16000)):
        samples, rates = read(*[body[at : at + size] for at in range(0, len(body), size)])
        assert np.array_equal(samples, TONE)
        assert rates == {24000 if body is PCM else 16000}


def test_half_a_sample_at_the_end_is_dropped() -> None:
    assert np.array_equal(read(PCM, b"\x7f")[0], TONE)
    assert read(b"\x01\x02\x03")[0].tolist() == [0x0201]


def test_a_stereo_wav_is_mixed() -> None:
    sides = np.stack((TONE, -TONE), axis=1).reshape(-1)
    samples, rates = read(encode_wav(sides, 22050, channels=2))
    assert not samples.any()
    assert (len(samples), rates) == (len(TONE), {22050})


def test_what_follows_the_audio_of_a_wav_is_not_played() -> None:
    body = encode_wav(TONE, 24000) + b"LIST\x04\0\0\0INFO"
    assert np.array_equal(read(body[:-3], body[-3:])[0], TONE)


def test_a_wav_that_does_not_know_its_length_is_played_to_its_end() -> None:
    body = bytearray(encode_wav(TONE, 24000))
    for at in (4, 40):
        body[at : at + 4] = struct.pack("<I", 0xFFFFFFFF)
    assert np.array_equal(read(bytes(body))[0], TONE)


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"\x01",
        b"RIFF",
        encode_wav(TONE, 24000)[:30],
        encode_wav(TONE[:0], 24000),
        b"RIFF\x04\0\0\0AVI " + PCM,
        encode_wav(TONE, 1000),
        encode_wav(TONE, 44_100_000),
        b"ID3\x04" + PCM,
        b"OggS" + PCM,
        b"fLaC" + PCM,
        PAGE.encode(),
        b'{"error": {}}',
        bytes(48000 * 121),
    ],
    ids=lambda body: f"{body[:4]!r}-{len(body)}",
)
def test_what_is_no_audio_is_not_played(body: bytes) -> None:
    with pytest.raises(SpeechError) as error:
        read(body)
    assert fault_kind(error.value) == "broken"


# -- requests --------------------------------------------------------------------------------------------------------


@real
async def test_a_sentence_is_one_request_and_its_audio_comes_whole() -> None:
    async with synthesiser(Answer(audio=PCM, cuts=(1, 1001, 8000))) as (tts, server):
        frames = await said(tts)
    assert np.array_equal(joined(frames), TONE)
    assert {frame.rate_hz for frame in frames} == {24000}
    assert server.requests == [
        {"model": "gpt-4o-mini-tts", "voice": "alloy", "input": "Hello there.", "response_format": "pcm"}
    ]
    assert server.keys == ["Bearer sk-secret"]


@real
async def test_what_was_configured_is_in_the_request() -> None:
    options: dict[str, Any] = {"model": "tts-1", "voice": "nova", "rate_hz": 16000, "extra": {"speed": 1.2}}
    async with synthesiser(GOOD, **options) as (tts, server):
        frames = await said(tts)
    assert {frame.rate_hz for frame in frames} == {16000}
    asked = {"model": "tts-1", "voice": "nova", "input": "Hello there.", "response_format": "pcm", "speed": 1.2}
    assert server.requests == [asked]


@real
async def test_audio_is_passed_on_before_the_rest_has_come() -> None:
    async with synthesiser(Answer(audio=PCM, stall_after=4800), between_bytes_s=5.0) as (tts, server):
        frames = tts.stream("Hello there.")
        first = await anext(frames)
        assert first.samples.tolist() == TONE[: len(first.samples)].tolist()
        assert not server.gone.is_set()
        await frames.aclose()  # type: ignore[attr-defined]
        await server.gone.wait()


@real
async def test_a_server_that_answers_wav_is_played_at_its_own_rate() -> None:
    answer = Answer(audio=encode_wav(TONE, 22050), cuts=(10, 45), headers={"Content-Type": "audio/wav"})
    async with synthesiser(answer) as (tts, _):
        frames = await said(tts)
        rendered = await Renderer(tts).render("Hello there.", PCMU_8K)
    assert np.array_equal(joined(frames), TONE)
    assert {frame.rate_hz for frame in frames} == {22050}
    assert len(rendered.payload) == pytest.approx(len(TONE) * 8000 / 22050, abs=2)


@real
@pytest.mark.parametrize("text", ["", " ", "...", "—"])
async def test_a_text_without_words_is_no_request(text: str) -> None:
    async with synthesiser(GOOD) as (tts, server):
        assert await said(tts, text) == []
    assert not server.requests


@real
@pytest.mark.parametrize(
    ("answer", "kind", "requests"),
    [
        (Answer(hang=True), "silent", 1),
        (Answer(audio=PCM, stall_after=0), "silent", 1),
        (Answer(status=500, body="sk-secret"), "unavailable", 2),
        (Answer(status=503), "unavailable", 2),
        (Answer(reset_after=0), "unavailable", 2),
        (Answer(audio=PCM, reset_after=1), "unavailable", 2),
        (Answer(status=401, body='{"error": {"message": "Incorrect API key provided: sk-secret"}}'), "auth", 1),
        (Answer(status=403), "auth", 1),
        (Answer(status=400, body="sk-secret"), "refused", 1),
        (Answer(status=302, headers={"Location": "/v1/audio/speech"}), "refused", 1),
        (Answer(status=429, headers={"Retry-After": "1"}), "rate_limited", 1),
        (Answer(body=PAGE, headers={"Content-Type": "text/html; charset=utf-8"}), "broken", 1),
        (Answer(body='{"error": "sk-secret"}', headers={"Content-Type": "application/json"}), "broken", 1),
        (Answer(body=PAGE, headers={"Content-Type": "application/octet-stream"}), "broken", 1),
        (Answer(audio=PCM, headers={"Content-Type": "audio/mpeg"}), "broken", 1),
        (Answer(), "broken", 1),
    ],
)
async def test_every_fault_has_its_name_and_nothing_is_played(answer: Answer, kind: str, requests: int) -> None:
    async with synthesiser(answer, first_byte_s=0.5 if kind == "silent" else 5.0) as (tts, server):
        frames = tts.stream("Hello there.")
        with pytest.raises(SpeechError) as error:
            await anext(frames)
        assert len(server.requests) == requests
    assert fault_kind(error.value) == kind
    shown = f"{error.value} {error.value.__cause__}"
    assert "sk-secret" not in shown
    assert "html" not in shown


@real
@pytest.mark.parametrize("fault", [Answer(status=500), Answer(reset_after=0), Answer(audio=PCM, reset_after=1)])
async def test_one_fault_of_a_moment_is_not_heard(fault: Answer) -> None:
    async with synthesiser(fault, GOOD) as (tts, server):
        assert np.array_equal(joined(await said(tts)), TONE)
    assert len(server.requests) == 2


@real
@pytest.mark.parametrize(
    ("fault", "kind"),
    [
        (Answer(audio=PCM, cuts=(5001,), stall_after=8001), "silent"),
        (Answer(audio=PCM, cuts=(5001,), reset_after=8001), "unavailable"),
    ],
)
async def test_a_fault_in_the_middle_ends_the_sentence_at_a_whole_sample_and_is_not_tried_again(
    fault: Answer, kind: str
) -> None:
    heard: list[AudioFrame] = []
    async with synthesiser(fault, GOOD, between_bytes_s=0.3) as (tts, server):
        with pytest.raises(SpeechError) as error:
            await hear(tts, heard)
        assert len(server.requests) == 1
    assert fault_kind(error.value) == kind
    samples = joined(heard)
    assert 2500 <= len(samples) <= 4000
    assert np.array_equal(samples, TONE[: len(samples)])


@real
async def test_a_server_that_trickles_is_not_waited_for_for_ever() -> None:
    cuts = tuple(range(100, 8000, 100))
    async with synthesiser(Answer(audio=PCM, cuts=cuts, pause_s=0.1), total_s=0.5) as (tts, _):
        with pytest.raises(SpeechError) as error:
            await said(tts)
    assert fault_kind(error.value) == "silent"


@real
async def test_the_time_that_playout_takes_is_not_the_servers() -> None:
    heard: list[AudioFrame] = []
    async with synthesiser(Answer(audio=PCM, cuts=(8000, 16000)), total_s=0.3) as (tts, _):
        await hear(tts, heard, pause_s=0.4)
    assert np.array_equal(joined(heard), TONE)


@real
@pytest.mark.parametrize("answer", [Answer(hang=True), Answer(audio=PCM, stall_after=4800)])
async def test_a_cancelled_sentence_closes_its_request_at_once(answer: Answer) -> None:
    async with synthesiser(answer, GOOD) as (tts, server):
        task = asyncio.create_task(said(tts))
        await server.asked.wait()
        await asyncio.sleep(0.1)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        await server.gone.wait()
        assert np.array_equal(joined(await said(tts)), TONE)


@real
async def test_nobody_there_is_unavailable() -> None:
    tts = OpenAiTts(OpenAiTtsConfig(base_url="http://127.0.0.1:9/v1"))
    with pytest.raises(SpeechError) as error:
        await said(tts)
    assert fault_kind(error.value) == "unavailable"
    await tts.aclose()


@real
async def test_warming_up_says_a_word_and_tells_of_a_wrong_key() -> None:
    async with synthesiser(GOOD, Answer(status=401)) as (tts, server):
        await tts.warm_up()
        with pytest.raises(SpeechError, match="refuses the key"):
            await tts.warm_up()
    assert [request["input"] for request in server.requests] == ["Hello.", "Hello."]


def test_a_configuration_does_not_show_its_key() -> None:
    assert "sk-secret" not in repr(OpenAiTtsConfig(api_key="sk-secret", extra={"token": "sk-secret"}))
