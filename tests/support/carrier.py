"""Twilio's side over real sockets: signed webhooks, streams by hand, a REST server, and a gateway to call.

Speech is made of tones, so that every call can be told from every other: each word lasts 100 ms, a text that begins
with a number is a tone of that frequency, and recognition hears the frequency.
"""

import asyncio
import io
import json
import re
import secrets
import time
from base64 import b64decode
from collections.abc import AsyncIterator, Callable, Iterable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlencode, urlsplit
from xml.etree import ElementTree

import aiohttp
import numpy as np
import pytest
from aiohttp import web
from yarl import URL

from fastagent import AFSMState, ConversationContext, FastAgent
from fastagent.connectors.twilio.emulator import StreamEmulator
from fastagent.connectors.twilio.signature import sign
from fastagent.gateway.app import Gateway
from fastagent.gateway.session import Session
from fastagent.gateway.settings import Settings
from fastagent.media.frame import PCMU_8K, AudioFormat, AudioFrame
from fastagent.media.speech.contracts import Speech, SttStream, Transcript
from fastagent.media.vad.engine import EnergyVad
from tests.support.audio import tone

TOKEN = "12345"
ACCOUNT = "AC" + "1" * 32
ORIGIN = "https://gw.example.com"
WEBHOOK = "/twilio/webhook"
MEDIA = "/twilio/media"
SIGNED = "<as Twilio signs>"

Form = list[tuple[str, str]]

HUMAN = "+15550100199"  # whom calls may be transferred to
quiet_rest = [  # upstream: twilio 9.13 authenticates in a way that aiohttp 3.14 deprecates
    pytest.mark.filterwarnings("ignore:BasicAuth is deprecated:DeprecationWarning"),
    pytest.mark.filterwarnings("ignore:The 'auth' parameter is deprecated:DeprecationWarning"),
]


# -- speech made of tones ----------------------------------------------------------------------------------------------


def pitch(payload: bytes) -> int:
    """Return the loudest frequency of mu-law audio, to the nearest 20 Hz."""
    spectrum = np.abs(np.fft.rfft(PCMU_8K.decode(payload).astype(np.float64), 8000))
    return round((int(spectrum[100:].argmax()) + 100) / 20) * 20


class ToneTts:
    """Says each word in 100 ms, as a tone."""

    name = "tone"

    async def stream(self, text: str) -> AsyncIterator[AudioFrame]:
        number = re.match(r"\d+", text)
        await asyncio.sleep(0)
        yield AudioFrame(tone(0.1 * len(text.split()), int(number[0]) if number else 440), 8000)

    async def warm_up(self) -> None:
        """Nothing to load."""


class ToneStt:
    """Hears the frequency, and keeps what it was given."""

    name = "tone"

    def __init__(self) -> None:
        self.pushed_bytes = 0

    def open(self, audio: AudioFormat) -> SttStream:
        return _ToneStream(self)

    async def warm_up(self) -> None:
        """Nothing to load."""


class _ToneStream:
    def __init__(self, stt: ToneStt) -> None:
        self._stt, self._heard = stt, bytearray()

    def push(self, payload: bytes) -> None:
        self._stt.pushed_bytes += len(payload)
        self._heard += payload

    async def finalize(self) -> Transcript:
        return Transcript(str(pitch(bytes(self._heard))), 1.0)

    def restart(self) -> None:
        self._heard.clear()

    async def aclose(self) -> None:
        """Nothing to release."""


class Speaks(AFSMState):
    """Greets with a fixed text, and answers by a function."""

    def __init__(self, greeting: str = "", answer: Callable[[str], str] = lambda text: "", **kwargs: Any) -> None:
        super().__init__("speaks", "for tests", **kwargs)
        self._greeting, self._answer = greeting, answer

    async def on_enter(self, context: ConversationContext) -> str:
        return self._greeting

    async def process(self, input_text: str, context: ConversationContext) -> str:
        return self._answer(input_text)


def agent(agent_id: str, state: AFSMState | None = None, **kwargs: Any) -> FastAgent:
    """Return an agent of one state; by default it says nothing at all."""
    return FastAgent(agent_id, [state or Speaks()], "speaks", no_input_timeout=60.0, **kwargs)


# -- the gateway -------------------------------------------------------------------------------------------------------


