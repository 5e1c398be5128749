"""Servers under load: each on core 0, while the load runs on core 1."""

import json
import os
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
PORT = 9300

Report = dict[str, Any]


@dataclass
class Subject:
    """A server under load."""

    name: str
    command: list[str]
    environment: dict[str, str] = field(default_factory=dict)
    alive: str = "/readyz"
    """What answers once it accepts connections."""


def gateway(**more: str) -> Subject:
    """Return the gateway, with speech that costs nothing."""
    own = {
        "PORT": str(PORT),
        "HOST": "127.0.0.1",
        "FASTAGENT_SPEECH": "scripted",
        "FASTAGENT_DEFAULT_AGENT": "bench",
        "MAX_SESSIONS": "1000",
        "LOG_LEVEL": "ERROR",
        **more,
    }
    return Subject("FastAgent", [sys.executable, "-m", "fastagent", "serve"], own, alive="/livez")


@contextmanager
def running(subject: Subject) -> Iterator[tuple[int, dict[str, float]]]:
    """Start a server on core 0; give its pid and how long it took."""
    began = time.perf_counter()
    process = subprocess.Popen(
        ["taskset", "-c", "0", *subject.command],
        env={**os.environ, **subject.environment},
        cwd=ROOT,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        times = {"alive_s": _until(subject.alive, began), "ready_s": _until("/readyz", began)}
        yield process.pid, times
    finally:
        process.send_signal(signal.SIGINT)
        try:
            process.wait(20)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _until(path: str, began: float) -> float:
    while time.perf_counter() - began < 60:
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{PORT}{path}", timeout=1) as answer:
                if answer.status == 200:
                    return round(time.perf_counter() - began, 2)
        except (urllib.error.URLError, ConnectionError, TimeoutError):
            pass
        time.sleep(0.02)
    raise TimeoutError(f"the server does not answer {path}")


def load(pid: int, calls: int, seconds: float, *options: str) -> Report:
    """Run the load over Twilio's wire on core 1 and return its report."""
    to = ("--webhook", f"http://127.0.0.1:{PORT}/twilio/webhook")
    return measured("bench.load", pid, calls, seconds, *to, *options)


def measured(module: str, pid: int, calls: int, seconds: float, *options: str) -> Report:
    """Run a load on core 1 and return its report."""
    done = subprocess.run(
        [
            *("taskset", "-c", "1", sys.executable, "-m", module, "--pid", str(pid), "--calls", str(calls)),
            *("--seconds", str(seconds), *options),
        ],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=seconds + calls + 60,
        check=True,
    )
    report: Report = json.loads(done.stdout)
    return report
