"""The way of a datagram leg's audio, over a network that loses, delays, repeats and reorders by a seed."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fastagent.media.g711 import Int16Array
from fastagent.media.rtp import digits
from fastagent.media.rtp.codecs import G711, G722, L16, Codec, Opus, codec, opus_duration
from fastagent.media.rtp.inbound import RtpInbound
from fastagent.media.rtp.packet import RtpPacket
from tests.support.rtp_link import arrivals, packets_of, received, receiver


def tone(seconds: float, hz: float = 400.0, rate_hz: int = 8000) -> Int16Array:
    return (8000 * np.sin(2 * np.pi * hz * np.arange(round(seconds * rate_hz)) / rate_hz)).astype(np.int16)


def speechlike(seconds: float) -> Int16Array:
    """A second of tone, half a second of nothing, and so on."""
    out = tone(seconds)
    out[(np.arange(len(out)) // 4000) % 3 == 2] = 0
    return out


def strongest_hz(samples: Int16Array, rate_hz: int = 8000) -> float:
    spectrum = np.abs(np.fft.rfft(samples * np.hanning(len(samples))))
    return float(np.argmax(spectrum) * rate_hz / len(samples))


def test_a_clean_stream_is_heard_whole_and_wraps_without_a_seam() -> None:
    inbound, sent = receiver(), tone(2.0)
    heard = received(inbound, arrivals(packets_of(sent)), 2.3)
    stats = inbound.stats
    assert (stats.played_frames, stats.dropped_frames, inbound.buffer.stats.lost) == (100, 0, 0)
    assert (stats.concealed_frames, stats.silent_frames) == (0, 15), "nobody knows that more was to come"
    began = int(np.argmax(np.abs(heard) > 1000))
    assert began / 8000 <= 0.05 + 0.06 + 0.02  # the way, the first depth, a tick
    assert strongest_hz(heard[began : began + 8000]) == pytest.approx(400, abs=2)


@pytest.mark.parametrize("ptime_ms", [10, 20, 30, 40, 60])
def test_packets_may_have_any_length(ptime_ms: int) -> None:
    inbound = receiver()
    received(inbound, arrivals(packets_of(tone(1.2), ptime_ms=ptime_ms), ptime_ms=ptime_ms), 1.4)
    assert (inbound.stats.concealed_frames, inbound.stats.played_frames) == (0, 60)


@given(
    seed=st.integers(0, 10_000),
    loss=st.floats(0, 0.3),
    jitter_s=st.floats(0, 0.15),
    duplicate=st.floats(0, 0.3),
)
@settings(max_examples=40)
def test_every_packet_is_accounted_for(seed: int, loss: float, jitter_s: float, duplicate: float) -> None:
    packets = packets_of(speechlike(4.0))
    stream = list(arrivals(packets, seed=seed, loss=loss, jitter_s=jitter_s, duplicate=duplicate))
    inbound = receiver()
    heard = received(inbound, iter(stream), 4.8)
    buffer, stats = inbound.buffer.stats, inbound.stats
    assert len(heard) == round(4.8 * 50) * 160
    assert stats.received + stats.duplicates == len(stream)
    assert buffer.played + buffer.late + buffer.dropped == stats.received
    assert stats.late == buffer.late + buffer.dropped
    assert stats.played_frames == buffer.played


def test_a_packet_too_late_is_counted_and_not_played() -> None:
    packets = packets_of(tone(1.0))
    stream = [(0.05 + at * 0.02, one) for at, one in enumerate(packets) if at != 10]
    stream.append((0.8, packets[10]))
    inbound = receiver()
    received(inbound, iter(sorted(stream, key=lambda one: one[0])), 1.2)
    assert inbound.buffer.stats.late == 1
    assert inbound.stats.played_frames == 49
    assert inbound.buffer.stats.lost == 1


def test_the_depth_follows_the_jitter_and_comes_back() -> None:
    calm, rough = receiver(), receiver()
    received(calm, arrivals(packets_of(speechlike(10))), 10)
    received(rough, arrivals(packets_of(speechlike(10)), jitter_s=0.1), 10)
    assert calm.buffer.target_s == pytest.approx(0.04)
    assert 0.1 <= rough.buffer.target_s <= 0.14
    half = packets_of(speechlike(60))
    stream = [*arrivals(half[:1000], jitter_s=0.1), *((20.05 + at * 0.02, one) for at, one in enumerate(half[1000:]))]
    both = receiver()
    received(both, iter(stream), 59)
    assert both.buffer.target_s == pytest.approx(0.04, abs=0.011)
    assert both.buffer.depth_s(59) < 0.1
    assert both.stats.dropped_frames > 0


@pytest.mark.parametrize("drift", [2e-4, -2e-4])
def test_ten_minutes_of_drifting_clocks_lose_nothing(drift: float) -> None:
    inbound = receiver()
    received(inbound, arrivals(packets_of(speechlike(600)), drift=drift, jitter_s=0.02), 599)
    assert inbound.buffer.depth_s(599) < 0.12
    assert inbound.buffer.stats.late == 0
    adjusted = inbound.stats.dropped_frames + inbound.stats.repeated_frames + inbound.stats.silent_frames
    assert adjusted * 0.02 >= 600 * abs(drift) - 0.06
    assert inbound.stats.concealed_frames < 10


@pytest.mark.parametrize("late_s", [0.0, 0.08])
def test_a_pause_that_the_sender_makes_is_no_loss(late_s: float) -> None:
    inbound = receiver()
    packets = packets_of(tone(1.0))
    later = [
        RtpPacket(0, one.sequence, one.timestamp + 80000 & 0xFFFFFFFF, one.ssrc, one.payload) for one in packets[25:]
    ]
    stream = [(0.05 + at * 0.02, one) for at, one in enumerate(packets[:25])]
    stream += [(10.55 + late_s + at * 0.02, one) for at, one in enumerate(later)]
    received(inbound, iter(stream), 11.5)
    assert inbound.buffer.stats.lost == 0
    assert inbound.stats.concealed_frames == 0
    assert inbound.stats.played_frames == 50


@pytest.mark.parametrize("jitter_s", [0.0, 0.06])
def test_a_key_in_the_stream_is_no_loss_and_no_jitter(jitter_s: float) -> None:
    """Audio stops for a key; its packets take numbers, and all have the time of its beginning (RFC 4733, 2.5.1)."""
    packets = packets_of(tone(1.0))
    payloads = [payload for payload, _ in digits.packets("5", frame=160, duration=1600)]
    first, count = packets[20], len(payloads)
    pressed = [
        RtpPacket(101, first.sequence + at & 0xFFFF, first.timestamp, first.ssrc, payload)
        for at, payload in enumerate(payloads)
    ]
    rest = [
        RtpPacket(0, one.sequence + count & 0xFFFF, one.timestamp + count * 160 & 0xFFFFFFFF, one.ssrc, one.payload)
        for one in packets[20:]
    ]
    stream = [*packets[:20], *pressed, *rest]
    inbound = receiver()
    assert [key for one in stream if (key := inbound.push(one, 0.0))] == ["5"]
    inbound = receiver()
    received(inbound, arrivals(stream, jitter_s=jitter_s, keep_order=True), 1.9)
    assert (inbound.buffer.stats.lost, inbound.stats.lost) == (0, 0)
    assert inbound.stats.played_frames == 50
    assert inbound.stats.concealed_frames <= (3 if jitter_s else 0)
    assert max(inbound.stats.jitter_ms) <= jitter_s * 500


def test_comfort_noise_packets_are_a_pause_and_do_not_pile_up() -> None:
    inbound = receiver()
    packets = packets_of(tone(0.4))
    noise = [
        RtpPacket(13, 60020 + at, (0xFFFFF000 + 3200 + at * 160) & 0xFFFFFFFF, 0x1234, b"\x40") for at in range(500)
    ]
    stream = [(0.05 + at * 0.02, one) for at, one in enumerate([*packets, *noise])]
    received(inbound, iter(stream), 10.5)
    assert (inbound.stats.played_frames, inbound.stats.lost, inbound.stats.concealed_frames) == (20, 0, 0)
    assert len(inbound.buffer._soundless) <= 100


@pytest.mark.parametrize("jump", [-24000, 40000])
def test_a_sender_whose_clock_jumps_is_heard_at_once_and_as_before(jump: int) -> None:
    """After a hold some go on with their old time, others with another one; neither is the network's delay."""
    packets = packets_of(tone(4.0))
    stream = [(0.05 + at * 0.02, one) for at, one in enumerate(packets[:100])]
    for at, one in enumerate(packets[100:]):
        moved = one.timestamp + max(jump, 0) & 0xFFFFFFFF
        pause = 3.0 if jump < 0 else 0.02
        stream.append((2.03 + pause + at * 0.02, RtpPacket(0, one.sequence, moved, one.ssrc, one.payload)))
    inbound = receiver()
    heard = received(inbound, iter(stream), stream[-1][0] + 0.3)
    assert inbound.stats.played_frames == 200
    assert inbound.stats.dropped_frames <= 1
    assert inbound.buffer.target_s <= 0.06
    assert inbound.stats.jitter_ms[-1] < 2
    assert strongest_hz(heard[-9000:-3000]) == pytest.approx(400, abs=3)


