"""Declarative agents: the JSON of `POST /agents/{id}/config`, and the same in YAML, as models with a JSON Schema.

The document's own examples are valid as they stand; everything beyond them has a default. Unknown keys are kept out of
the agent and reported as warnings; a value of the wrong kind is an error that names its path.
"""

from typing import Annotated, Any, Literal, Self

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    ValidationError,
    field_validator,
    model_validator,
)

from fastagent.afsm.errors import ConfigError, Problem

MAX_DOCUMENT_BYTES = 1 << 20
_MAX_TRANSITIONS, _MAX_SLOTS = 4000, 1000  # of all states; proofs and drawings take their time on each


def _printable(name: str) -> str:
    if not name.isprintable():
        raise ValueError("a name has no control characters")
    return name


MOVE_TOOL = "update_conversation"
"""What a model calls to move the conversation on."""

Name = Annotated[str, Field(min_length=1, max_length=64), AfterValidator(_printable)]
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

    @field_validator("when", mode="before", json_schema_input_type=When | str | list[str] | None)
    @classmethod
    def _short_form(cls, value: object) -> object:
        """A text is an expression, a list are phrases."""
        if isinstance(value, str):
            return {"expression": value}
        return {"intent": value} if isinstance(value, list) else value


class DtmfConfig(_Model):
    """What keys mean in a state."""

    menu: dict[Annotated[str, Field(pattern=r"^[0-9A-D*#]{1,8}$")], Name] = Field(default_factory=dict, max_length=1000)
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


def _prompts(value: object) -> object:
    """A text is one prompt, a list are several."""
    if isinstance(value, str):
        value = [value]
    return {"prompts": value} if isinstance(value, list) else value


Reprompts = Annotated[
    RepromptConfig, BeforeValidator(_prompts, json_schema_input_type=RepromptConfig | Prompt | list[Prompt])
]


class TerminalConfig(_Model):
    """How a terminal state ends the call: hang up, transfer it, or hand it to another agent."""

    action: Literal["hang_up", "transfer", "hand_over"] = "hang_up"
    to: str = Field("", max_length=256)
    """Of a transfer the number (E.164) or SIP address, of a hand-over the agent's id; a template."""
    otherwise: Name | None = None
    """The state to go to when it cannot be done; without one the caller hears an apology and the call ends."""

    @model_validator(mode="after")
    def _has_target(self) -> "TerminalConfig":
        if self.action != "hang_up" and not self.to:
            raise ValueError(f"{self.action} needs `to`")
        return self


class TimeoutConfig(_Model):
    """Where to go when the conversation has stayed in a state for too long."""

    after: float = Field(gt=0, le=3600)
    """Seconds since the state was entered; what is being said is finished first."""
    to: Name
    say: Prompt = ""


class LimitsConfig(_Model):
    """What one call may use."""

    max_duration: float = Field(3600.0, gt=0, le=86400)
    """Seconds."""
    max_turns: int | None = Field(None, ge=1, le=10_000)
    """Turns of the caller: utterances, keys and silences."""
    turn_timeout: float | None = Field(None, gt=0, le=600)
    """Seconds that an answer may take; DEFAULT_TIMEOUT_SECONDS if not given."""


class HttpToolConfig(_Model):
    """A web service that the model may call. Its host must be in FASTAGENT_ALLOWED_HOSTS."""

    name: Annotated[str, Field(pattern=r"^[A-Za-z_][A-Za-z0-9_-]{0,63}$")]
    description: str = Field(min_length=1, max_length=2000)
    url: str = Field(pattern=r"^https?://[^\s/?#@]+(/[^\s#]*)?$", max_length=2000)
    method: Literal["GET", "POST", "PUT", "PATCH", "DELETE"] = "POST"
    parameters: dict[str, Any] = Field(default_factory=lambda: {"type": "object", "properties": {}})
    """JSON Schema of the arguments, an object. They are sent as the JSON body, of a GET or DELETE as the query."""
    headers: dict[
        Annotated[str, Field(pattern=r"^[A-Za-z0-9-]{1,64}$")], Annotated[str, Field(pattern=r"^[ -~]*$")]
    ] = Field(default_factory=dict)
    bearer_env: str | None = Field(None, pattern=r"^FASTAGENT_SECRET_[A-Z0-9_]+$")
    """The environment's variable that has the token to send as `Authorization: Bearer`."""
    timeout: float = Field(10.0, gt=0, le=60)
    filler: str = Field("", max_length=500)
    """Said when it is called."""
    on_interrupt: Literal["cancel", "finish"] = "cancel"
    """What a barge-in does to a request under way; one that writes something should `finish`."""

    @field_validator("parameters")
    @classmethod
    def _is_schema(cls, value: dict[str, Any]) -> dict[str, Any]:
        from jsonschema import Draft202012Validator
        from jsonschema.exceptions import SchemaError

        try:
            Draft202012Validator.check_schema(value)
        except SchemaError as error:
            raise ValueError(f"no JSON Schema: {error.message}") from None
        if value.get("type") != "object":
            raise ValueError("the arguments are an object: `type: object` is needed")
        if _refers(value):
            raise ValueError("references are not followed")
        return value

    @field_validator("url")
    @classmethod
    def _is_url(cls, value: str) -> str:
        from yarl import URL

        try:
            URL(value)
        except ValueError as error:
            raise ValueError(f"no address: {error}") from None
        return value

    @field_validator("name")
    @classmethod
    def _is_free(cls, value: str) -> str:
        if value == MOVE_TOOL:
            raise ValueError(f"{MOVE_TOOL!r} is the tool that moves the conversation")
        return value


