"""The streaming mode over real sockets, with a real gateway. Numbers are of the acceptance list."""

import asyncio
import json
from base64 import b64decode
from typing import Any

import aiohttp
import pytest

from fastagent.afsm.state import Ending
from fastagent.connectors.audiocodes.auth import OAuthOptions
from fastagent.connectors.audiocodes.config import session_id
from fastagent.connectors.audiocodes.departure import LegOptions
from fastagent.connectors.audiocodes.emulator import VoiceAiEmulator
from fastagent.connectors.leg import HangupReason
from fastagent.gateway.audiocodes import audiocodes_config
from fastagent.gateway.settings import Settings
from fastagent.gateway.store import MemoryBackend
from fastagent.telephony import AudioCodesConnector, AudiocodesConnector
from tests.support.audio import ulaw_tone
from tests.support.audiocodes import Peer, VoiceAi, gateway, voice_ai
from tests.support.carrier import HUMAN, Speaks, agent, eventually, metric, pitch

pytestmark = pytest.mark.real

ULAW = ("raw/mulaw",)
SOON = {"leg": LegOptions(hold_s=0.3, confirm_s=1.0)}


def parrot(agent_id: str = "parrot", greeting: str = "600 hello") -> Any:
    """Says back what it heard: as a tone, what was a tone."""
    return agent(agent_id, Speaks(greeting, lambda text: f"{text} {text}"))


async def ended(one: VoiceAi, conversation: str) -> str:
    """Return why a conversation's session ended."""
    await eventually(lambda: not [each for each in one.gateway.sessions.active() if each.call.call_id == conversation])
    details = await one.details(conversation)
    return str(details["end_reason"])


async def test_16_44_a_wrong_token_gets_401_and_no_socket() -> None:
    async with voice_ai(parrot()) as one:
        for headers in ({}, {"Authorization": "Bearer wrong"}, {"Authorization": "Basic audiocodes-secret"}):
            with pytest.raises(aiohttp.WSServerHandshakeError) as error:
                await one.http.ws_connect(one.url, headers=headers)
            assert error.value.status == 401
        twice = [("Authorization", "Bearer audiocodes-secret")] * 2
        with pytest.raises(aiohttp.WSServerHandshakeError):
            await one.http.ws_connect(one.url, headers=twice)
        assert metric(one.gateway, "auth_failures_total", surface="audiocodes") == 4
        assert metric(one.gateway, "active_sessions") == 0


async def test_17_a_check_over_the_socket_is_answered_and_makes_no_session() -> None:
    async with voice_ai(parrot()) as one:
        peer = await one.dial()
        await peer.send({"type": "connection.validate"})
        assert await peer.close_code() == 1000
        assert peer.messages == [{"type": "connection.validated", "success": True}]
        assert list(one.gateway.sessions.records()) == []


async def test_18_a_get_on_the_same_url_has_the_body_that_is_checked() -> None:
    async with voice_ai(parrot()) as one:
        for url in ("", one.url + "/", one.url + "?agent_id=parrot"):
            assert await one.ask(url) == (200, {"type": "ac-bot-api", "success": True})
        assert await one.ask(body={"type": "connection.validate"}) == (200, {"type": "ac-bot-api", "success": True})
        assert (await one.ask(method="DELETE"))[0] == 405


async def test_19_24_a_conversation_is_accepted_at_once_however_slow_the_agent_is() -> None:
    class Slow(Speaks):
        async def on_enter(self, context: Any) -> str:
            await asyncio.sleep(5)
            return "hello"

    async with (
        voice_ai(agent("slow", Slow())) as one,
        one.call(formats=("raw/lpcm16", "raw/mulaw", "wav/mulaw")) as peer,
    ):
        assert peer.messages[0] == {"type": "session.accepted", "mediaFormat": "raw/mulaw"}
        await peer.until("playStream.start")  # 31: the silence that answers
        assert peer.emulator.answered


