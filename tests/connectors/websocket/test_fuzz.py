"""Whatever a client sends: nothing raises, every refusal has a documented code, and a session goes on afterwards."""

import json
from base64 import b64encode
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from fastagent.connectors.leg import DtmfReceived
from fastagent.connectors.websocket.messages import CLIENT
from fastagent.connectors.websocket.protocol import AudioReceived, Event, Refused, SocketProtocol, StartRequested
from fastagent.gateway.errors import STATUS

CODES = {"invalid_request", "session_not_found", "invalid_audio_format", "audio_processing_failed"}
FORMATS = [
    "audio/x-wav",
    "audio/pcm",
    "audio/x-mulaw",
    "audio/x-alaw",
    "audio/opus",
    "audio/mp3",
    "",
    "audio/pcm;rate=x",
]

anything = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=12,
)
NAMES = ["agent_id", "metadata", "audio", "events", "session_id", "resume_secret", "data", "format", "encoding"]
NAMES += ["chunk_id", "digits", "reason", "text", "utterance_id", "played_ms", "input", "output", "binary"]
payloads = st.dictionaries(st.sampled_from(NAMES) | st.text(max_size=5), anything, max_size=6)
VALID = [
    {"type": "start_session", "payload": {"agent_id": "a", "metadata": {"caller_id": "+1"}, "events": ["metrics"]}},
    {"type": "start_session", "payload": {"audio": {"input": {"format": "audio/pcm"}, "binary": True}}},
    {"type": "audio_data", "payload": {"format": "audio/x-wav", "data": b64encode(bytes(64)).decode(), "chunk_id": 1}},
    {"type": "dtmf", "payload": {"digits": "1234"}},
    {"type": "text_input", "payload": {"text": "hello"}},
    {"type": "playback_status", "payload": {"utterance_id": "utt_1", "played_ms": 1}},
    {"type": "interrupt", "payload": {}},
    {"type": "end_session", "payload": {"reason": "user_hangup"}},
]


def session(format_: str = "audio/x-wav", *, binary: bool = False) -> SocketProtocol:
    protocol = SocketProtocol()
    start = {"audio": {"input": {"format": format_}, "binary": binary}}
    (request,) = protocol.receive(json.dumps({"type": "start_session", "payload": start}))
    assert isinstance(request, StartRequested)
    protocol.started("sess_1", request)
    return protocol


def assert_sound(protocol: SocketProtocol, events: list[Event]) -> None:
    """Every refusal is one of the documented, and can be said."""
    for event in events:
        if isinstance(event, Refused):
            assert event.code in CODES
            assert event.code in STATUS
            said = json.loads(protocol.error(event, 1.0))
            assert set(said["payload"]) == {"code", "message", "details"}
            assert len(said["payload"]["message"]) < 300, "no echo of long input"
            assert "Traceback" not in said["payload"]["message"]
        elif isinstance(event, AudioReceived):
            assert event.payload
            assert len(event.payload) % 2 == 0
            assert len(event.payload) <= 10.1 * 32000


def assert_lives(protocol: SocketProtocol) -> None:
    """A session is as it was."""
    assert protocol.receive('{"type": "dtmf", "payload": {"digits": "5"}}') == [DtmfReceived("5")]


def both(text: str) -> None:
    for protocol in (SocketProtocol(), session()):
        assert_sound(protocol, protocol.receive(text))
    assert_lives(protocol)


@given(st.text(max_size=200))
@example("\x00")
@example("\ud800")
@example('"' + "\\" * 101)
@example("[" * 40)
@example('{"type": "interrupt", "timestamp": ' + "1" * 5000 + "}")
def test_any_text_is_answered(text: str) -> None:
    both(text)


@given(anything)
def test_any_json_is_answered(value: Any) -> None:
    both(json.dumps(value))


@given(st.sampled_from([*CLIENT, "error", ""]) | st.text(max_size=10), payloads | anything, anything)
def test_any_payload_of_any_type_is_answered(type_: str, payload: Any, session_id: Any) -> None:
    both(json.dumps({"type": type_, "payload": payload, "session_id": session_id}))
    both(json.dumps({"type": type_, "payload": payload}, ensure_ascii=False))


def _paths(value: Any, path: tuple[str, ...] = ()) -> list[tuple[str, ...]]:
    if not isinstance(value, dict):
        return [path]
    return [path] * bool(path) + [found for key, inner in value.items() for found in _paths(inner, (*path, key))]


@given(st.data(), st.sampled_from(VALID), anything)
@settings(max_examples=300)
def test_a_valid_message_with_one_place_changed_is_answered(data: st.DataObject, message: Any, value: Any) -> None:
    changed = json.loads(json.dumps(message))
    path = data.draw(st.sampled_from(_paths(changed)))
    at = changed
    for key in path[:-1]:
        at = at[key]
    at[path[-1]] = value
    both(json.dumps(changed))


@given(st.data(), st.sampled_from(VALID))
def test_a_valid_message_with_bytes_changed_or_cut_is_answered(data: st.DataObject, message: Any) -> None:
    text = json.dumps(message)
    at = data.draw(st.integers(0, len(text) - 1))
    both(text[:at] + data.draw(st.text(max_size=3)) + text[at + data.draw(st.integers(0, 5)) :])


@given(
    st.sampled_from(FORMATS[:5]),
    st.lists(st.tuples(st.sampled_from([None, *FORMATS]), st.binary(max_size=300)), max_size=8),
)
@settings(max_examples=200)
def test_any_bytes_as_audio_are_audio_or_an_error(agreed: str, chunks: list[tuple[str | None, bytes]]) -> None:
    protocol = session(agreed)
    for format_, data in chunks:
        payload = {"data": b64encode(data).decode()} | ({} if format_ is None else {"format": format_})
        assert_sound(protocol, protocol.receive(json.dumps({"type": "audio_data", "payload": payload})))
    assert_lives(protocol)


HEAD = b"RIFF\x24\0\0\0WAVEfmt \x10\0\0\0\1\0\1\0\x80\x3e\0\0\0\x7d\0\0\2\0\x10\0data\0\1\0\0"


@given(st.lists(st.tuples(st.integers(0, len(HEAD) - 1), st.integers(0, 255)), max_size=4), st.binary(max_size=400))
@settings(max_examples=300)
@example([(22, 0)], b"abcd")
@example([(34, 12)], b"abcd")
@example([(20, 3), (34, 64)], b"\xff" * 16)
@example([(20, 3), (34, 32)], b"\x01\0\x80\x7f" * 4)
@pytest.mark.filterwarnings("error")
def test_a_damaged_header_is_audio_or_an_error(damage: list[tuple[int, int]], data: bytes) -> None:
    head = bytearray(HEAD)
    for at, value in damage:
        head[at] = value
    protocol = session()
    for chunk in (bytes(head) + data, data, HEAD + data):
        payload = {"data": b64encode(chunk).decode(), "format": "audio/x-wav"}
        events = protocol.receive(json.dumps({"type": "audio_data", "payload": payload}))
        assert_sound(protocol, events)
    assert_lives(protocol)


@given(st.lists(st.binary(max_size=100), max_size=5), st.booleans(), st.sampled_from(FORMATS[:5]))
def test_any_binary_frame_is_audio_or_an_error(frames: list[bytes], binary: bool, agreed: str) -> None:
    protocol = session(agreed, binary=binary)
    for frame in frames:
        assert_sound(protocol, protocol.receive_binary(frame))
        assert_sound(SocketProtocol(), SocketProtocol().receive_binary(frame))
    assert_lives(protocol)
