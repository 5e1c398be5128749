"""The jitter buffer, slot by slot: what is lost, what is a pause, and clocks that are set back."""

import pytest

from fastagent.media.rtp.jitter_buffer import Dry, JitterBuffer, Lost, Pause, Play, Slot

FRAME = 160


class Line:
    """A buffer at 8000 Hz, and its clock; `push` takes numbers and timestamps as they come."""

    def __init__(self) -> None:
        self.buffer = JitterBuffer(8000)
        self.now = 0.0

    def push(self, *packets: tuple[int, int], size: int = FRAME) -> None:
        for sequence, timestamp in packets:
            self.buffer.push(sequence, timestamp, b"%d" % sequence, 0, size, self.now)

    def pop(self, count: int = 1) -> list[Slot]:
        """So many slots, all at this time."""
        return [self.buffer.pop(self.now) for _ in range(count)]

    def deep(self) -> None:
        """It has begun, and is deep enough for a whole gap to lie before the packet behind it."""
        self.now, self.buffer.target_s = 0.04, 1.0

    def run(self, packets: list[tuple[int, int]], *, size: int = FRAME) -> list[Slot]:
        """A packet each 20 ms, and a slot with it."""
        slots = []
        for packet in packets:
            self.push(packet, size=size)
            slots += self.pop()
            self.now = round(self.now + 0.02, 3)
        return slots


def played(slots: list[Slot]) -> list[int]:
    """The numbers of the packets among them."""
    return [int(one.payload) for one in slots if isinstance(one, Play)]


def stream(first: int, count: int, timestamp: int, *, size: int = FRAME) -> list[tuple[int, int]]:
    return [(first + at, timestamp + at * size) for at in range(count)]


# -- gaps ------------------------------------------------------------------------------------------------------------


def gap(lost: int, beyond: int, size: int) -> tuple[list[Slot], JitterBuffer]:
    """What is played between two packets with so many lost ones, and so many units more, between them."""
    line = Line()
    line.push((1, 0), (2 + lost, (1 + lost) * size + beyond), size=size)
    line.deep()
    slots: list[Slot] = line.pop()
    while not isinstance(slots[-1], Play) or len(slots) == 1:
        slots += line.pop()
    return slots[1:-1], line.buffer


@pytest.mark.parametrize(
    ("size", "lost", "slots"),
    [
        (80, 1, [Lost(80)]),
        (80, 3, [Lost(160), Lost(80)]),
        (160, 2, [Lost(160), Lost(160)]),
        (240, 1, [Lost(160), Lost(80)]),
        (240, 2, [Lost(160), Lost(160), Lost(160)]),
        (480, 1, [Lost(160), Lost(160), Lost(160)]),
    ],
)
def test_a_lost_packet_is_lost_for_as_long_as_it_was(size: int, lost: int, slots: list[Slot]) -> None:
    found, buffer = gap(lost, 0, size)
    assert (found, buffer.stats.lost) == (slots, lost)


def test_what_a_gap_has_beyond_its_lost_packets_is_a_pause() -> None:
    found, buffer = gap(1, 200, 240)
    assert (found, buffer.stats.lost) == ([Lost(160), Lost(80), Pause(160), Pause(40)], 1)


@pytest.mark.parametrize("beyond", [2, 159, 160])
def test_a_pause_is_as_long_as_it_is(beyond: int) -> None:
    found, buffer = gap(0, beyond, FRAME)
    assert (found, buffer.stats.lost) == ([Pause(beyond)], 0)


def test_packets_without_sound_are_not_lost_wherever_they_stand_in_a_gap() -> None:
    line = Line()
    line.push((1, 0), (5, 6 * FRAME))
    for soundless in (2, 3):
        line.buffer.skip(soundless)
    line.deep()
    assert line.pop(7)[1:-1] == [Lost(160)] + [Pause(160)] * 4


def test_a_lost_packet_that_comes_while_it_is_made_up_is_heard() -> None:
    line = Line()
    line.push((1, 0), (3, 960), size=480)
    line.deep()
    assert line.pop(2)[1] == Lost(160)
    line.push((2, 480), size=480)
    assert played(line.pop(2)) == [2, 3]


@pytest.mark.parametrize(("number", "paused"), [(3, True), (4, False)])
def test_after_an_empty_buffer_a_jump_of_time_is_a_pause_if_no_number_is_missing(number: int, paused: bool) -> None:
    line = Line()
    line.run(stream(1, 2, 0))
    line.now = 0.5
    assert isinstance(line.pop(3)[-1], Dry)
    line.push((number, 25 * FRAME))
    line.now = 0.54
    (slot,) = line.pop()
    assert slot == Play(b"%d" % number, 0, FRAME, paused)


def test_too_many_packets_are_dropped_and_counted() -> None:
    line = Line()
    line.push(*stream(1, 101, 0))
    line.now = 1.0
    assert (line.buffer.stats.dropped, played(line.pop())) == (50, [51])


# -- clocks that are set back ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("back_s", [0.3, 10, 24 * 3600])
def test_a_clock_that_is_set_back_begins_anew(back_s: float) -> None:
    line = Line()
    line.run(stream(1, 100, 0))
    slots = line.run(stream(101, 100, round(100 * FRAME - back_s * 8000)))
    assert slots[:2] == [Dry(), Dry()], "as at the first start"
    assert played(slots) == list(range(101, 199))
    stats = line.buffer.stats
    assert (stats.late, stats.dropped, stats.lost) == (0, 2, 0)
    assert line.buffer.target_s == pytest.approx(0.04), "a clock is no delay"


def test_one_odd_packet_does_no_lasting_harm() -> None:
    line = Line()
    line.run(stream(1, 100, 0))
    slots = line.run([(101, -1_000_000), *stream(102, 100, 101 * FRAME)])
    assert played(slots)[0] == 101
    assert played(slots)[-90:] == list(range(110, 200))
    assert line.buffer.stats.late == 0
    assert line.buffer.target_s == pytest.approx(0.04)


def test_packets_may_overtake_each_other_right_after_a_new_start() -> None:
    line = Line()
    line.run(stream(1, 50, 100_000))
    waiting = line.buffer.stats
    line.push((53, 160), (52, 0))
    assert waiting.dropped == 2
    line.push((51, 100_000 + 50 * FRAME))  # of the clock before
    assert waiting.late == 1
    line.now += 0.04
    assert played(line.pop(2)) == [52, 53]
    assert isinstance(line.pop()[0], Dry), "nothing is left of the clock before"


def test_a_late_packet_is_no_clock_that_was_set_back() -> None:
    line = Line()
    packets = stream(1, 50, 0)
    line.run([one for one in packets if one[0] != 20])
    line.push((20, 19 * FRAME))
    assert (line.buffer.stats.late, line.buffer.stats.dropped) == (1, 0)
