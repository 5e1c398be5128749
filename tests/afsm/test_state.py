"""States and their results."""

import threading
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fastagent.afsm import AFSMState, ConversationContext, StateResult
from fastagent.afsm.errors import AfsmError, StateError

# -- results ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("value", "result"),
    [
        pytest.param("Hello.", StateResult("Hello."), id="a text"),
        pytest.param({"response": "Hello."}, StateResult("Hello."), id="only a response"),
        pytest.param(
            {"response": "Hello.", "next_state": "name", "confidence": 0.95},
            StateResult("Hello.", "name", 0.95),
            id="the documented dictionary",
        ),
        pytest.param(
            {"response": "", "next_state": None, "confidence": None}, StateResult(""), id="nothing said, nothing known"
        ),
        pytest.param({"response": "Hello.", "confidence": 1}, StateResult("Hello.", None, 1.0), id="a whole number"),
        pytest.param(
            {"response": "Hello.", "slot": "x", "n": 2},
            StateResult("Hello.", metadata={"slot": "x", "n": 2}),
            id="more keys",
        ),
    ],
)
def test_what_process_may_return(value: Any, result: StateResult) -> None:
    assert StateResult.of(value) == result


def test_a_result_is_taken_as_it_is() -> None:
    result = StateResult("Hello.", "name")
    assert StateResult.of(result) is result


@pytest.mark.parametrize(
    "value",
    [
        pytest.param(None, id="nothing"),
        pytest.param(5, id="a number"),
        pytest.param(["Hello."], id="a list"),
        pytest.param({}, id="no response"),
        pytest.param({"response": None}, id="a response that is none"),
        pytest.param({"response": b"Hello."}, id="bytes"),
        pytest.param({"response": "Hello.", "next_state": 5}, id="a state that is no name"),
        pytest.param({"response": "Hello.", "next_state": ["name"]}, id="several states"),
        pytest.param({"response": "Hello.", "confidence": "high"}, id="a word for a number"),
        pytest.param({"response": "Hello.", "confidence": True}, id="a switch for a number"),
    ],
)
def test_what_process_may_not_return(value: Any) -> None:
    with pytest.raises(StateError):
        StateResult.of(value)


@pytest.mark.parametrize(
    "result",
    [StateResult(None), StateResult("Hello.", 5), StateResult("Hello.", None, "high")],  # type: ignore[arg-type]
    ids=["no text", "no name", "no number"],
)
def test_a_result_of_the_wrong_types_is_no_better_than_such_a_dictionary(result: StateResult) -> None:
    with pytest.raises(StateError):
        StateResult.of(result)


@given(
    st.one_of(st.none(), st.booleans(), st.floats(), st.binary(), st.dictionaries(st.text(max_size=3), st.integers()))
)
@settings(max_examples=50)
def test_any_other_value_raises_only_the_declared_error(value: Any) -> None:
    with pytest.raises(AfsmError):
        StateResult.of(value)


def test_the_dictionary_that_process_returned_is_left_as_it_was() -> None:
    value = {"response": "Hello.", "next_state": "name", "slot": 1}
    StateResult.of(value)
    assert value == {"response": "Hello.", "next_state": "name", "slot": 1}


# -- defaults --------------------------------------------------------------------------------------------------------


async def test_a_plain_state_says_that_it_cannot_help_and_stays() -> None:
    state = AFSMState("plain")
    context = ConversationContext()
    assert await state.process("Hello", context) == StateResult("I'm sorry, I can't help with that yet.")
    assert await state.on_enter(context) == ""
    assert state.utterance_complete("anything") is None
    assert (state.scratchpad, state.description, state.allowed_transitions) == ("", "", [])
    assert (state.terminal, state.interruptible, state.dtmf_max_digits) == (False, True, 1)


async def test_keys_are_answered_as_if_their_digits_had_been_said() -> None:
    class Echo(AFSMState):
        async def process(self, input_text: str, context: ConversationContext) -> Any:
            return f"You said {input_text}."

    assert await Echo("echo").on_dtmf("12#", ConversationContext()) == "You said 12#."


async def test_silence_is_answered_once_and_then_given_up() -> None:
    state = AFSMState("plain")
    context = ConversationContext()
    first = await state.on_no_input(1, context)
    assert first == StateResult("Are you still there?")
    assert await state.on_no_input(2, context) is None


async def test_a_state_may_override_only_its_answer_or_only_its_next_state() -> None:
    class Parts(AFSMState):
        async def _generate_response(self, input_text: str, context: ConversationContext) -> str:
            return input_text.upper()

        def _determine_next_state(self, input_text: str, response: str) -> str | None:
            return response.lower()

    assert await Parts("parts").process("Next", ConversationContext()) == StateResult("NEXT", "next")


def test_transitions_may_be_given_as_anything_iterable() -> None:
    assert AFSMState("a", "", (name for name in ("b", "c"))).allowed_transitions == ["b", "c"]
    assert AFSMState("a", allowed_transitions={"b": 1}).allowed_transitions == ["b"]


def test_a_state_shows_its_name_and_where_it_leads() -> None:
    assert repr(AFSMState("a", "", ["b", "c"])) == "<AFSMState 'a' -> b, c>"
    assert repr(AFSMState("end")) == "<AFSMState 'end' -> nothing>"


# -- copies for sessions ---------------------------------------------------------------------------------------------


class Writer(AFSMState):
    """Writes to itself in all the ways that a state may."""

    def __init__(self) -> None:
        super().__init__("writer", "", ["writer"])
        self.seen: list[str] = []
        self.slots: dict[str, list[str]] = {"names": []}
        self.also_seen = self.seen
        self.lock = threading.Lock()
        self.client = {"lock": self.lock}
        self.routes: dict[str, Callable[[str], None]] = {"note": self.note}
        self.noted = ""
        self.me = self

    def note(self, text: str) -> None:
        self.noted = text


def test_a_copy_shares_no_plain_data_with_its_original_or_another_copy() -> None:
    original = Writer()
    first, second = original.for_session(), original.for_session()
    first.scratchpad = "thinking"
    first.seen.append("x")
    first.slots["names"].append("Anna")
    first.allowed_transitions.append("elsewhere")
    first.noted = "x"
    for other in (original, second):
        assert (other.scratchpad, other.seen, other.slots, other.noted) == ("", [], {"names": []}, "")
        assert other.allowed_transitions == ["writer"]


def test_a_copy_is_a_state_of_the_same_class_and_definition() -> None:
    copy = Writer().for_session()
    assert type(copy) is Writer
    assert (copy.name, copy.allowed_transitions) == ("writer", ["writer"])


def test_what_cannot_be_copied_is_shared() -> None:
    original = Writer()
    copy = original.for_session()
    assert copy.lock is original.lock
    assert copy.client["lock"] is original.lock


def test_a_copy_of_a_copy_takes_over_what_was_written() -> None:
    first = Writer().for_session()
    first.seen.append("x")
    second = first.for_session()
    second.seen.append("y")
    assert (first.seen, second.seen) == (["x"], ["x", "y"])


def test_a_method_that_a_state_keeps_works_on_the_session_s_own_copy() -> None:
    copy = Writer().for_session()
    copy.routes["note"]("from a route")
    assert copy.noted == "from a route"


def test_a_state_that_refers_to_itself_refers_to_the_session_s_own_copy() -> None:
    copy = Writer().for_session()
    assert copy.me is copy


def test_two_names_of_one_list_are_one_list_in_the_copy_too() -> None:
    copy = Writer().for_session()
    assert copy.also_seen is copy.seen