@asynccontextmanager
async def gateway(
    *agents: FastAgent,
    token: str | None = TOKEN,
    account: str | None = None,
    origin: str | None = ORIGIN,
    rest_url: str | None = None,
    webhook_url: str = WEBHOOK,
    max_sessions: int = 100,
    proxies: tuple[str, ...] = (),
    stt: Any = None,
) -> AsyncIterator[Gateway]:
    """Run a gateway on a free port of loopback; the first of the agents is the default one."""
    settings = Settings(
        HOST="127.0.0.1",
        PORT=0,
        MAX_SESSIONS=max_sessions,
        FASTAGENT_SPEECH="scripted",
        FASTAGENT_REST_RATE=1000,  # `ended` asks a hundred times a second
        FASTAGENT_TRUSTED_PROXIES=proxies,
        FASTAGENT_TRANSFER_TO=(HUMAN,),
        PUBLIC_BASE_URL=origin,
        TWILIO_ACCOUNT_SID=account,
        TWILIO_AUTH_TOKEN=token,
    )
    one = Gateway(settings, make_speech=lambda executor: Speech(stt or ToneStt(), ToneTts()), make_vad=EnergyVad)
    one.twilio.rest_base_url = rest_url
    one.twilio.webhook_url = webhook_url
    for at, each in enumerate(agents):
        one.add_agent(each, default=at == 0)
    async with one:
        await one.wait_ready()
        yield one


def metric(one: Gateway, name: str, **labels: str) -> float:
    """Return a metric's value; 0 where it never moved."""
    return one.metrics.registry.get_sample_value(f"fastagent_{name}", labels) or 0.0


def session_of(one: Gateway, call_sid: str) -> Session:
    """Return the live session of a call."""
    return next(session for session in one.sessions._live.values() if session.leg.info.call_id == call_sid)


async def eventually(condition: Callable[[], bool], timeout_s: float = 5.0) -> None:
    """Return when something holds that sends no event."""
    async with asyncio.timeout(timeout_s):
        while not condition():  # noqa: ASYNC110
            await asyncio.sleep(0.01)


# -- Twilio ------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Answer:
    """What a webhook answered."""

    status: int
    content_type: str
    body: str
    headers: Mapping[str, str]

    @property
    def twiml(self) -> ElementTree.Element:
        """The body as XML."""
        return ElementTree.fromstring(self.body)

    @property
    def stream_url(self) -> str:
        """The stream's URL."""
        return self._stream().get("url", "")

    @property
    def parameters(self) -> dict[str, str]:
        """The stream's parameters."""
        return {one.get("name", ""): one.get("value", "") for one in self._stream().findall("Parameter")}

    def _stream(self) -> ElementTree.Element:
        found = self.twiml.findall("Connect/Stream")
        assert len(found) == 1, self.body
        return found[0]


