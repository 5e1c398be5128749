"""OpenAPI 3.1, made of the operations' table and their models; and AsyncAPI 3, of the socket's messages."""

import re
from collections.abc import Iterable
from typing import Any

import msgspec
from pydantic import BaseModel
from pydantic.json_schema import models_json_schema

from fastagent.connectors.websocket import messages
from fastagent.gateway.api.models import Error
from fastagent.gateway.api.operations import Operation, statuses

_REF = "#/components/schemas/{model}"
_ID = {"type": "string", "pattern": r"^[A-Za-z0-9][A-Za-z0-9_.-]{0,63}$"}

Schema = dict[str, Any]

_ERROR_HEADERS: dict[int, Schema] = {
    401: {"WWW-Authenticate": {"description": "`Bearer`", "schema": {"type": "string"}}},
    429: {"Retry-After": {"description": "seconds", "schema": {"type": "integer"}}},
}


def openapi(operations: Iterable[Operation], version: str) -> Schema:
    """Return the document."""
    table = list(operations)
    given = {model for one in table for model in (one.body, one.document) if model}
    answered = {model for one in table for model in one.answers.values() if isinstance(model, type)} | {Error}
    modes: list[tuple[type[BaseModel], Any]] = [
        *((model, "validation") for model in sorted(given, key=lambda m: m.__name__)),
        *((model, "serialization") for model in sorted(answered, key=lambda m: m.__name__)),
    ]
    references, definitions = models_json_schema(modes, ref_template=_REF)
    paths: dict[str, Schema] = {}
    for one in table:
        paths.setdefault(one.path, {})[one.method.lower()] = _operation(one, references)
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "FastAgent",
            "version": version,
            "description": "A telephony-first media gateway for voice agents.",
            "license": {"name": "Apache-2.0", "identifier": "Apache-2.0"},
        },
        "servers": [{"url": "/"}],
        "paths": paths,
        "components": {
            "schemas": definitions.get("$defs", {}),
            "securitySchemes": {"bearer": {"type": "http", "scheme": "bearer"}},
        },
    }


def _operation(one: Operation, references: dict[Any, Schema]) -> Schema:
    found: Schema = {
        "operationId": one.id,
        "summary": one.summary,
        "tags": [one.tag],
        "parameters": [*_path_parameters(one.path), *_query_parameters(one.query)],
        "responses": {},
        "security": [{"bearer": []}] if one.secured else [{}],
    }
    body = one.body or one.document
    if body is not None:
        schema = references[body, "validation"]
        found["requestBody"] = {"required": True, "content": {"application/json": {"schema": schema}}}
    for status, model in one.answers.items():
        found["responses"][str(status)] = _answer(model, references)
    for status, codes in statuses(one).items():
        if str(status) not in found["responses"]:
            found["responses"][str(status)] = {
                "description": ", ".join(f"`{code}`" for code in codes),
                "content": {"application/json": {"schema": references[Error, "serialization"]}},
                **({"headers": _ERROR_HEADERS[status]} if status in _ERROR_HEADERS else {}),
            }
    found["responses"] = dict(sorted(found["responses"].items()))
    return found


def _answer(model: type[BaseModel] | tuple[str, ...], references: dict[Any, Schema]) -> Schema:
    if isinstance(model, type):
        about = " ".join((model.__doc__ or model.__name__).split())
        return {
            "description": about,
            "content": {"application/json": {"schema": references[model, "serialization"]}},
        }
    shapes = {kind: {"type": "object" if kind == "application/json" else "string"} for kind in model}
    return {"description": "the document", "content": {kind: {"schema": shape} for kind, shape in shapes.items()}}


def _path_parameters(path: str) -> list[Schema]:
    return [
        {"name": name, "in": "path", "required": True, "schema": _ID} for name in re.findall(r"\{([a-z_]+)\}", path)
    ]


def _query_parameters(model: type[BaseModel] | None) -> list[Schema]:
    if model is None:
        return []
    schema = model.model_json_schema()
    required = schema.get("required", [])
    return [
        {
            "name": name,
            "in": "query",
            "required": name in required,
            **({"description": shape["description"]} if "description" in shape else {}),
            "schema": {key: value for key, value in shape.items() if key not in ("title", "description")},
        }
        for name, shape in schema.get("properties", {}).items()
    ]


