"""The core of an API socket: literal messages in, events and literal messages out."""

import json
from base64 import b64encode
from typing import Any

import pytest

from fastagent.connectors.leg import DtmfReceived, InterruptRequested, TextReceived
from fastagent.connectors.websocket.protocol import (
    AudioReceived,
    EndRequested,
    Event,
    Phase,
    Played,
    Refused,
    SocketProtocol,
    StartRequested,
)

# The examples of the API document, as they are there: the table of messages from the client.
START = '{"agent_id": "retail_agent", "metadata": {"caller_id": "+1234567890"}}'
AUDIO = '{"format": "audio/x-wav", "encoding": "base64", "data": "base64_audio_data", "chunk_id": 42}'
DTMF = '{"digits": "1234"}'
END = '{"reason": "user_hangup"}'
# And from the server.
STARTED = '{"session_id": "sess_123456", "initial_state": "greeting"}'
RESPONSE = '{"format": "audio/x-wav", "encoding": "base64", "data": "base64_audio_data", "final": false}'
TRANSITION = '{"from_state": "greeting", "to_state": "collect_info", "reason": "user_provided_info"}'
ENDED = '{"reason": "completed", "duration_seconds": 145}'
ERROR = """{
  "type": "error",
  "payload": {
    "code": "invalid_audio_format",
    "message": "Unsupported audio format: audio/mp3",
    "details": "Only audio/x-wav is supported"
  },
  "session_id": "sess_123456",
  "timestamp": 1624282543
}"""
ID = "sess_123456"
NOW = 1624282543.25


def text(type_: str, payload: str = "{}", session_id: str | None = ID) -> str:
    """A message as the document shows it."""
    return (
        f'{{"type": "{type_}", "payload": {payload}, "session_id": {json.dumps(session_id)}, "timestamp": 1624282543}}'
    )


def started(payload: str = START, header: str | None = None) -> SocketProtocol:
    protocol = SocketProtocol(header)
    (request,) = protocol.receive(text("start_session", payload, None))
    assert isinstance(request, StartRequested), request
    protocol.started(ID, request)
    return protocol


def refused(events: list[Event]) -> Refused:
    (event,) = events
    assert isinstance(event, Refused), event
    return event


def audio(data: bytes, **more: Any) -> str:
    return text("audio_data", json.dumps({"encoding": "base64", "data": b64encode(data).decode(), **more}))


# -- the document's examples -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("session_id", [None, "unique_session_identifier"])
def test_the_documents_start_asks_for_its_agent_with_its_metadata(session_id: str | None) -> None:
    (request,) = SocketProtocol().receive(text("start_session", START, session_id))
    assert isinstance(request, StartRequested)
    assert request.agent_id == "retail_agent"
    assert request.metadata == {"caller_id": "+1234567890"}
    assert (request.output.name, request.output.rate_hz, request.binary) == ("audio/x-wav", 16000, False)


def test_the_documents_audio_with_real_base64_is_audio() -> None:
    message = text("audio_data", AUDIO.replace("base64_audio_data", b64encode(bytes(640)).decode()))
    assert started().receive(message) == [AudioReceived(bytes(640))]


def test_the_documents_audio_taken_literally_is_no_base64() -> None:
    found = refused(started().receive(text("audio_data", AUDIO)))
    assert found.code == "audio_processing_failed"


def test_the_documents_keys_are_keys() -> None:
    assert started().receive(text("dtmf", DTMF)) == [DtmfReceived(one) for one in "1234"]


def test_the_documents_end_is_an_end_in_its_words() -> None:
    assert started().receive(text("end_session", END)) == [EndRequested("user_hangup")]


@pytest.mark.parametrize(
    ("type_", "example"),
    [
        ("session_started", STARTED),
        ("audio_response", RESPONSE),
        ("state_transition", TRANSITION),
        ("session_ended", ENDED),
    ],
)
def test_the_documents_answers_come_in_the_documents_envelope(type_: str, example: str) -> None:
    sent = json.loads(started().message(type_, json.loads(example), NOW))
    assert sent.pop("timestamp_ms") == 1624282543250
    assert sent == json.loads(text(type_, example))
    assert type(sent["timestamp"]) is int


def test_the_documents_error_is_what_an_mp3_gets_to_the_letter() -> None:
    protocol = started()
    found = refused(protocol.receive(audio(b"ID3", format="audio/mp3", chunk_id=1)))
    sent = json.loads(protocol.error(found, NOW))
    del sent["timestamp_ms"]
    assert sent == json.loads(ERROR)


# -- order (50) --------------------------------------------------------------------------------------------------------

