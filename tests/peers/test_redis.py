"""Sessions in a real redis-server: stored, kept through faults of which no caller hears, and taken up elsewhere."""

import asyncio
import gc
import json
import os
import signal
import ssl
import subprocess
import time
from base64 import b64encode
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import aiohttp
import pytest
import websockets
from redis.exceptions import OutOfMemoryError, ReadOnlyError
from websockets.asyncio.client import ClientConnection

from fastagent import AFSMState, ConversationContext, FastAgent, StateResult
from fastagent.gateway import phrases
from fastagent.gateway.app import Gateway
from fastagent.gateway.settings import Settings
from fastagent.gateway.store import RedisBackend, SessionStore, StoreError
from fastagent.media.vad.engine import EnergyVad
from tests.support.audio import tone
from tests.support.process import Served, free_port, serve
from tests.support.redis_server import PREFIX, RedisServer, SlowWay, redis_server, slow_way

pytestmark = [pytest.mark.real, pytest.mark.timeout(120)]

PATIENCE_S = 20.0
WAY_BACK_S = 5.0  # F11
HZ = 8000
ANSWER = "It is noted, and will be brought."
SCRIPT = "Hello there."  # what scripted speech hears
AWAY = "the session store does not answer"


# -- the agent -------------------------------------------------------------------------------------------------------


class Menu(AFSMState):
    """Takes a dish down, wherever the context has a place for it."""

    async def on_enter(self, context: ConversationContext) -> str:
        return "Hello."

    async def process(self, input_text: str, context: ConversationContext) -> Any:
        self.scratchpad = f"wants {input_text}"
        context.slots["dish"] = input_text
        context.add_salient_fact("asked_for", input_text)
        context.update_user_profile({"eats": input_text})
        return StateResult(ANSWER if input_text == SCRIPT else "Yes.", "ordered")


class Ordered(AFSMState):
    """Knows what was ordered."""

    async def process(self, input_text: str, context: ConversationContext) -> Any:
        if input_text == "set":
            context.add_salient_fact("colours", {"red"})
        return StateResult(
            "It will come." if "bread" in input_text else "Soon.", "gone" if input_text == "bye" else None
        )

    async def on_resume(self, context: ConversationContext) -> str:
        return f"{context.slots['dish']}!"


class Gone(AFSMState):
    """The end."""


def waiter(agent_id: str = "waiter", *states: AFSMState) -> FastAgent:
    """The agent."""
    every = states or (
        Menu("menu", "asks", ["ordered"]),
        Ordered("ordered", "waits", ["gone"]),
        Gone("gone", "ends", terminal=True),
    )
    turns = {"min_endpointing_delay": 0.2, "max_endpointing_delay": 0.2}
    return FastAgent(agent_id, every, every[0].name, turn_config=turns, no_input_timeout=60.0)


@asynccontextmanager
async def gateway(redis_url: str | None, *agents: FastAgent, **settings: Any) -> AsyncIterator[Gateway]:
    """A gateway in this loop."""
    given = {"HOST": "127.0.0.1", "PORT": 0, "FASTAGENT_SPEECH": "scripted", "REDIS_URL": redis_url, **settings}
    one = Gateway(Settings(**given), make_vad=EnergyVad)
    for agent in agents or (waiter(),):
        one.add_agent(agent, default=True)
    async with one:
        await one.wait_ready()
        yield one


# -- the client ------------------------------------------------------------------------------------------------------


