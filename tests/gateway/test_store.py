"""The store of sessions in virtual time: what is kept, what is discarded, and what a store that is away may cost."""

import asyncio
import json
from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest

from fastagent.gateway import store as module
from fastagent.gateway.app import Gateway
from fastagent.gateway.settings import Settings
from fastagent.gateway.store import Claim, Document, MemoryBackend, RedisBackend, SessionStore, StoreError
from fastagent.gateway.stored import recalled

KEY = "fastagent:session:s1"


class Faulty(MemoryBackend):
    """A backend that fails, or hangs, on demand; it remembers what was written."""

    def __init__(self) -> None:
        super().__init__()
        self.fault: str | None = None
        self.hangs = self.takes_deletions = False
        self.written: list[tuple[str, Document | None]] = []
        self.ttls: set[int] = set()
        self.asked = 0
        self.closed = False

    async def _meet(self) -> None:
        self.asked += 1
        if self.hangs:
            await asyncio.get_running_loop().create_future()
        if self.fault is not None:
            raise StoreError(self.fault)

    async def write(self, key: str, claim: Claim, data: bytes | None, ttl_s: int) -> bool:
        if data is not None or not self.takes_deletions:
            await self._meet()
        self.ttls.add(ttl_s)
        self.written.append((key, None if data is None else json.loads(data)))
        return await super().write(key, claim, data, ttl_s)

    async def read(self, key: str) -> bytes | None:
        await self._meet()
        return await super().read(key)

    async def ping(self) -> None:
        if self.fault != "full":  # which answers a ping
            await self._meet()

    async def aclose(self) -> None:
        self.closed = True
        if self.hangs:
            await asyncio.get_running_loop().create_future()

    def stored(self, key: str = KEY) -> Document | None:
        """What is there now."""
        data = self._documents.get(key, (None,))[0]
        return None if data is None else dict(json.loads(data))

    def plant(self, data: bytes, key: str = KEY) -> None:
        """Somebody else's writing."""
        self._documents[key] = (data, float("inf"), 0, "")


class Kept:
    """A store, its backend, and what it told."""

    def __init__(self) -> None:
        self.backend = Faulty()
        self.errors: Counter[str] = Counter()
        self.ups: list[int] = []
        self.times: list[float] = []
        self.store = self.another()

    def another(self) -> SessionStore:
        """The store of another process, with the same backend."""
        return SessionStore(
            self.backend,
            on_error=lambda kind: self.errors.update([kind]),
            on_time=self.times.append,
            on_up=self.ups.append,
        )

    async def settle(self, seconds: float = 0.1) -> None:
        """Let the writer work."""
        await asyncio.sleep(seconds)


@asynccontextmanager
async def store() -> AsyncIterator[Kept]:
    """A store that writes."""
    kept = Kept()
    kept.store.start()
    try:
        yield kept
    finally:
        kept.backend.hangs, kept.backend.fault = False, None
        await kept.store.aclose()


def state(text: str) -> Callable[[], Document]:
    """What a session would say of itself."""
    return lambda: {"state": text}


# -- what is kept ----------------------------------------------------------------------------------------------------


async def test_what_is_kept_is_versioned_json_under_a_prefix_with_an_age_limit() -> None:
    async with store() as kept:
        claim = kept.store.claim("s1")
        kept.store.keep(claim, state("greeting"))
        await kept.settle()
        document = {"version": 1, "epoch": 1, "holder": claim.holder, "state": "greeting"}
        assert kept.backend.written == [(KEY, document)]
        assert kept.backend.ttls == {3600}
        assert await kept.store.recall("s1") == document
        assert not kept.errors


async def test_the_latest_state_wins_and_those_before_it_are_not_even_written() -> None:
    async with store() as kept:
        claim = kept.store.claim("s1")
        for number in range(100):
            kept.store.keep(claim, state(f"state {number}"))
        await kept.settle()
        assert [document and document["state"] for _, document in kept.backend.written] == ["state 99"]


async def test_a_session_that_is_over_is_forgotten() -> None:
    async with store() as kept:
        claim = kept.store.claim("s1")
        kept.store.keep(claim, state("greeting"))
        await kept.settle()
        kept.store.forget(claim)
        await kept.settle()
        assert kept.backend.stored() is None
        assert await kept.store.recall("s1") is None


async def test_a_session_that_is_over_is_not_written_again() -> None:
    async with store() as kept:
        claim = kept.store.claim("s1")
        kept.store.forget(claim)
        kept.store.keep(claim, state("late"))
        kept.store.forget(claim)
        await kept.settle()
        assert kept.backend.written == [(KEY, None)]


