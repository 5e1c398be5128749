"""`fastagent diagram`: an agent's machine as a Mermaid diagram, with its problems marked."""

import re
from pathlib import Path
from typing import Annotated

import typer


def diagram(file: Annotated[Path, typer.Argument(help="An agent as YAML or JSON.")]) -> None:
    """Draw an agent's states and ways; what `check` finds is marked in red."""
    from fastagent.gateway.agent_files import examine

    config, problems = examine(file)
    if config is None:
        for problem in problems:
            typer.echo(f"{file}: {problem}", err=True)
        raise typer.Exit(1)
    ids = {state.name: f"s{at}" for at, state in enumerate(config.states)}
    lines = ["stateDiagram-v2", f"    [*] --> {ids[config.initial_state]}"]
    bad: set[str] = set()
    for at, state in enumerate(config.states):
        lines.append(f'    state "{_quoted(state.name)}" as {ids[state.name]}')
        labels = {
            way.to: way.description or (way.when.expression or "" if way.when else "") for way in state.transitions
        }
        for target in state.targets:
            if target in ids:
                label = f" : {_quoted(labels[target])}" if labels.get(target) else ""
                lines.append(f"    {ids[state.name]} --> {ids[target]}{label}")
        if state.terminal:
            lines.append(f"    {ids[state.name]} --> [*]")
        if any(re.match(rf"states\[{at}\]", problem.path) for problem in problems):
            bad.add(ids[state.name])
    if bad:
        lines += ["    classDef problem fill:#fdd,stroke:#c00", f"    class {','.join(sorted(bad))} problem"]
    typer.echo("\n".join(lines))


def _quoted(text: str) -> str:
    return text.replace('"', "'").replace("\n", " ").replace(":", " ")[:60]
