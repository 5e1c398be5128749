"""`fastagent chat`: an agent in text, with what it does and why."""

import asyncio
import threading
from pathlib import Path
from typing import Annotated, Any

import typer


def chat(
    agent: Annotated[str, typer.Argument(help="A built-in agent's id, or a file.")],
    plain: Annotated[bool, typer.Option(help="Only the words.")] = False,
) -> None:
    """Talk to an agent in text. `/1234` presses keys, an empty line is silence, Ctrl-D hangs up.

    States with a model ask the one of `llm_config`, or of OPENAI_API_KEY and OPENAI_BASE_URL.
    """
    asyncio.run(_chat(_agent(agent), plain))


def _agent(name: str) -> Any:
    from fastagent.gateway.agent import FastAgent
    from fastagent.gateway.agent_files import examine
    from fastagent.gateway.app import builtin_agents

    built_in = {agent.agent_id: agent for agent in builtin_agents()}
    if name in built_in:
        return built_in[name]
    config, problems = examine(Path(name))
    for problem in problems:
        typer.echo(f"{name}: {problem}", err=True)
    if config is None or any(problem.severity == "error" for problem in problems):
        raise typer.Exit(1)
    return FastAgent.from_config(Path(name).stem, config)


async def _chat(agent: Any, plain: bool) -> None:
    from fastagent.afsm import ConversationContext, Machine
    from fastagent.afsm.errors import DefinitionError
    from fastagent.gateway.addresses import Addresses
    from fastagent.gateway.models import Models
    from fastagent.gateway.settings import Settings, secret
    from fastagent.gateway.web_client import GuardedClient

    settings = Settings()
    models = Models(
        api_key=secret(settings.openai_api_key),
        base_url=settings.openai_base_url,
        on_fault=lambda name, kind: typer.echo(f"       {name}: {kind}", err=True),
    )
    web = GuardedClient(Addresses(settings.allowed_hosts))
    context = ConversationContext(max_history=agent.max_history)
    try:
        context.model, context.web = models.model_for(agent.llm_config), web
    except (DefinitionError, TypeError, ValueError) as error:
        typer.echo(f"fastagent: {error}", err=True)
        raise typer.Exit(1) from None
    if not plain:
        context.tool_used = lambda use: typer.echo(f"       tool {use.name}: {use.error or f'{use.seconds:.2f} s'}")
    try:
        await _Chat(Machine(agent.afsm, context), plain).run()
    finally:
        await models.aclose()
        await web.aclose()


class _Chat:
    """One conversation on the terminal."""

    def __init__(self, machine: Any, plain: bool) -> None:
        from rich.console import Console

        self._machine, self._plain = machine, plain
        self._console = Console(highlight=False, soft_wrap=True, emoji=False)

    async def run(self) -> None:
        said, response = "", self._machine.opening()
        while True:
            step = await self._hear(response)
            if step is not None:
                self._machine.context.update_context(said, step.response, step.state)
                if not self._plain:
                    self._note(step)
                if step.ends:
                    return
                if step.gives_up:
                    self._console.print("[dim](the agent gives the line back)[/dim]")
                    return
            try:
                said = (await _ask("caller ")).strip()
            except EOFError:
                return
            response = self._respond(said)

    def _respond(self, said: str) -> Any:
        if not said:
            return self._machine.respond_to_silence()
        return self._machine.respond_to_keys(said[1:]) if said.startswith("/") else self._machine.respond(said)

    async def _hear(self, response: Any) -> Any:
        """Print an answer as it comes; return its step, or None where the model failed."""
        from fastagent.afsm.llm import LlmError
        from fastagent.afsm.machine import Said

        self._print("[bold green]agent[/bold green]  ")
        said = ""
        try:
            async for event in response:
                if isinstance(event, Said):
                    said += event.text
                    self._print(_plain(event.text))
                else:
                    gap = " " if event.rest and said and not said[-1].isspace() else ""
                    self._print(f"{gap}{_plain(event.rest)}\n")
                    return event
        except LlmError as error:
            self._print(f"\n[red]       the model failed: {error.kind}: {_plain(str(error))}[/red]\n")
        except Exception as error:  # of a state or a tool of the agent under test: it is told, and one goes on
            self._print(f"\n[red]       the agent failed: {type(error).__name__}: {_plain(str(error))}[/red]\n")
        return None

    def _print(self, text: str) -> None:
        self._console.print(text, end="")

    def _note(self, step: Any) -> None:
        """The state, how it was reached and why, what is known, and the private notes."""
        machine, moved = self._machine, step.transition
        parts = [f"state {step.state}"]
        if moved is not None:
            parts[0] = f"{moved.from_state} -> {moved.to_state} ({moved.reason})"
        if step.refused is not None:
            parts.append(f"refused: {step.refused}")
        if step.ending is not None:
            parts.append(f"then {step.ending.action} {step.ending.to}".strip())
        known = {**machine.context.profile, **machine.context.facts, **machine.context.slots}
        if known:
            parts.append(", ".join(f"{name}={value}" for name, value in known.items()))
        if machine.state.scratchpad:
            parts.append(f"notes: {machine.state.scratchpad}")
        self._print(f"[dim]       {_plain('; '.join(parts))}[/dim]\n")


async def _ask(prompt: str) -> str:
    """Read a line; Ctrl-C ends it at once, since nothing waits for the thread that reads."""
    loop = asyncio.get_running_loop()
    line: asyncio.Future[str] = loop.create_future()

    def settle(text: str | None) -> None:
        if not line.done():
            line.set_result(text) if text is not None else line.set_exception(EOFError())

    def read() -> None:
        try:
            text: str | None = input(prompt)
        except EOFError:
            text = None
        try:
            loop.call_soon_threadsafe(settle, text)
        except RuntimeError:  # the loop has ended meanwhile
            pass

    threading.Thread(target=read, daemon=True).start()
    return await line


def _plain(text: str) -> str:
    from rich.markup import escape

    return escape(text)
