"""The contract between a connector and a session: a leg carries audio and a few events, and hides the provider."""

from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Literal, Protocol

from fastagent.media.frame import AudioFormat

Capability = Literal["transfer", "dtmf"]


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
    metadata: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class DtmfReceived:
    """One key."""

    digit: str


@dataclass(frozen=True, slots=True)
class MarkReached:
    """Playout reached a mark, or a clear released it: the epoch in its name tells."""

    name: str


@dataclass(frozen=True, slots=True)
class LegEnded:
    """The last event of a leg."""

    reason: HangupReason


class LegError(Exception):
    """The other side refused what was asked of it, or cannot do it; the call goes on."""


LegEvent = DtmfReceived | MarkReached | LegEnded


class InboundSink(Protocol):
    """Where a leg pushes the caller's audio, by a plain call a message."""

    def push(self, payload: bytes, timestamp_ms: int | None, now: float) -> None:
        """Take wire audio; `timestamp_ms` is the media time at its start, if the provider tells it."""
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

    def clear(self) -> None:
        """Drop what is queued here, then at the provider."""
        ...

    async def transfer(self, destination: str) -> None:
        """Let the caller talk to somebody else, who is dialled; returns when the provider has taken it over.

        Args:
            destination: a number in E.164 form, or a SIP address; the policy has allowed it already.

        Raises:
            LegError: it cannot be done; the call is still here.
        """
        ...

    async def hang_up(self, reason: HangupReason) -> None:
        """End the call; returns when the other side has confirmed it, or its deadline has passed."""
        ...
