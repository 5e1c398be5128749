"""A phone that calls the gateway: media in real time, and what the caller would hear.

It keeps real time by absolute deadlines, says how late it was, and records both sides of the call. What is said and
heard is mu-law at 8 kHz, whatever the wire has.
"""

import asyncio
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Self

import numpy as np

from fastagent.media.frame import FRAME_MS, PCMU_8K
from fastagent.media.level import frame_levels_db

AUDIBLE_DB = -45.0
FRAME = PCMU_8K.frame_bytes
PERIOD_S = FRAME_MS / 1000
_NOISE_DB = -66.0


class CallRefused(Exception):
    """The gateway did not take the call; `reason` is `busy`, or what the wire said."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


@dataclass(slots=True)
class Timings:
    """What the phone saw, in its own clock (seconds); lists are in order."""

    started: float = 0.0
    first_audible: float | None = None
    speech_ended: list[float] = field(default_factory=list)
    """The last audible frame of each utterance was sent."""
    response: list[float] = field(default_factory=list)
    """From there to the first audible frame of the answer, played."""
    onset_to_clear: list[float] = field(default_factory=list)
    holes: list[float] = field(default_factory=list)
    """Silences within an answer that come from late audio."""
    max_late: float = 0.0
    """How late this phone itself ever was."""


@dataclass(frozen=True, slots=True)
class Outgoing:
    """20 ms that the caller says."""

    frame: bytes
    onset: bool = False
    """The first audible ones of an utterance."""
    last: bool = False


def line_noise(seconds: float = 1.0) -> bytes:
    """Return the faint noise of a quiet line."""
    rng = np.random.default_rng(7)
    samples = rng.standard_normal(int(seconds * 8000)) * 32768 * 10 ** (_NOISE_DB / 20)
    return PCMU_8K.encode(samples.astype(np.int16))


class BasePhone:
    """One call.

    Args:
        call_sid: how the gateway will know it.
        on_event: told of what happens on the wire.
    """

    def __init__(self, call_sid: str, on_event: Callable[[str, str], None] = lambda name, detail: None) -> None:
        self.call_sid = call_sid
        self.timings = Timings()
        self.caller_audio = bytearray()
        self.agent_audio = bytearray()
        self.ended_by: str | None = None
        self._on_event = on_event
        self._noise, self._noise_at = line_noise(), 0
        self._outgoing: deque[Outgoing] = deque()
        self._onset: float | None = None
        self._awaiting_answer: float | None = None
        self._agent_spoke_at: float | None = None
        self._dry_since: float | None = None
        self.agent_started = asyncio.Event()
        self.closed = asyncio.Event()

    # -- the wire --------------------------------------------------------------------------------------------------

    async def _dial(self) -> None:
        """Call, and begin to send and play.

        Raises:
            CallRefused: the gateway did not take the call.
        """
        raise NotImplementedError

    async def _leave(self) -> None:
        """Release the wire."""
        raise NotImplementedError

    async def _say_goodbye(self) -> None:
        """Hang up."""
        raise NotImplementedError

    async def _press(self, digit: str) -> None:
        """Press one key."""
        raise NotImplementedError

    @property
    def buffered_ms(self) -> int:
        """Audio of the agent's that is still to be played."""
        raise NotImplementedError

    def wire(self) -> dict[str, Any]:
        """What the wire's emulator, or its other end, saw."""
        raise NotImplementedError

    # -- the call --------------------------------------------------------------------------------------------------

    async def __aenter__(self) -> Self:
        self.timings.started = time.perf_counter()
        await self._dial()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._leave()

    # -- 20 ms, for the wire's clock -------------------------------------------------------------------------------

    def _next(self) -> Outgoing:
        """Return what the caller says now: words, or the noise of the line."""
        if self._outgoing:
            return self._outgoing.popleft()
        at = self._noise_at
        self._noise_at = (at + FRAME) % (len(self._noise) - FRAME)
        return Outgoing(self._noise[at : at + FRAME])

    def _sent(self, one: Outgoing) -> None:
        """It is on its way."""
        self.caller_audio += one.frame
        now = time.perf_counter()
        if one.onset and self.buffered_ms:
            self._onset = now
        if one.last:
            self.timings.speech_ended.append(now)
            self._awaiting_answer = now

    def _played(self, heard: bytes) -> None:
        """The caller has heard this."""
        now = time.perf_counter()
        self.agent_audio += heard
        if _is_audible(heard):
            self._heard_agent(now)
        if self.buffered_ms == 0 and self._agent_spoke_at is not None and self._dry_since is None:
            self._dry_since = now if now - self._agent_spoke_at < 0.5 else None

    def _heard_agent(self, now: float) -> None:
        if self.timings.first_audible is None:
            self.timings.first_audible = now - self.timings.started
        if self._awaiting_answer is not None:
            self.timings.response.append(now - self._awaiting_answer)
            self._awaiting_answer = None
        self._agent_spoke_at = now
        self.agent_started.set()

    def _cleared(self, at: float) -> None:
        """The agent has fallen silent for the caller."""
        if self._onset is not None:
            self.timings.onset_to_clear.append(at - self._onset)
            self._onset = None

    # -- what the caller does --------------------------------------------------------------------------------------

    def say(self, payload: bytes) -> None:
        """Speak mu-law audio, after what is being said already."""
        payload += PCMU_8K.silence(-len(payload) % FRAME)
        levels = frame_levels_db(PCMU_8K.decode(payload), FRAME)
        audible = np.flatnonzero(levels > AUDIBLE_DB)
        first, last = (int(audible[0]), int(audible[-1])) if len(audible) else (-1, -1)
        for at in range(len(payload) // FRAME):
            self._outgoing.append(Outgoing(payload[at * FRAME : (at + 1) * FRAME], at == first, at == last))
        self.agent_started.clear()

    async def press(self, digits: str) -> None:
        """Press keys, a fifth of a second apart."""
        self.agent_started.clear()
        self._dry_since = self._agent_spoke_at = None  # what follows is another answer
        for digit in digits:
            await self._press(digit)
            await asyncio.sleep(0.2)

    async def hang_up(self) -> None:
        """Say goodbye and close, as the carrier does when the caller hangs up."""
        if not self.closed.is_set():
            self.ended_by = "caller"
            await self._say_goodbye()

    async def said(self) -> None:
        """Return when all that was to be said is said, or the call is over."""
        while self._outgoing and not self.closed.is_set():  # noqa: ASYNC110
            await asyncio.sleep(PERIOD_S)

    async def agent_quiet(self, *, quiet_s: float = 0.7, patience_s: float = 15.0) -> bool:
        """Return when the agent has begun to speak and fallen silent again; False if it never began, or the call is
        over."""
        deadline = time.perf_counter() + patience_s
        while not self.closed.is_set():
            now = time.perf_counter()
            spoke = self.agent_started.is_set() and self._agent_spoke_at is not None
            if not spoke and now > deadline:
                return False
            if spoke and not self.buffered_ms and now - (self._agent_spoke_at or 0.0) >= quiet_s:
                return True
            await asyncio.sleep(PERIOD_S)
        return False


def _is_audible(frame: bytes) -> bool:
    return frame != _SILENT and float(frame_levels_db(PCMU_8K.decode(frame), FRAME)[0]) > AUDIBLE_DB


_SILENT = PCMU_8K.silence(FRAME)
