"""Whole conversations over real sockets: a real gateway, scripted speech, the energy VAD."""

import ast
import asyncio
import inspect
import json
import types
from base64 import b64decode, b64encode
from typing import Any

import numpy as np
import pytest
import websockets

from fastagent.media.g711 import ulaw_decode
from fastagent.media.opus import OpusDecoder
from fastagent.media.wav import decode_wav
from tests.connectors.websocket.client import ANSWER, GREETING, Clients, calling, eventually, metric, speech_wav
from tests.support.audio import tone

pytestmark = pytest.mark.real

# As the document has it; only the port is another one.
SNIPPET = """
websocket = await websockets.connect(
    "ws://localhost:8000/agent/ws",
    extra_headers={
        "Authorization": f"Bearer {API_KEY}",
        "X-Session-ID": session_id
    }
)
"""


async def run_snippet(text: str, port: int, client: Any, **names: str) -> Any:
    """Run the document's lines; `await` stands at their top level there."""
    code = compile(text.replace(":8000", f":{port}"), "document", "exec", ast.PyCF_ALLOW_TOP_LEVEL_AWAIT)
    space: dict[str, Any] = {"websockets": client, **names}
    result = eval(code, space)
    if inspect.isawaitable(result):
        await result
    return space["websocket"]


@pytest.mark.filterwarnings("ignore:websockets:DeprecationWarning", "ignore:remove second argument:DeprecationWarning")
@pytest.mark.parametrize("argument", ["extra_headers", "additional_headers"])
async def test_the_documents_client_runs_unchanged(argument: str) -> None:
    """Resolution 18: `extra_headers` is of the client that the document was written for."""
    client: Any = websockets
    if argument == "extra_headers":
        from websockets.legacy.client import connect

        client = types.SimpleNamespace(connect=connect)
    async with calling(FASTAGENT_API_KEYS="k1,k2", FASTAGENT_AUTH="required") as clients:
        text = SNIPPET.replace("extra_headers", argument)
        socket = await run_snippet(text, clients.gateway.port, client, API_KEY="k2", session_id="sess_123456")
        start = {"agent_id": "retail_agent", "metadata": {"caller_id": "+1234567890"}}
        await socket.send(json.dumps({"type": "start_session", "payload": start, "timestamp": 1624282543}))
        started = json.loads(await socket.recv())
        assert started["type"] == "session_started"
        assert (started["payload"]["session_id"], started["session_id"]) == ("sess_123456", "sess_123456")
        assert started["payload"]["initial_state"] == "greeting"
        await socket.send(json.dumps({"type": "end_session", "payload": {"reason": "user_hangup"}}))
        while (last := json.loads(await socket.recv()))["type"] != "session_ended":
            assert set(last) == {"type", "payload", "session_id", "timestamp", "timestamp_ms"}
        assert last["payload"]["reason"] == "caller_hung_up"
        await socket.close()


async def test_a_conversation_with_one_wav_an_answer_a_transition_and_an_end() -> None:
    async with calling(script=("Hello.", "Good bye.")) as clients, clients.connect() as client:
        await client.start(agent_id="retail_agent", metadata={"caller_id": "+1234567890"})
        await client.until(lambda: client.finals == 1)
        assert len(client.audio) / 16000 == pytest.approx(3.75, abs=0.05), "ten words, as self-contained WAVs"
        for one in client.of("audio_response"):
            audio = decode_wav(b64decode(one["data"]))
            assert audio.rate_hz == 16000
            assert audio.duration_s <= 0.2
            assert (one["format"], one["encoding"], one["utterance_id"]) == ("audio/x-wav", "base64", "utt_1")
        await client.say(speech_wav(1.0), format="audio/x-wav", chunk_id=42)
        assert await client.next("state_transition") == {"from_state": "greeting", "to_state": "talk", "reason": ""} | {
            "reason": client.of("state_transition")[0]["reason"]
        }
        await client.until(lambda: client.finals == 2)
        await client.say(speech_wav(1.0), format="audio/x-wav", chunk_id=43)
        ended = await client.next("session_ended")
        assert ended["reason"] == "completed"
        assert type(ended["duration_seconds"]) is int
        assert await client.close_code() == 1000
        assert client.types[-1] == "session_ended"
        responses = client.of("audio_response")
        assert [one["seq"] for one in responses] == list(range(1, len(responses) + 1))
        for utterance in ("utt_1", "utt_2", "utt_3"):
            flags = [one["final"] for one in responses if one["utterance_id"] == utterance]
            assert flags == [False] * (len(flags) - 1) + [True]
        said = [one["text"] for one in client.of("transcript") if one["role"] == "user" and one["is_final"]]
        assert said == ["Hello.", "Good bye."]
        assert not client.errors


