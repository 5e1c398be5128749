"""Keys as tones: found whatever telephones do to them (ITU-T Q.24), and not in speech."""

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest

from fastagent.media.dtmf import _HIGH_HZ, _LOW_HZ, KEYS, ToneDetector, tones
from fastagent.media.frame import AudioFormat
from fastagent.media.g711 import Int16Array, ulaw_decode, ulaw_encode
from fastagent.media.resample import resample_block
from fastagent.media.speech.embedded_tts import EmbeddedTts
from fastagent.media.speech.rendering import Renderer
from fastagent.media.wav import read_wav

ALL = "".join(KEYS)
WIRE = AudioFormat("L16", 8000)


def found(samples: Int16Array, rate_hz: int = 8000, frame_ms: int = 20) -> str:
    detector, size = ToneDetector(rate_hz), rate_hz * frame_ms // 1000
    padded = np.pad(samples, (0, size * 5))
    return "".join(detector.push(padded[at : at + size]) for at in range(0, len(padded) - size, size))


def pressed(
    keys: str, *, on_s: float = 0.08, off_s: float = 0.08, low_db: float = -14, high_db: float = -14, off_by: float = 0
) -> npt.NDArray[np.float64]:
    """Keys as another maker's telephone makes them; levels are dBFS."""
    at, parts = np.arange(int(on_s * 8000)) / 8000, []
    for key in keys:
        row = next(row for row, names in enumerate(KEYS) if key in names)
        low, high = _LOW_HZ[row] * (1 + off_by), _HIGH_HZ[KEYS[row].index(key)] * (1 + off_by)
        sound = 32768 * 10 ** (low_db / 20) * np.sin(2 * np.pi * low * at)
        sound += 32768 * 10 ** (high_db / 20) * np.sin(2 * np.pi * high * at)
        parts += [sound, np.zeros(int(off_s * 8000))]
    return np.concatenate(parts)


@pytest.mark.parametrize("rate_hz", [8000, 16000])
def test_our_own_tones_are_every_key_once(rate_hz: int) -> None:
    assert found(tones(ALL + "11", rate_hz), rate_hz) == ALL + "11"


def test_what_is_no_key_has_no_tone() -> None:
    with pytest.raises(ValueError, match="no key"):
        tones("1x", 8000)
    assert len(tones("", 8000)) == 0


@pytest.mark.parametrize("on_s", [0.04, 0.05, 0.1, 1.0])
def test_short_and_long_keys_through_a_codec_and_noise(on_s: float) -> None:
    rng = np.random.default_rng(3)
    for shift in range(0, 160, 20):
        sound = np.concatenate((np.zeros(shift), pressed(ALL, on_s=on_s, off_s=max(0.04, on_s / 2))))
        noisy = (sound + rng.normal(0, 180, len(sound))).astype(np.int16)
        assert found(ulaw_decode(ulaw_encode(noisy))) == ALL


@pytest.mark.parametrize(("low_db", "high_db"), [(-6, -6), (-30, -30), (-10, -18), (-18, -12)])
def test_levels_and_twist_that_must_be_taken(low_db: float, high_db: float) -> None:
    assert found(pressed(ALL, low_db=low_db, high_db=high_db).astype(np.int16)) == ALL


@pytest.mark.parametrize(("low_db", "high_db"), [(-45, -45), (-8, -20), (-20, -8), (-14, -90), (-90, -14)])
def test_levels_and_twist_that_are_no_key(low_db: float, high_db: float) -> None:
    assert found(pressed(ALL, low_db=low_db, high_db=high_db).astype(np.int16)) == ""


@pytest.mark.parametrize(("off_by", "heard"), [(0.015, ALL), (-0.015, ALL), (0.035, ""), (-0.035, "")])
def test_frequencies_may_be_a_little_off(off_by: float, heard: str) -> None:
    assert found(pressed(ALL, off_by=off_by).astype(np.int16)) == heard


def test_a_key_that_is_interrupted_for_a_moment_is_one_key() -> None:
    sound = pressed("5", on_s=0.4)
    sound[1600:1660] = 0
    assert found(sound.astype(np.int16)) == "5"


@pytest.mark.real
async def test_speech_is_no_key() -> None:
    clips = []
    for path in sorted((Path(__file__).parents[1] / "samples").glob("*.wav")):
        audio = read_wav(path)
        clips.append(resample_block(audio.samples, audio.rate_hz, 8000))
    with ThreadPoolExecutor(1) as executor:
        tts = EmbeddedTts(executor)
        await tts.warm_up()
        text = "I'd like to buy a new telephone, please, one with large keys and a really loud bell."
        clips.append(WIRE.decode((await Renderer(tts).render(text, WIRE)).payload))
    for clip in clips:
        for loudness in (0.3, 1.0, 3.0):
            for speed in (0.85, 1.0, 1.2):
                voice = resample_block(clip, int(8000 * speed), 8000) * loudness
                assert found(np.clip(voice, -32768, 32767).astype(np.int16)) == ""
