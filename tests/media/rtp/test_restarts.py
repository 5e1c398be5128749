"""Streams that begin anew, and what only looks like it: other sources, jumps of the numbers, clocks, formats."""

import numpy as np
import pytest

from fastagent.media.g711 import Int16Array
from fastagent.media.rtp import digits
from fastagent.media.rtp.codecs import codec
from fastagent.media.rtp.inbound import RtpInbound
from fastagent.media.rtp.packet import RtpPacket
from tests.support.rtp_link import packets_of, received, receiver

Arrivals = list[tuple[float, RtpPacket]]


def tone(seconds: float) -> Int16Array:
    return (8000 * np.sin(2 * np.pi * 400 * np.arange(round(seconds * 8000)) / 8000)).astype(np.int16)


def on_time(packets: list[RtpPacket], *, began: float = 0.05) -> Arrivals:
    return [(began + at * 0.02, one) for at, one in enumerate(packets)]


def moved(packets: list[RtpPacket], *, sequence: int = 0, timestamp: int = 0, ssrc: int = 0x1234) -> list[RtpPacket]:
    """The same packets under other numbers."""
    return [
        RtpPacket(
            one.payload_type,
            one.sequence + sequence & 0xFFFF,
            one.timestamp + timestamp & 0xFFFFFFFF,
            ssrc,
            one.payload,
        )
        for one in packets
    ]


def heard(*arrivals: Arrivals, seconds: float = 2.3) -> tuple[RtpInbound, Int16Array]:
    """What a receiver made of all of them together."""
    inbound = receiver()
    together = sorted((one for some in arrivals for one in some), key=lambda one: one[0])
    return inbound, received(inbound, iter(together), seconds)


def key(sequence: int, timestamp: int, ssrc: int, *, number: int = 101) -> list[RtpPacket]:
    """The packets of a key that lasts for a second."""
    payloads = [payload for payload, _ in digits.packets("5", frame=160, duration=8000)]
    return [RtpPacket(number, sequence + at, timestamp, ssrc, payload) for at, payload in enumerate(payloads)]


# -- other sources and numbers ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("numbers", [{"ssrc": 0x9999}, {"sequence": 20_000}])
def test_a_packet_that_went_astray_disturbs_nothing(numbers: dict[str, int]) -> None:
    packets = packets_of(tone(2.0))
    inbound, _ = heard(on_time(packets), [(1.0, one) for one in moved(packets[50:51], **numbers)])
    stats = inbound.stats
    assert (stats.restarts, stats.foreign, stats.received, stats.played_frames) == (0, 1, 100, 100)


@pytest.mark.parametrize("numbers", [{"ssrc": 0x9999}, {"sequence": 20_000}, {"ssrc": 0x9999, "timestamp": 1 << 31}])
def test_two_packets_in_sequence_are_a_new_stream_and_the_first_is_heard_too(numbers: dict[str, int]) -> None:
    packets = packets_of(tone(2.0))
    inbound, audio = heard(on_time([*packets[:50], *moved(packets[50:], **numbers)]))
    stats = inbound.stats
    assert (stats.restarts, stats.foreign, stats.received, stats.lost) == (1, 0, 100, 0)
    assert stats.played_frames >= 97, "but for what waited when the old stream ended"
    assert inbound.reception is not None
    assert inbound.reception.received == 50
    assert np.abs(audio[-4800:-3200]).max() > 6000


def test_a_pause_between_two_sources_is_no_loss() -> None:
    packets = packets_of(tone(1.0))
    inbound, _ = heard(on_time(packets), on_time(moved(packets, ssrc=0x9999), began=3.05), seconds=4.3)
    assert (inbound.stats.restarts, inbound.stats.concealed_frames, inbound.stats.played_frames) == (1, 0, 100)


def test_two_sources_at_once_do_not_take_turns() -> None:
    packets = packets_of(tone(2.0))
    others = on_time(moved(packets, ssrc=0x9999), began=0.06)
    inbound, _ = heard(on_time(packets), others)
    stats = inbound.stats
    assert (stats.restarts, stats.foreign, stats.played_frames, stats.concealed_frames) == (0, 100, 100, 0)


def test_a_new_source_out_of_order_is_followed_once_it_is_in_order() -> None:
    packets = packets_of(tone(2.0))
    new = moved(packets[50:], ssrc=0x9999)
    new[0], new[1] = new[1], new[0]
    inbound, _ = heard(on_time([*packets[:50], *new]))
    assert (inbound.stats.restarts, inbound.stats.foreign, inbound.stats.received) == (1, 2, 98)


