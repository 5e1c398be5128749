"""The core of the streaming mode: literal messages in, literal messages out. Numbers are of the acceptance list."""

import json
from base64 import b64encode
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fastagent.connectors.audiocodes.activities import ActivityWriter, CallStarted, PlayFinished, TransferStatus
from fastagent.connectors.audiocodes.formats import PREFERENCE, CallerAudio, MediaFormat, choose
from fastagent.connectors.audiocodes.protocol import (
    AudioReceived,
    AudioStopped,
    Ended,
    Initiated,
    Phase,
    Resumed,
    StreamProtocol,
    Validated,
)
from fastagent.connectors.leg import DtmfReceived, SilenceReported, TextReceived
from fastagent.media.errors import AudioFormatError
from fastagent.media.frame import AudioFormat
from fastagent.media.wav import read_head

ID = "4a5b4b9d-dab7-42d0-a977-6740c9349588"


def message(type_: str, **fields: Any) -> str:
    return json.dumps({"type": type_, "conversationId": ID, **fields})


def chunk(data: bytes, **fields: Any) -> str:
    return message("userStream.chunk", audioChunk=b64encode(data).decode(), **fields)


def event(name: str, **fields: Any) -> str:
    return message("activities", activities=[{"type": "event", "name": name, **fields}])


def active(form: str = "raw/lpcm16_8", **initiate: Any) -> StreamProtocol:
    """A core whose conversation was accepted."""
    core = StreamProtocol(ActivityWriter(lambda: "id", lambda: 0.0))
    core.receive(message("session.initiate", supportedMediaFormats=[form], **initiate))
    core.accept(MediaFormat(form))
    return core


def streaming(form: str = "raw/lpcm16_8") -> StreamProtocol:
    """And whose caller streams."""
    core = active(form)
    core.receive(message("userStream.start"))
    core.replies.clear()
    return core


def heard(core: StreamProtocol, *texts: str) -> bytes:
    return b"".join(one.payload for text in texts for one in core.receive(text) if isinstance(one, AudioReceived))


# -- connect -----------------------------------------------------------------------------------------------------------


def test_17_a_check_is_answered_and_begins_nothing() -> None:
    core = StreamProtocol()
    assert core.receive('{"type":"connection.validate"}') == [Validated()]
    assert core.replies == ['{"type":"connection.validated","success":true}']
    assert core.receive(message("session.initiate")) == []
    assert core.phase is Phase.ENDED


def test_a_conversation_is_offered_with_its_particulars() -> None:
    core = StreamProtocol()
    offer = message("session.initiate", botName="b", caller="+1", supportedMediaFormats=["raw/mulaw"])
    assert core.receive(offer) == [Initiated(ID, "b", "+1", True, ("raw/mulaw",))]
    assert core.accept(MediaFormat("raw/mulaw")) == '{"type":"session.accepted","mediaFormat":"raw/mulaw"}'
    assert StreamProtocol().receive(message("session.resume")) == [Resumed(ID, ())]


def test_19_the_first_of_our_formats_that_is_offered_is_taken() -> None:
    live = [f"{kind}/{name}" for name in ("lpcm16_8", "mulaw", "lpcm16", "lpcm16_24") for kind in ("raw", "wav")]
    assert choose(live) == MediaFormat("raw/lpcm16_8")
    assert choose(["raw/lpcm16_24", "raw/lpcm16", "raw/mulaw"]) == MediaFormat("raw/mulaw")
    assert choose(["raw/lpcm16_24", "raw/lpcm16"]) == MediaFormat("raw/lpcm16")
    assert choose(["wav/lpcm16", "raw/lpcm16_24"]) == MediaFormat("raw/lpcm16_24")
    assert choose(["wav/mulaw", "wav/lpcm16"]) == MediaFormat("wav/mulaw")


def test_20_nothing_in_common_is_nothing() -> None:
    assert choose([]) is None
    assert choose(["raw/opus", "lpcm16"]) is None