@pytest.mark.parametrize("formats", [(), ("raw/opus",)])
async def test_20_nothing_in_common_is_refused_with_a_reason(formats: tuple[str, ...]) -> None:
    async with voice_ai(parrot()) as one:
        peer = await one.dial(formats=formats)
        await peer.send(peer.emulator.opening())
        assert await peer.close_code() == 1000
        assert peer.messages == [{"type": "session.error", "reason": "no common media format"}]
        assert list(one.gateway.sessions.records()) == []


async def test_21_without_audio_there_are_words() -> None:
    async with voice_ai(parrot()) as one, one.call(voice=False, formats=()) as peer:
        await peer.until("activities", 2)
        await peer.send(peer.emulator.message("good morning"))
        await peer.until("activities", 3)
        assert peer.emulator.texts == ["600 hello", "good morning good morning"]
        assert not [type_ for type_ in peer.types if type_.startswith("playStream")]
        assert peer.emulator.violations == []


async def test_22_23_29_what_is_out_of_place_or_unknown_makes_no_session_and_ends_none() -> None:
    async with voice_ai(parrot()) as one:
        peer = await one.dial(formats=ULAW)
        await peer.send(peer.emulator.ask_for_stream(), "not json", b"binary", {"type": "weather"})
        await peer.send(peer.emulator.opening(), peer.emulator.opening())
        other = json.loads(peer.emulator.opening()) | {"conversationId": "another"}
        await peer.send(other, b"binary", "", "[1]", {"type": "userStream.chunk", "audioChunk": "%"})
        await peer.until("playStream.stop")
        assert peer.types.count("session.accepted") == 1
        assert len(one.gateway.sessions.active()) == 1
        await peer.hang_up()
        await peer.aclose()
        await eventually(lambda: metric(one.gateway, "protocol_errors_total", surface="audiocodes", kind="binary") == 2)
        count = {
            kind: metric(one.gateway, "protocol_errors_total", surface="audiocodes", kind=kind)
            for kind in ("early_message", "second_session", "unknown_type", "malformed")
        }
        assert count == {"early_message": 1, "second_session": 2, "unknown_type": 2, "malformed": 3}


async def test_a_socket_that_says_nothing_is_closed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fastagent.connectors.audiocodes.streams._BEFORE_START_S", 0.1)
    async with voice_ai(parrot()) as one:
        peer = await one.dial()
        assert await peer.close_code() == 1008
        assert metric(one.gateway, "protocol_errors_total", surface="audiocodes", kind="no_start") == 1


async def test_a_message_of_more_than_a_megabyte_closes_with_1009() -> None:
    async with voice_ai(parrot()) as one, one.call(formats=ULAW) as peer:
        await peer.send("x" * (1 << 20) + "x")
        assert await peer.close_code() == 1009


async def test_a_full_gateway_declines() -> None:
    async with voice_ai(parrot(), MAX_SESSIONS=1) as one, one.call(formats=ULAW):
        peer = await one.dial(formats=ULAW)
        await peer.send(peer.emulator.opening())
        await peer.close_code()
        assert peer.emulator.refused == "no capacity"
        assert (await one.ask(body={"conversation": "c1"}))[0] == 503


async def test_the_caller_is_heard_and_answered_and_every_message_is_as_it_must_be() -> None:
    async with voice_ai(parrot()) as one, one.call(formats=ULAW, barge_in=True) as peer:
        await peer.until("playStream.stop")
        await asyncio.sleep(0.5)
        await peer.say(ulaw_tone(0.5, 1000) + bytes([0xFF]) * 16000)
        await peer.until("playStream.stop", 2)
        assert peer.emulator.recognised == ["1000"]
        last = [b64decode(m["audioChunk"]) for m in peer.of("playStream.chunk") if m["streamId"] == "2"]
        assert pitch(b"".join(last)) == 1000
        assert peer.emulator.violations == []
        details = await one.details(peer.emulator.conversation_id)
        assert details["turns"][1]["user"] == "1000"


