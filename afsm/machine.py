"""The machine: one literal table of moves, and a transition as one atomic step.

    input --> process() --> result --> propose --> validate --> commit --> what to say
              may be cancelled         \\________ one synchronous step ________/

`process` may take its time and may be cancelled by a barge-in at any `await`. What it proposes is then checked against
the table and applied in one synchronous step, which no cancellation can split: a session is always in exactly one
state, and a transition that was committed stays. A target that the table does not allow changes nothing.
"""

import asyncio
from collections import deque
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Mapping, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field
from inspect import isawaitable
from types import MappingProxyType
from typing import Any

from fastagent.afsm.context import ConversationContext
from fastagent.afsm.errors import DefinitionError, InvalidTransitionError, StateError
from fastagent.afsm.state import AFSMState, Ending, StateResult

_MAX_STATES = 200
_MAX_NAME = 64
_MAX_REASON = 200


@dataclass(frozen=True, slots=True)
class Transition:
    """A committed move."""

    from_state: str
    to_state: str
    reason: str = field(default="", compare=False)
    """Why, as the state tells it under `reason` in its result: for events and people, not for the machine."""


@dataclass(frozen=True, slots=True)
class Step:
    """What the machine did with an input."""

    response: str
    state: str
    transition: Transition | None = None
    refused: InvalidTransitionError | None = None
    ending: Ending | None = None
    """What is to be done with the call when the response was heard; None: it goes on."""
    confidence: float | None = None
    metadata: Mapping[str, Any] = field(default_factory=dict)
    rest: str = field(default="", compare=False)
    """The part of the response that was not yet given out as `Said`."""
    gives_up: bool = False
    """The state has no answer to silence, or to its timeout, any more."""

    @property
    def ends(self) -> bool:
        """Whether this is the last answer of this machine."""
        return self.ending is not None


@dataclass(frozen=True, slots=True)
class Said:
    """A piece of the response, as soon as it is there; pieces follow each other without a break."""

    text: str


Response = AsyncGenerator[Said | Step, None]
"""Pieces of what is said, and at the end one `Step`, whose response is all of it."""


async def collect(response: Response) -> Step:
    """Return the step at the end of a response."""
    step: Step | None = None
    async with aclosing(response) as events:
        async for event in events:
            if isinstance(event, Step):
                step = event
    if step is None:
        raise StateError("the response had no end")
    return step


async def _worked(work: Callable[[], Any], speak: Callable[[str], None]) -> Any:
    """Return what a state returns: a value, a coroutine's, or the last one of a generator whose texts are speech."""
    result = work()
    if isawaitable(result):
        result = await result
    if not isinstance(result, AsyncIterator):
        return result
    last: Any = StateResult("")
    async for piece in result:
        if isinstance(piece, str):
            speak(piece)
        else:
            last = piece
    return last


def _unsaid(response: str, said: str) -> str:
    """Return a response without what was said of it already: a state may stream a text and return it as well."""
    whole, begun = " ".join(response.split()), " ".join(said.split())
    return whole[len(begun) :].strip() if begun and whole.startswith(begun) else response


class AFSM:
    """The checked definition that all sessions of an agent share.

    Raises:
        DefinitionError: no states, too many, a name twice or out of form, or an unknown initial state.
    """

    def __init__(self, states: Sequence[AFSMState], initial_state: str) -> None:
        if not 0 < len(states) <= _MAX_STATES:
            raise DefinitionError(f"a machine has 1 to {_MAX_STATES} states, not {len(states)}")
        self.states = {state.name: state for state in states}
        if len(self.states) < len(states):
            raise DefinitionError("two states have the same name")
        for name in self.states:
            if not isinstance(name, str) or not 0 < len(name) <= _MAX_NAME or not name.isprintable():
                raise DefinitionError(f"{name!r:.80} is no name of a state")
        if initial_state not in self.states:
            raise DefinitionError(f"the initial state {initial_state!r} is not among the states")
        self.initial_state = initial_state
        self.table: Mapping[str, frozenset[str]] = MappingProxyType(
            {state.name: frozenset(state.moves) for state in states}
        )
        self.warnings = [
            f"{state.name}: the transition to {target!r} leads to no state"
            for state in states
            for target in state.moves
            if target not in self.states
        ]

    def check(self, from_state: str, to_state: str) -> None:
        """Raise `InvalidTransitionError` unless the table allows this move."""
        if to_state not in self.table[from_state] or to_state not in self.states:
            allowed = sorted(self.table[from_state] & self.states.keys())
            raise InvalidTransitionError(from_state, to_state, allowed)