@dataclass
class Client:
    """One socket; all that comes is kept, with the time of its coming."""

    socket: ClientConnection
    received: list[dict[str, Any]] = field(default_factory=list)
    audio: list[tuple[float, str, int]] = field(default_factory=list)
    """When it came, the utterance, samples."""
    news: asyncio.Event = field(default_factory=asyncio.Event)
    close_code: int | None = None
    secret: str = ""
    session_id: str = ""

    async def read(self) -> None:
        """Take what comes, to the end."""
        try:
            async for text in self.socket:
                message = json.loads(text)
                payload = message["payload"]
                if message["type"] == "audio_response":
                    samples = len(payload["data"]) * 3 // 4 // 2
                    self.audio.append((time.monotonic(), payload["utterance_id"], samples))
                self.received.append(message)
                self.news.set()
        except websockets.ConnectionClosed:
            pass
        self.close_code = self.socket.close_code
        self.news.set()

    def of(self, type_: str) -> list[dict[str, Any]]:
        """The payloads of one type."""
        return [one["payload"] for one in self.received if one["type"] == type_]

    @property
    def heard(self) -> list[str]:
        """The answers that were heard to their end."""
        final = (one for one in self.of("transcript") if one["role"] == "agent" and one["is_final"])
        return [one["heard"] for one in final if not one["interrupted"]]

    async def until(self, condition: Callable[[], object], patience_s: float = PATIENCE_S) -> None:
        """Return when something that came makes it true."""
        async with asyncio.timeout(patience_s):
            while not condition():
                self.news.clear()
                await self.news.wait()

    async def send(self, type_: str, **payload: Any) -> None:
        """Send a message."""
        await self.socket.send(json.dumps({"type": type_, "payload": payload, "session_id": None}))

    async def start(self, **payload: Any) -> dict[str, Any]:
        """Begin, or go on; return the payload of `session_started`, or of the error."""
        audio = {name: {"format": "audio/pcm", "sample_rate": HZ} for name in ("input", "output")}
        await self.send("start_session", **{"audio": audio, **payload})
        await self.until(lambda: self.of("session_started") or self.of("error"))
        if self.of("error"):
            return self.of("error")[0]
        started = self.of("session_started")[0]
        self.secret, self.session_id = started["resume_secret"], started["session_id"]
        return started

    async def resume(self, before: "Client", **changes: Any) -> dict[str, Any]:
        """Go on with the session of another socket."""
        return await self.start(**{"session_id": before.session_id, "resume_secret": before.secret, **changes})

    async def answers(self, count: int) -> None:
        """Return when so many answers were heard."""
        await self.until(lambda: len(self.heard) >= count)

    async def say(self, text: str) -> None:
        """Say words and listen to the answer."""
        count = len(self.heard)
        await self.send("text_input", text=text)
        await self.answers(count + 1)

    async def speak(self) -> None:
        """Say something aloud: all at once, as the API allows."""
        sound = tone(0.5, rate_hz=HZ).tobytes() + bytes(HZ)
        await self.send("audio_data", data=b64encode(sound).decode(), format="audio/pcm")

    def cut(self) -> None:
        """The network takes the socket away, without a word."""
        self.socket.transport.abort()

    def hole_s(self) -> float:
        """How long the caller heard nothing where there should have been sound: the latest chunk of all, measured
        against a player that begins with the first of its utterance."""
        worst = 0.0
        began: dict[str, tuple[float, int]] = {}
        for at, utterance, samples in self.audio:
            first, played = began.get(utterance, (at, 0))
            worst = max(worst, at - first - played / HZ)
            began[utterance] = (first, played + samples)
        return worst

    def samples(self) -> list[int]:
        """Samples of each utterance."""
        counts: dict[str, int] = {}
        for _, utterance, samples in self.audio:
            counts[utterance] = counts.get(utterance, 0) + samples
        return list(counts.values())


@asynccontextmanager
async def client(port: int, *, key: str | None = None, gone: bool = False) -> AsyncIterator[Client]:
    """Connect."""
    headers = {"Authorization": f"Bearer {key}"} if key else {}
    async with websockets.connect(
        f"ws://127.0.0.1:{port}/agent/ws", additional_headers=headers, proxy=None, close_timeout=1
    ) as socket:
        one = Client(socket)
        reader = asyncio.create_task(one.read())
        try:
            yield one
        finally:
            if gone:
                one.cut()
            await socket.close()
            await reader


async def eventually(condition: Callable[[], Awaitable[object]], patience_s: float = PATIENCE_S) -> None:
    """Return when something becomes true that sends no message."""
    async with asyncio.timeout(patience_s):
        while not await condition():  # noqa: ASYNC110
            await asyncio.sleep(0.02)


def metric(one: Gateway, name: str, **labels: str) -> float:
    """A metric's value; 0 where it never moved."""
    return one.metrics.registry.get_sample_value(f"fastagent_{name}", labels) or 0.0


def counters(one: Gateway) -> dict[str, float]:
    """Every counter that has moved."""
    return {
        f"{sample.name}{sample.labels}": sample.value
        for family in one.metrics.registry.collect()
        for sample in family.samples
        if sample.name.endswith("_total") and sample.value
    }


def errors(one: Gateway) -> set[str]:
    """The kinds of errors of the store that were counted."""
    return {name for name in counters(one) if "store_errors" in name}


async def health(port: int) -> tuple[int, str, list[str]]:
    """Status code, status, reasons."""
    async with aiohttp.ClientSession() as http, http.get(f"http://127.0.0.1:{port}/health") as answer:
        body = await answer.json()
        return answer.status, body["status"], body["reasons"]


async def stored_state(server: RedisServer, session_id: str) -> str | None:
    """The state of a stored session."""
    document = await server.document(session_id)
    return None if document is None else str(document["machine"]["state"])


async def stored_epoch(server: RedisServer, session_id: str) -> int:
    """How often a stored session was taken up."""
    document = await server.document(session_id)
    return 0 if document is None else int(document["epoch"])


