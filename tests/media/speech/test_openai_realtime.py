"""Recognition over a realtime socket: the messages, and the streams against a server that speaks the wire format."""

import asyncio
import base64
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import numpy as np
import pytest

from fastagent.media.errors import SpeechError
from fastagent.media.frame import PCMU_8K, AudioFormat
from fastagent.media.g711 import Int16Array
from fastagent.media.speech.contracts import Transcript
from fastagent.media.speech.openai_config import OpenAiSttConfig, fault_kind
from fastagent.media.speech.openai_realtime import OpenAiRealtimeStt, realtime_url
from fastagent.media.speech.openai_realtime_protocol import Completed, Failed, Protocol, Utterance
from tests.support.audio import speech, tone
from tests.support.fake_speech import Connection, FakeSpeech, Socket, fake_speech

real = pytest.mark.real
SPEECH = speech(1.0)
GOOD = Socket()


@asynccontextmanager
async def recogniser(*sockets: Socket, **options: Any) -> AsyncIterator[tuple[OpenAiRealtimeStt, FakeSpeech]]:
    async with fake_speech(*sockets) as server:
        options = {"api_key": "sk-secret", "timeout_s": 5.0, **options}
        stt = OpenAiRealtimeStt(OpenAiSttConfig(base_url=server.base_url, realtime=True, **options))
        try:
            yield stt, server
        finally:
            await stt.aclose()
            await stt.aclose()


async def recognised(stt: OpenAiRealtimeStt, *payloads: bytes, audio: AudioFormat = PCMU_8K) -> Transcript:
    stream = stt.open(audio)
    try:
        for payload in payloads:
            stream.push(payload)
        return await stream.finalize()
    finally:
        await stream.aclose()
        await stream.aclose()


def seconds(pieces: list[bytes]) -> list[float]:
    return [round(len(piece) / 48000, 3) for piece in pieces]


async def until_sent(connection: Connection, size: int) -> None:
    while len(connection.buffer) < size:  # noqa: ASYNC110
        await asyncio.sleep(0.005)


async def until_connected(server: FakeSpeech, count: int) -> Connection:
    while len(server.connections) < count or not server.connections[-1].events:  # noqa: ASYNC110
        await asyncio.sleep(0.005)
    return server.connections[-1]


# -- messages --------------------------------------------------------------------------------------------------------


def protocol(**options: Any) -> Protocol:
    return Protocol(OpenAiSttConfig(**options), PCMU_8K)


def event(kind: str, **fields: Any) -> str:
    return json.dumps({"type": kind, **fields})


def completed(item: str, text: str) -> str:
    return event("conversation.item.input_audio_transcription.completed", item_id=item, transcript=text)


def test_the_session_is_configured_for_transcription_without_turn_detection() -> None:
    hello = json.loads(protocol(language="en", extra={"prompt": "digits"}).hello())
    assert hello == {
        "type": "session.update",
        "event_id": "session",
        "session": {
            "type": "transcription",
            "audio": {
                "input": {
                    "format": {"type": "audio/pcm", "rate": 24000},
                    "transcription": {"model": "gpt-4o-mini-transcribe", "language": "en", "prompt": "digits"},
                    "turn_detection": None,
                }
            },
        },
    }


def test_an_older_server_is_configured_in_its_own_words() -> None:
    hello = json.loads(protocol(realtime_protocol="beta", model="whisper-1").hello())
    assert hello == {
        "type": "transcription_session.update",
        "event_id": "session",
        "session": {
            "input_audio_format": "pcm16",
            "input_audio_transcription": {"model": "whisper-1"},
            "turn_detection": None,
        },
    }


def test_audio_is_sent_at_24_khz_and_a_commit_sends_the_rest_of_it() -> None:
    socket, samples = protocol(), tone(0.5)
    payload = PCMU_8K.encode(samples)
    messages = [
        *socket.append(payload[:1234]),
        *socket.append(payload[1234:]),
        *socket.commit(Utterance(PCMU_8K), 4000),
    ]
    events = [json.loads(message) for message in messages]
    assert events[-1] == {"type": "input_audio_buffer.commit"}
    sent = b"".join(base64.b64decode(one["audio"]) for one in events[:-1])
    wide: Int16Array = np.frombuffer(sent, "<i2")
    assert len(wide) == 12000
    assert np.argmax(np.abs(np.fft.rfft(wide))) == 220  # 440 Hz in half a second


