"""A client of the WebSocket API over real sockets, and a gateway for it to call: scripted speech, the energy VAD."""

import asyncio
import json
import secrets
from base64 import b64decode, b64encode
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from typing import Any

import aiohttp
import numpy as np
from yarl import URL

from fastagent import AFSMState, ConversationContext, FastAgent, StateResult
from fastagent.gateway.app import Gateway
from fastagent.gateway.settings import Settings
from fastagent.media.g711 import Int16Array
from fastagent.media.speech.contracts import Speech
from fastagent.media.speech.scripted import ScriptedStt, ScriptedTts
from fastagent.media.vad.engine import EnergyVad
from fastagent.media.wav import decode_wav, encode_wav
from tests.support.audio import tone

GREETING = "Hello, what can I do for you today, dear caller?"  # ten words: 3.75 s of scripted speech
ANSWER = "You are heard."
KEY = "a-key-of-the-tests"
OTHER_KEY = "another-key-of-the-tests"


class Greeting(AFSMState):
    """Greets; whatever is said leads on."""

    def __init__(self, words: str = GREETING) -> None:
        super().__init__("greeting", "Greets", ["talk", "done"])
        self._words = words

    async def on_enter(self, context: ConversationContext) -> str:
        return self._words

    async def process(self, input_text: str, context: ConversationContext) -> Any:
        if "bye" in input_text:
            return StateResult("Goodbye.", next_state="done")
        return StateResult(ANSWER, next_state="talk")


class Talk(AFSMState):
    """Answers."""

    def __init__(self) -> None:
        super().__init__("talk", "Answers", ["done"])

    async def process(self, input_text: str, context: ConversationContext) -> Any:
        return StateResult("Goodbye.", next_state="done") if "bye" in input_text else StateResult(ANSWER)


class Done(AFSMState):
    """The end."""

    def __init__(self) -> None:
        super().__init__("done", "Is the end", terminal=True)

    async def process(self, input_text: str, context: ConversationContext) -> Any:
        return StateResult("")


def agent(agent_id: str = "retail_agent", greeting: str = GREETING) -> FastAgent:
    """The agent of the document's example."""
    return FastAgent(agent_id, [Greeting(greeting), Talk(), Done()], "greeting", no_input_timeout=60.0)


@asynccontextmanager
async def gateway(
    *, script: Sequence[str] = ("Hello there.",), greeting: str = GREETING, **settings: Any
) -> AsyncIterator[Gateway]:
    """Run a gateway in this loop; settings by their environment names."""
    given = {"HOST": "127.0.0.1", "PORT": 0, "FASTAGENT_SPEECH": "scripted", **settings}
    one = Gateway(
        Settings(**given), make_speech=lambda executor: Speech(ScriptedStt(script), ScriptedTts()), make_vad=EnergyVad
    )
    one.add_agent(agent(greeting=greeting), default=True)
    async with one:
        await one.wait_ready()
        yield one


def metric(one: Gateway, name: str, **labels: str) -> float:
    """A metric's value; 0 where it never moved."""
    return one.metrics.registry.get_sample_value(f"fastagent_{name}", labels) or 0.0


async def eventually(condition: Callable[[], bool], timeout_s: float = 5.0) -> None:
    """Return when something holds that sends no event."""
    async with asyncio.timeout(timeout_s):
        while not condition():  # noqa: ASYNC110
            await asyncio.sleep(0.01)


def wav(samples: Int16Array, rate_hz: int = 16000) -> bytes:
    """Samples as a WAV file."""
    return encode_wav(samples, rate_hz)


def speech_wav(seconds: float = 1.0, rate_hz: int = 16000) -> bytes:
    """What the energy VAD takes for speech."""
    return wav(tone(seconds, rate_hz=rate_hz), rate_hz)


