"""States that come from data: slots, conditions, keys and reprompts, without any model.

In a turn, what the caller said is tried in this order: the answer to a confirmation that is open, a way out whose
phrases it fits (the state's own and the global ones, by priority), the slot that was asked for. When all required slots
are filled, the first way out whose condition holds is taken. What fits nothing is asked for again, as often as the
state has prompts for it.
"""

from collections.abc import AsyncIterator, Mapping
from datetime import date, datetime
from typing import Any

from fastagent.afsm import slots, understand
from fastagent.afsm.config import (
    AgentConfig,
    DtmfConfig,
    RepromptConfig,
    SlotConfig,
    StateConfig,
    TransitionConfig,
    When,
)
from fastagent.afsm.context import ConversationContext
from fastagent.afsm.expressions import Expression
from fastagent.afsm.http_tools import HttpTool
from fastagent.afsm.llm import Llm
from fastagent.afsm.model import ModelTurn, Scene
from fastagent.afsm.state import AFSMState, Ending, KeyRules, StateResult
from fastagent.afsm.templates import template
from fastagent.afsm.tools import AnyTool

RETURN = "@return"
_STACK = "_return_to"
_MAX_STACK = 8
_NOT_HEARD = "I didn't hear anything."
_NOT_UNDERSTOOD = "Sorry, I didn't get that."
_BY_KEYS = frozenset({"digits", "phone", "number", "date", "time"})
_TRIES = 2  # of our own prompts, where the state has none


