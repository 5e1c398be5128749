"""`fastagent schema`: the JSON Schema of an agent's document, for editors and for checks elsewhere."""

import json

import typer


def schema() -> None:
    """Print the JSON Schema of declarative agents."""
    from fastagent.afsm.config import AgentConfig

    typer.echo(json.dumps(AgentConfig.model_json_schema(), indent=2))