async def test_the_called_number_the_bot_or_the_url_names_the_agent() -> None:
    sales, help_, host = (agent(name, Speaks(f"{hz} x")) for name, hz in (("sales", 700), ("help", 800), ("host", 900)))
    async with voice_ai(parrot(), sales, help_, host) as one:
        connector = AudiocodesConnector(one.url, gateway=one.gateway)
        for agent_id, name in (("sales", "+15550100777"), ("help", "helpdesk"), ("host", "192.0.2.15")):
            await connector.register_agent(agent_id, name)

        async def agent_of(url: str = "", **emulator: Any) -> str:
            peer = await one.dial(url, formats=ULAW, **emulator)
            await peer.send(peer.emulator.opening())
            await peer.until("playStream.start")
            details = await one.details(peer.emulator.conversation_id)
            await peer.hang_up()
            return str(details["agent_id"])

        assert await agent_of(callee="+15550100777") == "sales"
        assert await agent_of(bot_name="helpdesk") == "help"
        assert await agent_of() == "host"
        assert await agent_of(one.url + "?agent_id=sales") == "sales"
        assert await agent_of(one.url + "?agent_id=nobody", callee="+15550100777") == "sales"


async def test_40_the_end_is_the_end() -> None:
    async with voice_ai(parrot()) as one:
        async with one.call(formats=ULAW) as peer:
            await peer.until("playStream.start")
        assert await ended(one, peer.emulator.conversation_id) == "caller_hung_up"
        assert peer.socket.close_code == 1000
        assert metric(one.gateway, "active_sessions") == 0
        assert one.gateway.sessions._places == set()


async def test_41_the_agent_hangs_up_and_waits_for_the_confirmation() -> None:
    async with voice_ai(parrot(), config={"leg": LegOptions(confirm_s=20)}) as one, one.call(formats=ULAW) as peer:
        await peer.until("playStream.stop")
        peer.answers = False
        session = next(iter(one.gateway.sessions._live.values()))
        session.close(HangupReason.TERMINATED, "")
        async with asyncio.timeout(5):
            while not peer.emulator.hung_up:  # noqa: ASYNC110
                await asyncio.sleep(0.02)
        assert not peer.closed.is_set()
        await peer.send(peer.emulator.end("bot-disconnected"))
        assert await peer.close_code() == 1000
        assert await ended(one, peer.emulator.conversation_id) == "terminated"


async def again(one: VoiceAi, before: Peer) -> Peer:
    """VoiceAI Connect dials again and resumes."""
    peer = await one.dial()
    peer.emulator = before.emulator
    await peer.send(peer.emulator.resume())
    return peer


async def test_42_a_dropped_socket_is_resumed_with_the_dialogue_as_it_was() -> None:
    async with voice_ai(parrot()) as one:
        peer = await one.dial(formats=ULAW, barge_in=True)
        await peer.send(peer.emulator.opening())
        await peer.until("playStream.stop")
        await asyncio.sleep(0.4)
        peer.drop()
        await peer.closed.wait()
        back = await again(one, peer)
        assert await back.until("session.accepted") == {"type": "session.accepted", "mediaFormat": "raw/mulaw"}
        await back.say(ulaw_tone(0.5, 900) + bytes([0xFF]) * 16000)
        await back.until("playStream.stop")
        assert back.of("playStream.start")[0]["streamId"] == "2"
        details = await one.details(peer.emulator.conversation_id)
        assert [turn["cause"] for turn in details["turns"]] == ["opening", "speech"]
        assert peer.emulator.violations == []
        await back.hang_up()
        assert metric(one.gateway, "sessions_resumed_total", **{"from": "connection"}) == 1
        assert await ended(one, peer.emulator.conversation_id) == "caller_hung_up"


