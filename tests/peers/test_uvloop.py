"""What holds under uvloop, too, on which `fastagent serve` runs: its transports are no `asyncio.Transport`."""

import asyncio
import json
import socket

import aiohttp
import pytest

from tests.support.process import serve

pytestmark = [pytest.mark.real, pytest.mark.timeout(60)]


async def test_f13_a_client_that_answers_no_ping_is_cut_off_and_one_without_a_request_is_let_in() -> None:
    environment = {"FASTAGENT_SPEECH": "scripted", "WEBSOCKET_PING_INTERVAL": "0.2", "FASTAGENT_WS_HOLD_SECONDS": "0"}
    async with serve(**environment) as process, aiohttp.ClientSession(process.url) as http:
        await process.until("/readyz", 200)
        async with http.ws_connect("/agent/ws", autoping=False, autoclose=False) as client:
            await client.send_json({"type": "start_session", "payload": {}, "session_id": None})
            kinds = set()
            async with asyncio.timeout(10):
                while (message := await client.receive()).type is not aiohttp.WSMsgType.CLOSED:
                    kinds.add(message.type)
            assert aiohttp.WSMsgType.PING in kinds
            assert client.close_code == aiohttp.WSCloseCode.ABNORMAL_CLOSURE
        async with asyncio.timeout(10):
            while True:
                async with http.get("/sessions") as answer:
                    if not json.loads(await answer.text())["active_sessions"]:
                        break
                await asyncio.sleep(0.05)
        with socket.create_connection(("127.0.0.1", process.port)):
            assert await process.status("/livez") == 200
