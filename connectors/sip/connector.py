"""The shell of SIP: sockets, the user agent's clock, and a leg for every call that it takes."""

import asyncio
import base64
import logging
import random
import socket
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from fastagent.connectors.host import LegHost
from fastagent.connectors.leg import CallInfo, HangupReason, LegEnded
from fastagent.connectors.rtp.ports import NoPortError, PortPool
from fastagent.connectors.rtp.srtp import Srtp
from fastagent.connectors.rtp.stream import MediaPlan, RtpStream
from fastagent.connectors.sip.actions import (
    Action,
    Address,
    CallAnswered,
    CallConfirmed,
    CallEnded,
    CallOffered,
    DtmfInfo,
    Held,
    MediaChanged,
    Resumed,
    Send,
    TransferProgress,
    Transport,
)
from fastagent.connectors.sip.admission import LOOPBACK, Network
from fastagent.connectors.sip.grammar import printable
from fastagent.connectors.sip.leg import Signalling, SipLeg
from fastagent.connectors.sip.media import G722, OPUS, PCMA, PCMU, Capabilities, NegotiatedMedia
from fastagent.connectors.sip.stack import AgentConfig
from fastagent.connectors.sip.transports import Transports
from fastagent.connectors.sip.user_agent import UserAgent
from fastagent.media.frame import AudioFormat
from fastagent.media.rtp.codecs import codec
from fastagent.media.ticker import Ticker

_log = logging.getLogger(__name__)

_FIRST_PACKET_S = 2.0  # so long the greeting waits for an ACK or a packet
_REASONS = {
    "hung_up": HangupReason.CALLER_HUNG_UP,
    "cancelled": HangupReason.CALLER_HUNG_UP,
    "local": HangupReason.COMPLETED,
    "no_ack": HangupReason.CONNECTION_LOST,
    "timeout": HangupReason.CONNECTION_LOST,
    "transport": HangupReason.CONNECTION_LOST,
}


@dataclass(slots=True)
class SipConfig:
    """What the connector is told.

    Attributes:
        host, port: where to listen.
        public_host: the address that phones are told, if it is another one.
        rtp_ports: the range for media, both ends included.
        users: passwords by user.
        trusted: networks whose calls need no password, loopback beside them.
        agents: agent id per called user or number; other calls go to the agent of that id, else to the default one.
    """

    host: str = "127.0.0.1"
    port: int = 5060
    public_host: str | None = None
    rtp_ports: tuple[int, int] = (20000, 29999)
    users: Mapping[str, str] = field(default_factory=dict, repr=False)
    trusted: tuple[Network, ...] = ()
    agents: dict[str, str] = field(default_factory=dict)
    srtp: bool = True


@dataclass(slots=True)
class _Call:
    """A call that was offered."""

    offer: CallOffered
    release: Callable[[], None]
    opened: tuple[int, socket.socket, socket.socket] | None
    leg: SipLeg | None = None
    media: NegotiatedMedia | None = None
    confirmed: asyncio.Event = field(default_factory=asyncio.Event)
    task: asyncio.Task[None] | None = None


