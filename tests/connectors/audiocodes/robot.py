"""The smallest gateway around the streaming shell, in virtual time: every timer runs, only sockets are missing.

Its session greets for 200 ms, answers key n with n times 200 ms, falls silent for a loud caller, recognises "hello"
when the caller is quiet again, transfers for `*` and ends for `#`. It says one byte over and over: the key, 6 for the
greeting.
"""

import asyncio
import json
from collections.abc import Awaitable, Callable
from typing import Any, cast

import numpy as np
from aiohttp import WSMessage, WSMsgType, web

from fastagent.connectors import notices
from fastagent.connectors.audiocodes.activities import ActivityWriter
from fastagent.connectors.audiocodes.config import AudiocodesConfig
from fastagent.connectors.audiocodes.streams import StreamShell
from fastagent.connectors.host import Recalled
from fastagent.connectors.leg import (
    CallLeg,
    ConnectionBack,
    ConnectionLost,
    DtmfReceived,
    HangupReason,
    LegEnded,
    LegError,
    MarkReached,
    TextReceived,
)
from fastagent.connectors.line import Line
from fastagent.media.frame import FRAME_MS
from fastagent.media.playout import Playout, RenderedSpeech, SendAudio

Json = dict[str, Any]


class RobotSocket:
    """A socket in memory."""

    def __init__(self, sent: Callable[[Json], None]) -> None:
        self._sent = sent
        self._inbox: asyncio.Queue[WSMessage] = asyncio.Queue()
        self.closed = False
        self.close_code: int | None = None

    def bring(self, message: str | bytes) -> None:
        kind = WSMsgType.TEXT if isinstance(message, str) else WSMsgType.BINARY
        self._inbox.put_nowait(WSMessage(kind, message, None))

    def drop(self) -> None:
        """The connection is lost, or closed by the peer."""
        if not self.closed:
            self.closed = True
            self._inbox.put_nowait(WSMessage(WSMsgType.CLOSED, None, None))

    async def receive(self) -> WSMessage:
        return await self._inbox.get()

    async def send_str(self, text: str) -> None:
        if self.closed:
            raise ConnectionResetError
        self._sent(json.loads(text))

    async def close(self, *, code: int = 1000, message: bytes = b"", drain: bool = True) -> None:
        if not self.closed:
            self.closed = True
            self._sent({"close": int(code)})


class Robot:
    """The host, and its sessions."""

    default_agent = "robot"

    def __init__(self, config: AudiocodesConfig | None = None, *, greets: bool = True, places: int = 10) -> None:
        self._ids = 0
        writer = ActivityWriter(self._next_id, lambda: 1700000000.0)
        self.shell = StreamShell(config or AudiocodesConfig(), self, writer)
        self.out: list[Json] = []
        self.errors: dict[str, int] = {}
        self.ended: list[HangupReason] = []
        self.heard: list[Any] = []
        self.sessions: list[CallLeg] = []
        self.stored: dict[str, Recalled] = {}
        self._greets, self.places = greets, places
        self._tasks: list[asyncio.Task[None]] = []
        self.socket = self.dial()

    def _next_id(self) -> str:
        self._ids += 1
        return f"id-{self._ids}"

    def dial(self) -> RobotSocket:
        """VoiceAI Connect opens a socket."""
        self.socket = RobotSocket(self.out.append)
        line = Line(cast(web.WebSocketResponse, self.socket), None)
        self._tasks.append(asyncio.create_task(self.shell.follow(line)))
        return self.socket

    async def aclose(self) -> None:
        await self.shell.aclose()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    # -- the host --------------------------------------------------------------------------------------------------

    def has_agent(self, agent_id: str) -> bool:
        return True

    def is_live(self, session_id: str) -> bool:
        return False

    def accepts_calls(self) -> bool:
        return True

    def authorize(self, request: web.BaseRequest, surface: str) -> str | None:
        return "local"

    async def recall(self, session_id: str) -> Recalled | None:
        return self.stored.get(session_id)

    def reserve(self, connector: str) -> Callable[[], None] | None:
        if not self.places:
            return None
        self.places -= 1

        def release() -> None:
            self.places += 1

        return release

    def resumed(self, origin: str) -> None:
        self.errors[f"resumed_{origin}"] = self.errors.get(f"resumed_{origin}", 0) + 1

    def auth_failed(self, surface: str) -> None:
        pass

    def protocol_error(self, surface: str, kind: str, count: int = 1) -> None:
        self.errors[kind] = self.errors.get(kind, 0) + count

    def converse(self, leg: CallLeg, agent_id: str, *, recalled: Recalled | None = None) -> Awaitable[None]:
        self.sessions.append(leg)
        return _RobotSession(leg, self).run(greets=self._greets and recalled is None)