# -- what is stored --------------------------------------------------------------------------------------------------


async def test_a_session_is_in_redis_after_each_turn_and_gone_after_its_end() -> None:
    async with redis_server() as server, gateway(server.url) as one, client(one.port) as caller:
        await caller.start(metadata={"table": "5"})
        await caller.answers(1)
        key = PREFIX + caller.session_id

        async def history(count: int) -> bool:
            document = await server.document(caller.session_id)
            return document is not None and len(document["machine"]["context"]["history"]) == count

        await eventually(lambda: history(1))
        assert await server.keys() == [key]
        await caller.say("soup")
        await eventually(lambda: history(2))
        document = await server.document(caller.session_id)
        assert document is not None
        assert (document["version"], document["epoch"], document["turn_count"]) == (1, 1, 2)
        assert (document["session_id"], document["agent_id"]) == (caller.session_id, "waiter")
        machine = document["machine"]
        assert machine["state"] == "ordered"
        assert machine["scratchpads"] == {"menu": "wants soup"}
        context = machine["context"]
        assert (context["slots"], context["facts"], context["profile"], context["metadata"]) == (
            {"dish": "soup"}, {"asked_for": "soup"}, {"eats": "soup"}, {"table": "5"},
        )  # fmt: skip
        assert [(turn["user"], turn["heard"]) for turn in context["history"]] == [("", "Hello."), ("soup", "Yes.")]
        assert caller.secret not in json.dumps(document)  # its digest is enough
        assert 3500 < await server.command("TTL", key) <= 3600
        await caller.send("text_input", text="bread")
        await caller.until(lambda: len(caller.of("transcript")) > 6)
        await caller.send("interrupt")  # what was not heard is not stored as heard
        await eventually(lambda: history(3))
        document = await server.document(caller.session_id)
        assert document is not None
        last = document["machine"]["context"]["history"][-1]
        assert last["interrupted"]
        assert last["heard"] != last["spoken"]
        await caller.say("bye")
        await caller.until(lambda: caller.of("session_ended"))
        await eventually(lambda: _none(server.keys()))
        assert await health(one.port) == (200, "healthy", [])
        assert not errors(one)


async def _none(found: Awaitable[list[str]]) -> bool:
    return not await found


async def test_a_value_that_is_no_json_costs_this_session_its_place_and_others_nothing(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async with (
        redis_server() as server,
        gateway(server.url) as one,
        client(one.port) as bad,
        client(one.port) as good,
    ):
        for caller in (bad, good):
            await caller.start()
            await caller.say("soup")
        await bad.say("set")
        await good.say("more")
        await eventually(lambda: _is(server.keys(), [PREFIX + good.session_id]))
        await bad.say("still there")
        assert errors(one) == {"fastagent_store_errors_total{'kind': 'not_json'}"}
        assert "a session cannot be stored" in caplog.text
        assert (await health(one.port))[1] == "healthy"


async def _is(found: Awaitable[object], expected: object) -> bool:
    return await found == expected


async def test_a_password_is_taken_from_the_url_and_a_wrong_one_is_said() -> None:
    admin = "redis://:s3c%2Fret@127.0.0.1:{port}/0"
    async with redis_server("--requirepass", "s3c/ret", admin_url=admin) as server:
        good = SessionStore(RedisBackend(f"redis://:s3c%2Fret@127.0.0.1:{server.port}/0"))
        await good.check()
        await good.aclose()
        for url in (server.url, f"redis://:wrong@127.0.0.1:{server.port}/0"):
            bad = SessionStore(RedisBackend(url))
            with pytest.raises(StoreError, match="auth"):
                await bad.check()
            await bad.aclose()


async def test_tls_is_taken_from_the_url_and_a_stranger_is_not_trusted(tmp_path: Path) -> None:
    certificate, private = tmp_path / "cert.pem", tmp_path / "key.pem"
    await asyncio.to_thread(_self_signed, certificate, private)
    options = ("--tls-cert-file", str(certificate), "--tls-key-file", str(private), "--tls-auth-clients", "no")
    trusting = f"rediss://127.0.0.1:{{port}}/0?ssl_ca_certs={certificate}"
    async with redis_server(*options, tls=True, admin_url=trusting) as server:
        for url in (trusting.format(port=server.port), f"{server.url}?ssl_cert_reqs=none&ssl_check_hostname=false"):
            store = SessionStore(RedisBackend(url))
            store.start()
            store.keep(store.claim("s1"), lambda: {"state": "secret"})
            await store.aclose()
            assert await server.document("s1") is not None
            await server.command("FLUSHALL")
        stranger = SessionStore(RedisBackend(server.url))
        with pytest.raises(StoreError, match="connection"):
            await stranger.check()
        await stranger.aclose()
    assert ssl.HAS_TLSv1_2


def _self_signed(certificate: Path, private: Path) -> None:
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "2",
         "-subj", "/CN=localhost", "-addext", "subjectAltName=IP:127.0.0.1",
         "-keyout", str(private), "-out", str(certificate)],
        check=True, capture_output=True,
    )  # fmt: skip


