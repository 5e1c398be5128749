"""Two agents joined back to back over a link that loses, repeats and reorders by a seed; time is a number."""

import heapq
from dataclasses import dataclass, field
from itertools import count
from random import Random
from typing import Any

import pytest

from fastagent.connectors.sip.actions import (
    Action,
    Address,
    CallAnswered,
    CallConfirmed,
    CallEnded,
    CallOffered,
    DtmfInfo,
    Held,
    Registered,
    Resumed,
    Send,
    Transport,
)
from fastagent.connectors.sip.digest import Credentials
from fastagent.connectors.sip.framer import StreamFramer
from fastagent.connectors.sip.headers import NameAddr
from fastagent.connectors.sip.media import ALL_CODECS, Capabilities
from fastagent.connectors.sip.outbound import destination
from fastagent.connectors.sip.registration import Registrar
from fastagent.connectors.sip.stack import AgentConfig
from fastagent.connectors.sip.user_agent import UserAgent
from tests.connectors.sip.rig import tokens

PORTS: dict[Transport, int] = {"udp": 5060, "tcp": 5060}
HOSTS = {"phone": "127.0.0.1", "desk": "127.0.0.2"}


@dataclass
class Link:
    """Two agents, and what is between them."""

    seed: int = 0
    loss: float = 0.0
    duplicate: float = 0.0
    jitter_s: float = 0.0
    transport: Transport = "udp"
    media: Capabilities = field(default_factory=Capabilities)
    users: dict[str, str] = field(default_factory=dict)
    now: float = 0.0
    events: dict[str, list[Any]] = field(default_factory=lambda: {"phone": [], "desk": []})
    sent: int = 0

    def __post_init__(self) -> None:
        self._random, self._serial = Random(self.seed), count()
        self._air: list[tuple[float, int, str, bytes]] = []
        self._framers = {name: StreamFramer() for name in HOSTS}
        desk: dict[str, Any] = {"users": self.users, "trusted": ()} if self.users else {}
        self.agents = {
            "phone": UserAgent(AgentConfig(HOSTS["phone"], PORTS, "phone", media=self.media), token=tokens("p")),
            "desk": UserAgent(AgentConfig(HOSTS["desk"], PORTS, "desk", media=self.media, **desk), token=tokens("d")),
        }

    @property
    def desk(self) -> UserAgent:
        return self.agents["desk"]

    @property
    def phone(self) -> UserAgent:
        return self.agents["phone"]

    def do(self, name: str, actions: list[Action]) -> None:
        """Carry out what an agent said."""
        for action in actions:
            if isinstance(action, Send):
                self.sent += 1
                self._carry("desk" if name == "phone" else "phone", action.data)
                continue
            self.events[name].append(action)
            if isinstance(action, CallOffered):
                self.do(name, self.agents[name].ring(action.call, self.now))
                self.do(name, self.agents[name].accept(action.call, (HOSTS[name], 10000), self.now))

    def _carry(self, to: str, data: bytes) -> None:
        if self.transport != "udp":
            heapq.heappush(self._air, (self.now + 0.01, next(self._serial), to, data))
            return
        for _ in range(1 + (self._random.random() < self.duplicate)):
            if self._random.random() >= self.loss:
                at = self.now + 0.01 + self._random.random() * self.jitter_s
                heapq.heappush(self._air, (at, next(self._serial), to, data))

    def run(self, seconds: float) -> None:
        """Let time pass."""
        end = self.now + seconds
        while True:
            due = [at for agent in self.agents.values() if (at := agent.next_timeout()) is not None]
            due += [self._air[0][0]] if self._air else []
            if not due or min(due) > end:
                break
            self.now = max(self.now, min(due))
            self._step()
        self.now = end

    def _step(self) -> None:
        while self._air and self._air[0][0] <= self.now:
            _, _, to, data = heapq.heappop(self._air)
            source = (HOSTS["phone" if to == "desk" else "desk"], 5060)
            messages = [data] if self.transport == "udp" else self._pieces(to, data)
            for message in messages:
                self.do(to, self.agents[to].receive(message, source, self.transport, self.now))
        for name, agent in self.agents.items():
            self.do(name, agent.handle_timeout(self.now))

    def _pieces(self, to: str, data: bytes) -> list[bytes]:
        at = self._random.randrange(len(data))
        return [*self._framers[to].feed(data[:at]), *self._framers[to].feed(data[at:])]

    def call(self, password: str = "") -> str:
        caller = NameAddr.parse("<sip:phone@127.0.0.1>")
        credentials = Credentials("ann", password) if password else None
        to = destination(
            "sip:desk@127.0.0.2", caller, Address("127.0.0.2", 5060, self.transport), credentials=credentials
        )
        call, _, actions = self.phone.call(to, (HOSTS["phone"], 20000), self.now)
        self.do("phone", actions)
        return call

    def got(self, name: str, kind: type[Any]) -> list[Any]:
        return [event for event in self.events[name] if isinstance(event, kind)]

    def is_clean(self) -> bool:
        """Whether nothing is left of anything."""
        return all(
            (agent.calls, agent.transactions, agent.next_timeout()) == (0, 0, None) for agent in self.agents.values()
        )


