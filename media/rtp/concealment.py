"""Concealment of lost frames: waveform substitution, then comfort noise.

A lost frame is made of the last pitch period that was heard, repeated, so that a vowel goes on as a vowel. It fades out
over 60 ms: a longer loss cannot be guessed, and a buzz is worse than quiet. What comes after it is comfort noise at the
level of the background. The next real frame is faded in over what was made up, so that there is no click at either end.
After ITU-T G.711 Appendix I, with a level-dependent noise in place of silence.
"""

from collections import deque

import numpy as np
import numpy.typing as npt

from fastagent.media.g711 import Int16Array

_HISTORY_S = 0.06
_LAGS_S = (0.0025, 0.015)  # 400 down to 66 Hz
_FADE_FROM_S, _FADE_TO_S = 0.01, 0.06
_OVERLAP_S = 0.005
_SLOW = 0.002  # how quickly the background follows upwards: what is louder is speech, mostly
_MAX_NOISE = 300.0  # sample value: -41 dBFS; louder backgrounds are speech that we misjudged

Float = npt.NDArray[np.float32]


class Concealer:
    """One stream's memory of what it sounded like."""

    def __init__(self, rate_hz: int, *, seed: int = 0) -> None:
        self._rate = rate_hz
        self._size = round(_HISTORY_S * rate_hz)
        self._recent: deque[Int16Array] = deque([np.zeros(self._size, np.int16)])
        self._kept = self._size  # samples in it: the last 60 ms at least
        self._overlap = round(_OVERLAP_S * rate_hz)
        self._ramp = np.linspace(0, 1, self._overlap, dtype=np.float32)
        self._noise_rms = 4.0
        self._random = np.random.default_rng(seed)
        self._period: Float | None = None
        self._at = 0  # samples made up since the last real one
        self.concealed_samples = 0

    def heard(self, samples: Int16Array, rms: float) -> Int16Array:
        """Take a real frame and its level; return it, joined to what was made up before it."""
        if self._at:
            out = samples.astype(np.float32)
            count = min(self._overlap, len(out))
            made = self._made(count)
            ramp = self._ramp[:count]
            out[:count] = made * (1 - ramp) + out[:count] * ramp
            self._at, self._period = 0, None
            samples = _int16(out)
        self._remember(samples)
        self._follow_background(rms)
        return samples

    def conceal(self, count: int) -> Int16Array:
        """Return so many samples in place of what is missing."""
        self.concealed_samples += count
        out = _int16(self._made(count))
        self._remember(out)
        return out

    def noise(self, count: int) -> Int16Array:
        """Return comfort noise: of a pause that was made, not of a loss."""
        self._at, self._period = 0, None
        out = _int16(self._comfort(count))
        self._remember(out)
        return out

    # -- making up ---------------------------------------------------------------------------------------------------

    def _made(self, count: int) -> Float:
        if self._period is None:
            self._period, self._at = self._last_period(), 0
        period = self._period
        at = np.arange(self._at, self._at + count)
        self._at += count
        fade = 1 - np.clip((at / self._rate - _FADE_FROM_S) / (_FADE_TO_S - _FADE_FROM_S), 0, 1).astype(np.float32)
        speech: Float = period[at % len(period)] * fade
        return np.asarray(speech + self._comfort(count) * (1 - fade), np.float32)

    def _last_period(self) -> Float:
        """The end of the history, as long as one period of its pitch, its seam smoothed."""
        history = np.concatenate(self._recent)[-self._size :].astype(np.float32)
        lag = self._pitch_lag(history)
        period = history[-lag:].copy()
        overlap = min(self._overlap, lag // 2)
        before = history[-lag - overlap : -lag]
        ramp = np.linspace(0, 1, overlap, dtype=np.float32)
        period[-overlap:] = period[-overlap:] * (1 - ramp) + before * ramp  # where the end meets the beginning again
        return period

    def _pitch_lag(self, history: Float) -> int:
        """The lag at which the last 20 ms are most like what came before, by normalised correlation."""
        low, high = (round(seconds * self._rate) for seconds in _LAGS_S)
        size = min(round(0.02 * self._rate), len(history) - high)
        recent = history[-size:]
        windows = np.lib.stride_tricks.sliding_window_view(history, size)
        lags = np.arange(low, high + 1)
        earlier = windows[len(history) - size - lags]
        energy = np.sqrt((earlier * earlier).sum(axis=1)) + 1.0
        return int(lags[int(np.argmax(earlier @ recent / energy))])

    def _comfort(self, count: int) -> Float:
        return self._random.normal(0.0, self._noise_rms, count).astype(np.float32)

    # -- remembering -------------------------------------------------------------------------------------------------

    def _remember(self, samples: Int16Array) -> None:
        self._recent.append(samples)
        self._kept += len(samples)
        while self._kept - len(self._recent[0]) >= self._size:
            self._kept -= len(self._recent.popleft())

    def _follow_background(self, rms: float) -> None:
        """The background is what is there when nobody speaks: follow it down at once, up only slowly."""
        quicker = 0.3 if rms < self._noise_rms else _SLOW
        self._noise_rms = min(
            _MAX_NOISE, max(1.0, self._noise_rms + quicker * (min(rms, _MAX_NOISE) - self._noise_rms))
        )


def _int16(samples: Float) -> Int16Array:
    return np.asarray(np.clip(np.rint(samples), -32768, 32767), np.int16)
