"""One call's media on its two sockets: packets in and out, reports, and what can be told of its quality.

Encryption is checked first, then the source, then the payload. The shared ticker drives it: 20 ms of the caller's audio
to the sink and the packets that are due to the wire, on each tick; the packets of all calls first.

An address that says nothing gets our voice for ten seconds: an SDP may name anybody's.
"""

import asyncio
import random
import socket
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from fastagent.connectors.rtp.ports import MediaPort, PortPool
from fastagent.connectors.rtp.source import Address, SourceRules
from fastagent.connectors.rtp.srtp import SrtpReceiver, SrtpSender
from fastagent.media.g711 import Int16Array
from fastagent.media.rtp import packet, rtcp
from fastagent.media.rtp.codecs import Codec, codec
from fastagent.media.rtp.inbound import RtpInbound
from fastagent.media.rtp.outbound import RtpOutbound
from fastagent.media.rtp.quality import CallQuality, quality_of

_REPORT_S = 5.0
_MAX_AT_ONCE = 64  # datagrams read before others have their turn
_MAX_WAITING = 4096  # more than a socket's buffer holds
_UNHEARD_S = 10.0  # so long we send to where nothing has come from


@dataclass(frozen=True, slots=True)
class MediaPlan:
    """What was negotiated for one stream."""

    remote: Address
    """Written as `recvfrom` writes it: it is compared."""
    payload_type: int
    codec: str
    clock_hz: int = 8000
    ptime_ms: int = 20
    event_type: int | None = None
    """For sending telephone events; None: the other side takes none."""
    remote_rtcp: Address | None = None
    sends: bool = True
    """Whether we may send: not while the other side holds us."""
    listens: bool = True
    """Whether the other side sends."""
    srtp_out: SrtpSender | None = None
    srtp_in: SrtpReceiver | None = None
    receives: Mapping[int, str] = field(default_factory=dict)
    """Numbers under which audio may come, and in which codec, where that is more than the one to send with."""
    receives_events: int | None = None
    """The number under which telephone events come, if not the one to send with."""


@dataclass(slots=True)
class _Far:
    """What the other side's reports say, and where they come from."""

    round_trip_s: float | None = None
    loss: float | None = None
    """Share of the whole call."""
    last_sr: int = 0
    last_sr_at: float = 0.0
    address: Address | None = None


@dataclass(slots=True)
class StreamCounts:
    """Beside those of `RtpInbound`."""

    malformed: int = 0
    unauthentic: int = 0
    rtcp: int = 0


