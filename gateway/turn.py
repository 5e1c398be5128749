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
from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import TYPE_CHECKING

from fastagent.afsm.llm import LlmError
from fastagent.afsm.machine import Response, Said, Step, Transition
from fastagent.afsm.state import Ending
from fastagent.connectors.leg import HangupReason
from fastagent.connectors.notices import Failed, Interrupted, Transcribed
from fastagent.gateway import phrases
from fastagent.gateway.onward import Next, Think, move_on
from fastagent.gateway.record import TurnRecord
from fastagent.media.errors import SpeechError
from fastagent.media.speech.sentences import SentenceStream

if TYPE_CHECKING:
    from fastagent.gateway.session import Session

_log = logging.getLogger(__name__)

_FILLER_S = 2.0

_MAX_PIECES = 256  # of an answer that comes faster than it can be said


class Turn:
    """One turn of a session.

    Args:
        think: asks the machine.
        ending: end the call for this reason once the answer was heard.
    """

    def __init__(
        self, session: "Session", record: TurnRecord, think: Think, *, ending: HangupReason | None = None
    ) -> None:
        self.record = record
        self.committed = False
        """Whether the machine has taken its step; before that, the input can still be joined with what follows."""
        self._session, self._think, self._ending = session, think, ending
        self._onward: Ending | None = None
        self._interruptible = True
        self.moves_on = False
        """Whether the answer was heard, and what comes after it is being done."""
        self._remembered = self._spoke = False
        self.thought_at = 0.0
        self.transitions: list[Transition] = []
        """What this turn has committed."""
        self.began_at = session.now()

    def moved(self, transition: Transition, ending: Ending | None) -> None:
        """The machine has committed a transition: what the caller says from now on is for the new state, and if that
        one ends the call, nothing that happens to the rest of the answer can keep it from it."""
        self.transitions.append(transition)
        self.committed = True
        self._onward = ending

    @property
    def ends_call(self) -> bool:
        """Whether the call ends, or goes elsewhere, with this answer."""
        return self._ending is not None or self._onward is not None

    @property
    def interruptible(self) -> bool:
        """Whether the caller may barge in on the answer."""
        return self._interruptible and not self.ends_call

    @property
    def joinable(self) -> bool:
        """Whether what the caller says now still belongs to the utterance that this turn answers."""
        return self.record.cause == "speech" and not self.committed and not self._spoke

    async def run(self) -> None:
        """Live the turn to its end."""
        session = self._session
        session.speaker.begin()
        try:
            await self._answer()
            session.failures = 0
        except SpeechError as error:
            session.services.metrics.provider_errors.labels(session.renderer.tts.name, "speech").inc()
            _log.warning("synthesis failed", extra={"session_id": session.id, "error": str(error)})
            session.tell(Failed("internal_error", "The answer could not be spoken", {"text": self.record.agent}))
            await self._apologise("synthesis")
        except LlmError as error:
            _log.warning("model failed", extra={"session_id": session.id, "kind": error.kind})
            session.tell(Failed("llm_error", "The language model has failed", {"kind": error.kind}))
            await self._apologise("model", hopeless=error.kind == "auth")
        except TimeoutError:
            session.services.metrics.turn_timeouts.inc()
            _log.warning("turn timed out", extra={"session_id": session.id, "state": self.record.state})
            session.tell(Failed("internal_error", "The answer took too long", {"state": self.record.state}))
            await self._apologise("timeout")
        except Exception:
            _log.exception("turn failed", extra={"session_id": session.id, "state": self.record.state})
            session.tell(Failed("internal_error", "The agent has failed", {"state": self.record.state}))
            await self._apologise("failure")
        self._remember()
        if self._onward is None or self._ending is not None:
            session.turn_done(Next(reason=self._ending))
        else:
            self.moves_on = True
            session.turn_done(await move_on(session, self._onward))

    async def _answer(self) -> None:
        """Say what the machine answers, as it comes."""
        session, sentences = self._session, SentenceStream()
        step: Step | None = None
        async with aclosing(self._events()) as events:
            async for event in events:
                if isinstance(event, Step):
                    step = event
                    self._taken(step)
                else:
                    for sentence in sentences.push(event.text):
                        await self._say(sentence)
        assert step is not None
        rest = session.agent.goodbye if step.gives_up else step.rest
        held = [] if step.metadata.get("truncated") else sentences.flush()  # half a sentence is not said
        for sentence in [*held, rest]:
            await self._say(sentence)
        await session.speaker.finish()

    def _taken(self, step: Step) -> None:
        """The machine has taken its step."""
        session = self._session
        self.record.state = step.state
        self.record.agent = f"{step.response} {session.agent.goodbye}".strip() if step.gives_up else step.response
        self._interruptible = session.machine.state.interruptible
        if step.gives_up:
            self._ending = HangupReason.NO_INPUT
        else:
            self._onward = step.ending
        if step.refused is not None:
            session.services.metrics.transitions_refused.inc()
            _log.warning("transition refused", extra={"session_id": session.id, **step.refused.details})
            if session.machine.state.terminal:  # there is no way back, and nothing to wait for
                self._ending = HangupReason.AGENT_FAILED
            session.tell(Failed("invalid_state", str(step.refused), step.refused.details))

    async def _say(self, text: str) -> None:
        session = self._session
        if not text:
            return
        if not self._spoke:
            self._spoke = True
            self.thought_at = session.now()
        if not session.speaker.speaking:
            session.hold_for_caller()
            await asyncio.sleep(0)  # where that interrupted this turn, it ends here
        session.tell(Transcribed("agent", text, False, self.record.turn))
        await session.speaker.say(text)

    async def _events(self) -> AsyncGenerator[Said | Step, None]:
        """Ask the machine; with a filler when it is slow to begin, and a deadline between its pieces."""
        session = self._session
        pieces: asyncio.Queue[Said | Step] = asyncio.Queue(_MAX_PIECES)
        thinking = asyncio.create_task(_feed(self._think(), pieces))
        try:
            patience = min(_FILLER_S, session.turn_timeout_s)
            event = await _next(pieces, thinking, patience)
            if event is None and not session.inbound.caller_speaks:
                session.services.metrics.filler.labels("slow").inc()
                session.speaker.say_kept(phrases.FILLER)
            while not isinstance(event, Step):
                if event is not None:
                    yield event
                event = await _next(pieces, thinking, session.turn_timeout_s - (event is None) * patience)
                if event is None:
                    raise TimeoutError
            self.committed = True
            if event.ends or event.gives_up or self._ending is not None:
                session.forget_keys()
            elif session.turn_committed():
                await asyncio.sleep(0)  # this turn is cancelled here
            yield event
        finally:
            thinking.cancel()

    async def _apologise(self, reason: str, *, hopeless: bool = False) -> None:
        """Say something that needs no provider; a call that cannot get better is given up."""
        session = self._session
        session.failures += 1
        session.services.metrics.filler.labels(reason).inc()
        gives_up = hopeless or session.failures >= session.services.max_failures
        if gives_up:
            self._ending = HangupReason.AGENT_FAILED
        session.forget_keys()
        phrase = phrases.GIVE_UP if gives_up else phrases.APOLOGY
        if not session.speaker.speaking:
            session.hold_for_caller()
            await asyncio.sleep(0)
        session.tell(Transcribed("agent", phrase, False, self.record.turn))
        session.speaker.say_kept(phrase)
        try:
            await session.speaker.finish()
        except TimeoutError:
            _log.warning("the apology was not played", extra={"session_id": session.id})

    def interrupt(self) -> None:
        """The caller interrupted: history keeps what was heard. The session cancels the task."""
        if self._remembered:
            return
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
        if record.agent or record.heard:
            cut = record.interrupted
            self._session.tell(Transcribed("agent", record.agent, True, record.turn, record.heard, interrupted=cut))
        if record.interrupted:
            self._session.tell(Interrupted(record.turn, record.heard))
        if record.user or record.heard:
            self._session.machine.context.update_context(
                record.user, record.agent, record.state, heard=record.heard, interrupted=record.interrupted
            )
        self._session.services.keep(self._session)
        self._session.services.tracer.turn(self._session.id, self)


async def _feed(response: Response, pieces: "asyncio.Queue[Said | Step]") -> None:
    async with aclosing(response) as events:
        async for event in events:
            await pieces.put(event)


async def _next(
    pieces: "asyncio.Queue[Said | Step]", thinking: "asyncio.Task[None]", patience_s: float
) -> Said | Step | None:
    """Return the next piece; None when there is none in time. Raises what the machine raised."""
    getting = asyncio.ensure_future(pieces.get())
    try:
        await asyncio.wait({getting, thinking}, timeout=patience_s, return_when=asyncio.FIRST_COMPLETED)
        if not getting.done() and thinking.done():
            thinking.result()
            await asyncio.sleep(0)  # what was fed last is on its way
        return getting.result() if getting.done() else None
    finally:
        getting.cancel()
