"""Two streams joined over real sockets on loopback, each driven by a ticker."""

import asyncio
import socket
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import numpy as np
import pytest

from fastagent.connectors.rtp.ports import NoPortError, PortPool
from fastagent.connectors.rtp.srtp import SUITES, Srtp, SrtpError, new_key
from fastagent.connectors.rtp.stream import MediaPlan, RtpStream
from fastagent.media.g711 import Int16Array
from fastagent.media.rtp.codecs import codec
from fastagent.media.ticker import Ticker

pytestmark = pytest.mark.real
HOST = "127.0.0.1"


class End:
    """One side, and what it heard."""

    def __init__(self, pool: PortPool, plan: MediaPlan) -> None:
        self.heard: list[Int16Array] = []
        self.keys = ""
        self.stream = RtpStream(
            pool, plan, make_codec=codec, on_audio=lambda samples, now: self.heard.append(samples), on_key=self._key
        )

    def _key(self, key: str) -> None:
        self.keys += key

    @property
    def audio(self) -> Int16Array:
        return np.concatenate(self.heard)


def free_range() -> tuple[int, int]:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as one:
        one.bind((HOST, 0))
        low = one.getsockname()[1] // 2 * 2
    return low, low + 19


@asynccontextmanager
async def pair(
    name: str = "PCMU", clock_hz: int = 8000, *, srtp: tuple[Srtp, Srtp] | None = None, events: int | None = 101
) -> AsyncIterator[tuple[End, End]]:
    pool = PortPool(*free_range(), HOST)
    plan = MediaPlan((HOST, 9), 96, name, clock_hz, event_type=events, srtp=srtp[0] if srtp else None)
    one = End(pool, plan)
    back = MediaPlan((HOST, one.stream.port), 96, name, clock_hz, event_type=events, srtp=srtp[1] if srtp else None)
    other = End(pool, back)
    one.stream.renegotiate(MediaPlan((HOST, other.stream.port), 96, name, clock_hz, event_type=events, srtp=plan.srtp))
    ticker = Ticker()
    for end in (one, other):
        ticker.add(end.stream.tick)
    try:
        yield one, other
    finally:
        for end in (one, other):
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
        one.stream.write(tone(1.0, rate, 500))
        other.stream.write(tone(1.0, rate, 900))
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
        other.stream.write(tone(1.0, 8000))
        await until_heard(one, 0.2)
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as thief:
            for at in range(20):
                forged = bytes.fromhex("8060") + at.to_bytes(2, "big") + bytes(8) + b"\x10" * 160
                thief.sendto(forged, (HOST, one.stream.port))
                thief.sendto(b"junk", (HOST, one.stream.port))
            await until(lambda: min(one.stream.counts.strangers, one.stream.counts.malformed) >= 20)
        assert one.stream.inbound.stats.restarts == 0


async def test_reports_tell_of_loss_and_the_round_trip(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fastagent.connectors.rtp.stream._REPORT_S", 0.2)
    async with pair() as (one, other):
        await until(lambda: None not in (one.stream.quality().round_trip_ms, other.stream.quality().round_trip_ms))
        assert one.stream.quality().far_loss == 0.0


@pytest.mark.parametrize("suite", SUITES)
async def test_encrypted_media_is_heard_by_who_has_the_key(suite: str) -> None:
    ours, theirs = new_key(), new_key()
    both = (Srtp(suite, ours=ours, theirs=theirs), Srtp(suite, ours=theirs, theirs=ours))
    async with pair(srtp=both) as (one, other):
        one.stream.write(tone(0.6, 8000))
        await until_heard(other, 0.5)
        assert other.stream.counts.unauthentic == 0


async def test_what_is_not_authentic_is_counted_and_not_heard() -> None:
    both = (Srtp(SUITES[0], ours=new_key(), theirs=new_key()), Srtp(SUITES[0], ours=new_key(), theirs=new_key()))
    async with pair(srtp=both) as (one, other):
        one.stream.write(tone(0.6, 8000))
        await until(lambda: other.stream.counts.unauthentic >= 20)
        assert other.stream.inbound.stats.received == 0
        assert other.stream.quality().one_way == "nothing_received"


@pytest.mark.parametrize(("suite", "key"), [("AES_256_CM", "A" * 40), (SUITES[0], "short"), (SUITES[0], "AAAA")])
def test_a_suite_or_key_that_is_none_is_told(suite: str, key: str) -> None:
    with pytest.raises(SrtpError):
        Srtp(suite, ours=new_key(), theirs=key)


async def test_on_hold_nothing_is_sent_and_resuming_is_heard() -> None:
    async with pair() as (one, other):
        one.stream.write(tone(0.4, 8000))
        await until_heard(other, 0.3)
        plan = one.stream.plan
        held = MediaPlan(plan.remote, plan.payload_type, plan.codec, sends=False)
        one.stream.renegotiate(held)
        sent = one.stream.outbound.packets_sent
        await asyncio.sleep(0.3)
        assert one.stream.outbound.packets_sent == sent
        one.stream.renegotiate(plan)
        before = len(other.heard)
        one.stream.write(tone(0.4, 8000))
        await until(lambda: any(np.abs(frame).max() > 3000 for frame in other.heard[before:]))


def test_ports_rest_after_a_call_and_come_in_pairs() -> None:
    low, _ = free_range()
    pool = PortPool(low, low + 3, HOST)
    first, *sockets = pool.open(0.0)
    second, *more = pool.open(0.0)
    assert {first % 2, second % 2} == {0}
    with pytest.raises(NoPortError):
        pool.open(0.0)
    for one in (*sockets, *more):
        one.close()
    pool.close(first, 10.0)
    with pytest.raises(NoPortError):
        pool.open(11.9)
    again, *sockets = pool.open(12.1)
    assert again == first
    for one in sockets:
        one.close()


def test_a_port_that_somebody_else_has_is_left_to_them() -> None:
    low, _ = free_range()
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as theirs:
        theirs.bind((HOST, low + 1))
        pool = PortPool(low, low + 3, HOST)
        port, *sockets = pool.open(0.0)
        assert port == low + 2
        for one in sockets:
            one.close()