class Stream:
    """A media stream by hand: what is sent is the test's affair, all that comes is kept."""

    def __init__(self, socket: aiohttp.ClientWebSocketResponse, call_sid: str, *, echo: bool = False) -> None:
        self.socket = socket
        self.twilio = StreamEmulator(call_sid=call_sid, stream_sid="MZ" + secrets.token_hex(16), account_sid=ACCOUNT)
        self.call_sid, self.stream_sid = call_sid, self.twilio.stream_sid
        self.received: list[dict[str, Any]] = []
        self.not_text = 0
        self.echo = echo
        """Whether marks are echoed as they come, as if playback took no time."""
        self.closed = asyncio.Event()
        self._news = asyncio.Event()
        self._reader = asyncio.create_task(self._read())

    async def _read(self) -> None:
        async for message in self.socket:
            if message.type is not aiohttp.WSMsgType.TEXT:
                self.not_text += 1
                continue
            body = json.loads(message.data)
            self.received.append(body)
            self._news.set()
            if self.echo and body["event"] == "mark":
                await self.echo_mark(body["mark"]["name"])
        self.closed.set()
        self._news.set()

    @property
    def events(self) -> list[str]:
        """The names of the messages received."""
        return [body["event"] for body in self.received]

    @property
    def marks(self) -> list[str]:
        """The names of the marks received."""
        return [body["mark"]["name"] for body in self.received if body["event"] == "mark"]

    @property
    def audio(self) -> bytes:
        """All audio received."""
        return b"".join(b64decode(one["media"]["payload"]) for one in self.received if one["event"] == "media")

    async def send(self, *messages: str | bytes | dict[str, Any]) -> None:
        """Send messages: text as it is, JSON from a dict, a binary frame from bytes."""
        for message in messages:
            if isinstance(message, bytes):
                await self.socket.send_bytes(message)
            else:
                await self.socket.send_str(message if isinstance(message, str) else json.dumps(message))

    async def start(self, parameters: dict[str, str]) -> None:
        """Send `connected` and `start`."""
        await self.send(*self.twilio.opening(parameters))

    async def media(self, payload: bytes, *, size: int = 160) -> None:
        """Send caller audio in frames of this size, all at once."""
        await self.send(*(self.twilio.media(payload[at : at + size]) for at in range(0, len(payload), size)))

    async def press(self, digits: str) -> None:
        """Press keys."""
        await self.send(*(self.twilio.dtmf(digit) for digit in digits))

    async def echo_mark(self, name: str) -> None:
        """Report a mark."""
        if not self.socket.closed:
            await self.send(self.twilio._mark(name))

    async def stop(self) -> None:
        """End the stream as Twilio does: `stop`, then the close."""
        if not self.socket.closed:
            await self.send(self.twilio.stop())
            await self.socket.close()

    @property
    def _transport(self) -> asyncio.Transport:
        connection = self.socket._conn
        assert connection is not None
        assert connection.transport is not None
        return connection.transport

    def write(self, data: bytes) -> None:
        """Put bytes on the wire as they are."""
        self._transport.write(data)

    def drop(self) -> None:
        """Lose the connection without a word."""
        self._transport.abort()

    async def until(self, condition: Callable[[], bool], timeout_s: float = 5.0) -> None:
        """Return when something holds that messages bring about."""
        async with asyncio.timeout(timeout_s):
            while not condition():
                self._news.clear()
                await self._news.wait()

    async def close_code(self, timeout_s: float = 5.0) -> int | None:
        """Return the code that the gateway closes with."""
        async with asyncio.timeout(timeout_s):
            await self.closed.wait()
        return self.socket.close_code

    async def aclose(self) -> None:
        """Hang up, if that has not happened yet."""
        try:
            await self.stop()
        except ConnectionError:
            pass
        await self._reader


