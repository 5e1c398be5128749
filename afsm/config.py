"""Declarative agents: the JSON of `POST /agents/{id}/config`, and the same in YAML, as models with a JSON Schema.

The document's own examples are valid as they stand; everything beyond them has a default. Unknown keys are kept out of
the agent and reported as warnings; a value of the wrong kind is an error that names its path.
"""

from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from fastagent.afsm.errors import ConfigError, Problem

MAX_DOCUMENT_BYTES = 1 << 20

Name = Annotated[str, Field(min_length=1, max_length=64)]
Prompt = Annotated[str, Field(max_length=64 * 1024)]
SlotKind = Literal["text", "digits", "number", "date", "time", "yes_no", "choice", "phone", "email", "spelled_name"]


class _Model(BaseModel):
    model_config = ConfigDict(extra="allow", frozen=True)

    def __deepcopy__(self, memo: dict[int, Any] | None = None) -> Self:
        """Shared by all sessions: nothing in it changes."""
        return self


class SlotConfig(_Model):
    """Something that a state asks for."""

    name: Name
    type: SlotKind = "text"
    ask: Prompt = ""
    """What to say to ask for it."""
    reask: Prompt = ""
    """What to say when the answer was none."""
    confirm: bool = False
    """Read it back, and take it only with a yes."""
    confirm_text: Prompt = "I have {{ spoken }}. Is that right?"
    choices: dict[str, list[str]] | list[str] = Field(default_factory=list)
    min_digits: int = Field(1, ge=1, le=64)
    max_digits: int = Field(32, ge=1, le=64)
    minimum: float | None = None
    maximum: float | None = None
    required: bool = True

    @model_validator(mode="after")
    def _consistent(self) -> "SlotConfig":
        if self.type == "choice" and not self.choices:
            raise ValueError("a choice needs `choices`")
        if self.min_digits > self.max_digits:
            raise ValueError("min_digits is more than max_digits")
        return self


class When(_Model):
    """A condition; all that is given must hold."""

    intent: list[str] | None = None
    """Phrases, of which one is in what was said; words may differ a little."""
    slots: list[Name] | None = None
    """These are filled."""
    expression: str | None = Field(None, max_length=500)
    """An expression on variables, slots, facts and counters."""
    dtmf: str | None = Field(None, pattern=r"^[0-9A-D*#]{1,64}$")
    """These keys were pressed."""

    @model_validator(mode="after")
    def _something(self) -> "When":
        if self.intent is None and self.slots is None and self.expression is None and self.dtmf is None:
            raise ValueError("a condition needs `intent`, `slots`, `expression` or `dtmf`")
        return self


class TransitionConfig(_Model):
    """A way out of a state. Without `when` it is taken as soon as all required slots are filled."""

    to: Name
    when: When | None = None
    say: Prompt = ""
    description: Prompt = ""
    priority: int = 0
    set: dict[str, Any] = Field(default_factory=dict)
    """Variables to set on the way."""
    returns: bool = False
    """Of a global transition: the target's end leads back to where one was."""

    @field_validator("when", mode="before")
    @classmethod
    def _short_form(cls, value: object) -> object:
        """A text is an expression, a list are phrases."""
        if isinstance(value, str):
            return {"expression": value}
        return {"intent": value} if isinstance(value, list) else value


class DtmfConfig(_Model):
    """What keys mean in a state."""

    menu: dict[Annotated[str, Field(pattern=r"^[0-9A-D*#]{1,8}$")], Name] = Field(default_factory=dict)
    """Keys, and the state that they lead to."""
    min_digits: int = Field(1, ge=1, le=64)
    max_digits: int = Field(1, ge=1, le=64)
    terminator: str = Field("#", pattern=r"^[*#]?$")
    inter_digit_seconds: float = Field(3.0, gt=0, le=30)


class RepromptConfig(_Model):
    """What to do about silence, or about what was not understood."""

    prompts: list[Prompt] = Field(default_factory=list)
    """Said the first time, the second time, and so on."""
    then: Name | None = None
    """The state to go to after the last prompt; without one the call is ended with the agent's goodbye."""

    @model_validator(mode="before")
    @classmethod
    def _short_form(cls, value: object) -> object:
        return (
            {"prompts": value} if isinstance(value, list) else {"prompts": [value]} if isinstance(value, str) else value
        )


