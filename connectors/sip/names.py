"""Where names are (RFC 3263): their servers by SRV, and the servers' addresses.

What was found is kept for a while, and so is the choice: whoever was registered at, or called through, goes on to be.
A server that does not answer is passed over until later; all parts of a transaction, an INVITE and its CANCEL for one,
go where it began all the same (section 4.3).
"""

import asyncio
import random
import socket
from collections import OrderedDict
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from fastagent.connectors.sip.actions import Address
from fastagent.connectors.sip.uri import is_numeric

if TYPE_CHECKING:
    from dns.asyncresolver import Resolver

KEEP_S = 60.0
"""How long an answer is believed."""
_AVOID_S = 600.0
_LOOKUP_S = 10.0
_SERVICES_S = 3.0
_MAX_NAMES = 256
_MAX_PLACES = 16
_MAX_PINNED = 16_384
_SERVICE = {"udp": "_sip._udp", "tcp": "_sip._tcp", "tls": "_sips._tcp"}


async def resolved(host: str, *, ipv6: bool) -> list[str]:
    """Return the addresses of a name, of one family; a socket would resolve it itself, and stop everything meanwhile.

    Raises:
        OSError, TimeoutError, UnicodeError: there are none.
    """
    if is_numeric(host):
        return [host]
    family = socket.AF_INET6 if ipv6 else socket.AF_INET
    async with asyncio.timeout(_LOOKUP_S):
        found = await asyncio.get_running_loop().getaddrinfo(host, None, family=family, type=socket.SOCK_DGRAM)
    return list(dict.fromkeys(str(one[4][0]) for one in found))


def own_address(host: str) -> str:
    """Return what phones are told, where we listen on all addresses: the one that this machine uses outwards."""
    if host not in ("0.0.0.0", "::"):
        return host
    outwards = "192.0.2.1" if host == "0.0.0.0" else "2001:db8::1"  # of documentation (RFC 5737, 3849): nothing is sent
    with socket.socket(socket.AF_INET if host == "0.0.0.0" else socket.AF_INET6, socket.SOCK_DGRAM) as one:
        try:
            one.connect((outwards, 9))
        except OSError:
            return "127.0.0.1" if host == "0.0.0.0" else "::1"
        return str(one.getsockname()[0])


@dataclass(frozen=True, slots=True)
class Service:
    """A SRV record (RFC 2782): a lower priority comes first, a higher weight more often; "" is the target of a service
    that is not offered."""

    priority: int
    weight: int
    port: int
    target: str


Lookup = Callable[[str], Awaitable[list[Service]]]


async def services(name: str, resolver: "Resolver | None" = None) -> list[Service]:
    """Return the SRV records of a name; none where there are none, or the DNS does not say.

    Args:
        name: such as `_sip._udp.example.com`.
        resolver: whom to ask; the machine's, if not given.
    """
    import dns.asyncresolver  # a tenth of a second, for those who need it
    import dns.exception
    import dns.rdtypes.IN.SRV

    try:
        resolver = resolver or dns.asyncresolver.Resolver()
        answer = await resolver.resolve(name + ".", "SRV", lifetime=_SERVICES_S)
    except (dns.exception.DNSException, OSError):
        return []
    records = [one for one in answer if isinstance(one, dns.rdtypes.IN.SRV.SRV)]
    return [Service(one.priority, one.weight, one.port, one.target.to_text().rstrip(".")) for one in records]


def ordered(found: list[Service]) -> list[Service]:
    """Return records in the order in which they are tried: by priority, within one at random by weight."""
    # An exponential of rate w comes first with probability w / sum: RFC 2782's draw, all places at once.
    return sorted(found, key=lambda one: (one.priority, random.expovariate(max(one.weight, 0.001))))


@dataclass(frozen=True, slots=True)
class Place:
    """One address of a server, and the priority of the server."""

    host: str
    port: int
    priority: int = 0


@dataclass(slots=True)
class _Known:
    """What is known of a name."""

    places: list[Place] = field(default_factory=list)
    chosen: Place | None = None
    until: float = 0.0
    avoided: dict[Place, float] = field(default_factory=dict)
    """Those that did not answer, until when they are passed over."""

    def place_at(self, where: Place) -> Place | None:
        """Return the place of that address, if it is one."""
        return next((one for one in self.places if (one.host, one.port) == (where.host, where.port)), None)

    def choose(self, now: float) -> None:
        """Stay, unless the place is gone, is avoided, or a better one is back."""
        self.avoided = {place: until for place, until in self.avoided.items() if until > now}
        open_ = [place for place in self.places if place not in self.avoided] or self.places
        best = min(place.priority for place in open_)
        if self.chosen not in open_ or self.chosen.priority > best:
            self.chosen = next(place for place in open_ if place.priority == best)


