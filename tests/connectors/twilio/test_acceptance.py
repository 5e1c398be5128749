"""The acceptance list of the wire sheet (section 7), over real sockets: a real gateway, and Twilio played by hand.

One gateway serves the whole file, with an agent for each need; tests that need another configuration start their own.
"""

import asyncio
import base64
import json
import logging
import secrets
import time
from base64 import b64decode
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any
from urllib.parse import parse_qsl, urlencode
from xml.etree import ElementTree

import aiohttp
import pytest
import pytest_asyncio

from fastagent import AFSMState, ConversationContext
from fastagent.afsm import Ending
from fastagent.connectors.twilio import tickets
from fastagent.connectors.twilio.emulator import StreamEmulator
from fastagent.connectors.twilio.signature import sign
from fastagent.gateway.app import Gateway
from fastagent.gateway.cli.twilio_phone import TwilioPhone
from fastagent.media.frame import AudioFormat
from fastagent.media.speech.contracts import SttStream
from tests.support.audio import loud_frames, ulaw_tone
from tests.support.carrier import (
    ACCOUNT,
    HUMAN,
    MEDIA,
    ORIGIN,
    TOKEN,
    WEBHOOK,
    Carrier,
    FakeRest,
    Speaks,
    ToneStt,
    agent,
    eventually,
    gateway,
    metric,
    pitch,
    quiet_rest,
    session_of,
)

pytestmark = [pytest.mark.real, pytest.mark.asyncio(loop_scope="module"), *quiet_rest]

STREAM_STATUS = "/twilio/stream-status"
CALL_STATUS = "/twilio/call-status"
QUICK = {"min_endpointing_delay": 0.2, "max_endpointing_delay": 0.2}
GREETING = "600 la la la la la"  # a tone of 0.6 s
LONG = " ".join(["440", *(f"w{at:02}" for at in range(1, 40))])  # a tone of 4 s, 100 ms a word
MARKUP = """a&b<c>"d'e"""
SILENCE = b"\xff" * 160


class Stalled(AFSMState):
    """An agent whose backend never answers."""

    async def on_enter(self, context: ConversationContext) -> str:
        await asyncio.Event().wait()
        return ""


@dataclass
class World:
    """The gateway under test, and what is around it."""

    gateway: Gateway
    twilio: Carrier
    rest: FakeRest
    stt: ToneStt
    keys: list[str] = field(default_factory=list)
    """Keys that the agent `keypad` was given, one entry an event."""

    def errors(self, kind: str) -> float:
        return metric(self.gateway, "protocol_errors_total", surface="twilio", kind=kind)

    def ended(self) -> float:
        """Sessions that ended, for whatever reason."""
        samples = [sample for one in self.gateway.metrics.registry.collect() for sample in one.samples]
        return sum(sample.value for sample in samples if sample.name == "fastagent_sessions_ended_total")

    async def pressed(self, *digits: str) -> None:
        """Wait until the keypad has been given these, in this order, one event each."""
        try:
            await eventually(lambda: len(self.keys) >= len(digits), 3.0)
        except TimeoutError:
            pass
        assert self.keys == [*digits]


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def http() -> AsyncIterator[aiohttp.ClientSession]:
    connector = aiohttp.TCPConnector(limit=0)
    async with aiohttp.ClientSession(connector=connector, timeout=aiohttp.ClientTimeout(total=10)) as session:
        yield session


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def shared(http: aiohttp.ClientSession) -> AsyncIterator[World]:
    keys: list[str] = []
    stt = ToneStt()

    def pressed(digits: str) -> str:
        keys.append(digits)
        return ""

    agents = [
        agent("silent"),
        agent("keypad", Speaks(answer=pressed)),
        agent("parrot", Speaks(GREETING, lambda text: f"{text} la la la"), turn_config=QUICK),
        agent("echo", Speaks(answer=lambda text: f"{text} la la la"), turn_config=QUICK),
        agent("talker", Speaks(LONG, lambda text: f"{text} la la la"), turn_config=QUICK),
        agent("farewell", Speaks("440 la la", terminal=True)),
        agent("putting_through", Speaks("440 la la", terminal=Ending("transfer", HUMAN))),
        agent("stalled", Stalled("speaks")),
        agent(MARKUP),
        agent("x" * 600),
    ]
    async with (
        FakeRest().running() as rest,
        gateway(*agents, account=ACCOUNT, rest_url=rest.url, max_sessions=500, stt=stt) as one,
    ):
        yield World(one, Carrier(http, one), rest, stt, keys)


@pytest_asyncio.fixture(loop_scope="module")
async def world(shared: World) -> AsyncIterator[World]:
    """The shared world, with a fresh page; every session must be over when a test is."""
    shared.keys.clear()
    yield shared
    await eventually(lambda: not len(shared.gateway.sessions))


class Ear(StreamEmulator):
    """Keeps a log of the wire: time, what, and the message or mark."""

    def __init__(self, *, call_sid: str, stream_sid: str) -> None:
        super().__init__(call_sid=call_sid, stream_sid=stream_sid)
        self.log: list[tuple[float, str, Any]] = []
        self.played_bytes = 0

    def media(self, payload: bytes) -> str:
        if loud_frames(payload)[0]:
            self.log.append((time.perf_counter(), "speech", None))
        return super().media(payload)

    def receive(self, text: str) -> tuple[str, list[str]]:
        self.log.append((time.perf_counter(), "received", json.loads(text)))
        return super().receive(text)

    def play(self) -> tuple[bytes, list[str]]:
        self.played_bytes += min(160, self.buffered_ms * 8)
        heard, marks = super().play()
        for mark in marks:
            self.log.append((time.perf_counter(), "reached", json.loads(mark)["mark"]["name"]))
        return heard, marks

    def received(self, event: str = "") -> list[dict[str, Any]]:
        return [what for _, kind, what in self.log if kind == "received" and event in ("", what["event"])]


def phone(world: World, agent_id: str) -> tuple[TwilioPhone, Ear]:
    """Return a phone in real time, and what it notes."""
    path = f"{WEBHOOK}?agent_id={agent_id}"
    one = TwilioPhone(world.twilio.base + path, auth_token=TOKEN, public_url=ORIGIN + path)
    ear = Ear(call_sid=one.call_sid, stream_sid=one.emulator.stream_sid)
    one.emulator = ear
    return one, ear


@dataclass(frozen=True)
class Recorded:
    """A call that was made once, for several points to look at."""

    phone: TwilioPhone
    ear: Ear
    details: dict[str, Any]


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def conversation(shared: World) -> Recorded:
    """A greeting, an utterance of the caller, an answer."""
    caller, ear = phone(shared, "parrot")
    async with caller:
        assert await caller.agent_quiet(quiet_s=0.2, patience_s=5.0)
        caller.say(ulaw_tone(0.4, 1200))
        await caller.said()
        assert await caller.agent_quiet(quiet_s=0.2, patience_s=5.0)
        await caller.hang_up()
        details = await shared.twilio.ended(caller.call_sid)
    return Recorded(caller, ear, details)


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def interruption(shared: World) -> Recorded:
    """A long greeting, the caller speaks into it after 0.7 s, and is answered."""
    caller, ear = phone(shared, "talker")
    async with caller:
        await eventually(lambda: ear.played_bytes >= 5600)
        caller.say(ulaw_tone(0.6, 1000))
        await eventually(lambda: bool(ear.clears), 3.0)
        turns = session_of(shared.gateway, caller.call_sid).record.turns
        await eventually(lambda: bool(turns[-1].heard) and turns[-1].cause == "speech")
        await caller.hang_up()
        details = await shared.twilio.ended(caller.call_sid)
    return Recorded(caller, ear, details)