# -- faults in mid-call ----------------------------------------------------------------------------------------------


@dataclass
class Trouble:
    """Something that happens to Redis."""

    kind: str
    """How it is counted."""
    strike: Callable[[RedisServer, SlowWay], Awaitable[None]]
    proof: Callable[[RedisServer, SlowWay], Awaitable[object]]
    heal: Callable[[RedisServer, SlowWay], Awaitable[None]]


async def _kill(server: RedisServer, way: SlowWay) -> None:
    await server.kill()


async def _is_dead(server: RedisServer, way: SlowWay) -> object:
    return server.process.returncode == -signal.SIGKILL


async def _restart(server: RedisServer, way: SlowWay) -> None:
    await server.start()
    assert await server.keys() == []  # it has forgotten everything


async def _freeze(server: RedisServer, way: SlowWay) -> None:
    server.freeze()


async def _is_frozen(server: RedisServer, way: SlowWay) -> object:
    return server.frozen


async def _thaw(server: RedisServer, way: SlowWay) -> None:
    server.thaw()


async def _slow(server: RedisServer, way: SlowWay) -> None:
    way.delay_s = 0.4


async def _was_slow(server: RedisServer, way: SlowWay) -> object:
    return way.delayed > 1


async def _quick(server: RedisServer, way: SlowWay) -> None:
    way.delay_s = 0.0


async def _replicate(server: RedisServer, way: SlowWay) -> None:
    await server.command("REPLICAOF", "127.0.0.1", str(free_port()))


async def _refuses(error: type[Exception], server: RedisServer) -> bool:
    try:
        await server.command("SET", "probe", "x")
    except error:
        return True
    return False


async def _is_read_only(server: RedisServer, way: SlowWay) -> object:
    return await _refuses(ReadOnlyError, server)


async def _lead(server: RedisServer, way: SlowWay) -> None:
    await server.command("REPLICAOF", "NO", "ONE")


async def _fill(server: RedisServer, way: SlowWay) -> None:
    await server.command("CONFIG", "SET", "maxmemory-policy", "noeviction")
    await server.command("CONFIG", "SET", "maxmemory", "100kb")


async def _is_full(server: RedisServer, way: SlowWay) -> object:
    return await _refuses(OutOfMemoryError, server)


async def _empty(server: RedisServer, way: SlowWay) -> None:
    await server.command("CONFIG", "SET", "maxmemory", "0")


TROUBLES = {
    "killed": Trouble("connection", _kill, _is_dead, _restart),
    "frozen": Trouble("timeout", _freeze, _is_frozen, _thaw),
    "slow": Trouble("timeout", _slow, _was_slow, _quick),
    "read only": Trouble("read_only", _replicate, _is_read_only, _lead),
    "full": Trouble("full", _fill, _is_full, _empty),
}


async def _conversation(caller: Client, strike: Callable[[], Awaitable[None]]) -> None:
    """A greeting; a spoken utterance, and in the middle of its answer something happens; a typed one."""
    await caller.start()
    await caller.answers(1)
    await caller.speak()
    await caller.until(lambda: len({utterance for _, utterance, _ in caller.audio}) == 2)
    await strike()
    await caller.answers(2)
    await caller.say("more bread")


async def _nothing() -> None:
    pass


@dataclass
class Outcome:
    """What became of a call, for its caller and for the operator."""

    heard: list[str]
    samples: list[int]
    chunks: int
    hole_s: float
    counters: dict[str, float]
    health: tuple[int, str, list[str]]
    store_up: float
    proven: object = None
    written_s: float | None = None
    """From the store's return to the latest state in it."""
    health_after: tuple[int, str, list[str]] | None = None
    heard_after: list[str] = field(default_factory=list)

    @classmethod
    async def of(cls, one: Gateway, caller: Client) -> "Outcome":
        """Look at a call and its gateway."""
        return cls(
            heard=caller.heard, samples=caller.samples(), chunks=len(caller.audio), hole_s=caller.hole_s(),
            counters=counters(one), health=await health(one.port), store_up=metric(one, "store_up"),
        )  # fmt: skip


def _errors(kind: str) -> str:
    return f"fastagent_store_errors_total{{'kind': '{kind}'}}"


async def _sound_call() -> Outcome:
    """The twin: nothing happens."""
    async with redis_server() as server, gateway(server.url) as one, client(one.port) as caller:
        await _conversation(caller, _nothing)
        return await Outcome.of(one, caller)


