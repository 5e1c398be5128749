"""`fastagent test`: scripted conversations with agents."""

import asyncio
import json
from pathlib import Path
from typing import Annotated

import typer


def converse(
    files: Annotated[list[Path], typer.Argument(help="Scripts of conversations as YAML or JSON.")],
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON document.")] = False,
) -> None:
    """Play scripted conversations with agents, and say what did not come as expected."""
    from fastagent.afsm.errors import ConfigError
    from fastagent.gateway.conversations import load_script, play

    results = []
    for file in files:
        try:
            script, agent = load_script(file)
        except (ConfigError, OSError) as error:
            results.append({"file": str(file), "conversation": "", "failures": [str(error)]})
            continue
        for one in script.conversations:
            failures = asyncio.run(play(one, agent))
            results.append({"file": str(file), "conversation": one.name, "failures": failures})
    failed = sum(bool(result["failures"]) for result in results)
    if as_json:
        typer.echo(json.dumps(results, indent=2))
    else:
        for result in results:
            typer.echo(f"{'FAILED' if result['failures'] else 'passed'}  {result['file']}: {result['conversation']}")
            for failure in result["failures"]:
                typer.echo(f"        {failure}")
        typer.echo(f"{len(results) - failed} passed, {failed} failed")
    if failed:
        raise typer.Exit(1)
