"""Where the requests of a dialog go (RFC 3261 section 12.2.1.1, RFC 3263, and what NATs make of them).

By the standard that is the peer's Contact, or the first route. But a phone behind a NAT is reached only at the place
that its packets come from, and one on a connection only there.
"""

import ipaddress
from dataclasses import replace

from fastagent.connectors.sip.actions import Address, Transport
from fastagent.connectors.sip.grammar import Malformed
from fastagent.connectors.sip.headers import Headers, Via
from fastagent.connectors.sip.uri import Uri, is_numeric


def address_of(uri: Uri) -> Address:
    """Return the next hop that an address means (RFC 3263 section 4.1, without NAPTR). The shell asks the DNS: for the
    port, too, where a name has none."""
    transport: Transport = "udp"
    wanted = (uri.param("transport") or "").lower()
    if uri.scheme == "sips" or wanted == "tls":
        transport = "tls"
    elif wanted == "tcp":
        transport = "tcp"
    if not uri.is_sip:
        raise Malformed("only SIP addresses have a place")
    hop = Address((uri.param("maddr") or uri.host).strip("[]"), uri.port or 0, transport)
    return replace(hop, port=hop.default_port) if not hop.port and is_numeric(hop.host) else hop


def flow_of_caller(headers: Headers, contact: Uri, source: Address) -> Address | None:
    """Return where to send instead of to the Contact of a request; None where that is its place.

    A proxy that passed it on and did not record itself as a route does not want to stay in the way.
    """
    if headers.get("record-route") is not None:
        return None
    vias = headers.listed("via")
    if len(vias) > 1:
        return source if _is_out_of_reach(contact, source) else None
    if source.reliable:
        return source
    return source if _is_translated(vias, source) or _is_out_of_reach(contact, source) else None


def flow_of_callee(contact: Uri, hop: Address, route: tuple[str, ...]) -> Address | None:
    """Return where to send instead of to the Contact of an answer: on our connection, if that leads to the same host;
    a certificate is of the name that we called."""
    if route:
        return None
    same = contact.host.strip("[]").lower() == hop.host.lower()
    if hop.transport == "tls" or (hop.reliable and same):
        return hop
    return hop if _is_out_of_reach(contact, hop) else None


def _is_translated(vias: list[str], source: Address) -> bool:
    """Whether a phone says that it sends from elsewhere than its packets come from."""
    try:
        via = Via.parse(vias[0])
    except (Malformed, IndexError):
        return False
    host = via.host.strip("[]")
    if not is_numeric(host):
        return False
    if ipaddress.ip_address(host) != ipaddress.ip_address(source.host):
        return True
    asked = any(name == "rport" for name, _ in via.params)
    return asked and (via.port or 5060) != source.port


def _is_out_of_reach(contact: Uri, source: Address) -> bool:
    """Whether a Contact is of a network of its own, and the peer is heard from everybody's."""
    host = contact.host.strip("[]")
    near = is_numeric(source.host) and not ipaddress.ip_address(source.host).is_global
    return is_numeric(host) and not ipaddress.ip_address(host).is_global and not near
