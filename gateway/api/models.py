"""What the REST API takes and gives, as models: requests are checked by them, and OpenAPI is made of them."""

from datetime import datetime
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

AgentId = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]{0,63}$")]
SessionId = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]{0,63}$")]


class Given(BaseModel):
    """Something that a client sends: unknown keys are errors."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class Error(BaseModel):
    """The one shape of errors."""

    code: str = Field(description="one of the documented codes; unknown ones are to be taken as `internal_error`")
    message: str
    details: Any = None


class LatencyMetrics(BaseModel):
    """Response latency over the last five minutes, in milliseconds; null without samples."""

    avg_ms: float | None
    min_ms: float | None
    max_ms: float | None
    p95_ms: float | None
    p99_ms: float | None


class Health(BaseModel):
    """How the gateway does."""

    status: Literal["starting", "healthy", "degraded", "draining", "unhealthy"]
    version: str
    latency_metrics: LatencyMetrics
    active_connections: int
    uptime_seconds: int
    auth: Literal["keys", "local", "open"]
    reasons: list[str] = Field(description="why it is degraded or unhealthy")


class Status(BaseModel):
    """One word."""

    status: str


class ConfigAccepted(BaseModel):
    """A configuration was taken, or with `dry_run` would be."""

    agent_id: str
    version: int
    hash: str
    warnings: list[str]
    dry_run: bool = False


class AgentEntry(BaseModel):
    """An agent in the list."""

    agent_id: str
    version: int
    hash: str
    source: Literal["python", "document"]
    states: int
    initial_state: str
    default: bool


class AgentList(BaseModel):
    """All agents."""

    agents: list[AgentEntry]
    total_count: int


class RevisionEntry(BaseModel):
    """One revision."""

    version: int
    hash: str
    label: str | None
    created_at: datetime
    active: bool
    source: Literal["python", "document"]


class RevisionList(BaseModel):
    """An agent's revisions, oldest first."""

    agent_id: str
    versions: list[RevisionEntry]


class ConfigDocument(BaseModel):
    """A configuration as it was posted; keys of endpoints are masked."""

    agent_id: str
    version: int
    hash: str
    config: dict[str, Any]


class Rollback(Given):
    """Which revision new calls shall get."""

    version: int = Field(ge=1)


class Done(BaseModel):
    """It is done."""

    success: bool
    message: str


class SessionEntry(BaseModel):
    """A session in the list."""

    session_id: str
    start_time: str
    current_state: str
    duration_seconds: int
    turn_count: int
    agent_id: str
    call_id: str
    stream_id: str
    provider: str


class SessionList(BaseModel):
    """The sessions that run; `total_count` is all of them, whatever part of them is shown."""

    active_sessions: list[SessionEntry]
    total_count: int


class TurnEntry(BaseModel):
    """One turn, as it happened."""

    turn: int
    cause: str
    state: str
    user: str
    agent: str = Field(description="the whole answer")
    heard: str = Field(description="as much of it as the caller heard")
    interrupted: bool
    done: bool
    at: float
    waterfall_ms: dict[str, float] | None


class SessionDetails(SessionEntry):
    """A session with its turns, the last 200 of them."""

    turns: list[TurnEntry]
    barge_ins: dict[str, int]
    end_reason: str | None
    quality: dict[str, Any] | None = Field(description="of the media's way, for calls by SIP")


class TranscriptLine(BaseModel):
    """What one side said; of the agent, what was heard."""

    role: Literal["user", "agent"]
    text: str
    turn: int
    interrupted: bool = False


class Transcript(BaseModel):
    """The conversation as both sides heard it."""

    session_id: str
    transcript: list[TranscriptLine]


class Say(Given):
    """Something for the agent to say."""

    text: str = Field(min_length=1, max_length=4000)
    interrupt: bool = Field(False, description="at once, instead of when the answer under way was heard")


class Transfer(Given):
    """Where to."""

    to: str = Field(min_length=1, max_length=256, description="E.164 number or SIP address; FASTAGENT_TRANSFER_TO")
    say: str = Field("", max_length=4000, description="said before")


class SendDtmf(Given):
    """Keys to send."""

    digits: str = Field(pattern=r"^[0-9A-D*#]{1,64}$")


class Hold(Given):
    """Whether the caller is on hold."""

    on: bool = True


class PlaceCall(Given):
    """Whom an agent shall call."""

    to: str = Field(min_length=1, max_length=256, description="E.164 number or SIP address; FASTAGENT_CALL_TO")
    agent_id: AgentId | None = Field(None, description="the default agent, if not given")
    caller: str = Field("", pattern=r"^\+?[0-9A-Za-z_.-]{0,64}$", description="the number to be shown")
    metadata: dict[Annotated[str, Field(max_length=64)], Annotated[str, Field(max_length=1024)]] = Field(
        default_factory=dict, max_length=50, description="what the agent knows of the call"
    )
    ring_seconds: int = Field(60, ge=5, le=180)


class PlacedCall(BaseModel):
    """A call that the gateway makes."""

    call_id: str
    session_id: str = Field(description="of the session that begins when somebody answers")
    agent_id: str
    to: str
    status: Literal["dialing", "ringing", "answered", "ended"]
    outcome: str | None = Field(description="`answered`, or why nobody did")
    sip_status: int | None = Field(description="what the other side refused it with, such as 486")
    created_at: datetime
    ended_at: datetime | None


class PlacedCalls(BaseModel):
    """The calls that are known, newest first."""

    calls: list[PlacedCall]
    total_count: int
