"""Golden transcripts: whole sessions on the wire, replayed against the core and the leg in virtual time.

Each line of `tests/transcripts/websocket/*.jsonl` is `{"at_ms", "dir", "msg"}`: `in` comes from the client (a string is
text that is sent as it is, `{"binary"}` a frame in base64, `{"lost"}` the end of its connection: what it sends next
comes over another one), `out` is expected from us, and nothing else; `{"close": code}` is our close of the socket.
"""

import asyncio
import json
from base64 import b64decode, b64encode
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
from aiohttp import web

from fastagent.connectors import notices
from fastagent.connectors.leg import (
    CallInfo,
    ConnectionBack,
    ConnectionLost,
    DtmfReceived,
    HangupReason,
    InterruptRequested,
    LegEnded,
    LegEvent,
    MarkReached,
    TextReceived,
)
from fastagent.connectors.line import Line
from fastagent.connectors.websocket import leg as leg_module
from fastagent.connectors.websocket.connector import SocketConnection
from fastagent.connectors.websocket.leg import SocketLeg
from fastagent.connectors.websocket.protocol import Event, Refused, SocketProtocol, StartRequested
from fastagent.media.frame import AudioFormat
from fastagent.media.playout import Playout, RenderedSpeech, SendAudio

TRANSCRIPTS = Path(__file__).parents[2] / "transcripts" / "websocket"
SESSION, SECRET = "sess_123456", "the-secret-of-this-session"
WALL_S = 1624282543.25

# Messages that were refused, by code; none in all other transcripts.
REFUSED = {
    "malformed_message": {"invalid_request": 7, "audio_processing_failed": 2},
    "peer_ends": {"session_not_found": 2},
    "unknown_message": {"invalid_request": 2},
    "wrong_audio_format": {"invalid_audio_format": 2, "audio_processing_failed": 1},
    "wrong_order": {"invalid_request": 4, "session_not_found": 1},
}


