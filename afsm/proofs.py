"""Proofs on a declarative machine before it goes live: all problems at once, each at its place, with a hint."""

from collections.abc import Collection, Iterable, Iterator
from itertools import islice

from fastagent.afsm.config import AgentConfig, StateConfig, TransitionConfig
from fastagent.afsm.declared import RETURN
from fastagent.afsm.errors import DefinitionError, Problem
from fastagent.afsm.expressions import Expression
from fastagent.afsm.templates import Template

_COUNTERS = {"turns", "misses"}
_CONFIRM = {"value", "spoken"}
_OF_THE_CALL = {"caller_id", "called_id", "caller_name", "forwarded_from", "stir_verstat", "sip_user", "sip_host"}
_SEVERITIES = ("error", "warning", "note")
_OWN_PROMPTS = 2  # of ours about silence, where a state has none
_HINTS = 20  # likenesses are slow to look for
_FAR_FROM_A_HUMAN = 4  # moves


def check(config: AgentConfig, tools: Collection[str] = ()) -> list[Problem]:
    """Return every problem of an agent, the gravest first; `tools` are the names of its Python functions."""
    found = [problem for rule in _RULES for problem in rule(config)]
    found = [one for one in found if one.rule != "tool-without-handler" or one.subject not in tools]
    return sorted(found, key=lambda problem: (_SEVERITIES.index(problem.severity), problem.path))


def _places(config: AgentConfig) -> Iterator[tuple[str, str]]:
    """Every place that names a state, and the name."""
    for at, state in enumerate(config.states):
        here = f"states[{at}]"
        yield from ((f"{here}.allowed_transitions[{i}]", name) for i, name in enumerate(state.allowed_transitions))
        yield from ((f"{here}.transitions[{i}].to", way.to) for i, way in enumerate(state.transitions))
        if state.dtmf:
            yield from ((f"{here}.dtmf.menu.{key}", name) for key, name in state.dtmf.menu.items())
        for kind in ("no_input", "no_match"):
            one = getattr(state, kind)
            if one and one.then:
                yield f"{here}.{kind}.then", one.then
        if state.on_max_turns:
            yield f"{here}.on_max_turns", state.on_max_turns
        if state.on_timeout:
            yield f"{here}.on_timeout.to", state.on_timeout.to
        if state.ending and state.ending.otherwise:
            yield f"{here}.terminal.otherwise", state.ending.otherwise
    for kind in ("no_input", "no_match"):
        one = getattr(config, kind)
        if one and one.then:
            yield f"{kind}.then", one.then
    yield from ((f"global_transitions[{i}].to", way.to) for i, way in enumerate(config.global_transitions))


def _targets(config: AgentConfig) -> Iterator[Problem]:
    names, hinted = {state.name for state in config.states} | {RETURN}, 0
    for path, name in _places(config):
        if name not in names:
            # The API document's own example has such targets: accepted, and refused where strictness is asked for.
            hinted += 1
            hint = _near(name, names if hinted <= _HINTS else ())
            yield Problem("warning", path, f"{name!r} is not a state", "undefined-target", hint)


def _near(name: str, names: Iterable[str]) -> str:
    from difflib import get_close_matches

    close = get_close_matches(name, list(names), 1)
    return f"did you mean {close[0]!r}?" if close else "define it, or remove the transition"


def _moves(config: AgentConfig, state: StateConfig, *, silence: bool = True) -> set[str]:
    """The states that a state can really lead to; without `silence`, otherwise than by the caller's."""
    names = {one.name for one in config.states}
    if state.ending:
        return {state.ending.otherwise} & names if state.ending.otherwise else set()
    targets = {
        *(config.targets_of(state) if silence else state.ways_out),
        *(way.to for way in config.global_transitions),
    }
    if RETURN in targets:
        targets |= names
    return targets & names


def _unreachable(config: AgentConfig) -> Iterator[Problem]:
    moves = {state.name: _moves(config, state) for state in config.states}
    reached, fresh = {config.initial_state}, [config.initial_state]
    while fresh:
        for name in moves[fresh.pop()] - reached:
            reached.add(name)
            fresh.append(name)
    for at, state in enumerate(config.states):
        if state.name not in reached:
            hint = f"no state leads here from {config.initial_state!r}"
            yield Problem("warning", f"states[{at}]", f"{state.name!r} is never reached", "unreachable-state", hint)


