"""Silero VAD v6, batched across calls.

torch loads the network of the `silero-vad` package; the forward pass runs in numpy on the same weights. The network is
small (one STFT, four convolutions that shrink 4 frames to 1, one LSTM cell), and as six matrix products it gives the
module's own probabilities within 1e-6 (`tests/media/vad/test_silero.py`) for a third of the CPU: torch's interpreter
spends most of a small batch on dispatch, and the packaged module also computes the phase of the STFT, which nothing
reads. `bench/vad.py` prints both.

numpy releases the interpreter lock inside the products, so a pass in a thread leaves the event loop its turn.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from fastagent.media.vad.engine import Float32Array

_HIDDEN = 128
_FRAMES = 4  # STFT frames in a window with its context and padding


@dataclass(frozen=True, slots=True)
class _Weights:
    window: int
    context: int
    padding: int
    hop: int
    basis: Float32Array  # filter x 2 bins
    conv1: Float32Array
    bias1: Float32Array
    conv2: Float32Array
    bias2: Float32Array
    conv3: Float32Array
    bias3: Float32Array
    conv4: Float32Array
    bias4: Float32Array
    cell: Float32Array  # (input + hidden) x 4 hidden
    cell_bias: Float32Array
    out: Float32Array
    out_bias: Float32Array


def _weights(network: Any, *, window: int, context: int) -> _Weights:
    tensors = {**dict(network.named_parameters()), **dict(network.named_buffers())}
    get = {name: tensor.detach().numpy().astype(np.float32) for name, tensor in tensors.items()}

    def conv(layer: int) -> tuple[Float32Array, Float32Array]:
        weight = get[f"encoder.{layer}.reparam_conv.weight"]  # out x in x 3
        return weight.transpose(2, 1, 0).reshape(-1, weight.shape[0]).copy(), get[f"encoder.{layer}.reparam_conv.bias"]

    conv1, bias1 = conv(0)
    conv2, bias2 = conv(1)
    conv3, bias3 = conv(2)
    conv4, bias4 = conv(3)
    channels3, channels4 = len(conv3) // 3, len(conv4) // 3
    basis = get["stft.forward_basis_buffer"][:, 0, :].T.copy()
    hop = len(basis) // 2
    return _Weights(
        window=window,
        context=context,
        padding=(_FRAMES - 1) * hop + len(basis) - window - context,
        hop=hop,
        basis=basis,
        conv1=conv1,
        bias1=bias1,
        conv2=conv2,
        bias2=bias2,
        # Two frames come in with stride 2, so the tap before the first frame only ever sees zeros.
        conv3=conv3[channels3:].copy(),
        bias3=bias3,
        # One frame comes in: only the middle tap sees it.
        conv4=conv4[channels4 : 2 * channels4].copy(),
        bias4=bias4,
        cell=np.concatenate((get["decoder.rnn.weight_ih"], get["decoder.rnn.weight_hh"]), axis=1).T.copy(),
        cell_bias=get["decoder.rnn.bias_ih"] + get["decoder.rnn.bias_hh"],
        out=get["decoder.decoder.2.weight"][0, :, 0].copy(),
        out_bias=get["decoder.decoder.2.bias"],
    )


def _sigmoid(x: Float32Array) -> Float32Array:
    # exp may overflow to infinity for very negative x: the quotient is then 0, as it should be.
    with np.errstate(over="ignore"):
        return np.asarray(1 / (1 + np.exp(-x)), np.float32)


def _unfold(rows: Float32Array, count: int, step: int, width: int) -> Float32Array:
    """Return `count` overlapping stretches of each row, `step` floats apart, as (rows * count) x width."""
    strides = (rows.strides[0], step * rows.itemsize, rows.itemsize)
    view: npt.NDArray[np.float32] = np.lib.stride_tricks.as_strided(rows, (len(rows), count, width), strides)
    return view.reshape(len(rows) * count, width)


class SileroVad:
    """The engine: 256 samples a window at 8 kHz, 512 at 16 kHz (32 ms both)."""

    def __init__(self) -> None:
        import torch
        from silero_vad import load_silero_vad
        from threadpoolctl import threadpool_limits

        torch.set_num_threads(1)
        threadpool_limits(1, user_api="blas")  # threads inside products of this size only cost
        module = load_silero_vad()
        self._weights = {
            8000: _weights(module._model_8k, window=256, context=32),
            16000: _weights(module._model, window=512, context=64),
        }

    def window_samples(self, rate_hz: int) -> int:
        """256 at 8 kHz, 512 at 16 kHz."""
        return self._weights[rate_hz].window

    def state_size(self, rate_hz: int) -> int:
        """Hidden and cell state, and the samples before the window that the model wants to see again."""
        return 2 * _HIDDEN + self._weights[rate_hz].context

    def infer(self, windows: Float32Array, states: Float32Array, rate_hz: int) -> tuple[Float32Array, Float32Array]:
        """One forward pass for all rows."""
        w = self._weights[rate_hz]
        hidden = self._encode(w, windows, states)

        gates = np.concatenate((hidden, states[:, :_HIDDEN]), axis=1) @ w.cell
        gates += w.cell_bias
        opened = _sigmoid(gates)  # the third quarter goes through tanh instead
        cell = opened[:, _HIDDEN : 2 * _HIDDEN] * states[:, _HIDDEN : 2 * _HIDDEN]
        cell += opened[:, :_HIDDEN] * np.tanh(gates[:, 2 * _HIDDEN : 3 * _HIDDEN])
        fresh = np.empty_like(states)
        fresh[:, _HIDDEN : 2 * _HIDDEN] = cell
        np.multiply(opened[:, 3 * _HIDDEN :], np.tanh(cell), out=fresh[:, :_HIDDEN])
        fresh[:, 2 * _HIDDEN :] = windows[:, -w.context :]
        return _sigmoid(np.maximum(fresh[:, :_HIDDEN], 0) @ w.out + w.out_bias), fresh

    def _encode(self, w: _Weights, windows: Float32Array, states: Float32Array) -> Float32Array:
        """STFT and the four convolutions: what the cell is fed, [B, 128]."""
        batch, known = len(windows), w.context + w.window
        audio = np.empty((batch, known + w.padding), np.float32)
        audio[:, : w.context] = states[:, 2 * _HIDDEN :]
        audio[:, w.context : known] = windows
        audio[:, known:] = audio[:, known - 2 : known - 2 - w.padding : -1]  # reflected, as the model's own padding

        spectrum = _unfold(audio, _FRAMES, w.hop, len(w.basis)) @ w.basis
        spectrum *= spectrum
        bins = spectrum.shape[1] // 2
        framed = np.zeros((batch, _FRAMES + 2, bins), np.float32)
        power = (spectrum[:, :bins] + spectrum[:, bins:]).reshape(batch, _FRAMES, bins)
        np.sqrt(power, out=framed[:, 1:-1])

        flat = framed.reshape(batch, -1)
        hidden: Float32Array = _unfold(flat, _FRAMES, bins, 3 * bins) @ w.conv1
        hidden += w.bias1
        framed = np.zeros((batch, _FRAMES + 2, hidden.shape[1]), np.float32)
        np.maximum(hidden.reshape(batch, _FRAMES, -1), 0, out=framed[:, 1:-1])
        hidden = _unfold(framed.reshape(batch, -1), 2, 2 * framed.shape[2], 3 * framed.shape[2]) @ w.conv2
        hidden += w.bias2
        np.maximum(hidden, 0, out=hidden)
        hidden = hidden.reshape(batch, 2 * hidden.shape[1]) @ w.conv3
        hidden += w.bias3
        np.maximum(hidden, 0, out=hidden)
        hidden = hidden @ w.conv4
        hidden += w.bias4
        return np.maximum(hidden, 0, out=hidden)
