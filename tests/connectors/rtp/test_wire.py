"""One stream on wires in memory, by literal packets in virtual time: where its own go, and what counts as life."""

import asyncio
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Any, cast

import numpy as np
import pytest

from fastagent.connectors.rtp.ports import MediaPort, PortPool
from fastagent.connectors.rtp.source import Address
from fastagent.connectors.rtp.srtp import SrtpReceiver, SrtpSender
from fastagent.connectors.rtp.stream import MediaPlan, RtpStream
from fastagent.media.rtp import packet, rtcp
from fastagent.media.rtp.packet import RtpPacket
from fastagent.media.ticker import Ticker
from tests.support.memory_socket import MemorySocket

PHONE, PHONE_RTCP, OTHER = ("192.0.2.7", 4000), ("192.0.2.7", 4005), ("192.0.2.8", 4000)
NAT, NAT_RTCP, THIEF = ("198.51.100.7", 40001), ("198.51.100.7", 61002), ("203.0.113.9", 5)
PLAN = MediaPlan(PHONE, 0, "PCMU", remote_rtcp=PHONE_RTCP)


class Line:
    """A stream on two wires; as the pool it takes them back."""

    def __init__(self) -> None:
        self.media, self.control = MemorySocket(), MemorySocket()
        self.port = MediaPort(10000, cast(socket.socket, self.media), cast(socket.socket, self.control))
        self.closed = 0
        self.sequence = 0
        self.stream: RtpStream | None = None

    def open(self, plan: MediaPlan) -> RtpStream:
        self.stream = RtpStream(
            cast(PortPool, self), plan, on_audio=lambda samples, now: None, on_key=lambda key: None, port=self.port
        )
        return self.stream

    def close(self, port: MediaPort, now: float) -> None:
        self.closed += 1
        port.media.close()
        port.control.close()

    def speak(self, sender: Address, *, count: int = 1, ssrc: int = 1) -> None:
        """Packets from somewhere."""
        for _ in range(count):
            self.sequence += 1
            one = RtpPacket(0, self.sequence, self.sequence * 160, ssrc, b"\x10" * 160)
            self.media.arrive(bytes(one), sender)

    def report(self, sender: Address, *blocks: rtcp.ReportBlock) -> None:
        """A receiver report from somewhere."""
        self.control.arrive(bytes(rtcp.Report(1, None, blocks)), sender)

    @property
    def sent(self) -> list[RtpPacket]:
        """Our packets so far."""
        found = [packet.parse(data) for data, _ in self.media.sent]
        return [one for one in found if one is not None]


@asynccontextmanager
async def line(plan: MediaPlan = PLAN) -> AsyncIterator[tuple[Line, RtpStream]]:
    one, ticker = Line(), Ticker()
    stream = one.open(plan)
    ticker.add(stream.send_due, early=True)
    ticker.add(stream.tick)
    try:
        yield one, stream
    finally:
        ticker.remove(stream.send_due)
        ticker.remove(stream.tick)
        stream.close()
        assert one.closed == 1


def quiet_s(stream: RtpStream) -> float:
    return stream.quiet_s(asyncio.get_running_loop().time())


# -- before the answer -----------------------------------------------------------------------------------------------


async def test_what_came_while_it_rang_is_not_heard() -> None:
    one = Line()
    one.speak(THIEF, count=200)
    one.report(PHONE_RTCP)
    stream = one.open(PLAN)
    await asyncio.sleep(0.1)
    assert (stream.inbound.stats.received, stream.quality().strangers, stream.counts.rtcp) == (0, 0, 0)
    one.speak(PHONE)
    await asyncio.sleep(0.1)
    assert stream.inbound.stats.received == 1
    stream.close()


# -- where it goes ---------------------------------------------------------------------------------------------------


async def test_media_goes_where_media_comes_from_and_reports_go_beside_it_or_where_reports_come_from() -> None:
    async with line() as (one, stream):
        await asyncio.sleep(8)
        assert {to for _, to in one.media.sent} == {PHONE}
        assert {to for _, to in one.control.sent} == {PHONE_RTCP}
        one.speak(NAT, count=3)
        await asyncio.sleep(0.1)
        one.media.sent.clear()
        one.control.sent.clear()
        await asyncio.sleep(8)
        assert {to for _, to in one.media.sent} == {NAT}
        assert {to for _, to in one.control.sent} == {(NAT[0], NAT[1] + 1)}
        one.report(NAT_RTCP)
        one.report(THIEF)
        await asyncio.sleep(0.1)
        one.control.sent.clear()
        await asyncio.sleep(8)
        assert {to for _, to in one.control.sent} == {NAT_RTCP}
        stream.renegotiate(replace(PLAN, remote=OTHER, remote_rtcp=None))
        one.speak(NAT, count=3)
        await asyncio.sleep(0.1)
        one.control.sent.clear()
        await asyncio.sleep(8)
        assert {to for _, to in one.control.sent} == {(NAT[0], NAT[1] + 1)}, "the former phone's are forgotten"


async def test_a_phone_that_moves_is_followed_by_its_key_late_in_the_call() -> None:
    suite, key = "AES_CM_128_HMAC_SHA1_80", bytes(range(30))
    phone = SrtpSender(suite, key)
    async with line(replace(PLAN, srtp_in=SrtpReceiver(suite, key))) as (one, stream):
        for number, (sender, ssrc) in enumerate([(PHONE, 1), *[(NAT, 2)] * 4]):
            data = phone.protect(bytes(RtpPacket(0, number, number * 160, ssrc, b"\x10" * 160)))
            one.media.arrive(data, sender)
            await asyncio.sleep(20 if sender == PHONE else 0.02)
        one.media.sent.clear()
        await asyncio.sleep(0.1)
        assert {to for _, to in one.media.sent} == {NAT}
        assert stream.quality().strangers == 2


