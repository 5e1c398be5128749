"""Real calls, in real time: two synthetic voices walk the demo agent to each of its ends.

A gateway process with embedded speech, Twilio's wire over a real socket, and the recording of the agent's side is
recognised back to words.
"""

import asyncio
import re
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest

from fastagent.afsm.understand import words
from fastagent.gateway.cli.twilio_phone import TwilioPhone
from fastagent.gateway.cli.watch import Watcher
from fastagent.media.frame import PCMU_8K
from fastagent.media.level import frame_levels_db
from fastagent.media.speech.embedded_stt import EmbeddedStt
from tests.support.process import serve
from tests.support.voices import voice

pytestmark = [pytest.mark.real, pytest.mark.call, pytest.mark.timeout(300)]

Script = Callable[[TwilioPhone], Awaitable[None]]


@dataclass
class Result:
    """What became of a call."""

    phone: TwilioPhone
    session: dict[str, Any]
    recognised: str

    @property
    def heard(self) -> str:
        return " ".join(turn["heard"] for turn in self.session["turns"])


def speaking(name: str, *sentences: str) -> Script:
    """A caller who says these, each once the agent has fallen silent."""
    said = [voice(name, sentence) for sentence in sentences]

    async def script(phone: TwilioPhone) -> None:
        await phone.agent_quiet()
        for payload in said:
            phone.say(payload)
            await phone.said()
            await phone.agent_quiet()

    return script


async def pressing(phone: TwilioPhone) -> None:
    """A caller who only presses keys."""
    for digits in ("1", "3", "5551234#", "1"):
        await phone.agent_quiet()
        await phone.press(digits)
    await phone.agent_quiet()


async def keeping_silent(phone: TwilioPhone) -> None:
    """A caller who never says anything."""


SCRIPTS: dict[str, Script] = {
    "visit": speaking(
        "slt",
        "My name is Susan.",
        "I want to make an appointment.",
        "Friday would be good.",
        "At ten.",
        "Yes, that's right.",
    ),
    "hours": speaking("rms", "This is David.", "What are your opening hours?", "No, thank you."),
    "person": speaking(
        "rms", "My name is David.", "I would like to speak to a person.", "five five five, one two three four.", "Yes."
    ),
    "keys": pressing,
    "silence": keeping_silent,
}
EXPECTED = {
    "visit": "is Friday at ten a.m. for Susan you are booked thank you for calling goodbye",
    "hours": "we are open Monday to Friday from nine to five is there anything else thank you for calling goodbye",
    "person": "I'll have somebody call you back what is your number somebody will call you back soon goodbye",
    "keys": "I'll have somebody call you back what is your number somebody will call you back soon goodbye",
    "silence": "hello this is the front desk may I have your name I didn't hear anything please say your name goodbye",
}
REASONS = {"silence": "no_input"}


@pytest.fixture(scope="module")
def calls() -> dict[str, Result]:
    """All calls, two at a time."""
    return asyncio.run(_all())


async def _all() -> dict[str, Result]:
    line = asyncio.Semaphore(2)
    async with serve(FASTAGENT_SPEECH="embedded") as gateway:
        await gateway.until("/readyz", 200)

        async def one(script: Script) -> tuple[TwilioPhone, dict[str, Any]]:
            async with line, TwilioPhone(gateway.webhook) as phone:
                async with Watcher(gateway.webhook, phone.call_sid, lambda turn: None) as watcher:
                    await script(phone)
                    async with asyncio.timeout(60):
                        await phone.closed.wait()
                    session = await watcher.final()
                assert session is not None
                return phone, session

        made = await asyncio.gather(*(one(script) for script in SCRIPTS.values()))
    with ThreadPoolExecutor(2) as executor:
        stt = EmbeddedStt(executor)
        await stt.warm_up()
        texts = await asyncio.gather(*(_recognise(stt, bytes(phone.agent_audio)) for phone, _ in made))
    return {
        name: Result(phone, session, text) for name, (phone, session), text in zip(SCRIPTS, made, texts, strict=True)
    }


async def _recognise(stt: EmbeddedStt, recording: bytes) -> str:
    """Recognise a recording, utterance by utterance."""
    loud = frame_levels_db(PCMU_8K.decode(recording), 160) > -50
    at = np.flatnonzero(loud)
    pieces = np.split(at, np.flatnonzero(np.diff(at) > 30) + 1)
    texts = []
    for piece in pieces:
        start, end = max(0, int(piece[0]) - 10), int(piece[-1]) + 10
        texts.append((await stt.recognise(recording[start * 160 : end * 160], PCMU_8K)).text)
    return " ".join(texts)


def _spoken(text: str) -> set[str]:
    numbers = {"5": "five", "9": "nine", "10": "ten"}
    return {numbers.get(word, word) for word in words(re.sub(r"\ba\.m\.", "am", text.replace("-", " ")))}


@pytest.mark.parametrize("name", SCRIPTS)
def test_the_call_comes_to_its_end(calls: dict[str, Result], name: str) -> None:
    result = calls[name]
    assert result.session["end_reason"] == REASONS.get(name, "completed")
    assert result.phone.ended_by == "agent"
    assert result.session["current_state"] == ("name" if name == "silence" else "goodbye")


@pytest.mark.parametrize("name", SCRIPTS)
def test_the_recording_says_what_the_transcript_says(calls: dict[str, Result], name: str) -> None:
    recognised = _spoken(calls[name].recognised)
    for text in (EXPECTED[name], calls[name].heard):
        expected = _spoken(text)
        missing = expected - recognised
        assert len(missing) <= 0.2 * len(expected), (missing, calls[name].recognised)


@pytest.mark.parametrize("name", SCRIPTS)
def test_the_wire_is_twilios(calls: dict[str, Result], name: str) -> None:
    phone = calls[name].phone
    assert phone.emulator.violations == []
    late_frames = int(phone.timings.max_late / 0.02) + 1  # what the phone itself played late
    assert phone.emulator.max_buffered <= (400 + 20 * late_frames) * 8
    assert all(hole <= 0.02 for hole in phone.timings.holes)


def test_the_facts_were_understood(calls: dict[str, Result]) -> None:
    users = {name: [turn["user"] for turn in result.session["turns"]] for name, result in calls.items()}
    assert "Friday" in " ".join(users["visit"])
    assert any(words("".join(re.findall(r"\d", user))) == ["5551234"] for user in users["person"]), users["person"]


def test_every_utterance_was_answered_aloud(calls: dict[str, Result]) -> None:
    said = {"visit": 5, "hours": 3, "person": 4, "keys": 0, "silence": 0}
    assert {name: len(result.phone.timings.response) for name, result in calls.items()} == said
    for result in calls.values():
        spoken = [turn for turn in result.session["turns"] if turn["cause"] == "speech"]
        assert all(turn["waterfall_ms"]["total"] > 0 for turn in spoken)
