"""The core of a stream: literal messages in, literal events and messages out."""

import base64
import json
import re
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from fastagent.connectors.errors import PeerError
from fastagent.connectors.leg import DtmfReceived, HangupReason, LegEnded, MarkReached
from fastagent.connectors.twilio.protocol import AudioReceived, Phase, StreamStarted, TwilioProtocol

SID = "MZ0123456789abcdef0123456789abcdef"
CALL = "CA0123456789abcdef0123456789abcdef"
ACCOUNT = "AC0123456789abcdef0123456789abcdef"

# Section 3.2 of the wire sheet, to the letter.
CONNECTED = '{"event":"connected","protocol":"Call","version":"1.0.0"}'
START = (
    '{"event":"start","sequenceNumber":"1","streamSid":"MZ0123456789abcdef0123456789abcdef","start":{"streamSid":'
    '"MZ0123456789abcdef0123456789abcdef","accountSid":"AC0123456789abcdef0123456789abcdef","callSid":'
    '"CA0123456789abcdef0123456789abcdef","tracks":["inbound"],"mediaFormat":{"encoding":"audio/x-mulaw","sampleRate":'
    '8000,"channels":1},"customParameters":{"token":"f3c1","agent_id":"support"}}}'
)
MEDIA = (
    '{"event":"media","sequenceNumber":"2","streamSid":"MZ0123456789abcdef0123456789abcdef","media":{"track":"inbound",'
    '"chunk":"1","timestamp":"20","payload":"//////////8="}}'
)
DTMF = (
    '{"event":"dtmf","sequenceNumber":"57","streamSid":"MZ0123456789abcdef0123456789abcdef",'
    '"dtmf":{"track":"inbound_track","digit":"5"}}'
)
MARK = (
    '{"event":"mark","sequenceNumber":"91","streamSid":"MZ0123456789abcdef0123456789abcdef","mark":{"name":"u3:1600"}}'
)
STOP = (
    '{"event":"stop","sequenceNumber":"400","streamSid":"MZ0123456789abcdef0123456789abcdef","stop":{"accountSid":'
    '"AC0123456789abcdef0123456789abcdef","callSid":"CA0123456789abcdef0123456789abcdef"}}'
)


def streaming() -> TwilioProtocol:
    protocol = TwilioProtocol()
    protocol.receive(CONNECTED)
    protocol.receive(START)
    assert protocol.phase is Phase.STREAMING
    return protocol


def start(**changes: Any) -> str:
    """`start` with fields of its body changed; None removes one."""
    body = json.loads(START)
    for name, value in changes.items():
        if value is None:
            del body["start"][name]
        else:
            body["start"][name] = value
    return json.dumps(body)


def media(**fields: Any) -> str:
    return json.dumps({"event": "media", "streamSid": SID, "media": {"track": "inbound", "payload": "//8=", **fields}})


# -- the documented messages -------------------------------------------------------------------------------------------


def test_the_documented_messages_become_events_in_order() -> None:
    protocol = TwilioProtocol()
    assert protocol.receive(CONNECTED) is None
    assert protocol.phase is Phase.CONNECTED
    started = StreamStarted(CALL, SID, ACCOUNT, {"token": "f3c1", "agent_id": "support"})
    assert protocol.receive(START) == started
    assert protocol.receive(MEDIA) == AudioReceived(b"\xff" * 8, 20)
    assert protocol.receive(DTMF) == DtmfReceived("5")
    assert protocol.receive(MARK) == MarkReached("u3:1600")
    assert protocol.receive(STOP) == LegEnded(HangupReason.CALLER_HUNG_UP)
    assert protocol.phase.value == "ended"
    assert not protocol.dropped


def test_the_same_messages_are_read_from_bytes() -> None:
    protocol = streaming()
    assert protocol.receive(MEDIA.encode()) == AudioReceived(b"\xff" * 8, 20)


def test_the_order_of_fields_does_not_matter() -> None:
    protocol = streaming()
    for text, event in ((MEDIA, AudioReceived(b"\xff" * 8, 20)), (MARK, MarkReached("u3:1600"))):
        turned = json.dumps(dict(reversed(json.loads(text).items())))
        assert protocol.receive(turned) == event


def test_fields_that_are_not_known_are_ignored() -> None:
    protocol = streaming()
    body = json.loads(MEDIA)
    body["media"]["flavour"] = {"new": [1, 2]}
    body["extra"] = None
    assert protocol.receive(json.dumps(body)) == AudioReceived(b"\xff" * 8, 20)


def test_start_may_come_without_connected() -> None:
    assert isinstance(TwilioProtocol().receive(START), StreamStarted)