class TerminalConfig(_Model):
    """How a terminal state ends the call."""

    action: Literal["hang_up"] = "hang_up"


class StateConfig(_Model):
    """A state, in data."""

    name: Name
    description: Prompt = ""
    allowed_transitions: list[Name] = Field(default_factory=list)
    prompt_template: Prompt = ""
    say: Prompt = ""
    on_enter: Prompt = ""
    slots: list[SlotConfig] = Field(default_factory=list)
    transitions: list[TransitionConfig] = Field(default_factory=list)
    dtmf: DtmfConfig | None = None
    no_input: RepromptConfig | None = None
    no_match: RepromptConfig | None = None
    tools: list[Name] = Field(default_factory=list)
    """Names of the agent's Python tools that the model may use here."""
    max_turns: int | None = Field(None, ge=1, le=1000)
    on_max_turns: Name | None = None
    interruptible: bool = True
    terminal: bool | TerminalConfig = False

    @property
    def opening(self) -> str:
        """What is said on entering: `on_enter`, or `say`, which means the same."""
        return self.on_enter or self.say

    @property
    def targets(self) -> list[str]:
        """Every state that this one may lead to, in the order of the document, once each."""
        found = [
            *self.allowed_transitions,
            *(one.to for one in self.transitions),
            *(self.dtmf.menu.values() if self.dtmf else ()),
            *(one.then for one in (self.no_input, self.no_match) if one and one.then),
            *([self.on_max_turns] if self.on_max_turns else []),
        ]
        return list(dict.fromkeys(found))


class AgentConfig(_Model):
    """An agent, in data."""

    states: list[StateConfig] = Field(min_length=1, max_length=200)
    initial_state: Name
    version: str | None = None
    scratchpad_enabled: bool = True
    greeting: Prompt = ""
    goodbye: Prompt = "Goodbye."
    variables: dict[str, Any] = Field(default_factory=dict)
    global_transitions: list[TransitionConfig] = Field(default_factory=list)
    llm_config: dict[str, Any] = Field(default_factory=dict)
    stt_config: dict[str, Any] = Field(default_factory=dict)
    tts_config: dict[str, Any] = Field(default_factory=dict)
    turn_config: dict[str, Any] = Field(default_factory=dict)
    no_input_timeout: float = Field(7.0, gt=0, le=120)
    max_duration: float = Field(3600.0, gt=0, le=86400)
    max_history: int = Field(10, ge=1, le=1000)

    @model_validator(mode="after")
    def _initial(self) -> "AgentConfig":
        names = [state.name for state in self.states]
        if len(set(names)) < len(names):
            twice = next(name for name in names if names.count(name) > 1)
            raise ValueError(f"two states are named {twice!r}")
        if self.initial_state not in names:
            raise ValueError(f"initial_state {self.initial_state!r} is not among the states")
        return self


def load(document: object) -> tuple[AgentConfig, list[Problem]]:
    """Return the agent that a document describes, and warnings about what was not understood in it.

    Raises:
        ConfigError: with every fault, each at its path.
    """
    try:
        config = AgentConfig.model_validate(document)
    except ValidationError as error:
        raise ConfigError(
            [
                Problem("error", _path(fault["loc"]), fault["msg"].removeprefix("Value error, "))
                for fault in error.errors()
            ]
        ) from None
    return config, list(_unknown(config, ""))


def _path(location: tuple[int | str, ...]) -> str:
    """`states[1].transitions[0].to`."""
    text = ""
    for part in location:
        text += f"[{part}]" if isinstance(part, int) else f".{part}" if text else part
    return text


def _unknown(model: BaseModel, path: str) -> list[Problem]:
    """Warn of every key that no model knows."""
    here = f"{path}." if path else ""
    found = [
        Problem(
            "warning", f"{here}{name}", "this key is not known", hint=f"known are {', '.join(type(model).model_fields)}"
        )
        for name in model.model_extra or {}
    ]
    for name in type(model).model_fields:
        value = getattr(model, name)
        for at, one in enumerate(value) if isinstance(value, list) else [(None, value)]:
            if isinstance(one, BaseModel):
                found += _unknown(one, f"{here}{name}" if at is None else f"{here}{name}[{at}]")
    return found