def _no_way_out(config: AgentConfig) -> Iterator[Problem]:
    """States from which no caller's words lead to an end."""
    if not any(state.terminal for state in config.states):
        hint = "mark the state that says goodbye with terminal: true"
        yield Problem("warning", "states", "no state is terminal: only silence ends a call", "no-end", hint)
        return
    moves = {state.name: _moves(config, state, silence=False) for state in config.states}
    good = {state.name for state in config.states if state.terminal}
    grown = True
    while grown:
        more = {name for name, targets in moves.items() if targets & good} - good
        good |= more
        grown = bool(more)
    for at, state in enumerate(config.states):
        if state.name not in good:
            hint = "add a transition towards a terminal state"
            yield Problem("error", f"states[{at}]", f"{state.name!r} cannot reach an end", "no-way-out", hint)


def _all_texts(config: AgentConfig) -> Iterator[tuple[str, str, set[str]]]:
    """Every template: its place, its text, and the names that only it knows."""
    yield "greeting", config.greeting, set()
    yield "goodbye", config.goodbye, set()
    for at, state in enumerate(config.states):
        here = f"states[{at}]"
        for name in ("prompt_template", "say", "on_enter"):
            yield f"{here}.{name}", getattr(state, name), set()
        if state.on_timeout:
            yield f"{here}.on_timeout.say", state.on_timeout.say, set()
        if state.ending:
            yield f"{here}.terminal.to", state.ending.to, set()
        for i, slot in enumerate(state.slots):
            yield f"{here}.slots[{i}].ask", slot.ask, set()
            yield f"{here}.slots[{i}].reask", slot.reask, set()
            yield f"{here}.slots[{i}].confirm_text", slot.confirm_text, _CONFIRM
        for i, way in enumerate(state.transitions):
            yield from _texts_of_way(f"{here}.transitions[{i}]", way)
        for kind in ("no_input", "no_match"):
            for i, prompt in enumerate(getattr(state, kind).prompts if getattr(state, kind) else ()):
                yield f"{here}.{kind}.prompts[{i}]", prompt, set()
    for i, way in enumerate(config.global_transitions):
        yield from _texts_of_way(f"global_transitions[{i}]", way)
    for kind in ("no_input", "no_match"):
        for i, prompt in enumerate(getattr(config, kind).prompts if getattr(config, kind) else ()):
            yield f"{kind}.prompts[{i}]", prompt, set()


def _known_names(config: AgentConfig) -> set[str]:
    ways = [way for state in config.states for way in state.transitions] + list(config.global_transitions)
    slots = {slot.name for state in config.states for slot in state.slots}
    return slots | set(config.variables) | {name for way in ways for name in way.set} | _OF_THE_CALL


def _never_set(names: Iterable[str], known: set[str]) -> list[str]:
    """Names that nothing gives a value; `x_...` are headers and parameters of the call."""
    return sorted(name for name in set(names) - known if not name.startswith("x_"))


def _texts(config: AgentConfig) -> Iterator[Problem]:
    known = _known_names(config)
    for path, text, own in _all_texts(config):
        try:
            names = Template(text).names
        except DefinitionError as error:
            yield Problem("error", path, str(error), "template")
            continue
        for name in _never_set(names, known | own):
            hint = "no slot, variable or `set` gives it a value; it will be empty"
            yield Problem("warning", path, f"{name!r} is never set", "unknown-name", hint)


def _texts_of_way(path: str, way: TransitionConfig) -> Iterator[tuple[str, str, set[str]]]:
    yield f"{path}.say", way.say, set()
    for name, value in way.set.items():
        if isinstance(value, str):
            yield f"{path}.set.{name}", value, set()


def _all_conditions(config: AgentConfig) -> Iterator[tuple[str, str]]:
    ways = [(f"global_transitions[{i}]", way) for i, way in enumerate(config.global_transitions)]
    for at, state in enumerate(config.states):
        ways += [(f"states[{at}].transitions[{i}]", way) for i, way in enumerate(state.transitions)]
    for path, way in ways:
        if way.when and way.when.expression is not None:
            yield f"{path}.when.expression", way.when.expression


