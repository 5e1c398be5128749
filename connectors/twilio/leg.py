"""A Twilio stream as a call leg: a bounded outbox with one writer, and the few events of a call."""

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable

from aiohttp import WSCloseCode, web

from fastagent.connectors.leg import CallInfo, Capability, HangupReason, InboundSink, LegEnded, LegError, LegEvent
from fastagent.connectors.notices import Notice
from fastagent.connectors.twilio.protocol import TwilioProtocol

_MAX_BACKLOG_S = 2.0
_MAX_EVENTS = 512
_WRITE_TIMEOUT_S = 5.0
_CONFIRM_S = 5.0  # for the REST call and the `stop` that follows
_CLOSE_S = 1.0
_MAX_EARLY = 50  # messages
_MEDIA_TIMEOUT_S = 15.0
_CLOSE_CODES = {
    HangupReason.SHUTDOWN: WSCloseCode.GOING_AWAY,
    HangupReason.SLOW_PEER: WSCloseCode.POLICY_VIOLATION,
    HangupReason.INTERNAL_ERROR: WSCloseCode.INTERNAL_ERROR,
}


class TwilioLeg:
    """One stream. Audio, marks and clears go out in order; what is too late for a slow reader is dropped first."""

    def __init__(
        self,
        socket: web.WebSocketResponse,
        protocol: TwilioProtocol,
        info: CallInfo,
        *,
        end_call: Callable[[], Awaitable[None]] | None,
        redirect: Callable[[str], Awaitable[None]] | None = None,
        transport: asyncio.BaseTransport | None = None,
    ) -> None:
        self.info = info
        self.frames_dropped = 0
        self._socket, self._protocol = socket, protocol
        self._end_call, self._redirect = end_call, redirect
        self._transferring = False
        self.capabilities: frozenset[Capability] = frozenset({"transfer"} if redirect is not None else ())
        self._transport = transport if isinstance(transport, asyncio.WriteTransport) else None
        self._early: list[tuple[bytes, int | None]] = []  # audio that came before anybody listened
        self._inbound: InboundSink | None = None
        self._outbox: deque[tuple[str, int]] = deque()  # message, bytes of audio in it
        self._backlog = 0
        self._wake = asyncio.Event()
        self._sent = asyncio.Event()
        self._events: asyncio.Queue[LegEvent] = asyncio.Queue(_MAX_EVENTS)
        self._ended = asyncio.Event()
        self._loop = asyncio.get_running_loop()
        self._last_media = self._loop.time()
        self._writer = asyncio.create_task(self._write(), name="twilio-writer")
        self._watch = self._loop.call_later(_MEDIA_TIMEOUT_S, self._check_media)

    # -- in --------------------------------------------------------------------------------------------------------

    def attach(self, inbound: InboundSink) -> None:
        """Push the caller's audio there, from the first."""
        self._inbound = inbound
        for payload, timestamp_ms in self._early:
            inbound.push(payload, timestamp_ms, self._loop.time())
        self._early.clear()

    def audio_received(self, payload: bytes, timestamp_ms: int | None) -> None:
        """The socket brought caller audio."""
        self._last_media = now = self._loop.time()
        if self._inbound is not None:
            self._inbound.push(payload, timestamp_ms, now)
        elif len(self._early) < _MAX_EARLY:
            self._early.append((payload, timestamp_ms))

    def happened(self, event: LegEvent) -> None:
        """The socket, or a callback, brought an event; after the end there are no more."""
        if self._ended.is_set():
            return
        if self._events.qsize() >= _MAX_EVENTS - 1:
            event = LegEnded(HangupReason.PROTOCOL_ERROR)
        if self._transferring and event == LegEnded(HangupReason.CALLER_HUNG_UP):
            event = LegEnded(HangupReason.TRANSFERRED)  # the `stop` that new TwiML brings
        if isinstance(event, LegEnded):
            self._ended.set()
            self._watch.cancel()
        self._events.put_nowait(event)

    async def events(self) -> AsyncIterator[LegEvent]:
        """Yield what happens, up to and including `LegEnded`."""
        while True:
            event = await self._events.get()
            yield event
            if isinstance(event, LegEnded):
                return

    def _check_media(self) -> None:
        """Twilio sends audio always, silence too: without any the connection is dead."""
        quiet = self._loop.time() - self._last_media
        if quiet >= _MEDIA_TIMEOUT_S:
            self.happened(LegEnded(HangupReason.MEDIA_TIMEOUT))
        else:
            self._watch = self._loop.call_later(_MEDIA_TIMEOUT_S - quiet + 0.1, self._check_media)

    # -- out -------------------------------------------------------------------------------------------------------

    def send_audio(self, payload: bytes) -> None:
        """Queue wire audio; beyond two seconds of backlog the oldest is dropped."""
        self._queue(self._protocol.audio(payload), len(payload))
        limit = int(_MAX_BACKLOG_S * self.info.audio.rate_hz) * self.info.audio.sample_bytes
        while self._backlog > limit:
            self._drop_oldest_audio()

    def send_mark(self, name: str) -> None:
        """Queue a mark behind the audio so far."""
        self._queue(self._protocol.mark(name), 0)

    def flush(self) -> None:
        """Twilio need not know where an answer ends."""

    def notify(self, notice: Notice) -> None:
        """Twilio has no messages for it."""

    def clear(self) -> None:
        """Drop what is queued here, its marks with it, then at Twilio."""
        self._outbox.clear()
        self._backlog = 0
        self._queue(self._protocol.clear(), 0)

    def _queue(self, message: str, size: int) -> None:
        if self._ended.is_set():
            return
        self._outbox.append((message, size))
        self._backlog += size
        self._wake.set()

    def _drop_oldest_audio(self) -> None:
        at = next(at for at, (_, size) in enumerate(self._outbox) if size)
        size = self._outbox[at][1]
        del self._outbox[at]
        self._backlog -= size
        self.frames_dropped += size // self.info.audio.frame_bytes

    async def _write(self) -> None:
        try:
            while True:
                await self._wake.wait()
                async with asyncio.timeout(_WRITE_TIMEOUT_S):
                    while self._outbox:
                        message, size = self._outbox.popleft()
                        self._backlog -= size
                        await self._socket.send_str(message)
                self._wake.clear()
                self._sent.set()
                self._sent.clear()
        except TimeoutError:
            self.happened(LegEnded(HangupReason.SLOW_PEER))
        except (ConnectionError, RuntimeError):  # the socket is closing under us
            self.happened(LegEnded(HangupReason.CONNECTION_LOST))

    # -- the end ---------------------------------------------------------------------------------------------------

    async def transfer(self, destination: str) -> None:
        """Give the call other TwiML, which dials; the stream ends with it."""
        if self._redirect is None:
            raise LegError("a transfer needs TWILIO_ACCOUNT_SID and TWILIO_AUTH_TOKEN")
        self._transferring = True
        try:
            async with asyncio.timeout(_CONFIRM_S):
                await self._redirect(destination)
        except (TimeoutError, ConnectionError) as error:
            self._transferring = False  # else a hang-up of the caller would count as the transfer
            raise LegError(f"Twilio did not take the transfer: {error or 'no answer'}") from error
        self._end_call = None  # the call is not ours any more
        try:
            async with asyncio.timeout(_CONFIRM_S):
                await self._ended.wait()
        except TimeoutError:
            self.happened(LegEnded(HangupReason.TRANSFERRED))

    async def send_dtmf(self, digits: str) -> None:
        """A media stream carries no keys towards the caller; tones among the audio would be heard as speech."""
        raise LegError("Twilio's media streams cannot send keys")

    async def hang_up(self, reason: HangupReason) -> None:
        """End the call: by REST where we have the credentials, else by closing the socket, after which `<Hangup/>`
        follows."""
        if self._outbox and not self._ended.is_set():
            try:
                async with asyncio.timeout(1.0):
                    await self._sent.wait()
            except TimeoutError:
                pass
        try:
            if self._end_call is not None and not self._ended.is_set():
                async with asyncio.timeout(_CONFIRM_S):
                    await self._end_call()
                    await self._ended.wait()  # Twilio's `stop` confirms
        except (TimeoutError, ConnectionError):  # unconfirmed, or refused: closing the stream ends the call, too
            pass
        finally:
            self.happened(LegEnded(reason))
            await self.aclose(reason)

    async def aclose(self, reason: HangupReason) -> None:
        """Close the socket; may be called twice."""
        self._watch.cancel()
        self._writer.cancel()
        await asyncio.gather(self._writer, return_exceptions=True)
        if self._socket.closed:
            return
        # A reader that does not read would keep the closing frame from ever leaving.
        last = self._loop.call_later(_CLOSE_S, self._transport.abort) if self._transport is not None else None
        try:
            await self._socket.close(code=_CLOSE_CODES.get(reason, WSCloseCode.OK), drain=False)
        finally:
            if last is not None:
                last.cancel()
