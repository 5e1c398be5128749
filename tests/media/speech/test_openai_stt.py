"""Recognition by request, against a server that speaks the wire format."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import numpy as np
import pytest

from fastagent.media.errors import SpeechError
from fastagent.media.frame import PCMU_8K, AudioFormat
from fastagent.media.speech.contracts import Transcript
from fastagent.media.speech.openai_config import OpenAiSttConfig, fault_kind
from fastagent.media.speech.openai_stt import OpenAiStt, spoken
from fastagent.media.wav import decode_wav
from tests.support.audio import speech, tone
from tests.support.fake_speech import Answer, FakeSpeech, fake_speech

real = pytest.mark.real
SPEECH = speech(1.0)
PAGE = "<html><h1>It works!</h1></html>"


@asynccontextmanager
async def recogniser(*answers: Answer, **options: Any) -> AsyncIterator[tuple[OpenAiStt, FakeSpeech]]:
    async with fake_speech(*answers) as server:
        options = {"api_key": "sk-secret", "timeout_s": 5.0, **options}
        stt = OpenAiStt(OpenAiSttConfig(base_url=server.base_url, **options))
        try:
            yield stt, server
        finally:
            await stt.aclose()
            await stt.aclose()


async def recognised(stt: OpenAiStt, *payloads: bytes, audio: AudioFormat = PCMU_8K) -> Transcript:
    stream = stt.open(audio)
    for payload in payloads:
        stream.push(payload)
    transcript = await stream.finalize()
    await stream.aclose()
    await stream.aclose()
    return transcript


@real
async def test_an_utterance_is_uploaded_as_a_wav_at_the_rate_of_the_wire() -> None:
    async with recogniser() as (stt, server):
        assert await recognised(stt, SPEECH[:3000], SPEECH[3000:]) == Transcript("hello there")
    (upload,) = server.uploads
    assert upload.fields == {"model": "gpt-4o-mini-transcribe", "response_format": "json"}
    assert upload.content_type == "audio/wav"
    audio = decode_wav(upload.wav)
    assert audio.rate_hz == 8000
    assert np.array_equal(audio.samples, PCMU_8K.decode(SPEECH))
    assert server.keys == ["Bearer sk-secret"]


@real
async def test_what_was_configured_is_in_the_request() -> None:
    options = {"model": "whisper-1", "language": "de", "response_format": "text", "extra": {"prompt": "Praxis"}}
    wide = AudioFormat("L16", 16000)
    async with recogniser(Answer(text="guten Tag\n"), **options) as (stt, server):
        assert await recognised(stt, wide.encode(tone(0.5, rate_hz=16000)), audio=wide) == Transcript("guten Tag")
    (upload,) = server.uploads
    assert upload.fields == {"model": "whisper-1", "language": "de", "response_format": "text", "prompt": "Praxis"}
    assert decode_wav(upload.wav).rate_hz == 16000


@real
async def test_an_utterance_that_goes_on_is_asked_for_as_a_whole_and_a_restart_begins_afresh() -> None:
    async with recogniser() as (stt, server):
        stream = stt.open(PCMU_8K)
        stream.push(SPEECH)
        await stream.finalize()
        stream.push(SPEECH)
        await stream.finalize()
        stream.restart()
        stream.push(SPEECH[:4000])
        await stream.finalize()
        await stream.aclose()
    assert [decode_wav(upload.wav).duration_s for upload in server.uploads] == [1.0, 2.0, 0.5]


@real
async def test_of_a_very_long_utterance_thirty_seconds_are_sent() -> None:
    async with recogniser() as (stt, server):
        await recognised(stt, *[speech(9.0)] * 4)
    assert decode_wav(server.uploads[0].wav).duration_s == 30.0


@real
@pytest.mark.parametrize("payload", [b"", PCMU_8K.silence(799)])
async def test_too_little_for_a_word_is_no_request(payload: bytes) -> None:
    async with recogniser() as (stt, server):
        assert await recognised(stt, payload) == Transcript("")
    assert not server.uploads


@real
async def test_half_a_sample_is_left_out() -> None:
    wide = AudioFormat("L16", 16000)
    async with recogniser() as (stt, server):
        assert (await recognised(stt, bytes(9601), audio=wide)).text
    assert len(decode_wav(server.uploads[0].wav).samples) == 4800


@real
@pytest.mark.parametrize("text", ["", " ", ".", " . . . ", "...\n", "—", "!?"])
async def test_punctuation_is_no_speech(text: str) -> None:
    async with recogniser(Answer(text=text)) as (stt, _):
        assert await recognised(stt, SPEECH) == Transcript("")


def test_words_of_any_script_and_numbers_are_speech() -> None:
    assert [spoken(text) for text in (" 4 ", "да.", "はい", "Yes.")] == ["4", "да.", "はい", "Yes."]


@real
@pytest.mark.parametrize(
    ("answer", "kind", "requests"),
    [
        (Answer(hang=True), "silent", 1),
        (Answer(status=500, body="sk-secret"), "unavailable", 2),
        (Answer(status=503), "unavailable", 2),
        (Answer(reset_after=0), "unavailable", 2),
        (Answer(status=401, body='{"error": {"message": "Incorrect API key provided: sk-secret"}}'), "auth", 1),
        (Answer(status=403), "auth", 1),
        (Answer(status=404, body="sk-secret"), "refused", 1),
        (Answer(status=307, headers={"Location": "/v1/audio/transcriptions"}), "refused", 1),
        (Answer(status=429, headers={"Retry-After": "1"}), "rate_limited", 1),
        (Answer(body=PAGE, headers={"Content-Type": "text/html"}), "broken", 1),
        (Answer(body=PAGE, headers={"Content-Type": "application/json"}), "broken", 1),
        (Answer(body='{"text": 7}', headers={"Content-Type": "application/json"}), "broken", 1),
        (Answer(body='["text"]', headers={"Content-Type": "application/json"}), "broken", 1),
        (Answer(body='{"error": "sk-secret"}', headers={"Content-Type": "application/json"}), "broken", 1),
        (Answer(body="hello there"), "broken", 1),
        (Answer(body="\0" * 300_000), "broken", 1),
        (Answer(text="word " * 4000), "broken", 1),
    ],
)
async def test_every_fault_has_its_name_and_nothing_raw_comes_out(answer: Answer, kind: str, requests: int) -> None:
    timeout_s = 0.5 if answer.hang else 5.0
    async with recogniser(answer, timeout_s=timeout_s) as (stt, server):
        with pytest.raises(SpeechError) as error:
            await recognised(stt, SPEECH)
        assert len(server.uploads) == requests
    assert fault_kind(error.value) == kind
    shown = f"{error.value} {error.value.__cause__}"
    assert "sk-secret" not in shown
    assert "html" not in shown


@real
@pytest.mark.parametrize("page", [PAGE, "  <!doctype html><title>502</title>"])
async def test_a_web_page_is_no_text_even_where_text_was_asked_for(page: str) -> None:
    for content_type in ("text/html; charset=utf-8", "text/plain"):
        answer = Answer(body=page, headers={"Content-Type": content_type})
        async with recogniser(answer, response_format="text") as (stt, _):
            with pytest.raises(SpeechError):
                await recognised(stt, SPEECH)


@real
async def test_a_server_that_knows_only_json_may_answer_it() -> None:
    answer = Answer(body='{"text": "hello"}', headers={"Content-Type": "application/json"})
    async with recogniser(answer, response_format="text") as (stt, _):
        assert await recognised(stt, SPEECH) == Transcript("hello")


@real
@pytest.mark.parametrize("fault", [Answer(status=500), Answer(reset_after=0)])
async def test_one_fault_of_a_moment_is_not_noticed(fault: Answer) -> None:
    async with recogniser(fault, Answer()) as (stt, server):
        assert await recognised(stt, SPEECH) == Transcript("hello there")
    assert len(server.uploads) == 2
    assert server.uploads[0].wav == server.uploads[1].wav


@real
async def test_nobody_there_is_unavailable() -> None:
    stt = OpenAiStt(OpenAiSttConfig(base_url="http://127.0.0.1:9/v1"))
    with pytest.raises(SpeechError) as error:
        await recognised(stt, SPEECH)
    assert fault_kind(error.value) == "unavailable"
    await stt.aclose()


@real
async def test_a_finalize_that_is_taken_back_closes_its_request() -> None:
    async with recogniser(Answer(hang=True), Answer()) as (stt, server):
        stream = stt.open(PCMU_8K)
        stream.push(SPEECH)
        task = asyncio.create_task(stream.finalize())
        await server.asked.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        await server.gone.wait()
        stream.push(SPEECH)
        assert (await stream.finalize()).text == "hello there"
        assert decode_wav(server.uploads[1].wav).duration_s == 2.0
        await stream.aclose()


@real
async def test_calls_do_not_hear_each_other() -> None:
    async with recogniser() as (stt, server):
        await asyncio.gather(recognised(stt, SPEECH), recognised(stt, SPEECH + SPEECH))
    assert sorted(decode_wav(upload.wav).duration_s for upload in server.uploads) == [1.0, 2.0]


@real
async def test_warming_up_asks_once_and_tells_of_a_wrong_key() -> None:
    async with recogniser(Answer(), Answer(status=401)) as (stt, server):
        await stt.warm_up()
        with pytest.raises(SpeechError, match="refuses the key"):
            await stt.warm_up()
    assert [decode_wav(upload.wav).duration_s for upload in server.uploads] == [0.5, 0.5]


def test_a_configuration_does_not_show_its_key() -> None:
    shown = repr(OpenAiSttConfig(api_key="sk-secret", extra={"token": "sk-secret"}))
    assert "sk-secret" not in shown
    assert "gpt-4o-mini-transcribe" in shown
