"""The emulator keeps the promises of Twilio's playback buffer, and the two cores understand each other."""

import json
from base64 import b64encode
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fastagent.connectors.leg import DtmfReceived, HangupReason, LegEnded, MarkReached
from fastagent.connectors.twilio.emulator import StreamEmulator
from fastagent.connectors.twilio.protocol import AudioReceived, StreamStarted, TwilioProtocol

SILENCE = b"\xff" * 160


def frames(*values: int) -> bytes:
    """Frames of 20 ms, each of one byte value."""
    return b"".join(bytes((value,)) * 160 for value in values)


def media(payload: bytes, stream_sid: str = "MZ1") -> str:
    body = {"event": "media", "streamSid": stream_sid, "media": {"payload": b64encode(payload).decode()}}
    return json.dumps(body)


def mark(name: str) -> str:
    return json.dumps({"event": "mark", "streamSid": "MZ1", "mark": {"name": name}})


CLEAR = '{"event":"clear","streamSid":"MZ1"}'


@pytest.fixture
def twilio() -> StreamEmulator:
    return StreamEmulator(call_sid="CA1", stream_sid="MZ1")


def names(messages: list[str]) -> list[str]:
    return [json.loads(message)["mark"]["name"] for message in messages]


# -- the playback buffer -----------------------------------------------------------------------------------------------


def test_audio_is_played_in_the_order_received_20_ms_at_a_time(twilio: StreamEmulator) -> None:
    twilio.receive(media(frames(1, 2)))
    twilio.receive(media(frames(3)))
    assert twilio.buffered_ms == 60
    assert [twilio.play()[0] for _ in range(4)] == [frames(1), frames(2), frames(3), SILENCE]
    assert twilio.buffered_ms == 0


def test_a_mark_comes_back_when_all_before_it_was_played(twilio: StreamEmulator) -> None:
    twilio.receive(media(frames(1, 2)))
    assert twilio.receive(mark("a")) == ("mark", [])
    twilio.receive(media(frames(3)))
    assert twilio.receive(mark("b")) == ("mark", [])
    assert [names(twilio.play()[1]) for _ in range(4)] == [[], ["a"], ["b"], []]


def test_a_mark_comes_back_at_once_if_nothing_is_buffered(twilio: StreamEmulator) -> None:
    event, answers = twilio.receive(mark("a"))
    assert (event, names(answers)) == ("mark", ["a"])
    twilio.receive(media(frames(1)))
    twilio.play()
    assert names(twilio.receive(mark("b"))[1]) == ["b"]


def test_marks_come_back_in_the_order_sent(twilio: StreamEmulator) -> None:
    twilio.receive(media(frames(1)))
    for name in "abc":
        twilio.receive(mark(name))
    assert names(twilio.play()[1]) == ["a", "b", "c"]


def test_clear_empties_the_buffer_and_releases_every_mark(twilio: StreamEmulator) -> None:
    for name in "abc":
        twilio.receive(media(frames(1, 2)))
        twilio.receive(mark(name))
    twilio.play()
    twilio.play()
    event, answers = twilio.receive(CLEAR)
    assert (event, names(answers)) == ("clear", ["b", "c"]), "a was reached before"
    assert twilio.buffered_ms == 0
    assert twilio.play() == (SILENCE, [])


def test_clear_of_an_empty_buffer_is_harmless(twilio: StreamEmulator) -> None:
    assert twilio.receive(CLEAR) == ("clear", [])
    assert not twilio.violations


def test_audio_after_a_clear_is_played(twilio: StreamEmulator) -> None:
    twilio.receive(media(frames(1)))
    twilio.receive(CLEAR)
    twilio.receive(media(frames(2)))
    assert twilio.play()[0] == frames(2)


def test_a_mark_within_a_frame_does_not_tear_the_audio_apart(twilio: StreamEmulator) -> None:
    """Any payload size is buffered and played in order: a mark takes no time."""
    twilio.receive(media(frames(1)[:80]))
    twilio.receive(mark("a"))
    twilio.receive(media(frames(2)[:80]))
    heard, marks = twilio.play()
    assert heard == frames(1)[:80] + frames(2)[:80]
    assert names(marks) == ["a"]


