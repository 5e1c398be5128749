"""A turn with a model: it speaks, fills slots, uses tools, and proposes where to go; nothing of it is believed unseen.

    ask --> text: spoken as it comes
        --> update_conversation(next_state, slots, notes): checked against the table and the slots' types
        --> a tool: its arguments checked, run, its result told to the model, which goes on
        --> anything else: told to the model, once; then the turn ends with what was said

The model proposes; the machine disposes. What it proposes is applied at the end of the turn by the machine's one
synchronous step, so a barge-in in mid-sentence leaves the state as it was.
"""

import json
import time
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import date
from typing import Any

from fastagent.afsm import prompt, slots
from fastagent.afsm.config import SlotConfig
from fastagent.afsm.context import ConversationContext, ToolUse
from fastagent.afsm.llm import Llm, LlmError, LlmRequest, Message, TextDelta, ToolCall
from fastagent.afsm.slots import SlotRules
from fastagent.afsm.state import StateResult
from fastagent.afsm.tools import AnyTool, ToolError

_MAX_ROUNDS = 5
_MAX_CORRECTIONS = 1
_MAX_NOTES = 2000


@dataclass(frozen=True, slots=True)
class Scene:
    """What a state gives the model to work with."""

    instructions: str
    targets: Sequence[tuple[str, str]] = ()
    """The allowed next states, and when to go there."""
    slots: Sequence[tuple[SlotConfig, SlotRules]] = ()
    tools: Mapping[str, AnyTool] = field(default_factory=dict)
    scratchpad: str = ""
    notes: bool = True
    opens: frozenset[str] = frozenset()
    """Targets that say something themselves when they are entered."""


class _Refused(Exception):
    """The model asked for what it may not; the text is for the model."""


class ModelTurn:
    """One turn; iterate `run`, whose last value is the `StateResult`."""

    def __init__(self, llm: Llm, scene: Scene, context: ConversationContext, today: date) -> None:
        self._llm, self._scene, self._context, self._today = llm, scene, context, today
        self.notes: str | None = None
        self.filled: dict[str, Any] = {}
        self.next_state: str | None = None
        self._said = self._filled_in = False
        self._corrections = 0

    async def run(self, input_text: str) -> AsyncIterator[str | StateResult]:
        """Yield text as it comes, and at the end the result.

        Raises:
            LlmError: the model gave nothing that could be said.
        """
        scene, context = self._scene, self._context
        ways = prompt.describe_ways(scene.targets)
        chat = prompt.messages(scene.instructions, input_text, context, scratchpad=scene.scratchpad, ways=ways)
        truncated = False
        for _ in range(_MAX_ROUNDS):
            calls: list[ToolCall] = []
            text = ""
            try:
                async for event in self._llm.stream(LlmRequest(chat, self._tools())):
                    if isinstance(event, TextDelta):
                        text += event.text
                        self._said = self._said or bool(event.text.strip())
                        yield event.text
                    else:
                        calls.append(event)
            except LlmError as error:
                if not (error.spoken and self._said):
                    raise
                truncated = True  # what was said to the end of a sentence stands
                break
            chat = [*chat, _assistant(text, calls)]
            answered = True
            for call in calls:
                filler = self._filler(call)
                if filler and not self._said and not self._filled_in:
                    self._filled_in = True
                    yield f"{filler} "
                told, settled = await self._handle(call)
                chat.append({"role": "tool", "tool_call_id": call.id, "content": told})
                answered = answered and settled
            if not calls or (answered and self._may_stop()) or self._corrections > _MAX_CORRECTIONS:
                break
        if not self._said and not self._speaks_later():
            raise LlmError("empty", "the model said nothing")
        metadata: dict[str, Any] = {"reason": "model"} | ({"truncated": True} if truncated else {})
        yield StateResult("", self.next_state, metadata=metadata)

    def _tools(self) -> list[dict[str, Any]]:
        scene = self._scene
        targets = [name for name, _ in scene.targets]
        offered = [one.schema() for one in scene.tools.values()]
        if targets or scene.slots or scene.notes:
            wanted = [slot for slot, _ in scene.slots]
            offered.insert(0, prompt.move_tool(targets, wanted, notes=scene.notes))
        return offered

    def _filler(self, call: ToolCall) -> str:
        found = self._scene.tools.get(call.name)
        return found.filler if found else ""

    def _may_stop(self) -> bool:
        return self._said or self._speaks_later()

    def _speaks_later(self) -> bool:
        return self.next_state in self._scene.opens

    async def _handle(self, call: ToolCall) -> tuple[str, bool]:
        """Do what the model asks; return what it is told, and whether it need not say anything about it."""
        try:
            if call.name == prompt.MOVE:
                return self._move(call.arguments), True
            found = self._scene.tools.get(call.name)
            if found is None:
                raise _Refused(f"there is no tool {call.name[:64]!r}")
            return await self._use(found, call.arguments), False
        except (_Refused, ToolError) as error:
            self._corrections += 1
            return json.dumps({"error": str(error)}), False

    async def _use(self, tool: AnyTool, arguments: str) -> str:
        began, error = time.monotonic(), ""
        try:
            return await tool.call(arguments, self._context)
        except BaseException as fault:  # a barge-in's cancellation, too
            error = fault.kind if isinstance(fault, ToolError) else type(fault).__name__
            raise
        finally:
            self._context.tool_used(ToolUse(tool.name, time.monotonic() - began, error))

    def _move(self, arguments: str) -> str:
        """Check a proposal, all of it, before any of it counts."""
        try:
            given = json.loads(arguments or "{}")
        except (ValueError, RecursionError):
            raise _Refused("the arguments are no JSON") from None
        if not isinstance(given, dict):
            raise _Refused("the arguments are no object")
        target, told = given.get("next_state"), given.get("slots") or {}
        allowed = [name for name, _ in self._scene.targets]
        if target is not None and target not in allowed:
            raise _Refused(f"next_state must be one of {allowed}")
        values = self._values(told)
        notes = given.get("notes")
        if isinstance(notes, str):
            self.notes = notes[:_MAX_NOTES]
        self.filled.update(values)
        self.next_state = target or self.next_state
        return json.dumps({"ok": True})

    def _values(self, told: object) -> dict[str, Any]:
        if not isinstance(told, dict):
            raise _Refused("slots is no object")
        known = {slot.name: (slot, rules) for slot, rules in self._scene.slots}
        values = {}
        for name, text in told.items():
            if name not in known:
                raise _Refused(f"there is no slot {str(name)[:64]!r}")
            if text is None or text == "":
                continue
            slot, rules = known[name]
            value = slots.parse(slot.type, str(text), rules, self._today)
            if value is None:
                raise _Refused(f"{name}: {str(text)[:64]!r} is no {slot.type}")
            values[name] = value
        return values


def _assistant(text: str, calls: list[ToolCall]) -> Message:
    message: Message = {"role": "assistant", "content": text or None}
    if calls:
        message["tool_calls"] = [
            {"id": call.id, "type": "function", "function": {"name": call.name, "arguments": call.arguments}}
            for call in calls
        ]
    return message