# -- the webhook -------------------------------------------------------------------------------------------------------


async def test_the_webhook_answers_with_one_stream_over_wss(world: World) -> None:
    """Point 1: a valid signature gets 200, XML, and one `Connect/Stream` with a `wss` URL without a query."""
    answer = await world.twilio.request(WEBHOOK, world.twilio.form())
    assert answer.status == 200
    assert answer.content_type in ("text/xml", "application/xml")
    assert answer.twiml.tag == "Response"
    assert len(answer.twiml.findall("Connect")) == len(answer.twiml.findall(".//Stream")) == 1
    assert answer.stream_url.startswith("wss://")
    assert "?" not in answer.stream_url
    assert answer.parameters["token"]


async def test_the_stream_url_names_the_public_host_whoever_asks(world: World) -> None:
    """Point 2: the host is the configured one, not the peer's, nor that of an untrusted header."""
    lies = {"Host": "evil.example", "X-Forwarded-Host": "evil.example", "X-Forwarded-Proto": "http"}
    answer = await world.twilio.request(WEBHOOK, world.twilio.form(), headers=lies)
    assert answer.status == 200
    assert answer.stream_url == "wss://gw.example.com/twilio/media"
    stream = answer.twiml.find("Connect/Stream")
    assert stream is not None
    assert stream.get("statusCallback") == "https://gw.example.com/twilio/stream-status"
    assert "evil" not in answer.body


async def test_without_a_signature_nothing_is_made(http: aiohttp.ClientSession) -> None:
    """Point 3: 403, and neither a ticket nor a place is given away."""
    async with gateway(agent("silent"), max_sessions=1) as one:
        twilio = Carrier(http, one)
        for _ in range(3):
            answer = await twilio.request(WEBHOOK, twilio.form(), signature=None)
            assert answer.status == 403
            assert "token" not in answer.body
        assert (await twilio.request(WEBHOOK, twilio.form(), signature="")).status == 403
        assert metric(one, "auth_failures_total", surface="twilio_webhook") == 4
        assert len(one.sessions) == 0
        assert (await twilio.announce()).stream_url, "the only place is still free"


async def test_a_signature_of_another_token_or_another_form_is_refused(world: World) -> None:
    """Point 4: the wrong token gets 403, and so does one changed value."""
    form = world.twilio.form()
    assert (await world.twilio.request(WEBHOOK, form, signature=sign("54321", ORIGIN + WEBHOOK, form))).status == 403
    right = sign(TOKEN, ORIGIN + WEBHOOK, form)
    for at, (name, value) in enumerate(form):
        changed = [*form[:at], (name, value + "1"), *form[at + 1 :]]
        assert (await world.twilio.request(WEBHOOK, changed, signature=right)).status == 403
    assert (await world.twilio.request(WEBHOOK, form[1:], signature=right)).status == 403
    assert (await world.twilio.request(WEBHOOK + "?agent_id=talker", form, signature=right)).status == 403
    assert (await world.twilio.request(WEBHOOK, form, signature=right)).status == 200


async def test_a_second_signature_header_is_refused(world: World) -> None:
    """S3: missing, wrong or repeated."""
    form = world.twilio.form()
    right = sign(TOKEN, ORIGIN + WEBHOOK, form)
    twice = [("X-Twilio-Signature", right)]
    assert (await world.twilio.request(WEBHOOK, form, signature=right, headers=twice)).status == 403


async def test_the_request_names_the_algorithm_of_its_signature(world: World) -> None:
    """S3: SHA-256 where the settings name it, an unknown one is refused."""
    form = world.twilio.form()
    strong = sign(TOKEN, ORIGIN + WEBHOOK, form, "HMAC_SHA256")

    async def status(settings: str) -> int:
        headers = {"X-Twilio-Webhooks-Signature-Settings": settings}
        return (await world.twilio.request(WEBHOOK, form, signature=strong, headers=headers)).status

    assert await status("key=k,algorithm=HMAC_SHA256") == 200
    assert await status("key=k,algorithm=HMAC_SHA1") == 403
    assert await status("key=k,algorithm=HMAC_SHA512") == 403
    assert await status("key=k") == 403


async def test_parameters_that_nobody_knows_are_fine(world: World) -> None:
    """Point 5: extra parameters, correctly signed; their values count unaltered."""
    more = [("NewThing", "  spaces kept  "), ("Empty", ""), ("Ünicode", "名前 & <ø>"), ("A", "+%20=&;")]
    assert (await world.twilio.request(WEBHOOK, [*world.twilio.form(), *more])).status == 200


async def test_repeated_parameters_are_fine(world: World) -> None:
    """Point 6: values de-duplicated and sorted."""
    more = [("Digits", "9"), ("Digits", "1"), ("Digits", "9"), ("digits", "5")]
    form = [*world.twilio.form(), *more]
    expected = sign(TOKEN, ORIGIN + WEBHOOK, [*world.twilio.form(dict(form)["CallSid"]), *more[:2], more[3]])
    assert (await world.twilio.request(WEBHOOK, form, signature=expected)).status == 200


@pytest.mark.parametrize("origin", ["https://gw.example.com", "https://gw.example.com:443"])
async def test_a_signature_counts_with_and_without_the_port(world: World, origin: str) -> None:
    """Point 7: `https://host:443/` and `https://host/` are both accepted."""
    form = world.twilio.form()
    assert (await world.twilio.request(WEBHOOK, form, signature=sign(TOKEN, origin + WEBHOOK, form))).status == 200
    for other in ("https://gw.example.com:8443", "http://gw.example.com", "https://gw.example.org"):
        wrong = sign(TOKEN, other + WEBHOOK, form)
        assert (await world.twilio.request(WEBHOOK, form, signature=wrong)).status == 403


async def test_a_public_url_may_end_with_a_slash(http: aiohttp.ClientSession) -> None:
    """S3: the origin is the configured one, however it was written."""
    async with gateway(agent("silent"), origin=ORIGIN + "/") as one:
        assert (await Carrier(http, one).announce()).stream_url == "wss://gw.example.com/twilio/media"


async def test_without_a_token_only_loopback_is_admitted(http: aiohttp.ClientSession) -> None:
    """S3: said at start; a tunnel or a page on the same machine is not loopback."""
    async with gateway(agent("silent"), token=None, origin=None) as one:
        twilio = Carrier(http, one, token=None)
        answer = await twilio.announce()
        assert answer.stream_url == f"wss://127.0.0.1:{one.port}/twilio/media"
        for header in ({"Host": "abc.ngrok.app"}, {"X-Forwarded-For": "127.0.0.1"}, {"Origin": "https://evil.example"}):
            assert (await twilio.request(WEBHOOK, twilio.form(), headers=header)).status == 403
            with pytest.raises(aiohttp.WSServerHandshakeError) as caught:
                await http.ws_connect(twilio.base + MEDIA, headers=header)
            assert caught.value.status == 403
        async with twilio.call(echo=True) as call:
            await eventually(lambda: len(one.sessions) == 1)
            assert not call.closed.is_set()