def test_16_khz_is_the_plain_one() -> None:
    assert {name: MediaFormat(name).audio for name in PREFERENCE[:4]} == {
        "raw/lpcm16_8": AudioFormat("L16", 8000),
        "raw/mulaw": AudioFormat("PCMU", 8000),
        "raw/lpcm16": AudioFormat("L16", 16000),
        "raw/lpcm16_24": AudioFormat("L16", 24000),
    }


@pytest.mark.parametrize(
    "first",
    [message("userStream.start"), chunk(b"1234"), event("start"), message("session.end"), message("userStream.stop")],
)
def test_22_what_comes_before_a_conversation_is_ignored(first: str) -> None:
    core = StreamProtocol()
    assert core.receive(first) == []
    assert core.replies == []
    assert core.dropped == {"early_message": 1}
    assert core.phase is Phase.OPENED


@pytest.mark.parametrize("again", ["session.initiate", "session.resume"])
def test_23_a_second_session_on_a_socket_is_none(again: str) -> None:
    core = active()
    assert core.receive(json.dumps({"type": again, "conversationId": "other"})) == []
    assert core.dropped == {"second_session": 1}
    assert core.conversation_id == ID


@pytest.mark.parametrize("id_", ["", "a b", "x" * 129, "../x", "a\n"])
def test_a_conversation_without_a_proper_id_is_none(id_: str) -> None:
    core = StreamProtocol()
    assert core.receive(json.dumps({"type": "session.initiate", "conversationId": id_})) == []
    assert core.dropped == {"malformed": 1}


def test_a_refusal_has_a_reason_and_ends_the_socket() -> None:
    core = StreamProtocol()
    core.receive(message("session.initiate"))
    assert core.refuse("no capacity") == '{"type":"session.error","reason":"no capacity"}'
    assert core.phase is Phase.ENDED


# -- the caller's audio ------------------------------------------------------------------------------------------------


def test_25_each_start_has_one_started_with_its_participant() -> None:
    core = active()
    core.receive(message("userStream.start", participant="caller-1"))
    core.receive(message("userStream.start"))
    assert core.replies == ['{"type":"userStream.started","participant":"caller-1"}', '{"type":"userStream.started"}']


@pytest.mark.parametrize("size", [1, 7, 320, 1600, 33])
@pytest.mark.parametrize("form", PREFERENCE[:4])
def test_26_no_sample_slips_whatever_the_size_of_the_chunks(form: str, size: int) -> None:
    audio = bytes(range(256)) * 10
    core = streaming(form)
    parts = [chunk(audio[at : at + size]) for at in range(0, len(audio), size)]
    assert heard(core, *parts) == audio
    assert not core.dropped


@given(st.binary(max_size=400), st.lists(st.integers(0, 50), max_size=30))
def test_26_cut_anywhere_the_samples_are_the_same(audio: bytes, cuts: list[int]) -> None:
    stream, out, at = CallerAudio(MediaFormat("raw/lpcm16")), b"", 0
    for cut in cuts:
        out += stream.push(audio[at : at + cut])
        assert len(out) % 2 == 0
        at += cut
    out += stream.push(audio[at:])
    assert out == audio[: len(audio) & ~1]


def test_28_a_stop_is_confirmed_and_another_cycle_works() -> None:
    core = streaming()
    assert core.receive(message("userStream.stop")) == [AudioStopped()]
    assert heard(core, chunk(b"1234")) == b""
    core.receive(message("userStream.start"))
    assert core.replies == ['{"type":"userStream.stopped"}', '{"type":"userStream.started"}']
    assert heard(core, chunk(b"1234")) == b"1234"
    assert core.dropped == {"chunk_without_stream": 1}


def test_28_half_a_sample_does_not_reach_into_the_next_cycle() -> None:
    core = streaming()
    assert heard(core, chunk(b"123")) == b"12"
    core.receive(message("userStream.stop"))
    core.receive(message("userStream.start"))
    assert heard(core, chunk(b"4567")) == b"4567"


