"""Whose packets are played: the rules of symmetric RTP (RFC 4961), made safe against strangers.

We send to the address of the SDP until somebody is latched, and to them from then on. The SDP's own address is latched
by its first packet. Anybody else needs several packets in a row, of one source and a payload type that was negotiated,
shortly after the call was set up or changed, and never while the one we hear is alive: a phone behind NAT passes that
within 60 ms, who guesses a port does not.
"""

from dataclasses import dataclass

Address = tuple[str, int]

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
        self._heard_at = float("-inf")
        self._candidate: _Candidate | None = None
        self.strangers = 0

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

    def admits(self, address: Address, ssrc: int, now: float) -> bool:
        """Whether a packet of a negotiated type may be played."""
        if address == self._latched:
            self._heard_at, self._candidate = now, None
            return True
        if self._latched is None and address == self._announced:
            self._latch(address, now)
            return True
        if self._is_taking_over(address, ssrc, now):
            self._latch(address, now)
            return True
        self.strangers += 1
        return False

    def _latch(self, address: Address, now: float) -> None:
        self._latched, self._heard_at, self._candidate = address, now, None

    def _is_taking_over(self, address: Address, ssrc: int, now: float) -> bool:
        if now > self._settling_until or now - self._heard_at < _ALIVE_S:
            self._candidate = None
            return False
        one = self._candidate
        if one is None or (one.address, one.ssrc) != (address, ssrc):
            one = self._candidate = _Candidate(address, ssrc, 0)
        one.count += 1
        return one.count >= _IN_A_ROW
