"""Callers' voices, made when the tests run: flite's, and where the wire is what matters the agent's own."""

import subprocess
import tempfile
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from pathlib import Path

import numpy as np

from fastagent.media.frame import PCMU_8K, AudioFormat
from fastagent.media.g711 import Int16Array
from fastagent.media.resample import resample_block
from fastagent.media.speech.embedded_tts import EmbeddedTts
from fastagent.media.speech.rendering import Renderer
from fastagent.media.wav import read_wav

_WIDE = AudioFormat("L16", 24000)


@cache
def voice(name: str, text: str) -> bytes:
    """Return a sentence as mu-law at 8 kHz, narrowed as a telephone does, at about -23 dBFS."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "said.wav"
        subprocess.run(["flite", "-voice", name, "-t", text, "-o", str(path)], check=True, timeout=20)
        audio = read_wav(path)
    samples = resample_block(audio.samples, audio.rate_hz, 8000).astype(np.float64)
    spectrum = np.fft.rfft(samples)
    hz = np.fft.rfftfreq(len(samples), 1 / 8000)
    spectrum[(hz < 300) | (hz > 3400)] = 0
    samples = np.fft.irfft(spectrum, len(samples))
    loud = samples[np.abs(samples) > np.abs(samples).max() / 20]
    samples *= 32768 * 10 ** (-23 / 20) / np.sqrt(np.mean(loud**2))
    return PCMU_8K.encode(samples.clip(-32768, 32767).astype(np.int16))


async def spoken(text: str) -> Int16Array:
    """Return a sentence at 24 kHz, in the embedded voice."""
    with ThreadPoolExecutor(1) as executor:
        tts = EmbeddedTts(executor)
        await tts.warm_up()
        return _WIDE.decode((await Renderer(tts).render(text, _WIDE)).payload)
