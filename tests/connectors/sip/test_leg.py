"""What every leg must do (`tests/connectors/conformance.py`), for one whose media has a clock: a call in virtual time.

The phone is a second end of RTP on wires in memory, driven by the same ticker; the signalling is written down.
"""

import asyncio
import socket
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any, cast

import numpy as np
import pytest

from fastagent.connectors.leg import (
    CallInfo,
    DtmfReceived,
    HangupReason,
    HoldBegan,
    HoldEnded,
    LegEnded,
    LegError,
)
from fastagent.connectors.rtp.ports import MediaPort, PortPool
from fastagent.connectors.rtp.source import Address
from fastagent.connectors.rtp.stream import MediaPlan, RtpStream
from fastagent.connectors.sip.attended import Consultation
from fastagent.connectors.sip.grammar import Malformed
from fastagent.connectors.sip.hold_music import HoldMusic
from fastagent.connectors.sip.leg import SipLeg
from fastagent.media.frame import AudioFormat
from fastagent.media.g711 import Int16Array
from fastagent.media.rtp.codecs import codec
from fastagent.media.ticker import Ticker
from tests.connectors.conformance import NOTICES, Events, Sink, pressed
from tests.support.memory_socket import MemorySocket

HERE: Address = ("192.0.2.1", 10000)
PHONE: Address = ("192.0.2.7", 4000)


class Pool:
    """One pair of wires."""

    def __init__(self, address: Address) -> None:
        self.media, self.control = MemorySocket(address), MemorySocket((address[0], address[1] + 1))
        self._number = address[1]
        self.closed = 0

    def open(self, now: float) -> MediaPort:
        return MediaPort(self._number, cast(socket.socket, self.media), cast(socket.socket, self.control))

    def close(self, port: MediaPort, now: float) -> None:
        self.closed += 1
        self.media.close()
        self.control.close()


class Signalling:
    """What the leg asks for; the user agent answers `hold_answer` and `refer_answer` at once where they are set."""

    consult: Callable[[str], Consultation] | None = None

    def __init__(self) -> None:
        self.asked: list[str] = []
        self.leg: SipLeg | None = None
        self.confirms = True
        self.hold_answer: bool | None = None
        self.refer_answer: int | None = None

    def hang_up(self, reason: HangupReason) -> None:
        self.asked.append(f"BYE {reason.value}")
        if self.confirms and self.leg is not None:
            asyncio.get_running_loop().call_soon(self.leg.happened, LegEnded(reason))

    def transfer(self, target: str) -> None:
        if " " in target:
            raise Malformed("no address")
        self.asked.append(f"REFER {target}")
        if self.refer_answer is not None and self.leg is not None:
            asyncio.get_running_loop().call_later(0.2, self.leg.transfer_progressed, self.refer_answer, True)

    def send_info(self, digit: str) -> None:
        self.asked.append(f"INFO {digit}")

    def hold(self, on: bool) -> None:
        self.asked.append(f"hold {on}")
        if self.hold_answer is not None and self.leg is not None:
            asyncio.get_running_loop().call_later(0.1, self.leg.change_done, self.hold_answer)


