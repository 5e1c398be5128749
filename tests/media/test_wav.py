"""WAV files."""

import struct
import tempfile
import wave
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fastagent.media.errors import AudioFormatError
from fastagent.media.wav import decode_wav, encode_wav, read_head, read_wav, write_wav


def wav(
    data: bytes,
    *,
    width: int = 2,
    channels: int = 1,
    rate_hz: int = 8000,
    format_tag: int = 1,
    claimed: int | None = None,
) -> bytes:
    """A file's bytes, put together by hand; `claimed` is the length that the data chunk pretends to have."""
    block = width * channels
    head = struct.pack("<HHIIHH", format_tag, channels, rate_hz, rate_hz * block, block, width * 8)
    length = len(data) if claimed is None else claimed
    body = b"WAVEfmt " + struct.pack("<I", 16) + head + b"data" + struct.pack("<I", length) + data
    return b"RIFF" + struct.pack("<I", len(body)) + body


def read(content: bytes, tmp_path: Path) -> tuple[list[int], int]:
    (tmp_path / "a.wav").write_bytes(content)
    frame = read_wav(tmp_path / "a.wav")
    assert frame.samples.dtype == np.int16
    return frame.samples.tolist(), frame.rate_hz


@pytest.mark.parametrize(
    ("width", "data"),
    [
        (1, bytes((128, 255, 0))),
        (2, struct.pack("<3h", 0, 32512, -32768)),
        (3, b"\x00\x00\x00" + b"\xff\x00\x7f" + b"\x00\x00\x80"),
        (4, struct.pack("<3i", 0, 0x7F00FFFF, -0x80000000)),
    ],
)
def test_all_widths_of_pcm_are_read_as_16_bits(width: int, data: bytes, tmp_path: Path) -> None:
    assert read(wav(data, width=width), tmp_path) == ([0, 32512, -32768], 8000)


@pytest.mark.parametrize("rate_hz", [4000, 8000, 11025, 44100, 96000])
def test_the_rate_is_that_of_the_file(rate_hz: int, tmp_path: Path) -> None:
    assert read(wav(b"\x01\x00", rate_hz=rate_hz), tmp_path) == ([1], rate_hz)


def test_channels_are_mixed_to_one(tmp_path: Path) -> None:
    loud = struct.pack("<6h", 1000, 3000, 32767, 32767, -32768, -32768)
    assert read(wav(loud, channels=2), tmp_path) == ([2000, 32767, -32768], 8000)


def test_a_file_without_samples_is_empty_audio(tmp_path: Path) -> None:
    assert read(wav(b""), tmp_path) == ([], 8000)


def test_half_a_sample_at_the_end_is_left_out(tmp_path: Path) -> None:
    assert read(wav(b"\x01\x00\x02\x00\x03"), tmp_path) == ([1, 2], 8000)
    assert read(wav(b"\x01\x00\x03\x00\x05\x00", channels=2), tmp_path) == ([2], 8000)


def test_a_file_shorter_than_it_claims_is_read_as_far_as_it_goes(tmp_path: Path) -> None:
    assert read(wav(b"\x01\x00\x02\x00", claimed=4000), tmp_path) == ([1, 2], 8000)


@pytest.mark.parametrize(
    "content",
    [
        pytest.param(b"", id="empty"),
        pytest.param(b"ID3\x04 this is an mp3", id="another format"),
        pytest.param(wav(b"\x00\x00")[:20], id="cut in the head"),
        pytest.param(wav(b"\x00\x00", format_tag=7), id="mu-law"),
        pytest.param(wav(bytes(4), width=2, format_tag=3), id="half floats"),
        pytest.param(wav(b"", channels=0), id="no channels"),
        pytest.param(b"RIFF\x04\x00\x00\x00WAVE", id="no chunks"),
    ],
)
def test_what_is_no_pcm_file_is_a_format_error(content: bytes, tmp_path: Path) -> None:
    with pytest.raises(AudioFormatError):
        read(content, tmp_path)


def test_a_rate_of_zero_is_a_format_error(tmp_path: Path) -> None:
    with pytest.raises(AudioFormatError):
        read(wav(b"\x01\x00", rate_hz=0), tmp_path)