class DeclaredState(AFSMState):
    """One state of a declarative agent."""

    def __init__(self, config: StateConfig, agent: AgentConfig, tools: Mapping[str, AnyTool] | None = None) -> None:
        allowed = list(dict.fromkeys([*agent.targets_of(config), *(one.to for one in agent.global_transitions)]))
        if RETURN in allowed:
            allowed = [*(name for name in allowed if name != RETURN), *(state.name for state in agent.states)]
        super().__init__(
            config.name,
            config.description,
            allowed,
            terminal=bool(config.terminal),
            interruptible=config.interruptible,
            timeout=config.on_timeout.after if config.on_timeout else None,
        )
        self._config, self._agent = config, agent
        self._tools = _Shared({name: tool for name, tool in (tools or {}).items() if name in config.tools})
        self._ways = sorted([*config.transitions, *agent.global_transitions], key=lambda way: -way.priority)
        self._turns = self._misses = 0
        self._asked: str | None = None
        self._confirming: Any = None
        self._filled_here: set[str] = set()
        self._left = False

    # -- entering --------------------------------------------------------------------------------------------------

    async def on_enter(self, context: ConversationContext) -> str:
        """Say the opening, and ask for the first slot that is missing."""
        self._turns = self._misses = 0
        self._asked = self._confirming = None
        if self._left:  # back again, not returned to: what was asked for here is asked for once more
            for name in self._filled_here:
                context.slots.pop(name, None)
            self._filled_here.clear()
            self._left = False
        for name, value in self._agent.variables.items():
            context.variables.setdefault(name, value)
        opening = self._render(self._config.opening, context)
        return " ".join(f"{opening} {self._ask(context)}".split())

    async def on_open(self, context: ConversationContext) -> str:
        """Greet, and enter."""
        entered = await self.on_enter(context)
        return f"{self._render(self._agent.greeting, context)} {entered}".strip()

    def ending(self, context: ConversationContext) -> Ending | None:
        """Hang up, transfer or hand over, as the document says."""
        config = self._config.ending
        if config is None:
            return None
        return Ending(config.action, self._render(config.to, context).strip(), config.otherwise)

    def _missing(self, context: ConversationContext) -> SlotConfig | None:
        return next((slot for slot in self._config.slots if slot.required and slot.name not in context.slots), None)

    async def on_resume(self, context: ConversationContext) -> str:
        """Ask again for what was missing; where nothing was, say the opening again."""
        return self._ask(context) or self._render(self._config.opening, context)

    def _ask(self, context: ConversationContext) -> str:
        slot = self._missing(context)
        self._asked = slot.name if slot else None
        return self._render(slot.ask, context) if slot else ""

    def _slot(self) -> SlotConfig | None:
        return next((slot for slot in self._config.slots if slot.name == self._asked), None)

    # -- a turn ----------------------------------------------------------------------------------------------------

    async def process(self, input_text: str, context: ConversationContext) -> Any:
        """Answer an utterance."""
        self._turns += 1
        if self._config.max_turns is not None and self._turns > self._config.max_turns:
            return self._give_up(self._config.on_max_turns, context, "max_turns")
        if self._confirming is not None:
            return self._confirmed(input_text, context)
        way = self._way(context, text=input_text)
        if way is not None:
            return self._go(way, context)
        if self._config.prompt_template and context.model is not None:
            return self._ask_model(context.model, input_text, context)
        slot = self._slot()
        if slot is not None:
            value = slots.parse(slot.type, input_text, _rules(slot), _today())
            return self._no_match(context) if value is None else self._take(slot, value, context)
        if not self._ways and self._config.prompt_template:
            return StateResult(await self._generate_response(input_text, context))
        return self._no_match(context)

    async def _ask_model(
        self, model: Llm, input_text: str, context: ConversationContext
    ) -> AsyncIterator[str | StateResult]:
        """Let the model speak; what it proposes is applied when it has ended."""
        turn = ModelTurn(model, self._scene(context), context, _today())
        async for event in turn.run(input_text):
            if isinstance(event, StateResult):
                for name, value in turn.filled.items():
                    context.slots[name] = value
                    self._filled_here.add(name)
                self.scratchpad = self.scratchpad if turn.notes is None else turn.notes
                self._left = turn.next_state is not None
                event = self._settled(event, context)
            yield event

    def _settled(self, result: StateResult, context: ConversationContext) -> StateResult:
        """Where the model went nowhere, the state's own conditions may still lead on."""
        if result.next_state is not None or self._missing(context) is not None or not self._config.slots:
            return result
        way = self._way(context)
        return result if way is None else self._go(way, context)

    def _scene(self, context: ConversationContext) -> Scene:
        about = {state.name: state.description for state in self._agent.states}
        about |= {way.to: way.description for way in self._ways if way.description}
        targets = [name for name in self._config.allowed_transitions if name in about]
        targets += [way.to for way in self._config.transitions if way.to in about and way.to not in targets]
        return Scene(
            instructions=self._render(self._config.prompt_template, context),
            targets=[(name, about[name]) for name in targets],
            slots=[(slot, _rules(slot)) for slot in self._config.slots],
            tools=self._tools,
            scratchpad=self.scratchpad,
            notes=self._agent.scratchpad_enabled,
            opens=frozenset(state.name for state in self._agent.states if state.opening),
        )

    async def on_dtmf(self, digits: str, context: ConversationContext) -> StateResult:
        """Answer keys: the menu, a way out, or the slot."""
        target = self._config.dtmf.menu.get(digits) if self._config.dtmf else None
        if target is not None:
            return self._move(target, "", context, "keys")
        way = self._way(context, keys=digits) if digits else None
        if way is not None:
            return self._go(way, context)
        slot = self._slot()
        if slot is None or (self._config.dtmf and len(digits) < self._config.dtmf.min_digits):
            return self._no_match(context)
        if slot.type == "yes_no" or self._confirming is not None:
            text = {"1": "yes", "2": "no"}.get(digits, "")
        elif slot.type == "choice":
            values = [value for value, _ in _rules(slot).choices]
            text = values[int(digits) - 1] if digits.isdecimal() and 0 < int(digits) <= len(values) else ""
        else:
            text = digits
        return await self.process(text, context) if text else self._no_match(context)

    async def on_no_input(self, count: int, context: ConversationContext) -> StateResult | None:
        """Answer silence by the state's prompts, then by its way out."""
        given = self._agent.reprompts(self._config, "no_input")
        prompts = self._prompts(given, _NOT_HEARD, context)
        if count <= len(prompts):
            return StateResult(prompts[count - 1])
        return self._move(given.then, "", context, "no_input") if given and given.then else None

    async def on_timeout(self, context: ConversationContext) -> StateResult | None:
        """Leave for the state that is meant for it."""
        given = self._config.on_timeout
        return self._move(given.to, self._render(given.say, context), context, "timeout") if given else None

    def utterance_complete(self, text: str) -> bool | None:
        """Numbers in groups are waited for."""
        slot = self._slot()
        return slots.complete(slot.type, text, _rules(slot)) if slot and self._confirming is None else None

    @property
    def key_rules(self) -> KeyRules:
        """As many keys as the slot or the menu can take."""
        slot, dtmf = self._slot(), self._config.dtmf or DtmfConfig()
        longest = max([dtmf.max_digits, *map(len, dtmf.menu)])
        if slot is not None and self._confirming is None and slot.type in _BY_KEYS:
            longest = slot.max_digits
        return KeyRules(longest, dtmf.terminator, dtmf.inter_digit_seconds)

    # -- slots -----------------------------------------------------------------------------------------------------

    def _take(self, slot: SlotConfig, value: Any, context: ConversationContext) -> StateResult:
        if slot.confirm:
            self._confirming = value
            return StateResult(self._confirmation(slot, context))
        return self._filled(slot, value, context)

    def _confirmation(self, slot: SlotConfig, context: ConversationContext) -> str:
        extra = {"value": self._confirming, "spoken": slots.spoken(slot.type, self._confirming)}
        return self._render(slot.confirm_text, context, extra)

    def _confirmed(self, text: str, context: ConversationContext) -> StateResult:
        slot, value = self._slot(), self._confirming
        assert slot is not None
        answer = understand.yes_no(text)
        if answer:
            self._confirming = None
            return self._filled(slot, value, context)
        again = slots.parse(slot.type, text, _rules(slot), _today()) if slot.type not in ("text", "yes_no") else None
        if again is not None and again != value:
            self._confirming = again  # "no, five six seven"
            return StateResult(self._confirmation(slot, context))
        if answer is None:
            return StateResult(f"{_NOT_UNDERSTOOD} {self._confirmation(slot, context)}", confidence=0.0)
        self._confirming = None
        return StateResult(self._render(slot.reask or slot.ask, context))

    def _filled(self, slot: SlotConfig, value: Any, context: ConversationContext) -> StateResult:
        context.slots[slot.name] = value
        self._filled_here.add(slot.name)
        self._misses = 0
        ask = self._ask(context)
        if ask or self._asked:
            return StateResult(ask)
        way = self._way(context)
        return self._go(way, context) if way else StateResult("")

    # -- ways out --------------------------------------------------------------------------------------------------

    def _way(self, context: ConversationContext, *, text: str = "", keys: str = "") -> TransitionConfig | None:
        """Return the way out that is open: with words or keys only one that asks for them, else one that does not."""
        values = {**context.values(), "turns": self._turns, "misses": self._misses}
        if text:
            options = {str(at): way.when.intent for at, way in enumerate(self._ways) if way.when and way.when.intent}
            best = understand.intent(text, options)
            ways = [self._ways[int(best)]] if best is not None else []
            return next((way for way in ways if way.when and _holds(way.when, values, context)), None)
        for way in self._ways:
            when = way.when
            if keys:
                if when is not None and when.dtmf == keys and _holds(when, values, context):
                    return way
            elif when is None or (not when.intent and not when.dtmf and _holds(when, values, context)):
                return way
        return None

    def _go(self, way: TransitionConfig, context: ConversationContext) -> StateResult:
        for name, value in way.set.items():
            context.variables[name] = self._render(value, context) if isinstance(value, str) else value
        self._left = not way.returns
        if way.returns:
            stack = [*context.variables.get(_STACK, []), self.name]
            context.variables[_STACK] = stack[-_MAX_STACK:]
        return self._move(way.to, self._render(way.say, context), context, _why(way))

    async def on_refusal(self, apology: str, otherwise: str, context: ConversationContext) -> StateResult:
        """As any state, but `@return` leads back to where one was."""
        return self._move(otherwise, apology, context, "ending_failed")

    def _move(self, target: str, say: str, context: ConversationContext, reason: str) -> StateResult:
        self._misses = 0
        if target == RETURN:
            stack = list(context.variables.get(_STACK, []))
            target = stack.pop() if stack else self._agent.initial_state
            context.variables[_STACK] = stack
        return StateResult(say, target, 1.0, {"reason": reason})

    def _give_up(self, target: str | None, context: ConversationContext, reason: str) -> StateResult:
        if target:
            return self._move(target, "", context, reason)
        return StateResult(self._render(self._agent.goodbye, context), ends=True)

    def _no_match(self, context: ConversationContext) -> StateResult:
        self._misses += 1
        given = self._agent.reprompts(self._config, "no_match")
        prompts = self._prompts(given, _NOT_UNDERSTOOD, context)
        if self._misses <= len(prompts):
            return StateResult(prompts[self._misses - 1], confidence=0.0)
        return self._give_up(given.then if given else None, context, "no_match")

    def _prompts(self, given: RepromptConfig | None, own: str, context: ConversationContext) -> list[str]:
        if given is not None and given.prompts:
            return [self._render(prompt, context) for prompt in given.prompts]
        slot = self._slot()
        question = (slot.reask or slot.ask) if slot else self._config.opening
        return [f"{own} {self._render(question, context)}".strip()] * _TRIES

    def _render(self, text: str, context: ConversationContext, extra: dict[str, Any] | None = None) -> str:
        return template(text).render({**context.values(), **(extra or {})}) if text else ""