class RtpStream:
    """One stream both ways.

    Args:
        on_audio: given 20 ms of the caller's audio on each tick.
        on_key: given a key.
        port: one of the pool that was opened before anything was negotiated.
    """

    def __init__(
        self,
        pool: PortPool,
        plan: MediaPlan,
        *,
        on_audio: Callable[[Int16Array, float], None],
        on_key: Callable[[str], None],
        port: MediaPort | None = None,
    ) -> None:
        self._loop = asyncio.get_running_loop()
        now = self._loop.time()
        self._pool = pool
        self._on_audio, self._on_key = on_audio, on_key
        self.counts = StreamCounts()
        self.plan = plan
        self._codec = codec(plan.codec, plan.clock_hz)
        self.rate_hz = self._codec.rate_hz
        """Of the session: it stays, whatever the codec becomes."""
        self._rules = SourceRules(plan.remote, now)
        self.outbound = RtpOutbound(plan.payload_type, self._codec, ptime_ms=plan.ptime_ms, event_type=plan.event_type)
        self.outbound.held = not plan.sends
        self.inbound = RtpInbound(self._decoders(), event_types=self._events())
        self._far = _Far()
        self._cname = f"{random.getrandbits(64):016x}"
        self._report_at = now + self._report_interval()
        self._quiet_since = now
        self._expect_life(now)
        self._closed = False
        self.port = port or pool.open(now)
        for one in (self.port.media, self.port.control):  # it has been open since there was an SDP: while it rang
            _drain(one)
        self._loop.add_reader(self.port.media, self._read_media)
        self._loop.add_reader(self.port.control, self._read_control)

    @staticmethod
    def _expected(plan: MediaPlan) -> tuple[object, ...]:
        """What a plan says of the packets to come."""
        numbers = plan.receives or {plan.payload_type: plan.codec}
        return numbers, plan.clock_hz, plan.event_type, plan.receives_events

    def _decoders(self) -> dict[int, Codec]:
        plan = self.plan
        named = plan.receives or {plan.payload_type: plan.codec}
        return {number: codec(name, plan.clock_hz, self.rate_hz) for number, name in named.items()}

    def _events(self) -> frozenset[int]:
        return frozenset(one for one in (self.plan.event_type, self.plan.receives_events) if one is not None)

    # -- changes -----------------------------------------------------------------------------------------------------

    def renegotiate(self, plan: MediaPlan) -> None:
        """The call was changed: hold, another address, other numbers or another codec."""
        before, self.plan = self.plan, plan
        if (plan.codec, plan.clock_hz) != (before.codec, before.clock_hz):
            self._codec = codec(plan.codec, plan.clock_hz, self.rate_hz)
        self.outbound.switch(plan.payload_type, self._codec, ptime_ms=plan.ptime_ms, event_type=plan.event_type)
        self.outbound.held = not plan.sends
        if self._expected(plan) != self._expected(before):
            self.inbound.switch(self._decoders(), event_types=self._events())
        now = self._loop.time()
        self._rules.renegotiated(plan.remote, now)
        self._quiet_since = now
        if plan.remote != before.remote:
            self._far.address = None
            self._expect_life(now)

    def _expect_life(self, now: float) -> None:
        """The other side may be anybody until it has said something."""
        self._heard, self._unheard_until = False, now + _UNHEARD_S

    # -- in ----------------------------------------------------------------------------------------------------------

    def _read_media(self) -> None:
        now = self._loop.time()
        for _ in range(_MAX_AT_ONCE):
            try:
                data, address = self.port.media.recvfrom(2048)
            except (BlockingIOError, InterruptedError):
                return
            except OSError:  # an ICMP error of what was sent
                continue
            self._received(data, (address[0], address[1]), now)

    def _received(self, data: bytes, address: Address, now: float) -> None:
        if packet.is_rtcp(data):
            self._report_received(data, address)
            return
        if self.plan.srtp_in is not None:
            opened = self.plan.srtp_in.unprotect(data)
            if opened is None:
                self.counts.unauthentic += 1
                return
            data = opened
        one = packet.parse(data)
        if one is None:
            self.counts.malformed += 1
            return
        if self.inbound.knows(one.payload_type):
            if not self._rules.admits(address, one.ssrc, now, proven=self.plan.srtp_in is not None):
                return
            self._heard = True
        key = self.inbound.push(one, now)
        if key is not None:
            self._on_key(key)

    def _read_control(self) -> None:
        for _ in range(_MAX_AT_ONCE):
            try:
                data, address = self.port.control.recvfrom(2048)
            except (BlockingIOError, InterruptedError):
                return
            except OSError:
                continue
            self._report_received(data, (address[0], address[1]))

    def _report_received(self, data: bytes, address: Address) -> None:
        if address[0] not in (self._rules.destination[0], self.plan.remote[0]):
            return
        if self.plan.srtp_in is not None:
            opened = self.plan.srtp_in.unprotect_rtcp(data)
            if opened is None:
                self.counts.unauthentic += 1
                return
            data = opened
        for one in rtcp.parse(data):
            self.counts.rtcp += 1
            if isinstance(one, rtcp.Report):
                self._read_report(one, address)

    def _read_report(self, report: rtcp.Report, address: Address) -> None:
        far, now, sent = self._far, self._loop.time(), self.outbound.packets_sent
        self._heard, far.address = True, address
        if self._rules.latched or not self.plan.listens:  # a phone in a pause sends nothing else
            self._quiet_since = now
        if report.sender is not None:
            far.last_sr, far.last_sr_at = rtcp.middle(report.sender.ntp), now
        for block in report.blocks:
            if block.ssrc == self.outbound.ssrc:
                far.loss = round(min(1.0, max(0, block.lost) / sent), 4) if sent else None
                trip = rtcp.round_trip_s(block, time.time())
                if trip is not None:
                    far.round_trip_s = trip

    # -- the tick ------------------------------------------------------------------------------------------------------

    def send_due(self, now: float) -> None:
        """Send the packets that are due; to an address that says nothing, not for long, but time goes on."""
        due = self.outbound.tick(now)
        if not self._heard and now > self._unheard_until:
            return
        for data in due:
            self._send(self.port.media, data if self.plan.srtp_out is None else self.plan.srtp_out.protect(data))

    def tick(self, now: float) -> None:
        """Give the sink 20 ms of the other side, and report now and then."""
        self._on_audio(self.inbound.tick(now), now)
        if now >= self._report_at:
            self._report_at = now + self._report_interval()
            self._send_report()

    def _send(self, way: socket.socket, data: bytes, to: Address | None = None) -> None:
        address = to or self._rules.destination
        if address[0] in ("0.0.0.0", "::"):
            return
        try:
            way.sendto(data, address)
        except (OSError, OverflowError, ValueError):  # full, unreachable, or no address: lost, as on any network
            pass

    @staticmethod
    def _report_interval() -> float:
        return _REPORT_S * random.uniform(0.5, 1.5)

    def _reports(self) -> list[bytes]:
        out, now = self.outbound, self._loop.time()
        blocks: tuple[rtcp.ReportBlock, ...] = ()
        if self.inbound.reception is not None:
            dlsr = round((now - self._far.last_sr_at) * 65536) if self._far.last_sr else 0
            blocks = (self.inbound.reception.report(self._far.last_sr, min(dlsr, 0xFFFFFFFF)),)
        sender = rtcp.SenderInfo(rtcp.ntp_time(time.time()), out.timestamp, out.packets_sent, out.octets_sent)
        return [bytes(rtcp.Report(out.ssrc, sender, blocks)), bytes(rtcp.Cname(out.ssrc, self._cname))]

    def _send_report(self, *more: bytes) -> None:
        data = b"".join([*self._reports(), *more])
        if self.plan.srtp_out is not None:
            data = self.plan.srtp_out.protect_rtcp(data)
        self._send(self.port.control, data, self._reports_to())

    def _reports_to(self) -> Address:
        """Where our reports go: what the SDP says of it is worth as much as what it says of the media."""
        host, port = self._rules.destination
        said = self.plan.remote_rtcp if (host, port) == self.plan.remote else self._far.address
        host, port = said or (host, port + 1)
        return host, min(port, 65535)

    def quiet_s(self, now: float) -> float:
        """How long nothing has been received, since the call or its last change began."""
        return now - max(self._quiet_since, self.inbound.last_packet_at or 0.0)

    # -- the end -------------------------------------------------------------------------------------------------------

    def quality(self) -> CallQuality:
        """Return the call's record so far."""
        return quality_of(
            self.inbound,
            codec=self._codec.name,
            packets_sent=self.outbound.packets_sent,
            round_trip_s=self._far.round_trip_s,
            far_loss=self._far.loss,
            strangers=self._rules.strangers,
        )

    def close(self) -> None:
        """Say goodbye and give the ports back; may be called twice."""
        if self._closed:
            return
        self._closed = True
        try:
            self._send_report(bytes(rtcp.Bye(self.outbound.ssrc)))
        finally:
            for one in (self.port.media, self.port.control):
                self._loop.remove_reader(one)
            self._pool.close(self.port, self._loop.time())


def _drain(one: socket.socket) -> None:
    """Forget what has come so far."""
    for _ in range(_MAX_WAITING):
        try:
            one.recvfrom(2048)
        except (BlockingIOError, InterruptedError):
            return
        except OSError:  # an ICMP error
            continue
