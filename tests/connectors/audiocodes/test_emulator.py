"""VoiceAI Connect's emulator: its habits, and what it does not let pass."""

import json
from base64 import b64encode
from typing import Any

import pytest

from fastagent.connectors.audiocodes.emulator import VoiceAiEmulator

FRAME = bytes(range(1, 161))  # 20 ms of mu-law


def bot(type_: str, **fields: Any) -> str:
    return json.dumps({"type": type_, **fields})


def play(stream: str = "1", form: str = "raw/mulaw") -> str:
    return bot("playStream.start", streamId=stream, mediaFormat=form)


def chunk(payload: bytes = FRAME, stream: str = "1") -> str:
    return bot("playStream.chunk", streamId=stream, audioChunk=b64encode(payload).decode())


def stop(stream: str = "1") -> str:
    return bot("playStream.stop", streamId=stream)


def event(name: str, **fields: Any) -> str:
    return bot("activities", activities=[{"type": "event", "id": "1", "name": name, **fields}])


STARTED = bot("userStream.started")
SPEECH = bot("userStream.speech.started")
ON = {"bargeIn": True, "sendEventsToBot": ["playFinished"]}


def types(messages: list[str]) -> list[str]:
    found = []
    for text in messages:
        message = json.loads(text)
        found.append(message["activities"][0]["name"] if message["type"] == "activities" else message["type"])
    return found


def talking(**given: Any) -> VoiceAiEmulator:
    """A conversation that is accepted, and whose caller streams."""
    one = VoiceAiEmulator(formats=("raw/mulaw",), **given)
    assert json.loads(one.opening())["supportedMediaFormats"] == ["raw/mulaw"]
    _, answers = one.receive(bot("session.accepted", mediaFormat="raw/mulaw"))
    assert types(answers) == ["start", "userStream.start"]
    one.receive(STARTED)
    return one


def test_the_caller_hears_ringing_until_something_is_played() -> None:
    one = talking()
    assert not one.hears_caller
    assert one.play() == (b"\xff" * 160, [])
    one.receive(play())
    one.receive(chunk())
    assert one.answered
    assert one.play()[0] == FRAME
    assert talking(connect_on_prompt=False).hears_caller


def test_with_barge_in_off_the_user_stream_stops_while_the_bot_plays() -> None:
    one = talking()
    assert types(one.receive(play())[1]) == ["userStream.stop"]
    one.receive(chunk())
    one.receive(chunk(FRAME[:80]))
    assert one.receive(SPEECH) == ("userStream.speech.started", []), "and is not silenced"
    one.receive(stop())
    assert one.buffered_ms == 30
    assert one.play() == (FRAME, [])
    heard, messages = one.play()
    assert heard == FRAME[:80] + b"\xff" * 80
    assert types(messages) == ["userStream.start"]
    one.receive(STARTED)
    assert one.hears_caller
    assert one.violations == []


def test_with_barge_in_on_reported_speech_silences_it() -> None:
    one = talking(barge_in=False)
    one.receive(event("config", sessionParams=ON))
    assert one.receive(play())[1] == []
    one.receive(chunk(FRAME * 10))
    assert one.receive(SPEECH)[0] == "clear"
    assert one.buffered_ms == 0
    assert one.hears_caller
    one.receive(chunk())
    assert one.violations == ["audio of an answer that was interrupted"]


def test_a_stop_cuts_nothing_off_and_the_end_is_told_if_wanted() -> None:
    one = talking()
    one.receive(event("config", sessionParams=ON))
    one.receive(play())
    one.receive(chunk())
    one.receive(stop())
    one.receive(play("2"))
    heard, messages = one.play()
    assert heard == FRAME
    assert types(messages) == ["playFinished"]
    assert json.loads(messages[0])["activities"][0]["streamId"] == "1"
    one.receive(chunk(stream="2"))
    one.receive(stop("2"))
    assert one.receive(SPEECH)[0] == "clear"
    assert one.play()[1] == [], "what was silenced was not finished"
    assert one.violations == []


def test_a_resumed_conversation_goes_on_with_the_same_format() -> None:
    one = talking()
    one.receive(play())
    one.receive(chunk())
    assert json.loads(one.resume())["type"] == "session.resume"
    assert one.receive(bot("session.accepted", mediaFormat="raw/mulaw")) == ("session.accepted", [])
    assert types(one.play()[1]) == ["userStream.start"]
    one.receive(play("2"))
    assert one.violations == []
    one.resume()
    one.form = None if one.form is None else one.form.__class__("raw/lpcm16")
    one.receive(bot("session.accepted", mediaFormat="raw/mulaw"))
    assert one.violations == ["another format after session.resume"]


