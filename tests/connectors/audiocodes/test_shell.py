"""The streaming shell's corners, in virtual time and without a gateway."""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest

from fastagent.connectors.audiocodes.config import session_id
from fastagent.connectors.host import Recalled
from fastagent.connectors.leg import HangupReason
from tests.connectors.audiocodes.robot import Robot

ID = "c-1"


@asynccontextmanager
async def robot(**given: Any) -> AsyncIterator[Robot]:
    one = Robot(**given)
    yield one
    await one.aclose()
    assert one.places == given.get("places", 10), "every place was given back"


def message(type_: str, **fields: Any) -> str:
    return json.dumps({"type": type_, "conversationId": ID, **fields})


def initiate(**fields: Any) -> str:
    return message("session.initiate", supportedMediaFormats=["raw/mulaw"], caller="+1", **fields)


START = message("activities", activities=[{"type": "event", "name": "start", "parameters": {"callee": "+2"}}])
END = message("session.end", reasonCode="client-disconnected")
RESUME = message("session.resume")


async def bring(one: Robot, *texts: str, wait: float = 0.1) -> list[Any]:
    """Return what the robot sent in answer: types, reasons and closes."""
    before = len(one.out)
    for text in texts:
        one.socket.bring(text)
    await asyncio.sleep(wait)
    return [each.get("reason") or each.get("close") or each["type"] for each in one.out[before:]]


async def test_an_end_before_the_session_has_begun_is_the_end() -> None:
    async with robot() as one:
        assert await bring(one, initiate(), END) == ["session.accepted", 1000]
        await asyncio.sleep(5)
        assert one.sessions == []
        assert one.shell._live == {}


async def test_a_start_that_comes_late_changes_nothing() -> None:
    async with robot() as one:
        await bring(one, initiate(), wait=1.5)
        await bring(one, START)
        assert len(one.sessions) == 1
        assert (one.sessions[0].info.from_, one.sessions[0].info.to) == ("+1", "")


async def test_a_conversation_that_exists_is_not_begun_again() -> None:
    async with robot() as one:
        await bring(one, initiate(), START)
        one.dial()
        assert await bring(one, initiate()) == ["conversation exists", 1000]
        assert len(one.sessions) == 1


async def test_a_connection_lost_before_the_session_begins_is_held_too() -> None:
    async with robot() as one:
        await bring(one, initiate(), wait=0.2)
        one.socket.drop()
        await asyncio.sleep(2)
        one.dial()
        answered = await bring(one, RESUME, wait=1.0)
        assert answered[:3] == ["session.accepted", "playStream.start", "playStream.chunk"]
        await bring(one, END)
        assert one.ended == [HangupReason.CALLER_HUNG_UP]


def stored(**private: str) -> Recalled:
    known = {"mode": "stream", "conversation": ID, "format": "raw/mulaw", "voice": "1", "from": "+1", "to": "+2"}
    return Recalled(session_id(ID), "robot", {**known, **private})


async def test_a_stored_conversation_goes_on_with_what_was_known() -> None:
    async with robot() as one:
        one.stored[session_id(ID)] = stored(played="7")
        assert await bring(one, RESUME) == ["session.accepted"]
        (leg,) = one.sessions
        assert (leg.info.from_, leg.info.to, leg.info.session_id) == ("+1", "+2", "ac_c-1")
        leg.send_audio(bytes(160))
        leg.flush()
        await asyncio.sleep(0.1)
        assert one.out[-1]["streamId"] == "1008"
        assert leg.info.private["played"] == "1008"


async def test_a_stored_conversation_in_words_needs_no_format() -> None:
    async with robot() as one:
        one.stored[session_id(ID)] = stored(format="", voice="")
        assert await bring(one, RESUME) == ["session.accepted"]
        assert not one.sessions[0].info.voice


@pytest.mark.parametrize(
    "private", [{"mode": "chat"}, {"conversation": "another"}, {"format": "raw/opus"}, {"format": ""}, {"mode": ""}]
)
async def test_what_is_stored_otherwise_is_not_found(private: dict[str, str]) -> None:
    async with robot() as one:
        one.stored[session_id(ID)] = stored(**private)
        assert await bring(one, RESUME) == ["conversation not found", 1000]


async def test_two_that_resume_at_once_are_one() -> None:
    async with robot() as one:
        found = stored()

        async def slowly(session_id: str) -> Recalled | None:
            await asyncio.sleep(0.2)
            return found

        one.recall = slowly  # type: ignore[method-assign]
        first = one.socket
        second = one.dial()
        first.bring(RESUME)
        second.bring(RESUME)
        await asyncio.sleep(0.5)
        assert len(one.sessions) == 1
        errors = [each["reason"] for each in one.out if each.get("type") == "session.error"]
        assert errors == ["conversation exists"]


@pytest.mark.parametrize("first", [initiate(), RESUME])
async def test_without_a_place_a_conversation_is_declined(first: str) -> None:
    async with robot(places=0) as one:
        one.stored[session_id(ID)] = stored()
        assert await bring(one, first) == ["no capacity", 1000]


async def test_a_conversation_that_has_no_session_yet_is_released_when_all_ends() -> None:
    async with robot() as one:
        await bring(one, initiate())
        await one.shell.aclose()
        await asyncio.sleep(5)
        assert one.sessions == []


async def test_a_socket_closed_at_once_is_nothing() -> None:
    async with robot() as one:
        one.socket.drop()
        await asyncio.sleep(0.1)
        assert one.out == []
        one.dial()
        assert await bring(one, initiate()) == ["session.accepted"]
