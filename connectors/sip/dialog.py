"""Dialogs: who talks to whom by which way (RFC 3261 section 12), and the session timer (RFC 4028)."""

from dataclasses import dataclass
from typing import Literal

from fastagent.connectors.sip.actions import Address
from fastagent.connectors.sip.flow import address_of, flow_of_callee, flow_of_caller
from fastagent.connectors.sip.grammar import NUMBER, Malformed, param, parse_params
from fastagent.connectors.sip.headers import Headers, NameAddr
from fastagent.connectors.sip.message import Request, Response
from fastagent.connectors.sip.requests import Items, tagged
from fastagent.connectors.sip.uri import Uri, is_numeric

MIN_SE = 90
MAX_LONGER = 3
"""So often a peer may find an interval too short."""


@dataclass(slots=True)
class Dialog:
    """One peer relationship. `local` and `remote` are the whole From and To, with their tags."""

    call_id: str
    local: str
    remote: str
    target: str
    """The peer's Contact: where requests are for."""
    route: tuple[str, ...] = ()
    local_seq: int = 0
    remote_seq: int | None = None
    flow: Address | None = None
    """Where requests go instead of the target's own address: a connection that is there, or out through a NAT."""
    home: Address | None = None
    """The name whose server that is: where a connection is opened anew if that one is gone."""

    @property
    def remote_tag(self) -> str:
        """The peer's tag; "" from a phone of RFC 2543."""
        return NameAddr.parse(self.remote).tag

    @property
    def local_tag(self) -> str:
        """Ours."""
        return NameAddr.parse(self.local).tag

    def addressed(self) -> tuple[str, Items, Address]:
        """Return Request-URI, Route headers and the next hop.

        A first route without `lr` is a strict router's: it wants itself in the Request-URI, and the target at the
        end of the routes (section 12.2.1.1).
        """
        if not self.route:
            return self.target, (), self.flow or address_of(Uri.parse(self.target))
        first = NameAddr.parse(self.route[0]).uri
        hop = address_of(first)
        if first.param("lr") is not None:
            return self.target, tuple(("Route", value) for value in self.route), hop
        rest = (*self.route[1:], f"<{self.target}>")
        return str(first.without("method")), tuple(("Route", value) for value in rest), hop

    def request(self, method: str, via: str, contact: str, items: Items = (), body: bytes = b"") -> Request:
        """Make the next request; an ACK is made by `ack`."""
        self.local_seq += 1
        return self._request(method, self.local_seq, via, (("Contact", contact), *items) if contact else items, body)

    def ack(self, number: int, via: str, items: Items = (), body: bytes = b"") -> Request:
        """Acknowledge a 2xx: a transaction of its own, with the INVITE's number (section 13.2.2.4)."""
        return self._request("ACK", number, via, items, body)

    def _request(self, method: str, number: int, via: str, items: Items, body: bytes) -> Request:
        uri, routes, _ = self.addressed()
        common = (
            ("Via", via),
            *routes,
            ("Max-Forwards", "70"),
            ("From", self.local),
            ("To", self.remote),
            ("Call-ID", self.call_id),
            ("CSeq", f"{number} {method}"),
        )
        return Request(method, uri, Headers((*common, *items)), body)

    def refresh_target(self, headers: Headers, source: Address | None = None) -> None:
        """Take the peer's new Contact, if it gives one that can be read (section 12.2.2)."""
        contact = contact_of(headers)
        if contact is not None:
            self.target = str(contact)
            if source is not None and not self.route and self.home is None:
                self.flow = flow_of_caller(headers, contact, source)


def dialog_of_caller(request: Request, tag: str, source: Address) -> Dialog:
    """Begin a dialog from an INVITE (section 12.1.1). A phone of RFC 2543 may give no Contact: its From must do."""
    contact = contact_of(request.headers) or request.from_.uri
    route = tuple(request.headers.listed("record-route"))
    return Dialog(
        request.call_id,
        tagged(request.headers.get("to") or "", tag),
        request.headers.get("from") or "",
        str(contact),
        route,
        remote_seq=request.cseq.number,
        flow=flow_of_caller(request.headers, contact, source),
    )


def dialog_of_callee(request: Request, response: Response, to: Address, place: Address) -> Dialog:
    """Begin a dialog from an answer to our INVITE (section 12.1.2), which was for `to` and went to a place: the routes
    are turned round."""
    contact = contact_of(response.headers) or Uri.parse(request.uri)
    route = tuple(reversed(response.headers.listed("record-route")))
    at_home = flow_of_callee(contact, to, route) is not None
    return Dialog(
        request.call_id,
        request.headers.get("from") or "",
        response.headers.get("to") or "",
        str(contact),
        route,
        local_seq=request.cseq.number,
        flow=place if at_home else None,  # that one of the name's servers has the call
        home=to if at_home and not is_numeric(to.host) else None,
    )


def contact_of(headers: Headers) -> Uri | None:
    """Return the address in Contact, without what must not be in a Request-URI."""
    try:
        values = headers.listed("contact")
        uri = NameAddr.parse(values[0]).uri if values else None
    except Malformed:
        return None
    return uri.without("method") if uri is not None and uri.is_sip else None


@dataclass(frozen=True, slots=True)
class SessionTimer:
    """How long a session lives without a refresh, and who gives it."""

    interval_s: int
    refresher: Literal["us", "them"]

    @property
    def due_s(self) -> float:
        """After so many seconds it is refreshed by us, or given up (section 10)."""
        if self.refresher == "us":
            return self.interval_s / 2
        return self.interval_s - min(32.0, self.interval_s / 3)


def asked_interval(headers: Headers) -> tuple[int, str] | None:
    """Return the interval of Session-Expires and its refresher parameter; None where there is none worth the name."""
    text = headers.get("session-expires")
    if text is None:
        return None
    number, semicolon, rest = text.partition(";")
    number = number.strip(" \t")
    if not NUMBER.fullmatch(number) or len(number) > 9:
        return None
    try:
        return int(number), (param(parse_params(semicolon + rest), "refresher") or "").lower()
    except Malformed:
        return int(number), ""


def timer_of_request(request: Request) -> SessionTimer | None:
    """Return the timer that a caller asks for; he does the refreshing, if he can and does not say otherwise."""
    asked = asked_interval(request.headers)
    if asked is None:
        return None
    return SessionTimer(asked[0], "us" if asked[1] == "uas" or not can_refresh(request) else "them")


def can_refresh(request: Request) -> bool:
    """Whether a peer has session timers itself."""
    return "timer" in request.headers.tokens("supported") | request.headers.tokens("require")


def longer_interval(response: Response, interval_s: int) -> int | None:
    """Return the interval that a 422 asks for; None where that is no longer than what was asked for."""
    text = response.headers.get("min-se") or ""
    least = int(text) if NUMBER.fullmatch(text) and len(text) < 7 else MIN_SE
    return least if 0 < interval_s < least else None


def timer_of_response(response: Response) -> SessionTimer | None:
    """Return the timer that an answer to our request sets."""
    asked = asked_interval(response.headers)
    return SessionTimer(max(asked[0], MIN_SE), "them" if asked[1] == "uas" else "us") if asked else None


def timer_items(request: Request, timer: SessionTimer | None) -> Items:
    """Return the headers of a 2xx that tell of the timer."""
    if timer is None:
        return ()
    items: Items = (("Session-Expires", f"{timer.interval_s};refresher={'uas' if timer.refresher == 'us' else 'uac'}"),)
    return (("Require", "timer"), *items) if timer.refresher == "them" else items
