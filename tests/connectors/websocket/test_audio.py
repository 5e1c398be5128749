"""Audio of the WebSocket API: any form in, any form out; tones go in and are found again by their frequency."""

import struct
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fastagent.connectors.websocket.audio import AudioIn, AudioOut, UnsupportedFormat, Wire, negotiated
from fastagent.connectors.websocket.messages import AudioSpec
from fastagent.media.errors import AudioFormatError
from fastagent.media.frame import PCMU_8K, AudioFormat
from fastagent.media.g711 import Int16Array
from fastagent.media.opus import OpusDecoder, OpusEncoder
from fastagent.media.wav import decode_wav, encode_wav
from tests.support.audio import tone

WAV = Wire("wav", "audio/x-wav", 16000)
PCM, FLOAT, ALAW, ULAW = 1, 3, 6, 7
HZ = 440


def wire(name: str, rate_hz: int | None = None) -> Wire:
    return negotiated(AudioSpec(name, rate_hz), output=False)


def samples_of(payload: bytes) -> Int16Array:
    return np.frombuffer(payload, "<i2")


def assert_tone(samples: Int16Array, rate_hz: int, hz: float = HZ, seconds: float | None = None) -> None:
    """It is one clean tone of about this length."""
    spectrum = np.abs(np.fft.rfft(samples * np.hanning(len(samples))))
    at = np.fft.rfftfreq(len(samples), 1 / rate_hz)
    assert at[spectrum.argmax()] == pytest.approx(hz, abs=2 * rate_hz / len(samples))
    near = np.abs(at - hz) < 40
    assert (spectrum[near] ** 2).sum() > 0.98 * (spectrum**2).sum(), "and nothing else"
    if seconds is not None:
        assert len(samples) / rate_hz == pytest.approx(seconds, abs=0.02)


