"""Two streams joined over real sockets on loopback, each driven by a ticker."""

import asyncio
import os
import random
import secrets
import socket
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from fastagent.connectors.rtp.ports import MediaPort, NoPortError, PortPool
from fastagent.connectors.rtp.srtp import SUITES, SrtpError, SrtpReceiver, SrtpSender
from fastagent.connectors.rtp.stream import MediaPlan, RtpStream
from fastagent.media.g711 import Int16Array
from fastagent.media.rtp import rtcp
from fastagent.media.rtp.packet import RtpPacket
from fastagent.media.ticker import Ticker

pytestmark = pytest.mark.real
HOST = "127.0.0.1"
ALONE = f"127.7.{os.getpid() >> 8 & 0xFF}.{os.getpid() & 0xFF}"  # nobody else has ports there


def crypto(suite: str, ours: bytes, theirs: bytes) -> dict[str, Any]:
    return {"srtp_out": SrtpSender(suite, ours), "srtp_in": SrtpReceiver(suite, theirs)}


class End:
    """One side, and what it heard."""

    def __init__(self, pool: PortPool, plan: MediaPlan) -> None:
        self.heard: list[Int16Array] = []
        self.keys = ""
        self.stream = RtpStream(pool, plan, on_audio=lambda samples, now: self.heard.append(samples), on_key=self._key)

    def _key(self, key: str) -> None:
        self.keys += key

    @property
    def audio(self) -> Int16Array:
        return np.concatenate(self.heard)


def phone(host: str = HOST) -> socket.socket:
    """A socket that somebody speaks from, or that nobody is behind."""
    one = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    one.bind((host, 0))
    one.setblocking(False)
    return one


def waiting(one: socket.socket) -> list[tuple[bytes, tuple[str, int]]]:
    """What has come to a socket, and from where."""
    found = []
    while True:
        try:
            found.append(one.recvfrom(2048))
        except BlockingIOError:
            return found


def free_range() -> tuple[int, int]:
    with phone() as one:
        low = one.getsockname()[1] // 2 * 2
    return low, low + 19


@asynccontextmanager
async def pair(
    name: str = "PCMU",
    clock_hz: int = 8000,
    *,
    suite: str = "",
    keys: tuple[bytes, bytes, bytes, bytes] | None = None,
    ptime_ms: int = 20,
) -> AsyncIterator[tuple[End, End]]:
    """Two ends that hear each other; `keys` are those that each sends with and expects."""
    pool = PortPool(*free_range(), HOST)
    common: dict[str, Any] = {"codec": name, "clock_hz": clock_hz, "event_type": 101, "ptime_ms": ptime_ms}
    plan = MediaPlan((HOST, 9), 96, **common, **(crypto(suite, *keys[:2]) if keys else {}))
    one = End(pool, plan)
    other = End(
        pool, MediaPlan((HOST, one.stream.port.number), 96, **common, **(crypto(suite, *keys[2:]) if keys else {}))
    )
    one.stream.renegotiate(replace(plan, remote=(HOST, other.stream.port.number)))
    ticker = Ticker()
    for end in (one, other):
        ticker.add(end.stream.send_due, early=True)
        ticker.add(end.stream.tick)
    try:
        yield one, other
    finally:
        for end in (one, other):
            ticker.remove(end.stream.send_due)
            ticker.remove(end.stream.tick)
            end.stream.close()
            end.stream.close()


def tone(seconds: float, rate_hz: int, hz: float = 500.0) -> Int16Array:
    return (8000 * np.sin(2 * np.pi * hz * np.arange(round(seconds * rate_hz)) / rate_hz)).astype(np.int16)


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(10):
        while not condition():  # noqa: ASYNC110
            await asyncio.sleep(0.02)


async def until_heard(end: End, seconds: float) -> None:
    """Wait until so much sound was heard."""
    await until(lambda: sum(float(np.abs(one).max()) > 3000 for one in end.heard) * 0.02 >= seconds)


CODECS = [("PCMU", 8000), ("PCMA", 8000), ("G722", 8000), ("opus", 48000), ("L16", 16000)]