class SipConnection:
    """All SIP calls of a gateway."""

    name = "sip"

    def __init__(self, config: SipConfig, host: LegHost) -> None:
        self._config, self._host = config, host
        self._transports = Transports(self._received, self._failed)
        self._ticker = Ticker()
        self._calls: dict[str, _Call] = {}
        self._timer: asyncio.TimerHandle | None = None
        self._agent: UserAgent | None = None
        self._counted: dict[str, int] = {}
        self._reachable = config.public_host or _own_address(config.host)
        low, high = config.rtp_ports
        self._ports = PortPool(low, high, config.host)

    @property
    def port(self) -> int:
        """Where it listens."""
        return self._transports.ports.get("udp", 0)

    async def start(self) -> None:
        """Listen.

        Raises:
            OSError: the port is taken.
        """
        config = self._config
        await self._transports.open(config.host, config.port)
        self._agent = UserAgent(
            AgentConfig(
                host=self._reachable,
                ports=self._transports.ports,
                media=Capabilities((PCMU, PCMA, G722, OPUS), srtp="optional" if config.srtp else "off"),
                trusted=(*LOOPBACK, *config.trusted),
                users=config.users,
            )
        )

    async def aclose(self) -> None:
        """Release what the connector holds; its sessions are over by now."""
        if self._timer is not None:
            self._timer.cancel()
        tasks = [call.task for call in self._calls.values() if call.task is not None]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await self._transports.aclose()

    # -- the user agent ----------------------------------------------------------------------------------------------

    @property
    def _now(self) -> float:
        return asyncio.get_running_loop().time()

    def _received(self, data: bytes, source: tuple[str, int], transport: Transport) -> None:
        if self._agent is not None:
            self._perform(self._agent.receive(data, source, transport, self._now))
            self._count()

    def _failed(self, to: Address) -> None:
        if self._agent is not None:
            self._perform(self._agent.transport_failed(to, self._now))

    def _count(self) -> None:
        """Pass on what the core has dropped and refused."""
        assert self._agent is not None
        for kind, total in self._agent.dropped.items():
            more = total - self._counted.get(kind, 0)
            if more:
                self._counted[kind] = total
                self._host.protocol_error(self.name, kind, more)

    def _perform(self, actions: list[Action]) -> None:
        """Carry out what the core says, in order, then see when it wants to be woken."""
        for action in actions:
            if isinstance(action, Send):
                self._transports.send(action.data, action.to)
            else:
                self._happened(action)
        self._set_timer()

    def _set_timer(self) -> None:
        assert self._agent is not None
        if self._timer is not None:
            self._timer.cancel()
        due = self._agent.next_timeout()
        self._timer = None if due is None else asyncio.get_running_loop().call_at(due, self._timed_out)

    def _timed_out(self) -> None:
        assert self._agent is not None
        self._timer = None
        self._perform(self._agent.handle_timeout(self._now))

    def _happened(self, event: Action) -> None:
        if isinstance(event, CallOffered):
            self._offered(event)
            return
        call = self._calls.get(getattr(event, "call", ""))
        if call is None:
            return
        match event:
            case CallAnswered(_, media):
                self._answered(call, media)
            case CallConfirmed():
                call.confirmed.set()
            case MediaChanged(_, media) | Held(_, media) | Resumed(_, media):
                self._changed(call, media)
            case DtmfInfo(_, digit, _) if call.leg is not None:
                call.leg.key_received(digit, "info")
            case TransferProgress(_, status, final) if call.leg is not None:
                call.leg.transfer_progressed(status, final)
            case CallEnded(_, reason, _, _):
                self._ended(call, _REASONS.get(reason, HangupReason.PROTOCOL_ERROR))

    # -- a call ------------------------------------------------------------------------------------------------------

    def _offered(self, offer: CallOffered) -> None:
        """Take a call, or refuse it before anything is used for it."""
        assert self._agent is not None
        release = self._host.reserve(self.name)
        if release is None:
            again = str(random.randint(5, 15))
            self._perform(self._agent.reject(offer.call, 503, self._now, items=(("Retry-After", again),)))
            return
        try:
            opened = self._ports.open(self._now)
        except NoPortError:
            release()
            _log.error("no media port is free: widen RTP_PORTS")
            self._perform(self._agent.reject(offer.call, 503, self._now))
            return
        call = self._calls[offer.call] = _Call(offer, release, opened)
        self._perform(self._agent.accept(offer.call, (self._reachable, opened[0]), self._now))
        if offer.call in self._calls and call.leg is None and not offer.late_offer:
            _log.warning("an accepted call has no media", extra={"call_id": offer.call})

    def _answered(self, call: _Call, media: NegotiatedMedia) -> None:
        legs: list[SipLeg] = []
        stream = RtpStream(
            self._ports,
            plan_of(media),
            make_codec=codec,
            on_audio=lambda samples, now: legs[0].audio_received(samples, now),
            on_key=lambda digit: legs[0].key_received(digit, "rtp"),
            on_position=lambda position: legs[0].played(position),
            opened=call.opened,
        )
        call.opened, call.media = None, media
        call.leg = SipLeg(self._info(call.offer, stream.rate_hz), stream, self._signalling(call.offer.call))
        legs.append(call.leg)
        self._ticker.add(stream.tick)
        call.task = asyncio.create_task(self._converse(call, call.leg), name="sip-call")

    def _signalling(self, call: str) -> Signalling:
        agent = self._agent
        assert agent is not None

        def hang_up(reason: HangupReason) -> None:
            self._perform(agent.hang_up(call, self._now))

        def transfer(target: str) -> None:
            self._perform(agent.transfer(call, target, self._now))

        def send_info(digit: str) -> None:
            self._perform(agent.send_dtmf(call, digit, self._now))

        return Signalling(hang_up=hang_up, transfer=transfer, send_info=send_info)

    def _info(self, offer: CallOffered, rate_hz: int) -> CallInfo:
        headers = {
            name[:64]: printable(value)[:256] for name, value in offer.headers.items if name.lower().startswith("x-")
        }
        return CallInfo(
            provider=self.name,
            call_id=offer.call,
            stream_id=offer.call,
            from_=printable(offer.from_user)[:128],
            to=printable(offer.to_user)[:128],
            direction="inbound",
            audio=AudioFormat("L16", rate_hz),
            metadata={**headers, "caller_name": printable(offer.from_name)[:128], "sip_host": offer.source.host},
        )

    async def _converse(self, call: _Call, leg: SipLeg) -> None:
        """Begin when the phone hears us: with its ACK, or its first packet."""
        try:
            loop = asyncio.get_running_loop()
            patience = loop.time() + _FIRST_PACKET_S
            # Whichever is first: a lost ACK must not keep the caller waiting, nor a phone that only listens.
            stats = leg.stream.inbound.stats
            while not (call.confirmed.is_set() or stats.received or loop.time() > patience):  # noqa: ASYNC110
                await asyncio.sleep(0.02)
            await self._host.converse(leg, self._agent_for(call.offer.to_user))
        finally:
            if self._agent is not None:
                self._perform(self._agent.hang_up(call.offer.call, self._now))
            self._release(call)

    def _agent_for(self, user: str) -> str:
        plain = user.lstrip("+").partition(";")[0]
        for name in (user, f"+{plain}", plain):
            if name in self._config.agents:
                return self._config.agents[name]
        return user if self._host.has_agent(user) else self._host.default_agent

    def _changed(self, call: _Call, media: NegotiatedMedia) -> None:
        if call.leg is None:
            return
        try:
            before = (call.media, call.leg.stream.plan) if call.media is not None else None
            call.leg.stream.renegotiate(plan_of(media, before))
            call.media = media
        except ValueError:
            _log.warning("a call wants another sample rate", extra={"call_id": call.offer.call})
            call.leg.happened(LegEnded(HangupReason.PROTOCOL_ERROR))

    def _ended(self, call: _Call, reason: HangupReason) -> None:
        if call.leg is not None:
            call.leg.happened(LegEnded(reason))
        else:
            self._release(call)

    def _release(self, call: _Call) -> None:
        if self._calls.pop(call.offer.call, None) is None:
            return
        call.release()
        if call.leg is not None:
            stream = call.leg.stream
            self._ticker.remove(stream.tick)
            stream.close()
        elif call.opened is not None:
            port, *pair = call.opened
            for one in pair:
                one.close()
            self._ports.close(port, self._now)


