"""Who a request comes from: loopback, a trusted proxy, or the rest of the world."""

import ipaddress
from collections.abc import Iterable
from urllib.parse import urlsplit

from aiohttp import web

_FORWARDING = ("Forwarded", "X-Forwarded-For", "X-Forwarded-Host", "X-Forwarded-Proto", "X-Real-IP", "Via")

Network = ipaddress.IPv4Network | ipaddress.IPv6Network


def networks(texts: Iterable[str]) -> list[Network]:
    """Return networks in CIDR form; raises `ValueError`."""
    return [ipaddress.ip_network(text.strip(), strict=False) for text in texts if text.strip()]


def _address(request: web.BaseRequest) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    peer = request.transport.get_extra_info("peername") if request.transport else None
    try:
        return ipaddress.ip_address(peer[0]) if peer else None
    except ValueError:
        return None


def _loopback_name(host: str) -> bool:
    try:
        name = urlsplit(f"//{host}").hostname or ""
        if name == "localhost":
            return True
        return ipaddress.ip_address(name).is_loopback
    except ValueError:
        return False


def is_loopback(request: web.BaseRequest) -> bool:
    """Whether a request is local for certain: by its peer, by the names it uses, and without having been forwarded.

    A tunnel or a web page on the same machine comes from a loopback address too, but under another name.
    """
    address = _address(request)
    if address is None or not address.is_loopback or any(name in request.headers for name in _FORWARDING):
        return False
    origin = request.headers.get("Origin")
    return _loopback_name(request.host) and (
        origin is None or _loopback_name(origin.partition("://")[2].partition("/")[0])
    )


def forwarded_origin(request: web.BaseRequest, proxies: list[Network]) -> str | None:
    """Return the origin that a trusted proxy says the request was made to, as `https://host`; else None."""
    address = _address(request)
    if address is None or not any(address in network for network in proxies):
        return None

    def first(name: str) -> str:
        return request.headers.get(name, "").split(",")[0].strip()

    host = first("X-Forwarded-Host")
    if not host or "/" in host:
        return None
    scheme = first("X-Forwarded-Proto") or "https"
    port = first("X-Forwarded-Port")
    if port.isdecimal() and ":" not in host and port not in ("80", "443"):
        host = f"{host}:{port}"
    return f"{scheme if scheme in ('http', 'https') else 'https'}://{host}"
