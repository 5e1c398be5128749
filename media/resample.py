"""Change of sample rate: whole blocks, and streams with a known short delay.

A phone call stays at 8 kHz inside; audio is resampled once, at the border of the provider that needs another rate.
Where the whole block is there, soxr does it. For a stream soxr is the wrong tool: it holds audio back in bursts of 64
to 150 ms. `StreamResampler` is a polyphase FIR whose delay is half its length (2 ms at 8 kHz to 16 kHz), and constant.
"""

from functools import lru_cache
from math import gcd

import numpy as np
import numpy.typing as npt
import soxr

from fastagent.media.g711 import Int16Array

_TAPS = 32  # input samples under the filter when the rate goes up


def resample_block(samples: Int16Array, from_hz: int, to_hz: int) -> Int16Array:
    """Return a whole block at another rate; its duration is kept within one sample."""
    if from_hz == to_hz or not len(samples):
        return samples
    return np.asarray(soxr.resample(samples, from_hz, to_hz), np.int16)


@lru_cache(maxsize=16)
def _phases(up: int, down: int) -> npt.NDArray[np.float32]:
    """Windowed-sinc low-pass as `up` phases x taps; each phase sums to one."""
    taps = _TAPS * max(1, -(-down // up))
    cutoff = 0.92 / max(up, down)
    # Distance, in up-sampled steps, of each input sample under the window from the output sample.
    at = (np.arange(taps) - taps // 2)[None, :] * up - np.arange(up)[:, None]
    half = taps * up / 2
    window = np.i0(8.0 * np.sqrt(np.maximum(0.0, 1 - (at / half) ** 2)))
    phases = np.sinc(cutoff * at) * window
    return np.ascontiguousarray(phases / phases.sum(axis=1, keepdims=True), np.float32)


class StreamResampler:
    """Resample a stream chunk by chunk; `flush` returns what the filter still holds."""

    def __init__(self, from_hz: int, to_hz: int) -> None:
        common = gcd(from_hz, to_hz)
        self._up, self._down = to_hz // common, from_hz // common
        self._identity = from_hz == to_hz
        self._filter = _phases(self._up, self._down)
        self._taps = self._filter.shape[1]
        self.delay_s = 0.0 if self._identity else self._taps / 2 / from_hz
        # Half a filter of zeros ahead puts output sample 0 on input sample 0.
        self._held: npt.NDArray[np.float32] = np.zeros(self._taps // 2, np.float32)
        self._at = 0  # next output sample, in up-sampled units from the start of `_held`
        self._owed = 0.0  # output samples still due for the input so far

    def push(self, samples: Int16Array) -> Int16Array:
        """Return the output that this chunk completes; it may be empty."""
        if self._identity:
            return samples
        self._owed += len(samples) * self._up / self._down
        return self._run(samples.astype(np.float32))

    def flush(self) -> Int16Array:
        """Return the tail; together all output has the duration of all input within a sample."""
        if self._identity:
            return np.empty(0, np.int16)
        owed = max(0, round(self._owed))
        return self._run(np.zeros(self._taps, np.float32))[:owed]

    def _convolved(self, windows: npt.NDArray[np.float32], count: int) -> npt.NDArray[np.float32]:
        """Return so many outputs; whole steps down or up are one matrix product, which is what most calls need."""
        if self._up == 1:
            return np.asarray(windows[self._at :: self._down][:count] @ self._filter[0])
        if self._down == 1:
            first, skip = divmod(self._at, self._up)
            rows = -(-(skip + count) // self._up)
            return np.asarray((windows[first : first + rows] @ self._filter.T).reshape(-1)[skip : skip + count])
        at = self._at + np.arange(count) * self._down
        return np.asarray(np.einsum("ij,ij->i", windows[at // self._up], self._filter[at % self._up]))

    def _run(self, fresh: npt.NDArray[np.float32]) -> Int16Array:
        held = np.concatenate((self._held, fresh))
        last = (len(held) - self._taps) * self._up + self._up - 1  # the last position with a full window
        count = max(0, (last - self._at) // self._down + 1)
        if count == 0:
            self._held = held
            return np.empty(0, np.int16)
        out = self._convolved(np.lib.stride_tricks.sliding_window_view(held, self._taps), count)
        following = self._at + count * self._down
        used = min(following // self._up, len(held))
        self._held, self._at = held[used:], following - used * self._up
        self._owed -= count
        return np.asarray(np.clip(np.rint(out), -32768, 32767), np.int16)


class FrameResampler:
    """Resample frame by frame, each at once and whole: what the filter holds back is made up for by silence before
    the first. Frames are to have a whole number of samples at both rates.
    """

    def __init__(self, from_hz: int, to_hz: int) -> None:
        self._from_hz, self._to_hz = from_hz, to_hz
        self._stream = StreamResampler(from_hz, to_hz)
        self._ready: Int16Array = np.zeros(-int(-self._stream.delay_s * to_hz // 1), np.int16)

    def push(self, samples: Int16Array) -> Int16Array:
        """Return as much audio as was given."""
        ready = np.concatenate((self._ready, self._stream.push(samples)))
        count = len(samples) * self._to_hz // self._from_hz
        self._ready = ready[count:]
        return ready[:count]