async def test_a_trusted_proxy_tells_the_url_and_nobody_else_does(http: aiohttp.ClientSession) -> None:
    """Point 8: `X-Forwarded-*` from a trusted proxy rebuilds the URL; from an untrusted peer it is ignored."""
    told = {"X-Forwarded-Proto": "https", "X-Forwarded-Host": "edge.example.com", "X-Forwarded-For": "203.0.113.9"}
    async with gateway(agent("silent"), origin=None, proxies=("127.0.0.0/8",)) as one:
        twilio = Carrier(http, one, origin="https://edge.example.com")
        answer = await twilio.request(WEBHOOK, twilio.form(), headers=told)
        assert answer.status == 200
        assert answer.stream_url == "wss://edge.example.com/twilio/media"
        other = {**told, "X-Forwarded-Host": "other.example.com"}
        assert (await twilio.request(WEBHOOK, twilio.form(), headers=other)).status == 403
    async with gateway(agent("silent"), proxies=("127.0.0.0/8",)) as one:
        answer = await (twilio := Carrier(http, one)).request(WEBHOOK, twilio.form(), headers=told)
        assert answer.status == 200
        assert answer.stream_url == "wss://gw.example.com/twilio/media", "what is configured comes first"
    async with gateway(agent("silent"), origin=None, proxies=("10.0.0.0/8",)) as one:
        twilio = Carrier(http, one, origin="https://edge.example.com")
        assert (await twilio.request(WEBHOOK, twilio.form(), headers=told)).status == 403
        twilio.origin = twilio.base
        assert (await twilio.request(WEBHOOK, twilio.form())).status == 200, "loopback, asked directly"
        assert (await twilio.request(WEBHOOK, twilio.form(), headers=told)).status == 403


async def test_the_reference_vector_validates_on_the_wire(http: aiohttp.ClientSession) -> None:
    """Point 9: the vector of section 2.6, and each of its characters flipped."""
    form = [
        ("CallSid", "CA1234567890ABCDE"),
        ("Caller", "+14158675310"),
        ("Digits", "1234"),
        ("From", "+14158675310"),
        ("To", "+18005551212"),
    ]
    vector, path = "L/OH5YylLD5NRKLltdqwSvS0BnU=", "/myapp.php?foo=1&bar=2"
    async with gateway(agent("silent"), token="12345", origin=None, webhook_url="https://example.com/myapp.php") as one:
        twilio = Carrier(http, one)
        assert (await twilio.request(path, form, signature=vector)).status == 200
        for at in range(len(vector)):
            flipped = vector[:at] + ("A" if vector[at] != "A" else "B") + vector[at + 1 :]
            assert (await twilio.request(path, form, signature=flipped)).status == 403


async def test_markup_in_a_parameter_parses_back(world: World) -> None:
    """Point 10: `& < > "` come back escaped."""
    answer = await world.twilio.announce(MARKUP)
    assert answer.parameters["agent_id"] == MARKUP
    assert MARKUP not in answer.body


async def test_the_agent_is_told_what_the_webhook_tells(world: World) -> None:
    told: dict[str, Any] = {"CallerName": "Ann", "SipHeader_X-Order-No": "42", "StirVerstat": "TN-Validation-Passed-A"}
    async with world.twilio.call(Other="x", **told):
        await eventually(lambda: len(world.gateway.sessions) == 1)
        (record,) = world.gateway.sessions.active()
        session = world.gateway.sessions.live(record.session_id)
        assert session is not None
        known = session.machine.context.metadata
    assert {"caller_id", "called_id"} <= set(known)
    assert {name: value for name, value in known.items() if name not in ("caller_id", "called_id")} == {
        "caller_name": "Ann",
        "x_order_no": "42",
        "stir_verstat": "TN-Validation-Passed-A",
    }


async def test_parameters_stay_under_500_characters(world: World) -> None:
    """Point 11: what is too long is left out, and the call goes through all the same."""
    world.gateway.twilio.agents["+15550109999"] = "x" * 600
    async with world.twilio.call(To="+15550109999", CallerName="n" * 2000, ForwardedFrom="+1" * 500) as call:
        await eventually(lambda: len(world.gateway.sessions) == 1)
        assert (await world.twilio.details(call.call_sid))["agent_id"] == "x" * 600
    answer = await world.twilio.announce(To="+15550109999", CallerName="n" * 2000)
    assert "token" in answer.parameters
    assert all(len(name) + len(value) < 500 for name, value in answer.parameters.items())


async def test_at_capacity_the_caller_hears_busy(http: aiohttp.ClientSession) -> None:
    """Point 12, F19: valid TwiML that rejects, decided at the webhook; a repeated webhook is not one more call."""
    async with gateway(agent("silent"), max_sessions=1) as one:
        twilio = Carrier(http, one)
        first = await twilio.announce(call_sid="CA1")
        refused = await twilio.announce(call_sid="CA2")
        assert refused.content_type == "text/xml"
        assert [(verb.tag, verb.get("reason")) for verb in refused.twiml] == [("Reject", "busy")]
        assert metric(one, "calls_rejected_total", reason="capacity") == 1
        assert (await twilio.announce(call_sid="CA1")).parameters == first.parameters
        over = [*twilio.form("CA1"), ("CallStatus", "completed")]
        assert (await twilio.request(CALL_STATUS, over)).status == 204
        assert (await twilio.announce(call_sid="CA2")).stream_url, "the first caller gave up: there is a place"


async def test_the_webhook_does_not_wait_for_the_agent(world: World) -> None:
    """Point 13: answered within a second while the agents' backend is stalled."""
    async with world.twilio.call("stalled"), world.twilio.call("stalled"), world.twilio.call("stalled"):
        await eventually(lambda: len(world.gateway.sessions) == 3)
        for _ in range(5):
            began = time.monotonic()
            await world.twilio.announce("stalled")
            assert time.monotonic() - began < 1.0


async def test_a_repeated_webhook_gets_the_same_ticket_until_it_is_used(world: World) -> None:
    """S4: idempotent per call."""
    first = await world.twilio.announce(call_sid="CA" + "5" * 32)
    again = await world.twilio.announce(call_sid="CA" + "5" * 32)
    assert again.parameters == first.parameters
    async with world.twilio.stream("CA" + "5" * 32) as call:
        await call.start(first.parameters)
        await eventually(lambda: len(world.gateway.sessions) == 1)
        later = await world.twilio.announce(call_sid="CA" + "5" * 32)
        assert later.parameters["token"] != first.parameters["token"]


async def test_the_webhook_may_be_configured_as_get(world: World) -> None:
    """The parameters are in the URL then, and signed with it."""
    path = f"{WEBHOOK}?{urlencode([*world.twilio.form('CA' + '6' * 32), ('agent_id', 'talker')])}"
    answer = await world.twilio.request(path, method="GET")
    assert answer.status == 200
    assert answer.parameters["agent_id"] == "talker"
    assert (await world.twilio.request(path + "&x=1", method="GET", signature=sign(TOKEN, ORIGIN + path))).status == 403
    assert (await world.twilio.request(path, method="PUT")).status == 405
    async with world.twilio.stream("CA" + "6" * 32) as call:
        await call.start(answer.parameters)
        await eventually(lambda: len(world.gateway.sessions) == 1)


@pytest.mark.parametrize("call_sid", [None, "", "CA 1", "CA<1>", "CA\n1", "C" * 65, "CA/../1", "ÇA1"])
async def test_a_call_sid_out_of_form_is_a_bad_request(world: World, call_sid: str | None) -> None:
    """Input limits: ids of carriers have a form of their own."""
    rest = world.twilio.form()[1:]
    form = rest if call_sid is None else [("CallSid", call_sid), *rest]
    answer = await world.twilio.request(WEBHOOK, form)
    assert answer.status == 400
    assert call_sid is None or len(call_sid) < 10 or call_sid not in answer.body


