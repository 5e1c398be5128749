"""A session: one leg, one agent, from answer to hang-up.

It listens (`InboundAudio` calls its `TurnListener` side, synchronously), lets turns run one at a time, and ends for
exactly one reason. Everything that it starts lives in its task group and is gone when `run` returns.
"""

import asyncio
import logging
import secrets
import time
from collections import deque
from collections.abc import Coroutine, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from fastagent.afsm.context import ConversationContext, ToolUse
from fastagent.afsm.machine import Machine, Transition
from fastagent.afsm.state import Ending
from fastagent.connectors.leg import (
    CallLeg,
    ConnectionBack,
    ConnectionLost,
    DtmfReceived,
    HangupReason,
    HoldBegan,
    HoldEnded,
    InterruptRequested,
    LegEnded,
    MarkReached,
    SilenceReported,
    TextReceived,
)
from fastagent.connectors.notices import (
    CallerSpeech,
    CallHappened,
    Listening,
    Notice,
    SessionStarted,
    StateChanged,
    ToolCalled,
    Transcribed,
    TurnMeasured,
)
from fastagent.gateway import phrases
from fastagent.gateway.agent import FastAgent
from fastagent.gateway.digits import DigitCollector
from fastagent.gateway.onward import Next, Think, fixed
from fastagent.gateway.recognition import Recognition
from fastagent.gateway.record import STAGES, SessionRecord, TurnRecord
from fastagent.gateway.services import Services
from fastagent.gateway.speaker import Speaker
from fastagent.gateway.traces import NoTracer, ObservedLlm
from fastagent.gateway.turn import Turn
from fastagent.gateway.wordless import WordlessRenderer
from fastagent.media.barge_in import Verdict
from fastagent.media.endpointing import SpeechEnded, SpeechPaused, SpeechResumed, SpeechStarted
from fastagent.media.inbound import InboundAudio
from fastagent.media.level import FLOOR_DB

_log = logging.getLogger(__name__)

_UNHEARD_SPEECH_S = 1.0  # speech this long without words is answered; shorter was a noise
_CLOSING_S = 8.0
_MAX_KEYS_WAITING = 64
_MAX_ANNOUNCEMENTS = 8
_CALLERS = frozenset({"speech", "text", "dtmf", "no_input"})  # causes of turns that count against `max_turns`


@dataclass(frozen=True, slots=True)
class Announcement:
    """What the API wants to be said, and done afterwards."""

    words: str
    ending: Ending | None = None


