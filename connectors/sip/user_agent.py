"""The user agent: datagrams and decisions in, datagrams and events out; no socket, no task, no clock.

Its shell feeds `receive` with each datagram (or each message that a `StreamFramer` cut out of a stream), calls
`handle_timeout` when `next_timeout` says so, and carries out the actions that every method returns, in their order.

A request passes, in this order: the door (scanners, rates), its form, its transaction, its dialog, the password, the
room there is, and its description. Nothing is remembered of one that fails before the password.
"""

import secrets
from collections import Counter
from collections.abc import Callable, Iterable

from fastagent.connectors.sip.actions import (
    Action,
    Address,
    ChangeDone,
    EndReason,
    Send,
    TransferProgress,
    Transport,
)
from fastagent.connectors.sip.admission import is_scanner
from fastagent.connectors.sip.bodies import SDP
from fastagent.connectors.sip.call import Call, Change, Phase
from fastagent.connectors.sip.changes import Changes
from fastagent.connectors.sip.framer import PING, PONG
from fastagent.connectors.sip.grammar import Malformed
from fastagent.connectors.sip.in_call import InCall
from fastagent.connectors.sip.in_dialog import InDialog
from fastagent.connectors.sip.inbound import Inbound
from fastagent.connectors.sip.media import NegotiatedMedia
from fastagent.connectors.sip.message import Request, parse, stamped
from fastagent.connectors.sip.outbound import Destination, Outbound
from fastagent.connectors.sip.probes import Probes
from fastagent.connectors.sip.registrar import bindings
from fastagent.connectors.sip.registration import Registrar, Registrations
from fastagent.connectors.sip.reliable import Provisionals
from fastagent.connectors.sip.requests import Items
from fastagent.connectors.sip.servers import NoNames, Servers
from fastagent.connectors.sip.stack import AgentConfig, Stack
from fastagent.connectors.sip.transfer import Transfers, target_of
from fastagent.connectors.sip.uri import Uri
from fastagent.connectors.sip.validate import Refused, check_form, check_method

_DTMF_INFO = "application/dtmf-relay"