SERVER_MESSAGES: dict[str, tuple[str, Schema]] = {
    "session_started": (
        "The session exists. Keep `resume_secret` to take it up again after a lost connection.",
        {
            "session_id": {"type": "string"},
            "initial_state": {"type": "string"},
            "agent_id": {"type": "string"},
            "resumed": {"type": "boolean"},
            "resume_secret": {"type": "string"},
            "audio": {"type": "object"},
        },
    ),
    "audio_response": (
        "The agent's speech: by default each chunk is a WAV file of its own. `final` is true in the last one of an "
        "utterance, which may be without samples.",
        {
            "format": {"type": "string"},
            "encoding": {"const": "base64"},
            "data": {"type": "string", "contentEncoding": "base64"},
            "final": {"type": "boolean"},
            "utterance_id": {"type": "string"},
            "seq": {"type": "integer"},
        },
    ),
    "state_transition": (
        "The machine has moved.",
        {"from_state": {"type": "string"}, "to_state": {"type": "string"}, "reason": {"type": "string"}},
    ),
    "session_ended": (
        "The session is over; the socket is closed soon after.",
        {
            "reason": {"type": "string"},
            "duration_seconds": {"type": "number"},
            "detail": {"type": ["string", "null"]},
        },
    ),
    "error": (
        "Something was wrong; the socket stays usable unless it is closed.",
        {"code": {"type": "string"}, "message": {"type": "string"}, "details": {}},
    ),
    "transcript": (
        "Words of either side. The last one of an answer says what of it was `heard`.",
        {
            "role": {"enum": ["user", "agent"]},
            "text": {"type": "string"},
            "is_final": {"type": "boolean"},
            "turn_id": {"type": "integer"},
            "heard": {"type": "string"},
            "interrupted": {"type": "boolean"},
        },
    ),
    "speech_started": ("The caller has begun to speak.", {}),
    "speech_stopped": ("The caller's utterance is over.", {}),
    "clear_audio": (
        "Drop what is buffered of this utterance.",
        {"utterance_id": {"type": "string"}, "reason": {"type": "string"}},
    ),
    "interruption": (
        "The caller has taken the floor.",
        {"turn_id": {"type": "integer"}, "heard": {"type": "string"}},
    ),
    "tool_call": (
        "A tool has run.",
        {"name": {"type": "string"}, "duration_ms": {"type": "number"}, "error": {"type": ["string", "null"]}},
    ),
    "metrics": (
        "A turn's wait, stage by stage, in milliseconds.",
        {"turn_id": {"type": "integer"}, "waterfall_ms": {"type": "object"}},
    ),
    "call_event": (
        "A key, a hold, a transfer, a hand-over.",
        {"event": {"type": "string"}, "detail": {"type": ["string", "null"]}, "digits": {"type": "string"}},
    ),
}


def asyncapi(version: str) -> Schema:
    """Return the description of `/agent/ws`."""
    schemas, definitions = msgspec.json.schema_components(
        messages.CLIENT.values(), ref_template="#/components/schemas/{name}"
    )
    sent = {
        name: {**_envelope(name, schema), "summary": " ".join((form.__doc__ or "").split())}
        for (name, form), schema in zip(messages.CLIENT.items(), schemas, strict=True)
    }
    received = {
        name: {**_envelope(name, {"type": "object", "properties": shape}), "summary": about}
        for name, (about, shape) in SERVER_MESSAGES.items()
    }
    return {
        "asyncapi": "3.0.0",
        "info": {"title": "FastAgent WebSocket API", "version": version},
        "channels": {
            "agent": {
                "address": "/agent/ws",
                "messages": {
                    name: {"$ref": f"#/components/messages/{name}"} for name in dict.fromkeys([*sent, *received])
                },
            }
        },
        "operations": {
            "toServer": _direction("receive", sent),
            "toClient": _direction("send", received),
        },
        "components": {"messages": {**sent, **received}, "schemas": definitions},
    }


def _direction(action: str, names: Iterable[str]) -> Schema:
    references = [{"$ref": f"#/channels/agent/messages/{name}"} for name in names]
    return {"action": action, "channel": {"$ref": "#/channels/agent"}, "messages": references}


def _envelope(name: str, payload: Schema) -> Schema:
    properties = {
        "type": {"const": name},
        "payload": payload,
        "session_id": {"type": ["string", "null"]},
        "timestamp": {"type": "number", "description": "seconds since 1970"},
        "timestamp_ms": {"type": "integer", "description": "from the server"},
    }
    return {"name": name, "payload": {"type": "object", "properties": properties, "required": ["type", "payload"]}}
