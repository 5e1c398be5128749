"""`make bench`: the gateway beside Pipecat's leanest Twilio bot, in the same minutes, on the same core.

Both servers are pinned to one core, with scripted speech that costs nothing; the load comes from another process on
another core, keeps real time, and says how late it was. Figures are of whole processes. Takes about twenty minutes;
`--quick` measures for 10 s where the full run takes 20.
"""

import argparse
import asyncio
import os
import tempfile
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from bench import engine, interruptions, rtp, vad
from bench.servers import PORT, ROOT, Report, Subject, gateway, load, running
from fastagent.media.speech.scripted import prepared_speech
from fastagent.media.wav import write_wav

_PIPECAT = ROOT / ".venv-pipecat/bin/python"


def pipecat(speech: Path) -> Subject:
    """Return the baseline."""
    bot = str(Path(__file__).parent / "pipecat_bot.py")
    return Subject("Pipecat", [str(_PIPECAT), bot, "--port", str(PORT), "--speech", str(speech)])


def _memory(pid: int) -> float:
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * 4096 / 2**20


class Measured:
    """All runs against one server."""

    def __init__(self, subject: Subject, counts: list[int], barge_ins: list[int], seconds: float, tell: Any) -> None:
        self.plain: dict[int, Report] = {}
        self.barge: dict[int, Report] = {}
        with running(subject) as (pid, self.times):
            tell(f"{subject.name}: accepts connections after {self.times['alive_s']} s")
            self.empty_mib = _memory(pid)
            for calls in counts:
                self.plain[calls] = self._one(subject, load(pid, calls, seconds), tell, "")
                if not holds(self.plain[calls], self.plain[counts[0]]) and calls >= 10:
                    break
        for calls in barge_ins:
            with running(subject) as (pid, _):
                self.barge[calls] = self._one(subject, load(pid, calls, seconds, "--barge-in"), tell, ", barging in")

    def _one(self, subject: Subject, report: Report, tell: Any, how: str) -> Report:
        tell(
            f"{subject.name}, {report['calls']} calls{how}: {report['cpu_ms_per_call_second']} ms CPU a call-second, "
            f"response {_pair(report['response_ms'])} ms, clear {_pair(report['clear_ms'])} ms, "
            f"{report['holes_over_20_ms']} holes over 20 ms, load late by {report['late_ms'].get('p95')} ms (p95)"
        )
        return report

    def best(self) -> int:
        """The most calls that were held in real time."""
        alone = next(iter(self.plain.values()))
        return max((calls for calls, report in self.plain.items() if holds(report, alone)), default=0)

    def memory_per_call(self) -> float:
        """MiB a call, from the largest run."""
        calls, report = max(self.plain.items())
        return (float(report["memory_mib"]) - self.empty_mib) / calls


def holds(report: Report, alone: Report) -> bool:
    """Whether a load was held in real time: no hole over 20 ms, and response p95 within twice that of the fewest."""
    p95, base = report["response_ms"].get("p95"), alone["response_ms"].get("p95")
    return not report["holes_over_20_ms"] and not report["lost"] and p95 is not None and p95 <= 2 * base


def _pair(quantiles: dict[str, float]) -> str:
    return f"{quantiles['p50']:.0f} / {quantiles['p95']:.0f}" if quantiles.get("n") else "-"


def table(own: Measured, other: Measured) -> Table:
    """Return the table of the goals."""
    grid = Table(title="FastAgent beside Pipecat 1.14.0, one core each, the same minutes")
    for column in ("what", "Pipecat", "FastAgent", "ratio", "goal"):
        grid.add_column(column, justify="left" if column == "what" else "right")

    def row(what: str, theirs: float | None, ours: float | None, goal: str, unit: str = "") -> None:
        ratio = f"{theirs / ours:.1f}x" if theirs and ours else "-"

        def text(value: float | None) -> str:
            return "can't run" if value is None else f"{value:g}{unit}"

        grid.add_row(what, text(theirs), text(ours), ratio, goal)

    def cpu(measured: Measured, calls: int) -> float | None:
        report = measured.plain.get(calls)
        return report["cpu_ms_per_call_second"] if report else None

    def quantile(report: Report | None, name: str, q: str) -> float | None:
        return report[name].get(q) if report else None

    for calls, goal in ((10, "25 ms"), (50, "9 ms (must: 12)"), (100, "-")):
        row(f"CPU per call-second, {calls} calls", cpu(other, calls), cpu(own, calls), goal, " ms")
    more = f"{own.best() / other.best():.1f}x" if other.best() else "-"
    grid.add_row("calls held on one core", str(other.best()), str(own.best()), more, "100 (must: 50)")
    at50, at100 = cpu(own, 50), cpu(own, 100)
    growth = round(at100 / at50, 2) if at50 and at100 else None
    row("CPU per call, 100 calls over 50", None, growth, "1.0")
    for calls in (5, 100):
        for q, goal in (("p50", "275 ms"), ("p95", "310 ms")):
            theirs, ours = (quantile(one.plain.get(calls), "response_ms", q) for one in (other, own))
            row(f"last sound to answer, {calls} calls, {q}", theirs, ours, goal, " ms")
    for calls in (5, 100):
        for q, goal in (("p50", "130 ms"), ("p95", "240 ms")):
            theirs, ours = (quantile(one.barge.get(calls), "clear_ms", q) for one in (other, own))
            row(f"onset to clear, {calls} calls, {q}", theirs, ours, goal, " ms")
    after = [sum(report["frames_after_clear"] for report in one.barge.values()) for one in (other, own)]
    row("agent messages after a clear", after[0], after[1], "0")
    for q, goal in (("p50", "15 ms"), ("p95", "30 ms")):
        theirs, ours = (quantile(one.plain.get(10), "greeting_ms", q) for one in (other, own))
        row(f"start to greeting, 10 calls, {q}", theirs, ours, goal, " ms")
    row("memory per call", round(other.memory_per_call(), 2), round(own.memory_per_call(), 2), "1 MiB", " MiB")
    row("process to accepting calls' connections", other.times["alive_s"], own.times["alive_s"], "1 s", " s")
    row("process to ready", other.times["ready_s"], own.times["ready_s"], "-", " s")
    return grid


def main() -> None:
    """Measure everything, and print it."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--quick", action="store_true")
    seconds = 10.0 if parser.parse_args().quick else 20.0
    console = Console(width=110, highlight=False)
    console.print(
        f"machine: {os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}; the servers on core 0, the load on core 1\n"
    )
    console.print("[bold]Voice activity: the batched pass[/bold]")
    vad.main()
    console.print("\n[bold]The machine[/bold]")
    engine.main()
    console.print("\n[bold]Interruptions[/bold]")
    print("\n".join(interruptions.report(asyncio.run(interruptions.measure()))))
    console.print("\n[bold]Calls[/bold]")
    with tempfile.TemporaryDirectory() as folder:
        speech = Path(folder) / "prepared.wav"
        write_wav(speech, [prepared_speech().samples], 8000)
        other = Measured(pipecat(speech), [1, 5, 10, 15, 20, 25, 30], [5], seconds, console.print)
        own = Measured(gateway(), [1, 5, 10, 50, 100, 150, 200], [5, 100], seconds, console.print)
    console.print(table(own, other))
    console.print("\n[bold]Calls by SIP and RTP[/bold]")
    rtp.main(seconds)


if __name__ == "__main__":
    main()
