"""Web services as tools: what is sent, what is refused, and what an interruption does."""

import asyncio
import json
from typing import Any

import pytest

from fastagent.afsm import ConversationContext
from fastagent.afsm.config import HttpToolConfig, load
from fastagent.afsm.errors import ConfigError
from fastagent.afsm.http_tools import HttpTool, WebRequest
from fastagent.afsm.tools import ToolError

SCHEMA = {
    "type": "object",
    "properties": {"order": {"type": "string"}, "count": {"type": "integer", "minimum": 1}},
    "required": ["order"],
    "additionalProperties": False,
}


class FakeWeb:
    """Follows the contract; keeps what it was asked."""

    def __init__(self, status: int = 200, text: str = '{"ok": true}', *, delay_s: float = 0.0) -> None:
        self.status, self.text, self.delay_s = status, text, delay_s
        self.requests: list[WebRequest] = []
        self.finished = 0

    async def request(self, request: WebRequest) -> tuple[int, str]:
        self.requests.append(request)
        await asyncio.sleep(self.delay_s)
        self.finished += 1
        return self.status, self.text


def service(**given: Any) -> HttpTool:
    options = {"name": "order", "description": "Orders.", "url": "https://api.example.com/v1", "parameters": SCHEMA}
    return HttpTool(HttpToolConfig(**{**options, **given}))


def context(web: FakeWeb | None) -> ConversationContext:
    one = ConversationContext()
    one.web = web
    return one


async def test_a_post_has_the_arguments_as_json_and_a_key_of_its_own() -> None:
    web = FakeWeb()
    tool = service(headers={"X-Shop": "north"}, bearer_env="FASTAGENT_SECRET_SHOP")
    for _ in range(2):
        assert await tool.call('{"order": "tea", "count": 2}', context(web)) == '{"ok": true}'
    first, second = web.requests
    assert (first.method, first.url, dict(first.query)) == ("POST", "https://api.example.com/v1", {})
    assert json.loads(first.body or b"") == {"order": "tea", "count": 2}
    assert (first.headers["Content-Type"], first.headers["X-Shop"]) == ("application/json", "north")
    assert first.bearer_env == "FASTAGENT_SECRET_SHOP"
    assert len(first.headers["Idempotency-Key"]) == 32
    assert first.headers["Idempotency-Key"] != second.headers["Idempotency-Key"]


async def test_a_get_has_them_in_the_query() -> None:
    web = FakeWeb()
    await service(method="GET").call('{"order": "tea & cake", "count": 2}', context(web))
    assert dict(web.requests[0].query) == {"order": "tea & cake", "count": "2"}
    assert web.requests[0].body is None


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        ("{", "no JSON"),
        ("[" * 100_000, "no JSON"),
        ("[]", "is not of type 'object'"),
        ("{}", "'order' is a required property"),
        ('{"order": 5}', "order: 5 is not of type 'string'"),
        ('{"order": "tea", "count": 0}', "less than the minimum"),
        ('{"order": "tea", "url": "http://evil"}', "Additional properties"),
    ],
)
async def test_wrong_arguments_are_told_and_nothing_is_sent(arguments: str, told: str) -> None:
    web = FakeWeb()
    with pytest.raises(ToolError, match=told):
        await service().call(arguments, context(web))
    assert web.requests == []


@pytest.mark.parametrize("status", [301, 404, 500])
async def test_an_error_status_is_told_and_its_page_is_not(status: int) -> None:
    with pytest.raises(ToolError, match=f"^the service answered {status}$"):
        await service().call('{"order": "tea"}', context(FakeWeb(status, "<html>secret</html>")))


async def test_an_answer_that_is_no_json_is_quoted() -> None:
    assert await service().call('{"order": "tea"}', context(FakeWeb(text='It is "on" its way'))) == (
        '"It is \\"on\\" its way"'
    )


async def test_a_long_answer_is_cut() -> None:
    assert len(await service().call('{"order": "tea"}', context(FakeWeb(text="x" * 50_000)))) == 8000


async def test_without_a_way_to_the_web_it_says_so() -> None:
    with pytest.raises(ToolError, match="no way to the web"):
        await service().call('{"order": "tea"}', context(None))


@pytest.mark.parametrize(("on_interrupt", "finished"), [("cancel", 0), ("finish", 1)])
async def test_a_barge_in_cancels_it_or_lets_it_finish(on_interrupt: str, finished: int) -> None:
    web = FakeWeb(delay_s=1.0)
    call = asyncio.ensure_future(service(on_interrupt=on_interrupt).call('{"order": "tea"}', context(web)))
    await asyncio.sleep(0.5)
    call.cancel()
    await asyncio.gather(call, return_exceptions=True)
    await asyncio.sleep(1.0)
    assert (len(web.requests), web.finished) == (1, finished)


@pytest.mark.parametrize(
    ("changes", "path"),
    [
        ({"url": "ftp://example.com"}, "tools[0].url"),
        ({"url": "https://user:secret@example.com/"}, "tools[0].url"),
        ({"url": "https://example.com/a b"}, "tools[0].url"),
        ({"name": "has space"}, "tools[0].name"),
        ({"parameters": {"type": "array"}}, "tools[0].parameters"),
        ({"parameters": {"type": "object", "properties": 5}}, "tools[0].parameters"),
        ({"parameters": {"type": "object", "$ref": "https://example.com"}}, "tools[0].parameters"),
        ({"headers": {"X": "a\r\nY: b"}}, "tools[0].headers.X"),
        ({"bearer_env": "OPENAI_API_KEY"}, "tools[0].bearer_env"),
        ({"timeout": 0}, "tools[0].timeout"),
    ],
)
def test_a_wrong_declaration_is_an_error_at_its_place(changes: dict[str, Any], path: str) -> None:
    one = {"name": "order", "description": "Orders.", "url": "https://api.example.com", **changes}
    with pytest.raises(ConfigError) as caught:
        load({"initial_state": "a", "states": [{"name": "a"}], "tools": [one]})
    assert [problem.path for problem in caught.value.problems] == [path]


def test_two_tools_of_one_name_are_refused() -> None:
    one = {"name": "order", "description": "Orders.", "url": "https://api.example.com"}
    with pytest.raises(ConfigError, match="two tools are named 'order'"):
        load({"initial_state": "a", "states": [{"name": "a"}], "tools": [one, one]})


@pytest.mark.parametrize("reference", ["$ref", "$dynamicRef", "$recursiveRef"])
def test_a_schema_that_refers_elsewhere_is_refused(reference: str) -> None:
    schema = {"type": "object", "properties": {"a": {"anyOf": [{reference: "http://127.0.0.1/"}]}}}
    with pytest.raises(ValueError, match="references are not followed"):
        service(parameters=schema)


def test_a_property_may_be_called_ref() -> None:
    assert service(parameters={"type": "object", "properties": {"ref": {"type": "string"}}}).name == "order"


@pytest.mark.parametrize("url", ["https://api.example.com:port/x", "https://a.example:99999", "https://[::1/x"])
def test_an_address_that_is_none_is_refused(url: str) -> None:
    with pytest.raises(ValueError, match=r"no address|match"):
        service(url=url)


def test_the_name_of_the_move_is_taken() -> None:
    with pytest.raises(ValueError, match="moves the conversation"):
        service(name="update_conversation")


async def test_an_error_for_the_log_has_nothing_that_the_caller_said() -> None:
    with pytest.raises(ToolError) as raised:
        await service().call('{"order": "tea", "count": "4111 1111"}', context(FakeWeb()))
    assert "4111" in str(raised.value)
    assert raised.value.kind == "wrong arguments"