async def _troubled_call(name: str) -> Outcome:
    trouble = TROUBLES[name]
    async with (
        redis_server() as server,
        slow_way(server) as way,
        gateway(way.url if name == "slow" else server.url) as one,
        client(one.port) as caller,
    ):
        await _conversation(caller, lambda: trouble.strike(server, way))
        await eventually(lambda: _is(health(one.port), (200, "degraded", [AWAY])))
        outcome = await Outcome.of(one, caller)
        outcome.proven = await trouble.proof(server, way)

        async def is_right() -> bool:
            document = await server.document(caller.session_id)
            return document is not None and document["machine"]["context"]["history"][-1]["user"] == "more bread"

        await trouble.heal(server, way)
        healed = time.monotonic()
        await eventually(is_right)
        outcome.written_s = time.monotonic() - healed
        with suppress(TimeoutError):
            await eventually(lambda: _is(health(one.port), (200, "healthy", [])))
        outcome.health_after = await health(one.port)
        await caller.say("and water")
        outcome.heard_after = caller.heard
        outcome.counters = counters(one)
        return outcome


@pytest.fixture(scope="module")
def twin() -> Outcome:
    """What a call is to which nothing happens."""
    return asyncio.run(_sound_call())


@pytest.mark.parametrize("name", TROUBLES)
async def test_f11_redis_in_trouble_is_heard_by_nobody_and_given_the_latest_state_when_it_is_well(
    name: str, twin: Outcome
) -> None:
    # One at a time: the limit is 250 ms, and the gateway, the caller and the slow way share one loop here.
    outcome = await _troubled_call(name)
    # The caller has heard what the twin has, and as evenly.
    assert outcome.heard == twin.heard == ["Hello.", ANSWER, "It will come."]
    assert outcome.samples == twin.samples
    assert outcome.chunks == twin.chunks
    assert outcome.hole_s <= twin.hole_s + 0.2
    # It did happen; the operator is told, by health and by one counter.
    assert outcome.proven
    assert outcome.health == (200, "degraded", [AWAY])
    assert outcome.store_up == 0
    assert twin.health == (200, "healthy", [])
    moved = {counter for counter in outcome.counters if counter not in twin.counters}
    late = _errors("timeout")  # on a machine that is busy any store may be late
    assert moved | {late} == {_errors(TROUBLES[name].kind), late}
    assert _errors(TROUBLES[name].kind) in moved
    assert {counter: outcome.counters.get(counter) for counter in twin.counters} == twin.counters
    # And when it is well, it has the state within five seconds.
    assert outcome.written_s is not None
    assert outcome.written_s <= WAY_BACK_S
    assert outcome.health_after == (200, "healthy", [])
    assert outcome.heard_after == [*twin.heard, "Soon."]


async def test_f11_a_session_that_was_silent_meanwhile_is_in_a_redis_that_came_back_empty() -> None:
    async with redis_server() as server, gateway(server.url) as one, client(one.port) as caller:
        await caller.start()
        await caller.say("soup")
        await eventually(lambda: _is(stored_state(server, caller.session_id), "ordered"))
        await server.kill()
        await eventually(lambda: _is(health(one.port), (200, "degraded", [AWAY])))
        await server.start()
        await eventually(lambda: _is(stored_state(server, caller.session_id), "ordered"), WAY_BACK_S)


# -- Redis away at start ---------------------------------------------------------------------------------------------


async def test_f10_the_process_is_ready_when_its_twin_with_redis_is_and_connects_by_itself(tmp_path: Path) -> None:
    async with redis_server() as server, redis_server() as other:
        await server.kill()
        async with serve(**_environment(server, tmp_path)) as process:
            async with serve(**_environment(other, tmp_path)) as twin:
                await twin.until("/readyz", 200)
            await process.until("/readyz", 200, patience_s=5.0)
            assert await health(process.port) == (200, "degraded", [AWAY])
            async with client(process.port) as caller:
                await caller.start()
                await server.start()
                await eventually(lambda: _is(stored_state(server, caller.session_id), "dish"), WAY_BACK_S)
            await eventually(lambda: _is(health(process.port), (200, "healthy", [])), WAY_BACK_S)


@pytest.mark.parametrize(
    ("url", "why"),
    [
        ("", "FASTAGENT_REQUIRE_REDIS is set and REDIS_URL is not"),
        ("redis://:topsecret@127.0.0.1:{port}/0", "Redis does not answer (connection)"),
    ],
    ids=["no url", "nobody there"],
)
async def test_where_redis_is_required_and_away_the_start_fails_in_one_clear_line(url: str, why: str) -> None:
    async with serve(
        FASTAGENT_SPEECH="scripted", FASTAGENT_REQUIRE_REDIS="1", REDIS_URL=url.format(port=free_port())
    ) as process:
        code, log = await process.exited()
    assert code == 1
    (line,) = [line for line in log.splitlines() if not line.startswith("{")]
    assert line.startswith("fastagent: cannot start: ")
    assert why in line
    assert "topsecret" not in log