def test_texts_find_their_pieces_in_any_order() -> None:
    socket, utterance = protocol(), Utterance(PCMU_8K)
    for end in (1000, 2000):
        socket.commit(utterance, end)
        socket.receive(event("input_audio_buffer.committed", item_id=f"item_{end}"))
    assert socket.receive(completed("item_2000", "two")) == Completed(utterance, 2000, "two")
    assert socket.receive(completed("item_1000", "one")) == Completed(utterance, 1000, "one")
    assert socket.receive(completed("item_1000", "one")) is None


def test_what_says_nothing_of_a_text_is_let_by() -> None:
    for kind in ("session.created", "conversation.item.added", "rate_limits.updated", "input_audio_buffer.committed"):
        assert protocol().receive(event(kind, item_id="x")) is None


@pytest.mark.parametrize("data", ["", "{", "[]", "7", "null", "{}", "[" * 100_000, completed("x", "word " * 9000)])
def test_what_is_no_event_is_a_fault(data: str) -> None:
    with pytest.raises(SpeechError) as error:
        protocol().receive(data)
    assert fault_kind(error.value) == "broken"


@pytest.mark.parametrize(
    ("error", "kind", "final"),
    [
        ({"type": "invalid_request_error", "code": "invalid_api_key"}, "auth", True),
        ({"type": "invalid_request_error", "code": "invalid_value", "event_id": "session"}, "refused", True),
        ({"type": "invalid_request_error", "code": "model_not_found"}, "refused", True),
        ({"type": "server_error", "code": None}, "unavailable", False),
        ({"type": "requests", "code": "rate_limit_exceeded"}, "rate_limited", False),
        ({"type": "invalid_request_error", "code": "x", "event_id": "event_9"}, "refused", False),
        ({}, "refused", True),
    ],
)
def test_errors_have_names_and_before_the_session_is_configured_they_are_about_it(
    error: dict[str, Any], kind: str, final: bool
) -> None:
    failed = protocol().receive(event("error", error={**error, "message": "sk-secret"}))
    assert isinstance(failed, Failed)
    assert (failed.fault.kind, failed.final) == (kind, final)
    assert "sk-secret" not in str(failed.fault)


def test_an_utterance_on_a_new_socket_is_one_piece_from_where_its_text_is_known() -> None:
    utterance = Utterance(PCMU_8K)
    for _ in range(3):
        utterance.push(SPEECH)
        utterance.commit()
    utterance.answer(8000, "one")
    assert utterance.start_over() == 8000
    assert utterance.next_commit(8000) == 24000
    utterance.answer(24000, "two three ")
    assert utterance.text() == "one two three"
    assert utterance.start_over() == 24000


def test_the_address_is_that_of_the_endpoint_with_its_query() -> None:
    assert str(realtime_url("https://api.openai.com/v1")) == "wss://api.openai.com/v1/realtime?intent=transcription"
    assert str(realtime_url("http://10.0.0.1:8000/v1/?model=x")) == (
        "ws://10.0.0.1:8000/v1/realtime?model=x&intent=transcription"
    )


# -- streams ---------------------------------------------------------------------------------------------------------


@real
async def test_an_utterance_is_sent_committed_and_its_text_comes_back() -> None:
    async with recogniser() as (stt, server):
        assert await recognised(stt, SPEECH[:3000], SPEECH[3000:]) == Transcript("hello there")
    (connection,) = server.connections
    assert connection.query == {"intent": "transcription"}
    assert connection.headers["Authorization"] == "Bearer sk-secret"
    assert "OpenAI-Beta" not in connection.headers
    assert connection.kinds() == ["session.update", "input_audio_buffer.append", "input_audio_buffer.commit"]
    assert seconds(connection.pieces) == [1.0]


