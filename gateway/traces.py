"""Traces: a call as spans, where an OpenTelemetry endpoint is configured; otherwise nothing is imported.

    call
      turn
        stt                the wait for the end of the utterance, and for its text
        chat MODEL         each request to a model
        execute_tool NAME
        afsm.transition
        tts                from the first sentence to its first audio
        playout

Attributes follow the GenAI conventions of OpenTelemetry, which are still in development; what was said is never there.
"""

import time
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

from fastagent.afsm.llm import Llm, LlmRequest, TextDelta, ToolCall

if TYPE_CHECKING:
    from fastagent.afsm.context import ToolUse
    from fastagent.gateway.session import Session
    from fastagent.gateway.turn import Turn


@dataclass(frozen=True, slots=True)
class ModelUse:
    """One request to a model, in seconds."""

    model: str
    seconds: float
    first_token_s: float | None
    error: str = ""


class Tracer(Protocol):
    """What a session reports; never raises, never waits."""

    def call_began(self, session: "Session") -> None:
        """A session exists."""
        ...

    def turn_began(self, session: "Session", turn: "Turn") -> None:
        """A turn begins."""
        ...

    def model(self, session_id: str, use: ModelUse) -> None:
        """A model has answered."""
        ...

    def tool(self, session_id: str, use: "ToolUse") -> None:
        """A tool has run."""
        ...

    def turn(self, session_id: str, turn: "Turn") -> None:
        """A turn is over."""
        ...

    def call_ended(self, session: "Session") -> None:
        """A session is over."""
        ...

    def close(self) -> None:
        """Send what is left."""
        ...


class NoTracer:
    """Nobody wants to know."""

    def call_began(self, session: "Session") -> None:
        """Nothing."""

    def turn_began(self, session: "Session", turn: "Turn") -> None:
        """Nothing."""

    def model(self, session_id: str, use: ModelUse) -> None:
        """Nothing."""

    def tool(self, session_id: str, use: "ToolUse") -> None:
        """Nothing."""

    def turn(self, session_id: str, turn: "Turn") -> None:
        """Nothing."""

    def call_ended(self, session: "Session") -> None:
        """Nothing."""

    def close(self) -> None:
        """Nothing."""


class ObservedLlm:
    """A model whose requests are told to somebody."""

    def __init__(self, llm: Llm, used: Callable[[ModelUse], None]) -> None:
        self.name, self._llm, self._used = llm.name, llm, used

    async def stream(self, request: LlmRequest) -> AsyncIterator[TextDelta | ToolCall]:
        """Yield what the model yields."""
        began, first, error = time.monotonic(), None, ""
        try:
            async for event in self._llm.stream(request):
                first = time.monotonic() - began if first is None else first
                yield event
        except BaseException as fault:
            error = getattr(fault, "kind", type(fault).__name__)
            raise
        finally:
            self._used(ModelUse(self.name, time.monotonic() - began, first, error))


