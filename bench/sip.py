"""What SIP signalling costs: reading a message, and a whole call through two cores, in CPU time.

python -m bench.sip
"""

import ipaddress
import time
from collections.abc import Callable

from fastagent.connectors.sip.actions import Address, CallOffered, Send
from fastagent.connectors.sip.headers import NameAddr
from fastagent.connectors.sip.message import parse
from fastagent.connectors.sip.outbound import destination
from fastagent.connectors.sip.stack import AgentConfig
from fastagent.connectors.sip.user_agent import UserAgent

_ROUNDS = 2000
_CALLS = 500
_SDP = (
    "v=0\r\no=phone 1 1 IN IP4 127.0.0.1\r\ns=-\r\nc=IN IP4 127.0.0.1\r\nt=0 0\r\nm=audio 4000 RTP/AVP 0 8 9 101\r\n"
    "a=rtpmap:0 PCMU/8000\r\na=rtpmap:8 PCMA/8000\r\na=rtpmap:9 G722/8000\r\na=rtpmap:101 telephone-event/8000\r\n"
)
_INVITE = (
    "INVITE sip:desk@127.0.0.1 SIP/2.0\r\nVia: SIP/2.0/UDP 127.0.0.1:5070;branch=z9hG4bK{branch};rport\r\n"
    'Max-Forwards: 70\r\nFrom: "Ann" <sip:ann@127.0.0.1>;tag=1\r\nTo: <sip:desk@127.0.0.1>\r\nCall-ID: {branch}\r\n'
    "CSeq: 1 INVITE\r\nContact: <sip:ann@127.0.0.1:5070>\r\nAllow: INVITE, ACK, BYE, CANCEL, OPTIONS\r\n"
    f"Content-Type: application/sdp\r\nContent-Length: {len(_SDP)}\r\n\r\n{_SDP}"
)


def _agent() -> UserAgent:
    everyone = (ipaddress.ip_network("127.0.0.0/8"),)
    return UserAgent(AgentConfig("127.0.0.1", {"udp": 5060}, trusted=everyone, overall=10**9, max_calls=10**6))


def _invite(branch: int) -> bytes:
    return _INVITE.replace("{branch}", str(branch)).encode()


def _microseconds(work: Callable[[int], object], rounds: int) -> float:
    began = time.process_time()
    for at in range(rounds):
        work(at)
    return (time.process_time() - began) / rounds * 1e6


def parsing() -> float:
    """CPU microseconds to read an INVITE and its usual headers."""
    data = _invite(1)

    def read(at: int) -> None:
        message = parse(data)
        _ = message.via, message.cseq, message.to

    return _microseconds(read, _ROUNDS)


def offered() -> float:
    """CPU microseconds from an INVITE to its 100 and the event."""
    agent = _agent()
    return _microseconds(lambda at: agent.receive(_invite(at), ("127.0.0.1", 5070), "udp", at / 100), _CALLS)


def refused() -> float:
    """CPU microseconds for an INVITE from a stranger who gets 403: what a flood costs."""
    agent = UserAgent(AgentConfig("127.0.0.1", {"udp": 5060}, trusted=(), overall=10**9, per_source=10**9))
    return _microseconds(lambda at: agent.receive(_invite(at), ("127.0.0.1", 5070), "udp", at / 100), _CALLS)


def call() -> float:
    """CPU microseconds of a whole call, both sides: INVITE to BYE, eight messages."""
    phone, desk = _agent(), _agent()
    to = destination("sip:desk@127.0.0.1", NameAddr.parse("<sip:ann@127.0.0.1>"), Address("127.0.0.1", 5060))

    def carry(actions: list[object], sender: UserAgent, now: float) -> None:
        other = desk if sender is phone else phone
        for action in actions:
            if isinstance(action, Send):
                carry(list(other.receive(action.data, ("127.0.0.1", 5060), "udp", now)), other, now)
            elif isinstance(action, CallOffered):
                carry(list(sender.accept(action.call, ("127.0.0.1", 10000), now)), sender, now)

    def one(at: int) -> None:
        now = at / 10
        name, _, actions = phone.call(to, ("127.0.0.1", 20000), now)
        carry(list(actions), phone, now)
        carry(list(phone.hang_up(name, now)), phone, now)
        for agent in (phone, desk):
            agent.handle_timeout(now)

    return _microseconds(one, _CALLS)


def main() -> None:
    print(f"read an INVITE         {parsing():8.0f} us")
    print(f"INVITE to 100          {offered():8.0f} us")
    print(f"INVITE refused         {refused():8.0f} us")
    print(f"a call, both sides     {call():8.0f} us")


if __name__ == "__main__":
    main()