async def test_speech_in_real_time_with_jitter_is_one_utterance() -> None:
    """Resolution 54: less than half a second of delay is no silence, and makes nothing of the call late."""
    async with calling() as clients, clients.connect() as client:
        await client.start()
        await client.until(lambda: client.finals == 1)
        (session,) = clients.gateway.sessions._live.values()
        samples = np.concatenate([tone(1.2, rate_hz=16000), np.zeros(16000, np.int16)])
        await client.speak(samples, late=lambda n: 0.3 if 20 <= n < 30 else 0.0)
        await client.until(lambda: client.finals == 2)
        assert len([one for one in client.of("transcript") if one["role"] == "user" and one["is_final"]]) == 1
        stats = session.inbound.stats
        assert stats.ahead_samples == 0
        assert stats.samples <= len(samples) + 3.2 * 16000, "nothing but the silence after it was added"
        assert not client.errors


async def test_keys_and_typed_words_are_answered() -> None:
    async with calling() as clients, clients.connect() as client:
        await client.start()
        await client.next("audio_response")
        await client.send("dtmf", digits="12#")
        await client.until(lambda: len(client.of("call_event")) == 3)
        assert client.of("clear_audio"), "keys interrupt"
        await client.next("state_transition")
        await client.send("text_input", text="What is my balance?")
        await client.until(lambda: any(one["text"] == "What is my balance?" for one in client.of("transcript")))
        await client.until(lambda: client.finals >= 1)
        assert not client.errors


async def test_a_barge_in_clears_the_clients_buffer_and_history_has_what_was_heard() -> None:
    async with calling() as clients, clients.connect() as client:
        await client.start()
        await client.until(lambda: len(client.of("audio_response")) >= 8)
        await client.speak(tone(1.3, rate_hz=16000, level=0.9))
        cleared = await client.next("clear_audio")
        assert cleared == {"utterance_id": "utt_1", "reason": "interruption"}
        interruption = await client.next("interruption")
        assert GREETING.startswith(interruption["heard"])
        assert 0 < len(interruption["heard"]) < len(GREETING)
        await client.until(lambda: client.finals == 1)
        assert {one["utterance_id"] for one in client.of("audio_response") if one["final"]} == {"utt_2"}
        (last,) = [one for one in client.of("transcript") if one["role"] == "agent" and one.get("interrupted")]
        assert last["heard"] == interruption["heard"]
        assert client.types.index("speech_started") <= client.types.index("clear_audio")


@pytest.mark.parametrize("share", [0.0, 0.5])
async def test_what_the_client_has_played_is_what_was_heard(share: float) -> None:
    async with calling() as clients, clients.connect() as client:
        await client.start()
        await client.send("playback_status", utterance_id="utt_1", played_ms=0)
        if share:
            await client.until(lambda: len(client.of("audio_response")) >= 2)
            for at in range(1, 10):
                await client.send("playback_status", utterance_id="utt_1", played_ms=200 * at)
                await client.until(lambda at=at: len(client.of("audio_response")) >= at)  # type: ignore[misc]
        else:
            await client.until(lambda: len(client.of("audio_response")) >= 2)
        await client.send("interrupt")
        interruption = await client.next("interruption")
        heard = len(interruption["heard"]) / len(GREETING)
        assert heard == pytest.approx(share, abs=0.12)


async def test_a_client_that_reports_nothing_more_does_not_stop_the_call() -> None:
    async with calling(greeting="Hello.") as clients, clients.connect() as client:
        await client.start()
        await client.next("audio_response")
        await client.send("playback_status", utterance_id="utt_99", played_ms=5)
        await client.until(lambda: client.finals == 1)
        await client.until(lambda: any(one.get("heard") == "Hello." for one in client.of("transcript")))


async def test_only_the_events_that_are_wanted_come() -> None:
    async with calling(greeting="Hello.") as clients, clients.connect() as client:
        await client.start(events=["speech_started", "nonsense"])
        await client.until(lambda: client.finals == 1)
        await client.say(speech_wav(1.0))
        await client.until(lambda: client.finals == 2)
        await client.send("nonsense")
        await client.next("error")
        await client.send("end_session")
        await client.next("session_ended")
        core = {"session_started", "audio_response", "state_transition", "session_ended", "error"}
        assert set(client.types) == core | {"speech_started"}