def test_parameters_may_be_none_at_all() -> None:
    event = TwilioProtocol().receive(start(customParameters={}))
    assert isinstance(event, StreamStarted)
    assert event.parameters == {}


def test_the_stream_may_be_named_outside_the_body_only() -> None:
    protocol = TwilioProtocol()
    event = protocol.receive(start(streamSid=None))
    assert isinstance(event, StreamStarted)
    assert event.stream_sid == protocol.stream_sid == SID


@pytest.mark.parametrize("number", [1234, "1234"])
def test_numbers_may_come_as_strings_or_as_numbers(number: int | str) -> None:
    protocol = streaming()
    body = json.loads(MEDIA)
    body["sequenceNumber"] = body["media"]["chunk"] = body["media"]["timestamp"] = number
    assert protocol.receive(json.dumps(body)) == AudioReceived(b"\xff" * 8, 1234)


@pytest.mark.parametrize("form", [{"sampleRate": "8000"}, {"channels": "1"}])
def test_the_format_s_numbers_may_come_as_strings(form: dict[str, str]) -> None:
    described = {"encoding": "audio/x-mulaw", "sampleRate": 8000, "channels": 1, **form}
    assert isinstance(TwilioProtocol().receive(start(mediaFormat=described)), StreamStarted)


@pytest.mark.parametrize("timestamp", ["", "-20", "٢٠", "1e3", "2.5", "9" * 13, 86_400_001, -1, "0x14", " 20"])
def test_a_timestamp_that_is_none_is_not_told(timestamp: str | int) -> None:
    protocol = streaming()
    assert protocol.receive(media(timestamp=timestamp)) == AudioReceived(b"\xff\xff", None)


def test_a_timestamp_may_be_missing() -> None:
    assert streaming().receive(media()) == AudioReceived(b"\xff\xff", None)


@pytest.mark.parametrize("digit", "0123456789*#ABCD")
def test_every_key_of_a_keypad_is_a_digit(digit: str) -> None:
    event = streaming().receive(DTMF.replace('"5"', f'"{digit}"'))
    assert event == DtmfReceived(digit)


# -- bad input in a stream that runs is dropped under its name ---------------------------------------------------------

_TOO_LONG = base64.b64encode(bytes(80_001)).decode()


@pytest.mark.parametrize(
    ("text", "kind"),
    [
        ("", "malformed"),
        ("not json", "malformed"),
        ("{", "malformed"),
        ("[" * 100_000, None),
        ('{"event":"mark","mark":{"name":"\\ud800"}}', "malformed"),
        ("null", "unknown_event"),
        ("[]", "unknown_event"),
        ("5", "unknown_event"),
        ("{}", "unknown_event"),
        ('{"event":"dance"}', "unknown_event"),
        ('{"event":5}', "unknown_event"),
        ('{"event":null}', "unknown_event"),
        ('{"event":"media"}', "malformed"),
        ('{"event":"media","media":{}}', "malformed"),
        ('{"event":"media","media":null}', "malformed"),
        ('{"event":"media","media":"//8="}', "malformed"),
        (media(payload="not base64!"), "malformed"),
        (media(payload="//8"), "malformed"),
        (media(payload="//8=\n"), "malformed"),
        (media(payload="_-8="), "malformed"),
        (media(payload=5), "malformed"),
        (media(payload=None), "malformed"),
        (media(payload=""), "payload_size"),
        (media(payload=_TOO_LONG), "payload_size"),
        (media(track="outbound"), "foreign_track"),
        (media(track=""), "foreign_track"),
        (media(track=None), "malformed"),
        (media(timestamp=[20]), "malformed"),
        ('{"event":"mark"}', "malformed"),
        ('{"event":"mark","mark":{}}', "malformed"),
        ('{"event":"mark","mark":{"name":5}}', "malformed"),
        ('{"event":"dtmf","dtmf":{"digit":""}}', "digit"),
        ('{"event":"dtmf","dtmf":{"digit":"12"}}', "digit"),
        ('{"event":"dtmf","dtmf":{"digit":"x"}}', "digit"),
        ('{"event":"dtmf","dtmf":{"digit":"٣"}}', "digit"),
        ('{"event":"dtmf"}', "malformed"),
        (START, "second_start"),
        (CONNECTED, "out_of_place"),
        ('{"event":"stop","stop":NaN}', "malformed"),
        ('{"event":"stop","stop":{"a":1e999}}', "malformed"),
    ],
)
def test_bad_input_is_counted_and_ends_nothing(text: str, kind: str | None) -> None:
    protocol = streaming()
    assert protocol.receive(text) is None
    assert protocol.phase is Phase.STREAMING
    assert protocol.dropped.total() == 1
    assert kind is None or protocol.dropped == {kind: 1}
    assert protocol.receive(MEDIA) == AudioReceived(b"\xff" * 8, 20)


