"""Declarative states in conversation."""

from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from fastagent.afsm import AFSM, Machine, Step
from fastagent.afsm.config import load
from fastagent.afsm.declared import states_of

PHARMACY = Path(__file__).parents[2] / "examples/pharmacy/pharmacy.yaml"


def machine(document: dict[str, Any]) -> Machine:
    config, _ = load(document)
    return Machine(AFSM(states_of(config), config.initial_state))


def pharmacy() -> Machine:
    return machine(yaml.safe_load(PHARMACY.read_text()))


async def hear(session: Machine, *texts: str) -> Step:
    """Say these; keys begin with a slash."""
    for text in texts:
        step = await (session.dtmf(text[1:]) if text.startswith("/") else session.step(text))
        assert step.refused is None
    return step


async def test_the_greeting_is_said_once() -> None:
    session = pharmacy()
    assert (await session.enter()).response.startswith("Welcome to the pharmacy. You can refill")
    session.context.update_context("", "x", "menu")
    step = await hear(session, "/2", "yes", "123456", "yes", "tomorrow", "yes", "yes")
    assert step.state == "menu"
    assert "Welcome" not in step.response


async def test_a_refill_by_speech_with_every_value_read_back() -> None:
    session = pharmacy()
    await session.enter()
    step = await hear(session, "I need a refill", "one two three four five six")
    assert step.response == "I have 1 2 3 4 5 6. Is that right?"
    step = await hear(session, "no, it's six five four three two one")
    assert step.response == "I have 6 5 4 3 2 1. Is that right?"
    step = await hear(session, "no")
    assert step.response.startswith("Please say or key in the six digits")
    step = await hear(session, "654321", "yes", "tomorrow", "yes")
    assert step.response == "Your refill is ordered. Is there anything else?"
    assert session.context.slots["number"] == "654321"
    assert (await hear(session, "no thanks")).ends


async def test_a_refill_by_keys() -> None:
    session = pharmacy()
    await session.enter()
    await hear(session, "/1")
    assert session.state.key_rules.max_digits == 6
    step = await hear(session, "/123456", "/1")
    assert step.response == "On which day would you like to collect it?"


async def test_a_number_in_groups_is_waited_for() -> None:
    session = pharmacy()
    await session.enter()
    await hear(session, "refill")
    assert session.state.utterance_complete("one two three") is False
    assert session.state.utterance_complete("one two three four five six") is True


async def test_going_wrong_ends_where_the_document_says() -> None:
    session = pharmacy()
    await session.enter()
    first = await hear(session, "blue")
    second = await hear(session, "green")
    assert "Sorry" in first.response
    assert second.response.startswith("Please press one")
    assert (await hear(session, "red")).ends


async def test_silence_ends_where_the_document_says() -> None:
    session = pharmacy()
    await session.enter()
    first = await session.no_input()
    second = await session.no_input()
    assert first is not None
    assert second is not None
    assert first.response.startswith("I didn't hear anything.")
    assert second.ends


async def test_a_state_that_is_entered_again_asks_again() -> None:
    session = pharmacy()
    await session.enter()
    step = await hear(session, "refill", "123456", "yes", "tomorrow", "yes", "yes", "refill")
    assert step.response.startswith("What is your six digit prescription number?")


async def test_a_global_way_leads_back_to_where_one_was() -> None:
    session = machine(
        {
            "initial_state": "ask",
            "global_transitions": [{"to": "help", "when": ["help"], "returns": True, "priority": 9}],
            "states": [
                {
                    "name": "ask",
                    "slots": [
                        {"name": "colour", "type": "choice", "choices": ["red", "blue"], "ask": "Which colour?"},
                        {"name": "size", "type": "number", "ask": "Which size?"},
                    ],
                    "transitions": [{"to": "end", "say": "{{ colour }} in {{ size }}."}],
                },
                {
                    "name": "help",
                    "say": "Say red or blue. Ready?",
                    "transitions": [{"to": "@return", "when": ["ready"]}],
                },
                {"name": "end", "terminal": True},
            ],
        }
    )
    await session.enter()
    await hear(session, "red")
    step = await hear(session, "help", "ready")
    assert step.state == "ask"
    assert step.response == "Which size?"  # what was said before the excursion is kept
    step = await hear(session, "five")
    assert (step.response, step.ends) == ("red in 5.", True)


