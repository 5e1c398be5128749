"""VoiceAI Connect for tests: a phone in memory, and peers over real sockets against a gateway."""

import asyncio
import json
from base64 import b64decode
from collections import deque
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, cast

import aiohttp
import numpy as np
from aiohttp import web

from fastagent import FastAgent
from fastagent.connectors.audiocodes.activities import CallStarted
from fastagent.connectors.audiocodes.config import AudiocodesConfig
from fastagent.connectors.audiocodes.departure import LegOptions
from fastagent.connectors.audiocodes.emulator import VoiceAiEmulator
from fastagent.connectors.audiocodes.formats import choose
from fastagent.connectors.audiocodes.leg import StreamLeg
from fastagent.connectors.audiocodes.protocol import Initiated, Resumed, StreamProtocol
from fastagent.connectors.audiocodes.streams import StreamShell
from fastagent.connectors.host import LegHost
from fastagent.connectors.leg import CallInfo
from fastagent.connectors.line import Line
from fastagent.gateway.app import Gateway
from fastagent.gateway.settings import Settings
from fastagent.media.frame import PCMU_8K, AudioFormat
from fastagent.media.resample import resample_block
from fastagent.media.speech.contracts import Speech, SttStream, Transcript
from fastagent.media.vad.engine import EnergyVad
from tests.connectors.harnesses import Socket
from tests.support.carrier import ToneStt, ToneTts

TOKEN = "audiocodes-secret"
PATH = "/audiocodes/webhook"

Json = dict[str, Any]