def test_a_hang_up_and_a_transfer_end_it() -> None:
    one = talking()
    name, answers = one.receive(event("hangup", activityParams={"hangupReason": "done"}))
    assert (name, types(answers), one.hung_up) == ("hangup", ["session.end"], "done")
    assert one.receive(bot("weather")) == ("weather", [])
    assert one.violations == []
    moved = talking()
    name, answers = moved.receive(event("transfer", activityParams={"transferTarget": "tel:+1"}))
    assert (types(answers), moved.transferred_to) == (["session.end"], "tel:+1")
    asked = {"transferTarget": "tel:+1", "transferNotifications": True}
    failing = talking(transfer_fails="busy")
    assert types(failing.receive(event("transfer", activityParams=asked))[1]) == ["transferStatus"]
    assert not failing.ended


def test_a_refusal_ends_it() -> None:
    one = VoiceAiEmulator()
    one.receive(bot("session.error", reason="no"))
    assert (one.refused, one.ended) == ("no", True)


def test_words_and_what_was_recognised_are_kept() -> None:
    one = talking(voice=False)
    one.receive(bot("activities", activities=[{"type": "message", "id": "1", "text": "hello"}]))
    one.receive(bot("userStream.speech.recognition", alternatives=[{"text": "hi", "confidence": 0.5}]))
    assert (one.texts, one.recognised, one.answered) == (["hello"], ["hi"], True)
    assert one.play()[1] == []


@pytest.mark.parametrize(
    "messages",
    [
        ["not json"],
        ["[]"],
        [bot("weather")],
        [bot("playStream.start", streamId="1")],
        [bot("playStream.start", streamId="1", mediaFormat="raw/mulaw", x=1)],
        [play(form="raw/lpcm16")],
        [chunk()],
        [stop()],
        [play(), play("2")],
        [play(), stop(), play()],
        [play(), chunk(stream="2")],
        [play(), stop(), chunk()],
        [play(), chunk(b"")],
        [play(), chunk(b"RIFF" + FRAME)],
        [play(), bot("playStream.chunk", streamId="1", audioChunk="%")],
        [bot("session.accepted", mediaFormat="raw/mulaw")],
        [bot("userStream.stopped"), event("dance")],
        [bot("activities", activities=7)],
        [bot("activities", activities=[{"type": "event", "name": "hangup"}])],
        [event("sendDtmf", activityParams={"dtmfDigits": "1" * 21})],
        [event("transfer")],
        [bot("userStream.speech.hypothesis", text="flat")],
        [bot("userStream.speech.hypothesis", alternatives=[])],
        [bot("userStream.speech.recognition", alternatives=[{"text": "x"}])],
        [bot("userStream.speech.recognition", alternatives=[{"text": "x", "confidence": 2}])],
    ],
)
def test_what_a_bot_must_not_send_is_a_violation(messages: list[str]) -> None:
    one = talking()
    for message in messages:
        one.receive(message)
    assert len(one.violations) == 1


def test_nothing_comes_before_the_acceptance_and_nothing_that_was_not_offered() -> None:
    one = VoiceAiEmulator(formats=("raw/mulaw",))
    one.receive(STARTED)
    one.receive(bot("session.accepted", mediaFormat="raw/lpcm16"))
    assert one.violations == [
        "userStream.started before session.accepted",
        "session.accepted with 'raw/lpcm16', or twice",
    ]
    assert one.play() == (b"", [])
    assert (one.buffered_ms, one.received_s, one.max_buffered_ms) == (0, 0.0, 0)
    two = talking()
    two.stop_stream()
    two.receive(STARTED)
    assert two.violations == ["userStream.started without userStream.start"]


def test_half_samples_are_a_violation() -> None:
    one = VoiceAiEmulator(formats=("wav/lpcm16",))
    one.receive(bot("session.accepted", mediaFormat="wav/lpcm16"))
    one.receive(play(form="wav/lpcm16"))
    one.receive(chunk(b"RIFF" + bytes(40) + bytes(640)))
    assert one.violations == []
    assert one.play()[0] == bytes(640)
    one.receive(chunk(b"123"))
    assert len(one.violations) == 1