async def test_a_session_that_left_for_another_process_stays() -> None:
    async with store() as kept:
        claim = kept.store.claim("s1")
        kept.store.keep(claim, state("goodbye for now"))
        kept.store.leave(claim)
        kept.store.forget(claim)
        await kept.settle()
        assert kept.backend.stored()


async def test_the_memory_backend_forgets_what_is_too_old_and_the_oldest_of_too_many() -> None:
    now = 0.0
    backend = MemoryBackend(limit=2, clock=lambda: now)
    claim = Claim("s", 1, "a", lambda: None)
    for name in ("a", "b", "c"):
        await backend.write(name, claim, b"{}", 10)
    assert [await backend.read(name) for name in ("a", "b", "c")] == [None, b"{}", b"{}"]
    now = 10.0
    assert await backend.read("c") is None


# -- recall ----------------------------------------------------------------------------------------------------------


async def test_what_still_waits_is_recalled() -> None:
    async with store() as kept:
        kept.backend.fault = "connection"
        kept.store.keep(kept.store.claim("s1", epoch=4), state("greeting"))
        assert await kept.store.recall("s1") == {"state": "greeting", "epoch": 4}


async def test_what_is_being_written_is_recalled() -> None:
    async with store() as kept:
        kept.backend.hangs = True
        kept.store.keep(kept.store.claim("s1"), state("greeting"))
        await kept.settle()
        asked = kept.backend.asked
        assert await kept.store.recall("s1") == {"state": "greeting", "epoch": 1}
        assert kept.backend.asked == asked


async def test_a_session_that_waits_to_be_forgotten_is_not_recalled() -> None:
    async with store() as kept:
        claim = kept.store.claim("s1")
        kept.store.keep(claim, state("greeting"))
        await kept.settle()
        kept.backend.fault = "full"
        kept.store.forget(claim)
        assert await kept.store.recall("s1") is None
        await kept.settle()
        assert await kept.store.recall("s1") is None


HEAD = b'{"version": 1, "epoch": 1, "holder": "00"'


@pytest.mark.parametrize(
    "data",
    [
        pytest.param(b"", id="nothing"),
        pytest.param(HEAD, id="half a document"),
        pytest.param(b"\x80\x81", id="no UTF-8"),
        pytest.param(b"[]", id="no object"),
        pytest.param(b"null", id="null"),
        pytest.param(b'{"state": "greeting"}', id="no version"),
        pytest.param(b'{"version": 2, "epoch": 1, "holder": "00"}', id="another version"),
        pytest.param(b'{"version": true, "epoch": 1, "holder": "00"}', id="a version that is no number"),
        pytest.param(b'{"version": 1}', id="no epoch"),
        pytest.param(b'{"version": 1, "epoch": -1}', id="a negative epoch"),
        pytest.param(b'{"version": 1, "epoch": 1e400}', id="an endless epoch"),
        pytest.param(b'{"version": 1, "epoch": ' + b"9" * 5000 + b"}", id="a number of 5000 digits"),
        pytest.param(b"[" * 100_000, id="nested too deeply"),
        pytest.param(HEAD + b', "x": "' + b"x" * (512 * 1024) + b'"}', id="too large"),
    ],
)
async def test_s19_what_is_not_ours_is_discarded_and_counted(data: bytes) -> None:
    async with store() as kept:
        kept.backend.plant(data)
        assert await kept.store.recall("s1") is None
        assert kept.errors == {"discarded": 1}
        assert kept.store.up


GOOD: Document = {
    "session_id": "s1",
    "agent_id": "bench",
    "private": {"owner": "ab"},
    "turn_count": 2,
    "machine": {},
    "epoch": 3,
}


def test_a_stored_session_is_read_back() -> None:
    found = recalled("s1", GOOD)
    assert found is not None
    assert (found.agent_id, found.private, found.turn_count, found.epoch) == ("bench", {"owner": "ab"}, 2, 3)


@pytest.mark.parametrize(
    "damage",
    [
        {"session_id": "s2"},
        {"agent_id": None},
        {"agent_id": ["bench"]},
        {"private": None},
        {"private": {"owner": 5}},
        {"private": {"owner": "\u00e9"}},
        {"machine": []},
        {"turn_count": "2"},
        {"turn_count": -1},
        {"turn_count": True},
        {"epoch": None},
    ],
)
def test_a_document_of_another_form_is_no_session(damage: dict[str, Any]) -> None:
    assert recalled("s1", {**GOOD, **damage}) is None


