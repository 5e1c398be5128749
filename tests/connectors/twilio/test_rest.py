"""Hanging up over Twilio's REST API, against a server on loopback."""

import asyncio
import base64
from collections.abc import AsyncIterator
from typing import Any

import pytest
import pytest_asyncio

from fastagent.connectors.twilio import rest
from fastagent.connectors.twilio.rest import TwilioRest
from tests.support.carrier import FakeRest, quiet_rest

pytestmark = [pytest.mark.real, *quiet_rest]

ACCOUNT = "AC0123456789abcdef0123456789abcdef"
CALL = "CA0123456789abcdef0123456789abcdef"


@pytest_asyncio.fixture
async def server() -> AsyncIterator[FakeRest]:
    async with FakeRest().running() as one:
        yield one


@pytest_asyncio.fixture
async def client(server: FakeRest) -> AsyncIterator[TwilioRest]:
    one = TwilioRest(ACCOUNT, "secret", base_url=server.url)
    yield one
    await one.aclose()


async def test_a_hang_up_posts_the_status_with_basic_auth(server: FakeRest, client: TwilioRest) -> None:
    await client.hang_up(CALL)
    (request,) = server.requests
    assert (request.method, request.path) == ("POST", f"/2010-04-01/Accounts/{ACCOUNT}/Calls/{CALL}.json")
    assert request.body == "Status=completed"
    scheme, _, credentials = request.authorization.partition(" ")
    assert scheme == "Basic"
    assert base64.b64decode(credentials).decode() == f"{ACCOUNT}:secret"


async def test_one_client_ends_many_calls(server: FakeRest, client: TwilioRest) -> None:
    await asyncio.gather(*(client.hang_up(f"CA{at}") for at in range(5)))
    assert sorted(one.path.rpartition("/")[2] for one in server.requests) == [f"CA{at}.json" for at in range(5)]


@pytest.mark.parametrize(
    ("status", "body"),
    [
        (404, {"code": 20404, "message": "not found", "status": 404}),
        (404, "<html>gone</html>"),
        (400, {"code": 21220, "message": "not in-progress", "status": 400}),
        (409, {"code": 21220, "message": "not in-progress", "status": 409}),
    ],
)
async def test_a_call_that_is_over_counts_as_ended(
    server: FakeRest, client: TwilioRest, status: int, body: object
) -> None:
    server.answers(status, body)
    await client.hang_up(CALL)
    assert len(server.requests) == 1


async def test_a_call_that_is_over_is_also_told_as_problem_details(server: FakeRest, client: TwilioRest) -> None:
    """RFC 9457, which the library turns into another exception."""
    problem = {"type": "about:blank", "title": "Not found", "status": 404, "code": 20404}
    server.answers(404, problem, "application/problem+json")
    await client.hang_up(CALL)


@pytest.mark.parametrize(
    ("status", "body"),
    [
        (500, {"code": 20500, "message": "oops", "status": 500}),
        (500, "<html>oops</html>"),
        (503, ""),
        (429, {"code": 20429, "message": "slow down", "status": 429}),
        (401, {"code": 20003, "message": "authenticate", "status": 401}),
        (400, {"code": 21201, "message": "no", "status": 400}),
        (302, ""),
    ],
)
async def test_a_refusal_is_a_connection_error(server: FakeRest, client: TwilioRest, status: int, body: object) -> None:
    server.answers(status, body)
    with pytest.raises(ConnectionError, match="hang-up"):
        await client.hang_up(CALL)


@pytest.mark.parametrize("body", ["", "<html>", "[]", "null", '"completed"'])
async def test_a_success_whose_body_cannot_be_read_raises_nothing_else(
    server: FakeRest, client: TwilioRest, body: str
) -> None:
    """A hang-up may only fail with `ConnectionError`: nothing else is caught where a call ends."""
    server.answers(200, body)
    try:
        await client.hang_up(CALL)
    except ConnectionError:
        pass


async def test_a_server_that_does_not_answer_is_given_up_on(
    server: FakeRest, client: TwilioRest, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rest, "_TIMEOUT_S", 0.2)
    server.stall.clear()
    async with asyncio.timeout(3.0):
        with pytest.raises(ConnectionError):
            await client.hang_up(CALL)


async def test_a_server_that_is_not_there_is_a_connection_error() -> None:
    async with FakeRest().running() as gone:
        url = gone.url
    client = TwilioRest(ACCOUNT, "secret", base_url=url)
    with pytest.raises(ConnectionError):
        await client.hang_up(CALL)
    await client.aclose()


async def test_a_connection_that_breaks_is_a_connection_error() -> None:
    async def hang_up_on(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.transport.abort()

    server = await asyncio.start_server(hang_up_on, "127.0.0.1", 0)
    client = TwilioRest(ACCOUNT, "secret", base_url=f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}")
    with pytest.raises(ConnectionError):
        await client.hang_up(CALL)
    await client.aclose()
    server.close()


async def test_the_error_names_neither_token_nor_call(server: FakeRest, client: TwilioRest) -> None:
    server.answers(500, {"code": 20500, "message": f"{CALL} secret", "status": 500})
    with pytest.raises(ConnectionError) as caught:
        await client.hang_up(CALL)
    assert "secret" not in str(caught.value)
    assert CALL not in str(caught.value)


async def test_closing_twice_is_fine_and_a_later_hang_up_opens_again(server: FakeRest, client: TwilioRest) -> None:
    await client.aclose()
    await client.hang_up(CALL)
    await client.aclose()
    await client.aclose()
    await client.hang_up(CALL)
    assert len(server.requests) == 2


async def test_a_cancelled_hang_up_passes_the_cancellation_on(server: FakeRest, client: TwilioRest) -> None:
    server.stall.clear()
    task: asyncio.Task[Any] = asyncio.create_task(client.hang_up(CALL))
    async with asyncio.timeout(3.0):
        await server.asked.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


async def test_other_twiml_is_posted_for_the_call(server: FakeRest, client: TwilioRest) -> None:
    await client.redirect(CALL, "<Response><Hangup/></Response>")
    (request,) = server.requests
    assert request.path == f"/2010-04-01/Accounts/{ACCOUNT}/Calls/{CALL}.json"
    assert request.body == "Twiml=%3CResponse%3E%3CHangup%2F%3E%3C%2FResponse%3E"


async def test_a_call_that_is_over_cannot_be_redirected(server: FakeRest, client: TwilioRest) -> None:
    server.answers(404, {"code": 20404, "message": "not found", "status": 404})
    with pytest.raises(ConnectionError, match="redirect refused: 404, code 20404"):
        await client.redirect(CALL, "<Response/>")
