"""Whose packets are played: the rules of symmetric RTP (RFC 4961), made safe against strangers.

We send to the address of the SDP until somebody is latched, and to them from then on. The SDP's own address is latched
by each of its packets, whoever was heard before: a private one never appears, and a thief that was first loses.

Anybody else needs several packets in a row, of one source and a payload type that was negotiated, and never while the
one we hear is alive: a phone behind NAT passes that within 60 ms. Nobody being heard, that is all, however late it
comes. Once somebody was heard, it must be shortly after the call was set up or changed; or else the packets are proven,
by SRTP, or go on with the very source that has fallen silent: a NAT that has rebound, since who has not seen the stream
does not know its SSRC.
"""

from dataclasses import dataclass

Address = tuple[str, int]
"""A host in numbers, written as `recvfrom` writes it, and a port."""

_IN_A_ROW = 3
_SETTLING_S = 5.0  # after set-up or re-INVITE
_ALIVE_S = 0.5


@dataclass(slots=True)
class _Candidate:
    address: Address
    ssrc: int
    count: int


class SourceRules:
    """One stream's.

    Args:
        announced: where the SDP says that the other side listens.
    """

    def __init__(self, announced: Address, now: float) -> None:
        self._announced = announced
        self._settling_until = now + _SETTLING_S
        self._latched: Address | None = None
        self._ssrc = 0  # of who is latched
        self._heard_at = 0.0
        self._candidate: _Candidate | None = None
        self.strangers = 0
        """Packets that were not admitted."""

    @property
    def destination(self) -> Address:
        """Where our packets go."""
        return self._latched or self._announced

    @property
    def latched(self) -> bool:
        """Whether somebody is heard."""
        return self._latched is not None

    def renegotiated(self, announced: Address, now: float) -> None:
        """The call was changed; another address means another phone, or its other port."""
        if announced != self._announced:
            self._announced, self._latched = announced, None
        self._settling_until = now + _SETTLING_S

    def admits(self, address: Address, ssrc: int, now: float, *, proven: bool = False) -> bool:
        """Whether a packet of a negotiated type may be played; `proven` says that it is authentic."""
        if address in (self._latched, self._announced) or self._takes_over(address, ssrc, now, proven):
            self._latched, self._ssrc, self._heard_at, self._candidate = address, ssrc, now, None
            return True
        self.strangers += 1
        return False

    def _takes_over(self, address: Address, ssrc: int, now: float, proven: bool) -> bool:
        if self._latched is not None:
            known = proven or ssrc == self._ssrc or now <= self._settling_until
            if not known or now - self._heard_at < _ALIVE_S:
                return False
        one = self._candidate
        if one is None or (one.address, one.ssrc) != (address, ssrc):
            one = self._candidate = _Candidate(address, ssrc, 0)
        one.count += 1
        return one.count >= _IN_A_ROW
