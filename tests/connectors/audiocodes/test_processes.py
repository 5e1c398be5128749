"""A conversation whose gateway is killed goes on at another process, by way of Redis."""

import asyncio

import aiohttp
import pytest

from fastagent.connectors.audiocodes.emulator import VoiceAiEmulator
from tests.support.audiocodes import PATH, Peer
from tests.support.process import Served, serve
from tests.support.redis_server import redis_server

pytestmark = [pytest.mark.real, pytest.mark.timeout(120)]

SETTINGS = {"FASTAGENT_SPEECH": "scripted", "AUDIOCODES_API_KEY": "secret"}


async def dial(http: aiohttp.ClientSession, gateway: Served, emulator: VoiceAiEmulator) -> Peer:
    headers = {"Authorization": "Bearer secret"}
    return Peer(await http.ws_connect(gateway.url + PATH, headers=headers), emulator)


async def test_a_killed_gateway_costs_its_caller_no_more_than_a_pause() -> None:
    async with (
        redis_server() as redis,
        serve(REDIS_URL=redis.url, **SETTINGS) as first,
        serve(REDIS_URL=redis.url, **SETTINGS) as second,
        aiohttp.ClientSession() as http,
    ):
        await asyncio.gather(first.until("/readyz", 200), second.until("/readyz", 200))
        emulator = VoiceAiEmulator(barge_in=True)
        peer = await dial(http, first, emulator)
        await peer.send(emulator.opening())
        await peer.until("playStream.chunk", 2)
        async with asyncio.timeout(10):
            while not await redis.keys():  # noqa: ASYNC110
                await asyncio.sleep(0.05)
        first.process.kill()
        await peer.closed.wait()
        back = await dial(http, second, emulator)
        await back.send(emulator.resume())
        await back.until("session.accepted")
        await back.until("playStream.chunk")
        assert emulator.violations == []
        async with http.get(f"{second.url}/sessions?call_id={emulator.conversation_id}") as answer:
            (session,) = (await answer.json())["active_sessions"]
        assert session["session_id"] == f"ac_{emulator.conversation_id}"
        await back.hang_up()
        assert back.socket.close_code == 1000
