"""What a call by SIP and RTP costs, and how exactly its packets keep their time.

    python -m bench.rtp [--quick]

Beside the gateway, pinned to the same core in the same minutes: the floor, which is a task per call that sends silence
and throws away what comes, without signalling, codec, jitter buffer or voice activity (`bench.rtp_floor`); and the
gateway's own Twilio wire. Then codecs, and how many calls one core holds.
"""

import argparse
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from rich.console import Console
from rich.table import Table

from bench.servers import ROOT, Report, gateway, load, measured, running

_SIP = "127.0.0.1:15960"
_CODECS = ("PCMU", "G722", "opus")
_LATE_MS = 15.0


@contextmanager
def served() -> Iterator[int]:
    """The gateway on core 0."""
    with running(gateway(SIP_PORT=_SIP.partition(":")[2])) as (pid, _):
        yield pid


@contextmanager
def floor(calls: int) -> Iterator[int]:
    """The floor on core 0."""
    command = ["taskset", "-c", "0", sys.executable, "-m", "bench.rtp_floor", str(calls)]
    process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        yield process.pid
    finally:
        process.kill()
        process.wait()


def measure(pid: int, calls: int, seconds: float, *options: str) -> Report:
    """Run the load over SIP and return its report."""
    return measured("bench.rtp_load", pid, calls, seconds, "--to", _SIP, *options)


def holds(report: Report, alone: Report) -> bool:
    """Whether a load was held: every call answered, packets in time, answers as quick as for one call, or nearly."""
    quick = report["response_ms"].get("p95", 0) <= 2 * alone["response_ms"]["p95"]
    return report["answered"] == report["calls"] and report["lateness_ms"]["p99"] <= _LATE_MS and quick


def compared(seconds: float, console: Any) -> None:
    """The gateway beside the floor and the Twilio wire."""
    table = Table(title="A call by RTP (PCMU), one core")
    for column in (
        "calls",
        "what",
        "CPU per call-second",
        "packets late, p50 / p99 / most",
        "last sound to answer, p95",
    ):
        table.add_column(column, justify="left" if column == "what" else "right")
    for calls in (10, 50, 100):
        with floor(calls) as pid:
            bare = measure(pid, calls, seconds, "--floor")
        with served() as pid:
            own = measure(pid, calls, seconds)
            twilio = load(pid, calls, seconds)
        cpu = own["cpu_ms_per_call_second"]
        rows = (("floor", bare), ("FastAgent, RTP", own), ("FastAgent, Twilio", twilio))
        for name, report in rows:
            base = report["cpu_ms_per_call_second"]
            ratio = "" if report is own else f" ({cpu / base:.1f}x less)" if base else ""
            late = report.get("lateness_ms")
            p95 = report["response_ms"].get("p95")
            table.add_row(
                str(calls),
                name,
                f"{base} ms{ratio}",
                f"{late['p50']} / {late['p99']} / {late['max']} ms" if late else "-",
                f"{p95:.0f} ms" if p95 else "-",
            )
    console.print(table)


def codecs(seconds: float, console: Any) -> None:
    """What other codecs cost, at 20 calls."""
    table = Table(title="20 calls, by codec")
    for column in ("codec", "CPU per call-second", "to PCMU", "packets late, p99"):
        table.add_column(column, justify="left" if column == "codec" else "right")
    base = 0.0
    for codec in _CODECS:
        with served() as pid:
            report = measure(pid, 20, seconds, "--codec", codec)
        base = base or report["cpu_ms_per_call_second"]
        cpu = report["cpu_ms_per_call_second"]
        table.add_row(codec, f"{cpu} ms", f"{cpu / base:.1f}x", f"{report['lateness_ms']['p99']} ms")
    console.print(table)


def capacity(seconds: float, console: Any) -> None:
    """How many calls one core holds."""
    with served() as pid:
        alone = measure(pid, 1, seconds)
        best, last = 0, alone
        for calls in (50, 100, 150, 200, 250, 300):
            last = measure(pid, calls, seconds, "--rate", "20")
            if not holds(last, alone):
                break
            best = calls
    console.print(
        f"calls held on one core (packets late p99 at most {_LATE_MS:.0f} ms, answers at most twice as late as for one "
        f"call): {best}; at {last['calls']} calls {last['core_used']:.2f} of the core, packets late p99 "
        f"{last['lateness_ms']['p99']} ms, the load itself late by {last['late_ms']['p95']} ms (p95)"
    )


def main(seconds: float = 15.0) -> None:
    """Measure, and print."""
    console = Console(width=110, highlight=False)
    compared(seconds, console)
    codecs(seconds, console)
    capacity(seconds, console)


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--quick", action="store_true")
    print(f"machine: {os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}")
    main(6.0 if parser.parse_args().quick else 15.0)