def _expressions(config: AgentConfig) -> Iterator[Problem]:
    known = _known_names(config) | _COUNTERS
    for path, text in _all_conditions(config):
        try:
            names = Expression(text).names
        except DefinitionError as error:
            yield Problem("error", path, str(error), "expression")
            continue
        for name in _never_set(names, known):
            yield Problem("warning", path, f"{name!r} is never set", "unknown-name", "it will be None")


def _keys(config: AgentConfig) -> Iterator[Problem]:
    for at, state in enumerate(config.states):
        if not state.dtmf:
            continue
        path, keys = f"states[{at}].dtmf.menu", sorted(state.dtmf.menu)
        for i, one in enumerate(keys):
            for other in islice(keys, i + 1, None):  # sorted: what begins with it comes right after it
                if not other.startswith(one):
                    break
                message = f"{one!r} is the beginning of {other!r}: the caller must wait to mean it"
                yield Problem("error", path, message, "dtmf-prefix", "give them different first keys")
            if state.dtmf.terminator and state.dtmf.terminator in one and len(one) > 1:
                yield Problem("error", path, f"{one!r} contains the terminator", "dtmf-terminator")
        if state.dtmf.min_digits > state.dtmf.max_digits:
            yield Problem("error", f"states[{at}].dtmf", "min_digits is more than max_digits", "dtmf-digits")


def _slots(config: AgentConfig) -> Iterator[Problem]:
    used: set[str] = set()
    for path, text, _ in _all_texts(config):
        if not path.endswith("confirm_text"):
            used |= _names(Template, text)
    for _, text in _all_conditions(config):
        used |= _names(Expression, text)
    ways = [way for state in config.states for way in state.transitions] + list(config.global_transitions)
    used |= {name for way in ways if way.when for name in way.when.slots or ()}
    filled = {slot.name for state in config.states for slot in state.slots}
    hinted = 0
    for at, state in enumerate(config.states):
        for i, slot in enumerate(state.slots):
            path = f"states[{at}].slots[{i}]"
            if not slot.ask and not state.opening:
                yield Problem(
                    "error", path, f"nothing asks for {slot.name!r}", "slot-without-question", "give it `ask`"
                )
            if slot.name not in used:
                hint = "no text or condition uses it; fine if your own code does"
                yield Problem("warning", path, f"{slot.name!r} is asked for and never used", "slot-unused", hint)
        for i, way in enumerate(state.transitions):
            for name in (way.when.slots if way.when else None) or ():
                if name not in filled:
                    path = f"states[{at}].transitions[{i}].when.slots"
                    hinted += 1
                    hint = _near(name, filled if hinted <= _HINTS else ())
                    yield Problem("error", path, f"no state asks for {name!r}", "unknown-slot", hint)


def _names(kind: type[Template] | type[Expression], text: str) -> frozenset[str]:
    try:
        return kind(text).names
    except DefinitionError:
        return frozenset()


def _shadowed(config: AgentConfig) -> Iterator[Problem]:
    """Ways out behind one that is always open."""
    for at, state in enumerate(config.states):
        ordered = sorted(enumerate(state.transitions), key=lambda one: -one[1].priority)
        always: int | None = None
        for i, way in ordered:
            by_event = way.when is not None and (way.when.intent or way.when.dtmf)
            if always is not None and not by_event:
                message = f"transitions[{always}] is always taken before this one"
                hint = "give this one a higher priority, or that one a condition"
                yield Problem("warning", f"states[{at}].transitions[{i}]", message, "shadowed-transition", hint)
            elif way.when is None:
                always = i


def _models(config: AgentConfig) -> Iterator[Problem]:
    for at, state in enumerate(config.states):
        rules = state.transitions or state.slots or state.terminal or state.dtmf
        if state.prompt_template and not rules:
            message = f"{state.name!r} can do nothing without a model"
            hint = "set OPENAI_API_KEY or llm_config.base_url, or give it slots or transitions that need none"
            if not config.llm_config:
                yield Problem("warning", f"states[{at}].prompt_template", message, "needs-model", hint)