class Names:
    """What is known of names.

    Args:
        ipv6: which family we have.
        lookup: asks for SRV records.
    """

    def __init__(self, *, ipv6: bool = False, lookup: Lookup = services) -> None:
        self.ipv6, self._lookup = ipv6, lookup
        self._known: dict[Address, _Known] = {}
        self._pinned: OrderedDict[str, Place] = OrderedDict()

    def pin(self, key: str, place: Place) -> None:
        """Remember where something began: what belongs to it goes there, too, whatever its name comes to mean."""
        if key:
            self._pinned.setdefault(key, place)
            self._pinned.move_to_end(key)
            if len(self._pinned) > _MAX_PINNED:
                self._pinned.popitem(last=False)

    def pinned(self, key: str) -> Place | None:
        """Return where it began; None if it has not."""
        return self._pinned.get(key)

    def at_once(self, to: Address) -> Place | None:
        """Return where to send, if that is known without a question."""
        if is_numeric(to.host):
            return Place(to.host, to.port or to.default_port)
        known = self._known.get(to)
        return known.chosen if known is not None and known.until > self._now else None

    async def find(self, to: Address) -> list[Place]:
        """Return where an address is, the chosen place first.

        Raises:
            OSError, TimeoutError, UnicodeError: it is nowhere, and was nowhere before.
        """
        if (place := self.at_once(to)) is not None and is_numeric(to.host):
            return [place]
        if place is None:
            await self._ask(to)
        known = self._known[to]
        assert known.chosen is not None  # or nothing would have been found
        return [known.chosen, *(one for one in known.places if one != known.chosen)]

    async def _ask(self, to: Address) -> None:
        try:
            places = await self._places(to)
        except (OSError, TimeoutError, UnicodeError):
            if to not in self._known:
                raise
            places = self._known[to].places  # better an old answer than none
        known = self._known.get(to)
        if known is None:
            while len(self._known) >= _MAX_NAMES:
                del self._known[next(iter(self._known))]
            known = self._known[to] = _Known()
        known.places, known.until = places[:_MAX_PLACES], self._now + KEEP_S
        known.choose(self._now)

    async def _places(self, to: Address) -> list[Place]:
        """Look it up: by SRV where no port is given and the name has a domain (section 4.2), else directly."""
        found = await self._lookup(f"{_SERVICE[to.transport]}.{to.host}") if not to.port and "." in to.host else []
        if not found:
            return [Place(host, to.port or to.default_port) for host in await resolved(to.host, ipv6=self.ipv6)]
        places: list[Place] = []
        for one in ordered(found)[:_MAX_PLACES]:
            try:
                hosts = await resolved(one.target, ipv6=self.ipv6) if one.target else []
            except (OSError, TimeoutError, UnicodeError):
                continue
            places += [Place(host, one.port, one.priority) for host in hosts]
        if not places:
            raise OSError(f"none of the servers of {to.host} has an address")
        return list({(one.host, one.port): one for one in reversed(places)}.values())[::-1]

    def where(self, to: Address, branch: str) -> Address:
        """Return where something to an address began; the address itself, if it has not."""
        begun = self._pinned.get(branch)
        return Address(begun.host, begun.port, to.transport) if begun is not None else to

    def has_another(self, to: Address, branch: str) -> bool:
        """Whether a name has a server, not passed over, beside the one where something began: or beside the chosen."""
        known, begun = self._known.get(to), self._pinned.get(branch)
        if known is None:
            return False
        one = known.place_at(begun) if begun is not None else known.chosen
        return any(place != one and known.avoided.get(place, 0.0) <= self._now for place in known.places)

    def avoid(self, to: Address, place: Place | None = None) -> Place | None:
        """Pass over a place, or the chosen one, for a while: it did not answer. Return the one that is chosen now."""
        known = self._known.get(to)
        if known is None:
            return None
        place = known.place_at(place) if place is not None else known.chosen
        if place is not None:
            known.avoided[place] = self._now + _AVOID_S
            known.choose(self._now)
        return known.chosen

    @property
    def _now(self) -> float:
        return asyncio.get_running_loop().time()
