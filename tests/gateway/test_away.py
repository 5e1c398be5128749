"""A session whose client is away, or on hold, in virtual time: nothing is said to nobody, and nothing is lost."""

import asyncio
from typing import Any

import pytest

from fastagent.connectors.leg import (
    ConnectionBack,
    ConnectionLost,
    HoldBegan,
    HoldEnded,
    LegEvent,
    TextReceived,
)
from fastagent.connectors.notices import CallHappened
from tests.support.world import ANSWER, GREETING, Talker, World, call


async def slow(text: str, context: Any) -> str:
    await asyncio.sleep(3.0)  # longer than the wait for a filler
    return ANSWER


@pytest.fixture(params=[(ConnectionLost(), ConnectionBack()), (HoldBegan(), HoldEnded())], ids=["lost", "held"])
def away(request: pytest.FixtureRequest) -> tuple[LegEvent, LegEvent]:
    """What takes the caller away, and what brings them back."""
    pair: tuple[LegEvent, LegEvent] = request.param
    return pair


async def lose(world: World, event: LegEvent) -> float:
    """Lose the caller; return when, in seconds since the call began."""
    world.leg.happened(event)
    await world.silence(0.04)
    return asyncio.get_running_loop().time() - world.leg.began


@pytest.mark.parametrize("lost_after_s", [0.1, 1.0])
async def test_an_answer_that_comes_while_nobody_is_there_waits_with_its_filler(
    lost_after_s: float, away: tuple[LegEvent, LegEvent]
) -> None:
    async with call([Talker(answer=slow)]) as world:
        await world.greeted()
        world.leg.happened(TextReceived("My balance?"))
        await world.silence(lost_after_s)
        gone_at = await lose(world, away[0])
        await world.silence(15.0)
        assert world.sent_after(gone_at) == 0
        assert not world.turns[-1]["heard"]
        world.leg.happened(away[1])
        await world.silence(8.0)
        assert world.turns[-1]["heard"].endswith(ANSWER)
        assert world.sent_after(gone_at) >= 150, "all three seconds of it"


async def test_an_answer_under_way_goes_on_where_it_was_heard(away: tuple[LegEvent, LegEvent]) -> None:
    async with call() as world:
        await world.silence(1.5)
        gone_at = await lose(world, away[0])
        await world.silence(20.0)
        assert world.sent_after(gone_at) == 0
        heard = world.session.speaker.heard()
        assert heard
        assert GREETING.startswith(heard)
        world.leg.happened(away[1])
        await world.silence(5.0)
        assert world.turns[0]["heard"] == GREETING
        assert world.sent_after(gone_at) < 150, "not from the beginning"


async def test_nobody_is_asked_whether_they_are_there_while_they_are_not(away: tuple[LegEvent, LegEvent]) -> None:
    async with call(no_input_timeout=2.0) as world:
        await world.greeted()
        gone_at = await lose(world, away[0])
        await world.silence(25.0)
        assert (world.sent_after(gone_at), len(world.turns)) == (0, 1)
        world.leg.happened(away[1])
        await world.silence(6.0)
        assert world.turns[1]["cause"] == "no_input"


async def test_coming_back_with_nothing_to_say_is_fine_and_the_next_answer_is_heard(
    away: tuple[LegEvent, LegEvent],
) -> None:
    async with call() as world:
        await world.greeted()
        for _ in range(3):
            await lose(world, away[0])
            world.leg.happened(away[1])
            await world.silence(0.1)
        world.leg.happened(TextReceived("Hello."))
        await world.silence(6.0)
        assert world.turns[-1]["heard"] == ANSWER
        assert not world.is_over


async def test_a_hold_is_told_and_what_comes_meanwhile_is_not_the_caller() -> None:
    async with call() as world:
        await world.greeted()
        world.leg.happened(HoldBegan())
        await world.silence(1.0)
        world.leg.happened(HoldEnded())
        await world.silence(0.1)
        told = [one.event for one in world.leg.notices if isinstance(one, CallHappened)]
        assert told == ["hold", "resume"]