# -- what cannot be stored -------------------------------------------------------------------------------------------


def nested() -> Document:
    deep: Document = {}
    for _ in range(100_000):
        deep = {"a": deep}
    return deep


def circular() -> Document:
    ring: Document = {}
    ring["ring"] = ring
    return ring


def cannot() -> Document:
    raise TypeError("cannot pickle '_thread.lock' object")


@pytest.mark.parametrize(
    ("describe", "kind"),
    [
        pytest.param(lambda: {"state": {1, 2}}, "not_json", id="a set"),
        pytest.param(lambda: {"state": float("nan")}, "not_json", id="no number"),
        pytest.param(circular, "not_json", id="a circle"),
        pytest.param(nested, "not_json", id="nested too deeply"),
        pytest.param(cannot, "not_json", id="what cannot be copied"),
        pytest.param(lambda: {"state": "x" * 600_000}, "too_large", id="too large"),
    ],
)
async def test_what_cannot_be_stored_is_counted_and_an_older_state_does_not_pass_for_it(
    describe: Callable[[], Document], kind: str
) -> None:
    async with store() as kept:
        bad, good = kept.store.claim("s1"), kept.store.claim("s2")
        kept.store.keep(bad, state("older"))
        await kept.settle()
        kept.store.keep(bad, describe)
        kept.store.keep(good, state("greeting"))
        await kept.settle()
        assert kept.errors == {kind: 1}
        assert kept.backend.stored() is None
        assert kept.backend.stored("fastagent:session:s2") is not None
        assert kept.store.up
        kept.store.keep(bad, state("better"))
        await kept.settle()
        assert kept.backend.stored() is not None


@pytest.mark.parametrize("text", ["\ud83d", "gr\u00fc\u00df dich", "\U0001f600", "\x00", "\u2028"])
async def test_any_text_can_be_stored_half_characters_too(text: str) -> None:
    async with store() as kept:
        kept.store.keep(kept.store.claim("s1"), state(text))
        await kept.settle()
        document = await kept.store.recall("s1")
        assert document is not None
        assert document["state"] == text
        assert not kept.errors


# -- a store that is away --------------------------------------------------------------------------------------------


async def test_f11_what_could_not_be_written_is_written_within_five_seconds_of_the_stores_return() -> None:
    async with store() as kept:
        kept.backend.fault = "connection"
        claim = kept.store.claim("s1")
        for number in range(5):
            kept.store.keep(claim, state(f"state {number}"))
            await kept.settle(12.0)
        assert not kept.store.up
        assert kept.ups == [0]
        assert kept.errors.keys() == {"connection"}
        assert 30 < kept.errors["connection"] < 120  # it tries again and again, but not more often than that
        kept.backend.fault = None
        await kept.settle(4.0)
        assert kept.ups == [0, 1]
        stored = kept.backend.stored()
        assert stored is not None
        assert stored["state"] == "state 4"


async def test_f11_a_store_that_comes_back_empty_is_given_every_live_sessions_state() -> None:
    async with store() as kept:
        for name in ("s1", "s2"):
            kept.store.keep(kept.store.claim(name), state("quiet"))
        over = kept.store.claim("s3")
        kept.store.keep(over, state("gone"))
        kept.store.forget(over)
        await kept.settle()
        kept.backend.fault = "connection"
        await kept.settle(10.0)
        kept.backend._documents.clear()
        kept.backend.fault = None
        await kept.settle(4.0)
        assert sorted(kept.backend._documents) == ["fastagent:session:s1", "fastagent:session:s2"]


async def test_a_store_that_answers_pings_but_takes_nothing_is_not_up() -> None:
    async with store() as kept:
        await kept.settle(5.0)
        kept.backend.fault, kept.backend.takes_deletions = "full", True
        kept.store.keep(kept.store.claim("s1"), state("greeting"))
        await kept.settle(10.0)
        kept.store.forget(kept.store.claim("s2"))
        await kept.settle(10.0)
        assert kept.ups == [0]
        assert kept.errors.keys() == {"full"}
        kept.backend.fault = None
        await kept.settle(4.0)
        assert kept.ups == [0, 1]


async def test_a_store_that_takes_no_state_any_more_is_up_again_when_nobody_wants_it_to() -> None:
    async with store() as kept:
        kept.backend.fault, kept.backend.takes_deletions = "full", True
        claim = kept.store.claim("s1")
        kept.store.keep(claim, state("greeting"))
        await kept.settle(3.0)
        kept.store.forget(claim)
        await kept.settle(3.0)
        assert kept.ups == [0, 1]


