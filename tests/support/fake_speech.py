"""An OpenAI-compatible speech server on loopback: transcriptions, speech and realtime transcription in the true wire
format, with faults as they are scripted."""

import asyncio
import base64
import json
import socket
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

from aiohttp import WSMsgType, web


@dataclass
class Answer:
    """What one request gets."""

    text: str = "hello there"
    """Of a transcription."""
    audio: bytes = b""
    """Of a synthesis."""
    status: int = 200
    headers: dict[str, str] = field(default_factory=dict)
    body: str | None = None
    """Sent in place of the answer."""
    cuts: Sequence[int] = ()
    """Where the audio is cut into writes."""
    hang: bool = False
    """Never answer."""
    stall_after: int | None = None
    """Stop after so many bytes of audio, with the connection open."""
    reset_after: int | None = None
    """Break the connection after so many bytes; of a transcription, before the answer."""
    pause_s: float = 0.0
    """Between two writes."""


@dataclass
class Socket:
    """What one realtime connection gets."""

    texts: Sequence[str] = ("hello there",)
    """Of the commits, in order; the last one repeats."""
    status: int = 101
    """Refuse the handshake with another one."""
    location: str = ""
    open_s: float = 0.0
    """How long the handshake takes."""
    refuse_session: dict[str, Any] | None = None
    """The error that answers the session's configuration."""
    error: dict[str, Any] | None = None
    """The error event that answers a commit."""
    failed: dict[str, Any] | None = None
    """The error in the event that the transcription failed."""
    raw: str | None = None
    """Sent in place of a transcription."""
    silent: bool = False
    """Never transcribe."""
    unconfirmed: bool = False
    """Do not name committed items."""
    deaf: bool = False
    """Read nothing after the session's configuration."""
    close_after_s: float | None = None
    """Close when so much audio of the connection has come."""
    close_on_commit: int | None = None
    """Close with this code in place of a transcription."""


@dataclass
class Connection:
    """What came over one realtime connection."""

    query: dict[str, str]
    headers: dict[str, str]
    events: list[dict[str, Any]] = field(default_factory=list)
    pieces: list[bytes] = field(default_factory=list)
    """The PCM of each commit."""
    buffer: bytearray = field(default_factory=bytearray)
    closed: asyncio.Event = field(default_factory=asyncio.Event)

    def kinds(self) -> list[str]:
        """The types of what came, repetitions left out."""
        kinds: list[str] = []
        for event in self.events:
            if not kinds or kinds[-1] != event["type"]:
                kinds.append(event["type"])
        return kinds


@dataclass
class Upload:
    """One transcription request."""

    fields: dict[str, str]
    wav: bytes
    content_type: str