class Call:
    """A leg, and its phone."""

    def __init__(self, name: str, clock_hz: int, **plan: Any) -> None:
        self.heard: list[Int16Array] = []
        self.phone_keys = ""
        self.signalling = Signalling()
        here, there = Pool(HERE), Pool(PHONE)
        self.pool, self.wire = here, there.media
        here.media.other, there.media.other = there.media, here.media
        here.control.other, there.control.other = there.control, here.control
        common: dict[str, Any] = {"codec": name, "clock_hz": clock_hz, "event_type": 101}
        self.plan = MediaPlan(PHONE, 96, **{**common, **plan})
        self.stream = RtpStream(
            cast(PortPool, here),
            self.plan,
            on_audio=lambda samples, now: self.leg.audio_received(samples, now),
            on_key=lambda key: self.leg.key_received(key, "rtp"),
        )
        rate = codec(name, clock_hz).rate_hz
        self.info = CallInfo("sip", "c1", "c1", "", "", "inbound", AudioFormat("L16", rate))
        self.leg = self.signalling.leg = SipLeg(self.info, self.stream, self.signalling, music=HoldMusic(None))
        self.phone = RtpStream(
            cast(PortPool, there),
            MediaPlan(HERE, 96, **common),
            on_audio=lambda samples, now: self.heard.append(samples),
            on_key=self._key,
        )
        self.ticker = Ticker()
        self.phone_talks = True
        for one in (self.stream, self.phone):
            self.ticker.add(one.send_due if one is self.stream else self._phone_sends, early=True)
            self.ticker.add(one.tick)

    def _key(self, key: str) -> None:
        self.phone_keys += key

    def _phone_sends(self, now: float) -> None:
        if self.phone_talks:
            self.phone.send_due(now)

    def frame(self, value: int) -> bytes:
        """20 ms at this value."""
        return np.full(self.info.audio.rate_hz // 50, value, "<i2").tobytes()

    @property
    def levels(self) -> list[int]:
        """What the phone hears above its own comfort noise, each value once in turn."""
        whole = np.concatenate(self.heard)
        kept = whole[np.flatnonzero(np.diff(whole, prepend=0))]
        return [int(one) for one in kept if abs(one) >= 100]

    def loud_s(self, above: int = 500) -> float:
        """How long the phone has heard something."""
        return sum(float(np.abs(one.astype(np.int32)).max() > above) for one in self.heard) * 0.02

    def close(self) -> None:
        for one in (self.stream, self.phone):
            self.ticker.remove(one.send_due if one is self.stream else self._phone_sends)
            self.ticker.remove(one.tick)
            one.close()


@asynccontextmanager
async def call(name: str = "L16", clock_hz: int = 8000, **plan: Any) -> AsyncIterator[Call]:
    """L16 by default: what was written is what is heard."""
    one = Call(name, clock_hz, **plan)
    try:
        yield one
    finally:
        one.close()
        assert one.pool.closed == 1


every_codec = pytest.mark.parametrize(
    ("name", "clock_hz"), [("PCMU", 8000), ("PCMA", 8000), ("G722", 8000), ("opus", 48000), ("L16", 16000)]
)


# -- audio ---------------------------------------------------------------------------------------------------------


@every_codec
async def test_the_caller_is_heard_20_ms_at_a_time_on_the_clock(name: str, clock_hz: int) -> None:
    async with call(name, clock_hz) as one:
        sink = Sink()
        one.leg.attach(sink)
        rate = one.info.audio.rate_hz
        one.phone.outbound.queue.write((6000 * np.sin(np.arange(rate) * 2 * np.pi * 400 / rate)).astype(np.int16))
        await asyncio.sleep(2.01)
        assert np.diff(sink.times) == pytest.approx(0.02)
        assert len(sink.payload) == len(sink.times) * one.info.audio.frame_bytes
        samples = np.frombuffer(sink.payload, "<i2").astype(float)
        loud = np.flatnonzero(np.abs(samples) > 2500)
        assert (loud[-1] - loud[0]) / rate == pytest.approx(1.0, abs=0.05)
        assert one.leg.quality() is not None


async def test_audio_goes_out_in_order_and_whole() -> None:
    async with call() as one:
        for at in range(1, 21):
            one.leg.send_audio(one.frame(1000 * at))
            await asyncio.sleep(0.02)
        await asyncio.sleep(0.5)
        assert one.levels == [1000 * at for at in range(1, 21)]


async def test_each_mark_is_reported_once_in_order_when_it_has_been_sent() -> None:
    async with call() as one:
        events = Events(one.leg)
        for at in range(4):
            one.leg.send_audio(one.frame(1000) * 10)
            one.leg.send_mark(f"1:{at}")
        await asyncio.sleep(0.1)
        assert events.marks == [], "nothing is heard before its time"
        await asyncio.sleep(0.35)
        assert events.marks == ["1:0", "1:1"]
        await asyncio.sleep(2.0)
        assert events.marks == ["1:0", "1:1", "1:2", "1:3"]


async def test_a_mark_behind_nothing_is_reached_at_once() -> None:
    async with call() as one:
        events = Events(one.leg)
        one.leg.send_mark("1:0")
        await asyncio.sleep(0.03)
        assert events.marks == ["1:0"]


async def test_a_clear_silences_within_two_packets_and_its_marks_never_come() -> None:
    async with call() as one:
        events = Events(one.leg)
        one.leg.send_audio(one.frame(8000) * 50)
        one.leg.send_mark("1:8000")
        await asyncio.sleep(0.2)
        one.leg.clear()
        await asyncio.sleep(1.5)
        assert 0.2 <= one.loud_s() <= 0.26
        assert events.marks == []
        one.leg.send_audio(one.frame(500) * 5)
        one.leg.send_mark("2:800")
        await asyncio.sleep(0.5)
        assert events.marks == ["2:800"]
        assert one.levels[-1] == 500


async def test_the_stream_goes_on_in_silence() -> None:
    async with call() as one:
        await asyncio.sleep(2.0)
        assert len(one.pool.media.sent) == pytest.approx(100, abs=1)


async def test_an_answers_end_is_no_sound() -> None:
    async with call() as one:
        one.leg.flush()
        one.leg.flush()
        one.leg.send_audio(b"")
        one.leg.send_audio(one.frame(900))
        await asyncio.sleep(0.3)
        assert one.levels == [900]
        assert one.leg.frames_dropped == 0


# -- keys ----------------------------------------------------------------------------------------------------------


async def test_keys_are_events_in_order_and_one_by_two_ways_is_one() -> None:
    async with call() as one:
        events = Events(one.leg)
        one.phone.outbound.press("12#")
        await asyncio.sleep(1.0)
        one.leg.key_received("7", "info")
        one.leg.key_received("7", "rtp")
        one.leg.key_received("7", "rtp")
        await asyncio.sleep(0.4)
        one.leg.key_received("7", "info")
        await asyncio.sleep(0.4)
        assert pressed(events) == "12#777"
        for _ in range(3):  # by a phone that says everything twice, in a hurry
            one.leg.key_received("5", "rtp")
            await asyncio.sleep(0.02)
            one.leg.key_received("5", "info")
            await asyncio.sleep(0.18)
        assert pressed(events) == "12#777555"


async def test_our_keys_go_as_events_or_by_info() -> None:
    async with call() as one:
        await one.leg.send_dtmf("12*")
        await asyncio.sleep(1.0)
        assert (one.phone_keys, one.signalling.asked) == ("12*", [])
    async with call(event_type=None) as one:
        await one.leg.send_dtmf("12")
        await asyncio.sleep(0.5)
        assert (one.phone_keys, one.signalling.asked) == ("", ["INFO 1", "INFO 2"])


# -- hold and transfer -----------------------------------------------------------------------------------------------


async def test_a_hold_by_the_phone_is_told_once_and_what_it_plays_is_not_heard() -> None:
    async with call() as one:
        events, sink = Events(one.leg), Sink()
        one.leg.attach(sink)
        held = MediaPlan(PHONE, 96, "L16", event_type=101, sends=False)
        one.leg.media_changed(held)
        one.leg.media_changed(held)
        before, sent = len(sink.payload), len(one.pool.media.sent)
        one.phone.outbound.queue.write(np.full(8000, 5000, np.int16))
        await asyncio.sleep(0.5)
        assert len(one.pool.media.sent) == sent
        assert not any(sink.payload[before:])
        assert len(sink.payload) > before, "time goes on"
        one.leg.media_changed(one.plan)
        await asyncio.sleep(0.1)
        assert events.seen == [HoldBegan(), HoldEnded()]
        assert any(sink.payload[before:])


async def test_a_hold_by_us_waits_for_the_phone_and_may_be_refused() -> None:
    async with call() as one:
        one.signalling.hold_answer = True
        await one.leg.hold(True)
        await one.leg.hold(True)
        assert one.signalling.asked == ["hold True"]
        one.signalling.hold_answer = False
        with pytest.raises(LegError, match="does not agree"):
            await one.leg.hold(False)
        one.signalling.hold_answer = None
        began = asyncio.get_running_loop().time()
        with pytest.raises(LegError):
            await one.leg.hold(False)
        assert asyncio.get_running_loop().time() - began == pytest.approx(120)


async def test_a_hold_that_succeeds_when_nobody_waits_for_it_any_more_is_one() -> None:
    async with call() as one:
        waiting = asyncio.create_task(one.leg.hold(True))
        await asyncio.sleep(0.01)
        waiting.cancel()
        undoing = asyncio.create_task(one.leg.hold(False))
        await asyncio.sleep(5)
        assert one.signalling.asked == ["hold True"], "one change at a time"
        one.signalling.hold_answer = True
        one.leg.change_done(True)
        await undoing
        assert one.signalling.asked == ["hold True", "hold False"]


async def test_a_change_by_the_phone_is_no_answer_to_ours() -> None:
    async with call() as one:
        waiting = asyncio.create_task(one.leg.hold(True))
        await asyncio.sleep(0.01)
        one.leg.media_changed(one.plan)
        await asyncio.sleep(0.1)
        assert not waiting.done()
        one.leg.change_done(False)
        with pytest.raises(LegError):
            await waiting


@pytest.mark.parametrize(("answer", "error"), [(200, ""), (603, "603"), (None, "no answer")])
async def test_a_transfer_ends_as_the_phone_says(answer: int | None, error: str) -> None:
    async with call() as one:
        one.signalling.refer_answer = answer
        if error:
            with pytest.raises(LegError, match=error):
                await one.leg.transfer("200")
        else:
            await one.leg.transfer("200")
        with pytest.raises(LegError, match="no address"):
            await one.leg.transfer("2 0 0")
        assert one.signalling.asked == ["REFER 200"]


async def test_whoever_waits_for_the_phone_is_told_when_the_call_ends() -> None:
    async with call() as one:
        events = Events(one.leg)
        holding = asyncio.create_task(one.leg.hold(True))
        moving = asyncio.create_task(one.leg.transfer("200"))
        await asyncio.sleep(0.1)
        one.leg.happened(LegEnded(HangupReason.CALLER_HUNG_UP))
        for task in (holding, moving):
            with pytest.raises(LegError):
                async with asyncio.timeout(0.1):
                    await task
        assert await events.end() is HangupReason.CALLER_HUNG_UP


# -- the end -----------------------------------------------------------------------------------------------------


async def test_an_end_by_the_phone_is_one_end_and_nothing_is_said_after_it() -> None:
    async with call() as one:
        events = Events(one.leg)
        one.leg.happened(LegEnded(HangupReason.CALLER_HUNG_UP))
        one.leg.happened(DtmfReceived("1"))
        one.leg.happened(LegEnded(HangupReason.CALLER_HUNG_UP))
        assert await events.end() is HangupReason.CALLER_HUNG_UP
        one.leg.send_audio(one.frame(5000) * 10)
        one.leg.send_mark("1:2")
        await one.leg.hang_up(HangupReason.CALLER_HUNG_UP)
        await asyncio.sleep(0.5)
        assert one.loud_s() == 0
        assert one.signalling.asked == []


@pytest.mark.parametrize("reason", [HangupReason.COMPLETED, HangupReason.SHUTDOWN, HangupReason.INTERNAL_ERROR])
@pytest.mark.parametrize("confirms", [True, False])
async def test_a_hang_up_by_us_is_one_end_with_our_reason_however_often(reason: HangupReason, confirms: bool) -> None:
    async with call() as one:
        one.signalling.confirms = confirms
        events = Events(one.leg)
        began = asyncio.get_running_loop().time()
        await one.leg.hang_up(reason)
        await one.leg.hang_up(HangupReason.TERMINATED)
        assert await events.end() is reason
        assert asyncio.get_running_loop().time() - began <= 5.01
        assert one.signalling.asked == [f"BYE {reason.value}"]


async def test_a_phone_that_falls_silent_ends_the_call_but_not_one_on_hold() -> None:
    async with call() as one:
        events = Events(one.leg)
        await asyncio.sleep(1.0)
        one.phone_talks = False
        one.leg.media_changed(MediaPlan(PHONE, 96, "L16", event_type=101, listens=False))
        await asyncio.sleep(600)
        assert events.seen == [HoldBegan()]
        one.leg.media_changed(one.plan)
        await asyncio.sleep(600)
        assert events.seen == [HoldBegan(), HoldEnded()], "a phone that suppresses silence still reports"
        one.ticker.remove(one.phone.tick)
        began = asyncio.get_running_loop().time()
        assert await events.end() is HangupReason.MEDIA_TIMEOUT
        assert 22 < asyncio.get_running_loop().time() - began < 30.1


async def test_no_notice_raises_at_any_time() -> None:
    async with call() as one:
        for notice in NOTICES:
            one.leg.notify(notice)
        await one.leg.hang_up(HangupReason.COMPLETED)
        for notice in NOTICES:
            one.leg.notify(notice)
        one.leg.clear()
        assert one.signalling.asked == ["BYE completed"]