async def test_a_backend_that_hangs_forever_holds_nobody_up() -> None:
    async with store() as kept:
        kept.backend.hangs = True
        loop = asyncio.get_running_loop()
        began = loop.time()
        claim = kept.store.claim("s1")
        kept.store.keep(claim, state("greeting"))
        kept.store.forget(kept.store.claim("s2"))
        assert loop.time() == began
        assert await kept.store.recall("s3") is None
        assert loop.time() - began <= 0.8
        assert kept.errors.keys() == {"timeout"}
        began = loop.time()
        await kept.store.aclose()
        assert loop.time() - began <= 1.3
        assert kept.backend.closed


async def test_a_recall_is_tried_again_before_a_session_is_given_up() -> None:
    async with store() as kept:
        kept.backend.plant(HEAD + b"}")
        kept.backend.hangs = True
        asyncio.get_running_loop().call_later(0.3, setattr, kept.backend, "hangs", False)
        assert await kept.store.recall("s1") is not None


async def test_no_more_than_two_thousand_sessions_wait_and_the_longest_waiting_are_dropped() -> None:
    async with store() as kept:
        kept.backend.fault = "connection"
        for number in range(2010):
            kept.store.keep(kept.store.claim(f"s{number}"), state("greeting"))
        assert kept.errors["dropped"] == 10
        assert await kept.store.recall("s9") is None
        assert await kept.store.recall("s10") is not None
        kept.backend.fault = None
        await kept.settle(4.0)
        assert kept.store.up


async def test_closing_writes_what_waits() -> None:
    kept = Kept()
    kept.store.start()
    kept.store.start()  # twice is fine
    for number in range(50):
        kept.store.keep(kept.store.claim(f"s{number}"), state("greeting"))
    await kept.store.aclose()
    assert len(kept.backend.written) == 50
    assert kept.backend.closed
    await kept.store.aclose()
    names = {task.get_name() for task in asyncio.all_tasks()}
    assert not names & {"store", "store-watch"}


async def test_closing_has_patience_with_a_store_that_is_slow_but_not_for_ever(
    caplog: pytest.LogCaptureFixture,
) -> None:
    kept = Kept()
    kept.backend.fault = "read_only"
    kept.store.start()
    kept.store.keep(kept.store.claim("s1"), state("greeting"))
    began = asyncio.get_running_loop().time()
    await kept.store.aclose(patience_s=3.0)
    assert asyncio.get_running_loop().time() - began == pytest.approx(3.0)
    assert "sessions were not stored" in caplog.text


async def test_closing_tries_again_at_once_what_has_just_failed() -> None:
    kept = Kept()
    kept.backend.fault = "connection"
    kept.store.start()
    kept.store.keep(kept.store.claim("s1"), state("goodbye"))
    await kept.settle()
    kept.backend.fault = None
    await kept.store.aclose(patience_s=0.5)
    assert [key for key, _ in kept.backend.written] == [KEY]


async def test_closing_ends_a_task_whose_client_has_swallowed_its_cancellation() -> None:
    kept = Kept()
    swallowed = []

    async def ping() -> None:
        try:
            await asyncio.sleep(0.2)
        except asyncio.CancelledError:
            swallowed.append(1)

    kept.backend.ping = ping  # type: ignore[method-assign]
    kept.store.start()
    await kept.settle()
    async with asyncio.timeout(3.0):
        await kept.store.aclose()
    assert swallowed


async def test_every_operation_that_was_answered_is_timed() -> None:
    async with store() as kept:
        kept.store.keep(kept.store.claim("s1"), state("greeting"))
        await kept.settle()
        assert len(kept.times) == 2  # a ping, a write
        kept.backend.fault = "connection"
        await kept.settle(10.0)
        assert len(kept.times) == 2


# -- who holds a session ---------------------------------------------------------------------------------------------


async def test_the_newer_claim_wins_and_the_older_one_is_told_once_and_writes_no_more() -> None:
    async with store() as kept:
        lost: list[str] = []
        old = kept.store.claim("s1", on_lost=lambda: lost.append("old"))
        kept.store.keep(old, state("at a"))
        await kept.settle()
        other = kept.another()
        other.start()
        new = other.claim("s1", epoch=2, on_lost=lambda: lost.append("new"))
        other.keep(new, state("at b"))
        await kept.settle()
        for text in ("at a, still", "at a, again"):
            kept.store.keep(old, state(text))
            await kept.settle()
        kept.store.forget(old)
        await kept.settle()
        stored = kept.backend.stored()
        assert stored is not None
        assert (stored["state"], stored["epoch"]) == ("at b", 2)
        assert lost == ["old"]
        assert kept.errors == {"superseded": 1}
        other.forget(new)
        await kept.settle()
        assert kept.backend.stored() is None
        await other.aclose()


