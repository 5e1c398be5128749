"""One forward pass of Silero for many calls: our numpy pass against the packaged torch module, in the same process.

python -m bench.vad
"""

import time
from typing import Any

import numpy as np

from fastagent.media.vad.silero import SileroVad

_PASSES = 300


def _microseconds(work: Any) -> float:
    for _ in range(20):
        work()
    began = time.perf_counter()
    for _ in range(_PASSES):
        work()
    return (time.perf_counter() - began) / _PASSES * 1e6


def measure() -> list[dict[str, float]]:
    """Return microseconds a window for some batch sizes at 8 kHz, and the largest difference of probabilities."""
    import torch
    from silero_vad import load_silero_vad

    ours, module = SileroVad(), load_silero_vad()
    rng = np.random.default_rng(0)
    rows = []
    for batch in (1, 3, 6, 15, 31, 64):
        windows = (rng.standard_normal((batch, 256)) * 0.1).astype(np.float32)
        states = np.zeros((batch, ours.state_size(8000)), np.float32)
        tensor = torch.from_numpy(windows)
        with torch.inference_mode():
            module.reset_states()
            difference = np.abs(ours.infer(windows, states, 8000)[0] - module(tensor, 8000).numpy()[:, 0]).max()
            theirs = _microseconds(lambda tensor=tensor: module(tensor, 8000)) / batch
        own = _microseconds(lambda windows=windows, states=states: ours.infer(windows, states, 8000)) / batch
        rows.append({"batch": batch, "torch_us": theirs, "numpy_us": own, "difference": float(difference)})
    return rows


def main() -> None:
    """Print the table."""
    print("windows in a pass   torch module   numpy pass   ratio   largest difference")
    for row in measure():
        ratio = row["torch_us"] / row["numpy_us"]
        print(
            f"{row['batch']:17.0f} {row['torch_us']:11.0f} us {row['numpy_us']:9.0f} us {ratio:6.1f}x"
            f"   {row['difference']:.1e}"
        )


if __name__ == "__main__":
    main()
