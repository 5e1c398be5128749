"""A user agent at 192.0.2.1 and a phone at 127.0.0.1 that speaks by literal text; time is a number."""

import hashlib
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any, TypeVar

from fastagent.connectors.sip.actions import Action, Send, Transport
from fastagent.connectors.sip.message import Message, Request, Response, parse
from fastagent.connectors.sip.servers import NoNames, Servers
from fastagent.connectors.sip.stack import AgentConfig
from fastagent.connectors.sip.user_agent import UserAgent

CONFIG = AgentConfig("192.0.2.1", {"udp": 5060, "tcp": 5060, "tls": 5061})
LOCAL = ("192.0.2.1", 10000)
SDP = (
    "v=0\r\no=phone 1 1 IN IP4 192.0.2.9\r\ns=-\r\nc=IN IP4 192.0.2.9\r\nt=0 0\r\n"
    "m=audio 4000 RTP/AVP 0 8 101\r\na=rtpmap:101 telephone-event/8000\r\n"
)
E = TypeVar("E")


def tokens(seed: str = "") -> Callable[[int], bytes]:
    """Random bytes that are the same in every run."""
    count = 0

    def token(size: int) -> bytes:
        nonlocal count
        count += 1
        return hashlib.sha512(f"{seed}{count}".encode()).digest()[:size]

    return token


def wire(text: str, body: str = "") -> bytes:
    """A message from lines as they are read here; the blank line is added, and Content-Length if there is a body."""
    lines = [line.strip() for line in text.strip().split("\n")]
    if body:
        lines.append(f"Content-Length: {len(body)}")
    return ("\r\n".join(lines) + "\r\n\r\n" + body).encode()


@dataclass
class Rig:
    """The agent, and everything that it said."""

    config: AgentConfig = CONFIG
    now: float = 100.0
    source: tuple[str, int] = ("127.0.0.1", 5070)
    transport: Transport = "udp"
    sent: list[Send] = field(default_factory=list)
    events: list[Any] = field(default_factory=list)
    servers: Servers = field(default_factory=NoNames)
    ua: UserAgent = field(init=False)

    def __post_init__(self) -> None:
        self.ua = UserAgent(self.config, token=tokens(), servers=self.servers)

    def take(self, actions: list[Action]) -> list[Message]:
        """Keep what was said; return the messages among it."""
        sends = [one for one in actions if isinstance(one, Send)]
        self.sent += sends
        self.events += [one for one in actions if not isinstance(one, Send)]
        return [parse(one.data) for one in sends if one.data.strip()]

    def send(self, data: bytes) -> list[Message]:
        return self.take(self.ua.receive(data, self.source, self.transport, self.now))

    def responses(self, data: bytes) -> list[Response]:
        return [one for one in self.send(data) if isinstance(one, Response)]

    def status(self, data: bytes) -> int | None:
        """The status of the one answer; None for silence."""
        answers = self.responses(data)
        assert len(answers) <= 1
        return answers[0].status if answers else None

    def wait(self, seconds: float) -> list[tuple[float, Message]]:
        """Let time pass; return what was sent, and when (from the beginning of the wait)."""
        begin, found = self.now, []
        while (at := self.ua.next_timeout()) is not None and at <= begin + seconds:
            self.now = max(self.now, at)
            found += [(round(self.now - begin, 3), one) for one in self.take(self.ua.handle_timeout(self.now))]
        self.now = begin + seconds
        return found

    def next(self, seconds: float) -> tuple[float, Request]:
        """Let time pass until a request is sent, within so many seconds; return when, and the request."""
        begin = self.now
        while (at := self.ua.next_timeout()) is not None and at <= begin + seconds:
            self.now = max(self.now, at)
            for one in self.take(self.ua.handle_timeout(self.now)):
                if isinstance(one, Request):
                    return round(self.now - begin, 3), one
        raise AssertionError("no request was sent")

    def event(self, kind: type[E]) -> E:
        """The one event of a kind so far."""
        found = [one for one in self.events if isinstance(one, kind)]
        assert len(found) == 1, self.events
        return found[0]

    def has(self, kind: type[object]) -> bool:
        return any(isinstance(one, kind) for one in self.events)

    def answered(self, invite: bytes, *, ack: str | None = "") -> tuple[str, Response]:
        """Have a call answered and acknowledged; return its id and the 200."""
        from fastagent.connectors.sip.actions import CallOffered

        self.send(invite)
        call = [one for one in self.events if isinstance(one, CallOffered)][-1].call
        (ok,) = self.take(self.ua.accept(call, LOCAL, self.now))
        assert isinstance(ok, Response)
        assert ok.status == 200
        if ack is not None:
            assert self.send(request("ACK", 1, to_tag=ok.to.tag, branch="ack1", body=ack)) == []
        return call, ok


def request(
    method: str,
    number: int = 1,
    *,
    to_tag: str = "",
    branch: str = "",
    call_id: str = "call-1@phone",
    body: str = "",
    kind: str = "application/sdp",
    via: str = "SIP/2.0/UDP 127.0.0.1:5070",
    uri: str = "sip:desk@192.0.2.1",
    from_tag: str = "ft",
    extra: str = "",
    cseq_method: str = "",
) -> bytes:
    """A request as the phone writes it."""
    return wire(
        f"""{method} {uri} SIP/2.0
        Via: {via};branch=z9hG4bK{branch or f"{method}{number}"}
        Max-Forwards: 70
        From: "Ann" <sip:ann@127.0.0.1>;tag={from_tag}
        To: <sip:desk@192.0.2.1>{f";tag={to_tag}" if to_tag else ""}
        Call-ID: {call_id}
        CSeq: {number} {cseq_method or method}
        Contact: <sip:ann@127.0.0.1:5070>
        {extra.strip() or "X-Nothing: 1"}
        {f"Content-Type: {kind}" if body else "X-Empty: 1"}""",
        body,
    )


def invite(body: str = SDP, number: int = 1, **changes: Any) -> bytes:
    return request("INVITE", number, body=body, **changes)


def reply(asked: Request, status: int, *, tag: str = "callee", body: str = "", extra: str = "") -> bytes:
    """The phone's answer to a request of ours."""
    headers = asked.headers
    vias = "\n".join(f"Via: {value}" for value in headers.get_all("via"))
    to = headers.get("to") or ""
    return wire(
        f"""SIP/2.0 {status} Whatever
        {vias}
        From: {headers.get("from")}
        To: {to}{"" if "tag=" in to or status == 100 else f";tag={tag}"}
        Call-ID: {asked.call_id}
        CSeq: {asked.cseq}
        {"Contact: <sip:bob@127.0.0.1:5070>" if "Contact:" not in extra else "X-None: 1"}
        {extra.strip() or "X-Nothing: 1"}
        {"Content-Type: application/sdp" if body else "X-Empty: 1"}""",
        body,
    )


def changed(config: AgentConfig = CONFIG, **changes: Any) -> AgentConfig:
    return replace(config, **changes)
