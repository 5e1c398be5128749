"""The `fastagent` command."""

import typer

from fastagent.gateway.cli.call import OrderedCommand, call
from fastagent.gateway.cli.chat import chat
from fastagent.gateway.cli.check import check
from fastagent.gateway.cli.conversations import converse
from fastagent.gateway.cli.diagram import diagram
from fastagent.gateway.cli.dial import dial
from fastagent.gateway.cli.doctor import doctor
from fastagent.gateway.cli.schema import schema
from fastagent.gateway.cli.serve import serve

app = typer.Typer(
    name="fastagent",
    help="A telephony-first media gateway for voice agents.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_show_locals=False,
)
app.command()(serve)
app.command(cls=OrderedCommand)(call)
app.command()(dial)
app.command()(chat)
app.command()(check)
app.command()(diagram)
app.command()(schema)
app.command()(doctor)
app.command("test")(converse)


@app.command()
def version() -> None:
    """Print the version."""
    from fastagent import __version__

    typer.echo(__version__)


def main() -> None:
    """Run the command."""
    app()
