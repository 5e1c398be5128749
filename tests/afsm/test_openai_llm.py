"""The OpenAI-compatible model against a server that speaks the wire format: streams, tool calls, faults."""

import random
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest

from fastagent.afsm.endpoints import EndpointChain
from fastagent.afsm.llm import LlmError, LlmRequest, TextDelta, ToolCall
from fastagent.afsm.openai_llm import OpenAiConfig, OpenAiLlm
from tests.support.fake_openai import FakeOpenAi, Reply, fake_openai

pytestmark = pytest.mark.real

ASK = LlmRequest([{"role": "user", "content": "Hello"}])
GOOD = Reply(text=["Hel", "lo ", "there."])


@asynccontextmanager
async def model(*replies: Reply, **options: Any) -> AsyncIterator[tuple[OpenAiLlm, FakeOpenAi]]:
    async with fake_openai(*replies) as server:
        config = OpenAiConfig(
            model="fake",
            api_key="key",
            base_url=server.base_url,
            **{"first_token_s": 0.5, "between_tokens_s": 0.3, **options},
        )
        llm = OpenAiLlm(config)
        try:
            yield llm, server
        finally:
            await llm.aclose()


async def answer(llm: Any, request: LlmRequest = ASK) -> tuple[str, list[ToolCall]]:
    text, calls = "", []
    async for event in llm.stream(request):
        if isinstance(event, TextDelta):
            text += event.text
        else:
            calls.append(event)
    return text, calls


async def test_text_is_streamed_and_the_request_is_what_was_configured() -> None:
    async with model(GOOD, temperature=0.7, max_tokens=150) as (llm, server):
        assert await answer(llm) == ("Hello there.", [])
    (request,) = server.requests
    assert request == {
        "model": "fake",
        "messages": [{"role": "user", "content": "Hello"}],
        "temperature": 0.7,
        "max_tokens": 150,
        "stream": True,
    }
    assert server.keys == ["Bearer key"]


async def test_tool_calls_in_fragments_are_put_together() -> None:
    reply = Reply(text=["One moment."], calls=[("a", ['{"x"', ": 1", "}"]), ("b", ["{}"])])
    async with model(reply) as (llm, _):
        text, calls = await answer(llm)
    assert text == "One moment."
    assert calls == [ToolCall("call_0", "a", '{"x": 1}'), ToolCall("call_1", "b", "{}")]


async def test_the_limit_takes_the_name_that_the_endpoint_wants() -> None:
    refusal = Reply(status=400, body='{"error": {"message": "Use \'max_completion_tokens\' instead of max_tokens"}}')
    async with model(refusal, GOOD, max_tokens=9) as (llm, server):
        await answer(llm)
        await answer(llm)
    assert [sorted(set(one) & {"max_tokens", "max_completion_tokens"}) for one in server.requests] == [
        ["max_tokens"],
        ["max_completion_tokens"],
        ["max_completion_tokens"],
    ]


@pytest.mark.parametrize(
    ("reply", "kind", "spoken"),
    [
        (Reply(hang=True), "silent", False),
        (Reply(text=["So"], stall=True), "silent", True),
        (Reply(status=500), "unavailable", False),
        (Reply(status=503), "unavailable", False),
        (Reply(reset=True), "unavailable", False),
        (Reply(status=401), "auth", False),
        (Reply(status=404), "refused", False),
        (Reply(status=429, headers={"Retry-After": "7"}), "rate_limited", False),
        (Reply(body="<html><h1>It works!</h1></html>", headers={"Content-Type": "text/html"}), "empty", False),
        (Reply(body="data: {not json}\n\n", headers={"Content-Type": "text/event-stream"}), "broken", False),
        (Reply(), "empty", False),
        (Reply(text=["x" * 9000, "x" * 9000]), "broken", True),
    ],
)
async def test_every_fault_has_its_name_and_nothing_raw_comes_out(reply: Reply, kind: str, spoken: bool) -> None:
    async with model(reply) as (llm, _):
        with pytest.raises(LlmError) as error:
            await answer(llm)
    assert (error.value.kind, error.value.spoken) == (kind, spoken)
    assert "html" not in str(error.value)


async def test_what_a_rate_limit_asks_for_is_told() -> None:
    async with model(Reply(status=429, headers={"Retry-After": "7"})) as (llm, _):
        with pytest.raises(LlmError) as error:
            await answer(llm)
    assert error.value.retry_after_s == 7.0


async def test_nobody_there_is_unavailable() -> None:
    llm = OpenAiLlm(OpenAiConfig(base_url="http://127.0.0.1:9/v1", first_token_s=1.0))
    with pytest.raises(LlmError) as error:
        await answer(llm)
    assert error.value.kind == "unavailable"
    await llm.aclose()


# -- chains ----------------------------------------------------------------------------------------------------------


async def test_an_unavailable_endpoint_is_asked_once_more() -> None:
    faults: list[tuple[str, str]] = []
    async with model(Reply(status=500), GOOD) as (llm, server):
        chain = EndpointChain([llm], on_fault=lambda name, kind: faults.append((name, kind)), rng=random.Random(1))
        assert (await answer(chain))[0] == "Hello there."
    assert len(server.requests) == 2
    assert faults == [("fake", "unavailable")]


async def test_the_next_endpoint_answers_for_one_that_does_not() -> None:
    async with model(Reply(status=401)) as (first, one), model(GOOD) as (second, _):
        assert (await answer(EndpointChain([first, second])))[0] == "Hello there."
        assert len(one.requests) == 1  # a wrong key is not tried again


async def test_a_rate_limit_is_waited_for_only_where_it_fits() -> None:
    limit = Reply(status=429, headers={"Retry-After": "0.1"})
    async with model(limit, GOOD) as (llm, server):
        assert (await answer(EndpointChain([llm])))[0] == "Hello there."
    async with model(Reply(status=429, headers={"Retry-After": "60"})) as (llm, server):
        with pytest.raises(LlmError):
            await answer(EndpointChain([llm]))
        assert len(server.requests) == 1


async def test_nothing_is_tried_again_once_something_was_said() -> None:
    async with model(Reply(text=["So"], stall=True), GOOD) as (llm, server):
        with pytest.raises(LlmError) as error:
            await answer(EndpointChain([llm]))
        assert error.value.spoken
        assert len(server.requests) == 1


async def test_an_endpoint_that_keeps_failing_is_left_alone() -> None:
    async with model(Reply(status=500)) as (llm, server):
        chain = EndpointChain([llm], rng=random.Random(1))
        for _ in range(6):
            with pytest.raises(LlmError):
                await answer(chain)
        assert len(server.requests) == 5
        with pytest.raises(LlmError) as error:
            await answer(chain)
        assert error.value.kind == "open"
