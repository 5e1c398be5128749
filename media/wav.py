"""WAV files: PCM of 8, 16, 24 or 32 bits, any rate; read as mono, written as 16 bits."""

import wave
from pathlib import Path

import numpy as np

from fastagent.media.errors import AudioFormatError
from fastagent.media.frame import AudioFrame
from fastagent.media.g711 import Int16Array


def read_wav(path: str | Path) -> AudioFrame:
    """Return a file's audio, its channels mixed to one.

    Raises:
        AudioFormatError: it is no PCM WAV file.
        OSError: it cannot be read.
    """
    try:
        with wave.open(str(path), "rb") as file:
            width, channels, rate_hz = file.getsampwidth(), file.getnchannels(), file.getframerate()
            data = file.readframes(file.getnframes())
    except (wave.Error, EOFError, RuntimeError) as error:  # RuntimeError: a chunk that ends beyond the file
        raise AudioFormatError(f"{path}: {error or 'damaged'}") from error
    if not (1 <= width <= 4 and channels and rate_hz):
        raise AudioFormatError(f"{path}: {channels} channels of {8 * width} bits at {rate_hz} Hz")
    data = data[: len(data) // (width * channels) * width * channels]
    if width == 1:
        samples = (np.frombuffer(data, np.uint8).astype(np.int32) - 128) << 8
    else:
        columns = np.frombuffer(data, np.uint8).reshape(-1, width)
        samples = columns[:, -2:].copy().view("<i2")[:, 0].astype(np.int32)  # the two highest bytes
    mixed = samples.reshape(-1, channels).mean(axis=1)
    return AudioFrame(mixed.astype(np.int16), rate_hz)


def write_wav(path: str | Path, channels: list[Int16Array], rate_hz: int) -> None:
    """Write channels of equal or unequal length side by side; short ones are padded with silence."""
    length = max(len(channel) for channel in channels)
    padded = [np.pad(channel, (0, length - len(channel))) for channel in channels]
    with wave.open(str(path), "wb") as file:
        file.setnchannels(len(channels))
        file.setsampwidth(2)
        file.setframerate(rate_hz)
        file.writeframes(np.stack(padded, axis=1).astype("<i2").tobytes())
