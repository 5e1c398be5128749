"""Harnesses of the conformance suite: a leg, its protocol core, and a peer in memory."""

import asyncio
import json
from base64 import b64decode, b64encode
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any, cast

from aiohttp import web

from fastagent.connectors.leg import CallInfo, HangupReason
from fastagent.connectors.line import Line
from fastagent.connectors.twilio.emulator import StreamEmulator
from fastagent.connectors.twilio.leg import TwilioLeg
from fastagent.connectors.twilio.protocol import AudioReceived, StreamStarted, TwilioProtocol
from fastagent.connectors.websocket.connector import SocketConnection
from fastagent.connectors.websocket.leg import SocketLeg
from fastagent.connectors.websocket.protocol import SocketProtocol, StartRequested
from fastagent.media.frame import PCMU_8K, AudioFormat
from fastagent.media.wav import decode_wav
from tests.connectors.conformance import Arrived, Harness


class Socket:
    """What a leg needs of a web socket; it can stop taking messages, or break."""

    def __init__(self, received: Callable[[str], None]) -> None:
        self._received = received
        self.closed = False
        self.code: int | None = None
        self.close_code: int | None = None
        self.flowing = asyncio.Event()
        self.flowing.set()

    async def send_str(self, text: str) -> None:
        await self.flowing.wait()
        if self.closed:
            raise ConnectionResetError
        self._received(text)

    async def send_bytes(self, data: bytes) -> None:
        raise AssertionError("not negotiated")

    async def close(self, *, code: int = 1000, message: bytes = b"", drain: bool = True) -> None:
        self.closed, self.code = True, code


class TwilioHarness:
    """A Media Stream, with Twilio's emulator at its other end."""

    tells_final = False
    takes_dtmf = True

    def __init__(self) -> None:
        self.arrived: list[Arrived] = []
        self._peer = StreamEmulator(call_sid="CA1", stream_sid="MZ1")
        self._protocol = TwilioProtocol()
        self._socket = Socket(self._receive)
        for message in self._peer.opening({}):
            self._protocol.receive(message)
        info = CallInfo("twilio", "CA1", "MZ1", "+1", "+2", "inbound", PCMU_8K)
        self.leg = TwilioLeg(cast(web.WebSocketResponse, self._socket), self._protocol, info, end_call=None)

    @property
    def closed(self) -> bool:
        return self._socket.closed

    def _receive(self, text: str) -> None:
        message = json.loads(text)
        if message["event"] == "media":
            self.arrived.append(Arrived("audio", b64decode(message["media"]["payload"])))
        elif message["event"] == "clear":
            self.arrived.append(Arrived("clear"))
        for answer in self._peer.receive(text)[1]:
            asyncio.get_running_loop().call_soon(self._send, answer)
        assert not self._peer.violations

    def _send(self, text: str) -> None:
        event = self._protocol.receive(text)
        if isinstance(event, AudioReceived):
            self.leg.audio_received(event.payload, event.timestamp_ms)
        elif event is not None and not isinstance(event, StreamStarted):
            self.leg.happened(event)

    def caller_sends(self, payload: bytes) -> None:
        self._send(self._peer.media(payload))

    def caller_presses(self, digit: str) -> None:
        self._send(self._peer.dtmf(digit))

    async def peer_plays(self, seconds: float) -> None:
        for _ in range(round(seconds / 0.02)):
            await asyncio.sleep(0.02)
            for mark in self._peer.play()[1]:
                self._send(mark)

    def peer_ends(self) -> None:
        self._send(self._peer.stop())

    def peer_is_lost(self) -> None:
        self._socket.closed = True
        lost = self._protocol.closed(broken=False)
        assert lost is not None
        self.leg.happened(lost)

    def stall(self) -> None:
        self._socket.flowing.clear()

    def flow(self) -> None:
        self._socket.flowing.set()


class SocketHarness:
    """A client of the WebSocket API, as plain as the document's; or one that reports what it has played."""

    tells_final = True
    takes_dtmf = True

    def __init__(self, *, output: str = "audio/x-wav", reports: bool = False) -> None:
        self.arrived: list[Arrived] = []
        self.messages: list[dict[str, Any]] = []
        self._reports = reports
        self._waiting: list[list[Any]] = []  # utterance, milliseconds of it
        self._played: dict[str, float] = {}
        self._protocol = SocketProtocol()
        start = json.dumps({"type": "start_session", "payload": {"audio": {"output": {"format": output}}}})
        (request,) = self._protocol.receive(start)
        assert isinstance(request, StartRequested)
        self._socket = Socket(self._receive)
        self._line = Line(cast(web.WebSocketResponse, self._socket), None)
        info = CallInfo(
            "websocket", "s", "s", "", "", "inbound", AudioFormat("L16", 16000), playback=request.output.internal
        )
        self._protocol.started("s", request)
        self.leg = SocketLeg(self._line, self._protocol, request, info, resume_secret="x", hold_s=0)

    @property
    def closed(self) -> bool:
        return self._line.farewell is not None

    def _receive(self, text: str) -> None:
        message = json.loads(text)
        self.messages.append(message)
        payload = message["payload"]
        if message["type"] == "audio_response":
            self._take(payload)
        elif message["type"] == "clear_audio":
            self._waiting.clear()
            self.arrived.append(Arrived("clear"))

    def _take(self, payload: dict[str, Any]) -> None:
        data = b64decode(payload["data"])
        if payload["format"] == "audio/x-wav":
            data = decode_wav(data).samples.tobytes()
        if data:
            self.arrived.append(Arrived("audio", data))
            output = self.leg.info.output
            self._waiting.append([payload["utterance_id"], len(data) / output.sample_bytes / output.rate_hz * 1000])
        if payload["final"]:
            self.arrived.append(Arrived("final"))

    def _send(self, type_: str, **payload: Any) -> None:
        for event in self._protocol.receive(json.dumps({"type": type_, "payload": payload})):
            SocketConnection._happened(self.leg, event)

    def caller_sends(self, payload: bytes) -> None:
        self._send("audio_data", data=b64encode(payload).decode())

    def caller_presses(self, digit: str) -> None:
        self._send("dtmf", digits=digit)

    async def peer_plays(self, seconds: float) -> None:
        if self._reports:
            self._send("playback_status", utterance_id="utt_0", played_ms=0)
        for _ in range(round(seconds / 0.02)):
            await asyncio.sleep(0.02)
            if self._waiting and self._reports:
                one = self._waiting[0]
                self._played[one[0]] = self._played.get(one[0], 0.0) + 20
                one[1] -= 20
                if one[1] <= 0:
                    self._waiting.pop(0)
                self._send("playback_status", utterance_id=one[0], played_ms=self._played[one[0]])

    def peer_ends(self) -> None:
        self._send("end_session", reason="user_hangup")

    def peer_is_lost(self) -> None:
        self._socket.closed, self._socket.close_code = True, 1006
        self._losing = asyncio.create_task(self.leg.lose(self._line))

    def stall(self) -> None:
        self._socket.flowing.clear()

    def flow(self) -> None:
        self._socket.flowing.set()


@asynccontextmanager
async def twilio() -> AsyncIterator[Harness]:
    """Twilio."""
    one = TwilioHarness()
    yield one
    await one.leg.aclose(HangupReason.COMPLETED)


@asynccontextmanager
async def websocket(*, output: str = "audio/x-wav", reports: bool = False) -> AsyncIterator[Harness]:
    """The WebSocket API."""
    one = SocketHarness(output=output, reports=reports)
    yield one
    await one.leg.aclose(HangupReason.COMPLETED)