def test_a_way_that_gets_longer_for_good_drops_no_speech() -> None:
    packets = packets_of(tone(6.0))
    inbound = receiver()
    received(inbound, ((0.05 + at * 0.02 + (0.5 if at >= 100 else 0), one) for at, one in enumerate(packets)), 6.7)
    assert (inbound.stats.played_frames, inbound.stats.dropped_frames, inbound.stats.concealed_frames) == (300, 0, 3)


def test_another_source_begins_anew() -> None:
    packets = packets_of(tone(1.0, 400))
    others = [
        RtpPacket(0, 7 + at, 5 + at * 160, 0x9999, one.payload) for at, one in enumerate(packets_of(tone(1.0, 900)))
    ]
    stream = [(0.05 + at * 0.02, one) for at, one in enumerate(packets)]
    stream += [(1.05 + at * 0.02, one) for at, one in enumerate(others)]
    inbound = receiver()
    heard = received(inbound, iter(stream), 2.3)
    assert inbound.stats.restarts == 1
    assert strongest_hz(heard[-8000:]) == pytest.approx(900, abs=3)


def test_what_was_not_negotiated_is_counted_and_not_played() -> None:
    inbound = receiver()
    assert inbound.push(RtpPacket(97, 1, 1, 1, bytes(160)), 0.0) is None
    assert (inbound.stats.foreign, inbound.stats.received) == (1, 0)