async def test_audio_in_binary_frames_both_ways() -> None:
    audio = {"input": {"format": "audio/pcm"}, "output": {"format": "audio/pcm", "sample_rate": 8000}, "binary": True}
    async with calling(greeting="Hello.") as clients, clients.connect() as client:
        started = await client.start(audio=audio)
        assert started["audio"] == {"format": "audio/pcm", "sample_rate": 8000, "channels": 1, "binary": True}
        await client.until(lambda: client.finals == 1)
        seqs = [int.from_bytes(one[:4], "big") for one in client.frames]
        (final,) = client.of("audio_response")
        assert [*seqs, final["seq"]] == list(range(1, len(seqs) + 2)), "each message has its number"
        assert (final["data"], final["utterance_id"]) == ("", "utt_1")
        assert sum(len(one) - 8 for one in client.frames) / 16000 == pytest.approx(0.4, abs=0.05)
        stamps = [int.from_bytes(one[4:8], "big") for one in client.frames]
        assert stamps == sorted(stamps)
        pcm = tone(1.0, rate_hz=16000).tobytes()
        for at in range(0, len(pcm), 3201):  # odd: halves of samples
            await client.socket.send_bytes(at.to_bytes(4, "big") + bytes(4) + pcm[at : at + 3201])
        await client.until(lambda: client.finals == 2)
        assert not client.errors


@pytest.mark.parametrize(
    ("name", "rate_hz"), [("audio/x-mulaw", None), ("audio/x-alaw", None), ("audio/opus", 16000), ("audio/opus", 48000)]
)
async def test_the_agent_speaks_in_the_negotiated_format(name: str, rate_hz: int | None) -> None:
    spec: dict[str, Any] = {"format": name} | ({"sample_rate": rate_hz} if rate_hz else {})
    async with calling(greeting="Hello.") as clients, clients.connect() as client:
        started = await client.start(audio={"output": spec})
        assert started["audio"]["format"] == name
        await client.until(lambda: client.finals == 1)
        chunks = [b64decode(one["data"]) for one in client.of("audio_response")]
        assert {one["format"] for one in client.of("audio_response")} == {name}
        if name == "audio/opus":
            ear = OpusDecoder()
            seconds = sum(len(ear.decode(one).samples) for one in chunks if one) / 48000
        else:
            seconds = len(b"".join(chunks)) / 8000
            assert name == "audio/x-alaw" or np.abs(ulaw_decode(b"".join(chunks))).max() > 1000
        assert seconds == pytest.approx(0.4, abs=0.05)


async def test_a_law_of_telephony_may_come_in_without_naming_it_each_time() -> None:
    from fastagent.media.frame import PCMU_8K

    async with calling(greeting="Hello.") as clients, clients.connect() as client:
        await client.start(audio={"input": {"format": "audio/x-mulaw"}})
        await client.until(lambda: client.finals == 1)
        await client.say(PCMU_8K.encode(tone(1.0)))
        await client.until(lambda: client.finals == 2)


async def test_bad_input_in_a_call_is_told_counted_and_does_not_end_it() -> None:
    async with calling(greeting="Hello.") as clients, clients.connect() as client:
        await client.start()
        bad: list[tuple[str, dict[str, Any]]] = [
            ("audio_data", {"format": "audio/mp3", "data": "AAAA"}),
            ("audio_data", {"data": "not base64"}),
            ("audio_data", {"data": b64encode(b"RIFF\0\0\0\0AVI " + bytes(20)).decode()}),
            ("dtmf", {"digits": "x"}),
            ("start_session", {}),
            ("nothing", {}),
        ]
        for type_, payload in bad:
            await client.send(type_, **payload)
        await client.raw("no JSON")
        await client.until(lambda: len(client.errors) == 7)
        assert client.errors == [
            "invalid_audio_format",
            "audio_processing_failed",
            "audio_processing_failed",
            *["invalid_request"] * 4,
        ]
        await client.say(speech_wav(1.0))
        await client.until(lambda: client.finals == 2)
        await client.until(lambda: any(one.get("heard") == ANSWER for one in client.of("transcript")))
        await client.send("end_session")
        await client.close_code()
        counted = {"invalid_request": 4, "audio_processing_failed": 2, "invalid_audio_format": 1}
        await eventually(lambda: counted == {kind: refusals(clients, kind) for kind in counted})


def refusals(clients: Clients, kind: str) -> float:
    return metric(clients.gateway, "protocol_errors_total", surface="websocket", kind=kind)


async def test_audio_far_ahead_of_real_time_is_dropped_and_told() -> None:
    async with calling(greeting="Hello.") as clients, clients.connect() as client:
        await client.start()
        await client.until(lambda: client.finals == 1)
        nine = bytes(9 * 8000)  # 8 bits at 8 kHz
        wav = speech_wav(0.1, 8000)
        form = wav[:16] + b"\x10\0\0\0\7\0\1\0\x40\x1f\0\0\x40\x1f\0\0\1\0\x08\0data" + len(nine).to_bytes(4, "little")
        for _ in range(2):
            await client.say(form + b"\xff" * len(nine))
        assert (await client.next("error"))["code"] == "audio_processing_failed"
        await client.send("interrupt")
        await asyncio.sleep(0)
        assert not client.closed.is_set()