class Client:
    """One socket: what is sent is the test's affair, all that comes is kept, in order."""

    def __init__(self, socket: aiohttp.ClientWebSocketResponse) -> None:
        self.socket = socket
        self.session_id: str | None = None
        self.received: list[dict[str, Any]] = []
        self.frames: list[bytes] = []
        self.closed = asyncio.Event()
        self._news = asyncio.Event()
        self._chunk = 0
        self._reader = asyncio.create_task(self._read())

    async def _read(self) -> None:
        async for message in self.socket:
            if message.type is aiohttp.WSMsgType.BINARY:
                self.frames.append(message.data)
            else:
                self.received.append(json.loads(message.data))
            self._news.set()
        self.closed.set()
        self._news.set()

    # -- what came -------------------------------------------------------------------------------------------------

    @property
    def types(self) -> list[str]:
        """The types of all messages."""
        return [one["type"] for one in self.received]

    def of(self, type_: str) -> list[dict[str, Any]]:
        """The payloads of one type."""
        return [one["payload"] for one in self.received if one["type"] == type_]

    @property
    def errors(self) -> list[str]:
        """The codes of the errors."""
        return [one["code"] for one in self.of("error")]

    @property
    def audio(self) -> Int16Array:
        """All audio that came as WAVs."""
        parts = [decode_wav(b64decode(one["data"])).samples for one in self.of("audio_response")]
        return np.concatenate(parts) if parts else np.empty(0, np.int16)

    @property
    def finals(self) -> int:
        """How many utterances were complete."""
        return sum(one["final"] for one in self.of("audio_response"))

    async def until(self, condition: Callable[[], object], timeout_s: float = 8.0) -> None:
        """Return when something holds that messages bring about."""
        async with asyncio.timeout(timeout_s):
            while not condition():
                assert not self.closed.is_set(), (self.socket.close_code, self.received[-3:])
                self._news.clear()
                await self._news.wait()

    async def next(self, type_: str, count: int = 1) -> dict[str, Any]:
        """Return the payload of the n-th message of a type."""
        await self.until(lambda: len(self.of(type_)) >= count)
        return self.of(type_)[count - 1]

    async def close_code(self, timeout_s: float = 5.0) -> int | None:
        """Return the code that the gateway closes with."""
        async with asyncio.timeout(timeout_s):
            await self.closed.wait()
        return self.socket.close_code

    # -- what is sent ----------------------------------------------------------------------------------------------

    async def send(self, type_: str, **payload: Any) -> None:
        """Send a message."""
        await self.raw(json.dumps({"type": type_, "payload": payload, "session_id": self.session_id, "timestamp": 1}))

    async def raw(self, text: str) -> None:
        """Send a text message as it is."""
        await self.socket.send_str(text)

    async def start(self, **payload: Any) -> dict[str, Any]:
        """Begin, or resume, a session."""
        await self.send("start_session", **payload)
        started = await self.next("session_started")
        self.session_id = started["session_id"]
        return started

    async def say(self, data: bytes, **more: Any) -> None:
        """Send a chunk of audio."""
        await self.send("audio_data", encoding="base64", data=b64encode(data).decode(), **more)

    async def speak(
        self, samples: Int16Array, *, rate_hz: int = 16000, late: Callable[[int], float] = lambda n: 0.0
    ) -> None:
        """Send samples in chunks of 20 ms in real time, each as late as asked."""
        loop, frame = asyncio.get_running_loop(), rate_hz // 50
        began = loop.time()
        for at in range(0, len(samples), frame):
            await asyncio.sleep(max(0.0, began + at / rate_hz + late(at // frame) - loop.time()))
            await self.say(samples[at : at + frame].astype("<i2").tobytes())

    @property
    def transport(self) -> asyncio.Transport:
        """The connection itself."""
        connection = self.socket._conn
        assert connection is not None
        assert connection.transport is not None
        return connection.transport

    def drop(self) -> None:
        """Lose the connection without a word."""
        self.transport.abort()

    async def aclose(self) -> None:
        """Close it, if that has not happened yet."""
        await self.socket.close()
        await self._reader


class Clients:
    """Clients of one gateway."""

    def __init__(self, http: aiohttp.ClientSession, one: Gateway) -> None:
        self.http, self.gateway = http, one
        self.url = URL(f"http://127.0.0.1:{one.port}/agent/ws")

    @asynccontextmanager
    async def connect(
        self, session_id: str | None = None, *, key: str | None = None, **options: Any
    ) -> AsyncIterator[Client]:
        """Dial."""
        headers = dict(options.pop("headers", {}))
        if session_id is not None:
            headers["X-Session-ID"] = session_id
        if key is not None:
            headers["Authorization"] = f"Bearer {key}"
        socket = await self.http.ws_connect(self.url, headers=headers, max_msg_size=1 << 22, **options)
        client = Client(socket)
        try:
            yield client
        finally:
            await client.aclose()

    async def refused(self, **headers: str) -> aiohttp.ClientResponse:
        """Ask for an upgrade that is answered with an ordinary response; return it."""
        upgrade = {
            "Upgrade": "websocket",
            "Connection": "Upgrade",
            "Sec-WebSocket-Version": "13",
            "Sec-WebSocket-Key": b64encode(secrets.token_bytes(16)).decode(),
        }
        async with self.http.get(self.url, headers={**upgrade, **headers}) as answer:
            await answer.read()
            return answer


@asynccontextmanager
async def calling(**options: Any) -> AsyncIterator[Clients]:
    """A gateway and its clients."""
    async with gateway(**options) as one, aiohttp.ClientSession() as http:
        yield Clients(http, one)