@pytest.mark.parametrize(("name", "clock_hz"), CODECS)
async def test_each_side_hears_the_other_in_every_codec(name: str, clock_hz: int) -> None:
    async with pair(name, clock_hz) as (one, other):
        rate = one.stream.rate_hz
        one.stream.outbound.queue.write(tone(1.0, rate, 500))
        other.stream.outbound.queue.write(tone(1.0, rate, 900))
        await asyncio.gather(until_heard(one, 0.9), until_heard(other, 0.9))
        for end, hz in ((one, 900), (other, 500)):
            audio = end.audio
            began = int(np.argmax(np.abs(audio) > 3000))
            part = audio[began : began + rate // 2]
            spectrum = np.abs(np.fft.rfft(part * np.hanning(len(part))))
            assert np.argmax(spectrum) * rate / len(part) == pytest.approx(hz, abs=5)
            assert end.stream.quality().lost == 0
            assert end.stream.quality().mos > 3.9


async def test_keys_reach_the_other_side_once_each() -> None:
    async with pair() as (one, other):
        one.stream.outbound.press("12#")
        await until(lambda: len(other.keys) >= 3)
        await asyncio.sleep(0.3)
        assert other.keys == "12#"
        assert one.keys == ""


async def test_a_strangers_packets_and_junk_are_counted_and_not_heard() -> None:
    async with pair() as (one, other):
        other.stream.outbound.queue.write(tone(1.0, 8000))
        await until_heard(one, 0.2)
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as thief:
            for at in range(20):
                forged = bytes.fromhex("8060") + at.to_bytes(2, "big") + bytes(8) + b"\x10" * 160
                thief.sendto(forged, (HOST, one.stream.port.number))
                thief.sendto(b"junk", (HOST, one.stream.port.number))
            await until(lambda: min(one.stream.quality().strangers, one.stream.counts.malformed) >= 20)
        assert one.stream.inbound.stats.restarts == 0


async def test_reports_tell_of_loss_and_the_round_trip(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fastagent.connectors.rtp.stream._REPORT_S", 0.2)
    async with pair() as (one, other):
        await until(lambda: None not in (one.stream.quality().round_trip_ms, other.stream.quality().round_trip_ms))
        assert one.stream.quality().far_loss == 0.0


def key(suite: str) -> bytes:
    return secrets.token_bytes(SUITES[suite])


@pytest.mark.parametrize("suite", SUITES)
async def test_encrypted_media_is_heard_by_who_has_the_key(suite: str) -> None:
    ours, theirs = key(suite), key(suite)
    async with pair(suite=suite, keys=(ours, theirs, theirs, ours)) as (one, other):
        one.stream.outbound.queue.write(tone(0.6, 8000))
        await until_heard(other, 0.5)
        assert other.stream.counts.unauthentic == 0


async def test_what_is_not_authentic_is_counted_and_not_heard() -> None:
    suite = next(iter(SUITES))
    async with pair(suite=suite, keys=(key(suite), key(suite), key(suite), key(suite))) as (one, other):
        one.stream.outbound.queue.write(tone(0.6, 8000))
        await until(lambda: other.stream.counts.unauthentic >= 20)
        assert other.stream.inbound.stats.received == 0
        assert other.stream.quality().one_way == "nothing_received"


@pytest.mark.parametrize(("suite", "size"), [("AES_256_CM_HMAC_SHA1_80", 46), ("AES_CM_128_HMAC_SHA1_80", 29)])
def test_a_suite_or_key_that_is_none_is_told(suite: str, size: int) -> None:
    for direction in (SrtpSender, SrtpReceiver):
        with pytest.raises(SrtpError):
            direction(suite, bytes(size))


async def test_on_hold_nothing_is_sent_and_resuming_is_heard() -> None:
    async with pair() as (one, other):
        one.stream.outbound.queue.write(tone(0.4, 8000))
        await until_heard(other, 0.3)
        plan = one.stream.plan
        one.stream.renegotiate(replace(plan, sends=False))
        sent = one.stream.outbound.packets_sent
        await asyncio.sleep(0.3)
        assert one.stream.outbound.packets_sent == sent
        one.stream.renegotiate(plan)
        before = len(other.heard)
        one.stream.outbound.queue.write(tone(0.4, 8000))
        await until(lambda: any(np.abs(frame).max() > 3000 for frame in other.heard[before:]))


@pytest.mark.parametrize("name", ["PCMU", "G722", "opus"])
@pytest.mark.parametrize("ptime_ms", [10, 30, 40, 60])
async def test_packets_of_any_length_are_heard(name: str, ptime_ms: int) -> None:
    if (name, ptime_ms) == ("opus", 30):
        ptime_ms = 20  # Opus has no frames of 30 ms, and is never agreed on with them
    async with pair(name, 48000 if name == "opus" else 8000, ptime_ms=ptime_ms) as (one, other):
        one.stream.outbound.queue.write(tone(1.0, one.stream.rate_hz))
        await until_heard(other, 0.9)
        loud = [at for at, frame in enumerate(other.heard) if np.abs(frame).max() > 3000]
        assert loud == list(range(loud[0], loud[-1] + 1))
        assert other.stream.quality().lost == 0


MOVES = [("PCMU", 8000, "PCMA", 8000), ("G722", 8000, "PCMU", 8000), ("PCMU", 8000, "opus", 48000),
         ("opus", 48000, "PCMA", 8000)]  # fmt: skip


@pytest.mark.parametrize(("name", "clock_hz", "to", "to_clock_hz"), MOVES)
async def test_a_call_goes_on_in_another_codec_and_keeps_its_rate_and_its_record(
    name: str, clock_hz: int, to: str, to_clock_hz: int
) -> None:
    async with pair(name, clock_hz) as (one, other):
        rate = one.stream.rate_hz
        one.stream.outbound.queue.write(tone(0.4, rate))
        await until_heard(other, 0.3)
        ssrc, received = one.stream.outbound.ssrc, other.stream.quality().received
        for end in (one, other):
            end.stream.renegotiate(replace(end.stream.plan, codec=to, clock_hz=to_clock_hz, payload_type=97))
        began = len(other.heard)
        one.stream.outbound.queue.write(tone(0.6, rate, 900))
        await until(lambda: len(other.heard) - began >= 45)
        assert {len(frame) for frame in other.heard} == {rate // 50}
        tail = np.concatenate(other.heard[began:])
        spectrum = np.abs(np.fft.rfft(tail * np.hanning(len(tail))))
        assert np.argmax(spectrum) * rate / len(tail) == pytest.approx(900, abs=10)
        assert other.stream.quality().received > received + 20
        assert (one.stream.outbound.ssrc, one.stream.rate_hz, other.stream.quality().codec) == (ssrc, rate, to)


async def test_a_change_gives_silence_another_patience() -> None:
    async with pair() as (one, _):
        now = asyncio.get_running_loop().time()
        assert one.stream.quiet_s(now + 40) > 35
        one.stream.renegotiate(replace(one.stream.plan, sends=False))
        assert one.stream.quiet_s(now) <= 0


# -- on the wire -----------------------------------------------------------------------------------------------------


async def test_a_phone_is_answered_where_it_sends_from_and_out_of_the_port_in_our_sdp() -> None:
    with phone() as dead, phone() as alive:
        stream = End(PortPool(*free_range(), HOST), MediaPlan(dead.getsockname(), 0, "PCMU")).stream
        ours = (HOST, stream.port.number)
        for at in range(3):
            alive.sendto(bytes(RtpPacket(0, at, at * 160, 7, b"\x10" * 160)), ours)
        await until(lambda: stream.quality().received == 1)
        now = asyncio.get_running_loop().time()
        for at in range(50):
            stream.send_due(now + at * 0.02)
        stream.close()
        assert [address for _, address in waiting(alive)] == [ours] * 50
        assert waiting(dead) == []


async def test_reports_go_out_in_time_with_a_name_and_a_goodbye_at_the_end() -> None:
    with phone() as media, phone() as control:
        plan = MediaPlan(media.getsockname(), 0, "PCMU", remote_rtcp=control.getsockname())
        stream = End(PortPool(*free_range(), HOST), plan).stream
        began = asyncio.get_running_loop().time()
        times: list[float] = [0.0]
        names = set()
        for at in range(120 * 50):
            stream.tick(began + at * 0.02)
            for data, address in waiting(control):
                assert address == (HOST, stream.port.number + 1)
                report, name = rtcp.parse(data)
                assert isinstance(report, rtcp.Report)
                assert isinstance(name, rtcp.Cname)
                assert report.sender is not None
                assert report.ssrc == name.ssrc == stream.outbound.ssrc
                names.add(name.name)
                times.append(at * 0.02)
        gaps = np.diff(times)
        assert gaps.max() <= 7.52
        assert gaps.min() >= 2.48
        assert len(names) == 1
        assert len(names.pop()) == 16
        stream.close()
        ((data, _),) = waiting(control)
        assert [type(one) for one in rtcp.parse(data)] == [rtcp.Report, rtcp.Cname, rtcp.Bye]
        assert rtcp.parse(data)[-1] == rtcp.Bye(stream.outbound.ssrc)


async def test_an_address_that_is_none_is_a_lost_packet_and_keeps_no_port() -> None:
    pool = PortPool(20000, 20001, ALONE, rest_s=0.0)
    now = asyncio.get_running_loop().time()
    for remote in ((HOST, 65535), (HOST, 70000)):
        stream = End(pool, MediaPlan(remote, 0, "PCMU")).stream
        stream.send_due(now)
        stream.tick(now + 60)
        stream.close()
        assert stream.outbound.packets_sent == 1


# -- ports -----------------------------------------------------------------------------------------------------------


def test_media_is_marked_expedited_and_has_room_for_a_burst() -> None:
    low, _ = free_range()
    for host, level, option in (
        (HOST, socket.IPPROTO_IP, socket.IP_TOS),
        ("::", socket.IPPROTO_IPV6, socket.IPV6_TCLASS),
    ):
        pool = PortPool(low, low + 1, host)
        port = pool.open(0.0)
        for one in (port.media, port.control):
            assert one.getsockopt(level, option) == 46 << 2
            assert one.getsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF) >= 256 * 1024
            assert not one.getblocking()
        pool.close(port, 0.0)


def test_a_pool_in_use_gives_each_port_to_one_call_at_a_time_and_all_of_them_back() -> None:
    pool, chance = PortPool(20000, 20009, ALONE), random.Random(1)
    calls: list[MediaPort] = []
    rests_until: dict[int, float] = {}
    refused = 0
    for now in np.arange(0, 200, 0.25):
        if calls and chance.random() < 0.5:
            port = calls.pop(chance.randrange(len(calls)))
            pool.close(port, now)
            rests_until[port.number] = now + 2.0
            continue
        try:
            port = pool.open(now)
        except NoPortError:
            refused += 1
            assert len(calls) + sum(until > now for until in rests_until.values()) == 5
            continue
        assert port.number not in {one.number for one in calls}
        assert rests_until.pop(port.number, 0.0) <= now
        assert port.media.getsockname() == (ALONE, port.number)
        assert port.control.getsockname() == (ALONE, port.number + 1)
        calls.append(port)
    assert refused
    for port in calls:
        pool.close(port, 200.0)
    whole = [pool.open(203.0) for _ in range(5)]
    assert {port.number for port in whole} == set(range(20000, 20010, 2))
    for port in whole:
        pool.close(port, 203.0)


def test_ports_rest_after_a_call_and_come_in_pairs() -> None:
    low, _ = free_range()
    pool = PortPool(low, low + 3, HOST)
    first, second = pool.open(0.0), pool.open(0.0)
    assert {first.number % 2, second.number % 2} == {0}
    with pytest.raises(NoPortError):
        pool.open(0.0)
    pool.close(first, 10.0)
    with pytest.raises(NoPortError):
        pool.open(11.9)
    again = pool.open(12.1)
    assert again.number == first.number
    for one in (second, again):
        pool.close(one, 13.0)


def test_a_port_that_somebody_else_has_is_left_to_them() -> None:
    low, _ = free_range()
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as theirs:
        theirs.bind((HOST, low + 1))
        pool = PortPool(low, low + 3, HOST)
        port = pool.open(0.0)
        assert port.number == low + 2
    other = pool.open(0.0)
    assert other.number == low, "and taken when they have left"
    for one in (port, other):
        pool.close(one, 0.0)
