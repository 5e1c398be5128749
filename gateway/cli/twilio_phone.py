"""A phone that calls the gateway over Twilio's wire: webhook, one-time ticket, media, playback with marks."""

import secrets
from collections.abc import Callable
from typing import Any
from urllib.parse import urlsplit, urlunsplit
from xml.etree import ElementTree

import aiohttp

from fastagent.connectors.twilio.emulator import StreamEmulator
from fastagent.connectors.twilio.signature import sign
from fastagent.gateway.cli.phone import CallRefused
from fastagent.gateway.cli.socket_phone import SocketPhone
from fastagent.media.rtp.network import NONE, Impairments


class TwilioPhone(SocketPhone):
    """A call over Twilio.

    Args:
        webhook: URL of the gateway's voice webhook.
        auth_token: signs as Twilio does; the signature is over `public_url` in place of the webhook's, if given.
    """

    def __init__(
        self,
        webhook: str,
        *,
        from_: str = "+15550100001",
        to: str = "+15550100002",
        auth_token: str | None = None,
        public_url: str | None = None,
        impairments: Impairments = NONE,
        on_event: Callable[[str, str], None] = lambda name, detail: None,
    ) -> None:
        super().__init__("CA" + secrets.token_hex(16), on_event, impairments)
        self.emulator = StreamEmulator(call_sid=self.call_sid, stream_sid="MZ" + secrets.token_hex(16))
        self._webhook, self._from, self._to = webhook, from_, to
        self._auth_token, self._public_url = auth_token, public_url or webhook

    def _receive_message(self, text: str) -> tuple[str, list[str]]:
        return self.emulator.receive(text)

    def _media(self, frame: bytes) -> str:
        return self.emulator.media(frame)

    def _play_frame(self) -> tuple[bytes, list[str]]:
        return self.emulator.play()

    def _keys(self, digits: str) -> str:
        return self.emulator.dtmf(digits)

    def _goodbye(self) -> str:
        return self.emulator.stop()

    @property
    def buffered_ms(self) -> int:
        """Audio still to be played."""
        return self.emulator.buffered_ms

    def wire(self) -> dict[str, Any]:
        """What the emulator saw."""
        emulator = self.emulator
        return {
            "agent_audio_s": round(emulator.received_bytes / 8000, 2),
            "marks": emulator.marks,
            "clears": emulator.clears,
            "max_lead_ms": emulator.max_buffered // 8,
            "violations": emulator.violations,
        }

    async def _connect_all(self) -> None:
        url, parameters = await self._announce()
        await self._connect(url, parameters)

    async def _announce(self) -> tuple[str, dict[str, str]]:
        """Post the webhook as Twilio does, and read the TwiML."""
        form = {
            "CallSid": self.call_sid,
            "AccountSid": self.emulator.account_sid,
            "From": self._from,
            "To": self._to,
            "CallStatus": "ringing",
            "Direction": "inbound",
            "ApiVersion": "2010-04-01",
        }
        headers = {}
        if self._auth_token:
            headers["X-Twilio-Signature"] = sign(self._auth_token, self._public_url, form.items())
        async with self._http.post(self._webhook, data=form, headers=headers) as answer:
            body = await answer.text()
            if answer.status != 200:
                raise CallRefused(f"the webhook answered {answer.status}")
        twiml = ElementTree.fromstring(body)
        stream = twiml.find("./Connect/Stream")
        if stream is None:
            reject = twiml.find("./Reject")
            raise CallRefused(reject.get("reason", "rejected") if reject is not None else "no stream in the TwiML")
        parameters = {one.get("name", ""): one.get("value", "") for one in stream.findall("Parameter")}
        return stream.get("url", ""), parameters

    async def _connect(self, url: str, parameters: dict[str, str]) -> None:
        """Dial the stream's path at the webhook's address: what `wss` names is the public host."""
        at = urlsplit(self._webhook)
        dial = urlunsplit(("wss" if at.scheme == "https" else "ws", at.netloc, urlsplit(url).path, "", ""))
        headers = {"X-Twilio-Signature": sign(self._auth_token, url)} if self._auth_token else {}
        try:
            self._socket = await self._http.ws_connect(dial, headers=headers, max_msg_size=1 << 22)
        except aiohttp.WSServerHandshakeError as error:
            raise CallRefused(f"the stream was answered {error.status}") from error
        for message in self.emulator.opening(parameters):
            await self._socket.send_str(message)
