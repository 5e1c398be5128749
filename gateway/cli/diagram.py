"""`fastagent diagram`: an agent's machine as a picture, with its problems marked."""

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer


class Picture(StrEnum):
    """What to draw."""

    MERMAID = "mermaid"
    SVG = "svg"


def diagram(
    file: Annotated[Path, typer.Argument(help="An agent as YAML or JSON.")],
    form: Annotated[Picture, typer.Option("--format", help="What to draw.")] = Picture.MERMAID,
) -> None:
    """Draw an agent's states and ways; what `check` finds is marked in red."""
    from fastagent.afsm.diagram import mermaid, svg
    from fastagent.gateway.agent_files import examine

    config, problems = examine(file)
    if config is None:
        for problem in problems:
            typer.echo(f"{file}: {problem}", err=True)
        raise typer.Exit(1)
    typer.echo((svg if form is Picture.SVG else mermaid)(config, problems))
