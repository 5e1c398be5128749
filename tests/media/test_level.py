"""Loudness in dBFS."""

import numpy as np
import pytest

from fastagent.media.level import FLOOR_DB, frame_levels_db, level_db, levels_db
from tests.support.audio import tone


@pytest.mark.parametrize(("amplitude", "db"), [(-32768, 0.0), (16384, -6.02), (3277, -20.0), (33, -59.94), (1, -90.31)])
def test_a_square_wave_has_the_level_of_its_amplitude(amplitude: int, db: float) -> None:
    assert level_db(np.full(160, amplitude, np.int16)) == pytest.approx(db, abs=0.01)


def test_a_sine_is_3_db_below_a_square_wave_of_its_peak() -> None:
    assert level_db(tone(1.0, level=1.0)) == pytest.approx(-3.01, abs=0.01)


def test_silence_and_nothing_are_at_the_floor() -> None:
    assert level_db(np.zeros(160, np.int16)) == FLOOR_DB
    assert level_db(np.empty(0, np.int16)) == FLOOR_DB


def test_each_row_has_its_own_level() -> None:
    rows = np.stack([np.full(256, value, np.int16) for value in (0, 16384, -32768)])
    assert levels_db(rows).tolist() == pytest.approx([-96.0, -6.02, 0.0], abs=0.01)


def test_the_last_frame_of_a_block_may_be_a_part_padded_with_silence() -> None:
    block = np.full(480, 16384, np.int16)
    assert frame_levels_db(block[:400], 160).tolist() == pytest.approx([-6.02, -6.02, -9.03], abs=0.01)
    assert frame_levels_db(block, 160).tolist() == pytest.approx([-6.02] * 3, abs=0.01)


def test_no_samples_make_no_frames() -> None:
    assert frame_levels_db(np.empty(0, np.int16), 160).tolist() == []