@pytest.mark.parametrize("encoding", ["gzip", "deflate", "br", "zstd", "gzip, identity"])
async def test_a_compressed_body_is_refused_and_not_unpacked(
    world: World, encoding: str, caplog: pytest.LogCaptureFixture
) -> None:
    """Input limits: no content encodings, 415; S18: no stack trace either, if the body is not even what it says."""
    body = "CallSid=CA1"
    head = f"POST {WEBHOOK} HTTP/1.1\nHost: gw\nContent-Encoding: {encoding}\nContent-Length: {len(body)}"
    assert await _raw(world.gateway.port, head, body) == 415
    assert [record.getMessage() for record in caplog.records if record.name == "aiohttp.server"] == []


async def test_a_body_beyond_a_mebibyte_is_refused(world: World) -> None:
    """Input limits: 413, before anything is verified."""
    answer = await world.twilio.request(WEBHOOK, data=b"CallSid=CA1&x=" + b"y" * (1 << 20), signature=None)
    assert answer.status == 413
    assert (await world.twilio.request(WEBHOOK, [("x", "y" * 100_000), *world.twilio.form()])).status == 200


async def test_a_form_with_too_many_fields_is_refused(world: World) -> None:
    """No webhook has more than a few dozen."""
    form = [*world.twilio.form(), *((f"f{at}", "") for at in range(600))]
    assert (await world.twilio.request(WEBHOOK, form)).status in (400, 403)


@pytest.mark.parametrize("body", [b"\xff\xfe=\xff", b"%", b"%zz=%", b"&&&&", b"=", b"\x00" * 50, b"CallSid"])
async def test_a_body_that_is_no_form_is_refused(world: World, body: bytes) -> None:
    """S8: never a 5xx."""
    assert (await world.twilio.request(WEBHOOK, data=body, signature="x")).status == 403
    signed = await world.twilio.request(WEBHOOK, data=body)
    assert signed.status in (400, 403)


async def _raw(port: int, head: str, body: str = "") -> int:
    """Send a request to the letter, on a connection of its own; return the status of its answer."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        async with asyncio.timeout(5.0):
            writer.write(f"{head}\nConnection: close\n\n".replace("\n", "\r\n").encode() + body.encode())
            line = await reader.readline()
            await reader.read()
        return int(line.split()[1])
    finally:
        writer.close()
        await writer.wait_closed()


@pytest.mark.parametrize("token", [None, TOKEN])
@pytest.mark.parametrize("host", ["[::1", "[", "localhost:99999", "localhost:x", "gw.example.com:99999", "a b", ""])
async def test_a_host_header_that_cannot_be_read_is_no_server_error(
    http: aiohttp.ClientSession, host: str, token: str | None
) -> None:
    """S8, S18: never a 5xx, never a stack trace."""
    async with gateway(agent("silent"), token=token, origin=None) as one:
        body = "CallSid=CA1"
        head = f"HTTP/1.1\nHost: {host}\nX-Twilio-Signature: x"
        assert await _raw(one.port, f"POST {WEBHOOK} {head}\nContent-Length: {len(body)}", body) < 500
        assert await _raw(one.port, f"GET {MEDIA} {head}\nSec-WebSocket-Version: 13") < 500
        assert await _raw(one.port, f"GET /sessions {head}") < 500


# -- handshake and start -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("url", "status"),
    [
        ("wss://gw.example.com/twilio/media", 101),
        ("wss://gw.example.com/twilio/media/", 101),
        ("wss://gw.example.com:443/twilio/media", 101),
        ("https://gw.example.com/twilio/media", 403),
        ("ws://gw.example.com/twilio/media", 403),
        ("wss://evil.example/twilio/media", 403),
        ("wss://gw.example.com/twilio/other", 403),
    ],
)
async def test_a_handshake_is_signed_over_the_wss_url(world: World, url: str, status: int) -> None:
    """Point 14: 101 for the `wss` form, with a trailing slash too; the `https` form is rejected."""
    if status == 101:
        socket = await world.twilio.handshake(signature=sign(TOKEN, url))
        await socket.close()
    else:
        with pytest.raises(aiohttp.WSServerHandshakeError) as caught:
            await world.twilio.handshake(signature=sign(TOKEN, url))
        assert caught.value.status == status


@pytest.mark.parametrize("signature", [None, "", "x", "L/OH5YylLD5NRKLltdqwSvS0BnU="])
async def test_a_handshake_without_the_right_signature_is_403(world: World, signature: str | None) -> None:
    """Point 15: 403, not 101."""
    before = metric(world.gateway, "auth_failures_total", surface="twilio_stream")
    with pytest.raises(aiohttp.WSServerHandshakeError) as caught:
        await world.twilio.handshake(signature=signature)
    assert caught.value.status == 403
    assert metric(world.gateway, "auth_failures_total", surface="twilio_stream") == before + 1


async def test_a_plain_get_of_the_media_path_is_no_server_error(world: World) -> None:
    """A signed request that is no upgrade is told so."""
    signature = sign(TOKEN, "wss://gw.example.com" + MEDIA)
    assert (await world.twilio.request(MEDIA, method="GET", signature=signature)).status == 426


async def test_a_stream_with_its_ticket_becomes_a_session(world: World) -> None:
    """Point 16: the status API shows CallSid and StreamSid."""
    async with world.twilio.call("silent") as call:
        await eventually(lambda: len(world.gateway.sessions) == 1)
        async with world.twilio.http.get(world.twilio.base + "/sessions") as answer:
            listed = await answer.json()
        assert listed["total_count"] == 1
        (one,) = listed["active_sessions"]
        assert (one["call_id"], one["stream_id"]) == (call.call_sid, call.stream_sid)
        assert one["agent_id"] == "silent"
        assert metric(world.gateway, "active_sessions") == 1


@pytest.mark.parametrize("kind", ["missing", "empty", "wrong", "of another call", "expired", "used"])
async def test_a_stream_without_a_valid_ticket_is_closed(
    world: World, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Point 17: closed with 1008, no agent, no audio."""
    if kind == "expired":
        monkeypatch.setattr(tickets, "LIFETIME_S", 0.05)
    answer = await world.twilio.announce("talker", call_sid := "CA" + kind.replace(" ", "") * 2)
    given = dict(answer.parameters)
    if kind == "missing":
        del given["token"]
    elif kind == "empty":
        given["token"] = ""
    elif kind == "wrong":
        given["token"] = given["token"][::-1]
    elif kind == "of another call":
        given = (await world.twilio.announce("talker")).parameters
    elif kind == "expired":
        await asyncio.sleep(0.1)
    elif kind == "used":
        async with world.twilio.stream(call_sid) as first:
            await first.start(given)
            await first.until(lambda: bool(first.received))
        await eventually(lambda: not len(world.gateway.sessions))
    before = len(await world.twilio.sessions(call_sid))
    async with world.twilio.stream(call_sid) as call:
        await call.start(given)
        assert await call.close_code() == 1008
        assert not call.received
        assert not call.not_text
    assert len(await world.twilio.sessions(call_sid)) == before
    assert metric(world.gateway, "auth_failures_total", surface="twilio_ticket") >= 1


@pytest.mark.parametrize("opened", [False, True])
@pytest.mark.parametrize("event", ["media", "mark", "dtmf", "stop"])
async def test_what_comes_before_start_ends_the_socket_and_nothing_is_sent(
    world: World, event: str, opened: bool
) -> None:
    """Point 18: never a crash, and nothing is sent without a StreamSid."""
    async with world.twilio.stream() as call:
        connected, _ = call.twilio.opening({})
        early = {
            "media": call.twilio.media(SILENCE),
            "mark": call.twilio._mark("1:160"),
            "dtmf": call.twilio.dtmf("1"),
            "stop": call.twilio.stop(),
        }[event]
        await call.send(*([connected] if opened else []), early)
        assert await call.close_code() == 1008
        assert not call.received


