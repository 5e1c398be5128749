"""Tools: Python functions that a model may call, with a schema from their type hints and docstring."""

import asyncio
import inspect
import json
import re
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar, get_type_hints

from pydantic import BaseModel, ConfigDict, ValidationError, create_model

from fastagent.afsm.context import ConversationContext
from fastagent.afsm.errors import DefinitionError

MAX_RESULT = 8000  # characters that the model is told


class ToolError(Exception):
    """A tool could not be used; the text is for the model, the kind, which holds nothing of the caller's, for logs."""

    def __init__(self, message: str, *, kind: str = "failed") -> None:
        super().__init__(message)
        self.kind = kind


class AnyTool(Protocol):
    """Something that a model may call: a Python function, or a web service."""

    @property
    def name(self) -> str:
        """What the model calls it."""
        ...

    @property
    def filler(self) -> str:
        """Said at once when it is called, since it takes its time."""
        ...

    def schema(self) -> dict[str, Any]:
        """Return it as an OpenAI function."""
        ...

    async def call(self, arguments: str, context: ConversationContext) -> str:
        """Run it with the JSON that the model wrote; return its result as JSON.

        Raises:
            ToolError: wrong arguments, a failure, or no answer in time.
        """
        ...


@dataclass(frozen=True, slots=True)
class Tool:
    """A function on offer to the model."""

    name: str
    description: str
    function: Callable[..., Any]
    arguments: type[BaseModel]
    takes_context: bool
    timeout_s: float = 10.0
    filler: str = ""
    """Said at once when the tool is called, since it takes its time."""
    finishes: bool = False
    """A barge-in does not cancel it: it writes something."""

    def schema(self) -> dict[str, Any]:
        """Return it as an OpenAI function."""
        parameters = self.arguments.model_json_schema()
        parameters.pop("title", None)
        function = {"name": self.name, "description": self.description, "parameters": parameters}
        return {"type": "function", "function": function}

    async def call(self, arguments: str, context: ConversationContext) -> str:
        """Run it with the JSON that the model wrote; return its result as JSON.

        Raises:
            ToolError: wrong arguments, a failure, or no answer in time.
        """
        try:
            given = self.arguments.model_validate_json(arguments or "{}")
        except ValidationError as error:
            faults = "; ".join(f"{'.'.join(map(str, one['loc']))}: {one['msg']}" for one in error.errors())
            raise ToolError(f"wrong arguments: {faults}", kind="wrong arguments") from None
        values = {name: getattr(given, name) for name in type(given).model_fields}
        if self.takes_context:
            values["context"] = context
        try:
            result = await within(self._run(values), self.timeout_s, finishes=self.finishes)
        except ToolError:
            raise
        except Exception as error:
            raise ToolError(f"failed: {type(error).__name__}", kind=type(error).__name__) from error
        return json.dumps(result, ensure_ascii=False, default=str)[:MAX_RESULT]

    async def _run(self, values: dict[str, Any]) -> Any:
        if inspect.iscoroutinefunction(self.function):
            return await self.function(**values)
        return await asyncio.to_thread(self.function, **values)


_Result = TypeVar("_Result")
_finishing: set[asyncio.Future[Any]] = set()


async def within(work: Coroutine[Any, Any, _Result], seconds: float, *, finishes: bool) -> _Result:
    """Return what comes of a piece of work; one that `finishes` goes on when the turn that asked for it does not.

    Raises:
        ToolError: no answer in time.
    """
    running = asyncio.ensure_future(work)
    if finishes:
        _finishing.add(running)
        running.add_done_callback(_finished)
    try:
        async with asyncio.timeout(seconds):
            return await (asyncio.shield(running) if finishes else running)
    except TimeoutError:
        raise ToolError("no answer in time", kind="timeout") from None


def _finished(work: "asyncio.Future[Any]") -> None:
    """What nobody waits for any more may fail in silence: its caller has gone on."""
    _finishing.discard(work)
    if not work.cancelled():
        work.exception()


def tool(
    function: Callable[..., Any] | Tool, *, timeout_s: float = 10.0, filler: str = "", finishes: bool = False
) -> Tool:
    """Return a function as a tool: its name, the first paragraph of its docstring, its annotated parameters.

    A parameter named `context` is given the session's context and is no part of the schema. Plain functions run in a
    thread.

    Raises:
        DefinitionError: a parameter has no type hint, or the function no docstring.
    """
    if isinstance(function, Tool):
        return function
    name, text = function.__name__, inspect.getdoc(function) or ""
    if not text:
        raise DefinitionError(f"the tool {name} has no docstring to tell the model what it does")
    hints = get_type_hints(function, include_extras=True)
    fields: dict[str, Any] = {}
    for parameter in inspect.signature(function).parameters.values():
        if parameter.name == "context":
            continue
        if parameter.name not in hints or parameter.kind in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD):
            raise DefinitionError(f"the tool {name}: {parameter.name} needs a type hint")
        default = ... if parameter.default is parameter.empty else parameter.default
        fields[parameter.name] = (hints[parameter.name], default)
    arguments = create_model(f"{name}_arguments", __config__=ConfigDict(extra="forbid"), **fields)
    description = re.split(r"\n\s*\n", text)[0].replace("\n", " ")
    takes_context = "context" in inspect.signature(function).parameters
    return Tool(name, description, function, arguments, takes_context, timeout_s, filler, finishes)