@pytest.mark.parametrize(
    ("text", "kind"),
    [
        (message("userStream.chunk", audioChunk="%%%%"), "malformed"),
        (message("userStream.chunk", audioChunk="AAA"), "malformed"),
        (message("userStream.chunk", audioChunk=5), "malformed"),
        (message("userStream.chunk"), "malformed"),
        (message("weather"), "unknown_type"),
        (message("session.resumed"), "unknown_type"),
        ("hello", "malformed"),
        ("", "malformed"),
        ("[]", "unknown_type"),
        ('{"type":"userStream.start","participant":NaN}', "malformed"),
        ('{"a":' * 40 + "1" + "}" * 40, "malformed"),
        (chunk(bytes(160001)), "audio"),
        (message("userStream.start", participant="x" * 65), "malformed"),
    ],
)
def test_29_bad_input_is_dropped_and_counted_and_the_conversation_lives(text: str, kind: str) -> None:
    core = streaming()
    assert core.receive(text) == []
    assert core.dropped == {kind: 1}
    assert heard(core, chunk(b"1234")) == b"1234"


def test_of_several_participants_the_first_is_heard() -> None:
    core = active()
    for name in ("caller", "agent"):
        core.receive(message("userStream.start", participant=name))
    assert heard(core, chunk(b"11", participant="caller"), chunk(b"22", participant="agent")) == b"11"
    assert core.dropped == {"second_participant": 1}
    assert json.loads(core.speech("started")) == {"type": "userStream.speech.started", "participant": "caller"}
    assert core.receive(message("userStream.stop", participant="agent")) == []


def test_a_message_of_another_conversation_is_not_taken() -> None:
    core = streaming()
    other = json.dumps({"type": "userStream.chunk", "conversationId": "other", "audioChunk": "AAAA"})
    assert core.receive(other) == []
    assert core.dropped == {"other_conversation": 1}


def test_wav_headers_may_begin_any_chunk_in() -> None:
    form = MediaFormat("wav/lpcm16")
    core = streaming(form.name)
    assert heard(core, chunk(form.header + b"1234"), chunk(b"56"), chunk(form.header + b"78")) == b"12345678"
    assert core.receive(chunk(MediaFormat("wav/mulaw").header + b"1")) == []
    assert core.receive(chunk(b"RIFF")) == []
    assert core.dropped == {"audio": 2}


@pytest.mark.parametrize("form", PREFERENCE[4:])
def test_our_wav_headers_are_wav_headers(form: str) -> None:
    made = MediaFormat(form)
    head = read_head(made.header + b"1234")
    assert head is not None
    assert (head.offset, head.size, head.form.rate_hz) == (44, None, made.audio.rate_hz)
    with pytest.raises(AudioFormatError):
        CallerAudio(made).push(MediaFormat("wav/lpcm16_8" if form != "wav/lpcm16_8" else "wav/mulaw").header)


# -- activities --------------------------------------------------------------------------------------------------------


def test_what_activities_tell() -> None:
    core = active()
    start = event(
        "start", parameters={"caller": "+1", "participants": [{"participant": "a"}], "x": None, "c\n": "d\x00"}
    )
    assert core.receive(start) == [
        CallStarted({"caller": "+1", "participants": '[{"participant":"a"}]', "x": "", "c ": "d "})
    ]
    assert core.receive(event("DTMF", value="1#a")) == [DtmfReceived("1"), DtmfReceived("#"), DtmfReceived("A")]
    assert core.receive(event("dtmf", value=12)) == [DtmfReceived("1"), DtmfReceived("2")]
    assert core.receive(event("noUserInput", value=1)) == [SilenceReported()]
    assert core.receive(event("playFinished", streamId="3")) == [PlayFinished("3")]
    assert core.receive(event("playFinished", parameters={"streamId": "4"})) == [PlayFinished("4")]
    assert core.receive(event("playFinished", value={"streamId": "5"})) == [PlayFinished("5")]
    assert core.receive(event("playFinished")) == [PlayFinished(None)]
    failed = event("transferStatus", value={"status": "failed", "reasonCode": "busy", "reason": "486\n"})
    assert core.receive(failed) == [TransferStatus("failed", "busy 486 ")]
    said = message(
        "activities", activities=[{"type": "Message", "text": " hi\tthere "}, {"type": "message", "text": " "}]
    )
    assert core.receive(said) == [TextReceived("hi there")]
    assert not core.dropped