EVERYTHING = [
    ("audio_data", AUDIO.replace("base64_audio_data", "AAAA")),
    ("dtmf", DTMF),
    ("text_input", '{"text": "hello"}'),
    ("interrupt", "{}"),
    ("playback_status", '{"utterance_id": "utt_1", "played_ms": 5}'),
    ("end_session", END),
]


@pytest.mark.parametrize(("type_", "payload"), EVERYTHING)
def test_before_the_start_there_is_no_session_to_speak_to(type_: str, payload: str) -> None:
    protocol = SocketProtocol()
    assert refused(protocol.receive(text(type_, payload, None))).code == "invalid_request"
    assert protocol.phase is Phase.OPENED
    assert isinstance(protocol.receive(text("start_session", START, None))[0], StartRequested)


@pytest.mark.parametrize(("type_", "payload"), [*EVERYTHING, ("start_session", START)])
def test_after_the_end_there_is_no_session_any_more(type_: str, payload: str) -> None:
    protocol = started()
    protocol.ended()
    assert refused(protocol.receive(text(type_, payload))).code == "session_not_found"


def test_a_second_start_is_refused_and_the_session_goes_on() -> None:
    protocol = started()
    assert refused(protocol.receive(text("start_session", START))).code == "invalid_request"
    assert protocol.receive(text("dtmf", '{"digits": "1"}')) == [DtmfReceived("1")]


def test_an_unknown_type_is_named() -> None:
    found = refused(started().receive(text("hello\\u0007" + "o" * 500)))
    assert found.code == "invalid_request"
    assert found.message.startswith("Unknown message type: hello ooo")
    assert len(found.message) < 260


def test_an_envelope_of_another_session_is_refused() -> None:
    assert refused(started().receive(text("dtmf", DTMF, "sess_other"))).code == "session_not_found"


@pytest.mark.parametrize("envelope", ['{"type": "interrupt"}', '{"type": "interrupt", "session_id": null}'])
def test_an_envelope_may_leave_out_everything_but_its_type(envelope: str) -> None:
    assert started().receive(envelope) == [InterruptRequested()]


def test_header_and_payload_that_ask_for_different_sessions_are_refused() -> None:
    protocol = SocketProtocol("mine")
    found = refused(protocol.receive(text("start_session", '{"session_id": "yours"}', None)))
    assert (found.code, found.message) == ("invalid_request", "X-Session-ID and payload.session_id differ")
    (request,) = protocol.receive(text("start_session", '{"session_id": "mine"}', None))
    assert isinstance(request, StartRequested)


# -- what is no message ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "given",
    [
        "",
        "hello",
        "[]",
        "null",
        '"start_session"',
        "{}",
        '{"type": 5}',
        '{"type": null}',
        '{"type": "dtmf", "payload": {"digits": "1"}',
        '{"type": "dtmf", "payload": [1]}',
        '{"type": "dtmf", "payload": "1"}',
        '{"type": "dtmf", "payload": {"digits": NaN}}',
        '{"type": "dtmf", "payload": {"digits": "1"}, "timestamp": NaN}',
        '{"type": "dtmf", "payload": {"digits": "1"}, "timestamp": Infinity}',
        '{"type": "dtmf", "payload": {"digits": "1"}, "timestamp": 1e999}',
        '{"type": "dtmf", "payload": {"digits": "1"}, "timestamp": "now"}',
        '{"type": "dtmf", "payload": {"digits": "1"}, "session_id": 5}',
        '{"type": "dtmf", "payload": {"digits": "\\ud800"}}',
        '{"type": "\\ud800"}',
        '{"type": "dtmf"} {"type": "dtmf"}',
        '{"type": "playback_status", "payload": {"utterance_id": "u", "played_ms": -1}}',
        '{"type": "playback_status", "payload": {"utterance_id": "u", "played_ms": 1e400}}',
        '{"type": "playback_status", "payload": {"utterance_id": "u", "played_ms": ' + "9" * 5000 + "}}",
        '{"type": "audio_data", "payload": {"data": "AAAA", "chunk_id": ' + "9" * 5000 + "}}",
        '{"type": "audio_data", "payload": {"data": "AAAA", "encoding": "hex"}}',
        '{"type": "audio_data", "payload": {"chunk_id": 5}}',
    ],
)
def test_bad_input_is_an_invalid_request_and_the_session_goes_on(given: str) -> None:
    protocol = started()
    found = refused(protocol.receive(given))
    assert found.code == "invalid_request"
    assert len(protocol.error(found, NOW)) < 1000, "no long input is echoed"
    assert protocol.refused == {"invalid_request": 1}
    assert protocol.receive(text("interrupt")) == [InterruptRequested()]