def test_a_missing_file_is_an_os_error(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        read_wav(tmp_path / "none.wav")


@given(
    at=st.integers(0, 43),
    junk=st.binary(min_size=1, max_size=8),
    tail=st.binary(max_size=40),
    cut=st.integers(0, 80),
)
@settings(max_examples=100)
def test_a_damaged_file_raises_only_a_format_error(at: int, junk: bytes, tail: bytes, cut: int) -> None:
    content = bytearray(wav(bytes(20)) + tail)
    content[at : at + len(junk)] = junk
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "a.wav"
        path.write_bytes(content[: len(content) - cut])
        try:
            frame = read_wav(path)
        except AudioFormatError:
            return
    assert frame.samples.dtype == np.int16


def test_a_written_file_reads_back(tmp_path: Path) -> None:
    samples = np.array([0, 1, -1, 32767, -32768], np.int16)
    write_wav(tmp_path / "a.wav", [samples], 16000)
    frame = read_wav(str(tmp_path / "a.wav"))
    assert (frame.samples.tolist(), frame.rate_hz) == (samples.tolist(), 16000)


def test_channels_are_written_side_by_side_and_padded_to_the_longest(tmp_path: Path) -> None:
    write_wav(tmp_path / "a.wav", [np.array([1, 2, 3], np.int16), np.array([9], np.int16)], 8000)
    with wave.open(str(tmp_path / "a.wav"), "rb") as file:
        assert (file.getnchannels(), file.getsampwidth(), file.getframerate()) == (2, 2, 8000)
        assert struct.unpack("<6h", file.readframes(3)) == (1, 9, 2, 0, 3, 0)


def test_the_samples_given_to_a_file_are_left_as_they_are(tmp_path: Path) -> None:
    samples = np.array([1, 2], np.int16)
    write_wav(tmp_path / "a.wav", [samples, np.array([1, 2, 3], np.int16)], 8000)
    assert samples.tolist() == [1, 2]


@pytest.mark.parametrize(
    ("width", "tag", "data"),
    [
        (4, 3, struct.pack("<4f", 0, 0.5, -2.0, float("nan"))),
        (8, 3, struct.pack("<4d", 0, 0.5, -2.0, float("nan"))),
    ],
)
def test_floats_are_read_and_clipped(width: int, tag: int, data: bytes) -> None:
    samples = decode_wav(wav(data, width=width, format_tag=tag)).samples.tolist()
    assert samples == [0, 16384, -32767, 0]


def test_g711_in_a_wav_is_read() -> None:
    assert decode_wav(wav(b"\xff\x80", width=1, format_tag=7)).samples.tolist() == [0, 32124]
    assert decode_wav(wav(b"\xd5", width=1, format_tag=6)).samples.tolist() == [8]


@pytest.mark.parametrize("claimed", [0, 0xFFFFFFFF, 0x7FFFFFFF])
def test_a_live_encoders_header_does_not_say_how_long_it_is(claimed: int) -> None:
    content = wav(b"\x01\x00\x02\x00", claimed=claimed)
    head = read_head(content)
    assert head is not None
    assert head.size is None
    assert decode_wav(content).samples.tolist() == [1, 2]


def test_the_extensible_form_and_chunks_before_the_data_are_read() -> None:
    head = struct.pack("<HHIIHHHHIH14x", 0xFFFE, 1, 8000, 16000, 2, 16, 22, 16, 4, 1)
    body = b"WAVELIST" + struct.pack("<I", 3) + b"abc\0" + b"fmt " + struct.pack("<I", len(head)) + head
    content = b"RIFF\0\0\0\0" + body + b"data" + struct.pack("<I", 2) + b"\x07\x00"
    assert decode_wav(content).samples.tolist() == [7]


@given(st.binary(max_size=100).map(lambda tail: wav(b"\x01\x00")[:12] + tail))
@settings(max_examples=200)
def test_no_header_raises_anything_but_a_format_error(content: bytes) -> None:
    try:
        decode_wav(content)
    except AudioFormatError:
        pass


def test_a_header_in_pieces_is_waited_for() -> None:
    content = wav(b"\x01\x00")
    assert [read_head(content[:end]) is None for end in (1, 4, 12, 30, 43)] == [True] * 5
    assert read_head(content[:44]) is not None


def test_what_is_encoded_reads_back() -> None:
    samples = np.array([1, -2, 3, -4], np.int16)
    frame = decode_wav(encode_wav(samples, 16000))
    assert frame.samples.tolist() == [1, -2, 3, -4]
    assert frame.rate_hz == 16000
    assert encode_wav(samples[:0], 16000)[:4] == b"RIFF"
