"""The shell of WebRTC: an offer over HTTP, an answer, and a session once the browser is connected."""

import asyncio
import json
import logging
import secrets
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from aiohttp import web

from fastagent.connectors.host import LegHost
from fastagent.connectors.leg import CallInfo, HangupReason, LegEnded
from fastagent.connectors.webrtc.page import PAGE
from fastagent.media.frame import AudioFormat
from fastagent.media.ticker import Ticker

if TYPE_CHECKING:
    from fastagent.connectors.webrtc.leg import WebRtcLeg

_log = logging.getLogger(__name__)

_SURFACE = "webrtc"
_MAX_OFFER = 64 * 1024
_READ_S = 10.0
_ANSWER_S = 10.0
_CONNECT_S = 10.0  # who has hung up while dialling holds a place so long
_CSP = (
    "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; media-src blob: mediastream:; "
    "base-uri 'none'; frame-ancestors 'none'"
)

ErrorResponse = Callable[[str, str, object], web.Response]


@dataclass(slots=True)
class WebRtcConfig:
    """What the connector is told.

    Attributes:
        error_response: how HTTP errors look.
        ice_servers: STUN and TURN addresses, for gateways behind NAT.
    """

    error_response: ErrorResponse
    ice_servers: tuple[str, ...] = ()


