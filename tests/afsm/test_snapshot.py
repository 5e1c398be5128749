"""A machine as a document, and back: whatever happened in a conversation, it goes on from its snapshot."""

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fastagent.afsm.context import ConversationContext
from fastagent.afsm.machine import AFSM, Machine, Transition
from fastagent.afsm.state import AFSMState, StateResult

NAMES = ("greeting", "order", "done")


class Noting(AFSMState):
    """Goes where it is told, and notes what was said."""

    async def process(self, input_text: str, context: ConversationContext) -> Any:
        self.scratchpad += input_text
        context.slots[self.name] = input_text
        target = input_text if input_text in NAMES else None
        return StateResult(f"You said {input_text}", target)

    async def on_resume(self, context: ConversationContext) -> str:
        return f"We were at {self.name}."


def afsm(*names: str) -> AFSM:
    every = names or NAMES
    return AFSM([Noting(name, "notes", [*every]) for name in every], every[0])


def machine(*names: str) -> Machine:
    return Machine(afsm(*names))


def through_json(snapshot: dict[str, Any]) -> dict[str, Any]:
    return dict(json.loads(json.dumps(snapshot, allow_nan=False)))


texts = st.text(max_size=12)
plain = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | texts
json_values = st.recursive(plain, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(texts, inner, max_size=3))
objects = st.dictionaries(texts, json_values, max_size=3)
exchanges = st.lists(
    st.tuples(st.sampled_from(NAMES) | texts, texts, st.none() | texts, st.booleans()), max_size=8
)  # said, answered, heard, interrupted


@given(exchanges, objects, objects, objects, objects, objects, st.integers(1, 4))
@settings(max_examples=60)
async def test_any_machine_is_restored_from_json_as_it_was(
    said: list[tuple[str, str, str | None, bool]],
    facts: dict[str, Any],
    profile: dict[str, Any],
    metadata: dict[str, Any],
    slots: dict[str, Any],
    variables: dict[str, Any],
    max_history: int,
) -> None:
    before = Machine(afsm(), ConversationContext(max_history))
    context = before.context
    for name, value in facts.items():
        context.add_salient_fact(name, value)
    context.update_user_profile(profile)
    context.metadata.update(metadata)
    context.slots.update(slots)
    context.variables.update(variables)
    for user, _, heard, interrupted in said:
        step = await before.step(user)
        context.update_context(user, step.response, step.state, heard=heard, interrupted=interrupted)
    snapshot = before.snapshot()
    document = through_json(snapshot)
    after = Machine.restore(before.afsm, document)
    assert after.snapshot() == snapshot
    assert after.state.name == before.state.name
    assert after.context.values() == context.values()
    assert after.context.to_messages() == context.to_messages()
    assert {name: after.afsm.states[name].scratchpad for name in NAMES} == dict.fromkeys(NAMES, "")
    # Both go on alike, and neither knows of the other.
    steps = [await one.step("order") for one in (before, after)]
    assert steps[0] == steps[1]
    assert after.snapshot() == before.snapshot()
    assert through_json(snapshot) == document


async def test_a_restored_machine_tells_its_transitions_and_says_where_it_was() -> None:
    before = machine()
    await before.step("order")
    moves: list[Transition] = []
    after = Machine.restore(before.afsm, through_json(before.snapshot()), on_transition=moves.append)
    said = [event async for event in after.resumption("Sorry.")]
    assert said[-1].response == "Sorry. We were at order."  # type: ignore[union-attr]
    await after.step("done")
    assert moves == [Transition("order", "done")]


async def test_a_snapshot_does_not_change_with_the_machine() -> None:
    one = machine()
    await one.step("order")
    snapshot = one.snapshot()
    text = json.dumps(snapshot)
    await one.step("done")
    one.context.slots["order"] = "more"
    assert json.dumps(snapshot) == text


async def test_notes_that_are_no_text_are_stored_as_one() -> None:
    one = machine()
    one.state.scratchpad = {1, 2}  # type: ignore[assignment]
    restored = Machine.restore(one.afsm, through_json(one.snapshot()))
    assert restored.state.scratchpad == "{1, 2}"


async def test_notes_of_states_that_are_gone_are_forgotten() -> None:
    one = machine()
    await one.step("order")
    await one.step("done")
    restored = Machine.restore(afsm("order", "done"), through_json(one.snapshot()))
    assert restored.state.name == "done"
    assert restored.snapshot()["scratchpads"] == {"order": "done"}


async def test_a_state_that_is_gone_is_a_value_error_that_names_it() -> None:
    one = machine()
    await one.step("order")
    with pytest.raises(ValueError, match="no state 'order'"):
        Machine.restore(afsm("greeting"), one.snapshot())


NESTED: dict[str, Any] = {}
for _ in range(900):  # which a JSON parser takes
    NESTED = {"a": NESTED}
EXCHANGE = {"user": "a", "spoken": "b", "state": "c", "heard": "d", "interrupted": False}


@pytest.mark.parametrize(
    "damage",
    [
        pytest.param({"state": None}, id="no state"),
        pytest.param({"state": ["order"]}, id="a list for a state"),
        pytest.param({"context": None}, id="no context"),
        pytest.param({"scratchpads": []}, id="scratchpads that are no object"),
    ],
)
def test_a_damaged_snapshot_is_a_value_error(damage: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"damaged|no state"):
        Machine.restore(afsm(), {**machine().snapshot(), **damage})


@pytest.mark.parametrize(
    "damage",
    [
        pytest.param({"max_history": 1e308}, id="too long a history"),
        pytest.param({"max_history": float("inf")}, id="an endless history"),
        pytest.param({"history": [{**EXCHANGE, "user": 5}]}, id="a number for an utterance"),
        pytest.param({"history": [{**EXCHANGE, "heard": None}]}, id="nothing for what was heard"),
        pytest.param({"history": [{**EXCHANGE, "interrupted": "no"}]}, id="a word for a truth"),
        pytest.param({"history": [{**EXCHANGE, "more": 1}]}, id="an exchange with more in it"),
        pytest.param({"facts": NESTED}, id="nested deeply"),
        pytest.param({"slots": None}, id="no slots"),
    ],
)
def test_a_damaged_context_is_a_value_error(damage: dict[str, Any]) -> None:
    snapshot = machine().snapshot()
    snapshot["context"] |= damage
    with pytest.raises(ValueError, match="the snapshot is damaged"):
        Machine.restore(afsm(), snapshot)


@given(json_values)
def test_anything_else_is_a_value_error_or_ignored(value: Any) -> None:
    for name in ("state", "scratchpads", "context"):
        try:
            Machine.restore(afsm(), {**machine().snapshot(), name: value})
        except ValueError:
            pass
    for name in ("version", "max_history", "history", "facts", "profile", "metadata", "slots", "variables"):
        snapshot = machine().snapshot()
        snapshot["context"][name] = value
        try:
            Machine.restore(afsm(), snapshot)
        except ValueError:
            pass