@given(st.lists(st.binary(min_size=1, max_size=500) | st.sampled_from(["mark", "clear", "play"]), max_size=30))
def test_nothing_is_lost_but_by_clear_and_every_mark_comes_back_once(steps: list[bytes | str]) -> None:
    twilio = StreamEmulator(call_sid="CA1", stream_sid="MZ1")
    model: list[int | str] = []  # bytes and marks that are still to come
    sent: list[str] = []
    echoed: list[str] = []
    for step in steps:
        if isinstance(step, bytes):
            twilio.receive(media(step))
            model += step
        elif step == "mark":
            sent.append(f"m{len(sent)}")
            model.append(sent[-1])
            echoed += names(twilio.receive(mark(sent[-1]))[1])
        elif step == "clear":
            echoed += names(twilio.receive(CLEAR)[1])
            model.clear()
        else:
            heard, marks = twilio.play()
            echoed += names(marks)
            count = 0
            while model and (count < 160 or isinstance(model[0], str)):
                count += isinstance(model.pop(0), int)
            assert heard[count:] == SILENCE[count:]
        while model and isinstance(model[0], str):
            model.pop(0)
        assert twilio.buffered_ms == sum(isinstance(one, int) for one in model) // 8
        assert echoed == sent[: len(echoed)]
        assert sent[len(echoed) :] == [one for one in model if isinstance(one, str)]


# -- the judge ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "text",
    [
        "not json",
        "null",
        "[]",
        "{}",
        '{"event":null}',
        '{"event":[]}',
        '{"event":"start"}',
        '{"event":"dtmf","streamSid":"MZ1","dtmf":{"digit":"1"}}',
        '{"event":"clear"}',
        '{"event":"clear","streamSid":"MZ2"}',
        '{"event":"clear","streamSid":"MZ1","sequenceNumber":"1"}',
        '{"event":"mark","streamSid":"MZ1"}',
        '{"event":"mark","streamSid":"MZ1","mark":{}}',
        '{"event":"mark","streamSid":"MZ1","mark":"a"}',
        '{"event":"mark","streamSid":"MZ1","mark":{"name":5}}',
        '{"event":"mark","streamSid":"MZ1","mark":{"name":"a","more":1}}',
        '{"event":"media","streamSid":"MZ1"}',
        '{"event":"media","streamSid":"MZ1","media":{}}',
        '{"event":"media","streamSid":"MZ1","media":"//8="}',
        '{"event":"media","streamSid":"MZ1","media":{"payload":"not base64!"}}',
        '{"event":"media","streamSid":"MZ1","media":{"payload":5}}',
        media(frames(1), stream_sid="MZ2"),
        media(b""),
        media(frames(1)[:100]),
        media(b"RIFF" + frames(1)[4:]),
        json.dumps(json.loads(media(frames(1))) | {"media": {"payload": "//8=", "track": "outbound"}}),
    ],
)
def test_what_must_not_be_sent_is_a_violation(twilio: StreamEmulator, text: str) -> None:
    twilio.receive(text)
    assert len(twilio.violations) == 1


def test_what_may_be_sent_is_none(twilio: StreamEmulator) -> None:
    for text in (media(frames(1)), media(frames(1, 2, 3)), mark("1:160"), CLEAR):
        twilio.receive(text)
    assert not twilio.violations
    assert (twilio.received_bytes, twilio.marks, twilio.clears, twilio.max_buffered) == (640, 1, 1, 640)


# -- what it sends -----------------------------------------------------------------------------------------------------


