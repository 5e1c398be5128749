"""The shell of SIP: sockets, the user agent's clock, and a leg for every call, whoever makes it."""

import asyncio
import logging
from collections.abc import Callable, Collection
from functools import partial

from fastagent.connectors.host import LegHost, Release
from fastagent.connectors.leg import CallInfo, HangupReason, LegError
from fastagent.connectors.rtp.ports import MediaPort, NoPortError, PortPool
from fastagent.connectors.rtp.srtp import SrtpError
from fastagent.connectors.rtp.stream import RtpStream
from fastagent.connectors.sip.actions import (
    Action,
    Address,
    CallAnswered,
    CallConfirmed,
    CallEnded,
    CallOffered,
    CallProgress,
    ChangeDone,
    DtmfInfo,
    Held,
    MediaChanged,
    PeerProbed,
    Registered,
    RegistrationFailed,
    Resumed,
    Send,
    TransferProgress,
    Transport,
    Unavailable,
)
from fastagent.connectors.sip.admission import LOOPBACK
from fastagent.connectors.sip.attended import Consultation
from fastagent.connectors.sip.caller import called_in, caller_of
from fastagent.connectors.sip.config import SipConfig
from fastagent.connectors.sip.consulting import Consulting
from fastagent.connectors.sip.counts import Counts
from fastagent.connectors.sip.dial import Dial, DialError, NoRoomError, callee_info, destination_of, unanswered
from fastagent.connectors.sip.endings import REASONS
from fastagent.connectors.sip.grammar import Malformed
from fastagent.connectors.sip.hold_music import HoldMusic
from fastagent.connectors.sip.media import Capabilities, NegotiatedMedia
from fastagent.connectors.sip.names import Lookup, Names, own_address, resolved, services
from fastagent.connectors.sip.outbound import Destination
from fastagent.connectors.sip.signalling import CallSignalling
from fastagent.connectors.sip.sip_call import Equipment, OnAnswered, OnOver, SipCall
from fastagent.connectors.sip.stack import AgentConfig
from fastagent.connectors.sip.tls import ServerTls, client_tls
from fastagent.connectors.sip.trace import Trace
from fastagent.connectors.sip.transports import Transports
from fastagent.connectors.sip.trunk import TrunkLine
from fastagent.connectors.sip.user_agent import UserAgent
from fastagent.media.ticker import Ticker

_log = logging.getLogger(__name__)

_LAST_WORDS_S = 1.0  # so long the last BYEs may take at a stop
_TLS_REFRESH_S = 60.0
_SESSION_S = 1800  # of the session timer that we ask for: whoever vanishes on hold is found out


