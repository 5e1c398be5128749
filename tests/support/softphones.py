"""Softphones of other makers, each in a process of its own, and what their microphones hear."""

import asyncio
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np

from fastagent.media.resample import resample_block
from fastagent.media.wav import read_wav, write_wav
from tests.support.process import Served
from tests.support.voices import spoken

ROOT = Path(__file__).parents[2]
PJSUA = ROOT / ".venv-pjsua/bin/python"


async def _run(*command: str) -> Any:
    process = await asyncio.create_subprocess_exec(
        *command, cwd=ROOT, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE
    )
    out, err = await process.communicate()
    assert process.returncode == 0, err.decode()
    return json.loads(out.decode().splitlines()[-1])


async def baresip(uri: str, folder: Path, *arguments: str) -> dict[str, Any]:
    """Let baresip call; return what its own stack says of the call."""
    files = ("--play", str(folder / "in.wav"), "--record", str(folder / "out.wav"))
    return dict(await _run(sys.executable, "-m", "tests.support.baresip_phone", uri, *files, *arguments))


async def pjsua(port: int, *arguments: str) -> list[dict[str, Any]]:
    """Let PJSIP call, or wait for a call; return what its own stack says of each."""
    assert PJSUA.exists(), "the pjsua peer is missing: run deploy/setup.sh test"
    return list(await _run(str(PJSUA), "tests/support/pjsua_phone.py", str(port), *arguments))


async def speaks(folder: Path, text: str, *, after_s: float, rate_hz: int = 8000) -> None:
    """What a phone's microphone will hear."""
    voice = resample_block(await spoken(text), 24000, rate_hz) if text else np.empty(0, np.int16)
    before = np.zeros(int(after_s * rate_hz), np.int16)
    write_wav(folder / "in.wav", [np.concatenate([before, voice, np.zeros(60 * rate_hz, np.int16)])], rate_hz)


def first_sound_s(path: Path) -> float:
    """When a recording is loud for the first time."""
    heard = read_wav(path)
    return float(np.argmax(np.abs(heard.samples.astype(np.int32)) > 1000)) / heard.rate_hz


def loud_s(path: Path, begin_s: float = 0.0, end_s: float = float("inf")) -> float:
    """How much of a recording, or of a part of it, is loud."""
    heard = read_wav(path)
    size = heard.rate_hz // 50
    frames = heard.samples[: len(heard.samples) // size * size].reshape(-1, size)
    frames = frames[round(begin_s * 50) : round(min(end_s, len(frames) / 50) * 50)]
    return float((np.abs(frames.astype(np.int32)).max(axis=1) > 1000).sum() * 0.02)


async def ended(served: Served) -> list[dict[str, Any]]:
    """Stop the gateway; return what it logged."""
    served.process.terminate()
    code, log = await served.exited()
    assert code == 0
    return [json.loads(line) for line in log.splitlines() if line.startswith("{")]


def turns(log: list[dict[str, Any]]) -> list[tuple[str, str]]:
    """What was said and heard, turn by turn."""
    return [(one["user"], one["heard"]) for one in log if one["message"] == "turn"]


def qualities(log: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """What the gateway received of each call."""
    return [one["quality"] for one in log if one["message"] == "Session ended"]
