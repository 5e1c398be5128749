"""A phone that calls the gateway over AudioCodes' wire: the Bot API's streaming mode, as VoiceAI Connect speaks it.

The caller hears ringing until the gateway plays something. A connection that is lost is dialled again, and resumed.
"""

import asyncio
from collections.abc import Callable
from typing import Any

import aiohttp
import numpy as np

from fastagent.connectors.audiocodes.emulator import VoiceAiEmulator
from fastagent.gateway.cli.phone import FRAME, CallRefused
from fastagent.gateway.cli.socket_phone import SocketPhone
from fastagent.media.frame import PCMU_8K
from fastagent.media.resample import StreamResampler
from fastagent.media.rtp.network import NONE, Impairments

_ACCEPT_S = 10.0
_REDIAL_S = 0.5


class AudiocodesPhone(SocketPhone):
    """A call over AudioCodes.

    Args:
        webhook: the gateway's URL, as it is configured at VoiceAI Connect.
        token: the bearer token.
        barge_in: VoiceAI Connect's own setting, until the gateway changes it.
        cut_after: lose the connection so many seconds into the call, and resume.
    """

    def __init__(
        self,
        webhook: str,
        *,
        from_: str = "+15550100001",
        to: str = "+15550100002",
        token: str | None = None,
        barge_in: bool = False,
        cut_after: float | None = None,
        impairments: Impairments = NONE,
        on_event: Callable[[str, str], None] = lambda name, detail: None,
        **emulator: Any,
    ) -> None:
        self.emulator = VoiceAiEmulator(caller=from_, callee=to, barge_in=barge_in, **emulator)
        super().__init__(self.emulator.conversation_id, on_event, impairments)
        self.resumed = 0
        self._url = webhook.replace("wss://", "https://", 1).replace("ws://", "http://", 1)
        self._headers = {"Authorization": f"Bearer {token}"} if token else {}
        self._cut_after = cut_after
        self._up: StreamResampler | None = None
        self._down: StreamResampler | None = None
        self._heard = bytearray()

    # -- the call --------------------------------------------------------------------------------------------------

    async def _connect_all(self) -> None:
        await self._connect(self.emulator.opening())
        if self._cut_after is not None:
            asyncio.get_running_loop().call_later(self._cut_after, self.cut)

    async def _connect(self, first: str) -> None:
        """Open a socket, and wait until the conversation is accepted on it."""
        try:
            self._socket = await self._http.ws_connect(self._url, headers=self._headers, max_msg_size=1 << 22)
        except aiohttp.WSServerHandshakeError as error:
            raise CallRefused(f"the handshake was answered {error.status}") from error
        await self._socket.send_str(first)
        try:
            message = await self._socket.receive(timeout=_ACCEPT_S)
        except TimeoutError:
            raise CallRefused("the conversation was not accepted in time") from None
        if message.type is not aiohttp.WSMsgType.TEXT:
            raise CallRefused("the socket was closed")
        _, answers = self.emulator.receive(message.data)
        if self.emulator.refused is not None:
            raise CallRefused(self.emulator.refused)
        for answer in answers:
            await self._socket.send_str(answer)

    def cut(self) -> None:
        """Lose the connection, without a word."""
        connection = self._socket._conn
        if connection is not None and connection.transport is not None:
            connection.transport.abort()

    async def _redial(self) -> bool:
        """What is closed without an end is not over: dial again, and resume."""
        if self.emulator.ended or self.ended_by == "caller":
            return False
        await asyncio.sleep(_REDIAL_S)
        try:
            await self._connect(self.emulator.resume())
        except (CallRefused, OSError) as error:
            self.emulator.violations.append(f"the conversation could not be resumed: {error}")
            return False
        self.resumed += 1
        return True

    async def _send(self, text: str) -> None:
        try:
            await super()._send(text)
        except (ConnectionError, RuntimeError):  # lost: what was said into it is lost, too
            pass

    # -- the wire --------------------------------------------------------------------------------------------------

    def _receive_message(self, text: str) -> tuple[str, list[str]]:
        type_, answers = self.emulator.receive(text)
        return ("media" if type_ == "playStream.chunk" else type_), answers

    def _media(self, frame: bytes) -> str | None:
        form = self.emulator.form
        if form is None or not self.emulator.hears_caller or self._socket.closed:
            return None
        samples = PCMU_8K.decode(frame)
        if form.audio.rate_hz != PCMU_8K.rate_hz:
            self._up = self._up or StreamResampler(PCMU_8K.rate_hz, form.audio.rate_hz)
            samples = self._up.push(samples)
        return self.emulator.media(form.audio.encode(samples)) if len(samples) else None

    def _play_frame(self) -> tuple[bytes, list[str]]:
        heard, messages = self.emulator.play()
        form = self.emulator.form
        if form is not None:
            samples = form.audio.decode(heard)
            if form.audio.rate_hz != PCMU_8K.rate_hz:
                self._down = self._down or StreamResampler(form.audio.rate_hz, PCMU_8K.rate_hz)
                samples = self._down.push(samples)
            self._heard += PCMU_8K.encode(np.asarray(samples, np.int16))
        frame = bytes(self._heard[:FRAME])
        del self._heard[:FRAME]
        return frame + PCMU_8K.silence(FRAME - len(frame)), [] if self._socket.closed else messages

    def _keys(self, digits: str) -> str:
        return self.emulator.dtmf(digits)

    def _goodbye(self) -> str:
        if not self.emulator.answered:
            self.emulator.violations.append("the caller heard ringing to the end")
        return self.emulator.end()

    @property
    def buffered_ms(self) -> int:
        """Audio still to be played."""
        return self.emulator.buffered_ms

    def wire(self) -> dict[str, Any]:
        """What the emulator saw."""
        emulator = self.emulator
        return {
            "format": emulator.form.name if emulator.form else None,
            "agent_audio_s": round(emulator.received_s, 2),
            "streams": emulator.streams,
            "clears": emulator.interruptions,
            "resumed": self.resumed,
            "recognised": emulator.recognised,
            "hangup": emulator.hung_up,
            "transferred_to": emulator.transferred_to,
            "max_lead_ms": emulator.max_buffered_ms,
            "violations": emulator.violations,
        }