def test_many_activities_and_much_metadata_are_bounded() -> None:
    core = active()
    many = message("activities", activities=[{"type": "event", "name": "dtmf", "value": "1"}] * 70)
    assert len(core.receive(many)) == 64
    (started,) = core.receive(event("start", parameters={str(at): "x" * 1000 for at in range(100)}))
    assert isinstance(started, CallStarted)
    assert sum(map(len, started.parameters.values())) <= 16 * 1024
    keys = core.receive(event("dtmf", value="1" * 100))
    assert len(keys) == 64
    assert core.dropped == {"activity": 6, "digit": 36}


def test_ids_that_were_seen_are_forgotten_at_last() -> None:
    core = active()
    for at in range(600):
        core.receive(event("dtmf", value="1", id=str(at)))
    assert core.receive(event("dtmf", value="1", id="599")) == []
    assert core.receive(event("dtmf", value="1", id="0")) == [DtmfReceived("1")]


def test_40_the_end_is_told_once_with_its_reason() -> None:
    core = active()
    end = message("session.end", reasonCode="client-disconnected", reason="Client Side")
    assert core.receive(end) == [Ended("client-disconnected", "Client Side")]
    assert core.receive(end) == []
    assert core.receive(message("userStream.start")) == []
    assert core.replies == []
    assert core.dropped == {"after_end": 2}


# -- out ---------------------------------------------------------------------------------------------------------------


def test_32_play_streams_have_rising_ids_and_never_overlap() -> None:
    core = active()
    assert core.start_playing() == '{"type":"playStream.start","streamId":"1","mediaFormat":"raw/lpcm16_8"}'
    with pytest.raises(RuntimeError):
        core.start_playing()
    assert core.audio(b"\0\0\0\0") == '{"type":"playStream.chunk","streamId":"1","audioChunk":"AAAAAA=="}'
    assert core.stop_playing() == '{"type":"playStream.stop","streamId":"1"}'
    assert core.stop_playing() is None
    with pytest.raises(RuntimeError):
        core.audio(b"\0\0")
    core.start_playing()
    assert core.playing == "2"


def test_42_another_socket_goes_on_with_the_numbers_and_hears_at_once() -> None:
    core, again = streaming(), StreamProtocol()
    core.start_playing()
    core.receive(event("dtmf", value="1", id="a"))
    again.receive(message("session.resume"))
    again.take_over(core)
    assert again.accept(core.form) == '{"type":"session.accepted","mediaFormat":"raw/lpcm16_8"}'
    assert again.receive(event("dtmf", value="1", id="a")) == []
    assert again.dropped == {"repeated_activity": 1}
    assert heard(again, chunk(b"1234")) == b"1234", "without another userStream.start"
    again.start_playing()
    assert again.playing == "2"


def test_37_words_have_alternatives_and_a_confidence() -> None:
    core = active()
    assert json.loads(core.speech("hypothesis", "hel")) == {
        "type": "userStream.speech.hypothesis", "alternatives": [{"text": "hel"}]
    }  # fmt: skip
    for given_, told in ((0.83, 0.83), (None, 1.0), (7, 1.0), (-1, 0.0)):
        one = json.loads(core.speech("recognition", "hello", given_))
        assert one["alternatives"] == [{"text": "hello", "confidence": told}]
    assert json.loads(core.speech("recognition", "\ud83d"))["alternatives"][0]["text"] == "\ud83d"