async def test_43_46_after_the_grace_time_there_is_nothing_to_resume() -> None:
    async with voice_ai(parrot(), config=SOON) as one:
        peer = await one.dial(formats=ULAW)
        await peer.send(peer.emulator.opening())
        await peer.until("playStream.stop")
        peer.drop()
        assert await ended(one, peer.emulator.conversation_id) == "connection_lost"
        back = await again(one, peer)
        assert await back.close_code() == 1000
        assert back.messages == [{"type": "session.error", "reason": "conversation not found"}]


async def test_45_the_newer_socket_wins() -> None:
    async with voice_ai(parrot()) as one:
        peer = await one.dial(formats=ULAW)
        await peer.send(peer.emulator.opening())
        await peer.until("playStream.start")
        back = await again(one, peer)
        await back.until("session.accepted")
        assert await peer.close_code() == 1000
        assert "hangup" not in peer.emulator.events
        assert len(one.gateway.sessions.active()) == 1
        await back.hang_up()


async def test_47_a_transfer_that_fails_gives_the_agent_the_call_back() -> None:
    state = Speaks("600 one moment", terminal=Ending("transfer", HUMAN))
    async with voice_ai(agent("moves", state), FASTAGENT_TRANSFER_TO=(HUMAN,)) as one:
        async with one.call(formats=ULAW, transfer_fails="busy") as peer:
            await peer.until("playStream.start")
            async with asyncio.timeout(10):
                while not peer.emulator.transferred_to:  # noqa: ASYNC110
                    await asyncio.sleep(0.02)
            assert peer.emulator.transferred_to == f"tel:{HUMAN}"
            await peer.until("playStream.start", 2, timeout_s=10)  # it apologises
        async with one.call(formats=ULAW) as peer:
            await peer.close_code(timeout_s=10)
        assert await ended(one, peer.emulator.conversation_id) == "transferred"


async def test_48_fifty_conversations_do_not_mix() -> None:
    count = 50
    async with voice_ai(agent("echo", Speaks("", lambda text: f"{text} {text}"))) as one:

        async def converse(at: int) -> None:
            hz = 400 + 40 * at
            peer = await one.dial(formats=ULAW, barge_in=True, caller=f"+1555{at:07}")
            await peer.send(peer.emulator.opening())
            await peer.until("session.accepted", timeout_s=30)
            await asyncio.sleep(0.2)
            await peer.say(ulaw_tone(0.5, hz) + bytes([0xFF]) * 16000, 1600)
            await peer.until("userStream.speech.recognition", timeout_s=30)
            starts = len(peer.of("playStream.start"))
            await peer.until("playStream.stop", max(1, starts), timeout_s=30)
            assert peer.emulator.recognised == [str(hz)]
            assert peer.emulator.violations == []
            details = await one.details(peer.emulator.conversation_id)
            assert [turn["user"] for turn in details["turns"]] == ["", str(hz)]
            await peer.hang_up()

        await asyncio.gather(*(converse(at) for at in range(count)))
        await eventually(lambda: metric(one.gateway, "active_sessions") == 0)


class Shared(MemoryBackend):
    """One store of two gateways, which outlives both."""

    async def aclose(self) -> None:
        pass


async def test_a_conversation_is_resumed_on_another_gateway_with_the_same_store() -> None:
    store = Shared()
    async with voice_ai(parrot(), store=store) as first, voice_ai(parrot(), store=store) as second:
        peer = await first.dial(formats=ULAW, barge_in=True)
        await peer.send(peer.emulator.opening())
        await peer.until("playStream.stop")
        await asyncio.sleep(0.4)
        await peer.say(ulaw_tone(0.5, 900) + bytes([0xFF]) * 16000)
        await peer.until("playStream.stop", 2)
        await eventually(lambda: "900" in str(store._documents))
        peer.drop()
        back = await again(second, peer)
        assert (await back.until("session.accepted"))["mediaFormat"] == "raw/mulaw"
        await back.until("playStream.start")
        assert int(back.of("playStream.start")[0]["streamId"]) > 2
        assert peer.emulator.violations == []
        session = next(iter(second.gateway.sessions._live.values()))
        assert "900" in [exchange.user for exchange in session.machine.context.history]
        assert session.leg.info.to == "+15550100002"
        assert metric(second.gateway, "sessions_resumed_total", **{"from": "store"}) == 1
        await back.hang_up()


