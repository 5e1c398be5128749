"""The contract between a connector and a session: a leg carries audio and a few events, and hides the provider."""

from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Protocol

from fastagent.media.frame import AudioFormat


class HangupReason(StrEnum):
    """Why a leg ended: one closed set for log, metric and message."""

    COMPLETED = "completed"  # the agent came to its end
    CALLER_HUNG_UP = "caller_hung_up"
    NO_INPUT = "no_input"
    MAX_DURATION = "max_duration"
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

    async def hang_up(self, reason: HangupReason) -> None:
        """End the call; returns when the other side has confirmed it, or its deadline has passed."""
        ...