class WebRtcConnection:
    """All browsers of a gateway."""

    name = _SURFACE

    def __init__(self, config: WebRtcConfig, host: LegHost, ticker: Ticker) -> None:
        self._config, self._host, self._ticker = config, host, ticker
        self._calls: set[asyncio.Task[None]] = set()
        self._legs: set[WebRtcLeg] = set()
        """Those that are not closed to their end."""

    def routes(self) -> list[web.RouteDef]:
        """What to mount."""
        return [
            web.post("/webrtc/offer", self._offer),
            *(web.get(path, self._page) for path in PAGE),
        ]

    async def aclose(self) -> None:
        """Release what the connector holds; its sessions are over by now."""
        for task in tuple(self._calls):
            task.cancel()
        await asyncio.gather(*self._calls, return_exceptions=True)
        await asyncio.gather(*(self._let_go(leg) for leg in tuple(self._legs)), return_exceptions=True)

    async def _let_go(self, leg: "WebRtcLeg") -> None:
        await leg.aclose()
        self._legs.discard(leg)

    async def _page(self, request: web.Request) -> web.Response:
        text, content_type = PAGE[request.path]()
        return web.Response(text=text, content_type=content_type, headers={"Content-Security-Policy": _CSP})

    # -- the offer -------------------------------------------------------------------------------------------------

    async def _offer(self, request: web.Request) -> web.Response:
        error = self._config.error_response
        if self._host.authorize(request, _SURFACE) is None:
            response = error("authentication_failed", "A valid API key is needed", None)
            response.headers["WWW-Authenticate"] = "Bearer"
            return response
        offer = await self._read(request)
        if isinstance(offer, str):
            self._host.protocol_error(_SURFACE, "offer")
            return error("invalid_request", offer, None)
        agent_id = offer.get("agent_id") or self._host.default_agent
        if not self._host.has_agent(agent_id):
            return error("agent_not_found", f"There is no agent {agent_id!r:.80}", None)
        release = self._host.reserve(self.name)
        if release is None:
            response = error("capacity_exceeded", "No calls are taken right now", None)
            response.headers["Retry-After"] = "5"
            return response
        try:
            async with asyncio.timeout(_ANSWER_S):
                answer = await self._answer(offer, agent_id, release)
        except BaseException as fault:  # a request that is cancelled gives its place back, too
            release()
            if not isinstance(fault, (ValueError, TimeoutError)):
                raise
            self._host.protocol_error(_SURFACE, "offer")
            return error("invalid_request", "the offer cannot be answered", str(fault)[:200] or None)
        return web.json_response(answer)

    @staticmethod
    async def _read(request: web.Request) -> dict[str, Any] | str:
        """Return the offer, or what is wrong with it."""
        body = b""
        try:
            async with asyncio.timeout(_READ_S):  # `read` returns what is there, not what was asked for
                while len(body) <= _MAX_OFFER and (more := await request.content.read(_MAX_OFFER + 1 - len(body))):
                    body += more
        except TimeoutError:
            return "the offer has no end"
        if len(body) > _MAX_OFFER:
            return "the offer is too long"
        try:
            offer = json.loads(body)
        except (ValueError, RecursionError):
            return "the body is no JSON"
        if not isinstance(offer, dict) or offer.get("type") != "offer" or not isinstance(offer.get("sdp"), str):
            return "an object with `sdp` and `type: offer` is expected"
        if not isinstance(offer.get("agent_id", ""), str) or not isinstance(offer.get("metadata", {}), dict):
            return "`agent_id` is a text and `metadata` an object"
        return offer

    async def _answer(self, offer: dict[str, Any], agent_id: str, release: Callable[[], None]) -> dict[str, str]:
        """Return the answer; the session begins when the browser is connected.

        Raises:
            ValueError: the offer is none that can be answered.
        """
        from aiortc import RTCConfiguration, RTCIceServer, RTCPeerConnection, RTCSessionDescription

        from fastagent.connectors.webrtc.leg import WebRtcLeg

        if "m=audio" not in offer["sdp"]:
            raise ValueError("there is no audio in it")
        servers = [RTCIceServer(urls=one) for one in self._config.ice_servers]
        peer = RTCPeerConnection(RTCConfiguration(iceServers=servers))
        session_id = f"sess_{secrets.token_hex(16)}"
        metadata = {str(name)[:64]: str(value)[:256] for name, value in list(offer.get("metadata", {}).items())[:50]}
        leg = WebRtcLeg(peer, _info(session_id, metadata), self._ticker)
        self._legs.add(leg)
        peer.on("track", leg.track_received)
        peer.on("datachannel", leg.channel_opened)
        _only_opus(leg.line)
        try:
            await peer.setRemoteDescription(RTCSessionDescription(offer["sdp"], "offer"))
            _only_one_line(peer, leg.line)
            await peer.setLocalDescription(await peer.createAnswer())
        except BaseException as fault:
            await self._let_go(leg)
            if isinstance(fault, Exception):  # aiortc's parser may raise anything at an SDP that it does not expect
                raise ValueError("its SDP cannot be understood") from fault
            raise
        task = asyncio.create_task(self._call(peer, leg, agent_id, release), name="webrtc-call")
        self._calls.add(task)
        task.add_done_callback(self._calls.discard)
        return {"sdp": peer.localDescription.sdp, "type": peer.localDescription.type, "session_id": session_id}

    async def _call(self, peer: Any, leg: Any, agent_id: str, release: Callable[[], None]) -> None:
        connected = asyncio.Event()

        def changed() -> None:
            if peer.connectionState in ("connected", "failed", "closed"):
                connected.set()
            if peer.connectionState == "failed":
                leg.happened(LegEnded(HangupReason.CONNECTION_LOST))
            elif peer.connectionState == "closed":
                leg.happened(LegEnded(HangupReason.CALLER_HUNG_UP))

        peer.on("connectionstatechange", changed)
        changed()
        try:
            async with asyncio.timeout(_CONNECT_S):
                await connected.wait()
            if peer.connectionState == "connected":
                leg.connected()
                await self._host.converse(leg, agent_id)
        except TimeoutError:
            _log.warning("a browser did not connect", extra={"session_id": leg.info.call_id})
            self._host.protocol_error(_SURFACE, "not_connected")
        finally:
            release()
            if leg.dropped_messages:
                self._host.protocol_error(_SURFACE, "message", leg.dropped_messages)
            await self._let_go(leg)


def _only_opus(line: Any) -> None:
    """Every browser has it (RFC 7874), and it is the one that our side of the media speaks.

    aiortc settles the codecs while it reads the offer: afterwards it is too late.
    """
    from aiortc import RTCRtpReceiver

    can = RTCRtpReceiver.getCapabilities("audio")
    line.setCodecPreferences([one for one in can.codecs if one.mimeType.lower() == "audio/opus"] if can else [])


def _only_one_line(peer: Any, line: Any) -> None:
    """A camera, or a second microphone, would be decoded by aiortc into a queue without a limit that nobody reads."""
    for transceiver in peer.getTransceivers():
        if transceiver is not line:
            transceiver.direction = "inactive"


def _info(session_id: str, metadata: dict[str, str]) -> CallInfo:
    return CallInfo(
        provider=_SURFACE,
        call_id=session_id,
        stream_id=session_id,
        from_=metadata.get("caller_id", ""),
        to="",
        direction="inbound",
        audio=AudioFormat("L16", 16000),
        metadata=metadata,
        session_id=session_id,
    )