class StreamPhone:
    """A streaming leg, and VoiceAI Connect at its other end; both cores run, only the socket is missing."""

    def __init__(self, *, options: LegOptions | None = None, config: AudiocodesConfig | None = None, **given: Any):
        self.emulator = VoiceAiEmulator(**given)
        self.options, self.config = options or LegOptions(), config or AudiocodesConfig()
        self.messages: list[Json] = []
        """What the gateway sent."""
        self.times: list[float] = []
        self.heard = bytearray()
        self._speech: deque[bytes] = deque()
        self._shell = StreamShell(self.config, cast(LegHost, None))
        self._loop = asyncio.get_running_loop()
        self._began = self._loop.time()
        self._connect()
        (asked,) = self.protocol.receive(self.emulator.opening())
        assert isinstance(asked, Initiated)
        self.form = choose(asked.formats)
        info = CallInfo(
            "audiocodes", asked.conversation_id, asked.conversation_id, asked.caller, "", "inbound",
            self.form.audio if self.form else PCMU_8K, voice=asked.voice,
        )  # fmt: skip
        self.leg = StreamLeg(self.line, self.protocol, info, self.options)
        self.leg.reply(self.protocol.accept(self.form))
        self.leg.called(asked.caller, "+15550100002", {})
        self.leg.tell(self.protocol.write.config(self.config.asked(voice=asked.voice)))

    def _connect(self) -> None:
        self.socket = Socket(self._receive)
        self.line = Line(cast(web.WebSocketResponse, self.socket), None)
        self.protocol = StreamProtocol()

    def _receive(self, text: str) -> None:
        self.messages.append(json.loads(text))
        self.times.append(self._loop.time() - self._began)
        for answer in self.emulator.receive(text)[1]:
            self._loop.call_soon(self.send, answer)

    def send(self, text: str) -> None:
        """VoiceAI Connect sends this."""
        events = self.protocol.receive(text)
        for reply in self.protocol.replies:
            self.leg.reply(reply)
        self.protocol.replies.clear()
        for event in events:
            if not isinstance(event, CallStarted):
                self._shell._happened(self.leg, event)

    # -- what was sent ---------------------------------------------------------------------------------------------

    @property
    def types(self) -> list[str]:
        """The types of what the gateway sent; an activity's name instead of its type."""
        found = []
        for one in self.messages:
            if one["type"] == "activities":
                found += [each.get("name", each["type"]) for each in one["activities"]]
            else:
                found.append(one["type"])
        return found

    def of(self, type_: str) -> list[Json]:
        """What the gateway sent of a type."""
        return [one for one in self.messages if one["type"] == type_]

    def activities(self, name: str) -> list[Json]:
        """The events of a name that the gateway sent."""
        return [one for body in self.of("activities") for one in body["activities"] if one.get("name") == name]

    def when(self, type_: str) -> list[float]:
        """When messages of a type were sent, in seconds since the call began."""
        return [round(at, 3) for at, one in zip(self.times, self.messages, strict=True) if one["type"] == type_]

    @property
    def audio(self) -> bytes:
        """All audio sent."""
        return b"".join(b64decode(one["audioChunk"]) for one in self.of("playStream.chunk"))

    # -- the phone -------------------------------------------------------------------------------------------------

    def speak(self, payload: bytes) -> None:
        """Say this mu-law from now on."""
        assert self.form is not None
        audio = self.form.audio
        samples = resample_block(PCMU_8K.decode(payload), 8000, audio.rate_hz)
        wire = audio.encode(np.resize(samples, -(-len(samples) // audio.frame_samples) * audio.frame_samples))
        self._speech.extend(wire[at : at + audio.frame_bytes] for at in range(0, len(wire), audio.frame_bytes))

    async def run(self, seconds: float) -> None:
        """Let time pass: 20 ms of caller audio in, 20 ms of playback out, each 20 ms."""
        for _ in range(round(seconds / 0.02)):
            if self.form is not None:
                audio = self.form.audio
                frame = self._speech.popleft() if self._speech else audio.silence(audio.frame_samples)
                if self.emulator.hears_caller and not self.socket.closed:
                    self.send(self.emulator.media(frame))
            heard, messages = self.emulator.play()
            self.heard += heard
            for message in messages:
                self.send(message)
            await asyncio.sleep(0.02)

    def press(self, digits: str) -> None:
        """Press keys."""
        self.send(self.emulator.dtmf(digits))

    async def cut(self) -> None:
        """Lose the connection."""
        self.socket.closed = True
        await self.leg.lose(self.line)

    async def come_back(self) -> None:
        """Dial again, and resume."""
        self._connect()
        (asked,) = self.protocol.receive(self.emulator.resume())
        assert isinstance(asked, Resumed)
        await self.leg.take_up(self.line, self.protocol, self.protocol.accept(self.leg.protocol.form))

    def caller_hangs_up(self) -> None:
        """End the call from the caller's side."""
        if not self.emulator.ended:
            self.send(self.emulator.end())


class PitchStt:
    """Hears the frequency of what is said, in any format; the answer is a number."""

    name = "pitch"

    def open(self, audio: AudioFormat) -> SttStream:
        return _PitchStream(audio)

    async def warm_up(self) -> None:
        """Nothing to load."""


class _PitchStream:
    def __init__(self, audio: AudioFormat) -> None:
        self._audio, self._heard = audio, bytearray()

    def push(self, payload: bytes) -> None:
        self._heard += payload

    async def finalize(self) -> Transcript:
        samples = self._audio.decode(bytes(self._heard)).astype(np.float64)
        spectrum = np.abs(np.fft.rfft(samples, self._audio.rate_hz))
        return Transcript(str(round((int(spectrum[100:].argmax()) + 100) / 20) * 20), 0.5)

    def restart(self) -> None:
        self._heard.clear()

    async def aclose(self) -> None:
        """Nothing to release."""


# -- over real sockets -------------------------------------------------------------------------------------------------


@asynccontextmanager
async def gateway(
    *agents: FastAgent, token: str | None = TOKEN, store: Any = None, config: Json | None = None, **settings: Any
) -> AsyncIterator[Gateway]:
    """Run a gateway on a free port of loopback; the first of the agents is the default one."""
    given = {"HOST": "127.0.0.1", "PORT": 0, "FASTAGENT_SPEECH": "scripted", "AUDIOCODES_API_KEY": token, **settings}
    made = Settings(**given)
    one = Gateway(made, make_speech=lambda executor: Speech(ToneStt(), ToneTts()), make_vad=EnergyVad)
    if store is not None:
        one._store._backend = store
    one.audiocodes.leg = LegOptions(confirm_s=0.2)  # not everybody here confirms
    for name, value in (config or {}).items():
        setattr(one.audiocodes, name, value)
    for at, each in enumerate(agents):
        one.add_agent(each, default=at == 0)
    async with one:
        await one.wait_ready()
        yield one


class Peer:
    """One streaming socket by hand: all that comes is kept."""

    def __init__(self, socket: aiohttp.ClientWebSocketResponse, emulator: VoiceAiEmulator) -> None:
        self.socket, self.emulator = socket, emulator
        self.messages: list[Json] = []
        self.closed = asyncio.Event()
        self._news = asyncio.Event()
        self.answers = True
        """Whether the emulator's answers are sent."""
        self._reader = asyncio.create_task(self._read())

    async def _read(self) -> None:
        async for message in self.socket:
            if message.type is aiohttp.WSMsgType.TEXT:
                self.messages.append(json.loads(message.data))
                _, answers = self.emulator.receive(message.data)
                for answer in answers if self.answers else []:
                    if not self.socket.closed:
                        await self.socket.send_str(answer)
                self._news.set()
        self.closed.set()
        self._news.set()

    @property
    def types(self) -> list[str]:
        """The types of what came."""
        return [one["type"] for one in self.messages]

    def of(self, type_: str) -> list[Json]:
        """What came of a type."""
        return [one for one in self.messages if one["type"] == type_]

    async def send(self, *messages: str | bytes | Json) -> None:
        """Send text as it is, JSON from a dict, a binary frame from bytes."""
        for message in messages:
            if isinstance(message, bytes):
                await self.socket.send_bytes(message)
            else:
                await self.socket.send_str(message if isinstance(message, str) else json.dumps(message))

    async def say(self, wire: bytes, size: int = 320) -> None:
        """Send caller audio in chunks, all at once."""
        await self.send(*(self.emulator.media(wire[at : at + size]) for at in range(0, len(wire), size)))

    async def until(self, type_: str, count: int = 1, timeout_s: float = 5.0) -> Json:
        """Return a message of this type, once there are so many."""
        async with asyncio.timeout(timeout_s):
            while len(self.of(type_)) < count:
                assert not self.closed.is_set(), self.messages[-3:]
                self._news.clear()
                await self._news.wait()
        return self.of(type_)[count - 1]

    def drop(self) -> None:
        """Lose the connection without a word."""
        assert self.socket._conn is not None
        assert self.socket._conn.transport is not None
        self.socket._conn.transport.abort()

    async def close_code(self, timeout_s: float = 5.0) -> int | None:
        """Return the code that the gateway closes with."""
        async with asyncio.timeout(timeout_s):
            await self.closed.wait()
        return self.socket.close_code

    async def hang_up(self) -> None:
        """End the call as VoiceAI Connect does when the caller hangs up."""
        if not self.socket.closed:
            await self.send(self.emulator.end())
            await self.close_code()

    async def aclose(self) -> None:
        """Close without a word, if it is open."""
        await self.socket.close()
        await self._reader


class VoiceAi:
    """VoiceAI Connect, as one gateway sees it."""

    def __init__(self, http: aiohttp.ClientSession, one: Gateway, token: str | None = TOKEN) -> None:
        self.http, self.gateway = http, one
        self.url = f"http://127.0.0.1:{one.port}{PATH}"
        self.headers = {"Authorization": f"Bearer {token}"} if token else {}

    async def ask(self, url: str = "", body: Any = None, *, method: str = "", **more: Any) -> tuple[int, Any]:
        """Make a request; return its status and its JSON. URLs are resolved as a browser does."""
        from urllib.parse import urljoin

        options = {"headers": self.headers, **more}
        if body is not None:
            options["data"] = body if isinstance(body, bytes) else json.dumps(body).encode()
            options["headers"] = {"Content-Type": "application/json", **options["headers"]}
        verb = method or ("POST" if body is not None else "GET")
        async with self.http.request(verb, urljoin(self.url, url), **options) as answer:
            text = await answer.text()
            return answer.status, json.loads(text) if text.startswith(("{", "[")) else text

    async def dial(self, url: str = "", **emulator: Any) -> Peer:
        """Open a streaming socket; nothing is sent yet."""
        socket = await self.http.ws_connect(url or self.url, headers=self.headers, max_msg_size=1 << 22)
        return Peer(socket, VoiceAiEmulator(**emulator))

    @asynccontextmanager
    async def call(self, **emulator: Any) -> AsyncIterator[Peer]:
        """A conversation that is accepted, and ended at the end."""
        peer = await self.dial(**emulator)
        await peer.send(peer.emulator.opening())
        await peer.until("session.accepted")
        try:
            yield peer
        finally:
            await peer.hang_up()
            await peer.aclose()

    async def details(self, conversation: str) -> Json:
        """What the gateway knows of a conversation's session."""
        found = [one for one in self.gateway.sessions.records() if one.call.call_id == conversation]
        assert len(found) == 1, found
        return found[0].details()


@asynccontextmanager
async def voice_ai(*agents: FastAgent, **options: Any) -> AsyncIterator[VoiceAi]:
    """A gateway, and VoiceAI Connect beside it."""
    async with gateway(*agents, **options) as one, aiohttp.ClientSession() as http:
        yield VoiceAi(http, one, options.get("token", TOKEN))