def test_its_messages_are_twilio_s(twilio: StreamEmulator) -> None:
    connected, start = map(json.loads, twilio.opening({"token": "t"}))
    assert connected == {"event": "connected", "protocol": "Call", "version": "1.0.0"}
    assert start["sequenceNumber"] == "1"
    assert start["start"]["mediaFormat"] == {"encoding": "audio/x-mulaw", "sampleRate": 8000, "channels": 1}
    assert start["start"]["customParameters"] == {"token": "t"}
    first, second = json.loads(twilio.media(frames(1))), json.loads(twilio.media(frames(1, 2)))
    assert (first["sequenceNumber"], second["sequenceNumber"]) == ("2", "3")
    assert (first["media"]["chunk"], first["media"]["timestamp"]) == ("1", "0")
    assert (second["media"]["chunk"], second["media"]["timestamp"]) == ("2", "20")
    assert json.loads(twilio.dtmf("5"))["dtmf"] == {"track": "inbound_track", "digit": "5"}
    stop = json.loads(twilio.stop())
    assert (stop["sequenceNumber"], stop["streamSid"]) == ("5", "MZ1")
    assert stop["stop"] == {"accountSid": "AC" + "0" * 32, "callSid": "CA1"}


# -- back to back ------------------------------------------------------------------------------------------------------


class Joined:
    """Both cores, message by message."""

    def __init__(self) -> None:
        self.twilio, self.ours = StreamEmulator(call_sid="CA1", stream_sid="MZ1"), TwilioProtocol()
        self.events: list[Any] = [self.ours.receive(message) for message in self.twilio.opening({"token": "t"})]
        self.heard = bytearray()

    def send(self, message: str) -> None:
        for answer in self.twilio.receive(message)[1]:
            self.events.append(self.ours.receive(answer))

    def play(self) -> None:
        heard, marks = self.twilio.play()
        self.heard += heard
        self.events += [self.ours.receive(one) for one in marks]


def test_a_call_from_its_start_to_its_end_back_to_back() -> None:
    both = Joined()
    both.events.append(both.ours.receive(both.twilio.media(frames(7))))
    both.send(both.ours.audio(frames(1, 2)))
    both.send(both.ours.mark("1:320"))
    both.play()
    both.play()
    both.send(both.ours.audio(frames(3)))
    both.send(both.ours.mark("1:480"))
    both.send(both.ours.clear())
    both.events.append(both.ours.receive(both.twilio.dtmf("#")))
    both.events.append(both.ours.receive(both.twilio.stop()))
    assert both.events == [
        None,
        StreamStarted("CA1", "MZ1", "AC" + "0" * 32, {"token": "t"}),
        AudioReceived(frames(7), 0),
        MarkReached("1:320"),
        MarkReached("1:480"),
        DtmfReceived("#"),
        LegEnded(HangupReason.CALLER_HUNG_UP),
    ]
    assert both.heard == frames(1, 2)
    assert not both.twilio.violations
    assert not both.ours.dropped


@given(
    st.lists(
        st.one_of(
            st.tuples(st.just("audio"), st.integers(1, 5)),
            st.tuples(st.sampled_from(["mark", "clear", "play", "caller", "key"]), st.integers(0, 9)),
        ),
        max_size=40,
    )
)
def test_whatever_the_two_say_to_each_other_is_understood(steps: list[tuple[str, int]]) -> None:
    both, marks, keys, said = Joined(), list[str](), list[str](), 0
    for kind, number in steps:
        if kind == "audio":
            both.send(both.ours.audio(frames(*range(number))))
        elif kind == "mark":
            marks.append(f"1:{len(marks)}")
            both.send(both.ours.mark(marks[-1]))
        elif kind == "clear":
            both.send(both.ours.clear())
        elif kind == "play":
            both.play()
        elif kind == "caller":
            said += 1
            both.events.append(both.ours.receive(both.twilio.media(frames(number))))
        else:
            keys.append(str(number))
            both.events.append(both.ours.receive(both.twilio.dtmf(str(number))))
    while both.twilio.buffered_ms:
        both.play()
    assert [event.name for event in both.events if isinstance(event, MarkReached)] == marks
    assert [event.digit for event in both.events if isinstance(event, DtmfReceived)] == keys
    timestamps = [event.timestamp_ms for event in both.events if isinstance(event, AudioReceived)]
    assert timestamps == [20 * at for at in range(said)]
    assert not both.twilio.violations
    assert not both.ours.dropped
