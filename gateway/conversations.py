"""Scripted conversations: what a caller says, and what must come of it; for `fastagent test`."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from fastagent.afsm.context import ConversationContext
from fastagent.afsm.errors import ConfigError, Problem
from fastagent.afsm.machine import Machine, Step
from fastagent.gateway.agent import FastAgent
from fastagent.gateway.agent_files import examine, read


class _Model(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class ScriptStep(_Model):
    """One thing that the caller does, and what is expected of the answer."""

    say: str | None = None
    keys: str | None = Field(None, pattern=r"^[0-9A-D*#]{1,64}$")
    silence: bool = False
    barge_in_after_words: int | None = Field(None, ge=0)
    """The caller interrupted the answer before this one: they heard so many words of it."""
    state: str | None = None
    reply: list[str] | str = Field(default_factory=list)
    """Texts that the answer contains, whatever their case."""
    slots: dict[str, Any] = Field(default_factory=dict)
    ends: bool | None = None

    @model_validator(mode="after")
    def _one_deed(self) -> "ScriptStep":
        if sum((self.say is not None, self.keys is not None, self.silence)) > 1:
            raise ValueError("a step has one of `say`, `keys` and `silence`")
        return self


class Conversation(_Model):
    """A call from its beginning; the first step may have no deed and expect the greeting."""

    name: str
    steps: list[ScriptStep] = Field(min_length=1, max_length=200)


class Script(_Model):
    """A file of conversations with one agent."""

    agent: str
    conversations: list[Conversation] = Field(min_length=1)


def load_script(path: Path) -> tuple[Script, FastAgent]:
    """Return a script and its agent, whose file is named relative to the script's.

    Raises:
        ConfigError: the script or the agent is wrong.
        OSError: the file cannot be read.
    """
    try:
        script = Script.model_validate(read(path))
    except ValidationError as error:
        faults = [Problem("error", ".".join(map(str, one["loc"])), one["msg"]) for one in error.errors()]
        raise ConfigError(faults) from None
    config, problems = examine(path.parent / script.agent)
    wrong = [problem for problem in problems if problem.severity == "error"]
    if config is None or wrong:
        raise ConfigError(wrong)
    return script, FastAgent.from_config(Path(script.agent).stem, config)


async def play(conversation: Conversation, agent: FastAgent) -> list[str]:
    """Return what did not come as expected, each with its step."""
    machine = Machine(agent.afsm, ConversationContext(max_history=agent.max_history))
    step: Step | None = await machine.enter()
    failures: list[str] = []
    said = ""
    for at, script in enumerate(conversation.steps, 1):
        if step is not None:
            _remember(machine, said, step, script.barge_in_after_words)
        said = script.say or ""
        if step is None or (step.ends and (script.say or script.keys or script.silence)):
            return [*failures, f"step {at}: the call is over already"]
        if script.say is not None:
            step = await machine.step(script.say)
        elif script.keys is not None:
            step = await machine.dtmf(script.keys)
        elif script.silence:
            step = await machine.no_input()
        failures += [f"step {at}: {fault}" for fault in _faults(script, step, machine)]
    return failures


def _remember(machine: Machine, said: str, step: Step, words: int | None) -> None:
    heard = step.response if words is None else " ".join(step.response.split()[:words])
    machine.context.update_context(said, step.response, step.state, heard=heard, interrupted=words is not None)


def _faults(script: ScriptStep, step: Step | None, machine: Machine) -> Iterator[str]:
    ends = step is None or step.ends
    reply = step.response if step else ""
    if script.state is not None and machine.state.name != script.state:
        yield f"the state is {machine.state.name!r}, not {script.state!r}; the reply was {reply!r}"
    for text in [script.reply] if isinstance(script.reply, str) else script.reply:
        if text.lower() not in reply.lower():
            yield f"the reply has no {text!r}: {reply!r}"
    for name, value in script.slots.items():
        if machine.context.slots.get(name) != value:
            yield f"the slot {name!r} is {machine.context.slots.get(name)!r}, not {value!r}"
    if script.ends is not None and script.ends != ends:
        yield "the call goes on" if script.ends else "the call is over"