async def test_where_redis_is_required_and_there_it_starts() -> None:
    async with redis_server() as server, gateway(server.url, FASTAGENT_REQUIRE_REDIS=True) as one:
        assert await health(one.port) == (200, "healthy", [])
        assert not errors(one)


# -- going on in another process -------------------------------------------------------------------------------------

DOCUMENT = """
initial_state: dish
greeting: Hello.
states:
  - name: dish
    description: What they want
    slots: [{name: dish, type: text, ask: What would you like}]
    transitions: [{to: street}]
  - name: street
    description: Where to
    slots: [{name: street, type: text, ask: Which street}]
    transitions: [{to: kitchen}]
  - name: kitchen
    description: Repeats the order
    say: "{{ dish }} to {{ street }}."
    slots: [{name: more, type: text, ask: More}]
    transitions: [{to: bye}]
  - {name: bye, description: The end, terminal: true}
"""
KEYS = ("first-key-of-the-tests", "second-key-of-the-tests")


def _environment(server: RedisServer, agents: Path | None = None, **more: str) -> dict[str, str]:
    given = {"FASTAGENT_SPEECH": "scripted", "REDIS_URL": server.url, **more}
    if agents is not None:
        (agents / "orders.yaml").write_text(DOCUMENT)
        given |= {"FASTAGENT_AGENTS": str(agents), "FASTAGENT_DEFAULT_AGENT": "orders"}
    return given


async def _resumed_total(process: Served, key: str) -> float:
    headers = {"Authorization": f"Bearer {key}"}
    async with aiohttp.ClientSession(headers=headers) as http, http.get(f"{process.url}/metrics") as answer:
        text = await answer.text()
    wanted = 'fastagent_sessions_resumed_total{from="store"} '
    return sum(float(line.removeprefix(wanted)) for line in text.splitlines() if line.startswith(wanted))


async def _killed_process(tmp_path: Path) -> None:
    async with redis_server() as server:
        environment = _environment(server, tmp_path, FASTAGENT_API_KEYS=",".join(KEYS))
        async with serve(**environment) as process:
            await process.until("/readyz", 200)
            async with client(process.port, key=KEYS[0]) as before:
                await before.start()
                await before.answers(1)
                await before.say("soup")
                assert before.heard[-1] == "Which street"
                await eventually(lambda: _is(stored_state(server, before.session_id), "street"))
                await before.send("text_input", text="Elm Road")  # a turn under way is lost: one at most
                process.process.kill()
                await before.until(lambda: before.close_code is not None)
        async with serve(**environment) as process:
            await process.until("/readyz", 200)
            async with client(process.port, key=KEYS[0]) as stranger:
                assert (await stranger.resume(before, resume_secret="guessed"))["code"] == "authentication_failed"
            async with client(process.port, key=KEYS[1]) as stranger:
                assert (await stranger.resume(before))["code"] == "authentication_failed"
            async with client(process.port, key=KEYS[0]) as stranger:
                assert (await stranger.resume(before, session_id="sess_none"))["code"] == "session_not_found"
            assert await _resumed_total(process, KEYS[0]) == 0
            async with client(process.port, key=KEYS[0]) as after:
                started = await after.resume(before)
                assert started["resumed"] is True
                assert started["session_id"] == before.session_id
                assert started["initial_state"] == "street"
                assert started["resume_secret"] == before.secret
                assert await _resumed_total(process, KEYS[0]) == 1
                await after.answers(1)
                assert after.heard[0].startswith(phrases.RESUMED)
                await after.say("Elm Road")
                assert "soup to Elm Road" in after.heard[-1]
                headers = {"Authorization": f"Bearer {KEYS[0]}"}
                async with (
                    aiohttp.ClientSession(process.url, headers=headers) as http,
                    http.get(f"/sessions/{before.session_id}") as answer,
                ):
                    shown = await answer.json()
                assert (shown["current_state"], shown["turn_count"]) == ("kitchen", 4)

                async def remembers() -> bool:
                    document = await server.document(before.session_id)
                    assert document is not None
                    said = [turn["user"] for turn in document["machine"]["context"]["history"]]
                    return document["epoch"] == 2 and said == ["", "soup", "", "Elm Road"]

                await eventually(remembers)
                await after.send("end_session")
                await after.until(lambda: after.of("session_ended"))
            await eventually(lambda: _none(server.keys()))


