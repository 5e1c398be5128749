"""The shell of the Twilio connector: webhook, media socket and status callbacks on one aiohttp application.

Everything is verified before anything else is read into meaning: requests by their signature (or, without an auth
token, by coming from loopback), streams also by the ticket that their call's webhook was given.
"""

import asyncio
import logging
import re
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from urllib.parse import parse_qsl, urlsplit

from aiohttp import WebSocketError, WSCloseCode, WSMsgType, web

from fastagent.connectors import trust
from fastagent.connectors.errors import PeerError
from fastagent.connectors.host import LegHost
from fastagent.connectors.leg import CallInfo, HangupReason, LegEnded
from fastagent.connectors.twilio import twiml
from fastagent.connectors.twilio.leg import TwilioLeg
from fastagent.connectors.twilio.protocol import AudioReceived, StreamStarted, TwilioProtocol
from fastagent.connectors.twilio.rest import TwilioRest
from fastagent.connectors.twilio.signature import FormPairs, verify
from fastagent.connectors.twilio.tickets import Announced, TicketBox
from fastagent.media.frame import PCMU_8K

_log = logging.getLogger(__name__)

_OPENING_S = 3.0
_MAX_MESSAGE = 1 << 20
_CALL_SID = re.compile(r"[A-Za-z0-9_.:-]{1,64}")
_OVER = frozenset({"completed", "busy", "failed", "no-answer", "canceled"})
_METADATA = {"CallerName": "caller_name", "ForwardedFrom": "forwarded_from", "StirVerstat": "stir_verstat"}
_HEADER = re.compile(r"SipHeader_(X-[A-Za-z0-9-]{1,64})")


@dataclass(slots=True)
class TwilioConfig:
    """What the connector is told.

    Attributes:
        webhook_url: the public URL of the voice webhook; the other paths are its siblings.
        public_base_url: origin that requests are signed for, if `webhook_url` names none.
        agents: agent id per called number; a call for no known number goes to `default_agent`.
    """

    webhook_url: str = "/twilio/webhook"
    public_base_url: str | None = None
    account_sid: str | None = None
    auth_token: str | None = None
    rest_base_url: str | None = None
    default_agent: str = "front_desk"
    agents: dict[str, str] = field(default_factory=dict)
    known_agent: Callable[[str], bool] = lambda agent_id: True
    proxies: list[trust.Network] = field(default_factory=list)


