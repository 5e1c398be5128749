"""The REST API over real sockets: a gateway in this loop, a client that checks the one shape of errors, and calls."""

import asyncio
import io
import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import aiohttp
from multidict import CIMultiDictProxy

from fastagent.gateway.app import Gateway
from fastagent.gateway.settings import Settings
from fastagent.media.speech.contracts import Speech
from fastagent.media.vad.engine import EnergyVad
from tests.support.carrier import ToneStt, ToneTts

DOCUMENT: dict[str, Any] = {  # the API document's own, word by word
    "states": [
        {
            "name": "greeting",
            "description": "Initial greeting state",
            "allowed_transitions": ["collect_info", "handle_query"],
            "prompt_template": "You are a helpful voice assistant greeting a customer.",
        },
        {
            "name": "collect_info",
            "description": "Collecting user information",
            "allowed_transitions": ["process_info", "greeting"],
            "prompt_template": "Collect the user's name and reason for calling.",
        },
    ],
    "initial_state": "greeting",
    "scratchpad_enabled": True,
    "llm_config": {"model": "gpt-4", "temperature": 0.7, "max_tokens": 150},
}


def talker(greeting: str = "Good morning, this is the agent.", **more: Any) -> dict[str, Any]:
    """A document whose agent needs no model: it greets, and takes a 1 as the way out."""
    return {
        "states": [
            {
                "name": "greet",
                "on_enter": greeting,
                "dtmf": {"menu": {"1": "end"}},
                "no_input": {"prompts": ["Are you there?"], "then": "end"},
            },
            {"name": "end", "say": "Bye now.", "terminal": True},
        ],
        "initial_state": "greet",
        **more,
    }


@dataclass(frozen=True, slots=True)
class Reply:
    """An answer, read to its end."""

    status: int
    headers: CIMultiDictProxy[str]
    text: str

    @property
    def body(self) -> Any:
        """Its JSON."""
        return json.loads(self.text)

    @property
    def paths(self) -> list[str]:
        """Where the faults are."""
        return [one["path"] for one in self.body["details"]]


class Rest:
    """A gateway and who talks to it."""

    def __init__(self, gateway: Gateway, http: aiohttp.ClientSession) -> None:
        self.gateway, self.http = gateway, http
        self.url = f"http://127.0.0.1:{gateway.port}"

    async def ask(
        self, method: str, path: str, body: Any = None, *, data: Any = None, headers: Any = None, read: bool = True
    ) -> Reply:
        """Make a request; whatever is no success has the documented shape."""
        sent = {"json": body} if body is not None else {"data": io.BytesIO(data) if isinstance(data, bytes) else data}
        async with self.http.request(method, self.url + path, **sent, headers=headers) as answer:
            reply = Reply(answer.status, answer.headers, await answer.text() if read else "")
        if reply.status >= 400 and not (reply.status == 503 and "status" in reply.body):
            assert reply.headers["Content-Type"].startswith("application/json")
            assert set(reply.body) == {"code", "message", "details"}
            assert "Traceback" not in reply.text
            assert "/work" not in reply.text
        return reply

    async def get(self, path: str, **options: Any) -> Reply:
        """GET."""
        return await self.ask("GET", path, **options)

    async def post(self, path: str, body: Any = None, **options: Any) -> Reply:
        """POST."""
        return await self.ask("POST", path, body, **options)

    async def delete(self, path: str, **options: Any) -> Reply:
        """DELETE."""
        return await self.ask("DELETE", path, **options)

    async def configure(self, agent_id: str, document: Any = None) -> Reply:
        """Post a configuration that is taken."""
        reply = await self.post(f"/agents/{agent_id}/config", document or talker())
        assert reply.status in (200, 201), reply.text
        return reply

    def metric(self, name: str, **labels: str) -> float:
        """A metric's value; 0 where it never moved."""
        return self.gateway.metrics.registry.get_sample_value(f"fastagent_{name}", labels) or 0.0


@asynccontextmanager
async def served(
    *, make_speech: Any = None, headers: Any = None, ready: bool = True, **environment: Any
) -> AsyncIterator[Rest]:
    """A gateway with this environment; speech of tones, if no other is given."""
    settings = Settings(
        **{
            "HOST": "127.0.0.1",
            "PORT": 0,
            "FASTAGENT_SPEECH": "scripted",
            "FASTAGENT_DEFAULT_AGENT": "bench",
            "FASTAGENT_AGENTS": "/nowhere",
            **environment,
        }
    )
    make_speech = make_speech or (lambda executor: Speech(ToneStt(), ToneTts()))
    one = Gateway(settings, make_speech=make_speech, make_vad=EnergyVad)
    async with one, aiohttp.ClientSession(headers=headers) as http:
        if ready:
            await one.wait_ready()
        yield Rest(one, http)


class Call:
    """A WebSocket call: what came is kept."""

    def __init__(self, socket: aiohttp.ClientWebSocketResponse) -> None:
        self.socket = socket
        self.received: list[dict[str, Any]] = []
        self.id = ""

    async def send(self, type_: str, **payload: Any) -> None:
        """Send a message."""
        await self.socket.send_json({"type": type_, "payload": payload})

    async def until(self, type_: str, **payload: Any) -> dict[str, Any]:
        """Return the payload of the next message of a type whose payload has these values."""
        async with asyncio.timeout(10):
            while True:
                message = await self.socket.receive()
                assert message.type is aiohttp.WSMsgType.TEXT, (message, type_, payload, self.received[-5:])
                body = json.loads(message.data)
                self.received.append(body)
                found: dict[str, Any] = body["payload"]
                if body["type"] == type_ and payload.items() <= found.items():
                    return found

    async def spoken(self) -> dict[str, Any]:
        """Return what an answer was, and how much of it was heard."""
        return await self.until("transcript", role="agent", is_final=True)


@asynccontextmanager
async def call(rest: Rest, agent_id: str | None = None, **options: Any) -> AsyncIterator[Call]:
    """Call an agent over the WebSocket API."""
    async with rest.http.ws_connect(f"{rest.url}/agent/ws", **options) as socket:
        one = Call(socket)
        await one.send("start_session", **({"agent_id": agent_id} if agent_id else {}))
        started = await one.until("session_started")
        one.id = started["session_id"]
        yield one


async def eventually(condition: Callable[[], bool], timeout_s: float = 5.0) -> None:
    """Return when something holds that sends no event."""
    async with asyncio.timeout(timeout_s):
        while not condition():  # noqa: ASYNC110
            await asyncio.sleep(0.01)