@real
async def test_an_older_server_is_told_apart_by_a_header() -> None:
    async with recogniser(realtime_protocol="beta") as (stt, server):
        assert (await recognised(stt, SPEECH)).text == "hello there"
    (connection,) = server.connections
    assert connection.headers["OpenAI-Beta"] == "realtime=v1"
    assert connection.kinds()[0] == "transcription_session.update"


@real
async def test_audio_is_sent_while_the_caller_still_speaks() -> None:
    async with recogniser() as (stt, server):
        stream = stt.open(PCMU_8K)
        connection = await until_connected(server, 1)
        stream.push(SPEECH)
        await until_sent(connection, 40000)
        assert not connection.pieces
        assert (await stream.finalize()).text == "hello there"
        await stream.aclose()


@real
async def test_wideband_audio_is_sent_too() -> None:
    wide = AudioFormat("L16", 16000)
    async with recogniser() as (stt, server):
        assert (await recognised(stt, wide.encode(tone(0.5, rate_hz=16000)) + b"\0", audio=wide)).text
    assert seconds(server.connections[0].pieces) == [0.5]


@real
@pytest.mark.parametrize("payload", [b"", PCMU_8K.silence(799)])
async def test_too_little_for_a_word_is_not_committed(payload: bytes) -> None:
    async with recogniser() as (stt, server):
        stream = stt.open(PCMU_8K)
        connection = await until_connected(server, 1)
        stream.push(payload)
        assert await stream.finalize() == Transcript("")
        await stream.aclose()
    assert "input_audio_buffer.commit" not in connection.kinds()


@real
async def test_punctuation_is_no_speech() -> None:
    async with recogniser(Socket(texts=[" . "])) as (stt, _):
        assert await recognised(stt, SPEECH) == Transcript("")


@real
async def test_an_utterance_that_goes_on_sends_only_what_is_new_and_is_told_as_a_whole() -> None:
    async with recogniser(Socket(texts=["one", "two", "three"])) as (stt, server):
        stream = stt.open(PCMU_8K)
        heard = []
        for _ in range(2):
            stream.push(SPEECH)
            heard.append((await stream.finalize()).text)
        stream.push(PCMU_8K.silence(100))
        heard.append((await stream.finalize()).text)
        stream.restart()
        stream.push(SPEECH[:4000])
        heard.append((await stream.finalize()).text)
        await stream.aclose()
    assert heard == ["one", "one two", "one two", "three"]
    assert seconds(server.connections[0].pieces) == [1.0, 1.0, 0.5]


@real
async def test_a_restart_takes_back_what_was_sent() -> None:
    async with recogniser() as (stt, server):
        stream = stt.open(PCMU_8K)
        connection = await until_connected(server, 1)
        stream.push(SPEECH)
        await until_sent(connection, 40000)
        stream.restart()
        stream.push(SPEECH[:4000])
        await stream.finalize()
        await stream.aclose()
    assert "input_audio_buffer.clear" in connection.kinds()
    assert seconds(connection.pieces) == [0.5]


@real
async def test_a_finalize_that_is_taken_back_is_part_of_the_next_one() -> None:
    async with recogniser(Socket(texts=["one", "two"], open_s=0.2)) as (stt, _):
        stream = stt.open(PCMU_8K)
        stream.push(SPEECH)
        task = asyncio.create_task(stream.finalize())
        await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        stream.push(SPEECH)
        assert (await stream.finalize()).text in ("one two", "one")  # one piece, if the socket opened after both
        await stream.aclose()


@real
async def test_a_finalize_under_way_keeps_its_utterance_when_the_next_one_begins() -> None:
    async with recogniser(Socket(texts=["one", "two"])) as (stt, server):
        stream = stt.open(PCMU_8K)
        stream.push(SPEECH)
        first = asyncio.create_task(stream.finalize())
        await until_connected(server, 1)
        stream.restart()
        stream.push(SPEECH)
        assert (await stream.finalize()).text == "two"
        assert (await first).text == "one"
        await stream.aclose()