class OtelTracer:
    """Spans by the OpenTelemetry SDK; its exporter sends them in batches from a thread of its own.

    Args:
        provider: a tracer provider, for tests; by default one for the endpoint of the OTEL_ variables.
    """

    def __init__(self, provider: Any = None, *, service: str = "fastagent") -> None:
        from opentelemetry import trace

        self._trace = trace
        self._provider = provider or _exporting(service)
        self._tracer = self._provider.get_tracer("fastagent")
        self._calls: dict[str, Any] = {}
        self._turns: dict[str, Any] = {}

    def call_began(self, session: "Session") -> None:
        """Open the call's span."""
        attributes = {
            "gen_ai.operation.name": "invoke_agent",
            "gen_ai.conversation.id": session.id,
            "gen_ai.agent.name": session.agent.agent_id,
            "fastagent.provider": session.leg.info.provider,
        }
        self._calls[session.id] = self._tracer.start_span(f"call {session.agent.agent_id}", attributes=attributes)

    def turn_began(self, session: "Session", turn: "Turn") -> None:
        """Open a turn's span, at the caller's last sound where there was one."""
        record = turn.record
        attributes = {"fastagent.turn": record.turn, "fastagent.cause": record.cause, "fastagent.state": record.state}
        start = time.time_ns()
        if record.cause == "speech":
            start -= round(session.waited_s() * 1e9)
        self._end_turn(session.id)
        self._turns[session.id] = self._start(f"turn {record.cause}", self._calls.get(session.id), start, attributes)

    def model(self, session_id: str, use: ModelUse) -> None:
        """A request's span, after the fact."""
        attributes: dict[str, Any] = {"gen_ai.operation.name": "chat", "gen_ai.request.model": use.model}
        if use.first_token_s is not None:
            attributes["gen_ai.response.time_to_first_chunk"] = use.first_token_s
        self._past(session_id, f"chat {use.model}", use.seconds, attributes, use.error)

    def tool(self, session_id: str, use: "ToolUse") -> None:
        """A tool's span, after the fact."""
        attributes = {"gen_ai.operation.name": "execute_tool", "gen_ai.tool.name": use.name}
        self._past(session_id, f"execute_tool {use.name}", use.seconds, attributes, use.error)

    def turn(self, session_id: str, turn: "Turn") -> None:
        """Close a turn's span, with what is known only now."""
        span = self._turns.get(session_id)
        if span is None:
            return
        now_ns, record, waterfall = time.time_ns(), turn.record, turn.record.waterfall_ms
        at = span.start_time
        if waterfall is not None:
            heard = at + round((waterfall.endpointing + waterfall.recognition) * 1e6)
            said = heard + round(waterfall.logic * 1e6)
            audio = said + round(waterfall.synthesis * 1e6)
            self._between(span, "stt", at, heard)
            self._between(span, "tts", said, audio)
            self._between(span, "playout", audio, max(audio, now_ns))
        for moved in turn.transitions:
            attributes = {"fastagent.from": moved.from_state, "fastagent.to": moved.to_state}
            self._between(span, "afsm.transition", now_ns, now_ns, attributes)
        span.set_attribute("fastagent.interrupted", record.interrupted)
        self._end_turn(session_id)

    def call_ended(self, session: "Session") -> None:
        """Close the call's span."""
        self._end_turn(session.id)
        span = self._calls.pop(session.id, None)
        if span is not None:
            reason = session.record.end_reason
            span.set_attribute("fastagent.end_reason", reason.value if reason else "internal_error")
            span.end()

    def close(self) -> None:
        """Send what is left; waits for the exporter, so call it in a thread."""
        self._provider.shutdown()

    def _end_turn(self, session_id: str) -> None:
        span = self._turns.pop(session_id, None)
        if span is not None:
            span.end()

    def _start(self, name: str, parent: Any, start_ns: int, attributes: dict[str, Any]) -> Any:
        context = self._trace.set_span_in_context(parent) if parent is not None else None
        return self._tracer.start_span(name, context=context, start_time=start_ns, attributes=attributes)

    def _between(self, parent: Any, name: str, start: int, end: int, attributes: dict[str, Any] | None = None) -> None:
        self._start(name, parent, start, attributes or {}).end(end_time=end)

    def _past(self, session_id: str, name: str, seconds: float, attributes: dict[str, Any], error: str) -> None:
        now = time.time_ns()
        parent = self._turns.get(session_id) or self._calls.get(session_id)
        if error:
            attributes["error.type"] = error
        self._between(parent, name, now - round(seconds * 1e9), now, attributes)


def _exporting(service: str) -> Any:
    """A provider that exports over OTLP/HTTP to OTEL_EXPORTER_OTLP_ENDPOINT."""
    from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
    from opentelemetry.sdk.resources import Resource
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import BatchSpanProcessor

    provider = TracerProvider(resource=Resource.create({"service.name": service}))
    provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter()))
    return provider
