"""What comes after a terminal state: transfers, hand-overs, and the time that a state or a call may take."""

import asyncio
from typing import Any

import pytest

from fastagent.afsm import AFSMState, ConversationContext, Ending, StateResult
from fastagent.afsm.config import load
from fastagent.afsm.declared import states_of
from fastagent.afsm.state import KeyRules
from fastagent.connectors.leg import HangupReason, LegError
from fastagent.gateway import phrases
from fastagent.gateway.agent import FastAgent
from fastagent.gateway.destinations import DestinationPolicy, DestinationRefusedError
from tests.support.world import Talker, World, call

HUMAN = "+15550100199"


class Somewhere(AFSMState):
    """Goes on to the next state whatever is said."""

    async def process(self, input_text: str, context: ConversationContext) -> StateResult:
        return StateResult("Very well.", self.moves[0])


class Words(AFSMState):
    async def on_enter(self, context: ConversationContext) -> str:
        return f"This is {self.name}."


def states(ending: Ending) -> list[AFSMState]:
    return [
        Somewhere("start", "", ["desk"]),
        Words("desk", "", terminal=ending),
        Words("back", "", ["desk"]),
    ]


def allow(world: World, *destinations: str, per_hour: int = 10) -> None:
    world.session.services.transfers = DestinationPolicy(destinations, per_hour)


async def test_a_transfer_comes_after_its_words_and_ends_the_session() -> None:
    async with call(states(Ending("transfer", HUMAN))) as world:
        allow(world, "+1555*")
        await world.silence(1.0)
        await world.say(0.6, then=4.0)
        assert await world.ended() is HangupReason.TRANSFERRED
        assert world.leg.transferred == [HUMAN]
        assert world.turns[-1]["heard"] == "Very well. This is desk."


@pytest.mark.parametrize("fault", ["not allowed", "provider", "leg"])
async def test_a_transfer_that_fails_leads_to_the_state_for_that(fault: str) -> None:
    async with call(states(Ending("transfer", HUMAN, otherwise="back"))) as world:
        allow(world, "+1556*" if fault == "not allowed" else "+1555*")
        if fault == "provider":
            world.leg.transfer_error = LegError("no")
        if fault == "leg":
            world.leg.capabilities = frozenset()
        await world.silence(1.0)
        await world.say(0.6, then=8.0)
        assert not world.is_over
        assert world.session.machine.state.name == "back"
        assert world.turns[-1]["heard"] == f"{phrases.NO_TRANSFER} This is back."
        assert world.leg.transferred == []
        assert world.metric("transfers_total", result="refused" if fault == "not allowed" else "failed") == 1


async def test_without_such_a_state_the_caller_hears_an_apology_and_the_call_ends() -> None:
    async with call(states(Ending("transfer", HUMAN))) as world:
        await world.silence(1.0)
        await world.say(0.6, then=8.0)
        assert await world.ended() is HangupReason.AGENT_FAILED
        assert world.turns[-1]["heard"] == f"{phrases.NO_TRANSFER} {phrases.GOODBYE}"


async def test_a_caller_who_talks_into_a_transfer_does_not_stop_it() -> None:
    async with call(states(Ending("transfer", HUMAN))) as world:
        allow(world, HUMAN)
        await world.silence(1.0)
        await world.say(0.6, then=0.8)
        await world.say(1.5, then=4.0)
        assert await world.ended() is HangupReason.TRANSFERRED


async def test_another_agent_takes_over_and_knows_what_was_said() -> None:
    other = FastAgent("billing", [Talker("billing", lambda text, context: str(len(context.history)))], "billing")
    async with call(states(Ending("hand_over", "billing")), script=["one", "two"]) as world:
        world.session.services.agent_for = {"billing": other}.get
        await world.silence(1.0)
        await world.say(0.6, then=8.0)
        assert (world.session.agent, world.session.record.agent_id) == (other, "billing")
        assert [turn["heard"] for turn in world.turns[1:]] == [
            "Very well. This is desk.",
            "Hello, what can I do for you?",
        ]
        assert world.session.record.current_state == "billing"
        await world.say(0.6, then=4.0)
        assert world.turns[-1]["heard"] == "2"


async def test_an_agent_that_does_not_exist_is_a_failed_hand_over() -> None:
    async with call(states(Ending("hand_over", "nobody", otherwise="back"))) as world:
        await world.silence(1.0)
        await world.say(0.6, then=8.0)
        assert world.session.machine.state.name == "back"


