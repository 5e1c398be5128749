"""Every leg against the shared suite (`conformance.py`); a new connector adds its harness below."""

import asyncio
from functools import partial

import pytest

from fastagent.connectors.leg import HangupReason
from tests.connectors.audiocodes.harness import audiocodes
from tests.connectors.conformance import (
    NOTICES,
    Events,
    MakeHarness,
    Sink,
    assert_bounded,
    assert_refuses,
    audio,
    chunks_of,
    frame,
    pressed,
)
from tests.connectors.harnesses import twilio, websocket

HARNESSES: dict[str, MakeHarness] = {
    "audiocodes": audiocodes,
    "audiocodes-mulaw": partial(audiocodes, "raw/mulaw"),
    "twilio": twilio,
    "websocket": websocket,
    "websocket-mulaw": partial(websocket, output="audio/x-mulaw"),
    "websocket-reports": partial(websocket, reports=True),
}
every_leg = pytest.mark.parametrize("make", HARNESSES.values(), ids=HARNESSES)


@every_leg
async def test_the_callers_audio_reaches_the_sink_in_order_and_at_once(make: MakeHarness) -> None:
    async with make() as one:
        sink, format_ = Sink(), one.leg.info.audio
        one.leg.attach(sink)
        sent = [bytes((at + 1,)) * format_.frame_bytes for at in range(25)]
        began = asyncio.get_running_loop().time()
        for payload in sent:
            one.caller_sends(payload)
            await asyncio.sleep(0.02)
        assert bytes(sink.payload) == b"".join(sent)
        assert sink.times == pytest.approx([began + 0.02 * at for at in range(25)])
        assert sink.quiet_s == 0


@every_leg
async def test_audio_goes_out_in_order_and_whole(make: MakeHarness) -> None:
    async with make() as one:
        for at in range(20):
            one.leg.send_audio(frame(one.leg, at))
            one.leg.send_mark(f"1:{at}")
            await asyncio.sleep(0.02)
        assert audio(one) == b"".join(frame(one.leg, at) for at in range(20))
        assert one.leg.frames_dropped == 0


@every_leg
async def test_each_mark_is_reported_once_in_order_when_playout_reaches_it(make: MakeHarness) -> None:
    async with make() as one:
        events = Events(one.leg)
        for at in range(4):
            one.leg.send_audio(frame(one.leg, at) * 10)
            one.leg.send_mark(f"1:{at}")
        await asyncio.sleep(0)
        await one.peer_plays(0.1)
        assert events.marks == [], "nothing is heard before its time"
        await one.peer_plays(0.35)
        assert events.marks == ["1:0", "1:1"]
        await one.peer_plays(2.0)
        assert events.marks == ["1:0", "1:1", "1:2", "1:3"]


@every_leg
async def test_a_clear_drops_what_waits_and_reaches_the_peer_behind_what_went_before(make: MakeHarness) -> None:
    async with make() as one:
        one.leg.send_audio(frame(one.leg, 1))
        await asyncio.sleep(0.01)
        one.stall()
        for at in range(2, 10):
            one.leg.send_audio(frame(one.leg, at))
        await asyncio.sleep(0.01)
        one.leg.clear()
        one.leg.send_audio(frame(one.leg, 99))
        one.flow()
        await asyncio.sleep(0.01)
        kinds = [arrived.kind for arrived in one.arrived if arrived.kind != "final"]
        assert kinds in (["audio", "clear", "audio"], ["audio", "audio", "clear", "audio"])
        assert chunks_of(one)[-1] == 99
        assert one.leg.frames_dropped == 0, "cleared is not dropped"


@every_leg
async def test_a_mark_that_was_cleared_comes_at_most_once_and_not_late(make: MakeHarness) -> None:
    """A provider may set it free at the clear; its epoch says then that it proves nothing."""
    async with make() as one:
        events = Events(one.leg)
        one.leg.send_audio(frame(one.leg, 1) * 20)
        one.leg.send_mark("1:3200")
        await asyncio.sleep(0.05)
        one.leg.clear()
        await asyncio.sleep(0.05)
        at_once = list(events.marks)
        assert at_once in ([], ["1:3200"])
        one.leg.send_audio(frame(one.leg, 2) * 5)
        one.leg.send_mark("2:800")
        await asyncio.sleep(0)
        await one.peer_plays(2.0)
        assert events.marks == [*at_once, "2:800"]


@every_leg
@pytest.mark.parametrize("sent_before", [True, False])
async def test_a_flush_tells_the_end_of_an_answer_once_where_the_provider_wants_it(
    make: MakeHarness, sent_before: bool
) -> None:
    async with make() as one:
        for at in range(3):
            one.leg.send_audio(frame(one.leg, at))
        if sent_before:
            await asyncio.sleep(0.05)
        one.leg.flush()
        one.leg.flush()
        await asyncio.sleep(0.05)
        kinds = [arrived.kind for arrived in one.arrived]
        assert kinds == ["audio"] * 3 + ["final"] * one.tells_final
        one.leg.send_audio(frame(one.leg, 9))
        one.leg.flush()
        await asyncio.sleep(0.05)
        assert [arrived.kind for arrived in one.arrived].count("final") == 2 * one.tells_final


