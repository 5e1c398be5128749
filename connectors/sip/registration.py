"""Our registration at a provider or PBX (RFC 3261 section 10.2), so that it sends us its calls.

Refreshed at 50 to 80 % of the time that the registrar gives, at random; after a failure tried again after 30 s,
doubling to 30 min, with jitter. A wrong password ends it: who hammers gets banned.
"""

from collections import Counter
from dataclasses import dataclass, field
from functools import partial

from fastagent.connectors.sip.actions import Address, Registered, RegistrationFailed, Send
from fastagent.connectors.sip.dialog import MAX_LONGER
from fastagent.connectors.sip.digest import Credentials, DigestClient, Tries, is_final
from fastagent.connectors.sip.framer import PING
from fastagent.connectors.sip.grammar import NUMBER, Malformed
from fastagent.connectors.sip.headers import Headers, NameAddr
from fastagent.connectors.sip.message import Request, Response
from fastagent.connectors.sip.requests import Items
from fastagent.connectors.sip.stack import Stack
from fastagent.connectors.sip.transactions import Failure
from fastagent.connectors.sip.uri import Uri, sip_uri

_FIRST_RETRY_S = 30.0
_LAST_RETRY_S = 1800.0
_KEEP_ALIVE_S = 25.0
_RECONNECT_S = 5.0


@dataclass(frozen=True, slots=True)
class Registrar:
    """Where we register, and as whom."""

    domain: str
    credentials: Credentials
    hop: Address
    """Where the REGISTER goes: the registrar, or an outbound proxy."""
    user: str = ""
    """The user of the address of record, if it is not that of the password."""
    expires_s: int = 600
    keep_alive: bool = True


@dataclass(slots=True, eq=False)
class _Registration:
    id: str
    registrar: Registrar
    call_id: str
    tag: str
    digest: DigestClient
    contact: Uri
    number: int = 0
    expires_s: int = 600
    retry_s: float = _FIRST_RETRY_S
    tries: Tries = field(default_factory=Counter)
    lengthened: int = 0
    registered: bool = False
    left: Uri | None = None
    """Where we were before a NAT moved us: a binding to be removed."""
    leaving: bool = False
    place: Address | None = None
    """Where the registrar's answer came from: the server that knows us."""