async def test_a_socket_that_does_not_start_is_closed_in_time(world: World) -> None:
    """Point 19, S4: silent, only `connected`, or only noise: closed with 1008 after 3 s."""
    before = world.errors("no_start")

    async def silent(*messages: str | bytes) -> None:
        began = time.monotonic()
        async with world.twilio.stream() as call:
            await call.send(*messages)
            assert await call.close_code(timeout_s=6.0) == 1008
            assert 2.5 < time.monotonic() - began < 4.5
            assert not call.received

    connected = '{"event":"connected","protocol":"Call","version":"1.0.0"}'
    await asyncio.gather(silent(), silent(connected), silent('{"event":"hello"}', b"\x00\x01"))
    assert world.errors("no_start") == before + 3


@pytest.mark.parametrize(
    "form",
    [
        {"encoding": "audio/L16", "sampleRate": 16000, "channels": 1},
        {"encoding": "audio/x-mulaw", "sampleRate": 16000, "channels": 1},
        {"encoding": "audio/x-mulaw", "sampleRate": 8000, "channels": 2},
        {"encoding": "audio/x-alaw", "sampleRate": 8000, "channels": 1},
        {},
    ],
)
async def test_a_stream_in_another_format_is_refused(world: World, form: dict[str, Any]) -> None:
    """Point 20: no session, so nothing is ever decoded as mu-law; counted."""
    before = world.errors("media_format")
    answer = await world.twilio.announce("talker", call_sid := "CA" + secrets.token_hex(16))
    async with world.twilio.stream(call_sid) as call:
        connected, text = call.twilio.opening(answer.parameters)
        start = json.loads(text)
        start["start"]["mediaFormat"] = form
        await call.send(connected, start)
        assert await call.close_code() == 1008
        assert not call.received
        assert not await world.twilio.sessions(call.call_sid)
    assert world.errors("media_format") == before + 1


async def test_a_second_start_makes_no_second_session(world: World) -> None:
    """Point 21: ignored, even with a ticket of its own; the stream stays the first one."""
    before = world.errors("second_start")
    async with world.twilio.call("keypad") as call:
        other = StreamEmulator(call_sid="CA" + "7" * 32, stream_sid="MZ" + "7" * 32)
        answer = await world.twilio.announce("talker", other.call_sid)
        await call.send(other.opening(answer.parameters)[1])
        await call.press("4")
        await world.pressed("4")
        assert len(world.gateway.sessions) == 1
        assert not await world.twilio.sessions(other.call_sid)
        assert not call.received
    await eventually(lambda: world.errors("second_start") == before + 1)


# -- media in ----------------------------------------------------------------------------------------------------------


async def test_frames_of_any_length_are_decoded_to_the_sample(world: World) -> None:
    """Point 22: 160, 80, 320 and 1000 bytes; the duration is exact."""
    async with world.twilio.call("keypad") as call:
        await eventually(lambda: len(world.gateway.sessions) == 1)
        session = session_of(world.gateway, call.call_sid)
        for size, count in ((160, 7), (80, 16), (320, 8), (1000, 4)):
            await call.media(b"\xff" * size * count, size=size)
        await call.press("1")
        await world.pressed("1")
        stats = session.inbound.stats
        assert (stats.packets, stats.samples) == (35, 7 * 160 + 16 * 80 + 8 * 320 + 4 * 1000)
        assert (stats.concealed_samples, stats.duplicate_samples, stats.ahead_samples) == (0, 0, 0)


async def test_the_first_frames_are_part_of_the_call_even_if_they_come_together_with_start(world: World) -> None:
    """Point 22: what is read in one go with `start` is decoded, too."""
    answer = await world.twilio.announce("keypad", call_sid := "CA" + "9" * 32)
    async with world.twilio.stream(call_sid) as call:
        opening = call.twilio.opening(answer.parameters)
        media = [call.twilio.media(SILENCE) for _ in range(10)]
        await call.send(*opening, *media, call.twilio.dtmf("1"))
        await world.pressed("1")
        assert session_of(world.gateway, call.call_sid).inbound.stats.samples == 1600


async def test_media_that_cannot_be_read_is_dropped_and_counted(world: World) -> None:
    """Point 23: invalid Base64, an empty payload, no `media`; the session lives."""
    malformed, size = world.errors("malformed"), world.errors("payload_size")
    async with world.twilio.call("keypad") as call:
        await eventually(lambda: len(world.gateway.sessions) == 1)
        bad: list[Any] = [{"payload": "not base64!"}, {"payload": "//8"}, {"payload": 5}, {}, None, "//8="]
        for media in bad:
            await call.send({"event": "media", "streamSid": call.stream_sid, "media": media})
        await call.send({"event": "media", "streamSid": call.stream_sid})
        await call.send({"event": "media", "streamSid": call.stream_sid, "media": {"payload": ""}})
        long = base64.b64encode(bytes(80_001)).decode()
        await call.send({"event": "media", "streamSid": call.stream_sid, "media": {"payload": long}})
        await call.press("1")
        await world.pressed("1")
        assert session_of(world.gateway, call.call_sid).inbound.stats.packets == 0
    await eventually(lambda: world.errors("malformed") == malformed + 7)
    assert world.errors("payload_size") == size + 2


async def test_the_outbound_track_is_never_listened_to(world: World) -> None:
    """Point 24: neither the detector nor the recogniser gets it."""
    pushed, foreign = world.stt.pushed_bytes, world.errors("foreign_track")
    async with world.twilio.call("keypad") as call:
        await eventually(lambda: len(world.gateway.sessions) == 1)
        speech = ulaw_tone(1.0, 800)
        for at in range(0, len(speech), 160):
            message = json.loads(call.twilio.media(speech[at : at + 160]))
            message["media"]["track"] = "outbound"
            await call.send(message)
        await call.press("1")
        await world.pressed("1")
        assert session_of(world.gateway, call.call_sid).inbound.stats.samples == 0
        assert world.stt.pushed_bytes == pushed
    await eventually(lambda: world.errors("foreign_track") == foreign + 50)


async def test_gaps_are_filled_so_that_the_media_clock_is_right(world: World) -> None:
    """Point 25: lost frames become concealment; what comes twice counts once."""
    async with world.twilio.call("keypad") as call:
        await eventually(lambda: len(world.gateway.sessions) == 1)
        frames = [call.twilio.media(SILENCE) for _ in range(40)]
        lost = {5, 11, 12, 13, 30}
        await call.send(*(one for at, one in enumerate(frames) if at not in lost), frames[39])
        await call.press("1")
        await world.pressed("1")
        stats = session_of(world.gateway, call.call_sid).inbound.stats
        assert stats.samples == 40 * 160, "20 ms behind the last timestamp"
        assert stats.concealed_samples == len(lost) * 160
        assert stats.duplicate_samples == 160


async def test_a_media_clock_that_runs_ahead_is_bounded(world: World) -> None:
    """Input limits: audio ahead of real time is 3 s per call, also where timestamps claim it."""
    async with world.twilio.call("keypad") as call:
        await eventually(lambda: len(world.gateway.sessions) == 1)
        for at in range(40):
            message = json.loads(call.twilio.media(SILENCE))
            message["media"]["timestamp"] = str(at * 2900)
            await call.send(message)
        await call.press("1")
        await world.pressed("1")
        stats = session_of(world.gateway, call.call_sid).inbound.stats
        assert stats.samples / 8000 < 8.0, "3 s ahead, a gap, and the time that this test takes"