@pytest.mark.parametrize("stamp", ["1624282543", "1624282543.25", "9" * 300, "-1", "null"])
def test_a_timestamp_may_be_any_number(stamp: str) -> None:
    assert started().receive(f'{{"type": "interrupt", "timestamp": {stamp}}}') == [InterruptRequested()]


@pytest.mark.parametrize(("depth", "taken"), [(30, True), (31, False), (5000, False), (400_000, False)])
def test_json_may_be_32_deep(depth: int, taken: bool) -> None:
    nested = '{"metadata": ' + '{"a": ' * depth + "1" + "}" * depth + "}"
    (event,) = SocketProtocol().receive(text("start_session", nested, None))
    assert isinstance(event, StartRequested) is taken, "the envelope and its payload are two"


def test_brackets_in_texts_are_no_depth() -> None:
    words = "[" * 100 + '\\"' + "{" * 100
    assert started().receive(text("text_input", f'{{"text": "{words}"}}')) == [
        TextReceived("[" * 100 + '"' + "{" * 100)
    ]


def test_a_text_without_end_is_read_once() -> None:
    """Half a million escaped quotes: a search that goes back for each would take hours."""
    given = '{"type": "' + '\\"' * 500_000 + "[" * 40
    assert refused(SocketProtocol().receive(given)).code == "invalid_request"


# -- payloads ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("digits", ["", "12 3", "E", "1" * 65, "12\\n", "１", "+1"])
def test_keys_that_no_phone_has_are_refused(digits: str) -> None:
    assert refused(started().receive(text("dtmf", f'{{"digits": "{digits}"}}'))).code == "invalid_request"


def test_the_letters_of_keys_are_upper_case() -> None:
    assert started().receive(text("dtmf", '{"digits": "aD*#"}')) == [DtmfReceived(one) for one in "AD*#"]
    assert len(started().receive(text("dtmf", f'{{"digits": "{"1" * 64}"}}'))) == 64


@pytest.mark.parametrize("session_id", ["", "a b", "../etc", "a" * 65, "_a", "é", "abc\\n", "a/b"])
def test_a_session_id_has_letters_digits_and_three_signs(session_id: str) -> None:
    payload = f'{{"session_id": "{session_id}"}}'
    assert refused(SocketProtocol().receive(text("start_session", payload, None))).code == "invalid_request"
    payload = f'{{"agent_id": "{session_id}"}}'
    assert refused(SocketProtocol().receive(text("start_session", payload, None))).code == "invalid_request"


def test_metadata_become_texts_without_control_characters() -> None:
    given = '{"metadata": {"a\\u0000b": "x\\r\\ny\\u0085", "n": 5, "deep": {"k": [1, true, "\\u007f"]}, "big": 1e30}}'
    (request,) = SocketProtocol().receive(text("start_session", given, None))
    assert isinstance(request, StartRequested)
    assert request.metadata == {"a b": "x  y ", "n": "5", "deep": '{"k":[1,true," "]}', "big": "1e30"}


@pytest.mark.parametrize(("size", "taken"), [(16 * 1024 - 8, True), (16 * 1024 - 7, False), (900_000, False)])
def test_metadata_have_16_kib(size: int, taken: bool) -> None:
    given = '{"metadata": {"a": "' + "x" * size + '"}}'
    (event,) = SocketProtocol().receive(text("start_session", given, None))
    assert isinstance(event, StartRequested) is taken


@pytest.mark.parametrize("metadata", ["[]", '"x"', "5"])
def test_metadata_are_an_object(metadata: str) -> None:
    given = f'{{"metadata": {metadata}}}'
    assert refused(SocketProtocol().receive(text("start_session", given, None))).code == "invalid_request"


@pytest.mark.parametrize("words", ["", "   ", "\\u0000", "\\n\\t\\u0085"])
def test_typed_nothing_is_no_input(words: str) -> None:
    assert refused(started().receive(text("text_input", f'{{"text": "{words}"}}'))).code == "invalid_request"


def test_typed_words_come_without_control_characters() -> None:
    assert started().receive(text("text_input", '{"text": " my\\nbalance "}')) == [TextReceived("my balance")]
    assert refused(started().receive(text("text_input", json.dumps({"text": "x" * 4001})))).code == "invalid_request"


@pytest.mark.parametrize("type_", ["playback_status", "playback_mark"])
def test_playback_is_reported_under_either_name(type_: str) -> None:
    assert started().receive(text(type_, '{"utterance_id": "utt_1", "played_ms": 120.5}')) == [Played("utt_1", 120.5)]
