"""How often speech, backchannels and noises over the agent's voice pause it, and interrupt it.

    python -m bench.interruptions

The real inbound chain with Silero and embedded recognition, on synthetic callers (flite and hibari) and made noises.
The agent is taken to speak all the time at -21 dBFS, so the echo gate is closed below -35.
"""

import asyncio
import subprocess
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from fastagent.media.barge_in import Verdict
from fastagent.media.frame import PCMU_8K, AudioFormat
from fastagent.media.inbound import InboundAudio
from fastagent.media.resample import resample_block
from fastagent.media.speech.contracts import Transcript
from fastagent.media.speech.embedded_stt import EmbeddedStt
from fastagent.media.speech.embedded_tts import EmbeddedTts
from fastagent.media.speech.scripted import prepared_speech
from fastagent.media.speech.sentences import looks_complete
from fastagent.media.turn_config import TurnConfig
from fastagent.media.vad.engine import VadEngine
from fastagent.media.vad.service import VadWindow
from fastagent.media.vad.silero import SileroVad
from fastagent.media.wav import read_wav

Samples = npt.NDArray[np.float64]

INTERRUPTIONS = (
    "Stop.", "No.", "Wait a moment.", "Hold on.", "Excuse me.", "That's not what I want.", "I have a question.",
    "Can I talk to a person?", "What about Sunday?", "No, I meant Friday.", "Sorry, can you repeat that?",
    "Let me think about it for a second.",
)  # fmt: skip
BACKCHANNELS = ("Mm-hm.", "Uh-huh.", "Yeah.", "Okay.", "Right.", "I see.", "Sure.", "Oh.")
_AGENT_DB = -21.0


class ImmediateVad:
    """Judges each window as it comes, in place of the batching service."""

    def __init__(self, engine: VadEngine) -> None:
        self.engine = engine

    def open(self, audio: AudioFormat, on_window: Callable[[VadWindow], None]) -> "ImmediateVad":
        self._audio, self._on_window = audio, on_window
        self._state = np.zeros((1, self.engine.state_size(audio.rate_hz)), np.float32)
        self.window_bytes = self.engine.window_samples(audio.rate_hz) * audio.sample_bytes
        return self

    def push(self, end: int, payload: bytes) -> None:
        from fastagent.media.level import level_db

        samples = self._audio.decode(payload)
        window = (samples / 32768).astype(np.float32)[None]
        verdict, self._state = self.engine.infer(window, self._state, self._audio.rate_hz)
        self._on_window(VadWindow(end, float(verdict[0]), level_db(samples)))

    def close(self) -> None:
        pass


class Keeper:
    """A recognition stream that keeps the utterance."""

    def __init__(self) -> None:
        self.audio = bytearray()

    def push(self, payload: bytes) -> None:
        self.audio += payload

    async def finalize(self) -> Transcript:
        raise NotImplementedError

    def restart(self) -> None:
        self.audio.clear()

    async def aclose(self) -> None:
        pass


class Listener:
    """An agent that always speaks."""

    def __init__(self, config: TurnConfig) -> None:
        self._config = config
        self.paused = False
        self.waiting = False
        self.verdicts: Counter[str] = Counter()

    def sensitivity(self) -> tuple[int, float]:
        return self._config.barge_in_windows, _AGENT_DB - self._config.echo_gate_db

    def speech_started(self, event: object) -> bool:
        self.verdicts["pause"] += 1
        return True

    def speech_paused(self, event: object) -> None:
        self.waiting = True

    def speech_resumed(self, event: object) -> None:
        self.waiting = False

    def speech_ended(self, event: object) -> None:
        self.waiting = False

    def barge_in(self, verdict: Verdict) -> None:
        self.verdicts[verdict.value] += 1

    def failed(self, error: Exception) -> None:
        raise error


