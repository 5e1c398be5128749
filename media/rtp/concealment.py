"""Concealment of lost frames: waveform substitution, then comfort noise.

A lost frame is made of the last pitch period that was heard, repeated, so that a vowel goes on as a vowel. It fades out
over 60 ms: a longer loss cannot be guessed, and a buzz is worse than quiet. What comes after it is comfort noise at the
level of the background. The next real frame is faded in over what was made up, so that there is no click at either end.
After ITU-T G.711 Appendix I, with a level-dependent noise in place of silence.
"""

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
        self._history: Float = np.zeros(round(_HISTORY_S * rate_hz), np.float32)
        self._overlap = round(_OVERLAP_S * rate_hz)
        self._ramp = np.linspace(0, 1, self._overlap, dtype=np.float32)
        self._noise_rms = 4.0
        self._random = np.random.default_rng(seed)
        self._period: Float | None = None
        self._at = 0  # samples made up since the last real one
        self.concealed_samples = 0

    def heard(self, samples: Int16Array) -> Int16Array:
        """Take a real frame; return it, joined to what was made up before it."""
        out = samples.astype(np.float32)
        if self._at:
            count = min(self._overlap, len(out))
            made = self._made(count)
            ramp = self._ramp[:count]
            out[:count] = made * (1 - ramp) + out[:count] * ramp
            self._at, self._period = 0, None
        self._remember(out)
        self._follow_background(out)
        return _int16(out)

    def conceal(self, count: int) -> Int16Array:
        """Return so many samples in place of what is missing."""
        self.concealed_samples += count
        out = self._made(count)
        self._remember(out)
        return _int16(out)

    def noise(self, count: int) -> Int16Array:
        """Return comfort noise: of a pause that was made, not of a loss."""
        self._at, self._period = 0, None
        out = self._comfort(count)
        self._remember(out)
        return _int16(out)

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
        lag = self._pitch_lag()
        period = self._history[-lag:].copy()
        overlap = min(self._overlap, lag // 2)
        before = self._history[-lag - overlap : -lag]
        ramp = np.linspace(0, 1, overlap, dtype=np.float32)
        period[-overlap:] = period[-overlap:] * (1 - ramp) + before * ramp  # where the end meets the beginning again
        return period

    def _pitch_lag(self) -> int:
        """The lag at which the last 20 ms are most like what came before, by normalised correlation."""
        low, high = (round(seconds * self._rate) for seconds in _LAGS_S)
        size = min(round(0.02 * self._rate), len(self._history) - high)
        recent = self._history[-size:]
        windows = np.lib.stride_tricks.sliding_window_view(self._history, size)
        lags = np.arange(low, high + 1)
        earlier = windows[len(self._history) - size - lags]
        energy = np.sqrt((earlier * earlier).sum(axis=1)) + 1.0
        return int(lags[int(np.argmax(earlier @ recent / energy))])

    def _comfort(self, count: int) -> Float:
        return self._random.normal(0.0, self._noise_rms, count).astype(np.float32)

    # -- remembering -------------------------------------------------------------------------------------------------

    def _remember(self, samples: Float) -> None:
        size = len(self._history)
        self._history = np.concatenate((self._history, samples))[-size:]

    def _follow_background(self, samples: Float) -> None:
        """The background is what is there when nobody speaks: follow it down at once, up only slowly."""
        rms = float(np.sqrt(np.mean(samples * samples))) if len(samples) else 0.0
        quicker = 0.3 if rms < self._noise_rms else _SLOW
        self._noise_rms = min(
            _MAX_NOISE, max(1.0, self._noise_rms + quicker * (min(rms, _MAX_NOISE) - self._noise_rms))
        )


def _int16(samples: Float) -> Int16Array:
    return np.asarray(np.clip(np.rint(samples), -32768, 32767), np.int16)
