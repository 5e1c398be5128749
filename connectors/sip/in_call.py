"""Requests from the peer within a call (RFC 3261 sections 12.2.2, 14.2 and 15.1.2, RFC 3311, RFC 6086)."""

from collections.abc import Callable, Mapping
from dataclasses import replace

from fastagent.connectors.sip.actions import Address, DtmfInfo
from fastagent.connectors.sip.bodies import SDP, dtmf_of, is_dtmf
from fastagent.connectors.sip.call import Call, Early, Phase
from fastagent.connectors.sip.changes import Changes
from fastagent.connectors.sip.dialog import MIN_SE, can_refresh, timer_items, timer_of_request
from fastagent.connectors.sip.grammar import printable
from fastagent.connectors.sip.inbound import Inbound
from fastagent.connectors.sip.message import Request
from fastagent.connectors.sip.offers import offer_in, taken
from fastagent.connectors.sip.reliable import Provisionals
from fastagent.connectors.sip.requests import Items
from fastagent.connectors.sip.stack import Stack
from fastagent.connectors.sip.transfer import Transfers
from fastagent.connectors.sip.validate import Refused

Handler = Callable[[Call, Request, Address, float], None]
_MOVES_MEDIA = ("INVITE", "UPDATE")


class InCall:
    """What the peer asks for in a call."""

    def __init__(
        self,
        stack: Stack,
        inbound: Inbound,
        changes: Changes,
        transfers: Transfers,
        provisionals: Provisionals,
    ) -> None:
        self._stack, self._inbound, self._changes, self._transfers = stack, inbound, changes, transfers
        self._provisionals = provisionals
        self._handlers: Mapping[str, Handler] = {
            "INVITE": self._reinvite,
            "UPDATE": self._update,
            "BYE": self._bye,
            "INFO": self._info,
            "NOTIFY": self._notify,
            "OPTIONS": self._options,
            "PRACK": provisionals.acknowledged,
        }

    def find(self, request: Request) -> Call | None:
        """Return the call whose dialog a request names, by Call-ID and both tags."""
        call = self._stack.calls.get(request.to.tag)
        if call is None or call.dialog is None:
            return None
        same = call.dialog.call_id == request.call_id and call.dialog.remote_tag == request.from_.tag
        return call if same else None

    def _early(self, request: Request) -> tuple[Call, Early] | None:
        """Return the call of ours that a request of somebody belongs to who has not answered it yet."""
        call = self._stack.calls.get(request.to.tag)
        early = call.early.get(request.from_.tag) if call is not None and call.dialog is None else None
        if call is None or early is None or early.dialog.call_id != request.call_id:
            return None
        return (call, early) if call.phase is Phase.EARLY else None

    def receive(self, request: Request, source: Address, now: float) -> None:
        """Take a request with a To-tag.

        Raises:
            Refused: it has no dialog (481), is out of order (500), or cannot be had; nothing has changed.
        """
        call = self.find(request)
        if request.method == "ACK":
            if call is not None:
                self._inbound.ack(call, request, now)
            return
        if call is None and (begun := self._early(request)) is not None:
            try:
                self._provisionals.requested(*begun, request, source, now)
            except Refused as refused:
                self._stack.refuse(request, source, refused, begun[0].id, now)
            return
        if call is None or (call.phase is Phase.ENDED and request.method != "BYE"):
            raise Refused(481)
        assert call.dialog is not None  # it was found by it
        handler = self._handlers.get(request.method)
        if handler is None:
            raise Refused(481)
        if call.dialog.remote_seq is not None and request.cseq.number <= call.dialog.remote_seq:
            raise Refused(500, "CSeq is out of order")
        self._check_user(call, request, source, now)
        call.dialog.remote_seq = request.cseq.number
        try:
            handler(call, request, source, now)
        except Refused as refused:
            self._stack.refuse(request, source, refused, call.id, now)

    def _check_user(self, call: Call, request: Request, source: Address, now: float) -> None:
        """Where a password began the call, the same one moves its media."""
        if not call.user or not self._stack.config.challenge_in_dialog or request.method not in _MOVES_MEDIA:
            return
        if self._stack.authenticate(request, source, now) not in ("", call.user):
            raise Refused(403)

    def _ok(
        self, call: Call, request: Request, source: Address, now: float, items: Items = (), body: bytes = b""
    ) -> None:
        transaction = self._stack.transactions.accept(request, source)
        self._stack.answer(transaction, 200, call.id, now, items=items, body=body)

    # -- changes of the media ----------------------------------------------------------------------------------------

    def _check_turn(self, call: Call, request: Request, *, offers: bool) -> None:
        """One change at a time (section 14.2, RFC 3311 section 5.2); a refresh that offers nothing is none."""
        if call.phase in (Phase.OFFERED, Phase.RINGING):
            raise Refused(500, items=(("Retry-After", str(self._stack.token(1)[0] % 10)),))
        if offers and (call.changing or (call.waiting is not None and call.waiting.late)):
            raise Refused(491)
        timer = timer_of_request(request)
        if timer is not None and timer.interval_s < MIN_SE:
            raise Refused(422, items=(("Min-SE", str(MIN_SE)),))

    def _reinvite(self, call: Call, request: Request, source: Address, now: float) -> None:
        body = offer_in(request)
        self._check_turn(call, request, offers=True)
        before = call.agreed
        sdp = taken(lambda: call.media.take_offer(body)) if body is not None else call.media.make_offer()
        if call.waiting is not None:
            self._inbound.imply_ack(call)
        self._refresh(call, request, source)
        transaction = self._stack.transactions.accept(request, source)
        self._inbound.confirm_with(call, transaction, sdp, now, late=body is None)
        self._stack.announce(call, before)

    def _update(self, call: Call, request: Request, source: Address, now: float) -> None:
        body = offer_in(request)
        self._check_turn(call, request, offers=body is not None)
        before = call.agreed
        sdp = taken(lambda: call.media.take_offer(body)) if body is not None else b""
        self._refresh(call, request, source)
        items: Items = (("Contact", self._stack.contact(source.transport)), *self._stack.capabilities())
        items = (*items, *timer_items(request, call.timer), *((("Content-Type", SDP),) if sdp else ()))
        self._ok(call, request, source, now, items, sdp)
        self._changes.arm(call, now)
        self._stack.announce(call, before)

    def _refresh(self, call: Call, request: Request, source: Address) -> None:
        assert call.dialog is not None  # as above
        call.dialog.refresh_target(request.headers, source)
        call.peer_allows = request.headers.tokens("allow") or call.peer_allows
        call.timer = timer_of_request(request) or call.timer
        if call.timer is not None and not can_refresh(request):
            call.timer = replace(call.timer, refresher="us")

    # -- the rest ----------------------------------------------------------------------------------------------------

    def _bye(self, call: Call, request: Request, source: Address, now: float) -> None:
        if call.invite is not None and call.phase in (Phase.OFFERED, Phase.RINGING):
            self._stack.answer(call.invite, 487, call.id, now)  # section 15.1.2: the INVITE is answered, too
        self._ok(call, request, source, now)
        self._stack.end(call, "hung_up", text=printable(request.headers.get("reason") or ""))

    def _info(self, call: Call, request: Request, source: Address, now: float) -> None:
        digit = dtmf_of(request.headers, request.body)
        if digit is None and request.body:
            if is_dtmf(request.headers):
                raise Refused(400, "Bad Request: there is no key in it")
            raise Refused(415, items=(("Accept", "application/dtmf-relay, application/dtmf"),))
        self._ok(call, request, source, now)
        if digit is not None:
            self._stack.actions.append(DtmfInfo(call.id, *digit))

    def _notify(self, call: Call, request: Request, source: Address, now: float) -> None:
        if (request.headers.get("event") or "").partition(";")[0].strip().lower() != "refer":
            raise Refused(489, items=(("Allow-Events", "refer"),))
        self._ok(call, request, source, now)
        self._transfers.notified(call, request)

    def _options(self, call: Call, request: Request, source: Address, now: float) -> None:
        self._ok(call, request, source, now, (*self._stack.capabilities(), ("Accept", SDP)))
