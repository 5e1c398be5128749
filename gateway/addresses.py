"""Which addresses the gateway may fetch: those that its environment names, and nothing that a document or model says.

An entry of the allow-list is a host (`api.example.com`, `*.example.com`): https only, public addresses only; or a whole
origin (`http://10.0.0.5:8080`), which is trusted as it stands.
"""

import ipaddress
from collections.abc import Iterable

from yarl import URL

_NAT64 = ipaddress.IPv6Network("64:ff9b::/96")
_COMPATIBLE = ipaddress.IPv6Network("::/96")


class Addresses:
    """The allow-list."""

    def __init__(self, entries: Iterable[str]) -> None:
        self._origins: set[URL] = set()
        self._hosts: set[str] = set()
        for entry in entries:
            if "://" in entry:
                self._origins.add(URL(entry).origin())
            else:
                self._hosts.add(entry.lower())

    def trusts_origin(self, url: URL) -> bool:
        """Whether the environment names exactly this origin, so that it may be a private address."""
        return url.origin() in self._origins

    def allows(self, url: URL) -> bool:
        """Whether this may be fetched, as far as its text tells; its resolution is checked by who fetches it."""
        if url.scheme not in ("http", "https") or not url.host or url.user is not None:
            return False
        if self.trusts_origin(url):
            return True
        if url.scheme != "https" or url.port != 443:
            return False
        host = url.host.lower()
        if _is_address(host) and not is_public(host):
            return False
        return host in self._hosts or any(entry.startswith("*.") and host.endswith(entry[1:]) for entry in self._hosts)


def _is_address(host: str) -> bool:
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True


def is_public(address: str) -> bool:
    """Whether an address is one of the internet at large."""
    found = ipaddress.ip_address(address)
    if isinstance(found, ipaddress.IPv6Address):
        inside = found.ipv4_mapped or found.sixtofour or _embedded(found)
        if inside is not None:  # an IPv4 address in IPv6 clothes leads where that one does
            found = inside
    return found.is_global and not found.is_multicast


def _embedded(address: ipaddress.IPv6Address) -> ipaddress.IPv4Address | None:
    """The IPv4 address of NAT64 (RFC 6052) and of the deprecated compatible form (RFC 4291, 2.5.5.1)."""
    if address in _NAT64 or address in _COMPATIBLE:
        return ipaddress.IPv4Address(int(address) & 0xFFFFFFFF)
    return None
