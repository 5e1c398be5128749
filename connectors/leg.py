"""The contract between a connector and a session: a leg carries audio and a few events, and hides the provider."""

from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, Literal, Protocol

from fastagent.connectors.notices import Notice
from fastagent.media.frame import AudioFormat

Capability = Literal["transfer", "dtmf", "hold"]


class HangupReason(StrEnum):
    """Why a leg ended: one closed set for log, metric and message."""

    COMPLETED = "completed"  # the agent came to its end
    TRANSFERRED = "transferred"  # the call goes on elsewhere
    CALLER_HUNG_UP = "caller_hung_up"
    NO_INPUT = "no_input"
    MAX_DURATION = "max_duration"
    MAX_TURNS = "max_turns"
    CONNECTION_LOST = "connection_lost"
    MEDIA_TIMEOUT = "media_timeout"
    PROTOCOL_ERROR = "protocol_error"
    PROVIDER_ERROR = "provider_error"  # the carrier reported an error of the stream
    AGENT_FAILED = "agent_failed"  # too many failed turns in a row
    TERMINATED = "terminated"  # by the API
    SLOW_PEER = "slow_peer"
    SHUTDOWN = "shutdown"
    INTERNAL_ERROR = "internal_error"


@dataclass(frozen=True, slots=True)
class CallInfo:
    """What is known of a call when it is answered."""

    provider: str
    call_id: str
    stream_id: str
    from_: str
    to: str
    direction: str
    audio: AudioFormat
    """How the caller's audio comes."""
    metadata: Mapping[str, str] = field(default_factory=dict)
    """What the provider or client told of the call; templates see it, and the model as quoted data, but
    for numbers and addresses."""
    playback: AudioFormat | None = None
    """How ours goes, if otherwise."""
    burst_s: float = 3.0
    """Seconds of audio that may come ahead of real time."""
    session_id: str | None = None
    """The id that the client asked for."""
    private: Mapping[str, str] = field(default_factory=dict)
    """What the connector wants to be told when the session is taken up again, here or elsewhere."""
    voice: bool = True
    """Whether the agent is heard. Else the leg takes its words from `Transcribed`, whoever speaks them listens to the
    caller's silences, too, and tells them by `SilenceReported`."""

    @property
    def output(self) -> AudioFormat:
        """How the agent's audio goes."""
        return self.playback or self.audio


@dataclass(frozen=True, slots=True)
class DtmfReceived:
    """One key."""

    digit: str


@dataclass(frozen=True, slots=True)
class MarkReached:
    """Playout reached a mark, or a clear released it: the epoch in its name tells."""

    name: str


@dataclass(frozen=True, slots=True)
class TextReceived:
    """The caller has typed instead of spoken."""

    text: str


@dataclass(frozen=True, slots=True)
class SilenceReported:
    """The caller has said nothing for a while, says the provider, on a leg without voice."""


@dataclass(frozen=True, slots=True)
class InterruptRequested:
    """The client wants the agent to be silent now, whatever the caller said."""


@dataclass(frozen=True, slots=True)
class ConnectionLost:
    """The connection is gone and may come back: until then nobody hears or speaks."""


@dataclass(frozen=True, slots=True)
class ConnectionBack:
    """It is there again; what was on its way when it broke was not heard."""


@dataclass(frozen=True, slots=True)
class HoldBegan:
    """One side has put the call on hold: nobody listens, and what comes is not the caller."""


@dataclass(frozen=True, slots=True)
class HoldEnded:
    """Both sides hear each other again."""


@dataclass(frozen=True, slots=True)
class LegEnded:
    """The last event of a leg."""

    reason: HangupReason


class LegError(Exception):
    """The other side refused what was asked of it, or cannot do it; the call goes on."""


LegEvent = (
    DtmfReceived
    | MarkReached
    | TextReceived
    | SilenceReported
    | InterruptRequested
    | ConnectionLost
    | ConnectionBack
    | HoldBegan
    | HoldEnded
    | LegEnded
)


class InboundSink(Protocol):
    """Where a leg pushes the caller's audio, by a plain call a message."""

    def push(self, payload: bytes, timestamp_ms: int | None, now: float) -> bool:
        """Take wire audio; `timestamp_ms` is the media time at its start, if the provider tells it.

        Returns:
            False where it was dropped, being too far ahead of real time.
        """
        ...

    def quiet(self, seconds: float, now: float) -> None:
        """The peer has sent nothing for so long, and that means silence: time goes on."""
        ...


class CallLeg(Protocol):
    """One signalling-and-media connection."""

    info: CallInfo
    frames_dropped: int
    """Audio that a slow reader never got, in frames of 20 ms."""
    capabilities: frozenset[Capability]
    """What this leg can do beyond talking; asking for anything else raises `LegError`."""

    def attach(self, inbound: InboundSink) -> None:
        """Push the caller's audio there from now on."""
        ...

    def events(self) -> AsyncIterator[LegEvent]:
        """Yield what happens, up to and including `LegEnded`."""
        ...

    def send_audio(self, payload: bytes) -> None:
        """Queue wire audio; never waits."""
        ...

    def send_mark(self, name: str) -> None:
        """Queue a mark behind the audio so far."""
        ...

    def quality(self) -> Mapping[str, Any] | None:
        """Return what is known of the media's way: loss, delay, an estimate of its sound (`CallQuality.details`).

        None where the network keeps that to itself, as streams over TCP do.
        """
        ...

    def flush(self) -> None:
        """The answer is complete: no more audio of it will come."""
        ...

    def clear(self) -> None:
        """Drop what is queued here, then at the provider."""
        ...

    def notify(self, notice: Notice) -> None:
        """Take word of what happens in the session; a provider that has no message for it drops it."""
        ...

    async def send_dtmf(self, digits: str) -> None:
        """Let the caller's side hear these keys.

        Raises:
            LegError: it cannot be done.
        """
        ...

    async def transfer(self, destination: str) -> None:
        """Let the caller talk to somebody else, who is dialled; returns when the provider has taken it over.

        Args:
            destination: a number in E.164 form, or a SIP address; the policy has allowed it already.

        Raises:
            LegError: it cannot be done; the call is still here.
        """
        ...

    async def hold(self, on: bool) -> None:
        """Put the caller on hold, or take them back; the leg tells it by its events.

        Raises:
            LegError: it cannot be done.
        """
        ...

    async def hang_up(self, reason: HangupReason) -> None:
        """End the call; returns when the other side has confirmed it, or its deadline has passed."""
        ...


class NoHold:
    """A leg that can put nobody on hold."""

    async def hold(self, on: bool) -> None:
        """Raise `LegError`."""
        raise LegError("this leg has no hold")