async def test_variables_are_set_on_the_way_and_decide() -> None:
    session = machine(
        {
            "initial_state": "a",
            "variables": {"tries": 0},
            "states": [
                {
                    "name": "a",
                    "slots": [{"name": "age", "type": "number", "ask": "How old are you?"}],
                    "transitions": [
                        {"to": "grown", "when": "age >= 18", "set": {"note": "is {{ age }}"}},
                        {"to": "young"},
                    ],
                },
                {"name": "grown", "say": "Welcome, you {{ note }}.", "terminal": True},
                {"name": "young", "say": "Sorry.", "terminal": True},
            ],
        }
    )
    await session.enter()
    assert (await hear(session, "twenty one")).response == "Welcome, you is 21."


async def test_a_state_with_too_many_turns_moves_on() -> None:
    states = [
        {"name": "a", "say": "Well?", "max_turns": 2, "on_max_turns": "b", "no_match": ["Hm.", "Hm!", "Hm?"]},
        {"name": "b", "say": "Enough.", "terminal": True},
    ]
    session = machine({"initial_state": "a", "states": states})
    await session.enter()
    assert (await hear(session, "x", "y", "z")).response == "Enough."


async def test_without_a_way_out_the_call_is_ended_with_the_agents_goodbye() -> None:
    session = machine({"initial_state": "a", "goodbye": "So long.", "states": [{"name": "a", "say": "Well?"}]})
    await session.enter()
    first = await hear(session, "x")
    assert first.response == "Sorry, I didn't get that. Well?"
    step = await hear(session, "y", "z")
    assert (step.response, step.ends) == ("So long.", True)


async def test_two_sessions_share_no_slots() -> None:
    config, _ = load(yaml.safe_load(PHARMACY.read_text()))
    afsm = AFSM(states_of(config), config.initial_state)
    one, two = Machine(afsm), Machine(afsm)
    await one.enter()
    await two.enter()
    await hear(one, "refill", "123456")
    await hear(two, "refill")
    assert (await hear(two, "yes")).response.startswith("Sorry")
    await hear(one, "yes")
    assert two.context.slots == {}


SAID = ["refill", "hours", "yes", "no", "123456", "12", "tomorrow", "bye", "", "/1", "/2", "/#", "x"]


@given(st.lists(st.sampled_from(SAID), max_size=25))
@settings(max_examples=100)
def test_no_conversation_ever_leaves_the_table(said: list[str]) -> None:
    import asyncio

    async def talk() -> None:
        session = pharmacy()
        step: Step | None = await session.enter()
        for text in said:
            if step is None or step.ends:
                return
            before = session.state.name
            step = await (session.no_input() if not text else _answer(session, text))
            if step is not None:
                assert step.refused is None
                assert step.state in session.afsm.states
                if step.transition:
                    assert step.transition.to_state in session.afsm.table[before]

    asyncio.run(talk())


async def _answer(session: Machine, text: str) -> Step:
    return await (session.dtmf(text[1:]) if text.startswith("/") else session.step(text))


@pytest.mark.parametrize("text", ["", "   "])
async def test_an_empty_utterance_is_not_understood(text: str) -> None:
    session = pharmacy()
    await session.enter()
    assert "Sorry" in (await session.step(text)).response


async def test_the_keys_of_a_state_are_what_its_document_says() -> None:
    dtmf = {"min_digits": 2, "max_digits": 4, "terminator": "*", "inter_digit_seconds": 1.5, "menu": {"12345": "a"}}
    slot = {"name": "pin", "type": "text", "ask": "Your pin?"}
    session = machine({"initial_state": "a", "states": [{"name": "a", "dtmf": dtmf, "slots": [slot]}]})
    await session.enter()
    rules = session.state.key_rules
    assert (rules.max_digits, rules.terminator, rules.inter_digit_s) == (5, "*", 1.5)
    assert "Sorry" in (await hear(session, "/1")).response
    await hear(session, "/12")
    assert session.context.slots == {"pin": "12"}


async def test_an_empty_input_of_keys_opens_no_way() -> None:
    slot = {"name": "pin", "type": "digits", "min_digits": 4, "max_digits": 4, "ask": "Your pin?"}
    states = [
        {"name": "pin", "slots": [slot], "transitions": [{"to": "inside"}]},
        {"name": "inside", "say": "You are in.", "terminal": True},
    ]
    session = machine({"initial_state": "pin", "states": states})
    await session.enter()
    step = await session.dtmf("")
    assert step.state == "pin"
    assert "You are in" not in step.response