class Talk:
    """The smallest session on the leg: greets for 600 ms, answers key n with n times 200 ms, words with 200 ms, falls
    silent for a loud caller, and ends after 200 ms of goodbye for `#`. It says one byte over and over: the key, 6 for
    the greeting, 7 for an answer to words."""

    def __init__(self, leg: SocketLeg) -> None:
        self.leg, self.playout = leg, Playout(leg.info.output)
        self._ending = self._flushed = False
        leg.attach(self)
        leg.notify(notices.SessionStarted(SESSION, "retail_agent", "greeting"))
        self._say(6, 600)
        self.tasks = [asyncio.create_task(self._follow()), asyncio.create_task(self._tick())]

    async def _follow(self) -> None:
        async for event in self.leg.events():
            await self._happened(event)

    async def _happened(self, event: LegEvent) -> None:
        match event:
            case DtmfReceived(digit):
                self._silence()
                self.leg.notify(notices.CallHappened("dtmf"))
                if digit != "#":
                    self.leg.notify(notices.StateChanged("greeting", "collect_info", "user_provided_info"))
                self._say(int(digit.replace("#", "1")), 200 * int(digit.replace("#", "1")))
                self._ending = digit == "#"
            case TextReceived(text):
                self._silence()
                self.leg.notify(notices.Transcribed("user", text, True, 1))
                self._say(7, 200)
            case InterruptRequested() | ConnectionLost():
                self._silence()
            case ConnectionBack():
                self.playout.resume(self._now())
            case MarkReached(name):
                self.playout.mark_reached(name, self._now())
            case LegEnded(reason):
                await self._over(reason)

    async def _over(self, reason: HangupReason) -> None:
        self.playout.begin()
        await self.leg.hang_up(reason)
        if reason is HangupReason.CALLER_HUNG_UP:
            await asyncio.sleep(1.0)
        await self.leg.aclose(reason)

    async def _tick(self) -> None:
        while not self.leg.over:
            await asyncio.sleep(0.02)
            self._send()
            if self._ending and self.playout.finished:
                await self._over(HangupReason.COMPLETED)

    def _now(self) -> float:
        return asyncio.get_running_loop().time()

    def _say(self, value: int, ms: int) -> None:
        rate, size = self.leg.info.output.rate_hz, self.leg.info.output.sample_bytes
        self.playout.begin()
        levels = np.full(ms // 20, -20.0, np.float32)
        self.playout.write(RenderedSpeech("word", bytes((value,)) * (ms * rate // 1000 * size), levels))
        self.playout.flush()
        self._flushed = False
        self._send()

    def _send(self) -> None:
        for action in self.playout.tick(self._now()):
            if isinstance(action, SendAudio):
                self.leg.send_audio(action.payload)
            else:
                self.leg.send_mark(action.name)
        if self.playout.all_sent and not self._flushed:
            self._flushed = True
            self.leg.flush()

    def _silence(self) -> None:
        if self.playout.speaking:
            self.playout.pause(self._now())
            self._flushed = False
            self.leg.clear()
            self.leg.notify(notices.Interrupted(1, "word"))

    def push(self, payload: bytes, timestamp_ms: int | None, now: float) -> bool:
        if np.abs(np.frombuffer(payload, "<i2").astype(np.int32)).max() > 8000:
            self._silence()
        return True

    def quiet(self, seconds: float, now: float) -> None:
        if seconds >= 0.5:  # the first of a silence
            self.leg.notify(notices.CallerSpeech(False))


class Wire:
    """One client, and what it is sent."""

    def __init__(self) -> None:
        self.out: list[dict[str, Any]] = []
        self.protocols: list[SocketProtocol] = []
        self.talk: Talk | None = None
        self._began = asyncio.get_running_loop().time()
        self.closed = False
        self._connect()

    def _connect(self) -> None:
        self.protocols.append(SocketProtocol(SESSION))
        self.line = Line(cast(web.WebSocketResponse, self), None)

    # What the leg needs of a socket.

    async def send_str(self, text: str) -> None:
        self.record(json.loads(text))

    async def send_bytes(self, data: bytes) -> None:
        self.record({"binary": b64encode(data).decode()})

    def record(self, message: dict[str, Any]) -> None:
        at_ms = round((asyncio.get_running_loop().time() - self._began) * 1000)
        self.out.append({"at_ms": at_ms, "dir": "out", "msg": message})

    # What the shell does.

    async def receive(self, message: Any) -> None:
        protocol = self.protocols[-1]
        if isinstance(message, dict) and "lost" in message:
            assert self.talk is not None
            await self.talk.leg.lose(self.line)
            self._connect()
            return
        if isinstance(message, dict) and "binary" in message:
            events = protocol.receive_binary(b64decode(message["binary"]))
        else:
            events = protocol.receive(message if isinstance(message, str) else json.dumps(message))
        for event in events:
            await self._happened(event, protocol)

    async def _happened(self, event: Event, protocol: SocketProtocol) -> None:
        if isinstance(event, StartRequested):
            await self._start(event, protocol)
        elif self.talk is not None:
            SocketConnection._happened(self.talk.leg, event)
        else:
            assert isinstance(event, Refused)
            self.record(json.loads(protocol.error(event, WALL_S)))

    async def _start(self, request: StartRequested, protocol: SocketProtocol) -> None:
        protocol.started(SESSION, request)
        if self.talk is not None:
            assert request.resume_secret == SECRET
            await self.talk.leg.take_up(self.line, protocol, request)
            return
        audio = AudioFormat("L16", request.audio_in.rate_hz)
        info = CallInfo("websocket", SESSION, SESSION, "", "", "inbound", audio, playback=request.output.internal)
        self.talk = Talk(SocketLeg(self.line, protocol, request, info, resume_secret=SECRET))


async def replay(lines: list[dict[str, Any]]) -> tuple[list[dict[str, Any]], Wire]:
    """Return what we send, and the wire at the end of it."""
    loop = asyncio.get_running_loop()
    wire, began = Wire(), loop.time()
    for one in (line for line in lines if line["dir"] == "in"):
        await asyncio.sleep(max(0.0, began + one["at_ms"] / 1000 - loop.time()))
        await wire.receive(one["msg"])
    for _ in range(200):
        await asyncio.sleep(0.02)
        if wire.line.farewell is not None and not wire.closed:
            wire.closed = True
            wire.record({"close": wire.line.farewell[0]})
    if wire.talk is not None:
        await wire.talk.leg.aclose(HangupReason.COMPLETED)
        for task in wire.talk.tasks:
            task.cancel()
        await asyncio.gather(*wire.talk.tasks, return_exceptions=True)
    return wire.out, wire


@pytest.fixture(autouse=True)
def _wall_clock(monkeypatch: pytest.MonkeyPatch) -> None:
    """Messages carry the time of the wall; here it stands still."""

    class Clock:
        @staticmethod
        def time() -> float:
            return WALL_S

    monkeypatch.setattr(leg_module, "time", Clock)


def lines_of(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_the_transcripts_that_must_be_there_are_there() -> None:
    assert {path.stem for path in TRANSCRIPTS.glob("*.jsonl")} >= {
        "plain_call",
        "dtmf",
        "barge_in",
        "peer_ends",
        "we_end",
        "malformed_message",
        "unknown_message",
        "wrong_audio_format",
        "wrong_order",
        "resume",
    }


@pytest.mark.parametrize("path", sorted(TRANSCRIPTS.glob("*.jsonl")), ids=lambda path: path.stem)
async def test_a_session_goes_as_its_transcript_says(path: Path) -> None:
    lines = lines_of(path)
    assert all(set(one) == {"at_ms", "dir", "msg"} for one in lines)
    sent, wire = await replay(lines)
    assert sent == [one for one in lines if one["dir"] == "out"]
    refused = sum((one.refused for one in wire.protocols[1:]), wire.protocols[0].refused)
    assert refused == REFUSED.get(path.stem, {})
