"""Keys in RTP: what is a new key, and what belongs to one that was told (RFC 4733, 2.5)."""

import pytest

from fastagent.media.rtp.digits import DigitReceiver, TelephoneEvent

FIVE, FIVE_ENDS = bytes(TelephoneEvent(5, False, 800)), bytes(TelephoneEvent(5, True, 800))


def test_a_key_of_another_source_is_heard_though_its_clock_is_behind() -> None:
    keys = DigitReceiver()
    assert keys.take(1, 3_000_000_000, FIVE) == "5"
    assert [keys.take(2, at, FIVE_ENDS) for at in (1_000_000, 1_008_000, 1_016_000)] == ["5", "5", "5"]


def test_a_key_by_a_clock_that_was_set_back_is_heard() -> None:
    keys = DigitReceiver()
    assert [keys.take(1, at, FIVE_ENDS) for at in (80_000, 8_000)] == ["5", "5"]


def test_stragglers_of_the_last_keys_are_no_keys() -> None:
    keys = DigitReceiver()
    assert [keys.take(1, at * 4000, FIVE_ENDS) for at in range(16)] == ["5"] * 16
    assert [keys.take(1, at * 4000, FIVE_ENDS) for at in range(16)] == [None] * 16


def test_a_straggler_does_not_move_the_end_of_the_current_key() -> None:
    keys = DigitReceiver()
    assert keys.take(1, 0, FIVE_ENDS) == "5"
    assert keys.take(1, 4000, FIVE) == "5"
    assert keys.take(1, 0, FIVE_ENDS) is None
    assert keys.take(1, 4800, FIVE) is None, "it goes on where the current one has come to"


@pytest.mark.parametrize("start", [1000, 0xFFFFFFFF - 0xFFFF, 0xFFFFFF00])
def test_a_very_long_key_goes_on_under_a_new_timestamp(start: int) -> None:
    keys = DigitReceiver()
    for lasted in (0xFFFF - 160, 0xFFFF, 0xFFFF - 80):  # one comes late
        expected = "5" if lasted == 0xFFFF - 160 else None
        assert keys.take(7, start, bytes(TelephoneEvent(5, False, lasted))) == expected
    assert keys.take(7, (start + 0xFFFF) & 0xFFFFFFFF, bytes(TelephoneEvent(5, True, 160))) is None


def test_the_same_key_right_at_the_end_of_the_former_is_a_new_one() -> None:
    keys = DigitReceiver()
    assert [keys.take(1, 1000, FIVE), keys.take(1, 1000, FIVE_ENDS)] == ["5", None]
    assert [keys.take(1, 1800, FIVE), keys.take(1, 1800, FIVE_ENDS)] == ["5", None]


@pytest.mark.parametrize("other", [(2, 1800, 5), (1, 1800, 6), (1, 1801, 5)])
def test_another_source_key_or_time_is_another_key(other: tuple[int, int, int]) -> None:
    keys = DigitReceiver()
    assert keys.take(1, 1000, FIVE) == "5"
    assert keys.take(other[0], other[1], bytes(TelephoneEvent(other[2], False, 160))) == str(other[2])