@every_leg
async def test_keys_are_events_in_order(make: MakeHarness) -> None:
    async with make() as one:
        events = Events(one.leg)
        for digit in "12#*AD" if one.takes_dtmf else "":
            one.caller_presses(digit)
        await asyncio.sleep(0.01)
        assert pressed(events) == "12#*AD" * one.takes_dtmf


@every_leg
async def test_an_end_by_the_peer_is_one_end_and_nothing_goes_out_after_it(make: MakeHarness) -> None:
    async with make() as one:
        events = Events(one.leg)
        one.leg.send_audio(frame(one.leg, 1))
        one.leg.send_mark("1:1")
        await asyncio.sleep(0.01)
        one.peer_ends()
        one.caller_presses("1")
        one.peer_ends()
        assert await events.end() is HangupReason.CALLER_HUNG_UP
        arrived = len(one.arrived)
        for _ in range(3):
            one.leg.send_audio(frame(one.leg, 2))
            one.leg.send_mark("1:2")
        await one.leg.hang_up(HangupReason.CALLER_HUNG_UP)
        await asyncio.sleep(1.0)
        assert audio(one) == frame(one.leg, 1)
        assert len(one.arrived) == arrived


@every_leg
async def test_a_lost_connection_is_one_end(make: MakeHarness) -> None:
    async with make() as one:
        events = Events(one.leg)
        one.leg.send_audio(frame(one.leg, 1))
        await asyncio.sleep(0.01)
        one.peer_is_lost()
        one.leg.send_audio(frame(one.leg, 2))
        assert await events.end() is HangupReason.CONNECTION_LOST
        await one.leg.hang_up(HangupReason.CONNECTION_LOST)


@every_leg
@pytest.mark.parametrize("reason", [HangupReason.COMPLETED, HangupReason.SHUTDOWN, HangupReason.INTERNAL_ERROR])
async def test_a_hang_up_by_us_is_one_end_with_our_reason_however_often(
    make: MakeHarness, reason: HangupReason
) -> None:
    async with make() as one:
        events = Events(one.leg)
        await one.leg.hang_up(reason)
        await one.leg.hang_up(HangupReason.TERMINATED)
        assert await events.end() is reason
        one.leg.clear()
        one.leg.flush()
        one.leg.send_audio(frame(one.leg, 1))
        await asyncio.sleep(0.1)
        assert audio(one) == b""


@every_leg
async def test_what_was_said_before_a_hang_up_still_goes_out(make: MakeHarness) -> None:
    async with make() as one:
        one.leg.send_audio(frame(one.leg, 1))
        one.leg.send_audio(frame(one.leg, 2))
        await one.leg.hang_up(HangupReason.COMPLETED)
        assert chunks_of(one) == [1, 2]


@every_leg
async def test_a_slow_reader_costs_two_seconds_of_audio_and_then_the_call(make: MakeHarness) -> None:
    """F14."""
    async with make() as one:
        events = Events(one.leg)
        one.stall()
        for at in range(300):
            one.leg.send_audio(frame(one.leg, at % 256))
            if at % 10 == 0:
                await asyncio.sleep(0.01)
        assert_bounded(one, 6.0)
        assert await events.end() is HangupReason.SLOW_PEER
        began = asyncio.get_running_loop().time()
        await one.leg.hang_up(HangupReason.SLOW_PEER)
        assert asyncio.get_running_loop().time() - began <= 1.5


@every_leg
async def test_a_reader_that_catches_up_hears_the_newest_audio(make: MakeHarness) -> None:
    async with make() as one:
        one.stall()
        for at in range(200):
            one.leg.send_audio(frame(one.leg, at))
        await asyncio.sleep(0.5)
        one.flow()
        await asyncio.sleep(0.1)
        assert chunks_of(one)[-100:] == list(range(100, 200))
        one.leg.send_audio(frame(one.leg, 7))
        await asyncio.sleep(0.01)
        assert chunks_of(one)[-1] == 7


@every_leg
async def test_no_notice_raises_at_any_time(make: MakeHarness) -> None:
    async with make() as one:
        for notice in NOTICES:
            one.leg.notify(notice)
        await asyncio.sleep(0.01)
        one.peer_is_lost()
        for notice in NOTICES:
            one.leg.notify(notice)
        await one.leg.hang_up(HangupReason.CONNECTION_LOST)
        for notice in NOTICES:
            one.leg.notify(notice)


@every_leg
async def test_what_is_not_offered_is_refused(make: MakeHarness) -> None:
    async with make() as one:
        await assert_refuses(one.leg)