async def test_an_older_sessions_end_does_not_forget_the_newer_ones_state() -> None:
    async with store() as kept:
        old = kept.store.claim("s1")
        kept.store.keep(old, state("first"))
        await kept.settle()
        kept.store.keep(kept.store.claim("s1", epoch=2), state("second"))
        kept.store.forget(old)
        await kept.settle()
        stored = kept.backend.stored()
        assert stored is not None
        assert stored["state"] == "second"
        assert not kept.errors


async def test_of_two_that_go_on_with_one_session_at_once_the_first_to_write_has_it() -> None:
    async with store() as kept:
        lost: list[int] = []
        first, second = (kept.store.claim("s1", epoch=2, on_lost=lambda at=at: lost.append(at)) for at in (1, 2))  # type: ignore[misc]
        kept.store.keep(first, state("first"))
        await kept.settle()
        kept.store.keep(second, state("second"))
        await kept.settle()
        stored = kept.backend.stored()
        assert stored is not None
        assert stored["state"] == "first"
        assert lost == [2]


async def test_a_new_session_with_an_id_in_use_elsewhere_takes_nothing_and_goes_on_unstored(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async with store() as kept:
        lost: list[str] = []
        kept.store.keep(kept.store.claim("s1"), state("theirs"))
        await kept.settle()
        mine = kept.store.claim("s1", on_lost=lambda: lost.append("mine"))
        kept.store.keep(mine, state("mine"))
        await kept.settle()
        stored = kept.backend.stored()
        assert stored is not None
        assert stored["state"] == "theirs"
        assert not lost
        assert "its id is in use elsewhere" in caplog.text


# -- the settings ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("redis://redis.example:6380/2", {"host": "redis.example", "port": 6380, "db": 2}),
        ("redis://:s3cret@h", {"password": "s3cret"}),
        ("redis://ann:p%40ss@h", {"username": "ann", "password": "p@ss"}),
        ("rediss://h?ssl_ca_certs=/etc/ca.pem", {"ssl_ca_certs": "/etc/ca.pem", "host": "h"}),
        ("rediss://h?ssl_cert_reqs=none", {"ssl_cert_reqs": "none"}),
        ("unix:///run/redis.sock?db=3", {"path": "/run/redis.sock", "db": 3}),
    ],
)
def test_passwords_tls_and_sockets_are_taken_from_the_url(url: str, expected: dict[str, Any]) -> None:
    pool = RedisBackend(url)._redis.connection_pool
    assert {name: pool.connection_kwargs[name] for name in expected} == expected
    assert ("SSL" in pool.connection_class.__name__) is url.startswith("rediss")


@pytest.mark.parametrize(
    "url", ["localhost:6379", "http://h", "redis://:topsecret#1@h", "redis://h/0?topsecret=1", "redis://h:topsecret"]
)
def test_a_url_that_is_none_is_one_line_without_the_password(url: str) -> None:
    with pytest.raises(ValueError, match="REDIS_URL is no") as caught:
        Gateway(Settings(REDIS_URL=url))
    assert "topsecret" not in str(caught.value)


async def test_health_is_degraded_only_where_redis_was_configured() -> None:
    for url, reasons in ((None, []), ("redis://h", ["the session store does not answer"])):
        gateway = Gateway(Settings(REDIS_URL=url))
        gauge = "fastagent_store_up"
        assert gateway.metrics.registry.get_sample_value(gauge) == 1
        gateway._store._failed(StoreError("connection"))
        assert gateway._weaknesses() == reasons
        assert gateway.metrics.registry.get_sample_value(gauge) == 0
        gateway._store._answered()
        assert gateway._weaknesses() == []
        assert gateway.metrics.registry.get_sample_value(gauge) == 1
        errors = gateway.metrics.registry.get_sample_value("fastagent_store_errors_total", {"kind": "connection"})
        assert errors == 1


def test_the_numbers_of_the_reliability_page_are_those_of_the_store() -> None:
    assert (module._LIMIT_S, module._TTL_S) == (0.25, 3600)
    assert module._RETRY_S + module._LOOK_S + 2 * module._LIMIT_S < 5.0