async def test_agents_that_hand_a_call_round_in_a_ring_come_to_an_end() -> None:
    ring = [FastAgent(name, [Words(name, "", terminal=Ending("hand_over", to))], name) for name, to in ("ab", "ba")]
    async with call([Words("start", "", terminal=Ending("hand_over", "a"))]) as world:
        world.session.services.agent_for = {agent.agent_id: agent for agent in ring}.get
        await world.silence(30.0)
        assert await world.ended() is HangupReason.AGENT_FAILED
        assert world.session.hand_overs == 8


class Streaming(AFSMState):
    """Speaks for long, and moves on while it is being heard."""

    async def process(self, input_text: str, context: ConversationContext) -> Any:
        yield "This is one sentence of several words. And this is another one. "
        yield StateResult("", self.moves[0])


async def test_nothing_that_happens_in_the_last_answer_loses_its_ending() -> None:
    given = [Streaming("start", "", ["desk"]), Words("desk", "", terminal=Ending("transfer", HUMAN))]
    async with call(given) as world:
        allow(world, HUMAN)
        await world.silence(1.0)
        await world.say(0.6, then=1.5)
        assert world.session.machine.state.name == "desk"
        await world.say(1.2, then=12.0)
        assert world.leg.transferred == [HUMAN]


async def test_an_ending_whose_words_fail_is_done_after_an_apology() -> None:
    class Broken(AFSMState):
        async def on_enter(self, context: ConversationContext) -> str:
            raise RuntimeError("no words")

    given = [Somewhere("start", "", ["desk"]), Broken("desk", "", terminal=Ending("transfer", HUMAN))]
    async with call(given) as world:
        allow(world, HUMAN)
        await world.silence(1.0)
        await world.say(0.6, then=8.0)
        assert world.leg.transferred == [HUMAN]


async def test_a_transfer_that_cannot_be_done_leads_back_to_where_one_was() -> None:
    document = {
        "initial_state": "a",
        "global_transitions": [{"to": "human", "when": ["person"], "returns": True}],
        "states": [
            {"name": "a", "say": "Hello.", "transitions": [{"to": "end", "when": ["bye"]}]},
            {"name": "human", "terminal": {"action": "transfer", "to": HUMAN, "otherwise": "@return"}},
            {"name": "end", "terminal": True},
        ],
    }
    async with call(states_of(load(document)[0]), script=["a person please"]) as world:
        await world.silence(1.0)
        await world.say(0.6, then=8.0)
        assert world.session.machine.state.name == "a"
        assert world.turns[-1]["heard"] == f"{phrases.NO_TRANSFER} Hello."


async def test_a_refused_way_out_of_a_terminal_state_ends_the_call() -> None:
    async with call([Somewhere("start", "", ["desk"]), Words("desk", "", terminal=Ending("transfer", HUMAN))]) as world:
        world.session.machine.afsm.states["desk"].terminal = Ending("transfer", HUMAN, otherwise="nowhere")
        await world.silence(1.0)
        await world.say(0.6, then=8.0)
        assert await world.ended() is HangupReason.AGENT_FAILED


async def test_shutting_down_does_not_hang_up_a_call_that_is_being_transferred() -> None:
    async with call(states(Ending("transfer", HUMAN))) as world:
        allow(world, HUMAN)
        await world.silence(1.0)
        await world.say(0.6, then=0.5)
        while not (world.session._turn and world.session._turn.moves_on):
            await world.silence(0.02)
        world.session.close(HangupReason.SHUTDOWN)
        assert await world.ended() is HangupReason.TRANSFERRED
        assert not world.turns[-1]["interrupted"]


# -- time --------------------------------------------------------------------------------------------------------------


class Timed(AFSMState):
    async def on_timeout(self, context: ConversationContext) -> StateResult:
        return StateResult("Time is up.", "late")

    async def process(self, input_text: str, context: ConversationContext) -> StateResult:
        return StateResult("Go on, please, and take as long as you want.")


def timed(timeout: float = 5.0) -> list[AFSMState]:
    return [Timed("start", "", ["late"], timeout=timeout), Words("late")]


