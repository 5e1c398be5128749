"""Change of sample rate: nothing is lost, nothing is shifted, and nothing is heard that was not said."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fastagent.media.g711 import Int16Array
from fastagent.media.resample import StreamResampler, resample_block
from tests.support.audio import tone

RATES = [(8000, 16000), (16000, 8000), (24000, 8000), (24000, 16000), (8000, 24000), (22050, 8000), (44100, 16000)]
rates = st.sampled_from(RATES)
chunk_sizes = st.lists(st.one_of(st.integers(0, 5), st.integers(0, 700)), max_size=12)


def through_stream(samples: Int16Array, from_hz: int, to_hz: int, sizes: list[int]) -> Int16Array:
    """All output of a stream that is fed in chunks of these sizes, and what remains in one."""
    resampler = StreamResampler(from_hz, to_hz)
    parts = []
    for size in sizes:
        parts.append(resampler.push(samples[:size]))
        samples = samples[size:]
    return np.concatenate([*parts, resampler.push(samples), resampler.flush()])


def through_block(samples: Int16Array, from_hz: int, to_hz: int) -> Int16Array:
    return resample_block(samples, from_hz, to_hz)


def tone_db(samples: Int16Array, hz: float, rate_hz: int) -> float:
    """The level of a tone in the middle half of a second of audio, relative to a full-scale sine."""
    middle = samples[len(samples) // 4 : 3 * len(samples) // 4].astype(np.float64) / 32767
    window = np.blackman(len(middle))
    spectrum = np.abs(np.fft.rfft(middle * window)) / window.sum() * 2
    at = round(hz * len(middle) / rate_hz)
    return float(20 * np.log10(max(spectrum[max(0, at - 2) : at + 3].max(), 1e-9)))


def whole(samples: Int16Array, from_hz: int, to_hz: int, how: str) -> Int16Array:
    if how == "block":
        return through_block(samples, from_hz, to_hz)
    return through_stream(samples, from_hz, to_hz, [160] * 20)


WAYS = pytest.mark.parametrize("how", ["stream", "block"])


@given(rates=rates, sizes=chunk_sizes, rest=st.integers(0, 300))
@settings(max_examples=100)
def test_a_stream_keeps_its_duration_within_a_sample_for_any_chunks(
    rates: tuple[int, int], sizes: list[int], rest: int
) -> None:
    from_hz, to_hz = rates
    samples = np.zeros(sum(sizes) + rest, np.int16)
    assert abs(len(through_stream(samples, from_hz, to_hz, sizes)) - len(samples) * to_hz / from_hz) <= 1


@given(rates=rates, count=st.integers(0, 5000))
@settings(max_examples=100)
def test_a_block_keeps_its_duration_within_a_sample(rates: tuple[int, int], count: int) -> None:
    from_hz, to_hz = rates
    assert abs(len(resample_block(np.ones(count, np.int16), from_hz, to_hz)) - count * to_hz / from_hz) <= 1


@given(rates=rates, sizes=chunk_sizes, seed=st.integers(0, 1000))
@settings(max_examples=100)
def test_chunks_make_no_difference_to_what_is_heard(rates: tuple[int, int], sizes: list[int], seed: int) -> None:
    from_hz, to_hz = rates
    noise = np.random.default_rng(seed).integers(-20000, 20000, sum(sizes) + 100).astype(np.int16)
    in_chunks = through_stream(noise, from_hz, to_hz, sizes).astype(np.int32)
    at_once = through_stream(noise, from_hz, to_hz, []).astype(np.int32)
    assert len(in_chunks) == len(at_once)
    assert np.abs(in_chunks - at_once).max(initial=0) <= 1


@WAYS
@pytest.mark.parametrize(("from_hz", "to_hz"), RATES)
@pytest.mark.parametrize("hz", [300, 1000, 3000])
def test_tones_of_the_telephone_band_keep_their_level_and_place(how: str, from_hz: int, to_hz: int, hz: int) -> None:
    out = whole(tone(1.0, hz, from_hz, level=0.5), from_hz, to_hz, how)
    expected = tone(1.0, hz, to_hz, level=0.5)
    assert tone_db(out, hz, to_hz) == pytest.approx(-6.0, abs=0.2)
    middle = slice(to_hz // 4, to_hz // 2)
    error = out[middle].astype(np.float64) - expected[middle]
    assert np.sqrt(np.mean(error**2)) < 0.02 * 16384  # in phase: output sample 0 lies on input sample 0


@WAYS
@pytest.mark.parametrize(
    ("from_hz", "to_hz", "hz"),
    [
        (16000, 8000, 5000),
        (16000, 8000, 7000),
        (24000, 8000, 5000),
        (24000, 8000, 9000),
        (24000, 8000, 11500),
        (24000, 16000, 9500),
        (24000, 16000, 11000),
        (22050, 8000, 5500),
        (44100, 16000, 10000),
        (44100, 16000, 15000),
    ],
)
def test_a_tone_above_the_new_band_leaves_no_alias(how: str, from_hz: int, to_hz: int, hz: int) -> None:
    out = whole(tone(1.0, hz, from_hz, level=0.9), from_hz, to_hz, how)
    alias_hz = abs(hz - to_hz * round(hz / to_hz))
    assert tone_db(out, alias_hz, to_hz) < -60
    assert np.abs(out[to_hz // 4 : to_hz // 2]).max() < 33  # nor anything else


@WAYS
@pytest.mark.parametrize(("from_hz", "to_hz"), [(8000, 16000), (8000, 24000), (16000, 24000)])
@pytest.mark.parametrize("hz", [400, 1000, 3000])
def test_a_tone_leaves_no_image_above_the_old_band(how: str, from_hz: int, to_hz: int, hz: int) -> None:
    out = whole(tone(1.0, hz, from_hz, level=0.9), from_hz, to_hz, how)
    for image_hz in (from_hz - hz, from_hz + hz):
        if image_hz < to_hz / 2:
            assert tone_db(out, image_hz, to_hz) < -60


@pytest.mark.parametrize(("from_hz", "to_hz"), RATES)
def test_a_stream_is_never_later_than_it_says(from_hz: int, to_hz: int) -> None:
    resampler = StreamResampler(from_hz, to_hz)
    pushed = made = 0
    for size in [1, 7, 160, 33, 480, 160] * 5:
        made += len(resampler.push(np.zeros(size, np.int16)))
        pushed += size
        assert made >= (pushed / from_hz - resampler.delay_s) * to_hz - 1
        assert made <= pushed * to_hz / from_hz


def test_the_delay_of_a_phone_call_to_recognition_is_2_ms() -> None:
    assert StreamResampler(8000, 16000).delay_s == 0.002


@pytest.mark.parametrize(("from_hz", "to_hz"), RATES)
def test_a_steady_level_stays_exactly_what_it_is(from_hz: int, to_hz: int) -> None:
    out = through_stream(np.full(from_hz, 12345, np.int16), from_hz, to_hz, [])
    assert np.abs(out[to_hz // 4 : -to_hz // 4].astype(np.int32) - 12345).max() <= 1


@WAYS
@pytest.mark.parametrize(("from_hz", "to_hz"), RATES)
def test_what_overshoots_full_scale_is_clipped_and_does_not_wrap(how: str, from_hz: int, to_hz: int) -> None:
    square = np.where(np.arange(from_hz) // (from_hz // 100) % 2, -32768, 32767).astype(np.int16)
    out = whole(square, from_hz, to_hz, how)
    period = to_hz // 100
    for start in range(4 * period, len(out) - 4 * period, period):
        middle = out[start + period // 4 : start + 3 * period // 4]
        assert np.all(np.sign(middle) == np.sign(middle[0]))


def test_a_stream_at_its_own_rate_passes_through() -> None:
    resampler = StreamResampler(8000, 8000)
    samples = np.array([1, -2, 3], np.int16)
    assert resampler.push(samples).tolist() == [1, -2, 3]
    assert resampler.flush().tolist() == []
    assert resampler.delay_s == 0


@pytest.mark.parametrize(("from_hz", "to_hz"), RATES)
def test_an_empty_stream_has_no_tail(from_hz: int, to_hz: int) -> None:
    resampler = StreamResampler(from_hz, to_hz)
    assert resampler.push(np.empty(0, np.int16)).tolist() == []
    assert resampler.flush().tolist() == []


def test_a_second_flush_has_nothing_more() -> None:
    resampler = StreamResampler(24000, 8000)
    resampler.push(np.ones(1000, np.int16))
    assert len(resampler.flush()) > 0
    assert len(resampler.flush()) == 0


def test_a_block_at_its_own_rate_and_an_empty_one_are_left_as_they_are() -> None:
    samples = np.array([1, -2, 3], np.int16)
    assert resample_block(samples, 8000, 8000).tolist() == [1, -2, 3]
    assert resample_block(samples[:0], 8000, 16000).tolist() == []


def test_what_goes_in_is_not_changed() -> None:
    samples = np.full(1000, 32767, np.int16)
    through_stream(samples, 24000, 8000, [100])
    resample_block(samples, 24000, 8000)
    assert np.all(samples == 32767)