def _own_address(host: str) -> str:
    """The address to be told to phones, where we listen on all of them: the one that this machine uses outwards."""
    if host not in ("0.0.0.0", "::"):
        return host
    outwards = "192.0.2.1" if host == "0.0.0.0" else "2001:db8::1"  # of documentation (RFC 5737, 3849): nothing is sent
    with socket.socket(socket.AF_INET if host == "0.0.0.0" else socket.AF_INET6, socket.SOCK_DGRAM) as one:
        try:
            one.connect((outwards, 9))
        except OSError:
            return "127.0.0.1" if host == "0.0.0.0" else "::1"
        return str(one.getsockname()[0])


def plan_of(media: NegotiatedMedia, before: tuple[NegotiatedMedia, MediaPlan] | None = None) -> MediaPlan:
    """Return what was negotiated as the media layer wants it; keys that stay the same keep their session, whose
    counters must not begin anew."""
    srtp = None
    keys = (media.crypto_send, media.crypto_receive)
    if before is not None and (before[0].crypto_send, before[0].crypto_receive) == keys:
        srtp = before[1].srtp
    elif media.crypto_send is not None and media.crypto_receive is not None:
        ours, theirs = (base64.b64encode(one.key).decode() for one in (media.crypto_send, media.crypto_receive))
        srtp = Srtp(media.crypto_send.suite, ours=ours, theirs=theirs)
    return MediaPlan(
        remote=media.remote,
        payload_type=media.payload_type,
        codec=media.codec.name,
        clock_hz=media.codec.clock_hz,
        ptime_ms=media.ptime_ms,
        event_type=media.dtmf_receivable if media.dtmf_receivable is not None else media.dtmf_payload_type,
        remote_rtcp=media.remote_rtcp,
        sends=not media.held,
        srtp=srtp,
        receive_types=frozenset(number for number, one in media.receivable if one.name == media.codec.name),
    )
