"""`fastagent check`: the proofs on agents in files, for people, for programs and for code review."""

import json
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer


class Format(StrEnum):
    """How to print."""

    TEXT = "text"
    JSON = "json"
    SARIF = "sarif"


def check(
    files: Annotated[list[Path], typer.Argument(help="Agents as YAML or JSON.")],
    strict: Annotated[bool, typer.Option(help="Warnings fail, too.")] = False,
    form: Annotated[Format, typer.Option("--format", help="How to print.")] = Format.TEXT,
) -> None:
    """Prove that agents are sound before they go live: every problem at once, each with its place and a hint.

    Exit code 1 on errors, with --strict on warnings too; notes are for reading.
    """
    from fastagent.gateway.agent_files import examine

    found = [(file, problem) for file in files for problem in examine(file)[1]]
    entries = [
        {
            "file": str(file),
            "severity": problem.severity,
            "path": problem.path,
            "rule": problem.rule,
            "message": problem.message,
            "hint": problem.hint,
        }
        for file, problem in found
    ]
    if form is Format.JSON:
        typer.echo(json.dumps(entries, indent=2))
    elif form is Format.SARIF:
        typer.echo(json.dumps(_sarif(entries), indent=2))
    else:
        for file, problem in found:
            typer.echo(f"{file}: {problem}")
        typer.echo(f"{len(files)} checked, {len(found)} problems" if found else f"{len(files)} checked, no problems")
    fatal = {"error", "warning"} if strict else {"error"}
    if any(problem.severity in fatal for _, problem in found):
        raise typer.Exit(1)


def _sarif(entries: list[dict[str, Any]]) -> dict[str, Any]:
    """SARIF 2.1.0, as code hosts take it; the place in the document is a logical location."""
    results = [
        {
            "ruleId": entry["rule"],
            "level": entry["severity"],
            "message": {"text": f"{entry['message']}. {entry['hint']}".rstrip(". ") + "."},
            "locations": [
                {
                    "physicalLocation": {"artifactLocation": {"uri": entry["file"]}},
                    "logicalLocations": [{"fullyQualifiedName": entry["path"]}],
                }
            ],
        }
        for entry in entries
    ]
    rules = [{"id": rule} for rule in sorted({entry["rule"] for entry in entries})]
    return {
        "$schema": "https://json.schemastore.org/sarif-2.1.0.json",
        "version": "2.1.0",
        "runs": [{"tool": {"driver": {"name": "fastagent check", "rules": rules}}, "results": results}],
    }
