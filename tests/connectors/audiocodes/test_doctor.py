"""`fastagent doctor --url` looks at a bot's URL as VoiceAI Connect would."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
from aiohttp import web

from fastagent.gateway.cli.audiocodes_check import check_bot
from fastagent.gateway.cli.doctor import _look
from fastagent.gateway.settings import Settings
from tests.support.audiocodes import TOKEN, voice_ai
from tests.support.carrier import agent
from tests.support.process import free_port

pytestmark = pytest.mark.real


async def test_a_gateway_passes_with_its_token_and_not_with_another() -> None:
    async with voice_ai(agent("a")) as one:
        assert [right for _, right, _ in await check_bot(one.url.replace("http", "ws", 1), TOKEN)] == [True] * 3
        found = await check_bot(one.url, "another")
        assert [right for _, right, _ in found] == [False, False, True]
        assert "refused (401)" in found[0][2]
        findings = await _look(Settings(AUDIOCODES_API_KEY=TOKEN, HOST="127.0.0.1", PORT=0), speak=False, url=one.url)
        assert [one.verdict for one in findings if one.name.startswith("AudioCodes")] == ["ok"] * 3


@asynccontextmanager
async def answering(text: str, status: int = 200) -> AsyncIterator[str]:
    """A server that answers everything like this."""

    async def handle(request: web.Request) -> web.StreamResponse:
        if "Upgrade" in request.headers and status == 200:
            socket = web.WebSocketResponse()
            await socket.prepare(request)
            await socket.receive()
            if text:
                await socket.send_str(text)
            await socket.close()
            return socket
        return web.Response(text=text, status=status)

    app = web.Application()
    app.router.add_route("*", "/audiocodes/webhook", handle)
    runner = web.AppRunner(app, shutdown_timeout=0.1)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    try:
        yield f"http://127.0.0.1:{runner.addresses[0][1]}/audiocodes/webhook"
    finally:
        await runner.cleanup()


@pytest.mark.parametrize(("text", "status"), [("ok", 200), ("", 200), ('{"type":"x"}', 200), ("gone", 404)])
async def test_anything_else_does_not_pass(text: str, status: int) -> None:
    async with answering(text, status) as url:
        assert [right for _, right, _ in await check_bot(url, None)] == [False] * 3


async def test_nobody_there_is_one_line() -> None:
    (found,) = await check_bot(f"http://127.0.0.1:{free_port()}/audiocodes/webhook", None)
    assert found[1] is False
    assert "cannot be reached" in found[2]