async def _stopped_process(tmp_path: Path) -> None:
    async with redis_server() as server:
        environment = _environment(server, tmp_path, FASTAGENT_DRAIN_SECONDS="0")
        async with serve(**environment) as process, serve(**environment) as other:
            await process.until("/readyz", 200)
            async with client(process.port) as before:
                await before.start()
                await before.send("text_input", text="soup")
                await eventually(lambda: _is(stored_state(server, before.session_id), "street"))
                process.process.send_signal(signal.SIGTERM)
                await before.until(lambda: before.close_code is not None)
                assert before.close_code == 1001
                assert before.of("session_ended")[0]["reason"] == "shutdown"
            code, log = await process.exited()
            assert code == 0
            assert "Traceback" not in log
            await other.until("/readyz", 200)
            async with client(other.port) as after:
                started = await after.resume(before)
                assert (started["resumed"], started["initial_state"]) == (True, "street")
                await after.answers(1)
                assert after.heard == [f"{phrases.RESUMED} Which street"]


@pytest.fixture(scope="module")
def deaths(tmp_path_factory: pytest.TempPathFactory) -> list[BaseException | None]:
    """What became of the two, each with processes of its own, at the same time."""

    async def both() -> list[BaseException | None]:
        works = [work(tmp_path_factory.mktemp("agents")) for work in (_killed_process, _stopped_process)]
        return await asyncio.gather(*works, return_exceptions=True)

    return asyncio.run(both())


def test_f18_a_session_goes_on_after_the_process_was_killed(deaths: list[BaseException | None]) -> None:
    if deaths[0] is not None:
        raise deaths[0]


def test_f17_a_session_goes_on_after_the_process_was_stopped_in_mid_call(deaths: list[BaseException | None]) -> None:
    if deaths[1] is not None:
        raise deaths[1]


async def _ordered(one: Gateway, caller: Client, server: RedisServer) -> None:
    await caller.start(agent_id="waiter")
    await caller.say("soup")
    await eventually(lambda: _is(stored_state(server, caller.session_id), "ordered"))


async def test_a_session_whose_agent_is_gone_is_refused_and_says_so() -> None:
    async with (
        redis_server() as server,
        gateway(server.url) as a,
        gateway(server.url, waiter("another")) as b,
        client(a.port) as before,
        client(b.port) as after,
    ):
        await _ordered(a, before, server)
        error = await after.resume(before)
        assert error["code"] == "agent_not_found"
        assert "'waiter'" in error["message"]
        assert metric(b, "sessions_resumed_total", **{"from": "store"}) == 0