class TwilioConnection:
    """One account's calls on one gateway."""

    name = "twilio"

    def __init__(self, config: TwilioConfig, host: LegHost) -> None:
        self._config, self._host = config, host
        self._tickets = TicketBox()
        self._legs: dict[str, TwilioLeg] = {}
        parts = urlsplit(config.webhook_url)
        self._path = parts.path or "/twilio/webhook"
        self._origin = (
            f"{parts.scheme}://{parts.netloc}" if parts.netloc else (config.public_base_url or "").rstrip("/")
        )
        self._rest: TwilioRest | None = None
        if config.account_sid and config.auth_token:
            self._rest = TwilioRest(config.account_sid, config.auth_token, base_url=config.rest_base_url)

    def routes(self) -> list[web.RouteDef]:
        """What to mount."""
        return [
            web.route("*", self._path, self._voice),
            web.get(self._sibling("media"), self._media),
            web.post(self._sibling("stream-status"), self._stream_status),
            web.post(self._sibling("call-status"), self._call_status),
        ]

    def _sibling(self, name: str) -> str:
        return f"{self._path.rpartition('/')[0]}/{name}"

    async def aclose(self) -> None:
        """Release what the connector holds; its calls are over by now."""
        if self._rest is not None:
            await self._rest.aclose()

    # -- trust -----------------------------------------------------------------------------------------------------

    def _origins(self, request: web.Request) -> list[str]:
        """The origins that this request may have been made to, the configured one first."""
        forwarded = trust.forwarded_origin(request, self._config.proxies)
        own = [f"{request.scheme}://{request.host}"] if trust.is_loopback(request) else []
        known = [origin for origin in (self._origin, forwarded) if origin]
        return known or own

    def _verified(self, request: web.Request, form: FormPairs = (), *, stream: bool = False) -> bool:
        surface = "twilio_stream" if stream else "twilio_webhook"
        token = self._config.auth_token
        if not token:
            allowed = trust.is_loopback(request)
        else:
            target = request.raw_path
            pairs = list(form)
            allowed = any(
                verify(
                    token,
                    (_wss(origin) if stream else origin) + target,
                    pairs,
                    request.headers.getall("X-Twilio-Signature", []),
                    settings=request.headers.get("X-Twilio-Webhooks-Signature-Settings"),
                    slash=stream,
                )
                for origin in self._origins(request)
            )
        if not allowed:
            self._host.auth_failed(surface)
        return allowed

    async def _form(self, request: web.Request) -> list[tuple[str, str]] | None:
        """Return the verified parameters of a webhook, unaltered; None if it is not Twilio's."""
        body = b"" if request.method == "GET" else await request.read()
        form = parse_qsl(body.decode("utf-8", "replace"), keep_blank_values=True, max_num_fields=500)
        if not self._verified(request, form):
            return None
        query = parse_qsl(request.query_string, keep_blank_values=True, max_num_fields=500)
        return query + form

    # -- webhooks --------------------------------------------------------------------------------------------------

    async def _voice(self, request: web.Request) -> web.Response:
        if request.method not in ("GET", "POST"):
            return web.Response(status=405, headers={"Allow": "GET, POST"})
        pairs = await self._form_or_none(request)
        if pairs is None:
            return web.Response(status=403)
        form = dict(pairs)
        call_sid = form.get("CallSid", "")
        if not _CALL_SID.fullmatch(call_sid):
            return web.Response(status=400, text="CallSid is missing or malformed")
        now = asyncio.get_running_loop().time()
        token = self._tickets.pending(call_sid, now)
        agent_id = self._agent(form)
        if token is None:
            release = self._host.reserve(self.name)
            if release is None:
                return _xml(twiml.reject())
            token = self._tickets.issue(_announced(form, agent_id, release), now)
        origin = self._origins(request)[0]
        return _xml(
            twiml.connect(
                _wss(origin) + self._sibling("media"),
                origin + self._sibling("stream-status"),
                {"token": token, "agent_id": agent_id},
            )
        )

    async def _form_or_none(self, request: web.Request) -> list[tuple[str, str]] | None:
        try:
            return await self._form(request)
        except ValueError:  # more fields than any webhook has
            self._host.protocol_error("twilio_webhook", "form")
            return None

    def _agent(self, form: Mapping[str, str]) -> str:
        """The agent that the URL or the called number names; the default one for all else."""
        named = form.get("agent_id", "")
        if named and self._config.known_agent(named):
            return named
        return self._config.agents.get(form.get("To", ""), self._config.default_agent)

    async def _stream_status(self, request: web.Request) -> web.Response:
        pairs = await self._form_or_none(request)
        if pairs is None:
            return web.Response(status=403)
        form = dict(pairs)
        if form.get("StreamEvent") == "stream-error":
            self._host.protocol_error(self.name, "stream_error")
            _log.warning("stream error", extra={"error": form.get("StreamError", "")[:200]})
            self._leg_over(form, HangupReason.PROVIDER_ERROR)
        return web.Response(status=204)

    async def _call_status(self, request: web.Request) -> web.Response:
        pairs = await self._form_or_none(request)
        if pairs is None:
            return web.Response(status=403)
        form = dict(pairs)
        if form.get("CallStatus") in _OVER:
            self._tickets.cancel(form.get("CallSid", ""))
            self._leg_over(form, HangupReason.CALLER_HUNG_UP)
        return web.Response(status=204)

    def _leg_over(self, form: Mapping[str, str], reason: HangupReason) -> None:
        leg = self._legs.get(form.get("CallSid", ""))
        if leg is not None:
            leg.happened(LegEnded(reason))

    # -- the stream ------------------------------------------------------------------------------------------------

    async def _media(self, request: web.Request) -> web.StreamResponse:
        if not self._verified(request, stream=True):
            return web.Response(status=403)
        socket = web.WebSocketResponse(compress=False, max_msg_size=_MAX_MESSAGE, autoping=True)
        if not socket.can_prepare(request).ok:
            return web.Response(status=426, headers={"Upgrade": "websocket"})
        await socket.prepare(request)
        protocol = TwilioProtocol()
        try:
            async with asyncio.timeout(_OPENING_S):
                started = await self._opening(socket, protocol)
        except TimeoutError:
            started = None
            self._host.protocol_error(self.name, "no_start")
        except PeerError as error:
            started = None
            self._host.protocol_error(self.name, error.kind)
        call = self._redeem(started) if started is not None else None
        if started is None or call is None:
            await socket.close(code=WSCloseCode.POLICY_VIOLATION)
            return socket
        try:
            await self._run(socket, protocol, started, call, request.transport)
        finally:
            call.release()
        return socket

    async def _opening(self, socket: web.WebSocketResponse, protocol: TwilioProtocol) -> StreamStarted | None:
        async for message in socket:
            if message.type is WSMsgType.TEXT:
                event = protocol.receive(message.data)
                if isinstance(event, StreamStarted):
                    return event
        return None

    def _redeem(self, started: StreamStarted) -> Announced | None:
        now = asyncio.get_running_loop().time()
        call = self._tickets.redeem(started.call_sid, started.parameters.get("token", ""), now)
        if call is None:
            self._host.auth_failed("twilio_ticket")
        return call

    async def _run(
        self,
        socket: web.WebSocketResponse,
        protocol: TwilioProtocol,
        started: StreamStarted,
        call: Announced,
        transport: asyncio.Transport | None,
    ) -> None:
        info = CallInfo(
            provider=self.name,
            call_id=started.call_sid,
            stream_id=started.stream_sid,
            from_=call.from_,
            to=call.to,
            direction=call.direction,
            audio=PCMU_8K,
            metadata=call.metadata,
        )
        leg = TwilioLeg(
            socket,
            protocol,
            info,
            end_call=self._end_call(started.call_sid),
            redirect=self._redirect(started.call_sid, call),
            transport=transport,
        )
        self._legs[started.call_sid] = leg
        named = started.parameters.get("agent_id", "")  # our own, unless who holds the ticket put another one there
        agent_id = named if self._config.known_agent(named) else call.agent_id
        session = asyncio.create_task(self._converse(leg, agent_id))
        try:
            await self._read(socket, protocol, leg)
            await session
        finally:
            session.cancel()
            if self._legs.get(started.call_sid) is leg:
                del self._legs[started.call_sid]
            await leg.aclose(HangupReason.COMPLETED)
            for kind, count in protocol.dropped.items():
                self._host.protocol_error(self.name, kind, count)

    async def _converse(self, leg: TwilioLeg, agent_id: str) -> None:
        """However a session ends, its caller is not left in a call without one."""
        try:
            await self._host.converse(leg, agent_id)
        finally:
            await leg.aclose(HangupReason.INTERNAL_ERROR)

    async def _read(self, socket: web.WebSocketResponse, protocol: TwilioProtocol, leg: TwilioLeg) -> None:
        """The one read loop: past `receive` there is no task, queue or await per message."""
        receive, take = socket.receive, protocol.receive
        audio_received, happened = leg.audio_received, leg.happened
        while True:
            message = await receive()
            if message.type is WSMsgType.TEXT:
                event = take(message.data)
                if type(event) is AudioReceived:
                    audio_received(event.payload, event.timestamp_ms)
                elif event is not None and not isinstance(event, (StreamStarted, AudioReceived)):
                    happened(event)
            elif message.type is WSMsgType.BINARY:
                protocol.dropped["binary"] += 1
            else:  # closed, by them, by us, or by a broken connection
                broken = message.type is WSMsgType.ERROR and isinstance(message.data, WebSocketError)
                lost = protocol.closed(broken=broken)
                if lost is not None:
                    happened(lost)
                return

    def _end_call(self, call_sid: str) -> Callable[[], Awaitable[None]] | None:
        rest = self._rest
        if rest is None:
            return None

        async def end() -> None:
            try:
                await rest.hang_up(call_sid)
            except ConnectionError as error:
                _log.warning("hang-up by REST failed, closing the stream instead", extra={"error": str(error)})
                self._host.protocol_error(self.name, "rest")
                raise

        return end

    def _redirect(self, call_sid: str, call: Announced) -> Callable[[str], Awaitable[None]] | None:
        rest = self._rest
        if rest is None:
            return None
        # Who is dialled sees the number that the caller has dialled: Twilio allows numbers of the account only.
        caller_id = call.to if call.direction == "inbound" else call.from_

        async def redirect(destination: str) -> None:
            await rest.redirect(call_sid, twiml.dial(destination, caller_id))

        return redirect


def _announced(form: Mapping[str, str], agent_id: str, release: Callable[[], None]) -> Announced:
    return Announced(
        call_sid=form["CallSid"],
        agent_id=agent_id,
        from_=form.get("From", ""),
        to=form.get("To", ""),
        direction=form.get("Direction", "inbound"),
        release=release,
        metadata={known: value[:256] for name, value in form.items() if (known := _known_as(name))},
    )


def _known_as(parameter: str) -> str | None:
    """Return an agent's name for a webhook's parameter, the same as on other wires; None for what it is not told."""
    header = _HEADER.fullmatch(parameter)
    return header.group(1).lower().replace("-", "_") if header else _METADATA.get(parameter)


def _wss(origin: str) -> str:
    """Twilio dials `wss` only, and signs the handshake over that form."""
    return "wss://" + origin.partition("://")[2]


def _xml(text: str) -> web.Response:
    return web.Response(text=text, content_type="text/xml")
