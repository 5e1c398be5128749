"""A turn: one cause (an utterance, keys, silence, the answer of the phone), and the agent's answer to it.

    think ----------------> say, sentence by sentence ----------> heard ----> remembered
      |  2 s: a filler       |  synthesis fails: a kept apology
      |  deadline: apology   |
      +------ interrupt ------+---> cut to what was heard, remembered as interrupted

The turn is the unit of cancellation. Whatever happens in it, the caller hears something, and the session goes on until
three turns in a row have failed.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING

from fastagent.afsm.machine import Step
from fastagent.connectors.leg import HangupReason
from fastagent.gateway import phrases
from fastagent.gateway.record import TurnRecord
from fastagent.media.errors import SpeechError

if TYPE_CHECKING:
    from fastagent.gateway.session import Session

_log = logging.getLogger(__name__)

_FILLER_S = 2.0

Think = Callable[[], Awaitable[Step | None]]


class Turn:
    """One turn of a session.

    Args:
        think: asks the machine; None in its place of a step means that the agent gives the line back.
        ending: end the call for this reason once the answer was heard.
    """

    def __init__(
        self, session: "Session", record: TurnRecord, think: Think, *, ending: HangupReason | None = None
    ) -> None:
        self.record = record
        self.committed = False
        """Whether the machine has taken its step; before that, the input can still be joined with what follows."""
        self._session, self._think, self._ending = session, think, ending
        self._interruptible = True
        self._remembered = False
        self.thought_at = 0.0

    @property
    def interruptible(self) -> bool:
        """Whether the caller may barge in on the answer."""
        return self._interruptible and self._ending is None

    async def run(self) -> None:
        """Live the turn to its end."""
        session = self._session
        session.speaker.begin()
        try:
            await self._answer()
            session.failures = 0
        except SpeechError as error:
            session.services.metrics.provider_errors.labels(session.services.renderer.tts.name, "speech").inc()
            _log.warning("synthesis failed", extra={"session_id": session.id, "error": str(error)})
            await self._apologise("synthesis")
        except TimeoutError:
            session.services.metrics.turn_timeouts.inc()
            _log.warning("turn timed out", extra={"session_id": session.id, "state": self.record.state})
            await self._apologise("timeout")
        except Exception:
            _log.exception("turn failed", extra={"session_id": session.id, "state": self.record.state})
            await self._apologise("failure")
        self._remember()
        session.turn_done(self._ending)

    async def _answer(self) -> None:
        session = self._session
        step = await self._thought()
        self.thought_at = session.now()
        if step is None:
            self._ending = HangupReason.NO_INPUT
            text = session.agent.goodbye
        else:
            text = step.response
            self.record.state = step.state
            self._interruptible = session.machine.state.interruptible
            if step.ends:
                self._ending = HangupReason.COMPLETED
            if step.refused is not None:
                session.services.metrics.transitions_refused.inc()
                _log.warning("transition refused", extra={"session_id": session.id, **step.refused.details})
        self.record.agent = text
        session.hold_for_caller()
        await session.speaker.say(text)
        await session.speaker.finish()

    async def _thought(self) -> Step | None:
        """Ask the machine: with a filler when it is slow, and a deadline."""
        session = self._session
        thinking = asyncio.ensure_future(self._think())
        try:
            done, _ = await asyncio.wait({thinking}, timeout=_FILLER_S)
            if not done:
                session.services.metrics.filler.labels("slow").inc()
                session.speaker.say_kept(phrases.FILLER)
                async with asyncio.timeout(max(0.0, session.services.turn_timeout_s - _FILLER_S)):
                    await asyncio.wait({thinking})
            self.committed = True
            if session.turn_committed():
                await asyncio.sleep(0)  # this turn is cancelled here
            return thinking.result()
        finally:
            thinking.cancel()

    async def _apologise(self, reason: str) -> None:
        """Say something that needs no provider."""
        session = self._session
        session.failures += 1
        session.services.metrics.filler.labels(reason).inc()
        gives_up = session.failures >= session.services.max_failures
        if gives_up:
            self._ending = HangupReason.AGENT_FAILED
        phrase = phrases.GIVE_UP if gives_up else phrases.APOLOGY
        session.speaker.say_kept(phrase)
        try:
            await session.speaker.finish()
        except TimeoutError:
            _log.warning("the apology was not played", extra={"session_id": session.id})

    def interrupt(self) -> None:
        """The caller interrupted: history keeps what was heard. The session cancels the task."""
        self.record.interrupted = True
        self._remember(self._session.speaker.stop())

    def _remember(self, heard: str | None = None) -> None:
        """Commit the exchange to the session's memory, once."""
        if self._remembered:
            return
        self._remembered = True
        record = self.record
        record.done = True
        spoken = self._session.speaker.playout.ledger.text
        record.heard = spoken if heard is None else heard
        record.agent = record.agent or spoken
        if record.user or record.heard:
            self._session.machine.context.update_context(
                record.user, record.agent, record.state, heard=record.heard, interrupted=record.interrupted
            )
