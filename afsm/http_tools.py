"""Tools that are web services: declared in the agent's document, called through the gateway's guarded client."""

import json
import secrets
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from fastagent.afsm.config import HttpToolConfig
from fastagent.afsm.context import ConversationContext
from fastagent.afsm.tools import MAX_RESULT, ToolError, within

_IN_QUERY = frozenset({"GET", "DELETE"})


@dataclass(frozen=True, slots=True)
class WebRequest:
    """What a tool sends."""

    method: str
    url: str
    headers: Mapping[str, str]
    query: Mapping[str, str]
    body: bytes | None
    bearer_env: str | None
    timeout_s: float


class WebClient(Protocol):
    """The way to the web, with its guards: allowed hosts only, no redirects, no private addresses."""

    async def request(self, request: WebRequest) -> tuple[int, str]:
        """Return the status and the text of the answer, cut to a bound.

        Raises:
            ToolError: the host is not allowed, or did not answer.
        """
        ...


class HttpTool:
    """One service."""

    def __init__(self, config: HttpToolConfig) -> None:
        from jsonschema import Draft202012Validator
        from referencing import Registry

        self.name, self.filler = config.name, config.filler
        self._config = config
        self._validator = Draft202012Validator(config.parameters, registry=Registry())  # which fetches nothing

    def schema(self) -> dict[str, Any]:
        """Return it as an OpenAI function."""
        config = self._config
        function = {"name": config.name, "description": config.description, "parameters": config.parameters}
        return {"type": "function", "function": function}

    async def call(self, arguments: str, context: ConversationContext) -> str:
        """Send the arguments; return the answer's JSON, or its text as JSON.

        Each call has an `Idempotency-Key` of its own, which stays the same where the client tries again.

        Raises:
            ToolError: wrong arguments, an address that is not allowed, an error status, or no answer in time.
        """
        given = self._arguments(arguments)
        if context.web is None:
            raise ToolError("there is no way to the web here")
        config, in_query = self._config, self._config.method in _IN_QUERY
        headers = {"Idempotency-Key": secrets.token_hex(16), "Accept": "application/json", **config.headers}
        body = None if in_query else json.dumps(given).encode()
        request = WebRequest(
            method=config.method,
            url=config.url,
            headers=headers if body is None else {"Content-Type": "application/json", **headers},
            query={name: _text(value) for name, value in given.items()} if in_query else {},
            body=body,
            bearer_env=config.bearer_env,
            timeout_s=config.timeout,
        )
        finishes = config.on_interrupt == "finish"
        status, text = await within(context.web.request(request), config.timeout + 0.5, finishes=finishes)
        if not 200 <= status < 300:
            raise ToolError(f"the service answered {status}", kind=f"status {status}")
        return _json(text)

    def _arguments(self, arguments: str) -> dict[str, Any]:
        try:
            given = json.loads(arguments or "{}")
        except (ValueError, RecursionError):
            raise ToolError("the arguments are no JSON", kind="wrong arguments") from None
        faults = sorted(self._validator.iter_errors(given), key=lambda fault: list(map(str, fault.path)))
        if faults:
            told = "; ".join(
                f"{'.'.join(map(str, fault.path)) or 'arguments'}: {fault.message}" for fault in faults[:5]
            )
            raise ToolError(f"wrong arguments: {told[:500]}", kind="wrong arguments")
        return dict(given)


def _text(value: object) -> str:
    return value if isinstance(value, str) else json.dumps(value)


def _json(text: str) -> str:
    """The answer as the model is told it: JSON as it came, anything else as a JSON string, both cut."""
    try:
        return json.dumps(json.loads(text), ensure_ascii=False)[:MAX_RESULT]
    except (ValueError, RecursionError):
        return json.dumps(text, ensure_ascii=False)[:MAX_RESULT]