@pytest.mark.parametrize("said", [None, (PHONE[0], 65536)])
async def test_reports_to_a_phone_on_the_last_port_go_there(said: Address | None) -> None:
    async with line(replace(PLAN, remote=(PHONE[0], 65535), remote_rtcp=said)) as (one, _):
        await asyncio.sleep(8)
    assert {to for _, to in one.control.sent} == {(PHONE[0], 65535)}


class Broken(SrtpSender):
    """Encrypts nothing."""

    def __init__(self) -> None:
        pass

    def protect_rtcp(self, packet: bytes) -> bytes:
        raise RuntimeError("no goodbye")


async def test_ports_are_given_back_whatever_becomes_of_the_goodbye() -> None:
    one = Line()
    stream = one.open(replace(PLAN, srtp_out=Broken()))
    with pytest.raises(RuntimeError, match="no goodbye"):
        stream.close()
    assert one.closed == 1
    stream.close()


# -- life ------------------------------------------------------------------------------------------------------------


async def test_reports_are_life_once_somebody_was_heard() -> None:
    async with line() as (one, stream):
        for _ in range(8):
            await asyncio.sleep(5)
            one.report(PHONE_RTCP)
        await asyncio.sleep(0.1)
        assert quiet_s(stream) > 40, "nobody was heard yet"
        one.speak(PHONE)
        for _ in range(8):
            await asyncio.sleep(5)
            one.report(PHONE_RTCP)
        await asyncio.sleep(0.1)
        assert quiet_s(stream) < 0.2
        for _ in range(8):
            await asyncio.sleep(5)
            one.report(THIEF)
            one.control.arrive(b"\x80\xc9\x00\x06junk", PHONE_RTCP)
            one.control.arrive(b"junk", PHONE_RTCP)
        await asyncio.sleep(0.1)
        assert quiet_s(stream) > 40, "neither strangers nor junk are life"


async def test_who_sends_nothing_by_its_sdp_lives_by_its_reports() -> None:
    async with line(replace(PLAN, listens=False)) as (one, stream):
        for _ in range(8):
            await asyncio.sleep(5)
            one.report(PHONE_RTCP)
        await asyncio.sleep(0.1)
        assert quiet_s(stream) < 0.2
        assert len(one.media.sent) == pytest.approx(40 * 50, abs=10)


# -- addresses that say nothing --------------------------------------------------------------------------------------


async def test_an_address_that_says_nothing_gets_our_voice_for_ten_seconds() -> None:
    async with line() as (one, stream):
        stream.outbound.queue.write(np.full(8000 * 15, 1000, np.int16))
        await asyncio.sleep(20.01)
        assert len(one.media.sent) == 500
        assert stream.outbound.queue.queued_s == 0, "time goes on"
        one.speak(THIEF, count=2)
        await asyncio.sleep(0.1)
        assert len(one.media.sent) == 500, "a stranger's packets say nothing"
        first = one.sent[0]
        one.speak(PHONE)
        await asyncio.sleep(0.1)
        assert len(one.media.sent) == 505
        assert (one.sent[-1].timestamp - first.timestamp) % (1 << 32) == pytest.approx(20.2 * 8000, abs=200)
        await asyncio.sleep(60)
        assert len(one.media.sent) == pytest.approx(505 + 3000, abs=1), "once is enough"


async def test_a_report_says_something_too() -> None:
    async with line() as (one, _):
        await asyncio.sleep(20)
        one.report(THIEF)
        await asyncio.sleep(1)
        assert len(one.media.sent) == 500
        one.report(PHONE_RTCP)
        await asyncio.sleep(1.01)
        assert len(one.media.sent) == pytest.approx(550, abs=1)


async def test_another_address_has_to_say_something_itself() -> None:
    async with line() as (one, stream):
        one.speak(PHONE)
        await asyncio.sleep(20)
        stream.renegotiate(replace(PLAN, ptime_ms=20, event_type=101))
        await asyncio.sleep(20)
        assert len(one.media.sent) == pytest.approx(2000, abs=1), "the same one has been heard"
        one.media.sent.clear()
        stream.renegotiate(replace(PLAN, remote=OTHER, remote_rtcp=None))
        await asyncio.sleep(20)
        assert {to for _, to in one.media.sent} == {OTHER}
        assert len(one.media.sent) == pytest.approx(500, abs=1)


# -- the record ------------------------------------------------------------------------------------------------------


def block(stream: RtpStream, **counts: Any) -> rtcp.ReportBlock:
    common = {"ssrc": stream.outbound.ssrc, "fraction_lost": 255, "lost": 0, "highest": 0, "jitter": 0}
    return rtcp.ReportBlock(**{**common, "lsr": 0, "dlsr": 0, **counts})


@pytest.mark.parametrize(("lost", "share"), [(25, 0.05), (-3, 0.0), (5000, 1.0)])
async def test_what_the_other_side_lost_is_told_of_the_whole_call(lost: int, share: float) -> None:
    async with line() as (one, stream):
        await asyncio.sleep(10)
        assert stream.quality().far_loss is None
        one.report(PHONE_RTCP, block(stream, lost=lost))
        await asyncio.sleep(0.01)
        assert stream.quality().far_loss == pytest.approx(share, abs=0.001)


async def test_strangers_are_in_the_record() -> None:
    async with line() as (one, stream):
        one.speak(PHONE)
        one.speak(THIEF, count=4, ssrc=9)
        await asyncio.sleep(0.1)
        assert stream.quality().details()["strangers"] == 4
