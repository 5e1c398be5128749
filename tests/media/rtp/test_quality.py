"""The E-model, at points that its tables know, and what a call's record is made of."""

import numpy as np
import pytest

from fastagent.media.g711 import Int16Array
from fastagent.media.rtp.inbound import RtpInbound
from fastagent.media.rtp.packet import RtpPacket
from fastagent.media.rtp.quality import CallQuality, mos, quality_of, r_factor
from tests.support.rtp_link import arrivals, packets_of, received, receiver


def tone(seconds: float) -> Int16Array:
    return (8000 * np.sin(2 * np.pi * 400 * np.arange(round(seconds * 8000)) / 8000)).astype(np.int16)


def record(inbound: RtpInbound) -> CallQuality:
    return quality_of(inbound, codec="PCMU", packets_sent=1, round_trip_s=0.04, far_loss=None, strangers=7)


@pytest.mark.parametrize(
    ("loss", "delay", "low", "high"),
    [(0.0, 20, 4.35, 4.45), (0.05, 60, 3.6, 4.1), (0.2, 100, 1.8, 2.8), (0, 400, 2.9, 3.9)],
)
def test_what_listeners_would_say(loss: float, delay: float, low: float, high: float) -> None:
    assert low <= mos(r_factor(codec="PCMU", loss=loss, one_way_ms=delay)) <= high


def test_more_loss_or_delay_is_never_better() -> None:
    ratings = [r_factor(codec="PCMA", loss=share / 100, one_way_ms=50) for share in range(0, 60, 5)]
    assert ratings == sorted(ratings, reverse=True)
    delays = [r_factor(codec="PCMA", loss=0, one_way_ms=ms) for ms in range(0, 1000, 50)]
    assert delays == sorted(delays, reverse=True)
    assert mos(0) == 1.0
    assert mos(100) == 4.5


def test_a_record_says_what_was_made_up() -> None:
    one = CallQuality("PCMU", 950, 50, 3, 2, 1, 50, 950, 8.0, 20.0, 60.0, 80.0, 0.01, None)
    assert one.loss == pytest.approx(0.05)
    assert one.details()["mos"] == one.mos
    assert 3.4 < one.mos < 4.1


@pytest.mark.parametrize("ptime_ms", [10, 20, 30, 40, 60])
def test_the_share_that_was_made_up_is_that_of_the_time_however_long_packets_are(ptime_ms: int) -> None:
    inbound = receiver()
    stream = arrivals(packets_of(tone(60), ptime_ms=ptime_ms), ptime_ms=ptime_ms, loss=0.05, seed=3)
    received(inbound, stream, 60)
    one = record(inbound)
    assert one.played_frames + one.concealed_frames == pytest.approx(60 * 50, abs=6)
    assert one.loss == pytest.approx(one.lost / (one.lost + one.received), abs=0.002)


def test_pauses_that_the_sender_makes_are_neither_loss_nor_made_up() -> None:
    """A second of speech, a second of nothing, and nothing says that a pause begins."""
    spoken = [one for at, one in enumerate(packets_of(tone(20))) if at // 50 % 2 == 0]
    packets = [
        RtpPacket(0, 60_000 + at & 0xFFFF, one.timestamp, one.ssrc, one.payload) for at, one in enumerate(spoken)
    ]
    inbound = receiver()
    received(inbound, ((0.05 + at // 50 * 2 + at % 50 * 0.02, one) for at, one in enumerate(packets)), 20)
    one = record(inbound)
    assert (one.played_frames, one.concealed_frames, one.lost, one.mos) == (500, 0, 0, 4.37)
    assert inbound.stats.silent_frames == 500


@pytest.mark.parametrize("gone", [0, 5])
def test_an_empty_buffer_counts_once_it_turns_out_to_have_been_late_or_lost(gone: int) -> None:
    packets = packets_of(tone(2.0))
    stream = [(0.05 + at * 0.02 + (0.5 if at >= 50 else 0), one) for at, one in enumerate(packets)]
    del stream[50 : 50 + gone]
    inbound = receiver()
    seen = []
    for tick in range(135):
        while stream and stream[0][0] <= tick * 0.02:
            at, one = stream.pop(0)
            inbound.push(one, at)
        inbound.tick(tick * 0.02)
        seen.append((inbound.stats.concealed_frames, inbound.stats.played_frames))
    until = max(frames for made_up, frames in seen if made_up == 0)
    assert until == 50, "not before the next packet"
    assert seen[-1][0] == 3, "so long it is made up; then it is quiet"


def test_counts_are_whole_numbers_and_strangers_are_told() -> None:
    inbound = receiver()
    packets = packets_of(tone(1), ptime_ms=10)
    received(inbound, arrivals(packets, ptime_ms=10, loss=0.1), 1.1)
    details = record(inbound).details()
    counts = {name: one for name, one in details.items() if isinstance(one, int)}
    assert set(counts) == {
        "received", "lost", "late", "duplicates", "reordered", "concealed_frames", "played_frames", "strangers",
    }  # fmt: skip
    assert counts["strangers"] == 7