def test_a_payload_of_ten_seconds_is_still_taken() -> None:
    event = streaming().receive(media(payload=base64.b64encode(bytes(80_000)).decode()))
    assert isinstance(event, AudioReceived)
    assert len(event.payload) == 80_000


def test_a_second_start_changes_nothing() -> None:
    protocol = streaming()
    assert protocol.receive(START.replace(SID, "MZ" + "f" * 32)) is None
    assert protocol.stream_sid == SID
    assert SID in protocol.clear()


@pytest.mark.parametrize("text", [MEDIA, DTMF, MARK, STOP])
def test_what_comes_after_stop_is_counted_and_dropped(text: str) -> None:
    protocol = streaming()
    protocol.receive(STOP)
    assert protocol.receive(text) is None
    assert protocol.dropped == {"after_stop": 1}
    assert protocol.phase is Phase.ENDED


# -- before start the peer is a stranger -------------------------------------------------------------------------------


@pytest.mark.parametrize("opened", [False, True])
@pytest.mark.parametrize("text", [MEDIA, DTMF, MARK, STOP])
def test_what_comes_before_start_ends_the_socket(text: str, opened: bool) -> None:
    protocol = TwilioProtocol()
    if opened:
        protocol.receive(CONNECTED)
    with pytest.raises(PeerError) as caught:
        protocol.receive(text)
    assert caught.value.kind == "early_message"


@pytest.mark.parametrize("text", ["not json", "", '{"event":"start"}', '{"event":"start","start":{}}', START[:-1]])
def test_an_opening_that_cannot_be_read_ends_the_socket(text: str) -> None:
    with pytest.raises(PeerError) as caught:
        TwilioProtocol().receive(text)
    assert caught.value.kind == "opening"


def test_an_unknown_event_before_start_is_only_counted() -> None:
    protocol = TwilioProtocol()
    assert protocol.receive('{"event":"greetings"}') is None
    assert protocol.dropped == {"unknown_event": 1}
    assert isinstance(protocol.receive(START), StreamStarted)


@pytest.mark.parametrize(
    "form",
    [
        None,
        {},
        {"encoding": "audio/L16", "sampleRate": 8000, "channels": 1},
        {"encoding": "audio/x-alaw", "sampleRate": 8000, "channels": 1},
        {"encoding": "audio/x-mulaw", "sampleRate": 16000, "channels": 1},
        {"encoding": "audio/x-mulaw", "sampleRate": 8000, "channels": 2},
        {"encoding": "audio/x-mulaw", "sampleRate": "08000", "channels": 1},
        {"encoding": "audio/x-mulaw", "sampleRate": int("9" * 4000), "channels": 1},
        {"sampleRate": 8000, "channels": 1},
    ],
)
def test_audio_in_another_form_is_refused_and_never_taken_for_mu_law(form: dict[str, Any] | None) -> None:
    protocol = TwilioProtocol()
    with pytest.raises(PeerError) as caught:
        protocol.receive(start(mediaFormat=form))
    assert caught.value.kind == "media_format"
    assert protocol.phase is not Phase.STREAMING


@pytest.mark.parametrize(
    "names",
    [
        {"callSid": ""},
        {"callSid": "CA1\n"},
        {"callSid": 'CA"1'},
        {"callSid": "C" * 65},
        {"streamSid": 'MZ","x":"'},
        {"streamSid": "M" * 65},
    ],
)
def test_a_start_whose_names_are_out_of_form_ends_the_socket(names: dict[str, str]) -> None:
    with pytest.raises(PeerError) as caught:
        TwilioProtocol().receive(start(**names))
    assert caught.value.kind == "start"


# -- the end -----------------------------------------------------------------------------------------------------------


def test_a_close_without_stop_is_a_lost_connection() -> None:
    protocol = streaming()
    assert protocol.closed() == LegEnded(HangupReason.CONNECTION_LOST)
    assert protocol.closed() is None


def test_a_close_after_stop_is_no_second_end() -> None:
    protocol = streaming()
    protocol.receive(STOP)
    assert protocol.closed() is None


def test_a_close_before_start_ends_no_leg() -> None:
    assert TwilioProtocol().closed() is None


# -- out ---------------------------------------------------------------------------------------------------------------


