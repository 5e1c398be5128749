"""Calls with a model: what its faults sound like, in virtual time; and one real call over real sockets."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from fastagent.afsm.config import load
from fastagent.afsm.declared import states_of
from fastagent.afsm.endpoints import EndpointChain
from fastagent.afsm.llm import LlmError, LlmRequest, TextDelta, ToolCall
from fastagent.connectors.leg import HangupReason
from fastagent.gateway import phrases
from fastagent.gateway.app import Gateway
from fastagent.gateway.cli.twilio_phone import TwilioPhone
from fastagent.gateway.settings import Settings
from fastagent.media.vad.engine import EnergyVad
from tests.support.audio import speech
from tests.support.fake_openai import Reply, fake_openai
from tests.support.world import GREETING, World, call

CONFIG: dict[str, Any] = {
    "initial_state": "talk",
    "llm_config": {"model": "x"},
    "states": [
        {
            "name": "talk",
            "on_enter": GREETING,
            "prompt_template": "Be kind.",
            "allowed_transitions": ["goodbye"],
        },
        {"name": "goodbye", "say": "Goodbye now.", "terminal": True},
    ],
}


Timed = tuple[float, TextDelta | ToolCall | LlmError]


class TimedLlm:
    """Each request gets the next list of (wait, event); a fault is raised."""

    name = "timed"

    def __init__(self, *answers: list[Timed]) -> None:
        self.answers = list(answers)

    async def stream(self, request: LlmRequest) -> AsyncIterator[TextDelta | ToolCall]:
        for wait_s, event in self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]:
            await asyncio.sleep(wait_s)
            if isinstance(event, LlmError):
                raise event
            yield event


def talk(*answers: list[Timed]) -> Any:
    return call(states_of(load(CONFIG)[0]), model=EndpointChain([TimedLlm(*answers)]))


async def ask(world: World, *, then: float) -> dict[str, Any]:
    await world.say(0.6, then=then)
    return world.turns[-1]


async def test_the_model_answers_and_moves_to_the_end() -> None:
    words: list[Timed] = [(0.3, TextDelta("Of course. ")), (0.3, TextDelta("It is done."))]
    move = ToolCall("c", "update_conversation", '{"next_state": "goodbye"}')
    async with talk([*words, (0.0, move)]) as world:
        await world.greeted()
        turn = await ask(world, then=8.0)
        assert turn["heard"] == "Of course. It is done. Goodbye now."
        assert world.leg.hung_up is HangupReason.COMPLETED


async def test_f1_a_silent_model_is_filled_at_two_seconds_and_given_up_at_ten() -> None:
    async with talk([(60.0, TextDelta("never"))]) as world:
        await world.greeted()
        began = world.session.now() - world.leg.began
        turn = await ask(world, then=16.0)
        times = [at for at in world.times("media") if at > began]
        assert 3.0 - 0.032 <= times[0] - began <= 3.06
        apology = next(at for at in times if at - began > 8)
        assert 11.0 - 0.1 <= apology - began <= 11.1
        assert turn["heard"] == f"{phrases.FILLER} {phrases.APOLOGY}"
        assert not world.is_over


async def test_f2_a_model_that_is_down_once_is_not_noticed() -> None:
    async with talk([(0.0, LlmError("unavailable", "500"))], [(0.1, TextDelta("Here I am."))]) as world:
        await world.greeted()
        assert (await ask(world, then=4.0))["heard"] == "Here I am."
        assert world.metric("filler_total", reason="model") == 0


async def test_f2_a_model_that_stays_down_is_an_apology() -> None:
    async with talk([(0.0, LlmError("unavailable", "500"))]) as world:
        await world.greeted()
        assert (await ask(world, then=6.0))["heard"] == phrases.APOLOGY
        assert world.metric("filler_total", reason="model") == 1


async def test_f4_complete_sentences_of_a_broken_answer_are_spoken() -> None:
    words: list[Timed] = [(0.1, TextDelta("This is known. And th")), (0.5, LlmError("silent", "stalled", spoken=True))]
    async with talk(words) as world:
        await world.greeted()
        assert (await ask(world, then=5.0))["heard"] == "This is known."


async def test_f9_a_wrong_key_is_an_apology_and_the_end() -> None:
    async with talk([(0.0, LlmError("auth", "401"))]) as world:
        await world.greeted()
        assert (await ask(world, then=8.0))["heard"] == phrases.GIVE_UP
        assert world.leg.hung_up is HangupReason.AGENT_FAILED


@pytest.mark.real
async def test_a_real_call_to_an_agent_in_a_file_with_a_model_behind_a_real_endpoint(tmp_path: Path) -> None:
    (tmp_path / "shop.yaml").write_text(
        "initial_state: talk\nllm_config: {model: fake, max_tokens: 50}\n"
        "states:\n"
        "  - {name: talk, say: Hello., prompt_template: Sell things., allowed_transitions: [goodbye]}\n"
        "  - {name: goodbye, say: Goodbye., terminal: true}\n"
    )
    reply = Reply(
        text=["It costs ", "three dollars."], calls=[("update_conversation", ['{"next_state"', ': "goodbye"}'])]
    )
    async with fake_openai(reply) as server:
        settings = Settings(
            HOST="127.0.0.1",
            PORT=0,
            FASTAGENT_SPEECH="scripted",
            FASTAGENT_AGENTS=str(tmp_path),
            FASTAGENT_DEFAULT_AGENT="shop",
            OPENAI_API_KEY="a-key",
            OPENAI_BASE_URL=server.base_url,
        )
        async with Gateway(settings, make_vad=EnergyVad) as gateway:
            await gateway.wait_ready()
            async with TwilioPhone(f"http://127.0.0.1:{gateway.port}/twilio/webhook") as phone:
                assert await phone.agent_quiet()
                phone.say(speech(1.0))
                async with asyncio.timeout(15):
                    await phone.closed.wait()
            (record,) = gateway.sessions.records()
    assert [turn["heard"] for turn in record.details()["turns"]] == ["Hello.", "It costs three dollars. Goodbye."]
    assert record.details()["end_reason"] == "completed"
    (request,) = server.requests
    assert request["messages"][-1] == {"role": "user", "content": "Hello there."}
    assert request["max_tokens"] == 50
    assert server.keys == ["Bearer a-key"]