class Machine:
    """One session's walk through an `AFSM`."""

    def __init__(
        self,
        afsm: AFSM,
        context: ConversationContext | None = None,
        *,
        on_transition: Callable[[Transition], None] = lambda transition: None,
    ) -> None:
        self.afsm = afsm
        self._on_transition = on_transition
        self.context = context or ConversationContext()
        self._own: dict[str, AFSMState] = {}
        self._current = afsm.initial_state
        self._silences = 0

    @property
    def state(self) -> AFSMState:
        """This session's copy of the current state."""
        if self._current not in self._own:
            self._own[self._current] = self.afsm.states[self._current].for_session()
        return self._own[self._current]

    def snapshot(self) -> dict[str, Any]:
        """Return where the machine is, the states' scratchpads and the context, as a JSON document."""
        pads = {name: str(state.scratchpad) for name, state in self._own.items() if state.scratchpad}
        return {"state": self._current, "scratchpads": pads, "context": self.context.snapshot()}

    @classmethod
    def restore(
        cls,
        afsm: AFSM,
        snapshot: Mapping[str, Any],
        *,
        on_transition: Callable[[Transition], None] = lambda transition: None,
    ) -> "Machine":
        """Return the machine that a `snapshot` describes; scratchpads of states that are gone are forgotten.

        Raises:
            ValueError: the snapshot is damaged, or its state does not exist any more.
        """
        context, state, pads = snapshot.get("context"), snapshot.get("state"), snapshot.get("scratchpads", {})
        if not isinstance(context, dict) or not isinstance(pads, dict):
            raise ValueError("the snapshot is damaged")
        if not isinstance(state, str) or state not in afsm.states:
            raise ValueError(f"there is no state {state!r:.80} any more")
        machine = cls(afsm, ConversationContext.restore(context), on_transition=on_transition)
        for name, notes in pads.items():
            if name in afsm.states and isinstance(notes, str):
                machine._own[name] = afsm.states[name].for_session()
                machine._own[name].scratchpad = notes
        machine._current = state
        return machine

    async def enter(self) -> Step:
        """Begin in the initial state: what the agent says first."""
        return await collect(self.opening())

    async def step(self, text: str) -> Step:
        """Answer an utterance, all at once."""
        return await collect(self.respond(text))

    async def dtmf(self, digits: str) -> Step:
        """Answer keys, all at once."""
        return await collect(self.respond_to_keys(digits))

    async def no_input(self) -> Step | None:
        """Answer silence, all at once; None when the state gives up."""
        step = await collect(self.respond_to_silence())
        return None if step.gives_up else step

    def opening(self) -> Response:
        """Begin in the initial state."""
        return self._run(lambda: StateResult(""), entering=True)

    def resumption(self, apology: str) -> Response:
        """Go on where the conversation was lost."""

        async def again() -> StateResult:
            return StateResult(f"{apology} {await self.state.on_resume(self.context)}".strip())

        return self._run(again)

    def respond(self, text: str) -> Response:
        """Answer an utterance as the answer comes."""
        self._silences = 0
        return self._run(lambda: self.state.process(text, self.context))

    def respond_to_keys(self, digits: str) -> Response:
        """Answer keys as the answer comes."""
        self._silences = 0
        return self._run(lambda: self.state.on_dtmf(digits, self.context))

    def respond_to_silence(self) -> Response:
        """Answer silence as the answer comes."""
        self._silences += 1
        return self._run(lambda: self.state.on_no_input(self._silences, self.context), may_give_up=True)

    def respond_to_timeout(self) -> Response:
        """Answer that the state's time is over."""
        return self._run(lambda: self.state.on_timeout(self.context), may_give_up=True)

    def respond_to_refusal(self, apology: str, otherwise: str) -> Response:
        """Go on where an ending could not be done: to its state for that case."""
        return self._run(lambda: self.state.on_refusal(apology, otherwise, self.context))

    async def _run(self, work: Callable[[], Any], *, entering: bool = False, may_give_up: bool = False) -> Response:
        """Let a state work; yield what it says meanwhile, and at the end the step."""
        pieces: deque[str] = deque()
        fresh = asyncio.Event()
        said: list[str] = []
        given_up = False

        def speak(text: str) -> None:
            said.append(text)
            pieces.append(text)
            fresh.set()

        async def take() -> Step:
            # No await between what the state returns and the commit: whatever it has written to the context goes
            # with the transition, or was never written.
            value = await _worked(work, speak)
            if given_up:  # a state that swallows its cancellation still changes nothing
                raise asyncio.CancelledError
            if value is None and may_give_up:
                return Step("".join(said), self._current, gives_up=True)
            return await self._apply(value, said, speak, entering=entering)

        with self.context.speaking(speak):
            working = asyncio.ensure_future(take())
            working.add_done_callback(lambda _: fresh.set())
            try:
                while True:
                    while pieces:
                        yield Said(pieces.popleft())
                    if working.done():
                        break
                    await fresh.wait()
                    fresh.clear()
                if working.cancelled():
                    raise StateError("the state was cancelled from inside")
                yield working.result()
            finally:
                given_up = True
                working.cancel()

    async def _apply(self, value: Any, said: list[str], speak: Callable[[str], None], *, entering: bool) -> Step:
        result = StateResult.of(value)
        transition, refused = self._commit(result.next_state, str(result.metadata.get("reason") or "user_input"))
        rest = _unsaid(result.response, "".join(said))
        if transition is not None or entering:
            rest = await self._enter(rest, speak, entering=entering)
        spoken = "".join(said)
        return Step(
            " ".join(f"{spoken} {rest}".split()) if spoken else rest,
            self._current,
            transition,
            refused,
            ending=self._ending(result, entered=entering or transition is not None),
            confidence=result.confidence,
            metadata=result.metadata,
            rest=rest,
        )

    async def _enter(self, rest: str, speak: Callable[[str], None], *, entering: bool) -> str:
        """Enter the current state; return what is left to be said. What it speaks meanwhile comes behind the answer
        that has led to it."""
        state, context = self.state, self.context

        def behind(text: str) -> None:
            nonlocal rest
            if rest:
                speak(f" {rest} ")
                rest = ""
            speak(text)

        with context.speaking(behind):
            opening = await (state.on_open(context) if entering else state.on_enter(context)) or ""
        return f"{rest} {opening}".strip()

    def _ending(self, result: StateResult, *, entered: bool) -> Ending | None:
        own = self.state.ending(self.context) if entered else None
        return own or (Ending() if result.ends else None)

    def _commit(self, target: str | None, reason: str) -> tuple[Transition | None, InvalidTransitionError | None]:
        """Propose, validate and commit, without an await between them."""
        if target is None or target == self._current:
            return None, None
        try:
            self.afsm.check(self._current, target)
        except InvalidTransitionError as refused:
            return None, refused
        transition = Transition(self._current, target, reason[:_MAX_REASON])
        self._current = target
        self._silences = 0
        self._on_transition(transition)
        return transition, None