class UserAgent:
    """One user agent.

    Args:
        config: its settings.
        token: random bytes; a test may give its own.
        accepts: whether calls are taken right now; who asks how we are (OPTIONS) is told what a call would be.
        servers: which of a name's servers things went to.
    """

    def __init__(
        self,
        config: AgentConfig,
        *,
        token: Callable[[int], bytes] = secrets.token_bytes,
        accepts: Callable[[], bool] = lambda: True,
        servers: Servers | None = None,
    ) -> None:
        self._accepts = accepts
        self._stack = Stack(config, token, servers or NoNames())
        self._in_dialog = InDialog(self._stack)
        self._changes = Changes(self._stack, self._in_dialog)
        self._transfers = Transfers(self._stack, self._in_dialog)
        provisionals = Provisionals(self._stack)
        self._inbound = Inbound(self._stack, self._in_dialog, self._changes, provisionals)
        self._in_call = InCall(self._stack, self._inbound, self._changes, self._transfers, provisionals)
        self._outbound = Outbound(self._stack, self._in_dialog, self._changes, provisionals)
        self._registrations = Registrations(self._stack)
        self._probes = Probes(self._stack)

    @property
    def dropped(self) -> Counter[str]:
        """Messages that got no answer, by reason."""
        return self._stack.admission.dropped

    @property
    def refused(self) -> Counter[int]:
        """Requests refused, by status."""
        return self._stack.refused

    @property
    def wrong_passwords(self) -> int:
        """Those that came with a nonce that was given to their sender."""
        return self._stack.wrong_passwords

    @property
    def calls(self) -> int:
        """Calls that are not over."""
        return self._stack.live

    @property
    def transactions(self) -> int:
        """Transactions that are remembered."""
        return len(self._stack.transactions)

    @property
    def unanswered(self) -> int:
        """Requests of ours that have no final answer yet."""
        return self._stack.transactions.unanswered

    def address_for(self, call: str, target: str) -> str:
        """Return whom a transfer's target names: an address as it is, a number as one of the peer's.

        Raises:
            Malformed: it is no address, or there is no such call.
        """
        found = self._confirmed(call)
        if found is None:
            raise Malformed("there is no such call")
        return str(target_of(found, target))

    def media(self, call: str) -> NegotiatedMedia | None:
        """Return what is agreed on a call's media."""
        return self._stack.calls[call].agreed if call in self._stack.calls else None

    def places(self) -> set[Address]:
        """Return the places that calls, registrations and probes live on."""
        return self._stack.places() | self._registrations.hops() | self._probes.hops()

    def trust(self, addresses: Iterable[str]) -> None:
        """Trust these sources beside the networks of the settings, until told otherwise: those of a trunk."""
        self._stack.trust.addresses = frozenset(addresses)

    # -- from the network --------------------------------------------------------------------------------------------

    def receive(self, data: bytes, source: tuple[str, int], transport: Transport, now: float) -> list[Action]:
        """Take a datagram, or a message from a stream; whatever is in it, nothing is raised."""
        address = Address(source[0], source[1], transport)
        try:
            self._receive(data, address, now)
        except Malformed as error:
            self.dropped[error.kind] += 1
        return self._said()

    def _receive(self, data: bytes, source: Address, now: float) -> None:
        if not data.strip(b"\r\n"):
            if data == PING and source.reliable:
                self._stack.actions.append(Send(PONG, source))
            return
        asks = data.lstrip(b"\r\n")[:4].upper() != b"SIP/"
        barred = self._stack.admission.barred(source.host, now) if asks else ""
        if barred and not self._stack.talks_to(source.host):
            self.dropped[barred] += 1
            return
        message = parse(data)
        if isinstance(message, Request):
            self._request(message, source, now, barred)
        elif not self._stack.transactions.receive_response(message, now):
            self.dropped["stray_response"] += 1

    def _request(self, request: Request, source: Address, now: float, barred: str) -> None:
        if is_scanner(request.headers.get("user-agent") or ""):
            self.dropped["scanner"] += 1
            return
        if barred and not self._belongs(request):
            self.dropped[barred] += 1
            return
        try:
            request = self._stamped(request, source)
            check_form(request)
            if not self._belongs(request) and not self._stack.admission.admits_any(source.host, now):
                return
            if not self._stack.transactions.absorb(request, now):
                self._dispatch(request, source, now)
        except Refused as refused:
            self._refuse(request, source, refused, now)

    def _stamped(self, request: Request, source: Address) -> Request:
        if "via" not in request.headers:
            raise Malformed("Via is missing")
        try:
            return stamped(request, source.host, source.port)
        except Malformed:
            raise Refused(400, "Bad Request: Via cannot be read") from None

    def _belongs(self, request: Request) -> bool:
        """Whether a request is part of a live call: neither a flood of others nor a ban silences it."""
        try:
            method = "INVITE" if request.method in ("ACK", "CANCEL") else request.method
            begun = self._stack.transactions.find(request, method)
            return begun is not None or self._in_call.find(request) is not None
        except Malformed:
            return False

    def _refuse(self, request: Request, source: Address, refused: Refused, now: float) -> None:
        """Answer with a refusal, but never an ACK; what is malformed has its price at the door, too."""
        self._stack.refused[refused.status] += 1
        if request.method == "ACK":
            return
        if refused.status in (400, 505) and not self._stack.admission.admits_any(source.host, now):
            return
        self._stack.answer_once(request, source, refused.status, refused.items, reason=refused.reason)

    def _dispatch(self, request: Request, source: Address, now: float) -> None:
        if request.method == "CANCEL":
            self._inbound.cancel(request, source, now)
            return
        if request.method != "ACK":
            if not request.to.tag and self._stack.transactions.is_merged(request):
                raise Refused(482)
            check_method(request)
        if request.to.tag or request.method == "ACK":
            self._in_call.receive(request, source, now)
            return
        match request.method:
            case "INVITE":
                self._inbound.invite(request, source, now)
            case "OPTIONS":
                if not self._accepts():
                    raise self._inbound.no_room()
                self._stack.answer_once(request, source, 200, (*self._stack.capabilities(), ("Accept", SDP)))
            case "REGISTER":
                self._register(request, source, now)
            case _:
                raise Refused(481)

    def _register(self, request: Request, source: Address, now: float) -> None:
        self._stack.authenticate(request, source, now)
        items = bindings(request)
        transaction = self._stack.transactions.accept(request, source)
        self._stack.answer(transaction, 200, self._stack.new_tag(), now, items=items)

    def transport_failed(self, to: Address, now: float) -> list[Action]:
        """Take word that a place cannot be reached, or a name has none; requests that went there have failed."""
        self._stack.flow_lost(to)
        self._stack.transactions.broken(to, now)
        self._registrations.broken(to, now)
        return self._said()

    # -- time --------------------------------------------------------------------------------------------------------

    def next_timeout(self) -> float | None:
        """Return when `handle_timeout` is due."""
        return self._stack.timers.next_timeout()

    def handle_timeout(self, now: float) -> list[Action]:
        """Do what is due."""
        self._stack.timers.run_due(now)
        return self._said()

    def _said(self) -> list[Action]:
        actions = self._stack.actions[:]
        self._stack.actions.clear()
        return actions

    # -- calls to us -------------------------------------------------------------------------------------------------

    def ring(self, call: str, now: float, *, early: tuple[str, int] | None = None) -> list[Action]:
        """Let it ring (180); with a place for early media, 183 with a description."""
        if (found := self._stack.calls.get(call)) is not None:
            self._inbound.ring(found, now, early)
        return self._said()

    def accept(self, call: str, local: tuple[str, int], now: float, *, items: Items = ()) -> list[Action]:
        """Answer the call; we listen at `local` from now on."""
        if (found := self._stack.calls.get(call)) is not None:
            self._inbound.accept(found, local, now, items)
        return self._said()

    def reject(self, call: str, status: int, now: float, *, reason: str = "", items: Items = ()) -> list[Action]:
        """Refuse the call: 404 for no such agent, 486 busy ..."""
        if (found := self._stack.calls.get(call)) is not None:
            self._inbound.reject(found, status, now, reason, items)
        return self._said()

    def turn_away(self, call: str, now: float) -> list[Action]:
        """Refuse the call: there is no room for it. 503 with a Retry-After, or what the settings say."""
        if (found := self._stack.calls.get(call)) is not None:
            self._inbound.turn_away(found, now)
        return self._said()

    # -- calls by us -------------------------------------------------------------------------------------------------

    def call(self, destination: Destination, local: tuple[str, int], now: float) -> tuple[str, str, list[Action]]:
        """Call somebody; return our name for the call, and its Call-ID."""
        call, call_id = self._outbound.call(destination, local, now)
        return call, call_id, self._said()

    # -- calls -------------------------------------------------------------------------------------------------------

    def hang_up(self, call: str, now: float, *, items: Items = (), reason: EndReason = "local") -> list[Action]:
        """End a call, whatever its phase: refuse, take back, or BYE. `items` may have a Reason (RFC 3326)."""
        if (found := self._stack.calls.get(call)) is not None:
            self._hang_up(found, now, items, reason)
        return self._said()

    def _hang_up(self, call: Call, now: float, items: Items, reason: EndReason) -> None:
        match call.phase:
            case Phase.OFFERED | Phase.RINGING:
                self._inbound.reject(call, 480, now, "", items, reason)
            case Phase.ANSWERED:
                call.hang_up = (reason, items)
            case Phase.CALLING | Phase.EARLY:
                self._outbound.cancel(call, reason, now)
            case Phase.CONFIRMED:
                self._in_dialog.hang_up(call, reason, now, items)
            case Phase.CANCELLING | Phase.ENDED:
                pass

    def change_media(
        self, call: str, now: float, *, local: tuple[str, int] | None = None, hold: bool | None = None
    ) -> list[Action]:
        """Move our end of the media, or put the other side on hold, or take it back; one change at a time. `ChangeDone`
        tells what came of it."""
        found = self._confirmed(call)
        if found is None or found.change is not None:
            self._stack.actions.append(ChangeDone(call, 481 if found is None else 491))
        else:
            self._changes.begin(found, Change(local, hold), now)
        return self._said()

    def send_dtmf(self, call: str, digit: str, now: float, *, duration_ms: int = 160) -> list[Action]:
        """Send a key by INFO, for peers that do not take telephone-events."""
        found = self._confirmed(call)
        if found is not None and len(digit) == 1 and digit in "0123456789*#ABCD":
            body = f"Signal={digit}\r\nDuration={duration_ms:d}\r\n".encode()
            items = (("Content-Type", _DTMF_INFO),)
            self._in_dialog.send(found, "INFO", now, lambda response, at: None, items=items, body=body)
        return self._said()

    def transfer(self, call: str, target: str, now: float) -> list[Action]:
        """Ask the peer to call somebody else, by an address or a number of its own; whether it may be is for the
        caller of this to know (S15). How it goes is told by `TransferProgress`.

        Raises:
            Malformed: the target is no address.
        """
        if (found := self._referable(call)) is not None:
            self._transfers.refer(found, target_of(found, target), now)
        return self._said()

    def transfer_to_call(self, call: str, other: str, now: float) -> list[Action]:
        """Connect the peers of two calls: the first is asked to take our place in the second (Replaces)."""
        second = self._confirmed(other)
        if second is None or second.dialog is None:
            self._stack.actions.append(TransferProgress(call, 481, True))
        elif (found := self._referable(call)) is not None:
            self._transfers.refer(found, Uri.parse(second.dialog.target), now, second)
        return self._said()

    def _referable(self, call: str) -> Call | None:
        """Return a call that can be transferred; that it cannot is told."""
        found = self._confirmed(call)
        if found is None or found.transferring:
            self._stack.actions.append(TransferProgress(call, 481 if found is None else 491, True))
            return None
        return found

    def _confirmed(self, call: str) -> Call | None:
        found = self._stack.calls.get(call)
        return found if found is not None and found.phase is Phase.CONFIRMED else None

    # -- registrations -----------------------------------------------------------------------------------------------

    def register(self, registrar: Registrar, now: float) -> tuple[str, list[Action]]:
        """Register somewhere, and stay registered; return the registration's id."""
        registration = self._registrations.start(registrar, now)
        return registration, self._said()

    def probe(self, uri: Uri, hop: Address, every_s: float, now: float) -> tuple[str, list[Action]]:
        """Ask a peer from now on whether it is there; return our name for it."""
        probe = self._probes.start(uri, hop, every_s, now)
        return probe, self._said()

    def stop_probe(self, probe: str) -> None:
        """Ask it no more."""
        self._probes.stop(probe)

    def unregister(self, registration: str, now: float) -> list[Action]:
        """Have ourselves forgotten there."""
        self._registrations.stop(registration, now)
        return self._said()