def _why(way: TransitionConfig) -> str:
    """Why a way was taken, for people."""
    if way.description or way.when is None:
        return way.description or "all slots are filled"
    when = way.when
    told = [
        f"said one of {', '.join(when.intent)}" if when.intent else "",
        f"{', '.join(when.slots)} filled" if when.slots else "",
        when.expression or "",
        "keys" if when.dtmf else "",
    ]
    return "; ".join(part for part in told if part)


def _today() -> date:
    return datetime.now().astimezone().date()


def _holds(when: When, values: dict[str, Any], context: ConversationContext) -> bool:
    if when.slots is not None and not all(name in context.slots for name in when.slots):
        return False
    return when.expression is None or Expression(when.expression).holds(values)


def _rules(slot: SlotConfig) -> slots.SlotRules:
    choices = slot.choices if isinstance(slot.choices, dict) else {value: [value] for value in slot.choices}
    return slots.SlotRules(
        choices=tuple((value, (value, *phrases)) for value, phrases in choices.items()),
        min_digits=slot.min_digits,
        max_digits=slot.max_digits,
        minimum=slot.minimum,
        maximum=slot.maximum,
    )


def states_of(config: AgentConfig, tools: Mapping[str, AnyTool] | None = None) -> list[AFSMState]:
    """Return the states of a declarative agent, whose tools are found by name."""
    known = {one.name: HttpTool(one) for one in config.tools} | dict(tools or {})
    return [DeclaredState(state, config, known) for state in config.states]


class _Shared(dict[str, AnyTool]):
    """Tools are not copied for each session."""

    def __deepcopy__(self, memo: dict[int, Any]) -> "_Shared":
        return self


def fixed_phrases(config: AgentConfig) -> list[str]:
    """Return the texts of an agent that never change, so that they can be rendered before the first call."""
    texts = [config.greeting, config.goodbye, _NOT_HEARD, _NOT_UNDERSTOOD]
    for state in config.states:
        texts += [state.on_timeout.say] if state.on_timeout else []
        texts += [state.opening, *(way.say for way in state.transitions)]
        texts += [text for slot in state.slots for text in (slot.ask, slot.reask)]
        texts += [text for one in (state.no_input, state.no_match) if one for text in one.prompts]
    texts += [text for one in (config.no_input, config.no_match) if one for text in one.prompts]
    return [text for text in texts if text and "{" not in text]
