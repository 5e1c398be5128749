"""Operations: one table from which requests are routed and checked, and OpenAPI is made.

An operation names its path, its parameters and bodies as models, and the errors that it may answer with; the handler is
given what was checked and returns a model, or raises `ApiError`.
"""

import json
from collections.abc import Awaitable, Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from aiohttp import web
from pydantic import BaseModel, ValidationError

from fastagent.gateway.errors import STATUS, error_response

_MAX_DEPTH = 32


class ApiError(Exception):
    """An answer other than the wanted one."""

    def __init__(self, code: str, message: str, details: Any = None, *, status: int | None = None) -> None:
        super().__init__(message)
        self.code, self.message, self.details, self.status = code, message, details, status


@dataclass(frozen=True, slots=True)
class Call:
    """A checked request."""

    request: web.Request
    query: Any
    body: Any
    principal: str = ""

    def path(self, name: str) -> str:
        """Return a part of the path."""
        return self.request.match_info[name]


@dataclass(frozen=True, slots=True)
class Answer:
    """A model to send, and with what."""

    model: BaseModel
    status: int = 200
    headers: Mapping[str, str] = field(default_factory=dict)


Handler = Callable[[Call], Awaitable[Answer | web.StreamResponse]]


@dataclass(frozen=True, slots=True)
class Operation:
    """One row of the table."""

    method: str
    path: str
    id: str
    summary: str
    handler: Handler
    tag: str
    answers: Mapping[int, type[BaseModel] | str | None]
    """By status: a model, or a content type."""
    query: type[BaseModel] | None = None
    body: type[BaseModel] | None = None
    errors: Iterable[str] = ()
    secured: bool = True


async def body_of(request: web.Request) -> Any:
    """Return the JSON of a body.

    Raises:
        ApiError: it is none, or nested too deep.
    """
    try:
        text = (await request.read()).decode("utf-8")
        document = json.loads(text, parse_constant=_no_constant)
    except (ValueError, RecursionError, UnicodeError):
        raise ApiError("invalid_request", "the body is no JSON") from None
    if _depth(document) > _MAX_DEPTH:
        raise ApiError("invalid_request", f"the body is nested more than {_MAX_DEPTH} deep")
    return document


def _no_constant(name: str) -> Any:
    raise ValueError(f"{name} is no JSON")


def _depth(value: Any) -> int:
    deepest, open_ = 0, [(value, 1)]
    while open_:
        one, depth = open_.pop()
        inner = one.values() if isinstance(one, dict) else one if isinstance(one, list) else None
        if inner is not None:
            deepest = max(deepest, depth)
            if depth > _MAX_DEPTH:
                break
            open_.extend((child, depth + 1) for child in inner)
    return deepest


def checked(model: type[BaseModel], given: Any, where: str) -> Any:
    """Return what was given as a model.

    Raises:
        ApiError: with every fault at its place.
    """
    try:
        return model.model_validate(given)
    except ValidationError as error:
        faults = [
            {"path": ".".join(map(str, one["loc"])) or where, "message": one["msg"][:200]} for one in error.errors()
        ]
        raise ApiError("invalid_request", f"the {where} is wrong", faults[:20]) from None


async def perform(operation: Operation, request: web.Request, principal: str) -> web.StreamResponse:
    """Check a request, have it done, and return its answer or its error."""
    try:
        query = checked(operation.query, dict(request.query), "query") if operation.query else None
        body = None
        if operation.body is not None:
            body = checked(operation.body, await body_of(request), "body")
        answer = await operation.handler(Call(request, query, body, principal))
    except ApiError as error:
        return error_response(error.code, error.message, error.details, status=error.status)
    if isinstance(answer, web.StreamResponse):
        return answer
    return web.Response(
        text=answer.model.model_dump_json(),
        content_type="application/json",
        status=answer.status,
        headers=dict(answer.headers),
    )


def statuses(operation: Operation) -> dict[int, list[str]]:
    """The error codes that an operation may answer with, by status."""
    codes = ["invalid_request", "rate_limited", *operation.errors]
    if operation.secured:
        codes.append("authentication_failed")
    found: dict[int, list[str]] = {}
    for code in dict.fromkeys(codes):
        found.setdefault(STATUS[code], []).append(code)
    return found
