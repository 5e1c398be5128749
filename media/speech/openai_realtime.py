"""Recognition over a realtime transcription socket: the caller's audio is sent while they speak.

    push -> Utterance -> _send -> append, append, commit ->
                                                            <- committed, completed <- _receive -> finalize

`push` never waits: the utterance is kept (30 s at most), and one task sends what is new of it. Because it is kept, a
socket that opens late or is lost in the middle costs nothing but time: the next one is sent the audio whose text is not
known yet. A server that takes no audio for as long as `stall_s` is treated as lost.
"""

import asyncio
import logging
import random
import socket
from typing import NoReturn

import aiohttp
from yarl import URL

from fastagent.media.frame import PCMU_8K, AudioFormat
from fastagent.media.speech.contracts import SttStream, Transcript
from fastagent.media.speech.openai_config import OpenAiSttConfig, SpeechFault, fault_of_status
from fastagent.media.speech.openai_realtime_protocol import Completed, Failed, Protocol, Utterance
from fastagent.media.speech.openai_stt import spoken

_log = logging.getLogger(__name__)

_STEP_S = 0.1  # a message has as much, unless a commit follows
_MESSAGE_S = 0.2  # and at most as much: resampling it takes well under a millisecond
_BACKOFF_S = (0.0, 0.5, 1.0, 2.0, 4.0, 8.0)
_CLOSE_S = 0.5
_PING_S = 15.0
_MAX_MESSAGE = 1 << 20
_SEND_BUFFER = 128 * 1024  # two seconds; the kernel would take megabytes, and hide for long that nobody reads them
_WARM_UP_S = 0.5


