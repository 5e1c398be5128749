"""Which speech an agent gets, what is wrong with what it asks for, and what is heard without the network."""

from concurrent.futures import Executor
from typing import Any

import pytest

from fastagent.afsm.errors import ConfigError, DefinitionError
from fastagent.gateway import phrases
from fastagent.gateway.agent import FastAgent
from fastagent.gateway.agent_files import examine_document
from fastagent.gateway.app import Gateway
from fastagent.gateway.speeches import Speeches, stt_config, tts_config
from fastagent.media.frame import PCMU_8K
from fastagent.media.speech.contracts import Speech
from fastagent.media.speech.fallback import FallbackStt, FallbackTts
from tests.gateway.api import call, served, talker
from tests.support.audio import tone
from tests.support.carrier import Speaks, ToneStt, ToneTts
from tests.support.fake_speech import Answer, fake_speech

real = pytest.mark.real

PCM = tone(0.5, 600.0, rate_hz=24000).tobytes()


def base(executor: Executor | None = None) -> Speech:
    """Speech that needs no network."""
    return Speech(ToneStt(), ToneTts())


def speeches(*, by_default: bool = False, api_key: str | None = None, base_url: str | None = None) -> Speeches:
    """What is under test."""
    return Speeches(base(), api_key=api_key, base_url=base_url, by_default=by_default)


def over_the_network(made: Speeches, config: dict[str, Any]) -> tuple[bool, bool]:
    """Whether recognition and voice of a configuration are of the network."""
    return isinstance(made.stt(config), FallbackStt), isinstance(made.renderer(config).tts, FallbackTts)


# -- which speech --


@pytest.mark.parametrize(
    ("environment", "network"),
    [
        ({"FASTAGENT_SPEECH": "auto"}, False),
        ({"FASTAGENT_SPEECH": "auto", "OPENAI_API_KEY": "k"}, True),
        ({"FASTAGENT_SPEECH": "embedded", "OPENAI_API_KEY": "k"}, False),
        ({"FASTAGENT_SPEECH": "scripted", "OPENAI_API_KEY": "k"}, False),
        ({"FASTAGENT_SPEECH": "openai", "OPENAI_API_KEY": "k"}, True),
        ({"FASTAGENT_SPEECH": "openai"}, True),
    ],
    ids=str,
)
@real
async def test_the_environment_decides_which_speech_an_agent_gets_that_asks_for_none(
    environment: dict[str, Any], network: bool
) -> None:
    async with fake_speech(Answer(audio=PCM)) as server:
        async with served(OPENAI_BASE_URL=server.base_url, **environment) as rest:
            assert rest.gateway._services is not None
            assert isinstance(rest.gateway._services.stt, FallbackStt) is network
            assert isinstance(rest.gateway._services.renderer.tts, FallbackTts) is network
        assert bool(server.keys) is network


@pytest.mark.parametrize(
    ("config", "network"),
    [
        ({}, False),
        ({"provider": "embedded"}, False),
        ({"provider": "embedded", "base_url": "https://x/v1"}, False),
        ({"provider": "openai"}, True),
        ({"base_url": "https://x/v1"}, True),
        ({"api_key": "k"}, True),
        ({"api_key_env": "FASTAGENT_SECRET_X"}, True),
        ({"model": "m"}, False),
        ({"timeout": 3}, False),
    ],
    ids=str,
)
async def test_without_a_key_only_an_agent_that_names_an_endpoint_leaves_the_house(
    config: dict[str, Any], network: bool
) -> None:
    made = speeches()
    assert over_the_network(made, config) == (network, network)
    await made.aclose()


async def test_with_a_key_an_agent_that_asks_for_a_voice_or_a_language_gets_the_network() -> None:
    made = speeches(api_key="k")
    assert isinstance(made.renderer({"voice": "nova"}).tts, FallbackTts)
    assert isinstance(made.stt({"language": "de"}), FallbackStt)
    assert over_the_network(made, {}) == (False, False)
    by_default = speeches(api_key="k", by_default=True)
    assert over_the_network(by_default, {}) == (True, True)
    assert over_the_network(by_default, {"provider": "embedded"}) == (False, False)
    await made.aclose()
    await by_default.aclose()


