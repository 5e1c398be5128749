"""What a session tells its leg, for providers and clients that want to know more than audio."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal


@dataclass(frozen=True, slots=True)
class SessionStarted:
    """The session exists; comes first."""

    session_id: str
    agent_id: str
    state: str
    resumed: bool = False


@dataclass(frozen=True, slots=True)
class StateChanged:
    """A committed transition."""

    from_state: str
    to_state: str
    reason: str


@dataclass(frozen=True, slots=True)
class Transcribed:
    """Words of either side. Of the agent's a first one comes with the words as they are spoken, and at the end of the
    answer a last one with what was heard of it."""

    role: Literal["user", "agent"]
    text: str
    final: bool
    turn: int = 0
    heard: str | None = None
    interrupted: bool = False
    confidence: float | None = None
    """Of the caller's words, where the recogniser tells it."""


@dataclass(frozen=True, slots=True)
class CallerSpeech:
    """The caller has begun, or ceased, to speak."""

    speaking: bool


@dataclass(frozen=True, slots=True)
class Listening:
    """Whether the agent has said all that it has to say for now: then it is the caller's turn."""

    now: bool


@dataclass(frozen=True, slots=True)
class Interrupted:
    """The caller has taken the floor; what of the answer was heard."""

    turn: int
    heard: str


@dataclass(frozen=True, slots=True)
class ToolCalled:
    """A tool has run; arguments and results stay inside."""

    name: str
    duration_ms: float
    error: str = ""


@dataclass(frozen=True, slots=True)
class TurnMeasured:
    """A turn's waterfall in milliseconds: its stages and their total."""

    turn: int
    waterfall_ms: Mapping[str, float]


@dataclass(frozen=True, slots=True)
class CallHappened:
    """A key, a transfer, a hold."""

    event: Literal["dtmf", "transfer", "transfer_failed", "hold", "resume", "hand_over"]
    detail: str = ""


@dataclass(frozen=True, slots=True)
class Failed:
    """Something failed and the call goes on; `code` is one of the API's."""

    code: str
    message: str
    details: Mapping[str, object] = field(default_factory=dict)


Notice = (
    SessionStarted
    | StateChanged
    | Transcribed
    | CallerSpeech
    | Listening
    | Interrupted
    | ToolCalled
    | TurnMeasured
    | CallHappened
    | Failed
)