class FakeSpeech:
    """The server; what is asked is kept, answers and sockets are taken in order and the last one repeats."""

    def __init__(self) -> None:
        self.answers = [Answer()]
        self.sockets = [Socket()]
        self.uploads: list[Upload] = []
        self.requests: list[dict[str, Any]] = []
        self.connections: list[Connection] = []
        self.keys: list[str] = []
        self.base_url = ""
        self.asked = asyncio.Event()
        """A request or connection came."""
        self.gone = asyncio.Event()
        """The client broke a request off."""

    # -- transcriptions and speech -----------------------------------------------------------------------------------

    async def transcribe(self, request: web.Request) -> web.StreamResponse:
        upload = Upload({}, b"", "")
        async for part in await request.multipart():
            assert not isinstance(part, web.Request)
            if getattr(part, "filename", None):
                upload.wav, upload.content_type = bytes(await part.read()), part.headers["Content-Type"]  # type: ignore[union-attr]
            else:
                upload.fields[str(part.name)] = await part.text()  # type: ignore[union-attr]
        self.uploads.append(upload)
        answer = self._next(request)
        if (refused := await self._fault(request, answer)) is not None:
            return refused
        if upload.fields["response_format"] == "text":
            return web.Response(text=answer.text, headers=answer.headers)
        return web.json_response({"text": answer.text, "usage": {"type": "duration", "seconds": 1}})

    async def speak(self, request: web.Request) -> web.StreamResponse:
        self.requests.append(await request.json())
        answer = self._next(request)
        if (refused := await self._fault(request, answer)) is not None:
            return refused
        response = web.StreamResponse(headers={"Content-Type": "audio/pcm", **answer.headers})
        await response.prepare(request)
        try:
            await self._write(request, response, answer)
        except (ConnectionError, asyncio.CancelledError):
            self.gone.set()
            raise
        return response

    async def _write(self, request: web.Request, response: web.StreamResponse, answer: Answer) -> None:
        end = next((at for at in (answer.stall_after, answer.reset_after) if at is not None), len(answer.audio))
        edges = [0, *answer.cuts, end]
        for first, last in pairwise(edges):
            await response.write(answer.audio[first:last])
            await asyncio.sleep(answer.pause_s or 0.005)  # or the network joins them again
        if answer.reset_after is not None:
            _abort(request)
        elif answer.stall_after is not None:
            await self._hang()

    def _next(self, request: web.Request) -> Answer:
        self.keys.append(request.headers.get("Authorization", ""))
        self.asked.set()
        return self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]

    async def _fault(self, request: web.Request, answer: Answer) -> web.StreamResponse | None:
        if answer.hang:
            await self._hang()
        if answer.status != 200 or answer.body is not None:
            return web.Response(status=answer.status, headers=answer.headers, text=answer.body or "{}")
        if answer.reset_after == 0:
            _abort(request)
            return web.Response()
        return None

    async def _hang(self) -> None:
        """Wait for the client to give up, and note that it did."""
        try:
            await asyncio.sleep(30)
        except asyncio.CancelledError:
            self.gone.set()
            raise

    # -- realtime ----------------------------------------------------------------------------------------------------

    async def realtime(self, request: web.Request) -> web.StreamResponse:
        script = self.sockets.pop(0) if len(self.sockets) > 1 else self.sockets[0]
        connection = Connection(dict(request.query), dict(request.headers))
        self.connections.append(connection)
        self.asked.set()
        await asyncio.sleep(script.open_s)
        if script.status != 101:
            return web.Response(status=script.status, headers={"Location": script.location}, text="secret details")
        ws = web.WebSocketResponse()
        await ws.prepare(request)
        try:
            await self._serve(ws, script, connection)
        except ConnectionError:
            pass
        finally:
            connection.closed.set()
        return ws

    async def _serve(self, ws: web.WebSocketResponse, script: Socket, connection: Connection) -> None:
        await _tell(ws, "session.created", session={"type": "transcription"})
        async for message in ws:
            assert message.type is WSMsgType.TEXT
            event = json.loads(message.data)
            connection.events.append(event)
            match event["type"]:
                case "session.update" | "transcription_session.update":
                    if script.refuse_session is not None:
                        await _tell(ws, "error", error={"event_id": event["event_id"], **script.refuse_session})
                    else:
                        await _tell(ws, event["type"] + "d", session=event["session"])
                    if script.deaf:
                        await asyncio.sleep(30)
                case "input_audio_buffer.append":
                    connection.buffer += base64.b64decode(event["audio"], validate=True)
                    if script.close_after_s is not None and len(connection.buffer) >= script.close_after_s * 48000:
                        await ws.close(code=1011)
                case "input_audio_buffer.clear":
                    connection.buffer.clear()
                    await _tell(ws, "input_audio_buffer.cleared")
                case "input_audio_buffer.commit":
                    await self._commit(ws, script, connection)

    async def _commit(self, ws: web.WebSocketResponse, script: Socket, connection: Connection) -> None:
        if len(connection.buffer) < 4800:
            error = {"type": "invalid_request_error", "code": "input_audio_buffer_commit_empty", "message": "too small"}
            await _tell(ws, "error", error=error)
            return
        at = len(connection.pieces)
        connection.pieces.append(bytes(connection.buffer))
        connection.buffer.clear()
        if script.error is not None:
            await _tell(ws, "error", error=script.error)
            return
        if script.close_on_commit is not None:
            await ws.close(code=script.close_on_commit)
            return
        item = f"item_{at}"
        if not script.unconfirmed:
            await _tell(ws, "input_audio_buffer.committed", item_id=item, previous_item_id=None)
        if script.silent:
            return
        if script.raw is not None:
            await ws.send_str(script.raw)
            return
        kind = "conversation.item.input_audio_transcription"
        if script.failed is not None:
            await _tell(ws, f"{kind}.failed", item_id=item, content_index=0, error=script.failed)
            return
        text = script.texts[min(at, len(script.texts) - 1)]
        for word in text.split():
            await _tell(ws, f"{kind}.delta", item_id=item, content_index=0, delta=word + " ")
        await _tell(ws, f"{kind}.completed", item_id=item, content_index=0, transcript=text)


async def _tell(ws: web.WebSocketResponse, kind: str, **fields: Any) -> None:
    await ws.send_json({"event_id": "event_1", "type": kind, **fields})


def _abort(request: web.Request) -> None:
    assert request.transport is not None
    request.transport.abort()


@asynccontextmanager
async def fake_speech(*script: Answer | Socket) -> AsyncIterator[FakeSpeech]:
    """Serve answers and sockets."""
    server = FakeSpeech()
    server.answers = [one for one in script if isinstance(one, Answer)] or server.answers
    server.sockets = [one for one in script if isinstance(one, Socket)] or server.sockets
    app = web.Application(client_max_size=8 << 20)
    app.router.add_post("/v1/audio/transcriptions", server.transcribe)
    app.router.add_post("/v1/audio/speech", server.speak)
    app.router.add_get("/v1/realtime", server.realtime)
    # Handlers are cancelled when their client goes.
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1, handler_cancellation=True)
    await runner.setup()
    listener = socket.create_server(("127.0.0.1", 0))
    if any(one.deaf for one in server.sockets):  # or the kernel listens in its place, to megabytes
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 8192)
    await web.SockSite(runner, listener).start()
    server.base_url = f"http://127.0.0.1:{runner.addresses[0][1]}/v1"
    try:
        yield server
    finally:
        await runner.cleanup()