def test_what_we_ask_for_has_the_documented_names() -> None:
    write = ActivityWriter(lambda: "id", lambda: 1.5)
    stamp = {"type": "event", "id": "id", "timestamp": "1970-01-01T00:00:01.500Z"}
    assert write.hangup("done") == {**stamp, "name": "hangup", "activityParams": {"hangupReason": "done"}}
    assert write.config({"bargeIn": True}) == {**stamp, "name": "config", "sessionParams": {"bargeIn": True}}
    transfer = write.transfer("+15550100", notifications=True)
    assert transfer["activityParams"] == {"transferTarget": "tel:+15550100", "transferNotifications": True}
    assert write.transfer("sip:a@b", notifications=False)["activityParams"] == {"transferTarget": "sip:a@b"}
    assert [one["activityParams"]["dtmfDigits"] for one in write.send_dtmf("1" * 25)] == ["1" * 20, "1" * 5]
    for bad in ("", "1A", "1,2"):
        with pytest.raises(ValueError, match="can be sent"):
            write.send_dtmf(bad)
    url = write.play_url("https://x/y.wav", "wav/lpcm16")
    assert url["activityParams"] == {"playUrlUrl": "https://x/y.wav", "playUrlMediaFormat": "wav/lpcm16"}
    assert write.recording("pause")["name"] == "pauseCallRecording"
    assert write.metadata({"a": 1}) == {**stamp, "name": "sendMetaData", "value": {"a": 1}}
    assert write.abort_prompts()["name"] == "abortPrompts"
    assert write.message("hi") == {**stamp, "type": "message", "text": "hi"}


# -- whatever comes ----------------------------------------------------------------------------------------------------

_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=12,
)
_TYPES = st.sampled_from(
    "connection.validate session.initiate session.resume session.end userStream.start userStream.chunk userStream.stop "
    "activities weather".split()
)
_ACTIVITY = st.fixed_dictionaries(
    {},
    optional={
        "type": st.sampled_from(["event", "message", "Event", "x"]) | _JSON,
        "name": st.sampled_from("start DTMF noUserInput playFinished transferStatus config".split()) | _JSON,
        "id": _JSON,
        "value": _JSON,
        "text": _JSON,
        "parameters": _JSON,
        "streamId": _JSON,
    },
)
_MESSAGE = st.fixed_dictionaries(
    {"type": _TYPES},
    optional={
        "conversationId": st.sampled_from([ID, "other"]) | _JSON,
        "activities": st.lists(_ACTIVITY, max_size=3) | _JSON,
        "audioChunk": st.binary(max_size=9).map(lambda data: b64encode(data).decode()) | _JSON,
        "participant": st.sampled_from(["a", "b"]) | _JSON,
        "supportedMediaFormats": _JSON,
        "expectAudioMessages": _JSON,
        "reasonCode": _JSON,
    },
)


@given(st.lists(_MESSAGE.map(json.dumps) | _JSON.map(json.dumps) | st.text(), max_size=8), st.booleans())
def test_no_message_raises_and_every_reply_is_json(texts: list[str], accepted: bool) -> None:
    core = active() if accepted else StreamProtocol()
    for text in texts:
        for told in core.receive(text):
            if isinstance(told, Initiated):
                core.accept(choose(told.formats))
            elif isinstance(told, AudioReceived):
                assert len(told.payload) % 2 == 0 or core.form == MediaFormat("raw/mulaw")
    assert all(json.loads(reply)["type"] for reply in core.replies)


@given(st.binary(max_size=300))
def test_no_bytes_raise(data: bytes) -> None:
    active().receive(data.decode("utf-8", "replace"))
    active().receive('{"type":"activities","activities":[' + data.decode("latin-1"))
