"""Operations: one table from which requests are routed and checked, and OpenAPI is made.

An operation names its path, its parameters and bodies as models, and the errors that it may answer with; the handler is
given what was checked and returns a model, or raises `ApiError`.
"""

import asyncio
import json
import math
import re
from collections.abc import Awaitable, Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from aiohttp import web
from pydantic import BaseModel, ValidationError

from fastagent.gateway.errors import STATUS, error_response

_MAX_DEPTH = 32
_QUICK = 16 * 1024  # bytes that are parsed at once; more than that in a thread, so that live calls do not wait
_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,63}")
_JSON = re.compile(r"application/([a-z0-9.+-]+\+)?json")


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
    answers: Mapping[int, type[BaseModel] | tuple[str, ...]]
    """By status: a model, or content types."""
    query: type[BaseModel] | None = None
    body: type[BaseModel] | None = None
    document: type[BaseModel] | None = None
    """What a body is, where the handler itself reads and checks it."""
    errors: Iterable[str] = ()
    secured: bool = True


async def body_of(request: web.Request) -> Any:
    """Return the JSON of a body.

    Raises:
        ApiError: it is none, or nested too deep.
    """
    if "Content-Type" in request.headers and not _JSON.fullmatch(request.content_type):
        raise ApiError("invalid_request", "the body must be application/json", status=415)
    body = await request.read()
    return _parsed(body) if len(body) < _QUICK else await asyncio.to_thread(_parsed, body)


def _parsed(body: bytes) -> Any:
    try:
        document = json.loads(
            body.decode("utf-8"),
            parse_constant=_no_constant,
            parse_float=_finite,
            object_pairs_hook=_without_repetition,
        )
    except _Repeated as repeated:
        raise ApiError("invalid_request", "a name comes twice in one object", str(repeated)[:64]) from None
    except (ValueError, RecursionError):
        raise ApiError("invalid_request", "the body is no JSON") from None
    _check_values(document)
    return document


class _Repeated(Exception):
    """Which of two values is meant, nobody can tell."""


def _no_constant(name: str) -> Any:
    raise ValueError(f"{name} is no JSON")


def _finite(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise ValueError("a number is out of range")
    return value


def _without_repetition(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        seen: set[str] = set()
        raise _Repeated(next(name for name, _ in pairs if name in seen or seen.add(name)))  # type: ignore[func-returns-value]
    return found


def _check_values(document: Any) -> None:
    """Raise `ApiError` where a document is nested too deep, or has a text that cannot be sent again."""
    open_ = [(document, 1)]
    while open_:
        one, depth = open_.pop()
        if isinstance(one, str):
            if not one.isascii() and any("\ud800" <= character <= "\udfff" for character in one):
                raise ApiError("invalid_request", "a text has half a surrogate pair")
        elif isinstance(one, (dict, list)):
            if depth > _MAX_DEPTH:
                raise ApiError("invalid_request", f"the body is nested more than {_MAX_DEPTH} deep")
            open_.extend((child, depth + 1) for child in (one if isinstance(one, list) else (*one, *one.values())))


def checked(model: type[BaseModel], given: Any, where: str) -> Any:
    """Return what was given as a model.

    Raises:
        ApiError: with every fault at its place.
    """
    try:
        return model.model_validate(given)
    except ValidationError as error:
        faults = [
            {"path": ".".join(map(str, one["loc"]))[:80] or where, "message": one["msg"][:200]}
            for one in error.errors()
        ]
        raise ApiError("invalid_request", f"the {where} is wrong", faults[:20]) from None


async def perform(operation: Operation, request: web.Request, principal: str) -> web.StreamResponse:
    """Check a request, have it done, and return its answer or its error."""
    try:
        for name, value in request.match_info.items():
            if not _ID.fullmatch(value):
                fault = {"path": name, "message": "letters, digits, `_ . -`, the first a letter or digit, 64 at most"}
                raise ApiError("invalid_request", f"this is no {name}", [fault])
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
    codes = [*operation.errors]
    if operation.secured:
        codes += ["invalid_request", "rate_limited", "authentication_failed", "timeout"]
    found: dict[int, list[str]] = {}
    for code in dict.fromkeys(codes):
        found.setdefault(STATUS[code], []).append(code)
    if operation.body is not None or operation.document is not None:
        found[413] = found[415] = ["invalid_request"]
    return found