async def test_a_state_has_its_time() -> None:
    async with call(timed(), no_input_timeout=100.0) as world:
        await world.silence(4.9)
        assert world.session.machine.state.name == "start"
        await world.silence(4.0)
        assert world.session.machine.state.name == "late"
        assert (world.turns[-1]["cause"], world.turns[-1]["heard"]) == ("timeout", "Time is up. This is late.")


async def test_an_answer_under_way_is_heard_first() -> None:
    async with call(timed(2.0), no_input_timeout=100.0) as world:
        await world.silence(0.5)
        await world.say(0.6, then=8.0)
        assert [turn["heard"] for turn in world.turns[1:]] == [
            "Go on, please, and take as long as you want.", "Time is up. This is late.",
        ]  # fmt: skip


async def test_a_caller_who_speaks_when_it_is_over_is_answered_first() -> None:
    async with call(timed(2.0), no_input_timeout=100.0) as world:
        await world.silence(1.5)
        await world.say(1.5, then=8.0)
        assert [turn["cause"] for turn in world.turns] == ["opening", "speech", "timeout"]


async def test_a_state_that_was_left_in_time_is_not_timed_out() -> None:
    class Leaving(Timed):
        async def process(self, input_text: str, context: ConversationContext) -> StateResult:
            return StateResult("", "late")

    async with call([Leaving("start", "", ["late"], timeout=5.0), Words("late")], no_input_timeout=100.0) as world:
        await world.silence(1.0)
        await world.say(0.6, then=10.0)
        assert [turn["cause"] for turn in world.turns] == ["opening", "speech"]


async def test_a_document_times_a_state_out() -> None:
    config, _ = load(
        {
            "initial_state": "a",
            "states": [
                {"name": "a", "say": "Wait.", "on_timeout": {"after": 3, "to": "b", "say": "Too late."}},
                {"name": "b", "say": "Goodbye.", "terminal": True},
            ],
        }
    )
    async with call(states_of(config), no_input_timeout=100.0) as world:
        await world.silence(8.0)
        assert await world.ended() is HangupReason.COMPLETED
        assert world.turns[-1]["heard"] == "Too late. Goodbye."


async def test_a_call_has_so_many_turns() -> None:
    async with call([Talker(answer=lambda text, context: "Yes.")], max_turns=2) as world:
        await world.greeted()
        for _ in range(3):
            await world.say(0.6, then=3.0)
        await world.silence(8.0)
        assert await world.ended() is HangupReason.MAX_TURNS
        assert [turn["cause"] for turn in world.turns] == ["opening", "speech", "speech", "closing"]


async def test_an_agent_may_have_less_time_for_an_answer_than_the_gateway() -> None:
    import asyncio

    async def slow(text: str, context: ConversationContext) -> str:
        await asyncio.sleep(60)
        return "never"

    async with call([Talker(answer=lambda text, context: slow(text, context))], turn_timeout=5.0) as world:
        await world.greeted()
        await world.say(0.6, then=14.0)
        assert world.metric("turn_timeouts_total") == 1


# -- where to ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("destination", "dialled"),
    [
        ("+1 (555) 010-0199", "+15550100199"),
        ("+15550100199", "+15550100199"),
        ("sip:desk@pbx.example.com", "sip:desk@pbx.example.com"),
        ("sip:desk@pbx.example.com;transport=tls", "sip:desk@pbx.example.com;transport=tls"),
    ],
)
def test_allowed_destinations(destination: str, dialled: str) -> None:
    assert DestinationPolicy(["+1 555*", "sip:*@pbx.example.com*"], 5).take(destination) == dialled


@pytest.mark.parametrize(
    "destination",
    ["+44155501", "sip:desk@evil.example.com", "", "911", "+1555\r\nX: y", "sip:a@pbx.example.com\r\nX: y", "+1555<x/>",
     "https://pbx.example.com", "sip:a b@pbx.example.com", "*", "+1555*"],
)  # fmt: skip
def test_refused_destinations(destination: str) -> None:
    with pytest.raises(DestinationRefusedError) as caught:
        DestinationPolicy(["+1555*", "sip:*@pbx.example.com"], 5).take(destination)
    assert destination not in str(caught.value) or not destination


def test_so_many_an_hour() -> None:
    now = 0.0
    policy = DestinationPolicy(["+*"], 2, clock=lambda: now)
    policy.take("+1555")
    policy.take("+1556")
    with pytest.raises(DestinationRefusedError, match="too many"):
        policy.take("+1557")
    now = 3600.0
    assert policy.take("+1557") == "+1557"