async def judge(sound: Samples, engine: VadEngine, stt: EmbeddedStt) -> Counter[str]:
    """Return what the chain makes of a sound over the agent's voice."""
    config = TurnConfig()
    listener, keeper = Listener(config), Keeper()
    chain = InboundAudio(PCMU_8K, vad=ImmediateVad(engine), stt=keeper, config=config, listener=listener)  # type: ignore[arg-type]
    rng = np.random.default_rng(5)
    line = rng.standard_normal(len(sound) + 24000) * 16
    line[8000 : 8000 + len(sound)] += sound
    payload = PCMU_8K.encode(line.clip(-32768, 32767).astype(np.int16))
    for at in range(0, len(payload) - 159, 160):
        chain.push(payload[at : at + 160], at // 8, at / 8000)
        if listener.waiting:
            listener.waiting = False
            transcript = await stt.recognise(bytes(keeper.audio), PCMU_8K)
            chain.transcript(transcript, complete=looks_complete(transcript.text))
    return listener.verdicts


def _level(samples: Samples, db: float) -> Samples:
    loud = samples[np.abs(samples) > np.abs(samples).max() / 20]
    return samples * 32768 * 10 ** (db / 20) / np.sqrt(np.mean(loud**2))


def _flite(voice: str, text: str) -> Samples:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "said.wav"
        subprocess.run(["flite", "-voice", voice, "-t", text, "-o", str(path)], check=True, timeout=20)
        audio = read_wav(path)
    return _level(resample_block(audio.samples, audio.rate_hz, 8000).astype(np.float64), -23)


async def _voices(texts: tuple[str, ...], tts: EmbeddedTts) -> list[Samples]:
    said = [_flite(voice, text) for text in texts for voice in ("slt", "rms")]
    for text in texts:
        async for frame in tts.stream(text):
            said.append(_level(resample_block(frame.samples, frame.rate_hz, 8000).astype(np.float64), -23))
    return said


def _noises() -> Iterator[tuple[str, list[Samples]]]:
    rng = np.random.default_rng(11)
    time = np.arange(8000) / 8000

    def some(make: Callable[[], Samples], count: int = 20) -> list[Samples]:
        return [make() for _ in range(count)]

    def burst(seconds: float, db: float) -> Samples:
        return _level(rng.standard_normal(int(seconds * 8000)), db)

    def tone(seconds: float) -> Samples:
        hz = rng.uniform(200, 2500)
        return _level(np.sin(2 * np.pi * hz * time[: int(seconds * 8000)]), -20)

    def knock() -> Samples:
        return _level(rng.standard_normal(2400) * np.exp(-time[:2400] / 0.03), -15)

    def key() -> Samples:
        low, high = rng.choice([697, 770, 852, 941]), rng.choice([1209, 1336, 1477])
        return _level(np.sin(2 * np.pi * low * time[:1600]) + np.sin(2 * np.pi * high * time[:1600]), -14)

    def typing() -> Samples:
        sound = np.zeros(16000)
        for at in rng.integers(0, 15000, 12):
            sound[at : at + 240] += rng.standard_normal(240) * np.exp(-time[:240] / 0.006)
        return _level(sound, -26)

    yield "click of 100 ms", some(lambda: burst(0.1, -18))
    yield "noise of 0.5 s", some(lambda: burst(0.5, -22))
    yield "noise of 2 s", some(lambda: burst(2.0, -26))
    yield "tone of 0.5 s", some(lambda: tone(0.5))
    yield "knock", some(knock)
    yield "keypad tone", some(key)
    yield "typing", some(typing)
    own = np.concatenate([prepared_speech().samples.astype(np.float64)] * 2)
    yield "own echo, 20 dB down", [_level(np.roll(own, int(shift)), -41) for shift in rng.integers(0, 24000, 20)]


async def measure() -> list[dict[str, Any]]:
    """Return the counts of each kind of sound."""
    engine = SileroVad()
    with ThreadPoolExecutor(2) as executor:
        stt, tts = EmbeddedStt(executor), EmbeddedTts(executor)
        await asyncio.gather(stt.warm_up(), tts.warm_up())
        kinds = [
            ("interruption", await _voices(INTERRUPTIONS, tts)),
            ("backchannel", await _voices(BACKCHANNELS, tts)),
            *_noises(),
        ]
        rows = []
        for name, sounds in kinds:
            verdicts = [await judge(sound, engine, stt) for sound in sounds]
            rows.append(
                {
                    "kind": name,
                    "sounds": len(sounds),
                    "paused": sum(bool(one["pause"]) for one in verdicts),
                    "interrupted": sum(bool(one["interrupt"]) for one in verdicts),
                }
            )
    return rows


def report(rows: list[dict[str, Any]]) -> list[str]:
    """Return the table as lines, and the three rates."""
    lines = ["sound over the agent's voice   sounds   paused   interrupted"]
    lines += [f"{row['kind']:30} {row['sounds']:6} {row['paused']:8} {row['interrupted']:13}" for row in rows]
    by = {row["kind"]: row for row in rows}
    noises = [row for row in rows if row["kind"] not in ("interruption", "backchannel")]
    speech, nods = by["interruption"], by["backchannel"]
    silent = sum(row["sounds"] for row in noises)
    lines += [
        f"missed interruptions: {1 - speech['interrupted'] / speech['sounds']:.1%}",
        f"false interruptions: {nods['interrupted'] / nods['sounds']:.1%} of backchannels, "
        f"{sum(row['interrupted'] for row in noises) / silent:.1%} of noises",
        f"false pauses: {sum(row['paused'] for row in noises) / silent:.1%} of noises",
    ]
    return lines


if __name__ == "__main__":
    print("\n".join(report(asyncio.run(measure()))))
