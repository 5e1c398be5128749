"""The descriptions: OpenAPI and AsyncAPI are valid, say what is served, and the page shows all of both."""

import asyncio
import json
import re
from functools import cache
from html.parser import HTMLParser
from typing import Any

import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis.errors import Unsatisfiable
from jsonschema import Draft202012Validator
from openapi_spec_validator import OpenAPIV31SpecValidator
from referencing import Registry
from referencing.jsonschema import DRAFT202012
from schemathesis.core.result import Ok

from fastagent.connectors.websocket import messages
from fastagent.gateway.api import openapi as openapi_module
from fastagent.gateway.api import operations
from fastagent.gateway.api.openapi import SERVER_MESSAGES, asyncapi
from fastagent.gateway.errors import STATUS
from tests.gateway.api import DOCUMENT, call, served

real = pytest.mark.real


# -- OpenAPI --


@real
async def test_the_description_is_valid_openapi_and_its_schemas_are_valid() -> None:
    async with served(ready=False) as rest:
        document = (await rest.get("/openapi.json")).body
    assert document["openapi"].startswith("3.1.")
    assert list(OpenAPIV31SpecValidator(document).iter_errors()) == []
    for schema in document["components"]["schemas"].values():
        Draft202012Validator.check_schema(schema)
    ids = [one["operationId"] for methods in document["paths"].values() for one in methods.values()]
    assert len(set(ids)) == len(ids) == 26


@real
async def test_what_is_described_is_what_is_routed() -> None:
    async with served(ready=False) as rest:
        described = {
            (method.upper(), path)
            for path, methods in (await rest.get("/openapi.json")).body["paths"].items()
            for method in methods
        }
        assert rest.gateway._runner is not None
        routed = {
            (route.method, route.resource.canonical)
            for route in rest.gateway._runner.app.router.routes()
            if route.resource is not None and route.method != "HEAD"
        }
        others = {path for _, path in routed - described}
        assert described <= routed
        # What is left belongs to connectors and to pages for people.
        assert not [path for path in others if path.startswith(("/agents", "/sessions", "/health", "/metrics"))]


@real
async def test_every_answer_names_codes_that_exist_and_every_secured_operation_its_401_and_429() -> None:
    async with served(ready=False) as rest:
        document = (await rest.get("/openapi.json")).body
    for path, methods in document["paths"].items():
        for method, one in methods.items():
            assert one["summary"]
            for status, answer in one["responses"].items():
                for code in re.findall(r"^`(\w+)`", answer["description"]):
                    assert STATUS[code] == int(status) or status in ("413", "415", "422"), (path, method, code)
            if one["security"] != [{}]:
                assert {"401", "429", "504"} <= set(one["responses"])
                assert "Retry-After" in one["responses"]["429"]["headers"]
            if "requestBody" in one:
                assert {"400", "413", "415"} <= set(one["responses"])


def _resolving(document: dict[str, Any], schema: dict[str, Any]) -> Draft202012Validator:
    registry: Registry[Any] = Registry().with_resource("urn:document", DRAFT202012.create_resource(document))
    whole = json.loads(json.dumps(schema).replace('"#/', '"urn:document#/'))
    return Draft202012Validator(whole, registry=registry)


@real
async def test_the_documents_configuration_fits_the_described_body() -> None:
    async with served(ready=False) as rest:
        document = (await rest.get("/openapi.json")).body
    body = document["paths"]["/agents/{agent_id}/config"]["post"]["requestBody"]
    schema = body["content"]["application/json"]["schema"]
    _resolving(document, schema).validate(DOCUMENT)
    assert not _resolving(document, schema).is_valid({"states": []})


# -- AsyncAPI --