@pytest.mark.parametrize(("ptime_ms", "lost", "moved"), [(10, 1, 0), (30, 1, 0), (60, 1, 0), (20, 0, 40)])
def test_what_is_missing_is_filled_for_as_long_as_it_is(ptime_ms: int, lost: int, moved: int) -> None:
    """Else the clock would move."""
    packets = packets_of(tone(1.2), ptime_ms=ptime_ms)
    half = len(packets) // 2
    stream = list(arrivals(packets, ptime_ms=ptime_ms))
    stream = stream[:half] + [
        (at, RtpPacket(0, one.sequence, one.timestamp + moved & 0xFFFFFFFF, one.ssrc, one.payload))
        for at, one in stream[half + lost :]
    ]
    plain, inbound = receiver(), receiver()
    received(plain, arrivals(packets, ptime_ms=ptime_ms), 1.1)
    received(inbound, iter(stream), 1.1)
    assert inbound.buffer.depth_s(1.1) == pytest.approx(plain.buffer.depth_s(1.1), abs=0.006)
    assert inbound.stats.concealed_frames == round(lost * ptime_ms / 20)


# -- concealment -----------------------------------------------------------------------------------------------------


def test_a_lost_frame_of_a_tone_is_a_tone_without_a_click() -> None:
    packets = packets_of(tone(1.0))
    stream = [(0.05 + at * 0.02, one) for at, one in enumerate(packets) if at != 30]
    inbound = receiver()
    heard = received(inbound, iter(stream), 1.2).astype(np.int32)
    began = int(np.argmax(np.abs(heard) > 1000))
    middle = heard[began + 2000 : began + 7000]
    assert inbound.stats.concealed_frames == 1
    assert np.abs(np.diff(middle)).max() < 1.3 * np.abs(np.diff(tone(0.1).astype(np.int32))).max()
    lost = middle[30 * 160 - 2000 : 31 * 160 - 2000]
    assert np.abs(lost).max() > 6000


