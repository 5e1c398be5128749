"""Callers' voices: flite's, made when the tests run (never the voice that the agent itself speaks with)."""

import subprocess
import tempfile
from functools import cache
from pathlib import Path

import numpy as np

from fastagent.media.frame import PCMU_8K
from fastagent.media.resample import resample_block
from fastagent.media.wav import read_wav


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
