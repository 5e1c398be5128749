"""A session in virtual time: the real session, machine and cores; scripted speech; a phone in memory."""

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from functools import cache
from typing import Any

from fastagent.afsm import AFSMState, ConversationContext, StateResult
from fastagent.afsm.llm import Llm
from fastagent.connectors.leg import HangupReason
from fastagent.gateway import phrases
from fastagent.gateway.agent import FastAgent
from fastagent.gateway.metrics import Metrics
from fastagent.gateway.services import Services
from fastagent.gateway.session import Session
from fastagent.gateway.traces import NoTracer, Tracer
from fastagent.media.frame import PCMU_8K
from fastagent.media.speech.contracts import Speech, SttStream, Transcript
from fastagent.media.speech.rendering import Renderer
from fastagent.media.speech.scripted import ScriptedStt, ScriptedTts
from fastagent.media.ticker import Ticker
from fastagent.media.vad.engine import EnergyVad, VadEngine
from fastagent.media.vad.service import VadService
from tests.support.audio import ulaw_tone
from tests.support.loop import InlineExecutor
from tests.support.memory_leg import MemoryLeg

Answer = Callable[[str, ConversationContext], Any]

GREETING = "Hello, what can I do for you?"
ANSWER = "This is an answer of exactly eight words."  # three seconds of scripted speech


class Talker(AFSMState):
    """Greets, and answers by a function (a fixed sentence by default)."""

    def __init__(
        self, name: str = "talk", answer: Answer | None = None, greeting: str = GREETING, **kwargs: Any
    ) -> None:
        super().__init__(name, "for tests", kwargs.pop("allowed_transitions", []), **kwargs)
        self.answer = answer
        self.greeting = greeting

    async def on_enter(self, context: ConversationContext) -> str:
        return self.greeting

    async def process(self, input_text: str, context: ConversationContext) -> Any:
        if self.answer is None:
            return StateResult(ANSWER)
        result = self.answer(input_text, context)
        return await result if asyncio.iscoroutine(result) else result


class SlowStt:
    """Scripted recognition that takes its time, or fails."""

    name = "slow"

    def __init__(self, texts: Sequence[str], *, delay_s: float = 0.0, confidence: float = 1.0) -> None:
        self._texts = list(texts)
        self._delay_s, self._confidence = delay_s, confidence
        self.finalized = 0
        self.error: Exception | None = None

    def open(self, audio: Any) -> SttStream:
        return _SlowStream(self)

    async def warm_up(self) -> None:
        pass

    async def next_text(self, at: int) -> Transcript:
        self.finalized += 1
        await asyncio.sleep(self._delay_s)
        if self.error is not None:
            raise self.error
        return Transcript(self._texts[min(at, len(self._texts) - 1)], self._confidence)


class _SlowStream:
    def __init__(self, stt: SlowStt) -> None:
        self._stt, self._utterance = stt, 0

    def push(self, payload: bytes) -> None:
        pass

    async def finalize(self) -> Transcript:
        return await self._stt.next_text(self._utterance)

    def restart(self) -> None:
        self._utterance += 1

    async def aclose(self) -> None:
        pass


class World:
    """One call under test."""

    def __init__(self, session: Session, leg: MemoryLeg, task: "asyncio.Task[HangupReason]") -> None:
        self.session, self.leg, self._task = session, leg, task

    @property
    def context(self) -> ConversationContext:
        return self.session.machine.context

    @property
    def turns(self) -> list[dict[str, Any]]:
        """The turns as the API shows them."""
        return list(self.session.record.details()["turns"])

    def metric(self, name: str, **labels: str) -> float:
        """A metric's value; 0 where it never moved."""
        return self.session.services.metrics.registry.get_sample_value(f"fastagent_{name}", labels) or 0.0

    async def say(self, seconds: float, *, then: float = 0.0) -> None:
        """The caller makes sound for so long, then is silent for so long."""
        self.leg.speak(ulaw_tone(seconds))
        await self.leg.run(seconds + then)

    async def silence(self, seconds: float) -> None:
        await self.leg.run(seconds)

    async def greeted(self) -> None:
        """Listen to the greeting to its end, and a little longer than its echo."""
        await self.leg.run(len(GREETING.split()) / 8 * 3 + 1.0)

    async def ended(self) -> HangupReason:
        """Return why the session ended."""
        async with asyncio.timeout(30):
            return await self._task

    @property
    def is_over(self) -> bool:
        return self._task.done()

    def times(self, kind: str) -> list[float]:
        """When the gateway sent messages of this kind, in seconds since the call began."""
        return [round(at, 3) for at, what, _ in self.leg.sent if what == kind]

    def sent_after(self, at: float) -> int:
        """Frames of audio sent later than this."""
        return sum(size // 160 for when, _, size in self.leg.sent if when > at)


@cache
def silero() -> VadEngine:
    """The real model, loaded once."""
    from fastagent.media.vad.silero import SileroVad

    return SileroVad()


@asynccontextmanager
async def call(
    states: Sequence[AFSMState] | None = None,
    *,
    script: Sequence[str] = ("hello there",),
    stt: Any = None,
    tts: Any = None,
    vad: VadEngine | None = None,
    delay_s: float = 0.0,
    kept: Sequence[str] = phrases.ALL,
    turn_timeout_s: float = 30.0,
    model: Llm | None = None,
    tracer: Tracer | None = None,
    phone: Any = None,
    **agent_options: Any,
) -> AsyncIterator[World]:
    """Put a call through to an agent; `phone` is another one than Twilio's in memory, with its own leg."""
    states = states or [Talker()]
    agent = FastAgent("test", states, states[0].name, **agent_options)
    speech = Speech(stt or ScriptedStt(script), tts or ScriptedTts())
    renderer = Renderer(speech.tts)
    kept_renderer = Renderer(ScriptedTts())
    await kept_renderer.keep([*kept, agent.goodbye], PCMU_8K)
    renderer._kept.update(kept_renderer._kept)
    services = Services(
        vad=VadService(vad or EnergyVad(), executor=InlineExecutor()),
        stt=speech.stt,
        renderer=renderer,
        ticker=Ticker(),
        metrics=Metrics("test"),
        turn_timeout_s=turn_timeout_s,
        model_for=lambda agent: model,
        tracer=tracer or NoTracer(),
    )
    leg = phone or MemoryLeg(delay_s=delay_s)
    session = Session(phone.leg if phone else leg, agent, services)
    task = asyncio.create_task(session.run())
    await asyncio.sleep(0)
    try:
        yield World(session, leg, task)
    finally:
        if not task.done():
            leg.caller_hangs_up()
        await task
