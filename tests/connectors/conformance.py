"""What every leg must do, whatever its provider: a suite over harnesses.

A harness is a leg of one connector, with a peer in memory that speaks the provider's protocol and a wire that can stop
taking messages. A new connector adds its harness to `HARNESSES` in `test_conformance.py`; all is in virtual time.
"""

import asyncio
from collections.abc import Callable, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field
from typing import Protocol

import pytest

from fastagent.connectors import notices
from fastagent.connectors.leg import CallLeg, DtmfReceived, HangupReason, LegEnded, LegError, LegEvent, MarkReached

FRAME_S = 0.02

NOTICES: Sequence[notices.Notice] = (
    notices.SessionStarted("sess_1", "agent", "greeting"),
    notices.SessionStarted("sess_1", "agent", "greeting", resumed=True),
    notices.StateChanged("greeting", "talk", ""),
    notices.Transcribed("user", "", False),
    notices.Transcribed("agent", "half a character \ud83d", True, 1, "half", True),
    notices.CallerSpeech(True),
    notices.CallerSpeech(False),
    notices.Interrupted(1, ""),
    notices.ToolCalled("look_up", 12.5, "timeout"),
    notices.TurnMeasured(1, {"total_ms": float("nan")}),
    notices.CallHappened("hand_over", "agent"),
    notices.Failed("llm_error", "x", {"deep": {"set": frozenset({1}), "object": object(), "big": 10**40}}),
)


@dataclass(slots=True)
class Sink:
    """Where a leg pushes the caller's audio."""

    payload: bytearray = field(default_factory=bytearray)
    times: list[float] = field(default_factory=list)
    quiet_s: float = 0.0

    def push(self, payload: bytes, timestamp_ms: int | None, now: float) -> bool:
        self.payload += payload
        self.times.append(now)
        return True

    def quiet(self, seconds: float, now: float) -> None:
        self.quiet_s += seconds


@dataclass(frozen=True, slots=True)
class Arrived:
    """What the peer got, in its order: `audio` with its payload as the leg was given it, `clear`, or `final`."""

    kind: str
    payload: bytes = b""


class Harness(Protocol):
    """One leg and its peer."""

    tells_final: bool
    """Whether the provider is told where an answer ends."""
    takes_dtmf: bool

    @property
    def leg(self) -> CallLeg:
        """The leg."""
        ...

    @property
    def arrived(self) -> list[Arrived]:
        """What the peer got so far."""
        ...

    @property
    def closed(self) -> bool:
        """Whether our side has closed the connection, or hung up."""
        ...

    def caller_sends(self, payload: bytes) -> None:
        """The peer sends a frame of the caller's audio, in the leg's own format."""
        ...

    def caller_presses(self, digit: str) -> None:
        """The peer sends a key."""
        ...

    async def peer_plays(self, seconds: float) -> None:
        """Time passes; the peer plays what it has and reports what its protocol reports."""
        ...

    def peer_ends(self) -> None:
        """The peer ends the call properly."""
        ...

    def peer_is_lost(self) -> None:
        """The connection breaks, for good."""
        ...

    def stall(self) -> None:
        """The wire takes nothing any more."""
        ...

    def flow(self) -> None:
        """It does again."""
        ...


MakeHarness = Callable[[], AbstractAsyncContextManager[Harness]]


class Events:
    """The events of a leg, as they come."""

    def __init__(self, leg: CallLeg) -> None:
        self.seen: list[LegEvent] = []
        self._task = asyncio.create_task(self._follow(leg))

    async def _follow(self, leg: CallLeg) -> None:
        async for event in leg.events():
            self.seen.append(event)

    @property
    def marks(self) -> list[str]:
        """The names of the marks reached."""
        return [one.name for one in self.seen if isinstance(one, MarkReached)]

    async def end(self) -> HangupReason:
        """Return why the leg ended; nothing comes after it."""
        async with asyncio.timeout(60):
            await self._task
        ends = [one for one in self.seen if isinstance(one, LegEnded)]
        assert len(ends) == 1, "an end ends once"
        assert self.seen[-1] is ends[0], "and is the last event"
        return ends[0].reason


def frame(leg: CallLeg, value: int) -> bytes:
    """A frame of 20 ms in the leg's output format, told from others by its bytes."""
    return bytes((value,)) * leg.info.output.frame_bytes


def audio(harness: Harness) -> bytes:
    """All audio that the peer got."""
    return b"".join(one.payload for one in harness.arrived if one.kind == "audio")


def chunks_of(harness: Harness) -> list[int]:
    """The first byte of each stretch of audio."""
    return [one.payload[0] for one in harness.arrived if one.kind == "audio" and one.payload]


def assert_bounded(harness: Harness, sent_s: float) -> None:
    """Of what was sent, two seconds at most wait for a peer that does not read; the rest is counted as dropped."""
    dropped_s = harness.leg.frames_dropped * FRAME_S
    assert sent_s - dropped_s <= 2.3, "two seconds, and what was on its way"
    assert dropped_s <= sent_s - 1.9, "and no more than must be"


async def assert_refuses(leg: CallLeg) -> None:
    """What a leg does not offer, it refuses."""
    if "transfer" not in leg.capabilities:
        with pytest.raises(LegError):
            await leg.transfer("+15550100")
    if "dtmf" not in leg.capabilities:
        with pytest.raises(LegError):
            await leg.send_dtmf("12")


def pressed(events: Events) -> str:
    """The keys that came."""
    return "".join(one.digit for one in events.seen if isinstance(one, DtmfReceived))
