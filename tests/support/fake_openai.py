"""An OpenAI-compatible server on loopback that speaks the true wire format, and fails as it is told to."""

import asyncio
import json
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

from aiohttp import web


@dataclass
class Reply:
    """What one request gets."""

    text: Sequence[str] = ()
    """Pieces of the answer, one chunk each."""
    calls: Sequence[tuple[str, Sequence[str]]] = ()
    """Tool calls: a name, and its arguments in fragments."""
    status: int = 200
    headers: dict[str, str] = field(default_factory=dict)
    body: str | None = None
    """Sent in place of a stream."""
    hang: bool = False
    """Never answer."""
    stall: bool = False
    """Stop in the middle, with the connection open."""
    reset: bool = False
    """Break the connection after what was sent."""


class FakeOpenAi:
    """The server; requests are kept, replies are taken in order and the last one repeats."""

    def __init__(self) -> None:
        self.replies: list[Reply] = []
        self.requests: list[dict[str, Any]] = []
        self.keys: list[str] = []
        self.base_url = ""

    async def handle(self, request: web.Request) -> web.StreamResponse:
        self.requests.append(await request.json())
        self.keys.append(request.headers.get("Authorization", ""))
        reply = self.replies.pop(0) if len(self.replies) > 1 else self.replies[0]
        if reply.hang:
            await asyncio.sleep(30)
        if reply.status != 200 or reply.body is not None:
            return web.Response(status=reply.status, headers=reply.headers, text=reply.body or "{}")
        response = web.StreamResponse(headers={"Content-Type": "text/event-stream", **reply.headers})
        await response.prepare(request)
        for chunk in self._chunks(reply):
            await response.write(f"data: {json.dumps(chunk)}\n\n".encode())
            await asyncio.sleep(0)
        if reply.reset:
            assert request.transport is not None
            request.transport.abort()
            return response
        if reply.stall:
            await asyncio.sleep(30)
        await response.write(b"data: [DONE]\n\n")
        return response

    def _chunks(self, reply: Reply) -> list[dict[str, Any]]:
        deltas: list[dict[str, Any]] = [{"role": "assistant", "content": ""}]
        deltas += [{"content": piece} for piece in reply.text]
        for at, (name, fragments) in enumerate(reply.calls):
            head = {"index": at, "id": f"call_{at}", "type": "function", "function": {"name": name, "arguments": ""}}
            deltas.append({"tool_calls": [head]})
            deltas += [{"tool_calls": [{"index": at, "function": {"arguments": one}}]} for one in fragments]
        frame = {"id": "c", "object": "chat.completion.chunk", "created": 1, "model": "fake"}
        return [{**frame, "choices": [{"index": 0, "delta": delta, "finish_reason": None}]} for delta in deltas] + [
            {**frame, "choices": []}  # the last chunk of a stream may have none
        ]


@asynccontextmanager
async def fake_openai(*replies: Reply) -> AsyncIterator[FakeOpenAi]:
    """Serve replies."""
    server = FakeOpenAi()
    server.replies = list(replies)
    app = web.Application()
    app.router.add_post("/v1/chat/completions", server.handle)
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    server.base_url = f"http://127.0.0.1:{runner.addresses[0][1]}/v1"
    try:
        yield server
    finally:
        await runner.cleanup()