class _RealtimeStream:
    """One call: its utterance, and the task that keeps a socket open."""

    def __init__(self, stt: "OpenAiRealtimeStt", config: OpenAiSttConfig, audio: AudioFormat) -> None:
        self._stt, self._config, self._audio = stt, config, audio
        self._utterance = Utterance(audio)
        self._work = asyncio.Event()  # for the sender: audio, a commit, another utterance
        self._news = asyncio.Event()  # for `finalize`: a text, a fault
        self._fault: SpeechFault | None = None  # while there is no socket: why
        self._barred: SpeechFault | None = None  # no socket will do
        self._lost = 0  # sockets, ever
        self._row = 0  # sockets in a row that brought no text
        self._abandon = False
        self._step = int(_STEP_S * audio.rate_hz) * audio.sample_bytes
        self._message = int(_MESSAGE_S * audio.rate_hz) * audio.sample_bytes
        self._task = asyncio.get_running_loop().create_task(self._run(), name="realtime recognition")

    def push(self, payload: bytes) -> None:
        self._utterance.push(payload)
        self._work.set()

    async def finalize(self) -> Transcript:
        utterance, lost = self._utterance, self._lost
        utterance.fault = None
        utterance.commit()
        self._work.set()
        try:
            async with asyncio.timeout(self._config.timeout_s):
                while (text := utterance.text()) is None:
                    self._check(utterance, lost)
                    self._news.clear()
                    await self._news.wait()
        except TimeoutError:
            self._abandon = True  # it may be half open
            self._work.set()
            raise SpeechFault("silent", "recognition took too long") from None
        return Transcript(spoken(text))

    def restart(self) -> None:
        self._utterance = Utterance(self._audio)
        self._work.set()

    async def aclose(self) -> None:
        if self._barred is None or self._barred.kind != "closed":
            self._bar(SpeechFault("closed", "the stream is closed"))
        self._task.cancel()
        await asyncio.gather(self._task, return_exceptions=True)
        self._utterance = Utterance(self._audio)

    def _check(self, utterance: Utterance, lost: int) -> None:
        """Raise why the text will not come, if so. One lost socket is put up with, as one retry is elsewhere."""
        fault = self._barred or utterance.fault or self._fault
        if fault is None and self._lost - lost > (1 if utterance is self._utterance else 0):
            fault = SpeechFault("unavailable", "the realtime socket was lost again")
        if fault is not None:
            raise SpeechFault(fault.kind, str(fault))  # a new one: many may be told of the same

    def _bar(self, fault: SpeechFault) -> None:
        self._barred = fault
        self._news.set()

    # -- sockets -----------------------------------------------------------------------------------------------------

    async def _run(self) -> None:
        while self._barred is None:
            wait_s = _BACKOFF_S[min(self._row, len(_BACKOFF_S)) - 1] if self._row else 0.0
            await asyncio.sleep(wait_s * random.uniform(0.8, 1.2))
            connected, fault = await self._connection()
            self._lost += 1
            self._row += 1
            # The first loss of a socket that worked is nobody's concern: another one is opened at once.
            self._fault = None if connected and self._row == 1 else fault
            self._news.set()

    async def _connection(self) -> tuple[bool, SpeechFault]:
        """Open a socket and serve it to its end; return whether it opened, and why it ended."""
        try:
            async with asyncio.timeout(self._config.connect_s):
                ws = await self._stt.connect()
        except Exception as error:  # the client's own and its transport's
            fault = _connect_fault(error)
            if fault.kind in ("auth", "refused"):
                self._bar(fault)
            return False, fault
        self._fault, self._abandon = None, False
        fault = SpeechFault("unavailable", "the realtime socket was closed")
        protocol = Protocol(self._config, self._audio)
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(self._send(ws, protocol))
                group.create_task(self._receive(ws, protocol))
        except* SpeechFault as faults:
            fault = next(one for one in faults.exceptions if isinstance(one, SpeechFault))
        except* (aiohttp.ClientError, OSError):  # a `TimeoutError` among them: the socket took no audio
            pass
        except* Exception:
            _log.exception("realtime recognition failed")
        finally:
            await ws.close()
        return True, fault

    async def _send(self, ws: "aiohttp.ClientWebSocketResponse[bool]", protocol: Protocol) -> NoReturn:
        await self._put(ws, [protocol.hello()])
        current = self._utterance
        sent = done = current.start_over()
        while not self._abandon:
            target = current.next_commit(done)
            until = len(current.audio) if target is None else target
            if target is None and current is not self._utterance:
                if sent > done:
                    await self._put(ws, protocol.clear())
                current, sent, done = self._utterance, 0, 0
            elif sent < until and (target is not None or until - sent >= self._step):
                piece = bytes(current.audio[sent : min(until, sent + self._message)])
                piece = piece[: len(piece) // self._audio.sample_bytes * self._audio.sample_bytes]
                sent += len(piece)
                await self._put(ws, protocol.append(piece))
            elif target is not None:
                done = target
                await self._put(ws, protocol.commit(current, target))
            else:
                self._work.clear()
                await self._work.wait()
        raise SpeechFault("silent", "the realtime socket was given up")

    async def _put(self, ws: "aiohttp.ClientWebSocketResponse[bool]", messages: list[str]) -> None:
        async with asyncio.timeout(self._config.stall_s):
            for message in messages:
                await ws.send_str(message)

    async def _receive(self, ws: "aiohttp.ClientWebSocketResponse[bool]", protocol: Protocol) -> NoReturn:
        async for message in ws:
            if message.type is aiohttp.WSMsgType.TEXT:
                self._take(protocol.receive(message.data))
        fault = SpeechFault("unavailable", "the realtime socket was closed")
        if ws.close_code in (3000, 3003):  # unauthorized, forbidden; a wrong key is found out only on the open socket
            fault = SpeechFault("auth", "the endpoint refuses the key")
            self._bar(fault)
        elif ws.close_code == 4000:
            fault = SpeechFault("refused", "the endpoint refuses the session")
            self._bar(fault)
        raise fault

    def _take(self, event: Completed | Failed | None) -> None:
        match event:
            case Completed(utterance, end, text):
                utterance.answer(end, text)
                self._row = 0
                self._news.set()
            case Failed(fault, True):
                self._bar(fault)
                raise fault
            case Failed(fault) if fault.kind == "unavailable":
                raise fault
            case Failed(fault) if self._utterance.text() is None:
                # Errors do not say which piece they are about: fail the utterance, and begin afresh on another socket.
                self._utterance.fault = fault
                self._news.set()
                raise fault


class OpenAiRealtimeStt:
    """One endpoint; each call has a socket of its own."""

    def __init__(self, config: OpenAiSttConfig | None = None, *, name: str = "openai-realtime") -> None:
        self.name = name
        self._config = config or OpenAiSttConfig(realtime=True)
        self._session: aiohttp.ClientSession | None = None

    def open(self, audio: AudioFormat) -> SttStream:
        """Begin recognising one call; the socket opens in the background. Must be called on the event loop."""
        return _RealtimeStream(self, self._config, audio)

    async def connect(self) -> "aiohttp.ClientWebSocketResponse[bool]":
        """Open a socket.

        Raises:
            aiohttp.ClientError: it does not open.
        """
        config = self._config
        if self._session is None:
            self._session = aiohttp.ClientSession(middlewares=(_no_redirects,))
        headers = {"Authorization": f"Bearer {config.api_key or 'none'}"}
        if config.realtime_protocol == "beta":
            headers["OpenAI-Beta"] = "realtime=v1"
        ws = await self._session.ws_connect(
            realtime_url(config.base_url),
            headers=headers,
            timeout=aiohttp.ClientWSTimeout(ws_close=_CLOSE_S),
            heartbeat=_PING_S,
            max_msg_size=_MAX_MESSAGE,
        )
        ws.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _SEND_BUFFER)
        return ws

    async def warm_up(self) -> None:
        """Have half a second of silence recognised: this proves the key.

        Raises:
            SpeechError: the endpoint cannot be used.
        """
        stream = self.open(PCMU_8K)
        try:
            stream.push(PCMU_8K.silence(int(_WARM_UP_S * PCMU_8K.rate_hz)))
            await stream.finalize()
        finally:
            await stream.aclose()

    async def aclose(self) -> None:
        """Close what the streams share; close them first. May be called twice."""
        if self._session is not None:
            session, self._session = self._session, None
            await session.close()


def realtime_url(base_url: str) -> URL:
    """Return the address of the socket: that of the endpoint, its query kept, for transcription only."""
    base = URL(base_url)
    scheme = {"http": "ws", "https": "wss"}.get(base.scheme, base.scheme)
    return (base / "realtime").with_scheme(scheme).with_query({**base.query, "intent": "transcription"})


async def _no_redirects(request: aiohttp.ClientRequest, handler: aiohttp.ClientHandlerType) -> aiohttp.ClientResponse:
    """Neither voice nor key goes anywhere but to the endpoint that was configured."""
    response = await handler(request)
    if 300 <= response.status < 400:
        response.close()
        raise aiohttp.WSServerHandshakeError(response.request_info, (), status=response.status)
    return response


def _connect_fault(error: Exception) -> SpeechFault:
    if isinstance(error, aiohttp.WSServerHandshakeError) and error.status != 101:
        return fault_of_status(error.status)
    return SpeechFault("unavailable", f"the realtime socket does not open: {type(error).__name__}")