async def test_a_session_whose_state_is_gone_begins_anew_and_the_log_says_so(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async with (
        redis_server() as server,
        gateway(server.url) as a,
        gateway(server.url, waiter("waiter", Menu("menu", "asks"))) as b,
        client(a.port, gone=True) as before,
        client(b.port) as after,
    ):
        await _ordered(a, before, server)
        started = await after.resume(before)
        assert (started["resumed"], started["initial_state"]) == (False, "menu")
        assert "a stored session begins anew: there is no state 'ordered' any more" in caplog.text
        assert metric(b, "sessions_resumed_total", **{"from": "store"}) == 0
        await after.answers(1)
        assert after.heard == ["Hello."]
        await eventually(lambda: _is(stored_state(server, before.session_id), "menu"))


async def test_of_two_processes_that_hold_a_session_the_newer_wins_and_the_older_ends_its_own(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async with redis_server() as server, gateway(server.url) as a, gateway(server.url) as b:
        async with client(a.port) as before, client(b.port) as after:
            await _ordered(a, before, server)
            assert (await after.resume(before))["resumed"] is True  # while A still serves it
            await after.answers(1)
            assert after.heard == [f"{phrases.RESUMED} soup!"]
            await eventually(lambda: _is(stored_epoch(server, before.session_id), 2))
            await before.say("late for A")  # its next write tells A
            await before.until(lambda: before.of("session_ended"))
            assert before.of("session_ended")[0]["reason"] == "connection_lost"
            await eventually(lambda: _is(_live(a), 0))
            assert errors(a) == {"fastagent_store_errors_total{'kind': 'superseded'}"}
            assert "a session goes on elsewhere" in caplog.text
            await after.say("for B")
            document = await server.document(before.session_id)
            assert document is not None
            said = [turn["user"] for turn in document["machine"]["context"]["history"]]
            assert "late for A" not in said
            assert document["epoch"] == 2
            assert len(b.sessions) == 1
            assert not errors(b)
            assert (await health(a.port))[1] == "healthy"
            await after.send("end_session")
        await eventually(lambda: _none(server.keys()))


async def _live(one: Gateway) -> int:
    return len(one.sessions)


async def test_a_client_that_was_cut_off_goes_on_elsewhere_while_the_first_process_still_waits_for_it() -> None:
    async with (
        redis_server() as server,
        gateway(server.url, FASTAGENT_WS_HOLD_SECONDS=0.2) as a,
        gateway(server.url) as b,
    ):
        async with client(a.port, gone=True) as before:
            await _ordered(a, before, server)
        async with client(b.port) as after:
            assert (await after.resume(before))["resumed"] is True
            await eventually(lambda: _is(_live(a), 0))  # A gives up, which must not forget what is B's now
            await after.answers(1)
            await eventually(lambda: _is(stored_epoch(server, before.session_id), 2))
            assert await stored_state(server, before.session_id) == "ordered"
            assert not errors(a) | errors(b)


async def test_a_new_session_cannot_take_an_id_that_another_process_has_stored() -> None:
    async with (
        redis_server() as server,
        gateway(server.url) as a,
        gateway(server.url) as b,
        client(a.port) as owner,
        client(b.port) as stranger,
    ):
        await _ordered(a, owner, server)
        held = await server.document(owner.session_id)
        await stranger.start(session_id=owner.session_id)
        await stranger.answers(1)
        await eventually(lambda: _is(_superseded(b), 1.0))
        assert await server.document(owner.session_id) == held
        await asyncio.gather(stranger.say("lives on"), owner.say("so does this"))
        assert not errors(a)


async def _superseded(one: Gateway) -> float:
    return metric(one, "store_errors_total", kind="superseded")


async def test_a_hundred_clients_that_come_back_at_once_all_find_their_sessions() -> None:
    async with redis_server() as server:
        store = SessionStore(RedisBackend(server.url))
        store.start()
        for number in range(100):
            store.keep(store.claim(f"s{number}"), lambda: {"state": "ordered"})
        await store.aclose()
        other = SessionStore(RedisBackend(server.url))
        found = await asyncio.gather(*(other.recall(f"s{number}") for number in range(100)))
        assert all(found)
        await other.aclose()


async def test_what_is_none_of_ours_under_our_key_is_discarded_and_gives_way() -> None:
    async with redis_server() as server, gateway(server.url) as one:
        for session_id, words in (
            ("list", ("LPUSH", PREFIX + "list", "x")),
            ("text", ("SET", PREFIX + "text", "{")),
            ("head", ("SET", PREFIX + "head", '{"version": 9}')),
        ):
            await server.command(*words)
            async with client(one.port) as caller:
                error = await caller.start(session_id=session_id, resume_secret="x")
                assert error["code"] == "session_not_found"
            async with client(one.port) as caller:
                await caller.start(session_id=session_id)
                await caller.answers(1)
                await eventually(lambda one=session_id: _is(stored_state(server, one), "menu"))  # type: ignore[misc]
        assert counters(one)["fastagent_store_errors_total{'kind': 'discarded'}"] == 3
        assert (await health(one.port))[1] == "healthy"


# -- nothing is left behind ------------------------------------------------------------------------------------------


async def test_after_two_hundred_sessions_no_key_no_connection_and_no_task_is_left() -> None:
    async with redis_server() as server, gateway(server.url) as one:

        async def session() -> None:
            async with client(one.port) as caller:
                await caller.start(events=[])
                await caller.until(lambda: caller.audio)
                await caller.send("text_input", text="soup")
                await caller.send("end_session")
                await caller.until(lambda: caller.of("session_ended"))

        async def many(count: int) -> None:
            for _ in range(count // 20):
                await asyncio.gather(*(session() for _ in range(20)))

        async def clients() -> int:
            return len((await server.command("CLIENT", "LIST")).splitlines())

        async def left() -> tuple[int, int, int]:
            gc.collect()
            files = len(os.listdir("/proc/self/fd")) - await clients()
            return len(await server.keys()), len(asyncio.all_tasks()), files

        async def quiet() -> bool:
            return not len(one.sessions) and not await server.keys() and not one._store._waiting

        await many(20)
        await eventually(quiet)
        await asyncio.sleep(0.1)
        before = await left()
        await many(200)
        await eventually(quiet)
        with suppress(TimeoutError):
            await eventually(lambda: _is(left(), before), 5.0)
        after = await left()
        assert after[0] == 0
        assert all(now <= then for now, then in zip(after, before, strict=True)), (before, after)
        assert await clients() <= 3  # the writer's, the watch's where both have met, and ours
        assert sum(value for name, value in counters(one).items() if "sessions_ended" in name) == 220
        assert not one._claims
        assert not one._store._claims
        assert not one._store._failing
        assert not errors(one)