class Carrier:
    """Twilio, as one gateway sees it."""

    def __init__(self, http: aiohttp.ClientSession, one: Gateway, *, token: str | None = TOKEN, origin: str = ORIGIN):
        self.http, self.gateway = http, one
        self.base = f"http://127.0.0.1:{one.port}"
        self.token, self.origin = token, origin

    def form(self, call_sid: str | None = None, **more: str) -> Form:
        """Return a webhook's parameters."""
        return [
            ("CallSid", call_sid or "CA" + secrets.token_hex(16)),
            ("AccountSid", ACCOUNT),
            ("From", "+15550100001"),
            ("To", "+15550100002"),
            ("CallStatus", "ringing"),
            ("Direction", "inbound"),
            ("ApiVersion", "2010-04-01"),
            *more.items(),
        ]

    async def request(
        self,
        path: str = WEBHOOK,
        form: Iterable[tuple[str, str]] = (),
        *,
        method: str = "POST",
        signature: str | None = SIGNED,
        headers: Mapping[str, str] | Iterable[tuple[str, str]] = (),
        data: bytes | None = None,
    ) -> Answer:
        """Make a request as Twilio does; the signature may be another one, or none."""
        pairs = list(form)
        if signature == SIGNED:
            signature = sign(self.token, self.origin + path, pairs) if self.token else None
        sent = list(headers.items() if isinstance(headers, Mapping) else headers)
        if signature is not None:
            sent.append(("X-Twilio-Signature", signature))
        if method == "POST":
            sent.append(("Content-Type", "application/x-www-form-urlencoded"))
            data = urlencode(pairs).encode() if data is None else data
        url = URL(self.base + path, encoded=True)
        sending = io.BytesIO(data) if data is not None else None
        async with self.http.request(method, url, data=sending, headers=sent, allow_redirects=False) as answer:
            return Answer(answer.status, answer.content_type, await answer.text(), dict(answer.headers))

    async def announce(self, agent_id: str = "", call_sid: str | None = None, **more: str) -> Answer:
        """Post the voice webhook for an agent, signed."""
        path = f"{WEBHOOK}?{urlencode({'agent_id': agent_id})}" if agent_id else WEBHOOK
        answer = await self.request(path, self.form(call_sid, **more))
        assert answer.status == 200, answer
        return answer

    async def handshake(self, *, signature: str | None = SIGNED, path: str = MEDIA) -> aiohttp.ClientWebSocketResponse:
        """Upgrade; the signature is over the `wss` URL."""
        if signature == SIGNED:
            url = "wss://" + self.origin.partition("://")[2] + path
            signature = sign(self.token, url) if self.token else None
        headers = {"x-twilio-signature": signature} if signature is not None else {}
        return await self.http.ws_connect(self.base + path, headers=headers, max_msg_size=1 << 22)

    @asynccontextmanager
    async def stream(self, call_sid: str | None = None, *, echo: bool = False) -> AsyncIterator[Stream]:
        """Dial a stream and say nothing yet."""
        one = Stream(await self.handshake(), call_sid or "CA" + secrets.token_hex(16), echo=echo)
        try:
            yield one
        finally:
            await one.aclose()

    @asynccontextmanager
    async def call(self, agent_id: str = "", *, echo: bool = False, **more: str) -> AsyncIterator[Stream]:
        """Announce a call, dial its stream and start it."""
        call_sid = "CA" + secrets.token_hex(16)
        answer = await self.announce(agent_id, call_sid, **more)
        assert urlsplit(answer.stream_url).path == MEDIA
        async with self.stream(call_sid, echo=echo) as one:
            await one.start(answer.parameters)
            yield one

    async def sessions(self, call_sid: str) -> list[dict[str, Any]]:
        """What the status API knows of a call."""
        async with self.http.get(f"{self.base}/sessions", params={"call_id": call_sid}) as answer:
            found: list[dict[str, Any]] = (await answer.json())["active_sessions"]
            return found

    async def details(self, call_sid: str) -> dict[str, Any]:
        """What the status API tells of the one session of a call."""
        (one,) = await self.sessions(call_sid)
        async with self.http.get(f"{self.base}/sessions/{one['session_id']}") as answer:
            body: dict[str, Any] = await answer.json()
            return body

    async def ended(self, call_sid: str, timeout_s: float = 5.0) -> dict[str, Any]:
        """Return the session of a call once it is over."""
        deadline = time.monotonic() + timeout_s
        while (details := await self.details(call_sid))["end_reason"] is None:
            assert time.monotonic() < deadline, details
            await asyncio.sleep(0.01)
        return details


@dataclass(frozen=True, slots=True)
class RestRequest:
    """What Twilio's REST API was asked."""

    method: str
    path: str
    authorization: str
    body: str


class FakeRest:
    """Twilio's REST API: keeps what it is asked, answers as told, and stops the call's stream."""

    def __init__(self) -> None:
        self.requests: list[RestRequest] = []
        self.status, self.answer = 200, json.dumps({"sid": "CA0", "status": "completed"})
        self.content_type = "application/json"
        self.stall = asyncio.Event()
        self.stall.set()
        self.streams: dict[str, Stream] = {}
        """Streams to stop when their call is completed."""
        self.asked = asyncio.Event()
        self.url = ""

    def answers(self, status: int, body: object, content_type: str = "application/json") -> None:
        """Answer this from now on."""
        self.status, self.content_type = status, content_type
        self.answer = body if isinstance(body, str) else json.dumps(body)

    def of(self, call_sid: str) -> list[RestRequest]:
        """What was asked about a call."""
        return [one for one in self.requests if call_sid in one.path]

    async def _handle(self, request: web.Request) -> web.Response:
        body = await request.text()
        self.requests.append(
            RestRequest(request.method, request.raw_path, request.headers.get("Authorization", ""), body)
        )
        self.asked.set()
        await self.stall.wait()
        for call_sid, stream in self.streams.items():
            if call_sid in request.path and ("Status=completed" in body or "Twiml=" in body):
                await stream.stop()
        return web.Response(status=self.status, text=self.answer, content_type=self.content_type)

    @asynccontextmanager
    async def running(self) -> AsyncIterator["FakeRest"]:
        """Listen on a free port of loopback."""
        app = web.Application()
        app.router.add_route("*", "/{path:.*}", self._handle)
        runner = web.AppRunner(app, shutdown_timeout=0.1)
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        self.url = f"http://127.0.0.1:{runner.addresses[0][1]}"
        try:
            yield self
        finally:
            self.stall.set()
            await runner.cleanup()
