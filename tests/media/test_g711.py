"""G.711 against the tables of the recommendation (ITU-T G.711, 11/88) and a second implementation."""

from collections.abc import Callable
from hashlib import sha256

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fastagent.media import g711
from fastagent.media.g711 import Int16Array
from fastagent.media.level import level_db

ALL_CODES = bytes(range(256))
ALL_SAMPLES = np.arange(65536, dtype=np.uint16).view(np.int16)

Decode = Callable[[bytes], Int16Array]
Encode = Callable[[Int16Array], bytes]

LAWS = pytest.mark.parametrize(
    ("encode", "decode"),
    [
        pytest.param(g711.ulaw_encode, g711.ulaw_decode, id="mu-law"),
        pytest.param(g711.alaw_encode, g711.alaw_decode, id="A-law"),
    ],
)


def test_mulaw_decodes_the_ends_of_all_segments_as_table_2a_says() -> None:
    # Decoder output values of table 2a (14 bits) at the ends of its segments.
    table = {0x80: 8031, 0x8F: 4191, 0x9F: 2079, 0xAF: 1023, 0xBF: 495, 0xCF: 231, 0xDF: 99, 0xEF: 33, 0xFE: 2, 0xFF: 0}
    assert [int(one) for one in g711.ulaw_decode(bytes(table))] == [4 * value for value in table.values()]


def test_alaw_decodes_the_ends_of_all_segments_as_table_1a_says() -> None:
    # Decoder output values of table 1a (13 bits), by character signal before the inversion of the even bits.
    table = {0xFF: 4032, 0xF0: 2112, 0xE0: 1056, 0xD0: 528, 0xC0: 264, 0xB0: 132, 0xA0: 66, 0x80: 1}
    codes = bytes(code ^ 0x55 for code in table)
    assert [int(one) for one in g711.alaw_decode(codes)] == [8 * value for value in table.values()]


def test_mulaw_decision_values_fall_where_table_2a_puts_them() -> None:
    # Between the two innermost steps at 1, and at the upper ends of segments 1 to 7: 31, 95, 223, ... (14 bits).
    below = np.array([4 * value - 1 for value in (1, 31, 95, 223, 479, 991, 2015, 4063)], np.int16)
    above = np.array([4 * value for value in (1, 31, 95, 223, 479, 991, 2015, 4063)], np.int16)
    assert g711.ulaw_encode(below) == bytes((0xFF, 0xF0, 0xE0, 0xD0, 0xC0, 0xB0, 0xA0, 0x90))
    assert g711.ulaw_encode(above) == bytes((0xFE, 0xEF, 0xDF, 0xCF, 0xBF, 0xAF, 0x9F, 0x8F))


def test_alaw_decision_values_fall_where_table_1a_puts_them() -> None:
    # At the upper ends of the segments: 64, 128, 256, ... (13 bits).
    below = np.array([8 * value - 1 for value in (64, 128, 256, 512, 1024, 2048)], np.int16)
    above = np.array([8 * value for value in (64, 128, 256, 512, 1024, 2048)], np.int16)
    assert bytes(code ^ 0x55 for code in g711.alaw_encode(below)) == bytes((0x9F, 0xAF, 0xBF, 0xCF, 0xDF, 0xEF))
    assert bytes(code ^ 0x55 for code in g711.alaw_encode(above)) == bytes((0xA0, 0xB0, 0xC0, 0xD0, 0xE0, 0xF0))


@pytest.mark.parametrize(
    ("decode", "sequence", "below_overload_db"),
    [
        pytest.param(g711.ulaw_decode, "1E 0B 0B 1E 9E 8B 8B 9E", 3.17, id="mu-law, table 6"),
        pytest.param(g711.alaw_decode, "34 21 21 34 B4 A1 A1 B4", 3.14, id="A-law, table 5"),
    ],
)
def test_the_reference_sine_of_the_recommendation_has_its_level(
    decode: Decode, sequence: str, below_overload_db: float
) -> None:
    assert level_db(decode(bytes.fromhex(sequence) * 100)) == pytest.approx(-3.01 - below_overload_db, abs=0.05)