def _silent_edges(config: AgentConfig) -> Iterator[Problem]:
    """States that wait for the caller and have nothing of their own to say, or to do, about silence."""
    for at, state in enumerate(config.states):
        if not state.terminal and not config.reprompts(state, "no_input") and not state.on_timeout:
            message = f"{state.name!r} has no `no_input` and no `on_timeout`: after two of our prompts the call ends"
            hint = "give it `no_input`, or the agent one for all states"
            yield Problem("warning", f"states[{at}]", message, "no-input-edge", hint)


def _before_silence(config: AgentConfig, state: StateConfig) -> bool:
    """Whether a state's time is over before its prompts about silence are, by the pauses alone. A timeout that leads to
    its own state does not begin anew."""
    timeout, given = state.on_timeout, config.reprompts(state, "no_input")
    assert timeout is not None
    prompts = len(given.prompts) if given and given.prompts else _OWN_PROMPTS
    return timeout.to != state.name and timeout.after < (prompts + 1) * config.no_input_timeout


def _silent_loops(config: AgentConfig) -> Iterator[Problem]:
    """Rings of states that a caller who says nothing is led round for ever."""
    moves: dict[str, set[str]] = {}
    for state in config.states:
        reprompts = None if state.terminal else config.reprompts(state, "no_input")
        silent = {reprompts.then} if reprompts and reprompts.then else set()
        if state.on_timeout and not state.terminal and _before_silence(config, state):
            silent.add(state.on_timeout.to)
        if state.ending and state.ending.otherwise:
            silent.add(state.ending.otherwise)
        moves[state.name] = {name for name in silent if name is not None}
    for at, state in enumerate(config.states):
        seen: set[str] = set()
        fresh = set(moves[state.name])
        while fresh:
            seen |= fresh
            fresh = {name for one in fresh for name in moves.get(one, ())} - seen
        if state.name in seen:
            message = f"silence leads from {state.name!r} back to {state.name!r}: the call does not end by itself"
            hint = "let no_input.then, on_timeout.to or terminal.otherwise lead to a state that ends"
            yield Problem("error", f"states[{at}]", message, "silent-loop", hint)


def _tools(config: AgentConfig) -> Iterator[Problem]:
    declared = {tool.name for tool in config.tools}
    used: set[str] = set()
    for at, state in enumerate(config.states):
        used |= set(state.tools)
        for i, name in enumerate(state.tools):
            path = f"states[{at}].tools[{i}]"
            if name not in declared:
                hint = "declare it under `tools`, or give the function to FastAgent.from_config(tools=...)"
                yield Problem("warning", path, f"nothing here handles {name!r}", "tool-without-handler", hint, name)
            if not state.prompt_template:
                hint = "give the state a prompt_template: only a model calls tools"
                yield Problem("warning", path, f"{state.name!r} never calls {name!r}", "tool-unused", hint)
    for i, tool in enumerate(config.tools):
        if tool.name not in used:
            message = f"no state uses {tool.name!r}"
            yield Problem("warning", f"tools[{i}]", message, "tool-unused", "name it in a state's `tools`")


def _humans(config: AgentConfig) -> Iterator[Problem]:
    """Where calls are transferred: states from which the way to a human is long, or none."""
    humans = {state.name for state in config.states if state.ending and state.ending.action == "transfer"}
    if not humans:
        return
    moves = {state.name: _moves(config, state) for state in config.states}
    away, far, border = 0, dict.fromkeys(humans, 0), set(humans)
    while border:
        away += 1
        border = {name for name, targets in moves.items() if targets & border} - far.keys()
        far |= dict.fromkeys(border, away)
    for at, state in enumerate(config.states):
        if state.terminal:
            continue
        path, hint = f"states[{at}]", 'a global transition, like on "speak to somebody", is open everywhere'
        if state.name not in far:
            yield Problem("note", path, f"{state.name!r} has no way to a human", "no-human", hint)
        elif far[state.name] >= _FAR_FROM_A_HUMAN:
            message = f"{state.name!r} is {far[state.name]} moves away from a human"
            yield Problem("note", path, message, "far-from-human", hint)


_RULES = (
    _targets, _unreachable, _no_way_out, _silent_edges, _silent_loops, _texts, _expressions, _keys, _slots, _shadowed,
    _tools, _humans, _models,
)  # fmt: skip
