"""Frames and formats."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fastagent.media.errors import AudioFormatError, MediaError
from fastagent.media.frame import PCMU_8K, AudioFormat, AudioFrame, Encoding, to_int16

FORMATS: list[tuple[Encoding, int]] = [("PCMU", 8000), ("PCMA", 8000), ("L16", 8000), ("L16", 16000), ("L16", 24000)]


@pytest.mark.parametrize(
    ("encoding", "rate_hz", "sample_bytes", "frame_samples", "frame_bytes"),
    [
        ("PCMU", 8000, 1, 160, 160),
        ("PCMA", 8000, 1, 160, 160),
        ("L16", 8000, 2, 160, 320),
        ("L16", 16000, 2, 320, 640),
        ("L16", 24000, 2, 480, 960),
        ("L16", 48000, 2, 960, 1920),
    ],
)
def test_a_frame_of_20_ms_has_the_size_of_its_format(
    encoding: Encoding, rate_hz: int, sample_bytes: int, frame_samples: int, frame_bytes: int
) -> None:
    audio = AudioFormat(encoding, rate_hz)
    assert (audio.sample_bytes, audio.frame_samples, audio.frame_bytes) == (sample_bytes, frame_samples, frame_bytes)


def test_the_phone_format_is_mulaw_at_8_khz() -> None:
    assert AudioFormat("PCMU", 8000) == PCMU_8K


@pytest.mark.parametrize("encoding", ["G729", "pcmu", "", "L8"])
def test_an_encoding_that_we_do_not_decode_is_refused(encoding: Encoding) -> None:
    with pytest.raises(AudioFormatError, match="encoding"):
        AudioFormat(encoding, 8000)


@pytest.mark.parametrize("rate_hz", [0, -8000, 11025, 44100, 8001])
def test_a_rate_that_does_not_make_whole_frames_is_refused(rate_hz: int) -> None:
    with pytest.raises(MediaError, match="sample rate"):
        AudioFormat("L16", rate_hz)


def test_l16_is_little_endian() -> None:
    audio = AudioFormat("L16", 16000)
    assert audio.decode(b"\x01\x00\x00\x80\xff\x7f").tolist() == [1, -32768, 32767]
    assert audio.encode(np.array([1, -32768, 32767], np.int16)) == b"\x01\x00\x00\x80\xff\x7f"


def test_g711_payloads_are_decoded_by_their_law() -> None:
    assert PCMU_8K.decode(b"\x80\x00").tolist() == [32124, -32124]
    assert AudioFormat("PCMA", 8000).decode(b"\xaa\x2a").tolist() == [32256, -32256]


@pytest.mark.parametrize(("encoding", "rate_hz"), FORMATS)
def test_silence_has_its_length_and_decodes_as_silence(encoding: Encoding, rate_hz: int) -> None:
    audio = AudioFormat(encoding, rate_hz)
    payload = audio.silence(7)
    assert len(payload) == 7 * audio.sample_bytes
    assert np.abs(audio.decode(payload)).max() <= 8
    assert audio.silence(0) == b""


@pytest.mark.parametrize(("encoding", "rate_hz"), FORMATS)
@given(data=st.data())
@settings(max_examples=30)
def test_a_decoded_payload_encodes_to_itself(encoding: Encoding, rate_hz: int, data: st.DataObject) -> None:
    audio = AudioFormat(encoding, rate_hz)
    count = data.draw(st.integers(0, 200))
    payload = data.draw(st.binary(min_size=count * audio.sample_bytes, max_size=count * audio.sample_bytes))
    samples = audio.decode(payload)
    assert samples.dtype == np.int16
    assert len(samples) == count
    again = audio.encode(samples)
    assert again == (payload.replace(b"\x7f", b"\xff") if encoding == "PCMU" else payload)  # mu-law's negative zero


def test_a_frame_knows_its_duration() -> None:
    assert AudioFrame(np.zeros(480, np.int16), 24000).duration_s == 0.02
    assert AudioFrame(np.zeros(0, np.int16), 8000).duration_s == 0


def test_floats_become_int16_and_are_clipped() -> None:
    assert to_int16([0.0, 0.5, -0.5, 1.0, -1.0, 1.5, -1.5]).tolist() == [
        0,
        16384,
        -16384,
        32767,
        -32767,
        32767,
        -32768,
    ]
    assert to_int16(np.array([], np.float32)).dtype == np.int16