async def test_a_stored_session_of_another_kind_is_not_resumed_here() -> None:
    store = Shared()
    async with voice_ai(parrot(), store=store) as one:
        await one.ask(body={"conversation": "c1"})
        start = {"type": "event", "name": "start", "id": "1"}
        assert (await one.ask("conversation/c1/activities", {"activities": [start]}))[0] == 200
        peer = await one.dial(conversation_id="c1", formats=ULAW)
        await peer.send(peer.emulator.resume())
        await peer.close_code()
        assert peer.emulator.refused == "conversation not found"


async def test_sockets_left_are_closed_when_the_gateway_stops() -> None:
    async with gateway(parrot()) as one, aiohttp.ClientSession() as http:
        ai = VoiceAi(http, one)
        idle = await ai.dial()
        peer = await ai.dial(formats=ULAW)
        await peer.send(peer.emulator.opening())
        await peer.until("playStream.start")
        await one.stop(0)
        assert await idle.close_code() == 1001
        await peer.close_code()
        assert peer.emulator.hung_up == "shutdown"


async def test_a_peer_that_answers_no_ping_is_gone_and_held() -> None:
    """F13."""
    async with voice_ai(parrot(), config={**SOON, "ping_s": 0.2}) as one:
        socket = await one.http.ws_connect(one.url, headers=one.headers, autoping=False)
        peer = Peer(socket, VoiceAiEmulator(formats=ULAW))
        await peer.send(peer.emulator.opening())
        await peer.until("playStream.start")
        assert await ended(one, peer.emulator.conversation_id) == "connection_lost"
        await peer.aclose()


async def test_wav_formats_are_spoken_where_nothing_else_is_offered() -> None:
    async with voice_ai(parrot()) as one, one.call(formats=("wav/mulaw",)) as peer:
        await peer.until("playStream.stop")
        first = b64decode(peer.of("playStream.chunk")[0]["audioChunk"])
        assert first.startswith(b"RIFF")
        assert peer.emulator.violations == []


async def test_the_documented_example_works_as_it_stands() -> None:
    async with gateway(parrot(), token=None) as one:
        audiocodes = AudiocodesConnector(
            webhook_url="https://your-server.com/audiocodes/webhook", api_key="your_audiocodes_api_key", gateway=one
        )
        assert AudioCodesConnector is AudiocodesConnector
        await audiocodes.register_agent(agent_id="support_agent", phone_number="+18005551235")
        await audiocodes.start()
        assert one.audiocodes.agents == {"+18005551235": "support_agent"}
        assert one.audiocodes.api_key == "your_audiocodes_api_key"
        await audiocodes.stop()


def test_settings_become_the_connectors(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {
        "AUDIOCODES_API_KEY": "",
        "AUDIOCODES_BARGE_IN": "false",
        "AUDIOCODES_OAUTH_JWKS_URL": "https://x/jwks",
        "AUDIOCODES_OAUTH_AUDIENCE": "a",
    }.items():
        monkeypatch.setenv(name, value)
    config = audiocodes_config(Settings())
    assert config.api_key is None
    assert config.barge_in is False
    assert config.oauth == OAuthOptions(audience="a", jwks_url="https://x/jwks")
    monkeypatch.delenv("AUDIOCODES_OAUTH_JWKS_URL")
    assert audiocodes_config(Settings()).oauth is None


def test_sessions_have_ids_that_every_node_finds() -> None:
    assert session_id("4a5b") == "ac_4a5b"
    assert len(session_id("x" * 100)) == len(session_id("a:b")) == 43
