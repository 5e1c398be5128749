"""The agent's side: a stream that never stops, on an absolute clock."""

from itertools import pairwise

import numpy as np
import pytest

from fastagent.media.rtp import digits, packet
from fastagent.media.rtp.codecs import G711
from fastagent.media.rtp.outbound import RtpOutbound
from fastagent.media.rtp.packet import RtpPacket


def stream(**options: int) -> RtpOutbound:
    return RtpOutbound(0, G711("PCMU"), **options)


def run(out: RtpOutbound, seconds: float, *, start: float = 0.0, every: float = 0.02) -> list[RtpPacket]:
    found: list[RtpPacket] = []
    for tick in range(round(seconds / every)):
        for data in out.tick(start + tick * every):
            one = packet.parse(data)
            assert one is not None
            found.append(one)
    return found


def test_silence_is_sent_and_time_goes_on() -> None:
    packets = run(stream(), 2.0)
    assert len(packets) == 100
    assert {one.payload for one in packets} == {b"\xff" * 160}
    assert [one.marker for one in packets] == [True] + [False] * 99
    for before, after in pairwise(packets):
        assert (after.sequence - before.sequence) & 0xFFFF == 1
        assert (after.timestamp - before.timestamp) & 0xFFFFFFFF == 160


@pytest.mark.parametrize("ptime_ms", [20, 40, 60])
def test_packets_have_the_length_that_was_agreed(ptime_ms: int) -> None:
    packets = run(stream(ptime_ms=ptime_ms), 1.2)
    assert len(packets) == 1200 // ptime_ms
    assert {len(one.payload) for one in packets} == {8 * ptime_ms}


def test_what_is_written_goes_out_and_a_clear_leaves_no_seam() -> None:
    out = stream()
    out.queue.write(np.full(1000, 5000, np.int16))
    first = run(out, 0.04)
    assert all(one.payload != b"\xff" * 160 for one in first)
    out.queue.clear()
    assert out.queue.queued_s == 0.01  # the fade
    rest = run(out, 0.1, start=0.04)
    fade = G711("PCMU").decode(rest[0].payload)
    assert fade[0] > 4500
    assert abs(int(fade[79])) < 200
    assert {one.payload for one in rest[1:]} == {b"\xff" * 160}
    assert (rest[0].timestamp - first[-1].timestamp) & 0xFFFFFFFF == 160
    assert not rest[0].marker
    assert rest[0].ssrc == first[0].ssrc


def test_a_stall_is_not_made_up_for_by_a_burst() -> None:
    out = stream()
    before = run(out, 0.1)
    after = [packet.parse(data) for data in out.tick(1.0)]
    assert len(after) <= 5
    assert out.skipped > 30
    last = after[-1]
    assert last is not None
    assert (last.timestamp - before[-1].timestamp) & 0xFFFFFFFF == 46 * 160  # the clock stood by the wall


def test_keys_are_events_with_one_timestamp_each() -> None:
    out = RtpOutbound(0, G711("PCMU"), event_type=96)
    out.press("1#")
    events = [one for one in run(out, 1.0) if one.payload_type == 96]
    times = list(dict.fromkeys(one.timestamp for one in events))
    assert len(times) == 2
    for time, key in zip(times, "1#", strict=True):
        of_key = [one for one in events if one.timestamp == time]
        parsed = [digits.parse(one.payload) for one in of_key]
        assert [one.marker for one in of_key] == [True] + [False] * (len(of_key) - 1)
        assert [event.end for event in parsed if event] == [False] * (len(parsed) - 3) + [True] * 3
        assert {digits.KEYS[event.event] for event in parsed if event} == {key}
        assert [event.duration for event in parsed if event] == sorted(event.duration for event in parsed if event)
    with pytest.raises(ValueError, match="negotiated"):
        stream().press("1")


def test_on_hold_nothing_is_sent_and_the_clock_goes_on() -> None:
    out = stream()
    before = run(out, 0.1)
    out.held = True
    assert run(out, 1.0, start=0.1) == []
    out.held = False
    after = run(out, 0.1, start=1.1)
    assert (after[0].timestamp - before[-1].timestamp) & 0xFFFFFFFF == 51 * 160
    assert (after[0].sequence - before[-1].sequence) & 0xFFFF == 1
    assert after[0].marker