# -- keys ------------------------------------------------------------------------------------------------------------


def test_a_key_with_a_source_of_its_own_is_heard_and_so_is_the_voice() -> None:
    packets = packets_of(tone(2.0))
    pressed = on_time(key(9000, 77_000, 0x777), began=0.551)
    inbound = receiver()
    together = sorted([*on_time(packets), *pressed], key=lambda one: one[0])
    assert [found for at, one in together if (found := inbound.push(one, at))] == ["5"]
    inbound, _ = heard(on_time(packets), pressed)
    stats = inbound.stats
    assert (stats.restarts, stats.foreign, stats.played_frames, stats.concealed_frames) == (0, 0, 100, 0)
    assert inbound.last_packet_at == pytest.approx(2.03)


def test_a_key_before_the_first_word_says_nothing_of_the_voice() -> None:
    packets = packets_of(tone(1.0))
    inbound = receiver()
    assert inbound.push(key(9000, 77_000, 0x777)[0], 0.5) == "5"
    assert (inbound.last_packet_at, inbound.stats.received) == (0.5, 1)
    inbound, _ = heard([(0.01, one) for one in key(9000, 77_000, 0x777)], on_time(packets))
    assert (inbound.stats.restarts, inbound.stats.foreign, inbound.stats.played_frames) == (0, 0, 50)


def test_keys_after_a_jump_of_the_numbers_are_heard_at_once() -> None:
    inbound = receiver()
    inbound.push(packets_of(tone(0.02))[0], 0.0)
    pressed = [key(20_000 + at, 3_000_000 + at * 9000, 0x1234)[0] for at in range(3)]
    assert [inbound.push(one, 1.0) for one in pressed] == ["5", "5", "5"]


def test_a_key_that_goes_on_when_the_voice_begins_anew_is_one_key() -> None:
    inbound = receiver()
    packets, pressed = packets_of(tone(1.0)), key(9000, 77_000, 0x777)
    stream = [*packets[:5], pressed[0], *moved(packets[5:10], ssrc=0x9999), *pressed[1:]]
    assert [found for one in stream if (found := inbound.push(one, 1.0))] == ["5"]
    assert inbound.stats.restarts == 1


# -- clocks ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("back_s", [0.3, 2, 10, 24 * 3600])
def test_a_sender_that_sets_its_clock_back_is_heard_again(back_s: float) -> None:
    packets = packets_of(tone(6.0))
    inbound, audio = heard(
        on_time([*packets[:100], *moved(packets[100:], timestamp=-round(back_s * 8000))]), seconds=6.3
    )
    stats = inbound.stats
    assert (stats.restarts, stats.late, stats.played_frames) == (0, 2, 298)
    assert stats.silent_frames < 20
    assert np.abs(audio[2 * 8000 + 2400 : 6 * 8000].reshape(-1, 160)).max(axis=1).min() > 6000


# -- formats ---------------------------------------------------------------------------------------------------------


def test_packets_on_their_way_under_old_numbers_are_understood_after_a_change() -> None:
    packets = packets_of(tone(1.0))
    inbound = receiver()
    for at, one in enumerate(packets[:25]):
        inbound.push(one, at * 0.02)
        inbound.tick(at * 0.02)
    inbound.switch({8: codec("PCMA")}, event_types=frozenset({102}))
    for at, one in enumerate(packets[25:], 25):
        inbound.push(one, at * 0.02)
        inbound.tick(at * 0.02)
    first = key(packets[-1].sequence + 1, 500_000, 0x1234)[0]
    assert inbound.push(first, 1.0) == "5"
    assert inbound.push(RtpPacket(102, first.sequence + 1, 600_000, 0x1234, first.payload), 1.1) == "5"
    assert (inbound.stats.foreign, inbound.stats.received) == (0, 52)


def test_a_number_that_was_given_to_something_else_is_that() -> None:
    inbound = receiver()
    inbound.switch({101: codec("PCMA")}, event_types=frozenset({0}))
    pressed = key(1, 160, 5, number=0)[0]
    assert inbound.push(pressed, 0.0) == "5"
    assert inbound.push(RtpPacket(101, 2, 320, 5, b"\xd5" * 160), 0.02) is None
    inbound.tick(0.1)
    assert inbound.stats.played_frames == 1


def test_with_another_clock_old_numbers_are_no_more() -> None:
    inbound = receiver()
    inbound.switch({111: codec("opus", 48000, 8000)}, event_types=frozenset())
    assert [inbound.knows(number) for number in (0, 101, 111)] == [False, False, True]