FROM_CLIENT: list[tuple[str, dict[str, Any]]] = [  # the API document's examples, word by word
    ("start_session", {"agent_id": "retail_agent", "metadata": {"caller_id": "+1234567890"}}),
    ("audio_data", {"format": "audio/x-wav", "encoding": "base64", "data": "base64_audio_data", "chunk_id": 42}),
    ("dtmf", {"digits": "1234"}),
    ("end_session", {"reason": "user_hangup"}),
]
FROM_SERVER: list[tuple[str, dict[str, Any]]] = [
    ("session_started", {"session_id": "sess_123456", "initial_state": "greeting"}),
    ("audio_response", {"format": "audio/x-wav", "encoding": "base64", "data": "base64_audio_data", "final": False}),
    ("state_transition", {"from_state": "greeting", "to_state": "collect_info", "reason": "user_provided_info"}),
    ("session_ended", {"reason": "completed", "duration_seconds": 145}),
    (
        "error",
        {
            "code": "invalid_audio_format",
            "message": "Unsupported audio format: audio/mp3",
            "details": "Only audio/x-wav is supported",
        },
    ),
]


@cache
def described() -> dict[str, Any]:
    """The document."""
    return asyncapi("1.0.0")


def _validator(name: str) -> Draft202012Validator:
    document = described()
    return _resolving(document, document["components"]["messages"][name]["payload"])


@pytest.mark.parametrize(("name", "payload"), FROM_CLIENT + FROM_SERVER, ids=lambda value: str(value)[:20])
def test_the_documents_messages_fit_their_schemas(name: str, payload: dict[str, Any]) -> None:
    message = {"type": name, "payload": payload, "session_id": "sess_123456", "timestamp": 1624282543}
    _validator(name).validate(message)
    for wrong in ({**message, "type": "other"}, {"type": name}, {**message, "payload": 5}):
        assert not _validator(name).is_valid(wrong)


@pytest.mark.parametrize(
    ("name", "payload"),
    [
        ("dtmf", {"digits": "x"}),
        ("dtmf", {}),
        ("start_session", {"agent_id": "a b"}),
        ("audio_data", {"data": 5}),
        ("text_input", {"text": ""}),
        ("playback_status", {"utterance_id": "u", "played_ms": -1}),
    ],
)
def test_what_the_parser_refuses_the_schema_refuses(name: str, payload: dict[str, Any]) -> None:
    assert not _validator(name).is_valid({"type": name, "payload": payload})
    with pytest.raises(Exception, match=r"Expected|missing|length"):
        messages.decoders[name](json.dumps(payload).encode())


def test_asyncapi_names_every_message_once_and_each_direction_only_its_own() -> None:
    document = described()
    assert document["asyncapi"] == "3.0.0"
    channel = document["channels"]["agent"]
    assert channel["address"] == "/agent/ws"
    assert set(channel["messages"]) == {*messages.CLIENT, *SERVER_MESSAGES}
    assert set(SERVER_MESSAGES) >= messages.OPTIONAL_EVENTS
    for operation, names in (("toServer", messages.CLIENT), ("toClient", SERVER_MESSAGES)):
        found = {one["$ref"].rsplit("/", 1)[1] for one in document["operations"][operation]["messages"]}
        assert found == set(names)
    for name, message in document["components"]["messages"].items():
        assert message["summary"], name
        Draft202012Validator.check_schema(message["payload"])
    text = json.dumps(document)
    for reference in re.findall(r'"\$ref": "#/([^"]+)"', text):
        at: Any = document
        for part in reference.split("/"):
            at = at[part]


@real
async def test_every_message_of_a_real_call_fits_its_schema() -> None:
    async with served() as rest, call(rest) as one:
        await one.until("audio_response")
        await one.send("dtmf", digits="1")
        await one.send("nonsense")
        await one.until("error")
        await one.send("text_input", text="hello")
        await one.until("transcript", role="user")
        assert (await rest.post(f"/sessions/{one.id}/dtmf", {"digits": "1"})).status == 200
        await one.until("call_event", event="dtmf_out")
        await one.send("end_session")
        await one.until("session_ended")
        seen = set()
        for message in one.received:
            seen.add(message["type"])
            _validator(message["type"]).validate(message)
            unknown = set(message["payload"]) - set(SERVER_MESSAGES[message["type"]][1])
            assert not unknown, (message["type"], unknown)
        assert {"session_started", "audio_response", "error", "transcript", "call_event", "session_ended"} <= seen


# -- the page --