class Registrations:
    """All of ours."""

    def __init__(self, stack: Stack) -> None:
        self._stack = stack
        self._all: dict[str, _Registration] = {}

    def start(self, registrar: Registrar, now: float) -> str:
        """Register, and stay registered."""
        stack = self._stack
        user = registrar.user or registrar.credentials.user
        registration = _Registration(
            stack.new_tag(),
            registrar,
            stack.new_tag(),
            stack.new_tag(),
            DigestClient(registrar.credentials, stack.token),
            stack.uri(registrar.hop.transport, user),
            expires_s=registrar.expires_s,
        )
        self._all[registration.id] = registration
        self._send(registration, now)
        return registration.id

    def stop(self, id_: str, now: float) -> None:
        """Have ourselves forgotten."""
        registration = self._all.get(id_)
        if registration is not None and not registration.leaving:
            registration.leaving, registration.expires_s = True, 0
            self._stack.timers.stop(registration)
            self._send(registration, now)

    def _send(self, registration: _Registration, now: float) -> None:
        registration.number += 1
        request, hop = self._request(registration), registration.registrar.hop
        answered = partial(self._answered, registration, registration.number, request.via.branch)
        self._stack.transactions.request(request, hop, answered, partial(self._failed, registration), now)

    def _request(self, registration: _Registration) -> Request:
        registrar = registration.registrar
        uri = f"sip:{registrar.domain}"
        record = sip_uri(registrar.user or registrar.credentials.user, registrar.domain)
        items: Items = (
            ("Via", self._stack.via(registrar.hop)),
            ("Max-Forwards", "70"),
            ("From", f"<{record}>;tag={registration.tag}"),
            ("To", f"<{record}>"),
            ("Call-ID", registration.call_id),
            ("CSeq", f"{registration.number} REGISTER"),
            ("Contact", f"<{registration.contact}>"),
            *((("Contact", f"<{registration.left}>;expires=0"),) if registration.left else ()),
            ("Expires", str(registration.expires_s)),
            *self._stack.capabilities(),
            *registration.digest.items("REGISTER", uri),
        )
        return Request("REGISTER", uri, Headers(items))

    # -- answers -----------------------------------------------------------------------------------------------------

    def _answered(self, registration: _Registration, number: int, branch: str, response: Response, now: float) -> None:
        if response.status < 200 or number != registration.number:
            return  # a late answer is for a request that another has replaced
        if response.status < 300:
            registration.place = self._stack.servers.where(registration.registrar.hop, branch)
            self._accepted(registration, response, now)
        elif response.status in (401, 407):
            if registration.digest.take(response, registration.tries):
                self._send(registration, now)
            elif is_final(response):
                self._end(registration, response.status)
            else:
                self._retry(registration, response.status, now)
        elif response.status == 423 and self._longer(registration, response):
            self._send(registration, now)
        else:
            self._retry(registration, response.status, now)

    def _accepted(self, registration: _Registration, response: Response, now: float) -> None:
        registration.tries.clear()
        registration.lengthened = 0
        registration.retry_s = _FIRST_RETRY_S
        if registration.leaving:
            self._forget(registration)
            self._stack.actions.append(Registered(registration.id, 0))
            return
        if registration.left is None and self._seen_elsewhere(registration, response):
            self._send(registration, now)
            return
        registration.registered, registration.left = True, None
        given = self._granted(registration, response)
        share = 0.5 + 0.3 * self._random()
        timers = self._stack.timers
        timers.start(registration, "refresh", now + max(given * share, 1.0), partial(self._refresh, registration))
        if registration.registrar.keep_alive and not timers.running(registration, "keep_alive"):
            timers.start(registration, "keep_alive", now + _KEEP_ALIVE_S, partial(self._keep_alive, registration))
        self._stack.actions.append(Registered(registration.id, given))

    def _refresh(self, registration: _Registration, now: float) -> None:
        self._send(registration, now)

    def hops(self) -> set[Address]:
        """Return where we are registered, or want to be."""
        return {registration.place or registration.registrar.hop for registration in self._all.values()}

    def broken(self, place: Address, now: float) -> None:
        """The connection to a registrar is gone, and with it the way that calls come to us: register anew."""
        for registration in self._all.values():
            if registration.registered and not registration.leaving and registration.place == place:
                registration.registered = False
                at = now + _RECONNECT_S * (0.2 + 0.8 * self._random())
                self._stack.timers.start(registration, "refresh", at, partial(self._refresh, registration))

    def _seen_elsewhere(self, registration: _Registration, response: Response) -> bool:
        """Take the address that a NAT gives us into the Contact, whenever it is another one (RFC 3581)."""
        params = dict(response.via.params)
        host, port = params.get("received") or registration.contact.host, params.get("rport") or ""
        if registration.registrar.hop.reliable or not NUMBER.fullmatch(port) or len(port) > 5:
            return False
        seen = sip_uri(registration.contact.user_text, host, int(port), registration.contact.params)
        if seen.same_place(registration.contact):
            return False
        registration.left, registration.contact = registration.contact, seen
        return True

    def _granted(self, registration: _Registration, response: Response) -> int:
        """Return the time that the registrar gives to our Contact; it lists everybody's."""
        texts = [response.headers.get("expires") or ""]
        try:
            contacts = [NameAddr.parse(value) for value in response.headers.listed("contact")]
        except Malformed:
            contacts = []
        texts = [one.param("expires") or "" for one in contacts if one.uri.same_place(registration.contact)] + texts
        granted = next((int(one) for one in texts if NUMBER.fullmatch(one) and len(one) < 8), registration.expires_s)
        return max(1, granted)

    def _longer(self, registration: _Registration, response: Response) -> bool:
        least = response.headers.get("min-expires") or ""
        if (
            not NUMBER.fullmatch(least)
            or len(least) > 6
            or int(least) <= registration.expires_s
            or registration.leaving
            or registration.lengthened >= MAX_LONGER
        ):
            return False
        registration.lengthened += 1
        registration.expires_s = int(least)
        return True

    def _failed(self, registration: _Registration, failure: Failure, now: float) -> None:
        self._retry(registration, 503 if failure == "transport" else 408, now)

    def _retry(self, registration: _Registration, status: int, now: float) -> None:
        if registration.leaving:
            self._end(registration, status)
            return
        registration.tries.clear()  # what comes after an outage says nothing of the password
        registration.registered = False
        delay = registration.retry_s * (0.75 + 0.5 * self._random())
        registration.retry_s = min(2 * registration.retry_s, _LAST_RETRY_S)
        self._stack.timers.stop(registration, "keep_alive")
        self._stack.timers.start(registration, "refresh", now + delay, partial(self._refresh, registration))
        self._stack.actions.append(RegistrationFailed(registration.id, status, delay))

    def _keep_alive(self, registration: _Registration, now: float) -> None:
        self._stack.actions.append(Send(PING, registration.place or registration.registrar.hop))
        timers = self._stack.timers
        timers.start(registration, "keep_alive", now + _KEEP_ALIVE_S, partial(self._keep_alive, registration))

    def _end(self, registration: _Registration, status: int) -> None:
        self._forget(registration)
        self._stack.actions.append(RegistrationFailed(registration.id, status, None))

    def _forget(self, registration: _Registration) -> None:
        self._stack.timers.stop(registration)
        self._all.pop(registration.id, None)

    def _random(self) -> float:
        return int.from_bytes(self._stack.token(2), "big") / 65535