async def test_unknown_and_unreadable_messages_are_ignored(world: World) -> None:
    """Point 26: an unknown event, text that is no JSON, a binary frame: counted, and the call goes on."""
    before = {kind: world.errors(kind) for kind in ("unknown_event", "malformed", "binary")}
    async with world.twilio.call("keypad") as call:
        await call.send({"event": "weather"}, {}, "[1,2]", "not json", "", "\U0001f600", "[" * 1000, b"", b"\x00\xff")
        await call.press("1")
        await world.pressed("1")
        assert not call.closed.is_set()
    await eventually(lambda: world.errors("binary") == before["binary"] + 2)
    dropped = world.errors("unknown_event") - before["unknown_event"] + world.errors("malformed") - before["malformed"]
    assert dropped == 7


async def test_numbers_may_come_as_numbers(world: World) -> None:
    """Point 27: numeric fields as numbers in place of strings."""
    answer = await world.twilio.announce("keypad", call_sid := "CA" + "8" * 32)
    async with world.twilio.stream(call_sid) as call:
        connected, text = call.twilio.opening(answer.parameters)
        start = json.loads(text)
        start["sequenceNumber"] = 1
        start["start"]["mediaFormat"].update(sampleRate="8000", channels="1")
        await call.send(connected, start)
        await eventually(lambda: len(world.gateway.sessions) == 1)
        for at in (0, 1, 4):
            message = json.loads(call.twilio.media(SILENCE))
            message["sequenceNumber"] = at + 2
            message["media"].update(chunk=at + 1, timestamp=at * 20)
            await call.send(message)
        await call.press("1")
        await world.pressed("1")
        stats = session_of(world.gateway, call.call_sid).inbound.stats
        assert (stats.packets, stats.samples, stats.concealed_samples) == (3, 800, 320)


async def test_keys_reach_the_agent_in_order_one_event_each(world: World) -> None:
    """Point 28: `1 2 # *`, in the session of their call."""
    async with world.twilio.call("keypad") as call, world.twilio.call("silent") as other:
        await eventually(lambda: len(world.gateway.sessions) == 2)
        for count, digit in enumerate("12#*", 1):
            await call.press(digit)
            await eventually(lambda count=count: len(world.keys) == count)  # type: ignore[misc]
        await world.pressed("1", "2", "#", "*")
        causes = [turn["cause"] for turn in (await world.twilio.details(call.call_sid))["turns"]]
        assert causes == ["opening"] + ["dtmf"] * 4
        assert [turn["cause"] for turn in (await world.twilio.details(other.call_sid))["turns"]] == ["opening"]


async def test_keys_pressed_in_a_burst_are_not_lost(world: World) -> None:
    """Point 28: in order, one event each, also when the messages arrive together."""
    async with world.twilio.call("keypad") as call:
        await eventually(lambda: len(world.gateway.sessions) == 1)
        await call.press("12#*")
        await world.pressed("1", "2", "#", "*")


async def test_a_message_beyond_a_mebibyte_closes_with_1009(world: World) -> None:
    """Input limits, S10."""
    async with world.twilio.call("keypad") as call:
        await eventually(lambda: len(world.gateway.sessions) == 1)
        await call.send('{"event":"weather","x":"' + "y" * 900_000 + '"}')
        await call.press("1")
        await world.pressed("1")
        await call.send("y" * ((1 << 20) + 1))
        assert await call.close_code() == 1009
        assert (await world.twilio.ended(call.call_sid))["end_reason"] == "protocol_error"


def _frame(first: int, payload: bytes) -> bytes:
    """A masked frame (with a mask of zeros) whose first byte is given."""
    return bytes((first, 0x80 | len(payload))) + bytes(4) + payload


@pytest.mark.parametrize(
    ("frames", "code"),
    [
        (_frame(0x81, b"\xff\xfe"), 1007),
        (_frame(0x83, b"reserved opcode"), 1002),
        (_frame(0xC1, b"compressed, which was never agreed"), 1002),
        (_frame(0x09, b"a ping in pieces"), 1002),
        (_frame(0x80, b"the rest of nothing"), 1002),
    ],
)
async def test_a_violation_of_the_websocket_protocol_closes_with_its_code(
    world: World, frames: bytes, code: int
) -> None:
    """S10: the code that RFC 6455 asks for; the session ends with it."""
    async with world.twilio.call("keypad") as call:
        await eventually(lambda: len(world.gateway.sessions) == 1)
        call.write(frames)
        assert await call.close_code() == code
        assert (await world.twilio.ended(call.call_sid))["end_reason"] == "protocol_error"


async def test_voice_sockets_are_not_compressed(world: World) -> None:
    """Input limits: a small message must not become a large one."""
    url = "wss://gw.example.com" + MEDIA
    headers = {"X-Twilio-Signature": sign(TOKEN, url)}
    socket = await world.twilio.http.ws_connect(world.twilio.base + MEDIA, headers=headers, compress=15)
    assert not socket.compress
    await socket.close()


# -- media out ---------------------------------------------------------------------------------------------------------


async def test_we_send_three_kinds_of_messages_and_no_other_fields(conversation: Recorded) -> None:
    """Point 29, S9: JSON text with `event` in media, mark, clear, the right streamSid, and nothing else."""
    ear = conversation.ear
    assert not ear.violations
    fields = {"media": ({"payload"}, "media"), "mark": ({"name"}, "mark"), "clear": (None, None)}
    for message in ear.received():
        inner, key = fields[message["event"]]
        assert set(message) == {"event", "streamSid"} | ({key} if key else set())
        assert message["streamSid"] == ear.stream_sid
        assert key is None or set(message[key]) == inner
    assert {message["event"] for message in ear.received()} == {"media", "mark"}


async def test_payloads_are_whole_frames_of_raw_mu_law(conversation: Recorded) -> None:
    """Point 30: no RIFF header, multiples of 160 bytes; and it is the tone that was said."""
    payloads = [b64decode(one["media"]["payload"], validate=True) for one in conversation.ear.received("media")]
    assert payloads
    assert all(payload and len(payload) % 160 == 0 for payload in payloads)
    assert not any(payload.startswith(b"RIFF") for payload in payloads)
    assert [pitch(payload) for payload in payloads] == [600] * 3 + [1200] * 2


async def test_no_audio_is_lost_or_made_up(conversation: Recorded) -> None:
    """Point 31: as long as the synthesis, with at most 20 ms of padding for each utterance."""
    said = 4800 + 3200
    assert said <= conversation.ear.received_bytes <= said + 2 * 160
    assert [turn["heard"] for turn in conversation.details["turns"]] == [GREETING, "1200 la la la"]


async def test_a_mark_follows_the_last_media_of_each_utterance(conversation: Recorded) -> None:
    """Point 32: and names are unique within the stream."""
    messages = conversation.ear.received()
    names = [one["mark"]["name"] for one in messages if one["event"] == "mark"]
    assert len(set(names)) == len(names)
    pitches = [pitch(b64decode(one["media"]["payload"])) if one["event"] == "media" else None for one in messages]
    ends = [at for at, (now, then) in enumerate(pairwise([*pitches, None])) if now is not None and then is None]
    last = {pitches[at]: at for at in ends}
    assert set(last) == {600, 1200}
    assert all(messages[at + 1]["event"] == "mark" for at in last.values())


async def test_an_utterance_is_finished_when_its_mark_comes_back(world: World) -> None:
    """Point 33: the agent hangs up when Twilio has played its goodbye, not when we have sent it."""
    async with world.twilio.call("farewell") as call:
        world.rest.streams[call.call_sid] = call
        await call.until(lambda: len(call.marks) == 2)
        assert len(call.audio) == 2400
        with pytest.raises(TimeoutError):
            await call.until(call.closed.is_set, 0.8)
        assert not world.rest.of(call.call_sid), "sent long ago, but not played yet"
        await call.echo_mark(call.marks[0])
        with pytest.raises(TimeoutError):
            await call.until(call.closed.is_set, 0.2)
        assert not world.rest.of(call.call_sid), "the first of two"
        await call.echo_mark(call.marks[1])
        await eventually(lambda: len(world.rest.of(call.call_sid)) == 1, 2.0)
        assert (await world.twilio.ended(call.call_sid))["end_reason"] == "completed"