def test_the_three_messages_we_send_are_the_documented_ones() -> None:
    protocol = streaming()
    assert protocol.audio(b"\xff" * 3) == f'{{"event":"media","streamSid":"{SID}","media":{{"payload":"////"}}}}'
    assert protocol.mark("3:1600") == f'{{"event":"mark","streamSid":"{SID}","mark":{{"name":"3:1600"}}}}'
    assert protocol.clear() == f'{{"event":"clear","streamSid":"{SID}"}}'


@given(st.binary(max_size=2000))
def test_any_audio_comes_back_from_the_message_that_carries_it(payload: bytes) -> None:
    message = json.loads(streaming().audio(payload))
    assert base64.b64decode(message["media"]["payload"], validate=True) == payload
    assert set(message) == {"event", "streamSid", "media"}
    assert set(message["media"]) == {"payload"}


# -- properties --------------------------------------------------------------------------------------------------------

_JSON: st.SearchStrategy[Any] = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=10), inner, max_size=3),
    max_leaves=8,
)
_NEAR = st.fixed_dictionaries(
    {"event": st.sampled_from(["connected", "start", "media", "dtmf", "mark", "stop"]) | _JSON},
    optional={
        "streamSid": _JSON,
        "start": _JSON
        | st.fixed_dictionaries(
            {"callSid": st.just(CALL) | _JSON},
            optional={"streamSid": _JSON, "customParameters": _JSON, "mediaFormat": _JSON, "tracks": _JSON},
        ),
        "media": _JSON
        | st.fixed_dictionaries({"payload": _JSON}, optional={"track": _JSON, "timestamp": _JSON, "chunk": _JSON}),
        "dtmf": _JSON | st.fixed_dictionaries({"digit": _JSON}),
        "mark": _JSON | st.fixed_dictionaries({"name": _JSON}),
        "stop": _JSON,
    },
)


def _survives(protocol: TwilioProtocol, text: str | bytes) -> None:
    was = protocol.phase
    try:
        protocol.receive(text)
    except PeerError:
        assert was in (Phase.OPENED, Phase.CONNECTED), "a stream that runs is never ended by bad input"


@given(st.text())
@example("\ud800")
@example('{"event":"mark","mark":{"name":"\ud800"}}')
def test_arbitrary_text_raises_only_peer_errors(text: str) -> None:
    _survives(TwilioProtocol(), text)
    _survives(streaming(), text)


@given(st.binary())
@example(b'{"event":"mark","mark":{"name":"\xff"}}')
@example(b'{"event":"\xff"}')
@example(b'{"\xff":1}')
@example(b"\xef\xbb\xbf{}")
def test_arbitrary_bytes_raise_only_peer_errors(data: bytes) -> None:
    _survives(TwilioProtocol(), data)
    _survives(streaming(), data)


@given(st.lists(_NEAR, max_size=5))
def test_messages_that_are_nearly_right_raise_only_peer_errors(messages: list[Any]) -> None:
    fresh, running = TwilioProtocol(), streaming()
    for message in messages:
        _survives(fresh, json.dumps(message))
        _survives(running, json.dumps(message))


_BASE64 = re.compile(r"(?:[A-Za-z0-9+/]{4})*(?:[A-Za-z0-9+/]{2}==|[A-Za-z0-9+/]{3}=)?")


@given(st.text("ABCabc0189+/=_- \n", max_size=24) | st.from_regex(_BASE64, fullmatch=True))
@example("AB==")
@example("//8=")
@example("AAAA=")  # which Python's own strict decoder takes
@example("AAAA====")
def test_base64_is_taken_strictly(text: str) -> None:
    protocol = streaming()
    event = protocol.receive(media(payload=text))
    if text and _BASE64.fullmatch(text):
        assert event == AudioReceived(base64.b64decode(text), None)
    else:
        assert event is None
        assert protocol.dropped.total() == 1


@given(st.lists(st.sampled_from([CONNECTED, START, MEDIA, DTMF, MARK, STOP, "{}", "junk"]), max_size=12))
def test_in_any_order_a_stream_starts_at_most_once_and_ends_at_most_once(messages: list[str]) -> None:
    protocol, events = TwilioProtocol(), []
    for message in messages:
        try:
            events.append(protocol.receive(message))
        except PeerError:
            break
    events.append(protocol.closed())
    starts = [at for at, event in enumerate(events) if isinstance(event, StreamStarted)]
    ends = [at for at, event in enumerate(events) if isinstance(event, LegEnded)]
    assert len(starts) == len(ends) <= 1
    assert all(event is None for event in events[: starts[0] if starts else None])
    assert not ends or all(event is None for event in events[ends[0] + 1 :])