def test_a_long_loss_fades_to_the_noise_of_the_background() -> None:
    rng = np.random.default_rng(1)
    quiet = (rng.normal(0, 30, 8000)).astype(np.int16)
    loud = np.concatenate((quiet, tone(0.5)))
    packets = packets_of(loud)
    late = RtpPacket(
        0, packets[-1].sequence + 40 & 0xFFFF, packets[-1].timestamp + 6400 & 0xFFFFFFFF, 0x1234, b"\xff" * 160
    )
    stream = [(0.05 + at * 0.02, one) for at, one in enumerate(packets)]
    inbound = receiver()
    heard = received(inbound, iter([*stream, (1.6, late)]), 2.2)
    gone = heard[round(1.85 * 8000) : round(2.1 * 8000)].astype(float)
    assert 5 < np.sqrt(np.mean(gone**2)) < 120


# -- keys ------------------------------------------------------------------------------------------------------------


def press(inbound: RtpInbound, keys: str, *, keep: int = 99) -> str:
    found, sequence, timestamp = "", 100, 50_000
    for key in keys:
        payloads = [payload for payload, _ in digits.packets(key, frame=160, duration=1280)]
        for at, payload in enumerate(payloads):
            sequence += 1
            if at < keep:
                found += inbound.push(RtpPacket(101, sequence, timestamp, 5, payload), sequence * 0.02) or ""
        timestamp += 4000
    return found


@pytest.mark.parametrize("keep", [99, 1])
def test_each_key_is_told_once_however_many_of_its_packets_come(keep: int) -> None:
    assert press(receiver(), "12#*0DD", keep=keep) == "12#*0DD"


def test_the_end_alone_is_a_key_too() -> None:
    inbound = receiver()
    end = list(digits.packets("7", frame=160, duration=800))[-1][0]
    assert inbound.push(RtpPacket(101, 1, 160, 5, end), 0.0) == "7"
    assert inbound.push(RtpPacket(101, 2, 160, 5, end), 0.02) is None


@given(st.binary(max_size=8))
def test_no_event_raises(payload: bytes) -> None:
    receiver().push(RtpPacket(101, 1, 1, 1, payload), 0.0)


# -- codecs ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("one", "other"), [(G711("PCMU"), G711("PCMU")), (G711("PCMA"), G711("PCMA")), (G722(), G722()), (Opus(), Opus()),
                       (L16(8000), L16(8000)), (L16(16000), L16(16000))],
    ids=["pcmu", "pcma", "g722", "opus", "l16", "l16 wide"],
)  # fmt: skip
def test_a_tone_goes_through_every_codec(one: Codec, other: Codec) -> None:
    samples = tone(1.0, 700, one.rate_hz)
    frame = one.rate_hz // 50
    out, ticks = [], 0
    for at in range(0, len(samples), frame):
        payload = one.encode(samples[at : at + frame])
        ticks += other.duration(payload)
        out.append(other.decode(payload))
    heard = np.concatenate(out)
    assert ticks == one.clock_hz
    assert len(heard) == pytest.approx(len(samples), abs=frame)
    assert strongest_hz(heard[frame * 5 :], one.rate_hz) == pytest.approx(700, abs=5)


def test_codecs_go_by_their_names_in_sdp() -> None:
    assert [codec(name).name for name in ("pcmu", "PCMA", "g722", "OPUS")] == ["PCMU", "PCMA", "G722", "opus"]
    with pytest.raises(Exception, match="no codec"):
        codec("G729")


@pytest.mark.parametrize(("toc", "ticks"), [(0x08, 960), (0x78, 960), (0x48, 960), (0x63, 480), (0xFC, 960)])
def test_the_length_of_an_opus_packet_is_in_its_first_byte(toc: int, ticks: int) -> None:
    assert opus_duration(bytes((toc, 1))) == ticks