async def test_a_barge_in_clears_at_once_and_nothing_of_the_old_answer_follows(interruption: Recorded) -> None:
    """Point 34, F25: `clear` within the latency (240 ms; here 500 for a busy machine), then only the new answer."""
    log = interruption.ear.log
    clear = next(at for at, (_, kind, what) in enumerate(log) if kind == "received" and what["event"] == "clear")
    spoke = next(moment for moment, kind, _ in log if kind == "speech")
    assert 0 < log[clear][0] - spoke < 0.5
    before, after = (
        [pitch(b64decode(what["media"]["payload"])) for _, kind, what in part if kind == "received" and "media" in what]
        for part in (log[:clear], log[clear:])
    )
    assert set(before) == {440}
    assert set(after) == {1000}
    assert interruption.ear.clears == 1
    assert not interruption.ear.violations


async def test_what_a_clear_sets_free_was_not_heard(interruption: Recorded) -> None:
    """Point 35: the old answer is not finished, and at most one interval beyond its last real mark was heard."""
    log = interruption.ear.log
    clear = next(at for at, (_, kind, what) in enumerate(log) if kind == "received" and what["event"] == "clear")
    reached = [what for _, kind, what in log[:clear] if kind == "reached"]
    position = int(reached[-1].partition(":")[2])
    opening, answer = interruption.details["turns"]
    assert opening["interrupted"] is True
    assert opening["agent"] == LONG
    words = len(opening["heard"].split())
    assert LONG.startswith(opening["heard"])
    assert 0 < words <= (position + 1600) // 800 + 1, "words of 100 ms, the one under way rounded"
    assert answer["interrupted"] is False
    assert answer["heard"] == "1000 la la la"


async def test_without_marks_at_most_one_interval_counts_as_heard(world: World) -> None:
    """Point 35: what was sent is not what was heard; the echoes that a clear sets free prove nothing."""
    async with world.twilio.call("talker") as call:
        await call.until(lambda: len(call.marks) == 2)
        await call.echo_mark("1:1600")
        due = time.perf_counter()
        speech = ulaw_tone(0.6, 1000)
        for frame in [SILENCE] * 40 + [speech[at : at + 160] for at in range(0, len(speech), 160)]:
            await call.media(frame)
            due += 0.02
            await asyncio.sleep(max(0.0, due - time.perf_counter()))
        await call.until(lambda: "clear" in call.events)
        assert len(call.audio) > 6400
        for name in call.marks[1:]:
            await call.echo_mark(name)
        await call.stop()
        (opening, *_) = (await world.twilio.ended(call.call_sid))["turns"]
        assert opening["interrupted"] is True
        assert LONG.startswith(opening["heard"])
        assert 2 <= len(opening["heard"].split()) <= 5, "a mark at 200 ms, and at most 200 ms more"


async def test_the_lead_stays_within_its_bound(conversation: Recorded, interruption: Recorded) -> None:
    """Point 36: audio sent less audio played is never more than the setting (400 ms)."""
    for call in (conversation, interruption):
        late_ms = call.phone.timings.max_late * 1000  # of this phone itself
        assert call.ear.max_buffered / 8 <= 400 + 20 + late_ms


# -- the end -----------------------------------------------------------------------------------------------------------


async def test_a_stop_ends_the_session_once(world: World) -> None:
    """Point 37: sending stops at once; the close and the callbacks that follow are no second end."""
    before = world.ended()
    async with world.twilio.call("talker") as call:
        await call.until(lambda: "media" in call.events)
        count = len(call.received)
        await call.send(call.twilio.stop())
        assert (await world.twilio.ended(call.call_sid))["end_reason"] == "caller_hung_up"
        await call.close_code()
        assert len(call.received) == count
        for path, more in (
            (STREAM_STATUS, {"StreamEvent": "stream-stopped", "StreamSid": call.stream_sid}),
            (STREAM_STATUS, {"StreamEvent": "stream-error", "StreamError": "late"}),
            (CALL_STATUS, {"CallStatus": "completed", "CallDuration": "3"}),
        ):
            form = [one for one in world.twilio.form(call.call_sid) if one[0] not in more]
            assert (await world.twilio.request(path, [*form, *more.items()])).status in (200, 204)
    assert len(await world.twilio.sessions(call.call_sid)) == 1
    assert (await world.twilio.details(call.call_sid))["end_reason"] == "caller_hung_up"
    assert world.ended() == before + 1
    assert not world.rest.of(call.call_sid), "a call that is over is not hung up"


@pytest.mark.parametrize("how", ["abort", "close"])
async def test_a_socket_that_drops_ends_the_session(http: aiohttp.ClientSession, how: str) -> None:
    """Point 38: without `stop`; the place, the tasks and the session are released."""
    async with gateway(agent("talker", Speaks(LONG)), max_sessions=1) as one:
        twilio = Carrier(http, one)
        async with twilio.call("talker") as call:
            await call.until(lambda: "media" in call.events)
            if how == "abort":
                call.drop()
            else:
                await call.socket.close()
            assert (await twilio.ended(call.call_sid, 3.0))["end_reason"] == "connection_lost"
        await eventually(lambda: metric(one, "active_sessions") == 0)
        await eventually(lambda: "twilio-writer" not in [task.get_name() for task in asyncio.all_tasks()])
        async with twilio.call("talker") as again:
            await again.until(lambda: "media" in again.events)


@pytest.mark.parametrize(
    ("status", "body"),
    [(200, {"sid": "CA0", "status": "completed"}), (404, {"code": 20404, "message": "not found", "status": 404})],
)
async def test_an_agent_that_ends_the_call_completes_it_by_rest(world: World, status: int, body: object) -> None:
    """Point 39: `Status=completed` with Basic auth; 404/20404 is success."""
    refused = world.errors("rest")
    world.rest.answers(status, body)
    async with world.twilio.call("farewell", echo=True) as call:
        world.rest.streams[call.call_sid] = call
        details = await world.twilio.ended(call.call_sid)
        assert details["end_reason"] == "completed"
        assert details["turns"][0]["heard"] == "440 la la"
    world.rest.answers(200, {"sid": "CA0", "status": "completed"})
    (request,) = world.rest.of(call.call_sid)
    assert (request.method, request.path) == (
        "POST",
        f"/2010-04-01/Accounts/{ACCOUNT}/Calls/{call.call_sid}.json",
    )
    assert request.authorization == "Basic " + base64.b64encode(f"{ACCOUNT}:{TOKEN}".encode()).decode()
    assert request.body == "Status=completed"
    assert world.errors("rest") == refused


