"""`fastagent chat`: an agent in text, with what it does and why."""

import asyncio
from pathlib import Path
from typing import Annotated, Any

import typer


def chat(
    agent: Annotated[str, typer.Argument(help="A built-in agent's id, or a file.")],
    plain: Annotated[bool, typer.Option(help="Only the words.")] = False,
) -> None:
    """Talk to an agent in text. `/1234` presses keys, an empty line is silence, Ctrl-D hangs up."""
    asyncio.run(_chat(_machine(agent), plain))


def _machine(name: str) -> Any:
    from fastagent.afsm import ConversationContext, Machine
    from fastagent.gateway.agent import FastAgent
    from fastagent.gateway.agent_files import examine
    from fastagent.gateway.app import builtin_agents

    built_in = {agent.agent_id: agent for agent in builtin_agents()}
    found = built_in.get(name)
    if found is None:
        config, problems = examine(Path(name))
        for problem in problems:
            typer.echo(f"{name}: {problem}", err=True)
        if config is None or any(problem.severity == "error" for problem in problems):
            raise typer.Exit(1)
        found = FastAgent.from_config(Path(name).stem, config)
    return Machine(found.afsm, ConversationContext(max_history=found.max_history))


async def _chat(machine: Any, plain: bool) -> None:
    from rich.console import Console
    from rich.markup import escape

    console = Console(highlight=False)
    step, said = await machine.enter(), ""
    while True:
        if step is None:
            console.print("[dim](the agent gives the line back)[/dim]")
            return
        console.print(f"[bold green]agent[/bold green]  {escape(step.response)}")
        machine.context.update_context(said, step.response, step.state)
        if not plain:
            console.print(f"[dim]       {escape(_why(step, machine))}[/dim]")
        if step.ends:
            return
        try:
            said = (await asyncio.to_thread(input, "caller ")).strip()
        except EOFError:
            return
        step = await _answer(machine, said)


async def _answer(machine: Any, said: str) -> Any:
    if not said:
        return await machine.no_input()
    return await (machine.dtmf(said[1:]) if said.startswith("/") else machine.step(said))


def _why(step: Any, machine: Any) -> str:
    """The state, how it was reached, and what is known."""
    parts = [f"state {step.state}"]
    if step.transition is not None:
        parts[0] = f"{step.transition.from_state} -> {step.transition.to_state}"
    if step.refused is not None:
        parts.append(f"refused: {step.refused}")
    known = {**machine.context.profile, **machine.context.facts, **machine.context.slots}
    if known:
        parts.append(", ".join(f"{name}={value}" for name, value in known.items()))
    if machine.state.scratchpad:
        parts.append(f"notes: {machine.state.scratchpad}")
    return "; ".join(parts)