def test_the_whole_tables_are_those_of_a_second_implementation() -> None:
    # Digests of what `audioop` of CPython 3.11 makes of all samples and all codes, little-endian.
    made = {
        "lin2ulaw": g711.ulaw_encode(ALL_SAMPLES),
        "lin2alaw": g711.alaw_encode(ALL_SAMPLES),
        "ulaw2lin": g711.ulaw_decode(ALL_CODES).astype("<i2").tobytes(),
        "alaw2lin": g711.alaw_decode(ALL_CODES).astype("<i2").tobytes(),
    }
    assert {name: sha256(table).hexdigest() for name, table in made.items()} == {
        "lin2ulaw": "617fa4850d68d3906597e949f7625fb2fc46db479e29707f33159b3d131721cb",
        "lin2alaw": "f77c76aa923ee25617453f87514828a12896227f82ff383bf3bb53d6ac7c2a0f",
        "ulaw2lin": "3dab54339e520bb2c924826e3b72a917a2b612e9fd12fc867500f1d983a75827",
        "alaw2lin": "e04788d110e58ff8c70c93b8480190d973e3b67876b6119abbaec766cc75c174",
    }


def test_every_alaw_code_survives_a_round_trip() -> None:
    assert g711.alaw_encode(g711.alaw_decode(ALL_CODES)) == ALL_CODES


def test_every_mulaw_code_survives_a_round_trip_but_negative_zero() -> None:
    expected = bytearray(ALL_CODES)
    expected[0x7F] = 0xFF
    assert g711.ulaw_encode(g711.ulaw_decode(ALL_CODES)) == expected


@LAWS
def test_every_sample_is_decoded_within_half_a_step(encode: Encode, decode: Decode) -> None:
    cut_off = 3  # the two lowest bits, which mu-law's 14-bit samples do not have
    decoded = decode(encode(ALL_SAMPLES)).astype(np.int32)
    levels = np.unique(decode(ALL_CODES)).astype(np.int32)
    at = np.searchsorted(levels, decoded)
    wider = np.maximum(np.diff(levels, prepend=-33000)[at], np.diff(levels, append=33000)[at])
    inside = np.abs(ALL_SAMPLES.astype(np.int32)) < 32256
    assert np.all(np.abs(decoded - ALL_SAMPLES)[inside] <= wider[inside] // 2 + cut_off)


@LAWS
def test_louder_samples_never_decode_as_quieter(encode: Encode, decode: Decode) -> None:
    rising = np.arange(-32768, 32768).astype(np.int16)
    assert np.all(np.diff(decode(encode(rising)).astype(np.int32)) >= 0)


@LAWS
def test_the_loudest_samples_are_clipped_and_keep_their_sign(encode: Encode, decode: Decode) -> None:
    low, high = decode(encode(np.array([-32768, 32767], np.int16)))
    assert low == -high
    assert high in (32124, 32256)


def test_silence_has_the_codes_of_the_recommendation() -> None:
    silence = np.zeros(3, np.int16)
    assert g711.ulaw_encode(silence) == b"\xff\xff\xff" == bytes((g711.ULAW_SILENCE,)) * 3
    assert g711.alaw_encode(silence) == b"\xd5\xd5\xd5" == bytes((g711.ALAW_SILENCE,)) * 3
    assert g711.ulaw_decode(b"\xff").tolist() == [0]
    assert g711.alaw_decode(b"\xd5").tolist() == [8]  # A-law has no zero: its innermost step is 8 wide each way


@LAWS
def test_nothing_encodes_to_nothing(encode: Encode, decode: Decode) -> None:
    assert encode(np.empty(0, np.int16)) == b""
    assert decode(b"").tolist() == []


@LAWS
def test_samples_may_lie_apart_in_memory(encode: Encode, decode: Decode) -> None:
    stereo = np.array([[1000, 7], [-1000, 7], [30000, 7]], np.int16)
    assert encode(stereo[:, 0]) == encode(np.array([1000, -1000, 30000], np.int16))


@pytest.mark.parametrize("kind", [bytes, bytearray, memoryview])
def test_payloads_may_be_any_kind_of_bytes(kind: Callable[[bytes], bytes | bytearray | memoryview]) -> None:
    assert g711.ulaw_decode(kind(b"\x80\xff")).tolist() == [32124, 0]
    assert g711.alaw_decode(kind(b"\xaa\xd5")).tolist() == [32256, 8]


@LAWS
@given(payload=st.binary(max_size=400))
@settings(max_examples=50)
def test_a_second_round_trip_changes_nothing(encode: Encode, decode: Decode, payload: bytes) -> None:
    samples = decode(payload)
    assert np.array_equal(decode(encode(samples)), samples)
    assert samples.dtype == np.int16
    assert len(samples) == len(payload)