async def test_a_hang_up_that_rest_refuses_closes_the_stream_instead(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """F19's sibling: the TwiML behind the stream hangs up then; counted."""
    monkeypatch.setattr("fastagent.connectors.twilio.leg._CONFIRM_S", 0.2)
    refused = world.errors("rest")
    world.rest.answers(500, {"code": 20500, "message": "oops", "status": 500})
    async with world.twilio.call("farewell", echo=True) as call:
        assert await call.close_code() == 1000
    world.rest.answers(200, {"sid": "CA0", "status": "completed"})
    assert (await world.twilio.ended(call.call_sid))["end_reason"] == "completed"
    assert world.errors("rest") == refused + 1


async def test_a_hang_up_that_rest_answers_with_nonsense_closes_the_stream(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """F23: the caller must not stay in a call that nobody serves any more."""
    monkeypatch.setattr("fastagent.connectors.twilio.leg._CONFIRM_S", 0.2)
    world.rest.answers(200, "<html>proxy</html>", "text/html")
    try:
        async with world.twilio.call("farewell", echo=True) as call:
            assert await call.close_code(3.0) is not None
    finally:
        world.rest.answers(200, {"sid": "CA0", "status": "completed"})


async def test_a_transfer_gives_the_call_twiml_that_dials(world: World) -> None:
    """Point 40: `Twiml` with `<Dial>`, at most 4000 characters; no further media, and no hang-up by us."""
    async with world.twilio.call("putting_through", echo=True) as call:
        world.rest.streams[call.call_sid] = call
        details = await world.twilio.ended(call.call_sid)
        assert details["end_reason"] == "transferred"
        assert details["turns"][0]["heard"] == "440 la la"
        sent = len(call.events)
        await asyncio.sleep(0.3)
        assert len(call.events) == sent
    (request,) = world.rest.of(call.call_sid)
    ((name, value),) = parse_qsl(request.body)
    assert name == "Twiml"
    assert len(value) <= 4000
    dial, hangup = ElementTree.fromstring(value)
    assert (dial.tag, dial.attrib["callerId"], hangup.tag) == ("Dial", dict(world.twilio.form())["To"], "Hangup")
    assert [(verb.tag, verb.text) for verb in dial] == [("Number", HUMAN)]


async def test_a_transfer_that_twilio_refuses_is_heard_and_the_call_is_ended(world: World) -> None:
    """S15's sibling: the caller is not left in silence."""
    refused = metric(world.gateway, "transfers_total", result="failed")
    world.rest.answers(400, {"code": 21220, "message": "not in-progress", "status": 400})
    try:
        async with world.twilio.call("putting_through", echo=True) as call:
            details = await world.twilio.ended(call.call_sid, 10.0)
    finally:
        world.rest.answers(200, {"sid": "CA0", "status": "completed"})
    assert details["end_reason"] == "agent_failed"
    assert "put you through" in details["turns"][-1]["heard"]
    assert metric(world.gateway, "transfers_total", result="failed") == refused + 1


async def test_without_rest_credentials_the_stream_is_closed(http: aiohttp.ClientSession) -> None:
    """Section 3.4: 1000, and `<Hangup/>` follows."""
    async with gateway(agent("farewell", Speaks("440 la la", terminal=True))) as one:
        async with Carrier(http, one).call(echo=True) as call:
            assert await call.close_code() == 1000
            assert len(call.audio) == 2400
        assert (await Carrier(http, one).ended(call.call_sid))["end_reason"] == "completed"


async def test_a_stream_error_is_logged_counted_and_ends_the_session(
    world: World, caplog: pytest.LogCaptureFixture
) -> None:
    """Point 41: with its text, and 204."""
    before = world.errors("stream_error")
    async with world.twilio.call("talker") as call:
        await call.until(lambda: "media" in call.events)
        form = [*world.twilio.form(call.call_sid), ("StreamSid", call.stream_sid), ("StreamEvent", "stream-error")]
        with caplog.at_level(logging.WARNING):
            answer = await world.twilio.request(STREAM_STATUS, [*form, ("StreamError", "31921 broken pipe")])
        assert answer.status in (200, 204)
        assert answer.body == ""
        assert (await world.twilio.ended(call.call_sid))["end_reason"] == "provider_error"
        assert await call.close_code() is not None
    logged = [record for record in caplog.records if record.getMessage() == "stream error"]
    assert [vars(record)["error"] for record in logged] == ["31921 broken pipe"]
    assert world.errors("stream_error") == before + 1


@pytest.mark.parametrize("path", [STREAM_STATUS, CALL_STATUS])
@pytest.mark.parametrize("signature", [None, "wrong"])
async def test_an_unsigned_callback_changes_nothing(world: World, path: str, signature: str | None) -> None:
    """Point 42: 403, and the call goes on."""
    errors = world.errors("stream_error")
    async with world.twilio.call("keypad") as call:
        await eventually(lambda: len(world.gateway.sessions) == 1)
        form = [("CallSid", call.call_sid), ("StreamEvent", "stream-error"), ("CallStatus", "completed")]
        assert (await world.twilio.request(path, form, signature=signature)).status == 403
        forged = sign(TOKEN, ORIGIN + path, [*form[:-1], ("CallStatus", "ringing")])
        assert (await world.twilio.request(path, form, signature=forged)).status == 403
        await call.press("1")
        await world.pressed("1")
        assert (await world.twilio.details(call.call_sid))["end_reason"] is None
    assert world.errors("stream_error") == errors


async def test_a_callback_about_an_unknown_call_is_fine(world: World) -> None:
    """It may arrive before, after or without the stream."""
    for path in (STREAM_STATUS, CALL_STATUS):
        form = [("CallSid", "CA404"), ("StreamEvent", "stream-error"), ("CallStatus", "completed")]
        assert (await world.twilio.request(path, form)).status == 204
        assert (await world.twilio.request(path, [("X", "y")])).status == 204


# -- many calls --------------------------------------------------------------------------------------------------------


async def test_fifty_streams_at_once_hear_their_own_answer_and_no_other(world: World) -> None:
    """Point 43: 50 messages a second each; every caller speaks at a pitch of its own, and is answered at it."""
    count = 50
    pitches = [400 + 40 * at for at in range(count)]
    answers = [await world.twilio.announce("echo", f"CA43{at:030}") for at in range(count)]
    streams = []
    frames = []
    for at, answer in enumerate(answers):
        stream = world.twilio.stream(f"CA43{at:030}", echo=True)
        call = await stream.__aenter__()
        streams.append((stream, call))
        await call.start(answer.parameters)
        speech = ulaw_tone(0.4, pitches[at])
        said = [SILENCE] * (at % 10) + [speech[one : one + 160] for one in range(0, 3200, 160)]
        frames.append([call.twilio.media(frame) for frame in [*said, *[SILENCE] * 130]])
    try:
        due = time.perf_counter()
        sent = 0
        while sent < len(frames[-1]) and (sent < 100 or not all(len(call.audio) >= 3200 for _, call in streams)):
            for (_, call), messages in zip(streams, frames, strict=True):
                await call.send(messages[sent])
            sent += 1
            due += 0.02
            await asyncio.sleep(max(0.0, due - time.perf_counter()))
        for at, (_, call) in enumerate(streams):
            assert {one["streamSid"] for one in call.received} == {call.stream_sid}
            heard = [pitch(b64decode(one["media"]["payload"])) for one in call.received if one["event"] == "media"]
            assert (len(call.audio), set(heard)) == (3200, {pitches[at]})
    finally:
        await asyncio.gather(*(stream.__aexit__(None, None, None) for stream, _ in streams))


# -- one call's failure ------------------------------------------------------------------------------------------------


class BrokenStt(ToneStt):
    """Recognition that cannot even be opened."""

    def open(self, audio: AudioFormat) -> SttStream:
        raise RuntimeError("no recogniser")


async def test_a_session_that_cannot_be_made_does_not_keep_its_caller(http: aiohttp.ClientSession) -> None:
    """F23: an exception in one call ends that call, and gives its place back."""
    async with gateway(agent("silent"), stt=BrokenStt(), max_sessions=1) as one:
        twilio = Carrier(http, one)
        async with twilio.call() as call:
            await call.close_code(3.0)
        assert (await twilio.announce()).stream_url
