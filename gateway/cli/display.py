"""The call in the terminal: who says what, a waterfall under each answer, and a summary."""

from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table

_WIDTH = 40
_STAGES = (("endpointing", "cyan"), ("recognition", "magenta"), ("logic", "yellow"), ("synthesis", "green"))


class Display:
    """Prints as the call goes on; nothing at all when `silent`."""

    def __init__(self, *, silent: bool) -> None:
        self._console = Console(quiet=silent, highlight=False)

    def calling(self, url: str) -> None:
        """Somebody is being called."""
        self._console.print(f"[dim]calling {escape(url)}[/dim]")

    def connected(self, call_sid: str) -> None:
        """The call is up."""
        self._console.print(f"[dim]     as {escape(call_sid)}[/dim]")

    def caller(self, kind: str, text: str) -> None:
        """The caller speaks, or presses keys."""
        said = f"presses {text}" if kind == "dtmf" else text
        self._console.print(f"[bold blue]caller[/bold blue]  {escape(said)}")

    def turn(self, turn: dict[str, Any]) -> None:
        """A turn is complete: what the gateway understood and the caller heard."""
        if turn["user"]:
            self._console.print(f"[dim]  heard[/dim] {escape(turn['user'])}")
        cut = " [red]-- interrupted[/red]" if turn["interrupted"] else ""
        self._console.print(
            f"[bold green] agent[/bold green]  {escape(turn['heard'])}{cut} [dim]({turn['state']})[/dim]"
        )
        if turn["waterfall_ms"]:
            self._waterfall(turn["waterfall_ms"])

    def _waterfall(self, stages: dict[str, float]) -> None:
        total = stages["total"] or 1.0
        bar = "".join(f"[{colour}]{'█' * round(_WIDTH * stages[name] / total)}[/{colour}]" for name, colour in _STAGES)
        named = "  ".join(f"[{colour}]{name} {stages[name]:.0f}[/{colour}]" for name, colour in _STAGES)
        self._console.print(f"        {bar} {total:.0f} ms\n        {named}")

    def summary(self, report: dict[str, Any]) -> None:
        """The call is over."""
        table = Table(show_header=False, box=None, padding=(0, 2))

        def row(name: str, value: object) -> None:
            table.add_row(f"[dim]{name}[/dim]", str(value))

        def milliseconds(values: list[float]) -> str:
            return ", ".join(f"{value:.0f} ms" for value in values) or "-"

        row("hung up", f"by the {report['ended_by']}, after {report['duration_s']:.1f} s")
        row("first audio", milliseconds([report["first_audio_ms"]] if report["first_audio_ms"] else []))
        row("last sound to answer", milliseconds(report["response_ms"]))
        row("barge-in to clear", milliseconds(report["onset_to_clear_ms"]))
        row("holes in the answers", milliseconds(report["holes_ms"]))
        wire = report["wire"]
        if "mos" in wire:
            share, jitter = f"{100 * wire['loss']:.1f} % made up", f"{wire['jitter_ms']:.0f} ms jitter"
            row("what the phone heard", f"{wire['codec']}, MOS {wire['mos']}, {share}, {jitter}")
        if wire["violations"]:
            row("[red]wire violations[/red]", "; ".join(wire["violations"]))
        self._console.print()
        self._console.print(table)
