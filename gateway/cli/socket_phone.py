"""A phone on a carrier's web socket: the shell around an emulator of that carrier."""

import asyncio
import time
from collections.abc import Callable

import aiohttp

from fastagent.gateway.cli.phone import PERIOD_S, BasePhone
from fastagent.media.rtp.network import Impairments, Network


class SocketPhone(BasePhone):
    """One call; the caller's audio may come through a bad network to the carrier, whose socket loses nothing."""

    def __init__(self, call_sid: str, on_event: Callable[[str, str], None], impairments: Impairments) -> None:
        super().__init__(call_sid, on_event)
        self._network: Network[str] = Network(impairments)
        self._tasks: list[asyncio.Task[None]] = []
        self._socket: aiohttp.ClientWebSocketResponse

    # -- the carrier -----------------------------------------------------------------------------------------------

    async def _connect_all(self) -> None:
        """Open the socket, and say what comes first; raises `CallRefused`."""
        raise NotImplementedError

    def _receive_message(self, text: str) -> tuple[str, list[str]]:
        """Take a message; return `media`, `clear` or something else, and what answers it."""
        raise NotImplementedError

    def _media(self, frame: bytes) -> str | None:
        """Return the caller's next 20 ms as a message; None where they are not heard."""
        raise NotImplementedError

    def _play_frame(self) -> tuple[bytes, list[str]]:
        """Play 20 ms: return what is heard, and the messages that this brings."""
        raise NotImplementedError

    def _keys(self, digits: str) -> str:
        """Return keys as a message."""
        raise NotImplementedError

    def _goodbye(self) -> str:
        """Return what the carrier says when the caller hangs up."""
        raise NotImplementedError

    async def _redial(self) -> bool:
        """The socket is closed: return whether the call goes on, on another one."""
        return False

    # -- the socket ------------------------------------------------------------------------------------------------

    async def _dial(self) -> None:
        self._http = aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=None, connect=5, sock_connect=5))
        try:
            await self._connect_all()
        except BaseException:
            await self._http.close()
            raise
        self.timings.started = time.perf_counter()
        self._tasks = [asyncio.create_task(self._receive()), asyncio.create_task(self._clock())]

    async def _leave(self) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        if not self._socket.closed:
            await self._socket.close()
        await self._http.close()

    async def _receive(self) -> None:
        await self._read()
        while await self._redial():
            await self._read()
        self.ended_by = self.ended_by or "agent"
        self.closed.set()

    async def _send(self, text: str) -> None:
        await self._socket.send_str(text)

    async def _read(self) -> None:
        async for message in self._socket:
            if message.type is not aiohttp.WSMsgType.TEXT:
                continue
            event, answers = self._receive_message(message.data)
            now = time.perf_counter()
            if event == "clear":
                self._cleared(now)
                self._dry_since = None
                self._on_event("clear", "")
            elif event == "media" and self._dry_since is not None:
                if now - self._dry_since < 1.0:
                    self.timings.holes.append(now - self._dry_since)
                self._dry_since = None
            for answer in answers:
                await self._send(answer)

    async def _clock(self) -> None:
        """Send and play 20 ms each 20 ms."""
        due = time.perf_counter()
        try:
            while not self.closed.is_set():
                now = time.perf_counter()
                self.timings.max_late = max(self.timings.max_late, now - due)
                await self._send_frame(now)
                heard, messages = self._play_frame()
                self._played(heard)
                for message in messages:
                    await self._send(message)
                due += PERIOD_S
                await asyncio.sleep(max(0.0, due - time.perf_counter()))
        except (ConnectionError, RuntimeError):  # closing under us
            pass

    async def _send_frame(self, now: float) -> None:
        one = self._next()
        message = self._media(one.frame)
        if message is not None:
            self._network.push(message, now)
        for arrived in self._network.due(now):
            await self._send(arrived)
        self._sent(one)

    async def _press(self, digit: str) -> None:
        await self._send(self._keys(digit))

    async def _say_goodbye(self) -> None:
        await self._send(self._goodbye())
        await self._socket.close()
