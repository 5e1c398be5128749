"""The log-mel spectrogram that Whisper reads: 80 Slaney bands, 25 ms windows every 10 ms at 16 kHz."""

from functools import lru_cache

import numpy as np
import numpy.typing as npt

from fastagent.media.g711 import Int16Array

RATE_HZ = 16000
HOP = 160
_FFT = 400
_BANDS = 80

Float32Array = npt.NDArray[np.float32]


@lru_cache(maxsize=1)
def _filters() -> Float32Array:
    """Triangular mel filters, area-normalised (Slaney's Auditory Toolbox), 80 x 201."""
    linear_to, step = 1000.0, np.log(6.4) / 27.0

    def hz(mel: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
        return np.where(mel < 15, mel * 200 / 3, linear_to * np.exp(step * (mel - 15)))

    top = 15 + np.log(RATE_HZ / 2 / linear_to) / step
    edges = hz(np.linspace(0, top, _BANDS + 2))
    bins = np.fft.rfftfreq(_FFT, 1 / RATE_HZ)
    rising = (bins - edges[:-2, None]) / np.diff(edges)[:-1, None]
    falling = (edges[2:, None] - bins) / np.diff(edges)[1:, None]
    area = 2 / (edges[2:] - edges[:-2])
    return np.asarray(np.maximum(0, np.minimum(rising, falling)) * area[:, None], np.float32)


def log_mel(samples: Int16Array, frames: int) -> Float32Array:
    """Return features [1, 80, frames] of 16 kHz audio, padded with silence or cut to `frames` of 10 ms."""
    audio = np.zeros(frames * HOP + _FFT, np.float32)
    count = min(len(samples), frames * HOP)
    audio[_FFT // 2 : _FFT // 2 + count] = samples[:count] * np.float32(1 / 32768)
    audio[: _FFT // 2] = audio[_FFT : _FFT // 2 : -1]  # reflected, as the training data was
    windows = np.lib.stride_tricks.sliding_window_view(audio, _FFT)[::HOP][:frames]
    hann = np.hanning(_FFT + 1)[:-1].astype(np.float32)
    power = np.abs(np.fft.rfft(windows * hann, axis=1)) ** 2
    bands = np.log10(np.maximum(_filters() @ power.T.astype(np.float32), 1e-10))
    bands = np.maximum(bands, bands.max() - 8.0)
    return np.ascontiguousarray((bands + 4.0)[None] / 4.0, np.float32)