def file(
    samples: Int16Array,
    rate_hz: int = 16000,
    *,
    kind: int = PCM,
    bits: int = 16,
    channels: int = 1,
    size: int | None = None,
    before: bytes = b"",
    behind: bytes = b"",
) -> bytes:
    """A WAV of any form; `size` as the header tells it, other chunks before and behind the samples."""
    wide = np.repeat(samples, channels)
    if kind == FLOAT:
        data = (wide / 32768).astype("<f4" if bits == 32 else "<f8").tobytes()
    elif kind in (ALAW, ULAW):
        data = AudioFormat("PCMA" if kind == ALAW else "PCMU", 8000).encode(wide)
    elif bits == 8:
        data = ((wide >> 8) + 128).astype(np.uint8).tobytes()
    else:
        data = (wide.astype("<i4") << 16).view(np.uint8).reshape(-1, 4)[:, 4 - bits // 8 :].tobytes()
    frame = bits // 8 * channels
    form = struct.pack("<HHIIHH", kind, channels, rate_hz, rate_hz * frame, frame, bits)
    told = len(data) if size is None else size
    body = b"WAVEfmt \x10\0\0\0" + form + before + b"data" + struct.pack("<I", told) + data + behind
    return b"RIFF" + struct.pack("<I", len(body) if size is None else 0xFFFFFFFF) + body


LIST = b"LIST\x0c\0\0\0INFOISFT\0\0\0\0"


# -- WAV in ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("rate_hz", [4000, 8000, 11025, 16000, 22050, 44100, 48000, 96000])
@pytest.mark.parametrize("channels", [1, 2])
def test_a_wav_of_any_rate_is_the_same_tone(rate_hz: int, channels: int) -> None:
    heard = AudioIn(WAV, 16000).push(file(tone(1.0, HZ, rate_hz), rate_hz, channels=channels), "audio/x-wav")
    assert_tone(samples_of(heard), 16000, seconds=1.0)


@pytest.mark.parametrize(
    ("kind", "bits"), [(PCM, 8), (PCM, 16), (PCM, 24), (PCM, 32), (FLOAT, 32), (FLOAT, 64), (ALAW, 8), (ULAW, 8)]
)
@pytest.mark.parametrize("channels", [1, 2])
def test_a_wav_of_any_width_is_the_same_tone(kind: int, bits: int, channels: int) -> None:
    heard = AudioIn(WAV, 16000).push(file(tone(0.5, HZ), 8000, kind=kind, bits=bits, channels=channels))
    assert_tone(samples_of(heard), 16000, seconds=0.5)
    assert np.abs(samples_of(heard)).max() == pytest.approx(0.3 * 32767, rel=0.05), "as loud as it was"


def test_floats_that_are_no_numbers_are_silence() -> None:
    broken = file(tone(0.1), 16000, kind=FLOAT, bits=32)
    broken = broken[:-8] + struct.pack("<2f", float("nan"), float("inf"))
    heard = samples_of(AudioIn(WAV, 16000).push(broken))
    assert list(heard[-2:]) == [0, 32767]


@pytest.mark.parametrize(
    "bad",
    [
        file(tone(0.1), 3999),
        file(tone(0.1), 96001),
        file(tone(0.1), channels=3),
        b"RIFF\0\0\0\0AVI LIST" + bytes(50),
        b"RIFF\0\0\0\0WAVEdata\4\0\0\0abcd",
        b"RIFF\0\0\0\0WAVEfmt \2\0\0\0abdata",
        b"RIFF\0\0\0\0WAVEJUNK\xff\xff\xff\x7f",
        file(tone(0.1)).replace(struct.pack("<HH", PCM, 1), struct.pack("<HH", 85, 1), 1),  # MP3 inside
    ],
    ids=["3999", "96001", "3 channels", "avi", "no fmt", "short fmt", "endless", "mp3"],
)
def test_a_wav_that_is_not_read_is_an_error_and_the_next_one_is_heard(bad: bytes) -> None:
    ear = AudioIn(WAV, 16000)
    with pytest.raises(AudioFormatError):
        ear.push(bad, "audio/x-wav")
    assert_tone(samples_of(ear.push(file(tone(0.5, HZ, 16000)), "audio/x-wav")), 16000)


def test_ten_seconds_are_a_chunk_and_more_are_not() -> None:
    ear = AudioIn(WAV, 16000)
    assert len(ear.push(file(np.zeros(40_000, np.int16), 4000, bits=8))) == pytest.approx(320_000, abs=200)
    with pytest.raises(AudioFormatError, match="10 seconds"):
        ear.push(file(np.zeros(40_001, np.int16), 4000, bits=8))
    with pytest.raises(AudioFormatError, match="10 seconds"):
        AudioIn(wire("audio/pcm", 8000), 8000).push(bytes(160_002))
    assert len(AudioIn(wire("audio/pcm", 8000), 8000).push(bytes(160_000))) == 160_000


def test_self_contained_wavs_in_a_row_are_one_sound() -> None:
    ear, whole = AudioIn(WAV, 16000), tone(1.0, HZ, 8000)
    heard = b"".join(ear.push(encode_wav(whole[at : at + 160], 8000)) for at in range(0, 8000, 160))
    assert_tone(samples_of(heard), 16000, seconds=1.0)
    at_once = AudioIn(WAV, 16000).push(encode_wav(whole, 8000))
    assert heard == at_once, "no seam between them"


# -- cut anywhere ------------------------------------------------------------------------------------------------------


def pieces(data: bytes, cuts: list[int]) -> list[bytes]:
    edges = [0, *sorted({min(cut, len(data)) for cut in cuts}), len(data)]
    return [data[a:b] for a, b in pairwise(edges)]


FORMS = st.sampled_from(
    [
        file(tone(0.1, HZ, 8000), 8000),
        file(tone(0.1, HZ, 8000), 8000, bits=24, channels=2, before=LIST),
        file(tone(0.1, HZ), 16000, behind=LIST),
        file(tone(0.1, HZ), 16000, bits=8, behind=b"\0" + LIST),
        file(tone(0.1, HZ), 16000, size=0xFFFFFFFF),
        file(tone(0.1, HZ), 16000, size=0),
        file(np.frombuffer(b"RIFF" * 200, "<i2"), 16000),
        file(np.frombuffer(b"RIFF" * 200, "<i2"), 16000, size=0xFFFFFFFF),
    ]
)


@given(FORMS, st.lists(st.integers(0, 4000), max_size=40))
def test_a_wav_cut_anywhere_is_heard_as_the_whole_one(data: bytes, cuts: list[int]) -> None:
    ear = AudioIn(WAV, 16000)
    heard = b"".join(ear.push(piece, "audio/x-wav") for piece in pieces(data, cuts))
    assert heard == AudioIn(WAV, 16000).push(data, "audio/x-wav")


def test_a_wav_byte_by_byte_is_heard_as_the_whole_one() -> None:
    data, ear = file(tone(0.05, HZ), 8000, behind=LIST), AudioIn(WAV, 16000)
    assert b"".join(ear.push(bytes((one,))) for one in data) == AudioIn(WAV, 16000).push(data)


def test_behind_a_file_comes_what_was_negotiated() -> None:
    ear = AudioIn(WAV, 16000)
    ear.push(file(tone(0.1, HZ, 8000), 8000, behind=LIST)[:-5], "audio/x-wav")
    assert ear.push(LIST[-5:], "audio/x-wav") == b""
    assert ear.push(b"\1\0\2\0") == b"\1\0\2\0"


def test_half_a_sample_at_the_end_of_a_file_does_not_slip_what_follows() -> None:
    odd = encode_wav(np.array([5], np.int16), 16000)
    odd = odd[:40] + struct.pack("<I", 3) + odd[44:] + b"\7"
    ear = AudioIn(WAV, 16000)
    assert ear.push(odd) == b"\5\0"
    assert ear.push(b"\1\0") == b"\1\0"


# -- without a header --------------------------------------------------------------------------------------------------


def test_headerless_audio_is_16_bits_at_the_negotiated_rate() -> None:
    for rate_hz in (8000, 16000, 44100):
        ear = AudioIn(wire("audio/x-wav", rate_hz), 16000)
        assert_tone(samples_of(ear.push(tone(1.0, HZ, rate_hz).tobytes(), "audio/x-wav")), 16000, seconds=1.0)


@given(st.lists(st.integers(0, 2000), max_size=30))
def test_odd_bytes_never_slip_a_sample(cuts: list[int]) -> None:
    data, ear = tone(0.06, HZ, 16000).tobytes(), AudioIn(WAV, 16000)
    assert b"".join(ear.push(piece) for piece in pieces(data, cuts)) == data


def test_samples_that_look_like_the_beginning_of_a_header_are_samples() -> None:
    ear = AudioIn(WAV, 16000)
    assert ear.push(b"RI") + ear.push(b"\0\1") == b"RI\0\1"


@pytest.mark.parametrize(("name", "encoding"), [("audio/x-mulaw", "PCMU"), ("audio/x-alaw", "PCMA")])
@pytest.mark.parametrize("named", [True, False])
def test_the_two_laws_come_as_they_were_negotiated(name: str, encoding: str, named: bool) -> None:
    sent = AudioFormat("PCMU" if encoding == "PCMU" else "PCMA", 8000).encode(tone(0.5, HZ))
    assert_tone(samples_of(AudioIn(wire(name), 8000).push(sent, name if named else None)), 8000, seconds=0.5)


def test_a_wav_is_read_whatever_was_negotiated() -> None:
    sent = file(tone(0.5, HZ, 16000))
    assert_tone(samples_of(AudioIn(wire("audio/x-mulaw"), 8000).push(sent, "audio/x-wav")), 8000, seconds=0.5)
    ear = AudioIn(wire("audio/pcm"), 16000)
    heard = ear.push(sent[:5000]) + ear.push(sent[5000:])
    assert_tone(samples_of(heard), 16000, seconds=0.5)


def test_opus_packets_are_heard() -> None:
    ear, sent = AudioIn(wire("audio/opus"), 16000), OpusEncoder(48000).encode(tone(1.0, HZ, 48000))
    heard = samples_of(b"".join(ear.push(packet, "audio/opus") for packet in sent))
    assert_tone(heard[1600:], 16000)
    with pytest.raises(AudioFormatError):
        ear.push(b"\xff" * 30, "audio/opus")
    assert ear.push(sent[-1], "audio/opus")


@pytest.mark.parametrize(
    ("agreed", "sent", "details"),
    [
        ("audio/x-wav", "audio/mp3", "Only audio/x-wav is supported"),
        ("audio/wav", "audio/pcm", "Only audio/x-wav is supported"),
        ("audio/x-mulaw", "audio/x-alaw", "Only audio/x-wav and audio/x-mulaw are supported"),
        ("audio/x-mulaw", "", "Only audio/x-wav and audio/x-mulaw are supported"),
    ],
)
def test_a_format_that_was_not_negotiated_is_refused_with_what_is(agreed: str, sent: str, details: str) -> None:
    with pytest.raises(UnsupportedFormat) as caught:
        AudioIn(wire(agreed), 16000).push(bytes(4), sent)
    assert str(caught.value) == f"Unsupported audio format: {sent}"
    assert caught.value.supported == details


# -- out ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("rate_hz", [8000, 16000, 24000, 48000])
def test_each_chunk_is_a_wav_of_its_own(rate_hz: int) -> None:
    out = AudioOut(negotiated(AudioSpec("audio/x-wav", rate_hz), output=True))
    (chunk,) = out.chunks(tone(0.2, HZ, rate_hz).tobytes())
    audio = decode_wav(chunk)
    assert audio.rate_hz == rate_hz
    assert_tone(audio.samples, rate_hz, seconds=0.2)
    (end,) = out.chunks(b"")
    assert len(decode_wav(end).samples) == 0


@pytest.mark.parametrize("name", ["audio/pcm", "audio/x-mulaw", "audio/x-alaw"])
def test_raw_formats_go_out_as_they_are(name: str) -> None:
    out = AudioOut(negotiated(AudioSpec(name), output=True))
    payload = out.wire.internal.encode(tone(0.2, HZ, out.wire.rate_hz))
    assert out.chunks(payload) == [payload]
    assert out.chunks(b"") == [b""]
    assert_tone(out.wire.internal.decode(payload), out.wire.rate_hz)


@pytest.mark.parametrize("rate_hz", [8000, 16000, 24000, 48000])
def test_opus_goes_out_in_packets_of_20_ms_and_its_end_is_told(rate_hz: int) -> None:
    out, ear = AudioOut(negotiated(AudioSpec("audio/opus", rate_hz), output=True)), OpusDecoder()
    packets = [one for _ in range(5) for one in out.chunks(tone(0.2, HZ, rate_hz).tobytes())]
    assert len(packets) == 50
    heard = np.concatenate([ear.decode(one).samples for one in packets])
    assert_tone(heard[4800:9600], 48000)
    assert out.chunks(b"") == [b""], "an end that comes after the last packet"


def test_mu_law_is_the_carriers() -> None:
    assert negotiated(AudioSpec("audio/basic"), output=True).internal == PCMU_8K
