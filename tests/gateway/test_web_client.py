"""The guarded way to the web, against a real server on loopback."""

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass, field

import pytest
import pytest_asyncio
from aiohttp import web
from yarl import URL

from fastagent.afsm.http_tools import WebRequest
from fastagent.afsm.tools import ToolError
from fastagent.gateway.addresses import Addresses, is_public
from fastagent.gateway.web_client import GuardedClient


@dataclass
class Service:
    url: str = ""
    requests: list[tuple[str, str, dict[str, str], bytes]] = field(default_factory=list)
    answers: list[web.Response | str] = field(default_factory=list)

    async def handle(self, request: web.Request) -> web.StreamResponse:
        self.requests.append((request.method, request.raw_path, dict(request.headers), await request.read()))
        answer = self.answers.pop(0) if self.answers else web.json_response({"ok": True})
        if answer == "reset":
            assert request.transport is not None
            request.transport.abort()
        if isinstance(answer, str):
            await asyncio.sleep(5)
            return web.Response()
        return answer


@pytest_asyncio.fixture
async def service() -> AsyncIterator[Service]:
    one = Service()
    app = web.Application()
    app.router.add_route("*", "/{path:.*}", one.handle)
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    one.url = f"http://127.0.0.1:{runner.addresses[0][1]}"
    yield one
    await runner.cleanup()


async def ask(service: Service, allowed: tuple[str, ...] | None = None, **changes: object) -> tuple[int, str]:
    client = GuardedClient(Addresses((service.url,) if allowed is None else allowed))
    given = {
        "method": "POST", "url": f"{service.url}/order", "headers": {"Idempotency-Key": "k1"}, "query": {},
        "body": b"{}", "bearer_env": None, "timeout_s": 2.0, **changes,
    }  # fmt: skip
    try:
        return await client.request(WebRequest(**given))  # type: ignore[arg-type]
    finally:
        await client.aclose()


@pytest.mark.real
async def test_an_origin_that_the_environment_names_is_asked(service: Service, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FASTAGENT_SECRET_SHOP", "s3cret")
    status, text = await ask(service, bearer_env="FASTAGENT_SECRET_SHOP", query={"a": "b c"})
    assert (status, text) == (200, '{"ok": true}')
    (method, path, headers, body) = service.requests[0]
    assert (method, path, body) == ("POST", "/order?a=b+c", b"{}")
    assert (headers["Authorization"], headers["Idempotency-Key"]) == ("Bearer s3cret", "k1")


@pytest.mark.real
@pytest.mark.parametrize("answer", [web.Response(status=503), "reset"], ids=["503", "reset"])
async def test_a_passing_fault_is_tried_once_more_with_the_same_key(
    service: Service, answer: web.Response | str
) -> None:
    service.answers = [answer]
    assert (await ask(service))[0] == 200
    assert [request[2]["Idempotency-Key"] for request in service.requests] == ["k1", "k1"]


@pytest.mark.real
async def test_a_fault_that_stays_is_told(service: Service) -> None:
    service.answers = ["reset", "reset", "reset"]
    with pytest.raises(ToolError, match="cannot be reached"):
        await ask(service)
    assert len(service.requests) == 2


@pytest.mark.real
async def test_a_redirect_is_not_followed(service: Service) -> None:
    service.answers = [web.Response(status=302, headers={"Location": f"{service.url}/elsewhere"})]
    assert (await ask(service))[0] == 302
    assert len(service.requests) == 1


@pytest.mark.real
async def test_a_silent_service_is_given_up_and_a_long_answer_is_cut(service: Service) -> None:
    service.answers = ["silence"]
    with pytest.raises(ToolError, match="no answer in time"):
        await ask(service, timeout_s=0.2)
    service.answers = [web.Response(body=b"x" * 200_000)]
    assert len((await ask(service))[1]) == 64 * 1024


@pytest.mark.real
async def test_a_missing_secret_is_told_and_nothing_is_sent(service: Service) -> None:
    with pytest.raises(ToolError, match="FASTAGENT_SECRET_NOWHERE is not set"):
        await ask(service, bearer_env="FASTAGENT_SECRET_NOWHERE")
    assert service.requests == []


@pytest.mark.real
@pytest.mark.parametrize("allowed", [(), ("api.example.com",), ("127.0.0.1",), ("localhost",)], ids=str)
async def test_what_is_not_allowed_is_never_connected_to(service: Service, allowed: tuple[str, ...]) -> None:
    with pytest.raises(ToolError, match="not allowed"):
        await ask(service, allowed)
    assert service.requests == []


@pytest.mark.real
async def test_a_name_that_leads_inside_is_refused_after_its_resolution(service: Service) -> None:
    with pytest.raises(ToolError, match="cannot be reached"):
        await ask(service, ("localhost",), url="https://localhost/order")
    assert service.requests == []


@pytest.mark.parametrize(
    ("url", "allowed"),
    [
        ("https://api.example.com/x", True),
        ("https://API.example.com/x", True),
        ("https://a.shop.example/x", True),
        ("https://shop.example/x", False),
        ("https://evilshop.example/x", False),
        ("http://api.example.com/x", False),
        ("https://api.example.com:8443/x", False),
        ("https://api.example.com.evil.net/", False),
        ("http://10.0.0.5:8080/x", True),
        ("http://10.0.0.5:8081/x", False),
        ("https://10.0.0.5:8080/x", False),
        ("https://169.254.169.254/latest", False),
        ("file:///etc/passwd", False),
    ],
)
def test_the_allow_list(url: str, allowed: bool) -> None:
    entries = ("api.example.com", "*.shop.example", "http://10.0.0.5:8080", "169.254.169.254")
    assert Addresses(entries).allows(URL(url)) is allowed


@pytest.mark.parametrize(
    "address",
    ["127.0.0.1", "10.1.2.3", "192.168.0.1", "169.254.169.254", "100.64.0.1", "0.0.0.0", "::1", "fe80::1", "fd00::1",
     "::ffff:127.0.0.1", "224.0.0.1"],
)  # fmt: skip
def test_private_addresses_are_not_public(address: str) -> None:
    assert not is_public(address)
    assert is_public("93.184.216.34")
    assert is_public("::ffff:93.184.216.34")


async def test_a_compressed_answer_is_not_asked_for_and_not_taken(service: Service) -> None:
    compressed = web.Response(body=b"\x1f\x8b", headers={"Content-Encoding": "gzip"})
    service.answers = [web.json_response({"a": 1}), compressed]
    assert await ask(service) == (200, '{"a": 1}')
    assert service.requests[0][2]["Accept-Encoding"] == "identity"
    with pytest.raises(ToolError, match="compressed"):
        await ask(service)


@pytest.mark.parametrize("address", ["64:ff9b::a00:1", "2002:7f00:1::", "::7f00:1", "::ffff:10.0.0.1", "::1"])
def test_an_inside_address_in_other_clothes_is_still_inside(address: str) -> None:
    assert not is_public(address)


def test_a_public_address_in_other_clothes_is_public() -> None:
    assert is_public("64:ff9b::808:808")