async def test_the_same_configuration_is_one_client_and_another_key_is_another() -> None:
    made = speeches(api_key="k")
    one = made.renderer({"voice": "nova"})
    assert made.renderer({"voice": "nova"}) is one
    assert made.renderer({"voice": "nova", "api_key": "other"}) is not one
    assert made.stt({"model": "m"}) is made.stt({"model": "m"})
    assert made.stt({"model": "m", "realtime": True}) is not made.stt({"model": "m"})
    await made.aclose()


def test_the_environments_key_and_address_are_used_where_none_is_given(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FASTAGENT_SECRET_X", "from the variable")
    made = stt_config({"language": "de", "timeout": 2}, "own", "https://own/v1")
    assert (made.api_key, made.base_url, made.language, made.timeout_s) == ("own", "https://own/v1", "de", 2.0)
    other = tts_config(
        {"api_key_env": "FASTAGENT_SECRET_X", "base_url": "https://x/v1", "timeout": 2}, "own", "https://own/v1"
    )
    assert (other.api_key, other.base_url, other.first_byte_s) == ("from the variable", "https://x/v1", 2.0)
    assert tts_config({"api_key_env": "FASTAGENT_SECRET_NONE"}, "own").api_key is None
    assert tts_config({"api_key": None}, "own").api_key is None
    assert "own" not in repr(stt_config({}, "own"))


@pytest.mark.parametrize(
    ("name", "config", "where"),
    [
        ("stt_config", {"provider": "nobody"}, "stt_config.provider"),
        ("tts_config", {"provider": 5}, "tts_config.provider"),
        ("stt_config", {"response_format": "xml"}, "stt_config.response_format"),
        ("stt_config", {"realtime_protocol": "gamma"}, "stt_config.realtime_protocol"),
        ("stt_config", {"language": "d; drop"}, "stt_config.language"),
        ("stt_config", {"timeout": 0}, "stt_config.timeout"),
        ("tts_config", {"timeout": "long"}, "tts_config.timeout"),
        ("tts_config", {"rate_hz": 8000.5}, "tts_config.rate_hz"),
        ("tts_config", {"api_key": "a\r\nb"}, "tts_config.api_key"),
        ("tts_config", {"base_url": "file:///etc/passwd"}, "tts_config.base_url"),
        ("tts_config", {"voise": "nova"}, "tts_config"),
    ],
)
def test_a_check_says_where_a_speech_configuration_is_wrong(name: str, config: dict[str, Any], where: str) -> None:
    _, problems = examine_document({**talker(), name: config})
    assert where in [one.path for one in problems if one.severity == "error"]
    parse = stt_config if name == "stt_config" else tts_config
    with pytest.raises(DefinitionError):
        parse(config)


def test_several_faults_of_one_configuration_are_told_at_once() -> None:
    with pytest.raises(ConfigError) as caught:
        tts_config({"voice": 1, "rate_hz": 1, "extra": []})
    assert [one.path for one in caught.value.problems] == ["tts_config.extra", "tts_config.voice", "tts_config.rate_hz"]


async def test_an_agent_with_a_wrong_configuration_gets_the_usual_speech_and_it_is_logged(
    caplog: pytest.LogCaptureFixture,
) -> None:
    agent = FastAgent("odd", [Speaks()], "speaks", tts_config={"provider": "nobody"})
    assert speeches().of(agent) is None
    assert "agent odd has no speech of its own" in caplog.text


# -- when the network's voice is gone --


def kept_phrases(gateway: Gateway) -> list[bool]:
    """Whether each fixed phrase is there without anybody being asked."""
    assert gateway._services is not None
    return [gateway._services.renderer.kept(one, PCMU_8K) is not None for one in phrases.ALL]


@pytest.mark.parametrize(
    "answer", [Answer(status=500), Answer(status=401), Answer(reset_after=0)], ids=["500", "401", "reset"]
)
@real
async def test_phrases_for_emergencies_are_there_when_the_network_is_down_at_start(answer: Answer) -> None:
    async with (
        fake_speech(answer) as server,
        served(FASTAGENT_SPEECH="openai", OPENAI_API_KEY="k", OPENAI_BASE_URL=server.base_url) as rest,
    ):
        assert all(kept_phrases(rest.gateway))
        await rest.configure("posted", talker("Heard all the same."))
        async with call(rest, "posted") as one:
            assert (await one.spoken())["heard"] == "Heard all the same."


@real
async def test_phrases_for_emergencies_are_there_when_nobody_listens_at_the_address() -> None:
    environment = {"FASTAGENT_SPEECH": "openai", "OPENAI_API_KEY": "k", "OPENAI_BASE_URL": "http://127.0.0.1:9/v1"}
    async with served(**environment) as rest:  # type: ignore[arg-type]
        assert all(kept_phrases(rest.gateway))
        assert (await rest.get("/readyz")).status == 200


@real
async def test_the_other_voice_takes_over_when_the_network_goes_down_in_a_call() -> None:
    async with (
        fake_speech(Answer(audio=PCM)) as server,
        served(FASTAGENT_SPEECH="openai", OPENAI_API_KEY="k", OPENAI_BASE_URL=server.base_url) as rest,
    ):
        await rest.configure("posted", talker("From the network."))
        async with call(rest, "posted") as one:
            assert (await one.spoken())["heard"] == "From the network."
            assert server.requests[-1]["input"] == "From the network."
            server.answers = [Answer(status=500)]
            assert (await rest.post(f"/sessions/{one.id}/say", {"text": "From the house."})).status == 202
            assert (await one.spoken())["heard"] == "From the house."
            assert rest.metric("provider_errors_total", provider="openai", kind="unavailable") >= 1
        assert all(kept_phrases(rest.gateway))


@real
async def test_an_agents_own_voice_is_asked_with_its_own_key_and_the_others_are_not() -> None:
    async with fake_speech(Answer(audio=PCM)) as server:
        origin = server.base_url.removesuffix("/v1")
        async with served(FASTAGENT_ALLOWED_HOSTS=origin) as rest:
            own = {"base_url": server.base_url, "api_key": "the-agents", "voice": "nova"}
            await rest.configure("own", talker("In my own voice.", tts_config=own))
            await rest.configure("usual", talker("In the usual one."))
            for agent_id in ("own", "usual"):
                async with call(rest, agent_id) as one:
                    await one.spoken()
        assert [(one["input"], one["voice"]) for one in server.requests] == [("In my own voice.", "nova")]
        assert server.keys == ["Bearer the-agents"]


@real
async def test_f9_a_wrong_key_is_seen_in_health_from_the_start_and_calls_are_taken() -> None:
    async with (
        fake_speech(Answer(status=401)) as server,
        served(FASTAGENT_SPEECH="openai", OPENAI_API_KEY="sk-wrong", OPENAI_BASE_URL=server.base_url) as rest,
    ):
        reply = await rest.get("/health")
        assert (reply.status, reply.body["status"]) == (200, "degraded")
        assert reply.body["reasons"] == ["openai: the key is refused"]
        assert "sk-wrong" not in reply.text
        assert (await rest.get("/readyz")).status == 200
        asked = len(server.keys)
        assert asked <= 2  # no retries
        async with call(rest) as one:
            await one.until("audio_response")


@real
async def test_the_twin_a_right_key_is_healthy() -> None:
    async with (
        fake_speech(Answer(audio=PCM)) as server,
        served(FASTAGENT_SPEECH="openai", OPENAI_API_KEY="k", OPENAI_BASE_URL=server.base_url) as rest,
    ):
        assert (await rest.get("/health")).body["status"] == "healthy"
        assert server.keys
        assert set(server.keys) == {"Bearer k"}