class _Page(HTMLParser):
    """What a page asks the browser to load, and the places in it."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.loads: list[str] = []
        self.links: list[str] = []
        self.ids: list[str] = []
        self.tags: set[str] = set()
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        found = {name: value or "" for name, value in attrs}
        assert not any(name.startswith("on") for name in found)
        self.loads += [found[name] for name in ("src", "srcset", "action", "data") if name in found]
        if tag == "link":
            self.loads.append(found.get("href", ""))
        if tag == "a":
            self.links.append(found["href"])
        if "id" in found:
            self.ids.append(found["id"])


@real
async def test_the_page_shows_every_operation_message_and_schema_and_loads_nothing() -> None:
    async with served(ready=False) as rest:
        reply = await rest.get("/docs")
        document = (await rest.get("/openapi.json")).body
        page = _Page(reply.text)
        assert page.loads == []
        assert "script" not in page.tags
        assert "http://" not in reply.text
        assert "https://" not in reply.text
        policy = reply.headers["Content-Security-Policy"]
        assert "default-src 'none'" in policy
        assert "script-src" not in policy
        ids = [one["operationId"] for methods in document["paths"].values() for one in methods.values()]
        assert {*ids, *document["components"]["schemas"], "rest", "socket", "schemas"} <= set(page.ids)
        assert len(set(page.ids)) == len(page.ids)
        for link in page.links:
            if link.startswith("#"):
                assert link[1:] in page.ids, link
            else:
                assert (await rest.get(link)).status == 200
        for path in document["paths"]:
            assert f"<code>{path}</code>" in reply.text
        for name in (*messages.CLIENT, *SERVER_MESSAGES):
            assert f"<code>{name}</code>" in reply.text


# -- what a stranger tries --

CHECKS = {
    "not_a_server_error",
    "status_code_conformance",
    "content_type_conformance",
    "response_schema_conformance",
    "response_headers_conformance",
}
MODES = [schemathesis.GenerationMode.POSITIVE, schemathesis.GenerationMode.NEGATIVE]
BOUNDED = settings(
    max_examples=8,
    deadline=None,
    database=None,
    derandomize=True,
    phases=[Phase.generate],
    suppress_health_check=list(HealthCheck),
)


def _explore(url: str, document: dict[str, Any]) -> tuple[set[str], list[str]]:
    """Try every operation with what fits its description and with what does not; return what was tried, and what was
    wrong."""
    schema = schemathesis.openapi.from_dict(document)
    checks = [one for one in schemathesis.checks.CHECKS.get_all() if one.__name__ in CHECKS]
    assert len(checks) == len(CHECKS)
    tried: set[str] = set()
    found: list[str] = []

    def probe(case: Any) -> None:
        tried.add(case.operation.label)
        try:
            case.call_and_validate(base_url=url, checks=checks, timeout=5)
        except (AssertionError, BaseExceptionGroup) as error:
            found.append(f"{case.operation.label}: {getattr(error, 'exceptions', error)}"[:1000])

    for result in schema.get_all_operations():
        assert isinstance(result, Ok)
        operation = result.ok()
        for mode in MODES:
            try:
                BOUNDED(given(case=operation.as_strategy(generation_mode=mode))(probe))()
            except Unsatisfiable:  # nothing can be wrong in a request without parameters
                assert mode is schemathesis.GenerationMode.NEGATIVE
    return tried, found


@real
async def test_whatever_is_tried_is_answered_as_described() -> None:
    async with served(FASTAGENT_REST_RATE=100_000) as rest, call(rest) as one:
        await rest.configure("posted", DOCUMENT)
        document = (await rest.get("/openapi.json")).body
        paths = document["paths"]
        tried, found = await asyncio.to_thread(_explore, rest.url, document)
        assert found == []
        assert tried == {f"{method.upper()} {path}" for path, methods in paths.items() for method in methods}
        assert (await rest.get(f"/sessions/{one.id}")).body["end_reason"] is None


@real
async def test_an_answer_that_is_not_described_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    """The twin: the search above would find something."""
    described = operations.statuses
    monkeypatch.setattr(
        openapi_module, "statuses", lambda one: {k: v for k, v in described(one).items() if k not in (400, 404)}
    )
    async with served(FASTAGENT_REST_RATE=100_000) as rest:
        _, found = await asyncio.to_thread(_explore, rest.url, (await rest.get("/openapi.json")).body)
        assert any("getConfig" in one or "/agents/{agent_id}/config" in one for one in found)
