"""Who is heard at all: trusted networks, scanners, and how many requests a source may send (S17)."""

import ipaddress
from collections import Counter, OrderedDict
from collections.abc import Iterable
from dataclasses import dataclass, field

Network = ipaddress.IPv4Network | ipaddress.IPv6Network
LOOPBACK: tuple[Network, ...] = (ipaddress.ip_network("127.0.0.0/8"), ipaddress.ip_network("::1/128"))
_SCANNERS = ("friendly-scanner", "sipvicious", "sip-scan", "sundayddr", "pplsip", "vaxsipuseragent", "sipcli")
_MAX_SOURCES = 10_000
_FAILURES = 10
_FAILURE_WINDOW_S = 60.0
_BANNED_S = 600.0


def is_loopback(host: str) -> bool:
    """Whether a host is this machine itself."""
    return host in _THIS_MACHINE


def is_scanner(user_agent: str) -> bool:
    """Whether a User-Agent is one of the tools that look for open gateways."""
    name = user_agent.lower()
    return any(scanner in name for scanner in _SCANNERS)


class Trust:
    """Whose packets need no password, by their source; never by a header.

    Args:
        networks: that are trusted for good.
    """

    def __init__(self, networks: Iterable[Network]) -> None:
        self._networks = tuple(networks)
        self.addresses: frozenset[str] = frozenset()
        """Of a trunk, which a name stands for, as of now."""

    def __contains__(self, host: str) -> bool:
        try:
            address = ipaddress.ip_address(host.partition("%")[0])
        except ValueError:
            return False
        if isinstance(address, ipaddress.IPv6Address) and address.ipv4_mapped is not None:
            address = address.ipv4_mapped
        return str(address) in self.addresses or any(address in network for network in self._networks)


_THIS_MACHINE = Trust(LOOPBACK)


@dataclass(slots=True)
class Bucket:
    """Tokens that come back with time."""

    size: float
    per_s: float
    level: float
    at: float

    def take(self, now: float) -> bool:
        """Take one, if there is one."""
        self.level = min(self.size, self.level + (now - self.at) * self.per_s)
        self.at = now
        if self.level < 1:
            return False
        self.level -= 1
        return True


@dataclass(slots=True)
class _Source:
    bucket: Bucket
    failures: list[float] = field(default_factory=list)
    banned_until: float = 0.0


class Admission:
    """The door.

    Loopback is never held to a source's own limits, trusted or not: where it is not, it is a proxy's, who speaks for
    many, and one of them must not shut it for the others.

    Args:
        trust: peers that have only a bucket for all of them, of their own: strangers cannot empty it.
        per_source: requests in two seconds from one address (of IPv6 from one /64: a host has all of it).
        overall: requests in two seconds from everywhere.
    """

    def __init__(self, trust: Trust, *, per_source: int = 30, overall: int = 2000) -> None:
        self._trust, self._per_source = trust, per_source
        self._strangers, self._trusted = (Bucket(overall, overall / 2, overall, 0.0) for _ in range(2))
        self._sources: OrderedDict[str, _Source] = OrderedDict()
        self.dropped: Counter[str] = Counter()
        """Messages that got no answer, by reason."""

    def barred(self, host: str, now: float) -> str:
        """Return why a request from there is not looked at, unless it is part of a call; "" where it is."""
        if self._is_free(host):
            return ""
        source = self._source(host, now)
        if now < source.banned_until:
            return "banned"
        return "" if source.bucket.take(now) else "source_rate"

    def admits_any(self, host: str, now: float) -> bool:
        """Whether there is room for another request that belongs to no call."""
        bucket = self._trusted if host in self._trust else self._strangers
        if bucket.take(now):
            return True
        self.dropped["rate"] += 1
        return False

    def failed(self, host: str, now: float) -> None:
        """A password was wrong: ten in a minute, and the address is not heard for ten."""
        if self._is_free(host):
            return
        source = self._source(host, now)
        source.failures = [*(at for at in source.failures if at > now - _FAILURE_WINDOW_S), now]
        if len(source.failures) >= _FAILURES:
            source.banned_until, source.failures = now + _BANNED_S, []

    def _is_free(self, host: str) -> bool:
        return host in self._trust or is_loopback(host)

    def _source(self, host: str, now: float) -> _Source:
        host = site(host)
        source = self._sources.pop(host, None)
        if source is None:
            source = _Source(Bucket(self._per_source, self._per_source / 2, self._per_source, now))
        self._sources[host] = source
        while len(self._sources) > _MAX_SOURCES:  # forged addresses must not fill the memory
            self._sources.popitem(last=False)
        return source


def site(host: str) -> str:
    """Return what counts as one source."""
    if ":" not in host:
        return host
    try:
        return str(ipaddress.ip_network((host.partition("%")[0], 64), strict=False))
    except ValueError:
        return host