class Session:
    """One conversation on one leg."""

    def __init__(
        self, leg: CallLeg, agent: FastAgent, services: Services, *, snapshot: Mapping[str, Any] | None = None
    ) -> None:
        self.id = leg.info.session_id or f"sess_{secrets.token_hex(16)}"
        self.leg, self.agent, self.services = leg, agent, services
        self.failures = 0
        """Failed turns in a row."""
        self.hand_overs = 0
        self._loop = asyncio.get_running_loop()
        self._resumed = snapshot is not None
        self.machine = self._restored(snapshot) if snapshot is not None else self._fresh_machine()
        state = self.machine.state.name
        self.record = SessionRecord(self.id, agent.agent_id, leg.info, datetime.now(UTC), state)
        stt, self.renderer = services.speech_for(agent) or (services.stt, services.renderer)
        if not leg.info.voice:
            self.renderer = WordlessRenderer()
        self.stt_name = stt.name
        self.speaker = Speaker(
            leg,
            self.renderer,
            services.ticker,
            lead_ms=services.lead_ms,
            on_first_audio=self._first_audio,
            failed=self.failed,
        )
        self._stt = stt.open(leg.info.audio)
        self.turn_config = agent.turn_config
        self.inbound = InboundAudio(
            leg.info.audio,
            vad=services.vad,
            stt=self._stt,
            config=self.turn_config,
            listener=self,
            max_ahead_s=leg.info.burst_s,
        )
        self._digits = DigitCollector(self._loop, self._dtmf_complete)
        self._ended: asyncio.Future[HangupReason] = self._loop.create_future()
        self._group: asyncio.TaskGroup | None = None
        self._tasks: set[asyncio.Task[None]] = set()
        # A hand-over changes none of these: they belong to the call.
        self.turn_timeout_s = agent.turn_timeout or services.turn_timeout_s
        self._max_turns, self._no_input_timeout = agent.max_turns, agent.no_input_timeout
        self._turn: Turn | None = None
        self._turn_task: asyncio.Task[None] | None = None
        self._recognition = Recognition(self, self._stt)
        self._silence: asyncio.TimerHandle | None = None
        self._state_timer: asyncio.TimerHandle | None = None
        self._overdue = False
        self._callers_turns = 0
        self._confirmed_at = 0.0
        self._failing = False
        self._keys_waiting: deque[str] = deque(maxlen=_MAX_KEYS_WAITING)
        self._announcements: deque[Announcement] = deque(maxlen=_MAX_ANNOUNCEMENTS)
        self._away = False

    def now(self) -> float:
        """The loop's time."""
        return self._loop.time()

    # -- the machine -----------------------------------------------------------------------------------------------

    def _fresh_machine(self) -> Machine:
        context = ConversationContext(max_history=self.agent.max_history)
        info = self.leg.info
        known = {"caller_id": info.from_, "called_id": info.to, **info.metadata}
        context.metadata.update({name: value for name, value in known.items() if value})
        return self._equipped(Machine(self.agent.afsm, context, on_transition=self._transitioned))

    def _restored(self, snapshot: Mapping[str, Any]) -> Machine:
        return self._equipped(Machine.restore(self.agent.afsm, snapshot, on_transition=self._transitioned))

    def _equipped(self, machine: Machine) -> Machine:
        context = machine.context
        model = self.services.model_for(self.agent)
        tracer = self.services.tracer
        if model is not None and not isinstance(tracer, NoTracer):
            model = ObservedLlm(model, lambda use: tracer.model(self.id, use))
        context.model = model
        context.web, context.tool_used = self.services.web, self._tool_used
        return machine

    def become(self, agent: FastAgent) -> None:
        """Go on with another agent, which knows what this one knows; turn taking and limits stay as they are."""
        self.hand_overs += 1
        self.agent = agent
        context = self.machine.context
        context.variables.clear()
        self.machine = self._equipped(Machine(agent.afsm, context, on_transition=self._transitioned))
        self.record.agent_id, self.record.current_state = agent.agent_id, agent.afsm.initial_state
        self.tell(CallHappened("hand_over", agent.agent_id))
        self._time_state()

    def _tool_used(self, use: ToolUse) -> None:
        if use.error:
            self.services.metrics.tool_errors.inc()
            _log.warning("tool failed: %s", use.error, extra={"session_id": self.id, "tool": use.name})
        self.tell(ToolCalled(use.name, round(use.seconds * 1000, 1), use.error))
        self.services.tracer.tool(self.id, use)

    def _time_state(self) -> None:
        """The state has changed: its time begins."""
        if self._state_timer is not None:
            self._state_timer.cancel()
        self._overdue = False
        timeout = self.machine.state.timeout
        self._state_timer = None if timeout is None else self._loop.call_later(timeout, self._state_timed_out)

    def _state_timed_out(self) -> None:
        """What is being said, by either side, is finished first."""
        self._state_timer, self._overdue = None, True
        if self._turn is None and not self.inbound.caller_speaks and not self._digits.collecting:
            self._leave_state()

    def _leave_state(self) -> None:
        self._overdue = False
        self._start("timeout", self.machine.respond_to_timeout)

    # -- life ------------------------------------------------------------------------------------------------------

    async def run(self) -> HangupReason:
        """Converse until the call ends; return why it did."""
        limit = self._loop.call_later(self.agent.max_duration, self.close, HangupReason.MAX_DURATION)
        try:
            async with asyncio.TaskGroup() as self._group:
                self.services.tracer.call_began(self)
                self.tell(SessionStarted(self.id, self.agent.agent_id, self.machine.state.name, self._resumed))
                self.spawn(self._follow_leg())
                self._open()
                self.leg.attach(self.inbound)
                reason = await self._ended
                await self._hang_up(reason)
                for task in self._tasks:
                    task.cancel()
        except* Exception as errors:
            _log.error("session failed", exc_info=errors.exceptions[0], extra={"session_id": self.id})
            reason = HangupReason.INTERNAL_ERROR
            await self._hang_up(reason)
        finally:
            limit.cancel()
            await self._close()
        self.record.quality = self.leg.quality()
        self.record.ended_at, self.record.end_reason = datetime.now(UTC), reason
        self.services.tracer.call_ended(self)
        return reason

    def spawn(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        """Run something that must not outlive the call."""
        assert self._group is not None
        task = self._group.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    async def _hang_up(self, reason: HangupReason) -> None:
        try:
            await self.leg.hang_up(reason)
        except Exception:
            _log.exception("hang-up failed", extra={"session_id": self.id})

    async def _close(self) -> None:
        self._stop_silence_timer()
        if self._state_timer is not None:
            self._state_timer.cancel()
        self._digits.close()
        self.speaker.close()
        self.inbound.close()
        await self._stt.aclose()

    async def _follow_leg(self) -> None:
        async for event in self.leg.events():
            match event:
                case MarkReached(name):
                    self.speaker.mark_reached(name)
                case DtmfReceived(digit):
                    self.tell(CallHappened("dtmf"))
                    self._dtmf(digit)
                    self._tell_whose_turn()  # it may have no answer: a key too many, for instance
                case TextReceived(text):
                    self._typed(text)
                case SilenceReported():
                    self._silence_reported()
                case InterruptRequested():
                    self._interrupt_on_request()
                case ConnectionLost():
                    self._go_away()
                case ConnectionBack():
                    self._come_back()
                case HoldBegan():
                    self.tell(CallHappened("hold"))
                    self._go_away()
                case HoldEnded():
                    self.tell(CallHappened("resume"))
                    self._come_back()
                case LegEnded(reason):
                    if self._turn is not None:
                        self._turn.interrupt()
                    self._end(reason)

    def _end(self, reason: HangupReason) -> None:
        if not self._ended.done():
            self._ended.set_result(reason)

    def close(self, reason: HangupReason, words: str = phrases.CLOSING) -> None:
        """Say goodbye and end the call; within some seconds, whatever happens. Without words it ends at once."""
        if self._ended.done():
            return
        self._keys_waiting.clear()
        self._announcements.clear()
        if self._turn is not None and self._turn.moves_on:  # a transfer that the provider may have taken already
            self._loop.call_later(_CLOSING_S, self._end, reason)
            return
        if not words or self._away:
            self._interrupt_turn()
            self._end(reason)
            return
        self._loop.call_later(_CLOSING_S, self._end, reason)
        self._interrupt_turn()
        self._start("closing", lambda: fixed(words, self.machine.state.name), ending=reason)

    # -- what a client or the API asks for -------------------------------------------------------------------------

    def announce(self, words: str, *, ending: Ending | None = None, interrupt: bool = False) -> bool:
        """Say something, and do what an ending says, once the answer under way was heard, or with `interrupt` at once;
        return whether there was room for it."""
        if self.ending or len(self._announcements) == _MAX_ANNOUNCEMENTS:
            return False
        one = Announcement(words, ending)
        if interrupt:
            self._announcements.appendleft(one)
            self._interrupt_on_request()
            return True
        self._announcements.append(one)
        if self._turn is None and not self.inbound.caller_speaks:
            self._announce_next()
        return True

    @property
    def ending(self) -> bool:
        """Whether the call is over, or nothing but its end will come any more."""
        return self._ended.done() or (self._turn is not None and self._turn.ends_call)

    def _announce_next(self) -> bool:
        if not self._announcements:
            return False
        one, state = self._announcements.popleft(), self.machine.state.name
        self._start("announcement", lambda: fixed(one.words, state, ending=one.ending))
        return True

    def _interrupt_on_request(self) -> None:
        """Whoever asks for it means it: states that may not be interrupted by speech are, by this."""
        if self._turn is None or not self._turn.ends_call:
            self._interrupt_turn()
            if not self._announce_next():
                self._start_silence_timer()

    def _typed(self, text: str) -> None:
        """Typed words are an utterance, and interrupt as keys do."""
        if self._turn is not None:
            if not self._turn.interruptible:
                return
            self._interrupt_turn()
        self.tell(Transcribed("user", text, True, self.record.turn_count + 1))
        self._start("text", lambda: self.machine.respond(text), user=text)

    def _silence_reported(self) -> None:
        if self._turn is None and not self.leg.info.voice and not self._digits.collecting and not self._ended.done():
            self._silent()

    def _tell_whose_turn(self) -> None:
        self.tell(Listening(self._turn is None and not self._digits.collecting))

    def _go_away(self) -> None:
        """Nobody listens for now: what is said waits, and nobody is asked anything."""
        self._away = True
        self._stop_silence_timer()
        self.speaker.away = True
        if self.speaker.speaking:
            self.speaker.pause()
        else:
            self.speaker.hold()  # what a turn under way is about to say, its filler too

    def _come_back(self) -> None:
        self._away = self.speaker.away = False
        self.speaker.resume()
        if self._turn is None:
            self._start_silence_timer()

    def tell(self, notice: Notice) -> None:
        """Tell the leg what happens; that it fails at it is its own affair."""
        try:
            self.leg.notify(notice)
        except Exception:
            _log.exception("a notice failed", extra={"session_id": self.id})

    def failed(self, error: Exception) -> None:
        """A callback raised: this call ends, within some seconds whatever happens; the others do not notice."""
        if self._failing or self._ended.done():
            return
        self._failing = True
        self._loop.call_later(_CLOSING_S, self._end, HangupReason.INTERNAL_ERROR)
        _log.error("session failed", exc_info=error, extra={"session_id": self.id})
        self.inbound.settle()
        self._keys_waiting.clear()
        self.speaker.stop()
        self._start("closing", lambda: fixed(phrases.GIVE_UP, ""), ending=HangupReason.INTERNAL_ERROR)

    # -- turns -----------------------------------------------------------------------------------------------------

    def _start(self, cause: str, think: Think, *, user: str = "", ending: HangupReason | None = None) -> None:
        """Begin a turn, in place of the one before."""
        if cause in _CALLERS and self._max_turns is not None:
            if self._callers_turns >= self._max_turns:
                self.close(HangupReason.MAX_TURNS)
                return
            self._callers_turns += 1
        if self._turn_task is not None:
            self._turn_task.cancel()
        self._stop_silence_timer()
        record = TurnRecord(self.record.turn_count + 1, cause, self.record.current_state, user=user, at=time.time())
        self.record.turn_count += 1
        self.record.turns.append(record)
        self._turn = Turn(self, record, think, ending=ending)
        self.services.tracer.turn_began(self, self._turn)
        self._turn_task = self.spawn(self._turn.run())
        self._tell_whose_turn()

    def _open(self) -> None:
        self._time_state()
        if self._resumed:
            self._start("resumption", lambda: self.machine.resumption(phrases.RESUMED))
        else:
            self._start("opening", self.machine.opening)

    def turn_done(self, following: Next) -> None:
        """The turn's answer was heard; say how the call goes on."""
        if self.services.log_transcripts and self._turn is not None:
            record = self._turn.record
            _log.info("turn", extra={"session_id": self.id, "user": record.user, "heard": record.heard})
        self._turn = self._turn_task = None
        if following.think is not None:
            self._start("onward", following.think, ending=following.reason)
        elif following.reason is not None:
            self._end(following.reason)
        elif not self.inbound.caller_speaks and not self._announce_next():
            self._start_silence_timer()
            self._tell_whose_turn()

    def _interrupt_turn(self) -> None:
        if self._turn is not None and self._turn_task is not None:
            self._turn.interrupt()
            self._turn_task.cancel()
        self._turn = self._turn_task = None
        self.inbound.settle()

    def _transitioned(self, transition: Transition) -> None:
        self.record.current_state = transition.to_state
        self._time_state()
        self.tell(StateChanged(transition.from_state, transition.to_state, transition.reason))
        if self._turn is not None:
            self._turn.moved(transition, self.machine.state.ending(self.machine.context))
        self.services.metrics.transitions.labels(self.agent.agent_id, transition.from_state, transition.to_state).inc()

    def _first_audio(self) -> None:
        """The first message of an answer is on its way: the wait is over."""
        turn = self._turn
        if turn is None or turn.record.cause != "speech" or turn.record.waterfall_ms is not None:
            return
        now = self.now()
        waterfall = self._recognition.utterance.waterfall(self._confirmed_at, turn.thought_at or now, now)
        turn.record.waterfall_ms = waterfall
        self.tell(TurnMeasured(turn.record.turn, waterfall.details()))
        self.services.on_response(waterfall.total / 1000)
        for stage in STAGES:
            seconds = getattr(waterfall, stage) / 1000
            self.services.metrics.stage_latency.labels(stage).observe(max(0.0, seconds))

    def waited_s(self) -> float:
        """How long it is since the caller's last sound."""
        return max(0.0, self.now() - self._recognition.utterance.last_sound_at)

    # -- silence ---------------------------------------------------------------------------------------------------

    def _start_silence_timer(self) -> None:
        self._stop_silence_timer()
        if self._away or self._ended.done():
            return
        if self._overdue:
            self._leave_state()
            return
        if not self.leg.info.voice:  # whoever speaks our words knows when they were heard, and waits for an answer
            return
        self._silence = self._loop.call_later(self._no_input_timeout, self._silent)

    def _stop_silence_timer(self) -> None:
        if self._silence is not None:
            self._silence.cancel()
            self._silence = None

    def _silent(self) -> None:
        self._start("no_input", self.machine.respond_to_silence)

    # -- keys ------------------------------------------------------------------------------------------------------

    def _dtmf(self, digit: str) -> None:
        """A key: it interrupts what is being said, and is collected as the state wants it."""
        if self._turn is not None and not self._turn.interruptible:
            return
        if self._digits.is_late_terminator(digit, self.machine.state.key_rules):
            return
        if not self._thinks_about_keys():
            self._interrupt_turn()
        self._stop_silence_timer()
        self._digits.add(digit, self.machine.state.key_rules)

    def _thinks_about_keys(self) -> bool:
        return self._turn is not None and self._turn.record.cause == "dtmf" and not self._turn.committed

    def forget_keys(self) -> None:
        """Keys that wait for a turn which will not come are dropped."""
        self._keys_waiting.clear()

    def turn_committed(self) -> bool:
        """The machine has taken its step: return whether keys that came meanwhile put the next turn in its place."""
        if not self._keys_waiting:
            return False
        self._interrupt_turn()
        self._dtmf_complete(self._keys_waiting.popleft())
        return True

    def _dtmf_complete(self, digits: str) -> None:
        if self._thinks_about_keys():  # none is lost: each input has its step, in order
            self._keys_waiting.append(digits)
            return
        if self._turn is not None:
            if not self._turn.interruptible:
                return
            self._interrupt_turn()
        self._start("dtmf", lambda: self.machine.respond_to_keys(digits), user=f"[keys {len(digits)}]")

    # -- the caller's speech (TurnListener) --------------------------------------------------------------------------

    def sensitivity(self) -> tuple[int, float]:
        """While we speak, and while our echo may still come back, a start needs more."""
        level = self.speaker.level_db()
        if level <= FLOOR_DB:
            return self.turn_config.start_windows, FLOOR_DB - 1
        windows = self.turn_config.barge_in_windows if self.speaker.speaking else self.turn_config.start_windows
        return windows, level - self.turn_config.echo_gate_db

    def speech_started(self, event: SpeechStarted) -> bool:
        """Fall silent at once, if the agent may be interrupted."""
        self._stop_silence_timer()
        self.tell(CallerSpeech(True))
        if not self.speaker.speaking or not self._may_interrupt() or self.speaker.nearly_done():
            return False
        self.speaker.pause()
        onset = (self.inbound.stats.samples - event.start) / self.inbound.audio.rate_hz
        self.services.metrics.time_to_silence.observe(onset)
        self._count_barge_in(Verdict.PAUSE)
        return True

    def _may_interrupt(self) -> bool:
        return self.turn_config.allow_interruptions and (self._turn is None or self._turn.interruptible)

    def hold_for_caller(self) -> None:
        """An answer is ready while the caller already speaks again: hold it back as if they had barged in."""
        if self._away:
            self.speaker.hold()
        elif self._may_interrupt() and self.inbound.caller_speaks:
            self.speaker.hold()
            self.inbound.hold()

    def speech_paused(self, event: SpeechPaused) -> None:
        """The tentative end: have the text ready when the end is confirmed."""
        received, rate = self.inbound.stats.samples, self.inbound.audio.rate_hz
        self._recognition.begin(self.now() - (received - event.end) / rate)

    def speech_resumed(self, event: SpeechResumed) -> None:
        """The text under way is void."""
        self._recognition.cancel()

    def speech_ended(self, event: SpeechEnded) -> None:
        """The utterance is confirmed: answer it."""
        self._confirmed_at = self.now()
        self.tell(CallerSpeech(False))
        self._recognition.cancel()
        utterance = self._recognition.utterance
        text = utterance.text
        speaking = self.speaker.speaking and not self.speaker.nearly_done()
        if speaking or (self._turn is not None and not self._turn.interruptible):
            return  # said into an answer that may not be interrupted
        if not text:
            long = (event.end - event.start) / self.inbound.audio.rate_hz >= _UNHEARD_SPEECH_S
            if self._turn is None:
                self._not_heard() if utterance.failed or long else self._start_silence_timer()
            return
        if self._turn is not None:
            if self._turn.joinable:
                text = f"{self._turn.record.user} {text}"  # the caller went on: one utterance after all
                self.record.turns.remove(self._turn.record)
                self.record.turn_count -= 1
                self._callers_turns -= 1
            else:
                self._turn.interrupt()
        confidence = utterance.transcript.confidence if utterance.transcript else None
        self.tell(Transcribed("user", text, True, self.record.turn_count + 1, confidence=confidence))
        self._start("speech", lambda: self.machine.respond(text), user=text)

    def _not_heard(self) -> None:
        """Speech without words: ask, the second time offer the keys."""
        self.services.metrics.filler.labels("not_heard").inc()
        before = self.record.turns[-1].agent if self.record.turns else ""
        phrase = phrases.NOT_HEARD_KEYS if before == phrases.NOT_HEARD else phrases.NOT_HEARD
        self._start("apology", lambda: fixed(phrase, self.machine.state.name))

    def barge_in(self, verdict: Verdict) -> None:
        """What the speech over the agent's turned out to be."""
        self._count_barge_in(verdict)
        if verdict is Verdict.INTERRUPT:
            self._interrupt_turn()
        elif verdict is Verdict.RESUME:
            self.tell(CallerSpeech(False))
            self._recognition.cancel()
            self.speaker.resume()

    def _count_barge_in(self, verdict: Verdict) -> None:
        self.services.metrics.barge_in.labels(verdict.value).inc()
        self.record.barge_ins[verdict.value] = self.record.barge_ins.get(verdict.value, 0) + 1