def _refers(value: object) -> bool:
    """Whether a JSON Schema has a reference anywhere, of whatever kind: a validator might fetch it."""
    if isinstance(value, dict):
        return any((key[:1] == "$" and key.lower().endswith("ref")) or _refers(one) for key, one in value.items())
    return isinstance(value, list) and any(map(_refers, value))


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
    no_input: Reprompts | None = None
    no_match: Reprompts | None = None
    tools: list[Name] = Field(default_factory=list)
    """Names of the agent's tools, HTTP and Python, that the model may use here."""
    on_timeout: TimeoutConfig | None = None
    max_turns: int | None = Field(None, ge=1, le=1000)
    on_max_turns: Name | None = None
    interruptible: bool = True
    terminal: bool | TerminalConfig = False

    @property
    def opening(self) -> str:
        """What is said on entering: `on_enter`, or `say`, which means the same."""
        return self.on_enter or self.say

    @property
    def ending(self) -> TerminalConfig | None:
        """How entering this state ends the call, if it does."""
        if isinstance(self.terminal, TerminalConfig):
            return self.terminal
        return TerminalConfig() if self.terminal else None

    @property
    def targets(self) -> list[str]:
        """Every state that this one may lead to, once each; those that silence leads to come last."""
        silent = [self.no_input.then] if self.no_input and self.no_input.then else []
        return list(dict.fromkeys([*self.ways_out, *silent]))

    @property
    def ways_out(self) -> list[str]:
        """Every state that this one may lead to otherwise than by silence, in the order of the document."""
        found = [
            *self.allowed_transitions,
            *(one.to for one in self.transitions),
            *(self.dtmf.menu.values() if self.dtmf else ()),
            *([self.no_match.then] if self.no_match and self.no_match.then else []),
            *([self.on_max_turns] if self.on_max_turns else []),
            *([self.on_timeout.to] if self.on_timeout else []),
            *([self.ending.otherwise] if self.ending and self.ending.otherwise else []),
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
    tools: list[HttpToolConfig] = Field(default_factory=list, max_length=64)
    no_input: Reprompts | None = None
    """For states that have none of their own."""
    no_match: Reprompts | None = None
    """For states that have none of their own."""
    limits: LimitsConfig = Field(default_factory=LimitsConfig)
    no_input_timeout: float = Field(7.0, gt=0, le=120)
    max_history: int = Field(10, ge=1, le=1000)

    def reprompts(self, state: StateConfig, kind: Literal["no_input", "no_match"]) -> RepromptConfig | None:
        """Return what a state does about silence, or about what was not understood: its own, else the agent's."""
        own: RepromptConfig | None = getattr(state, kind)
        return own or getattr(self, kind)

    def targets_of(self, state: StateConfig) -> list[str]:
        """Every state that one may lead to by itself, the agent's own prompts included; not the global ways."""
        shared = [one.then for one in (self.reprompts(state, "no_input"), self.reprompts(state, "no_match")) if one]
        return list(dict.fromkeys([*state.targets, *(name for name in shared if name and not state.terminal)]))

    @model_validator(mode="after")
    def _initial(self) -> "AgentConfig":
        names = [state.name for state in self.states]
        if len(set(names)) < len(names):
            twice = next(name for name in names if names.count(name) > 1)
            raise ValueError(f"two states are named {twice!r}")
        tools = [tool.name for tool in self.tools]
        if len(set(tools)) < len(tools):
            raise ValueError(f"two tools are named {next(name for name in tools if tools.count(name) > 1)!r}")
        for kind, most in (("transitions", _MAX_TRANSITIONS), ("slots", _MAX_SLOTS)):
            if sum(len(getattr(state, kind)) for state in self.states) > most:
                raise ValueError(f"there are more than {most} {kind}")
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