class SipConnection:
    """All SIP calls of a gateway.

    Args:
        config: the settings.
        host: the gateway.
        ticker: the clock of all media.
        on_registered: told when the trunk knows us, and when not any more.
        on_probed: told whether the trunk answers, where it is asked.
        make_stream: makes streams, in place of `RtpStream`.
        lookup: asks the DNS for SRV records.

    Raises:
        OSError, MediaError: a file of the settings cannot be read.
    """

    name = "sip"

    def __init__(
        self,
        config: SipConfig,
        host: LegHost,
        ticker: Ticker,
        *,
        on_registered: Callable[[bool], None] = lambda registered: None,
        on_probed: Callable[[bool], None] = lambda answers: None,
        make_stream: Callable[..., RtpStream] = RtpStream,
        lookup: Lookup = services,
    ) -> None:
        self._config, self._host = config, host
        self._on_registered, self._on_probed = on_registered, on_probed
        self._tls = ServerTls(config.tls) if config.tls is not None else None
        self._names = Names(ipv6=config.ipv6, lookup=lookup)
        tls = partial(client_tls, config.tls_ca)
        trace = Trace() if config.trace else None
        self._transports = Transports(
            self._received, self._failed, self._names, client_tls=tls, kept=self._kept, trace=trace
        )
        self._calls: dict[str, SipCall] = {}
        self._timer: asyncio.TimerHandle | None = None
        self._refreshing: asyncio.TimerHandle | None = None
        self._agent: UserAgent | None = None
        self._trunk: TrunkLine | None = None
        self._counts: Counts | None = None
        self._reachable = self._media_host = config.public_host or own_address(config.host)
        low, high = config.rtp_ports
        self._ports = PortPool(low, high, config.host)
        music = HoldMusic(config.hold_music)
        self._equipment = Equipment(self._ports, ticker, music, config.inband_keys, make_stream)

    @property
    def ports(self) -> dict[Transport, int]:
        """Where it listens."""
        return self._transports.ports

    @property
    def weaknesses(self) -> list[str]:
        """What does not work as configured."""
        missing = sorted({agent for agent in self._config.agents.values() if not self._host.has_agent(agent)})
        found = [f"SIP_ROUTES names {agent}, which is no agent: the default one answers" for agent in missing]
        return found + (self._trunk.weaknesses if self._trunk is not None else [])

    @property
    def agent(self) -> UserAgent:
        """The core; there is one once this has been started."""
        assert self._agent is not None
        return self._agent

    async def start(self) -> None:
        """Listen, and register at the trunk.

        Raises:
            OSError: a port is taken, or the public host has no address.
            TimeoutError: nor is there word of one.
        """
        config = self._config
        self._media_host = (await resolved(self._reachable, ipv6=config.ipv6))[0]
        tls = self._tls.context if self._tls else None
        await self._transports.open(config.host, config.port, tls_port=config.tls_port, tls=tls)
        self._agent = UserAgent(
            AgentConfig(
                host=self._reachable,
                ports=self._transports.ports,
                media=Capabilities(config.codecs, config.prefer_ours, config.srtp, ipv6=config.ipv6),
                trusted=(*(LOOPBACK if config.trust_loopback else ()), *config.trusted),
                users=config.users,
                full_status=config.full_status,
                session_expires_s=_SESSION_S,
                credentials=config.trunk.credentials if config.trunk is not None else None,
            ),
            accepts=self._host.accepts_calls,
            servers=self._names,
        )
        self._counts = Counts(self._agent, self._host, self.name)
        if config.trunk is not None:
            self._trunk = TrunkLine(
                config.trunk,
                self._agent,
                self.perform,
                self._names,
                on_registered=self._on_registered,
                on_probed=self._on_probed,
            )
        self._refresh_tls()

    def _refresh_tls(self) -> None:
        if self._tls is not None:
            self._tls.refresh()
            self._refreshing = asyncio.get_running_loop().call_later(_TLS_REFRESH_S, self._refresh_tls)

    async def aclose(self) -> None:
        """Release what the connector holds; its sessions are over by now."""
        if self._refreshing is not None:
            self._refreshing.cancel()
        if self._trunk is not None:
            await self._trunk.aclose(_LAST_WORDS_S)
        calls = list(self._calls.values())
        tasks = [call.task for call in calls if call.task is not None]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        for call in calls:
            call.signalling.hang_up(HangupReason.SHUTDOWN)
        await self._say_last_words()
        self._agent = None
        self._set_timer()
        for call in calls:
            call.close()
        await self._transports.aclose()

    async def _say_last_words(self) -> None:
        """Let what was said last arrive: a BYE that is lost is said again."""
        until = self._now + _LAST_WORDS_S
        while self._agent is not None and self._agent.unanswered and self._now < until:  # noqa: ASYNC110
            await asyncio.sleep(0.02)

    # -- the user agent ----------------------------------------------------------------------------------------------

    @property
    def _now(self) -> float:
        return asyncio.get_running_loop().time()

    def _received(self, data: bytes, source: tuple[str, int], transport: Transport) -> None:
        if self._agent is not None:
            self.perform(self._agent.receive(data, source, transport, self._now))
        if self._counts is not None:
            self._counts.look(source[0], self._now)

    def _failed(self, to: Address) -> None:
        if self._agent is not None:
            self.perform(self._agent.transport_failed(to, self._now))

    def _kept(self) -> Collection[Address]:
        return self._agent.places() if self._agent is not None else ()

    def perform(self, actions: list[Action]) -> None:
        """Carry out what the core says, in order, then see when it wants to be woken. What fails of it is one call's
        affair, and never the clock's."""
        for action in actions:
            try:
                if isinstance(action, Send):
                    self._transports.send(action.data, action.to, key=action.key, otherwise=action.otherwise)
                elif isinstance(action, Unavailable):
                    self._transports.avoid(action.to, action.key)
                else:
                    self._happened(action)
            except Exception:
                _log.exception("an action of SIP failed")
        self._set_timer()

    def _set_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        due = self._agent.next_timeout() if self._agent is not None else None
        if due is not None:
            self._timer = asyncio.get_running_loop().call_at(due, self._timed_out)

    def _timed_out(self) -> None:
        if self._agent is None:
            return
        try:
            self.perform(self._agent.handle_timeout(self._now))
        except Exception:
            _log.exception("a timer of SIP failed")
            self._set_timer()  # the clock is every call's

    def _happened(self, event: Action) -> None:
        match event:
            case CallOffered():
                self._offered(event)
            case Registered() | RegistrationFailed():
                if self._trunk is not None:
                    self._trunk.registration_changed(event)
            case PeerProbed():
                if self._trunk is not None:
                    self._trunk.probed(event)
            case _:
                call = self._calls.get(getattr(event, "call", ""))
                if call is not None:
                    self._happened_to(call, event)

    def _happened_to(self, call: SipCall, event: Action) -> None:
        match event:
            case CallProgress():
                call.on_progress()
            case CallAnswered(_, media):
                self._with_media(call, partial(call.on_answered, call, media))
            case CallConfirmed():
                call.confirmed.set()
            case MediaChanged(_, media) | Held(_, media) | Resumed(_, media):
                self._with_media(call, partial(call.changed, media))
            case ChangeDone(_, _) if call.leg is not None:
                call.leg.change_done(event.ok)
            case DtmfInfo(_, digit, _) if call.leg is not None:
                call.leg.key_received(digit, "info")
            case TransferProgress(_, status, final) if call.leg is not None:
                call.leg.transfer_progressed(status, final)
            case CallEnded():
                self._ended(call, event)

    def _with_media(self, call: SipCall, work: Callable[[], None]) -> None:
        """Do something with a call's media; a call that cannot have any is over."""
        try:
            work()
        except SrtpError as error:
            _log.warning("a call's keys are none", extra={"call_id": call.call_id, "error": str(error)})
            call.signalling.hang_up(HangupReason.PROTOCOL_ERROR)
        except Exception:
            _log.exception("a call's media failed", extra={"call_id": call.call_id})
            call.signalling.hang_up(HangupReason.INTERNAL_ERROR)

    def _ended(self, call: SipCall, event: CallEnded) -> None:
        call.ended(REASONS[event.reason])
        if call.task is None:
            self._forget(call, event)

    def _forget(self, call: SipCall, event: CallEnded | None = None) -> None:
        if self._calls.pop(call.id, None) is not None:
            call.close()
            if event is not None and event.status >= 300:
                extra = {"call_id": call.call_id, "status": event.status, "text": event.text, "reason": event.reason}
                _log.info("a SIP call is not answered", extra=extra)
            call.on_over(event)

    # -- calls to us -------------------------------------------------------------------------------------------------

    def _offered(self, offer: CallOffered) -> None:
        """Take a call, or refuse it before anything is used for it."""
        release = self._host.reserve(self.name)
        port = self._open_port() if release is not None else None
        if release is None or port is None:
            if release is not None:
                release()
            self.perform(self.agent.turn_away(offer.call, self._now))
            return
        info = caller_of(offer, self.name)
        self._calls[offer.call] = SipCall(
            offer.call,
            info.call_id,
            self._equipment,
            self._signalling(offer.call),
            port,
            release,
            on_answered=partial(self._converse_with, info, self._agent_for(offer)),
        )
        local = (self._media_host, port.number)
        if not self._config.ring_s:
            self._accept(offer.call, local)
            return
        self.perform(self.agent.ring(offer.call, self._now))
        asyncio.get_running_loop().call_later(self._config.ring_s, self._accept, offer.call, local)

    def _accept(self, call: str, local: tuple[str, int]) -> None:
        """Answer; who has hung up meanwhile is not there any more."""
        if self._agent is not None:
            self.perform(self._agent.accept(call, local, self._now))

    def _open_port(self) -> MediaPort | None:
        try:
            return self._ports.open(self._now)
        except NoPortError:
            _log.error("no media port is free: widen RTP_PORTS")
            return None

    def _agent_for(self, offer: CallOffered) -> str:
        wanted = list(called_in(offer))
        routed = next((self._config.agents[name] for name in wanted if name in self._config.agents), None)
        named = offer.to_user if self._host.has_agent(offer.to_user) else None
        return routed or named or self._host.default_agent

    def _converse_with(
        self, info: CallInfo, agent_id: str, call: SipCall, media: NegotiatedMedia, *, patient: bool = True
    ) -> None:
        """Begin the session of a call that is answered; `patient` waits until the other side hears us."""
        call.open(media, info)
        call.task = asyncio.create_task(self._converse(call, agent_id, patient=patient), name="sip-call")

    async def _converse(self, call: SipCall, agent_id: str, *, patient: bool) -> None:
        assert call.leg is not None  # it was made when the call was answered
        try:
            if patient:
                await call.audible()
            await self._host.converse(call.leg, agent_id)
        finally:
            call.signalling.hang_up(call.leg.over or HangupReason.COMPLETED)
            self._forget(call)

    # -- calls by us -------------------------------------------------------------------------------------------------

    def dial(self, dial: Dial) -> str:
        """Call somebody, and let an agent talk to them once they answer; return the Call-ID.

        Raises:
            DialError: it cannot be done; `NoRoomError` where it can later.
        """
        to = self._destination(dial.to, caller=dial.caller, ring_s=dial.ring_s)
        release = self._host.reserve(self.name)
        if release is None:
            raise NoRoomError("no calls are made right now")

        def answered(call: SipCall, media: NegotiatedMedia) -> None:
            dial.on_progress("answered", None)
            info = callee_info(dial, self.name, call.call_id, shown=to.from_.uri.user_text)
            self._converse_with(info, dial.agent_id, call, media, patient=False)

        return self._place(
            to,
            release,
            on_answered=answered,
            on_progress=lambda: dial.on_progress("ringing", None),
            on_over=lambda event: dial.on_progress("ended", unanswered(event) if event else None),
        ).call_id

    def hang_up(self, call_id: str) -> bool:
        """Take a call back, or end it; return whether there is one."""
        found = next((call for call in self._calls.values() if call.call_id == call_id), None)
        if found is not None:
            found.signalling.hang_up(HangupReason.TERMINATED)
        return found is not None

    def _consult(self, caller: str, target: str) -> Consultation:
        """Call the target of an attended transfer: a number is one of the peer's.

        Raises:
            LegError: it cannot be called.
        """
        try:
            to = self._destination(self.agent.address_for(caller, target))
            consulting = Consulting(lambda other: self.perform(self.agent.transfer_to_call(caller, other, self._now)))
            consulting.call = self._place(to, lambda: None, on_answered=consulting.begin, on_over=consulting.over)
        except (DialError, Malformed) as error:
            raise LegError(str(error)) from None
        return consulting

    def _destination(self, to: str, *, caller: str = "", ring_s: float | None = None) -> Destination:
        trunk, here = self._config.trunk, self._reachable
        there = self._trunk.addresses if self._trunk is not None else ()
        return destination_of(to, trunk, caller=caller, host=here, at_trunk=there, ring_s=ring_s)

    def _place(
        self,
        to: Destination,
        release: Release,
        *,
        on_answered: OnAnswered,
        on_progress: Callable[[], None] = lambda: None,
        on_over: OnOver,
    ) -> SipCall:
        port = self._open_port()
        if port is None:
            release()
            raise NoRoomError("no media port is free")
        id_, call_id, actions = self.agent.call(to, (self._media_host, port.number), self._now)
        call = self._calls[id_] = SipCall(
            id_,
            call_id,
            self._equipment,
            self._signalling(id_),
            port,
            release,
            on_answered=on_answered,
            on_progress=on_progress,
            on_over=on_over,
        )
        self.perform(actions)
        return call

    def _signalling(self, call: str) -> CallSignalling:
        consult = partial(self._consult, call) if self._config.attended else None
        return CallSignalling(self.agent, self.perform, call, consult)