@real
async def test_what_is_said_while_the_socket_opens_is_not_lost() -> None:
    async with recogniser(Socket(open_s=0.5)) as (stt, server):
        assert (await recognised(stt, *[SPEECH] * 4)).text == "hello there"
    assert seconds(server.connections[0].pieces) == [4.0]


@real
async def test_of_a_very_long_utterance_thirty_seconds_are_sent() -> None:
    async with recogniser() as (stt, server):
        await recognised(stt, *[speech(9.0)] * 4)
    assert seconds(server.connections[0].pieces) == [30.0]


@real
async def test_a_server_that_does_not_confirm_commits_answers_in_order() -> None:
    async with recogniser(Socket(unconfirmed=True, texts=["one", "two"])) as (stt, _):
        stream = stt.open(PCMU_8K)
        stream.push(SPEECH)
        await stream.finalize()
        stream.push(SPEECH)
        assert (await stream.finalize()).text == "one two"
        await stream.aclose()


@real
async def test_every_call_has_a_socket_of_its_own_and_closes_it() -> None:
    async with recogniser(Socket(texts=["one"]), Socket(texts=["two"])) as (stt, server):
        assert (await recognised(stt, SPEECH)).text == "one"
        assert (await recognised(stt, SPEECH)).text == "two"
        for connection in server.connections:
            await connection.closed.wait()


# -- faults ----------------------------------------------------------------------------------------------------------

SECRET = {"message": "sk-secret"}


@real
@pytest.mark.parametrize(
    ("socket", "kind"),
    [
        (Socket(status=401), "auth"),
        (Socket(status=403), "auth"),
        (Socket(status=404), "refused"),
        (Socket(status=302, location="/v1/realtime"), "refused"),
        (Socket(status=429), "rate_limited"),
        (Socket(status=503), "unavailable"),
        (Socket(status=200), "refused"),
        (Socket(open_s=30.0), "unavailable"),
        (Socket(refuse_session={"type": "invalid_request_error", "code": "invalid_value", **SECRET}), "refused"),
        (Socket(error={"type": "invalid_request_error", "code": "invalid_api_key", **SECRET}), "auth"),
        (Socket(error={"type": "invalid_request_error", "code": "bad_audio", **SECRET}), "refused"),
        (Socket(failed={"type": "requests", "code": "rate_limit_exceeded", **SECRET}), "rate_limited"),
        (Socket(error={"type": "server_error", **SECRET}), "unavailable"),
        (Socket(close_on_commit=1011), "unavailable"),
        (Socket(close_on_commit=3000), "auth"),
        (Socket(close_on_commit=4000), "refused"),
        (Socket(close_after_s=0.5), "unavailable"),
        (Socket(raw="<html>"), "broken"),
        (Socket(silent=True), "silent"),
    ],
)
async def test_every_fault_has_its_name_and_nothing_raw_comes_out(socket: Socket, kind: str) -> None:
    options = {"connect_s": 0.3} if socket.open_s else {"timeout_s": 0.5} if socket.silent else {}
    async with recogniser(socket, **options) as (stt, _):
        with pytest.raises(SpeechError) as error:
            await recognised(stt, SPEECH)
    assert fault_kind(error.value) == kind
    assert "sk-secret" not in f"{error.value} {error.value.__cause__}"


@real
async def test_nobody_there_is_unavailable() -> None:
    stt = OpenAiRealtimeStt(OpenAiSttConfig(base_url="http://127.0.0.1:9/v1"))
    with pytest.raises(SpeechError) as error:
        await recognised(stt, SPEECH)
    assert fault_kind(error.value) == "unavailable"
    await stt.aclose()


@real
@pytest.mark.parametrize(
    "lost", [Socket(close_after_s=0.5), Socket(close_on_commit=1011), Socket(error={"type": "server_error"})]
)
async def test_a_socket_lost_in_the_middle_is_replaced_and_the_whole_utterance_sent_again(lost: Socket) -> None:
    async with recogniser(lost, GOOD) as (stt, server):
        assert (await recognised(stt, SPEECH)).text == "hello there"
    assert seconds(server.connections[1].pieces) == [1.0]


