"""The machine: a transition is one atomic step, and a session is always in exactly one state."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fastagent.afsm import AFSM, AFSMState, ConversationContext, Ending, Machine, StateResult, Step, Transition
from fastagent.afsm.errors import DefinitionError, InvalidTransitionError, StateError

# From the section "Defining Custom States" of the API document, unchanged.
DOCUMENTED = '''
from fastagent.afsm import AFSMState

class GreetingState(AFSMState):
    """Initial greeting state that welcomes callers."""
    
    def __init__(self):
        super().__init__(
            name="greeting",
            description="Welcomes the user and identifies their needs",
            allowed_transitions=["collect_info", "handle_query"]
        )
    
    async def process(self, input_text, context):
        """Process user input in this state."""
        # Access scratchpad for reasoning
        self.scratchpad = f"User said: {input_text}\\nI should greet them and identify their needs."
        
        # Generate response using the state-specific logic
        response = await self._generate_response(input_text, context)
        
        # Determine next state
        next_state = self._determine_next_state(input_text, response)
        
        return {
            "response": response,
            "next_state": next_state,
            "confidence": 0.95
        }
    
    def _determine_next_state(self, input_text, response):
        """Determine the next state based on input and response."""
        if "help" in input_text.lower() or "question" in input_text.lower():
            return "handle_query"
        else:
            return "collect_info"
'''  # noqa: W293

CANNOT = "I'm sorry, I can't help with that yet."


class Scripted(AFSMState):
    """Goes where the caller says, and opens with a fixed sentence."""

    def __init__(self, name: str, to: list[str], opening: str = "", **kwargs: Any) -> None:
        super().__init__(name, "", to, **kwargs)
        self.opening = opening
        self.visits = 0

    async def on_enter(self, context: ConversationContext) -> str:
        self.visits += 1
        return self.opening

    async def process(self, input_text: str, context: ConversationContext) -> Any:
        return StateResult(f"To {input_text}.", input_text or None, 0.5, {"from": self.name})


def machine(*states: AFSMState, moves: list[Transition] | None = None) -> Machine:
    """A machine that begins in the first of these states."""
    seen = moves if moves is not None else []
    return Machine(AFSM(states, states[0].name), on_transition=seen.append)


def triangle(moves: list[Transition] | None = None) -> Machine:
    return machine(
        Scripted("a", ["b"], "I am a."), Scripted("b", ["c", "a"], "I am b."), Scripted("c", ["b"]), moves=moves
    )


# -- the definition --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("names", "initial", "fault"),
    [
        pytest.param([], "a", "1 to 200 states", id="no states"),
        pytest.param([str(at) for at in range(201)], "0", "1 to 200 states", id="too many"),
        pytest.param(["a", "b", "a"], "a", "same name", id="a name twice"),
        pytest.param(["a"], "b", "initial state", id="an unknown initial state"),
        pytest.param(["a"], "", "initial state", id="no initial state"),
        pytest.param(["a", ""], "a", "no name", id="an empty name"),
        pytest.param(["a", "x" * 65], "a", "no name", id="a name too long"),
        pytest.param(["a", "b\n"], "a", "no name", id="a line break in a name"),
        pytest.param(["a", "b\x00"], "a", "no name", id="a control character in a name"),
    ],
)
def test_states_that_do_not_make_a_machine_are_refused(names: list[str], initial: str, fault: str) -> None:
    with pytest.raises(DefinitionError, match=fault):
        AFSM([AFSMState(name) for name in names], initial)


@pytest.mark.parametrize("name", [None, 5, b"a", ("a",)], ids=repr)
def test_a_name_that_is_no_text_is_refused_with_a_definition_error(name: Any) -> None:
    with pytest.raises(DefinitionError):
        AFSM([AFSMState("a"), AFSMState(name)], "a")


def test_two_hundred_states_with_names_of_sixty_four_characters_are_a_machine() -> None:
    afsm = AFSM([AFSMState(f"{at:064}") for at in range(200)], f"{0:064}")
    assert len(afsm.states) == 200


def test_a_transition_that_leads_to_no_state_is_a_warning() -> None:
    afsm = AFSM([AFSMState("a", "", ["b", "nowhere"]), AFSMState("b", "", ["gone"])], "a")
    assert afsm.warnings == [
        "a: the transition to 'nowhere' leads to no state",
        "b: the transition to 'gone' leads to no state",
    ]
    assert AFSM([AFSMState("a", "", ["a"])], "a").warnings == []


def test_the_table_is_what_the_states_allowed_when_the_machine_was_made() -> None:
    state = AFSMState("a", "", ["b"])
    afsm = AFSM([state, AFSMState("b")], "a")
    state.allowed_transitions.append("c")
    assert afsm.table == {"a": frozenset({"b"}), "b": frozenset()}
    with pytest.raises(TypeError):
        afsm.table["a"] = frozenset()  # type: ignore[index]


def test_a_move_is_checked_against_the_table() -> None:
    afsm = AFSM([AFSMState("a", "", ["b", "gone", "c"]), AFSMState("b"), AFSMState("c")], "a")
    afsm.check("a", "b")
    for from_state, to_state, allowed in [("a", "gone", ["b", "c"]), ("a", "a", ["b", "c"]), ("b", "a", [])]:
        with pytest.raises(InvalidTransitionError) as caught:
            afsm.check(from_state, to_state)
        assert caught.value.details == {"from_state": from_state, "to_state": to_state, "allowed": allowed}
    assert str(caught.value) == "b may not go to a; allowed: none"


# -- steps -----------------------------------------------------------------------------------------------------------


async def test_a_session_begins_in_the_initial_state_with_its_opening() -> None:
    session = triangle()
    assert await session.enter() == Step("I am a.", "a")
    assert session.state.name == "a"


async def test_a_step_moves_and_says_the_answer_and_the_opening_of_the_next_state() -> None:
    moves: list[Transition] = []
    session = triangle(moves)
    assert await session.step("b") == Step(
        "To b. I am b.", "b", Transition("a", "b"), confidence=0.5, metadata={"from": "a"}
    )
    assert moves == [Transition("a", "b")]
    assert session.state.name == "b"


async def test_a_step_may_stay() -> None:
    moves: list[Transition] = []
    session = triangle(moves)
    for text in ("", "a"):  # no next state, and the state's own name
        step = await session.step(text)
        assert (step.state, step.transition, step.refused) == ("a", None, None)
    assert moves == []


async def test_staying_does_not_enter_the_state_again() -> None:
    session = triangle()
    await session.enter()
    await session.step("a")
    state = session.state
    assert isinstance(state, Scripted)
    assert state.visits == 1


@pytest.mark.parametrize(("answer", "opening", "said"), [("", "Next?", "Next?"), ("Fine.", "", "Fine."), ("", "", "")])
async def test_answer_and_opening_are_joined_without_stray_spaces(answer: str, opening: str, said: str) -> None:
    class Quiet(Scripted):
        async def process(self, input_text: str, context: ConversationContext) -> Any:
            return StateResult(answer, "b")

    assert (await machine(Quiet("a", ["b"]), Scripted("b", [], opening)).step("x")).response == said


async def test_an_opening_that_returns_nothing_says_nothing() -> None:
    class Silent(AFSMState):
        async def on_enter(self, context: ConversationContext) -> str:
            return None  # type: ignore[return-value]  # what a method without `return` gives

    session = machine(Scripted("a", ["b"]), Silent("b"))
    assert (await session.step("b")).response == "To b."
    assert (await machine(Silent("b")).enter()).response == ""


@pytest.mark.parametrize("target", ["c", "nowhere", "gone", "A", " b"])
async def test_an_illegal_target_changes_nothing(target: str) -> None:
    moves: list[Transition] = []
    session = machine(Scripted("a", ["b", "gone"]), Scripted("b", []), Scripted("c", []), moves=moves)
    before = session.state
    step = await session.step(target)
    assert (step.response, step.state, step.transition, step.ends) == (f"To {target}.", "a", None, False)
    assert step.refused is not None
    assert step.refused.details == {"from_state": "a", "to_state": target, "allowed": ["b"]}
    assert session.state is before
    assert moves == []


async def test_a_session_cannot_widen_its_own_table() -> None:
    session = triangle()
    session.state.allowed_transitions.append("c")
    assert (await session.step("c")).refused is not None


async def test_entering_a_terminal_state_ends_the_call_and_staying_does_not() -> None:
    session = machine(Scripted("a", ["end"]), Scripted("end", ["a"], "Bye.", terminal=True))
    assert not (await session.step("a")).ends
    assert (await session.step("end")).ends
    assert not (await session.step("end")).ends
    assert not (await session.step("a")).ends


async def test_a_machine_that_begins_in_a_terminal_state_ends_at_once() -> None:
    assert (await machine(Scripted("end", [], "We are closed.", terminal=True)).enter()).ends


async def test_what_no_state_may_return_is_an_error_and_changes_nothing() -> None:
    class Broken(AFSMState):
        async def process(self, input_text: str, context: ConversationContext) -> Any:
            return {"next_state": "b"}

    session = machine(Broken("a", "", ["b"]), AFSMState("b"))
    with pytest.raises(StateError):
        await session.step("x")
    assert session.state.name == "a"


async def test_keys_take_the_same_way_as_words() -> None:
    session = triangle()
    assert (await session.dtmf("b")).transition == Transition("a", "b")


async def test_silences_are_counted_in_a_row_until_the_caller_says_something() -> None:
    counts: list[int] = []

    class Patient(AFSMState):
        async def on_no_input(self, count: int, context: ConversationContext) -> Any:
            counts.append(count)
            return StateResult("Hello?")

    session = machine(Patient("a"))
    await session.no_input()
    await session.no_input()
    await session.step("Hi.")
    await session.no_input()
    await session.no_input()
    await session.dtmf("1")
    await session.no_input()
    assert counts == [1, 2, 1, 2, 1]


async def test_silence_may_lead_to_another_state_or_to_the_end() -> None:
    class Impatient(AFSMState):
        async def on_no_input(self, count: int, context: ConversationContext) -> Any:
            return {"response": "Bye.", "next_state": "end"} if count == 1 else None

    session = machine(Impatient("a", "", ["end"]), AFSMState("end", terminal=True))
    assert await session.no_input() == Step("Bye.", "end", Transition("a", "end"), ending=Ending())
    assert await machine(AFSMState("a")).no_input() == Step("Are you still there?", "a")
    quiet = machine(AFSMState("a"))
    await quiet.no_input()
    assert await quiet.no_input() is None


async def test_all_states_are_given_the_context_of_the_session() -> None:
    class Remembering(AFSMState):
        async def process(self, input_text: str, context: ConversationContext) -> Any:
            context.add_salient_fact("said", input_text)
            return StateResult("Fine.", "b")

        async def on_enter(self, context: ConversationContext) -> str:
            return f"You said {context.facts.get('said', 'nothing')}."

    context = ConversationContext()
    session = Machine(AFSM([Remembering("a", "", ["b"]), Remembering("b")], "a"), context)
    assert (await session.enter()).response == "You said nothing."
    assert (await session.step("hello")).response == "Fine. You said hello."
    assert context.facts == {"said": "hello"}


async def test_sessions_without_a_context_get_one_each() -> None:
    afsm = AFSM([AFSMState("a")], "a")
    first, second = Machine(afsm), Machine(afsm)
    first.context.add_salient_fact("x", 1)
    assert second.context.facts == {}


@given(st.lists(st.sampled_from(["a", "b", "c", "d", "", "gone"]), max_size=20))
@settings(max_examples=100)
async def test_a_session_stays_in_its_table_whatever_is_asked(texts: list[str]) -> None:
    moves: list[Transition] = []
    table = {"a": ["b", "c"], "b": ["a", "gone"], "c": ["d"], "d": []}
    session = machine(*(Scripted(name, to) for name, to in table.items()), moves=moves)
    at = "a"
    for text in texts:
        step = await session.step(text)
        allowed = text in table[at] and text in table
        assert (step.transition is not None) is allowed
        assert (step.refused is not None) is (text not in (at, "") and not allowed)
        at = text if allowed else at
        assert step.state == session.state.name == at
    assert all(move.to_state in table[move.from_state] for move in moves)


# -- sessions among themselves ---------------------------------------------------------------------------------------


class Counter(AFSMState):
    """Writes to itself."""

    def __init__(self) -> None:
        super().__init__("count", "", ["count", "other"])
        self.heard: list[str] = []

    async def process(self, input_text: str, context: ConversationContext) -> Any:
        self.scratchpad += input_text
        await asyncio.sleep(0.1)
        self.heard.append(input_text)
        return StateResult(f"{self.scratchpad} {self.heard}")


async def test_sessions_never_share_a_scratchpad_or_attributes() -> None:
    original = Counter()
    afsm = AFSM([original, AFSMState("other")], "count")
    first, second = Machine(afsm), Machine(afsm)
    steps = await asyncio.gather(first.step("x"), second.step("y"))
    assert [step.response for step in steps] == ["x ['x']", "y ['y']"]
    assert (await first.step("z")).response == "xz ['x', 'z']"
    assert (original.scratchpad, original.heard) == ("", [])
    assert (await Machine(afsm).step("w")).response == "w ['w']"


async def test_a_state_remembers_what_it_wrote_when_its_session_comes_back() -> None:
    class Back(AFSMState):
        async def process(self, input_text: str, context: ConversationContext) -> Any:
            return StateResult("", "a")

    class Tally(Scripted):
        async def process(self, input_text: str, context: ConversationContext) -> Any:
            self.scratchpad += input_text
            return StateResult(self.scratchpad, "b")

    session = machine(Tally("a", ["b"]), Back("b", "", ["a"]))
    await session.step("x")
    await session.step("")
    assert (await session.step("y")).response == "xy"


# -- cancellation ----------------------------------------------------------------------------------------------------


class Slow(AFSMState):
    """Takes its time where it is told to."""

    def __init__(self, name: str, to: list[str], *, thinking_s: float = 0.0, opening_s: float = 0.0) -> None:
        super().__init__(name, "", to)
        self.thinking_s, self.opening_s = thinking_s, opening_s

    async def on_enter(self, context: ConversationContext) -> str:
        await asyncio.sleep(self.opening_s)
        return "Here I am."

    async def process(self, input_text: str, context: ConversationContext) -> Any:
        await asyncio.sleep(self.thinking_s)
        return StateResult("On my way.", "b")

    async def on_dtmf(self, digits: str, context: ConversationContext) -> Any:
        return await self.process(digits, context)

    async def on_no_input(self, count: int, context: ConversationContext) -> Any:
        return await self.process("", context)


async def cancelled_after(seconds: float, work: Awaitable[Any]) -> None:
    task = asyncio.ensure_future(work)
    await asyncio.sleep(seconds)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


INPUTS = pytest.mark.parametrize(
    "give",
    [
        pytest.param(lambda session: session.step("x"), id="words"),
        pytest.param(lambda session: session.dtmf("1"), id="keys"),
        pytest.param(lambda session: session.no_input(), id="silence"),
    ],
)


@INPUTS
async def test_a_cancellation_while_a_state_thinks_leaves_the_session_where_it_was(
    give: Callable[[Machine], Awaitable[Any]],
) -> None:
    moves: list[Transition] = []
    session = machine(Slow("a", ["b"], thinking_s=5), Slow("b", []), moves=moves)
    await cancelled_after(1, give(session))
    assert session.state.name == "a"
    assert moves == []
    await give(session)
    assert session.state.name == "b"


@INPUTS
async def test_a_transition_that_was_committed_survives_a_cancellation_in_the_opening(
    give: Callable[[Machine], Awaitable[Any]],
) -> None:
    moves: list[Transition] = []
    session = machine(Slow("a", ["b"]), Slow("b", [], opening_s=5), moves=moves)
    await cancelled_after(1, give(session))
    assert session.state.name == "b"
    assert moves == [Transition("a", "b")]


async def test_a_transition_that_was_committed_survives_an_opening_that_fails() -> None:
    class Broken(AFSMState):
        async def on_enter(self, context: ConversationContext) -> str:
            raise LookupError("broken")

    moves: list[Transition] = []
    session = machine(Scripted("a", ["b"]), Broken("b"), moves=moves)
    with pytest.raises(LookupError):
        await session.step("b")
    assert session.state.name == "b"
    assert moves == [Transition("a", "b")]


async def test_a_state_that_raises_leaves_the_session_where_it_was() -> None:
    class Broken(AFSMState):
        async def process(self, input_text: str, context: ConversationContext) -> Any:
            raise LookupError("broken")

    session = machine(Broken("a", "", ["b"]), AFSMState("b"))
    with pytest.raises(LookupError):
        await session.step("x")
    assert session.state.name == "a"


# -- the documented example ------------------------------------------------------------------------------------------


def documented_greeting() -> AFSMState:
    names: dict[str, Any] = {}
    exec(DOCUMENTED, names)
    state = names["GreetingState"]()
    assert isinstance(state, AFSMState)
    return state


async def test_the_documented_state_moves_on_to_states_that_exist() -> None:
    afsm = AFSM([documented_greeting(), AFSMState("collect_info"), AFSMState("handle_query")], "greeting")
    assert afsm.warnings == []
    helped, told = Machine(afsm), Machine(afsm)
    assert await helped.step("I need help") == Step(
        CANNOT, "handle_query", Transition("greeting", "handle_query"), confidence=0.95
    )
    assert (await told.step("My name is Anna")).transition == Transition("greeting", "collect_info")


async def test_the_documented_state_alone_is_a_machine_with_dangling_transitions() -> None:
    afsm = AFSM([documented_greeting()], "greeting")
    assert afsm.warnings == [
        "greeting: the transition to 'collect_info' leads to no state",
        "greeting: the transition to 'handle_query' leads to no state",
    ]
    session = Machine(afsm)
    step = await session.step("I have a question")
    assert (step.response, step.state, step.transition) == (CANNOT, "greeting", None)
    assert step.refused is not None
    assert step.refused.details["allowed"] == []


async def test_the_documented_state_reasons_in_a_scratchpad_of_its_session() -> None:
    original = documented_greeting()
    afsm = AFSM([original, AFSMState("collect_info")], "greeting")
    session = Machine(afsm)
    state = session.state
    await session.step("Hello")
    assert state.scratchpad == "User said: Hello\nI should greet them and identify their needs."
    assert original.scratchpad == ""
    assert Machine(afsm).state.scratchpad == ""