async def test_an_utterance_that_is_joined_counts_once() -> None:
    async with call([Talker(answer=slow)], max_turns=2, script=["one", "two", "three"]) as world:
        await world.greeted()
        await world.say(0.6, then=0.6)
        await world.say(0.4, then=0.6)
        await world.say(0.4, then=5.0)
        assert not world.is_over
        assert [turn["user"] for turn in world.turns if turn["user"]] == ["one two three"]


async def slow(text: str, context: ConversationContext) -> StateResult:
    await asyncio.sleep(1.5)
    return StateResult("Yes.")


async def test_limits_are_those_of_the_agent_that_answered() -> None:
    strict = FastAgent("strict", [Talker("strict")], "strict", max_turns=1)
    async with call(states(Ending("hand_over", "strict")), max_turns=50) as world:
        world.session.services.agent_for = {"strict": strict}.get
        await world.silence(1.0)
        for _ in range(3):
            await world.say(0.6, then=8.0)
        assert not world.is_over


async def test_keys_under_way_are_for_the_state_in_which_they_were_pressed() -> None:
    class Asking(Timed):
        key_rules = KeyRules(max_digits=5)

        async def on_dtmf(self, digits: str, context: ConversationContext) -> StateResult:
            return StateResult(f"I have {len(digits)} digits.")

    async with call([Asking("start", "", ["late"], timeout=5.0), Words("late")], no_input_timeout=100.0) as world:
        await world.silence(4.0)
        for digit in "12345":
            world.leg.press(digit)
            await world.silence(0.4)
        assert world.session.machine.state.name == "start"
        await world.silence(9.0)
        assert [turn["heard"] for turn in world.turns[1:]] == ["I have 5 digits.", "Time is up. This is late."]


async def test_a_state_that_swallows_its_cancellation_changes_nothing() -> None:
    class Stubborn(AFSMState):
        async def process(self, input_text: str, context: ConversationContext) -> StateResult:
            try:
                await asyncio.sleep(3.0)
            except asyncio.CancelledError:
                pass
            return StateResult(f"You said {input_text}.", self.moves[0] if "two" not in input_text else None)

    async with call([Stubborn("start", "", ["late"]), Words("late")], script=["one", "two"]) as world:
        await world.silence(1.0)
        await world.say(0.6, then=1.0)
        await world.say(0.6, then=8.0)
        assert world.session.machine.state.name == "start"
        assert world.turns[-1]["agent"] == "You said one two."


async def test_a_state_that_is_cancelled_from_inside_is_an_apology_and_no_dead_air() -> None:
    async def cancelled(text: str, context: ConversationContext) -> StateResult:
        task = asyncio.ensure_future(asyncio.sleep(1))
        task.cancel()
        await task
        return StateResult("never")

    async with call([Talker(answer=cancelled)]) as world:
        await world.greeted()
        await world.say(0.6, then=6.0)
        assert world.turns[-1]["heard"] == phrases.APOLOGY


async def test_a_state_reached_by_silence_has_prompts_of_its_own() -> None:
    document = {
        "initial_state": "a",
        "no_input_timeout": 2,
        "states": [
            {"name": "a", "say": "A.", "no_input": {"prompts": ["a one."], "then": "b"}},
            {"name": "b", "say": "B.", "no_input": {"prompts": ["b one."], "then": "c"}},
            {"name": "c", "say": "C.", "terminal": True},
        ],
    }
    async with call(states_of(load(document)[0]), no_input_timeout=2.0) as world:
        await world.silence(20.0)
        assert [turn["heard"] for turn in world.turns] == ["A.", "a one.", "B.", "b one.", "C."]


async def test_a_short_limit_for_answers_is_kept() -> None:
    async with call([Talker(answer=slow)], turn_timeout=0.5) as world:
        await world.greeted()
        await world.say(0.6, then=1.3)
        assert world.metric("turn_timeouts_total") == 1


async def test_what_entering_speaks_comes_behind_the_answer_that_led_there() -> None:
    class Speaks(AFSMState):
        async def on_enter(self, context: ConversationContext) -> str:
            context.say("Welcome to B.")
            return "What next?"

    async with call([Somewhere("a", "", ["b"]), Speaks("b")]) as world:
        await world.silence(1.0)
        await world.say(0.6, then=6.0)
        assert world.turns[-1]["heard"] == "Very well. Welcome to B. What next?"