@real
async def test_a_socket_lost_between_two_pieces_costs_only_the_second() -> None:
    async with recogniser(Socket(texts=["one"], close_after_s=1.2), Socket(texts=["two"])) as (stt, server):
        stream = stt.open(PCMU_8K)
        stream.push(SPEECH)
        assert (await stream.finalize()).text == "one"
        stream.push(speech(1.5))
        assert (await stream.finalize()).text == "one two"
        await stream.aclose()
    assert seconds(server.connections[1].pieces) == [1.5]


@real
async def test_a_socket_that_takes_no_audio_is_replaced() -> None:
    async with recogniser(Socket(deaf=True), GOOD, stall_s=0.3, timeout_s=10.0) as (stt, server):
        wide = AudioFormat("L16", 48000)
        # Two megabytes on the wire: more than is buffered on the way, so that writing comes to a halt.
        assert (await recognised(stt, wide.silence(48000 * 30), audio=wide)).text == "hello there"
    assert len(server.connections) == 2
    assert seconds(server.connections[1].pieces) == [30.0]


@real
async def test_after_a_silent_answer_the_next_utterance_has_a_new_socket() -> None:
    async with recogniser(Socket(silent=True), GOOD, timeout_s=0.5) as (stt, server):
        stream = stt.open(PCMU_8K)
        stream.push(SPEECH)
        with pytest.raises(SpeechError):
            await stream.finalize()
        stream.restart()
        stream.push(SPEECH)
        assert (await stream.finalize()).text == "hello there"
        await stream.aclose()
    assert seconds(server.connections[1].pieces) == [1.0]


@real
async def test_after_a_refused_utterance_the_next_one_is_recognised() -> None:
    refusal = Socket(failed={"type": "invalid_request_error", "code": "audio_unintelligible"})
    async with recogniser(refusal, GOOD) as (stt, _):
        stream = stt.open(PCMU_8K)
        stream.push(SPEECH)
        with pytest.raises(SpeechError, match="refused"):
            await stream.finalize()
        assert (await stream.finalize()).text == "hello there"
        await stream.aclose()


@real
async def test_an_unreachable_server_is_found_when_it_is_back() -> None:
    async with recogniser(Socket(status=503), Socket(status=503), GOOD) as (stt, server):
        stream = stt.open(PCMU_8K)
        await until_connected(server, 3)
        stream.push(SPEECH)
        assert (await stream.finalize()).text == "hello there"
        await stream.aclose()


@real
async def test_a_wrong_key_is_not_tried_again() -> None:
    async with recogniser(Socket(status=401), GOOD) as (stt, server):
        stream = stt.open(PCMU_8K)
        stream.push(SPEECH)
        for _ in range(3):
            with pytest.raises(SpeechError, match="refuses the key"):
                await stream.finalize()
        assert len(server.connections) == 1
        await stream.aclose()


@real
async def test_a_stream_that_is_closed_ends_a_finalize_and_its_socket() -> None:
    async with recogniser(Socket(silent=True)) as (stt, server):
        stream = stt.open(PCMU_8K)
        stream.push(SPEECH)
        task = asyncio.create_task(stream.finalize())
        connection = await until_connected(server, 1)
        await asyncio.gather(stream.aclose(), stream.aclose())
        with pytest.raises(SpeechError) as error:
            await task
        await connection.closed.wait()
    assert fault_kind(error.value) == "closed"


@real
async def test_a_stream_can_be_closed_before_its_socket_opens() -> None:
    async with recogniser(Socket(open_s=30.0)) as (stt, server):
        stream = stt.open(PCMU_8K)
        await server.asked.wait()
        await stream.aclose()


@real
async def test_warming_up_proves_the_key() -> None:
    async with recogniser(GOOD, Socket(status=401)) as (stt, server):
        await stt.warm_up()
        with pytest.raises(SpeechError, match="refuses the key"):
            await stt.warm_up()
    assert seconds(server.connections[0].pieces) == [0.5]
