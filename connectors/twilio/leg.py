"""A Twilio stream as a call leg: a bounded outbox with one writer, and the few events of a call."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable

from aiohttp import WSCloseCode, web

from fastagent.connectors.events import LegEvents
from fastagent.connectors.leg import (
    CallInfo,
    Capability,
    HangupReason,
    InboundSink,
    LegEnded,
    LegError,
    LegEvent,
    NoHold,
)
from fastagent.connectors.notices import Notice
from fastagent.connectors.outbox import Outbox
from fastagent.connectors.transports import abort
from fastagent.connectors.twilio.protocol import TwilioProtocol

_MAX_BACKLOG_S = 2.0
_CONFIRM_S = 5.0  # for the REST call and the `stop` that follows
_CLOSE_S = 1.0
_MAX_EARLY = 50  # messages
_MEDIA_TIMEOUT_S = 15.0
_CLOSE_CODES = {
    HangupReason.SHUTDOWN: WSCloseCode.GOING_AWAY,
    HangupReason.SLOW_PEER: WSCloseCode.POLICY_VIOLATION,
    HangupReason.INTERNAL_ERROR: WSCloseCode.INTERNAL_ERROR,
}


class TwilioLeg(NoHold):
    """One stream. Audio, marks and clears go out in order; what is too late for a slow reader is dropped first."""

    def __init__(
        self,
        socket: web.WebSocketResponse,
        protocol: TwilioProtocol,
        info: CallInfo,
        *,
        end_call: Callable[[], Awaitable[None]] | None,
        redirect: Callable[[str], Awaitable[None]] | None = None,
        transport: asyncio.Transport | None = None,
    ) -> None:
        self.info = info
        self.frames_dropped = 0
        self._socket, self._protocol = socket, protocol
        self._end_call, self._redirect = end_call, redirect
        self._transferring = False
        self.capabilities: frozenset[Capability] = frozenset({"transfer"} if redirect is not None else ())
        self._transport = transport
        self._early: list[tuple[bytes, int | None]] = []  # audio that came before anybody listened
        self._inbound: InboundSink | None = None
        self._events = LegEvents()
        self._loop = asyncio.get_running_loop()
        self._last_media = self._loop.time()
        self._outbox = Outbox(
            socket.send_str,
            max_audio=int(_MAX_BACKLOG_S * info.audio.rate_hz) * info.audio.sample_bytes,
            dropped=self._dropped,
            failed=lambda reason: self.happened(LegEnded(reason)),
        )
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
        if self._transferring and event == LegEnded(HangupReason.CALLER_HUNG_UP):
            event = LegEnded(HangupReason.TRANSFERRED)  # the `stop` that new TwiML brings
        if self._events.put(event):
            self._watch.cancel()

    def events(self) -> AsyncIterator[LegEvent]:
        """Yield what happens, up to and including `LegEnded`."""
        return aiter(self._events)

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

    def send_mark(self, name: str) -> None:
        """Queue a mark behind the audio so far."""
        self._queue(self._protocol.mark(name), 0)

    def quality(self) -> None:
        """TCP loses nothing that could be told of."""

    def flush(self) -> None:
        """Twilio need not know where an answer ends."""

    def notify(self, notice: Notice) -> None:
        """Twilio has no messages for it."""

    def clear(self) -> None:
        """Drop what is queued here, its marks with it, then at Twilio."""
        self._outbox.drop(lambda message: True)
        self._queue(self._protocol.clear(), 0)

    def _queue(self, message: str, audio_bytes: int) -> None:
        if not self._events.ended.is_set():
            self._outbox.put(message, audio_bytes)

    def _dropped(self, audio_bytes: int) -> None:
        self.frames_dropped += audio_bytes // self.info.audio.frame_bytes

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
                await self._events.ended.wait()
        except TimeoutError:
            self.happened(LegEnded(HangupReason.TRANSFERRED))

    async def send_dtmf(self, digits: str) -> None:
        """A media stream carries no keys towards the caller; tones among the audio would be heard as speech."""
        raise LegError("Twilio's media streams cannot send keys")

    async def hang_up(self, reason: HangupReason) -> None:
        """End the call: by REST where we have the credentials, else by closing the socket, after which `<Hangup/>`
        follows."""
        if not self._events.ended.is_set():
            await self._outbox.drained(1.0)
        try:
            if self._end_call is not None and not self._events.ended.is_set():
                async with asyncio.timeout(_CONFIRM_S):
                    await self._end_call()
                    await self._events.ended.wait()  # Twilio's `stop` confirms
        except (TimeoutError, ConnectionError):  # unconfirmed, or refused: closing the stream ends the call, too
            pass
        finally:
            self.happened(LegEnded(reason))
            await self.aclose(reason)

    async def aclose(self, reason: HangupReason) -> None:
        """Close the socket; may be called twice."""
        self._watch.cancel()
        await self._outbox.aclose()
        if self._socket.closed:
            return
        # A reader that does not read would keep the closing frame from ever leaving.
        # For one that is gone by then this does nothing.
        self._loop.call_later(_CLOSE_S, abort, self._transport)
        await self._socket.close(code=_CLOSE_CODES.get(reason, WSCloseCode.OK), drain=False)