class _RobotSession:
    def __init__(self, leg: CallLeg, robot: Robot) -> None:
        self._leg, self._robot = leg, robot
        self._audio = leg.info.output
        self._playout = Playout(self._audio)
        self._flushed, self._ending, self._transfer, self._speaking = True, False, False, False

    async def run(self, *, greets: bool) -> None:
        self._leg.attach(self)
        if greets:
            self._say(6, 200)
        ticking = asyncio.create_task(self._tick())
        async for event in self._leg.events():
            self._robot.heard.append(event)
            match event:
                case MarkReached(name):
                    self._playout.mark_reached(name, self._now())
                case DtmfReceived(digit):
                    self._interrupt()
                    self._ending, self._transfer = digit == "#", digit == "*"
                    self._say(int({"*": "1", "#": "1"}.get(digit, digit)), 200)
                case TextReceived(text):
                    self._leg.notify(notices.Transcribed("agent", f"You said {text}.", False))
                case ConnectionLost():
                    if self._playout.speaking:
                        self._playout.pause(self._now())
                        self._leg.clear()
                case ConnectionBack():
                    self._playout.resume(self._now())
                case LegEnded(reason):
                    self._robot.ended.append(reason)
        ticking.cancel()
        await asyncio.gather(ticking, return_exceptions=True)

    @staticmethod
    def _now() -> float:
        return asyncio.get_running_loop().time()

    def push(self, payload: bytes, timestamp_ms: int | None, now: float) -> bool:
        loud = bool(np.abs(self._audio.decode(payload).astype(int)).max(initial=0) > 3000)
        if loud and not self._speaking:
            self._leg.notify(notices.CallerSpeech(True))
            self._interrupt()
        elif self._speaking and not loud:
            self._leg.notify(notices.Transcribed("user", "hel", False))
            self._leg.notify(notices.CallerSpeech(False))
            self._leg.notify(notices.Transcribed("user", "hello", True, confidence=0.5))
        self._speaking = loud
        return True

    def quiet(self, seconds: float, now: float) -> None:
        self._robot.heard.append(("quiet", seconds))

    def _say(self, value: int, ms: int) -> None:
        self._playout.begin()
        levels = np.full(value * ms // FRAME_MS if value != 6 else ms // FRAME_MS, -20.0, np.float32)
        count = len(levels) * self._audio.frame_bytes
        self._playout.write(RenderedSpeech("word", bytes((value,)) * count, levels))
        self._playout.flush()
        self._flushed = False

    def _interrupt(self) -> None:
        if self._playout.speaking:
            self._playout.pause(self._now())
            self._leg.clear()
            self._flushed = True

    async def _tick(self) -> None:
        while True:
            for action in self._playout.tick(self._now()):
                if isinstance(action, SendAudio):
                    self._leg.send_audio(action.payload)
                else:
                    self._leg.send_mark(action.name)
            if not self._flushed and self._playout.all_sent:
                self._flushed = True
                self._leg.flush()
            if self._playout.finished and self._ending:
                self._ending = False
                await self._leg.hang_up(HangupReason.COMPLETED)
            if self._playout.finished and self._transfer:
                self._transfer = False
                try:
                    await self._leg.transfer("+15550100199")
                except LegError as error:
                    self._robot.heard.append(str(error))
            await asyncio.sleep(FRAME_MS / 1000)
