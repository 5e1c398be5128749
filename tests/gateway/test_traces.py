"""Traces: spans of a call, with the real SDK and an exporter in memory; and to an endpoint over HTTP."""

import asyncio
import subprocess
import sys
from typing import Any

import pytest
from aiohttp import web
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from fastagent.afsm import AFSMState, ConversationContext, StateResult
from fastagent.afsm.context import ToolUse
from fastagent.afsm.llm import LlmError, LlmRequest, TextDelta
from fastagent.gateway.traces import OtelTracer
from tests.support.process import serve
from tests.support.world import Talker, call


def tracer() -> tuple[OtelTracer, InMemorySpanExporter]:
    exporter = InMemorySpanExporter()
    provider = TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    return OtelTracer(provider), exporter


def tree(exporter: InMemorySpanExporter) -> dict[str, list[str]]:
    """The names of the children of each span."""
    spans = exporter.get_finished_spans()
    names = {span.context.span_id: span.name for span in spans if span.context}
    found: dict[str, list[str]] = {}
    for span in spans:
        parent = names[span.parent.span_id] if span.parent else ""
        found.setdefault(parent, []).append(span.name)
    return found


class Model:
    name = "tiny"

    def __init__(self, error: LlmError | None = None) -> None:
        self._error = error

    async def stream(self, request: LlmRequest) -> Any:
        await asyncio.sleep(0.2)
        if self._error is not None:
            raise self._error
        yield TextDelta("Yes, of course.")


class Asking(AFSMState):
    async def process(self, input_text: str, context: ConversationContext) -> StateResult:
        answer = await self._generate_response(input_text, context)
        context.tool_used(ToolUse("look_up", 0.1, ""))
        return StateResult(answer, "other")


async def test_a_call_is_a_tree_of_spans_without_a_word_of_what_was_said() -> None:
    trace, exporter = tracer()
    states = [Asking("start", "", ["other"]), Talker("other", greeting="Anything else?")]
    async with call(states, model=Model(), tracer=trace, script=["my card is 4111"]) as world:
        await world.silence(1.0)
        await world.say(0.6, then=6.0)
    found = tree(exporter)
    assert found[""] == ["call test"]
    assert found["call test"] == ["turn opening", "turn speech"]
    assert sorted(found["turn speech"]) == [
        "afsm.transition",
        "chat tiny",
        "execute_tool look_up",
        "playout",
        "stt",
        "tts",
    ]
    spans = {span.name: span for span in exporter.get_finished_spans()}
    chat = dict(spans["chat tiny"].attributes or {})
    assert chat["gen_ai.operation.name"] == "chat"
    assert chat["gen_ai.request.model"] == "tiny"
    assert (spans["call test"].attributes or {})["fastagent.end_reason"] == "caller_hung_up"
    assert "4111" not in str([span.to_json() for span in exporter.get_finished_spans()])


async def test_a_fault_is_told_by_its_kind() -> None:
    trace, exporter = tracer()
    async with call([Asking("start", "", [])], model=Model(LlmError("silent", "secret words")), tracer=trace) as world:
        await world.silence(1.0)
        await world.say(0.6, then=6.0)
    chats = [span for span in exporter.get_finished_spans() if span.name == "chat tiny"]
    assert [(span.attributes or {})["error.type"] for span in chats] == ["silent"]
    assert "secret words" not in str([span.to_json() for span in exporter.get_finished_spans()])


async def test_spans_of_one_call_are_not_those_of_another() -> None:
    trace, exporter = tracer()
    async with call(tracer=trace) as one, call(tracer=trace) as other:
        await asyncio.gather(one.greeted(), other.greeted())
    roots = [span for span in exporter.get_finished_spans() if span.parent is None]
    assert len({span.context.trace_id for span in roots if span.context}) == 2


@pytest.mark.real
async def test_spans_reach_an_endpoint_when_the_gateway_stops() -> None:
    received: list[int] = []

    async def take(request: web.Request) -> web.Response:
        received.append(len(await request.read()))
        return web.Response(content_type="application/x-protobuf")

    app = web.Application()
    app.router.add_post("/v1/traces", take)
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    endpoint = f"http://127.0.0.1:{runner.addresses[0][1]}"
    try:
        async with serve(
            FASTAGENT_SPEECH="scripted", FASTAGENT_DEFAULT_AGENT="bench", OTEL_EXPORTER_OTLP_ENDPOINT=endpoint
        ) as served:
            await served.until("/readyz", 200)
            from fastagent.gateway.cli.twilio_phone import TwilioPhone

            async with TwilioPhone(served.webhook) as phone:
                await phone.agent_started.wait()
                await phone.hang_up()
            served.process.terminate()
            code, _ = await served.exited()
        assert code == 0
        assert received
    finally:
        await runner.cleanup()


def test_nothing_is_imported_without_an_endpoint() -> None:
    code = "import sys, fastagent.gateway.app as a; a.Gateway(); sys.exit('opentelemetry' in str(list(sys.modules)))"
    environment = {"PATH": "/usr/bin:/bin"}
    assert subprocess.run([sys.executable, "-c", code], env=environment, check=False).returncode == 0
