"""States: what an agent does with what it hears."""

import copy
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any, Literal, Self

from fastagent.afsm.context import ConversationContext
from fastagent.afsm.errors import StateError


@dataclass(frozen=True, slots=True)
class StateResult:
    """What a state makes of an input. `process` may return the documented dictionary instead."""

    response: str
    next_state: str | None = None
    """None, or the state's own name: stay."""
    confidence: float | None = None
    metadata: dict[str, Any] = field(default_factory=dict)
    ends: bool = False
    """End the call once the response was heard, wherever the machine is."""

    @classmethod
    def of(cls, value: Any) -> "StateResult":
        """Return what `process` returned as a result.

        Raises:
            StateError: it is none of the allowed forms.
        """
        if isinstance(value, str):
            return cls(value)
        if isinstance(value, cls):
            response, following, confidence, rest = value.response, value.next_state, value.confidence, value.metadata
        elif isinstance(value, dict):
            rest = dict(value)
            response, following, confidence = (rest.pop(key, None) for key in ("response", "next_state", "confidence"))
        else:
            raise StateError(f"process() returned {type(value).__name__}; a dict with 'response' is expected")
        if not isinstance(response, str):
            raise StateError("process() returned no text under 'response'")
        if following is not None and not isinstance(following, str):
            raise StateError("'next_state' is not the name of a state")
        if confidence is not None and (isinstance(confidence, bool) or not isinstance(confidence, int | float)):
            raise StateError("'confidence' is not a number")
        if isinstance(value, cls):
            return value
        return cls(response, following, None if confidence is None else float(confidence), rest)


@dataclass(frozen=True, slots=True)
class Ending:
    """What becomes of the call when a terminal state's words were heard."""

    action: Literal["hang_up", "transfer", "hand_over"] = "hang_up"
    to: str = ""
    """Of a transfer the number or SIP address, of a hand-over the id of the agent."""
    otherwise: str | None = None
    """The state to go to when it cannot be done; without one the caller hears an apology and the call ends."""


@dataclass(frozen=True, slots=True)
class KeyRules:
    """When keys make an input."""

    max_digits: int = 1
    terminator: str = "#"
    """Ends the input earlier; none if empty."""
    inter_digit_s: float = 3.0
    """So long without a key ends it, too."""


class AFSMState:
    """A state of the machine; extend it and override `process`.

    Instances are given once, to an agent. Each session works on its own copy, made when it first enters the state, so
    `scratchpad` and whatever else a state writes to itself belong to one call and are never seen by another.

    Args:
        name: unique in its machine.
        description: what the state is for.
        allowed_transitions: names of the states that may follow.
        terminal: entering this state ends the call, after what `on_enter` says: True hangs up, an `Ending` may
            transfer the call or hand it to another agent.
        interruptible: whether the caller may barge in while this state's answer is spoken.
        dtmf_max_digits: how many keys make an input; the terminator `#` ends it earlier.
        timeout: seconds after entering at which `on_timeout` is asked.
    """

    scratchpad: str = ""

    def __init__(
        self,
        name: str,
        description: str = "",
        allowed_transitions: Iterable[str] = (),
        *,
        terminal: bool | Ending = False,
        interruptible: bool = True,
        dtmf_max_digits: int = 1,
        timeout: float | None = None,
    ) -> None:
        self.name = name
        self.description = description
        self.allowed_transitions = list(allowed_transitions)
        self.terminal = terminal
        self.interruptible = interruptible
        self.dtmf_max_digits = dtmf_max_digits
        self.timeout = timeout

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.name!r} -> {', '.join(self.allowed_transitions) or 'nothing'}>"

    @property
    def moves(self) -> list[str]:
        """Every state that may follow, in the order of the definition."""
        otherwise = self.terminal.otherwise if isinstance(self.terminal, Ending) else None
        return [*self.allowed_transitions, *([otherwise] if otherwise else [])]

    def ending(self, context: ConversationContext) -> Ending | None:
        """What entering this state does to the call; None where it goes on."""
        return self.terminal if isinstance(self.terminal, Ending) else Ending() if self.terminal else None

    @property
    def key_rules(self) -> KeyRules:
        """When keys make an input for this state right now."""
        return KeyRules(self.dtmf_max_digits)

    async def on_enter(self, context: ConversationContext) -> str:
        """Return what to say on entering this state, behind the response that led here; nothing by default."""
        return ""

    async def on_open(self, context: ConversationContext) -> str:
        """Return what the agent says first, where this is its initial state; by default as on entering."""
        return await self.on_enter(context)

    async def on_resume(self, context: ConversationContext) -> str:
        """Return what the agent says when a conversation goes on after the gateway has lost it."""
        return ""

    async def process(self, input_text: str, context: ConversationContext) -> Any:
        """Answer an utterance: a dict with `response`, `next_state` and `confidence`, or a `StateResult`."""
        response = await self._generate_response(input_text, context)
        return StateResult(response, self._determine_next_state(input_text, response))

    async def on_dtmf(self, digits: str, context: ConversationContext) -> Any:
        """Answer keys; by default as if their digits had been said."""
        return await self.process(digits, context)

    async def on_no_input(self, count: int, context: ConversationContext) -> Any:
        """Answer silence, for the `count`-th time in a row: None hangs up."""
        return StateResult("Are you still there?") if count == 1 else None

    async def on_timeout(self, context: ConversationContext) -> Any:
        """Answer that `timeout` is over and the conversation is still in this state: None hangs up."""
        return None

    async def on_refusal(self, apology: str, otherwise: str, context: ConversationContext) -> StateResult:
        """Answer that this state's ending could not be done: apologise, and go to the state for that case."""
        return StateResult(apology, otherwise, metadata={"reason": "ending_failed"})

    def utterance_complete(self, text: str) -> bool | None:
        """Whether this text is all that the state waits for; None leaves it to the general rule."""
        return None

    async def _generate_response(self, input_text: str, context: ConversationContext) -> str:
        """Return the answer's text, asked of the session's model and spoken as it comes.

        The model is told the state's description, what is known, and the conversation as it was heard. Without a model
        a state can only say that it has none.

        Raises:
            LlmError: the model did not answer.
        """
        if context.model is None:
            return "I'm sorry, I can't help with that yet."
        from fastagent.afsm.llm import LlmRequest, TextDelta
        from fastagent.afsm.prompt import messages

        chat = messages(self.description, input_text, context, scratchpad=self.scratchpad, ways="")
        pieces: list[str] = []
        async for event in context.model.stream(LlmRequest(chat)):
            if isinstance(event, TextDelta):
                context.say(event.text)
                pieces.append(event.text)
        return "".join(pieces)

    def _determine_next_state(self, input_text: str, response: str) -> str | None:
        """Return the name of the next state; None stays."""
        return None

    def for_session(self) -> Self:
        """Return a session's own copy: its plain data copied, what cannot be copied (clients, locks) shared."""
        clone = copy.copy(self)
        memo: dict[int, Any] = {id(self): clone}  # what refers to the state refers to the copy; what is shared stays so
        for name, value in vars(self).items():
            try:
                setattr(clone, name, copy.deepcopy(value, memo))
            except (TypeError, copy.Error):
                setattr(clone, name, value)
        return clone