@pytest.mark.parametrize("transport", ["udp", "tcp"])
def test_a_call_over_a_good_link(transport: Transport) -> None:
    link = Link(transport=transport, media=Capabilities(ALL_CODECS))
    call = link.call()
    link.run(1)
    (mine,), (theirs,) = link.got("phone", CallAnswered), link.got("desk", CallAnswered)
    assert (mine.media.local, mine.media.remote) == (theirs.media.remote, theirs.media.local)
    assert (mine.media.codec, mine.media.payload_type) == (theirs.media.codec, theirs.media.payload_type)
    assert link.got("desk", CallConfirmed)
    assert link.sent == 5  # INVITE, 100, 180, 200, ACK: nothing is repeated
    link.do("phone", link.phone.hang_up(call, link.now))
    link.run(60)
    assert link.got("desk", CallEnded)[0].reason == "hung_up"
    assert link.is_clean()


@pytest.mark.parametrize("seed", range(40))
def test_a_call_over_a_bad_link(seed: int) -> None:
    link = Link(seed, loss=0.3, duplicate=0.3, jitter_s=0.4)
    call = link.call()
    link.run(20)
    assert [len(link.got(name, CallAnswered)) for name in HOSTS] == [1, 1]
    link.do("phone", link.phone.change_media(call, link.now, hold=True))
    link.run(20)
    assert len(link.got("desk", Held)) == 1
    link.do("phone", link.phone.change_media(call, link.now, hold=False))
    link.run(20)
    assert len(link.got("desk", Resumed)) == 1
    link.do("phone", link.phone.send_dtmf(call, "7", link.now))
    link.run(20)
    assert [event.digit for event in link.got("desk", DtmfInfo)] == ["7"]
    link.do("desk", link.desk.hang_up(link.got("desk", CallOffered)[0].call, link.now))
    link.run(120)
    assert [len(link.got(name, CallEnded)) for name in HOSTS] == [1, 1]
    assert link.is_clean()


@pytest.mark.parametrize("seed", range(20))
def test_whatever_is_lost_nothing_is_left(seed: int) -> None:
    """At 70 % some calls fail; every one of them ends, once on each side, and everything is freed."""
    link = Link(seed, loss=0.7, duplicate=0.2, jitter_s=1.0)
    call = link.call()
    link.run(10)
    link.do("phone", link.phone.hang_up(call, link.now))
    link.run(10)
    for offered in link.got("desk", CallOffered):
        link.do("desk", link.desk.hang_up(offered.call, link.now))
    link.run(300)
    assert len(link.got("phone", CallEnded)) == 1
    assert len(link.got("desk", CallEnded)) == len(link.got("desk", CallOffered)) <= 1
    assert link.is_clean()


@pytest.mark.parametrize("seed", range(10))
def test_a_call_with_a_password_over_a_bad_link(seed: int) -> None:
    link = Link(seed, loss=0.2, duplicate=0.2, jitter_s=0.2, users={"ann": "secret"})
    call = link.call("secret")
    link.run(20)
    assert link.got("desk", CallOffered)[0].user == "ann"
    assert len(link.got("phone", CallAnswered)) == 1
    link.do("phone", link.phone.change_media(call, link.now, hold=True))
    link.run(20)
    assert len(link.got("desk", Held)) == 1
    link.run(61)  # the nonce is old by then: the desk asks again
    link.do("phone", link.phone.change_media(call, link.now, hold=False))
    link.run(20)
    assert len(link.got("desk", Resumed)) == 1
    link.do("phone", link.phone.hang_up(call, link.now))
    link.run(120)
    assert link.is_clean()


def test_a_registration_lives_for_an_hour_over_a_bad_link() -> None:
    link = Link(3, loss=0.2, duplicate=0.2, jitter_s=0.2, users={"ann": "secret"})
    registrar = Registrar("127.0.0.2", Credentials("ann", "secret"), Address("127.0.0.2", 5060), expires_s=120)
    registration, actions = link.phone.register(registrar, link.now)
    link.do("phone", actions)
    link.run(3600)
    assert 40 < len(link.got("phone", Registered)) < 80
    link.do("phone", link.phone.unregister(registration, link.now))
    link.run(120)
    assert link.got("phone", Registered)[-1].expires_s == 0
    assert link.is_clean()


def test_two_hundred_calls_leave_nothing() -> None:
    link = Link(1, loss=0.05)
    for _ in range(200):
        call = link.call()
        link.run(5)
        link.do("phone", link.phone.hang_up(call, link.now))
        link.run(1)
    link.run(100)
    assert len(link.got("desk", CallEnded)) == 200
    assert link.is_clean()
