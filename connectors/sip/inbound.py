"""Calls to us: INVITE, its answers, CANCEL and ACK (RFC 3261 sections 9.2, 13.3 and 14.2)."""

from functools import partial

from fastagent.connectors.sip.actions import Address, CallConfirmed, CallOffered, EndReason
from fastagent.connectors.sip.admission import is_loopback
from fastagent.connectors.sip.bodies import SDP, Unsupported, sdp_of
from fastagent.connectors.sip.call import Answered, Call, Did, Phase
from fastagent.connectors.sip.changes import Changes
from fastagent.connectors.sip.dialog import MIN_SE, dialog_of_caller, timer_items, timer_of_request
from fastagent.connectors.sip.grammar import Malformed, printable
from fastagent.connectors.sip.in_dialog import InDialog
from fastagent.connectors.sip.message import Request
from fastagent.connectors.sip.offer_answer import MediaSession, NotAcceptable
from fastagent.connectors.sip.offers import offer_in, taken
from fastagent.connectors.sip.reliable import Provisionals
from fastagent.connectors.sip.requests import Items
from fastagent.connectors.sip.stack import Stack
from fastagent.connectors.sip.transaction import LIMIT, T1, T2
from fastagent.connectors.sip.transactions import ServerTransaction
from fastagent.connectors.sip.uri import Uri
from fastagent.connectors.sip.validate import Refused

_PENDING = (Phase.OFFERED, Phase.RINGING)
_UNDECIDED_S = 180.0
"""How long a call may be offered before it counts as refused: proxies give up then, too (timer C)."""


class Inbound:
    """Calls to us."""

    def __init__(self, stack: Stack, in_dialog: InDialog, changes: Changes, provisionals: Provisionals) -> None:
        self._stack, self._in_dialog, self._changes, self._provisionals = stack, in_dialog, changes, provisionals

    # -- from the network --------------------------------------------------------------------------------------------

    def invite(self, request: Request, source: Address, now: float) -> None:
        """Take an INVITE that begins a call.

        Raises:
            Refused: with the first of the reasons in their order; nothing is remembered of a stranger's.
        """
        body = offer_in(request)
        user = self._stack.authenticate(request, source, now)
        try:
            self._begin(request, source, user, body, now)
        except Refused as refused:
            if not user or self._stack.transactions.full:
                raise
            self._stack.refuse(request, source, refused, self._stack.new_tag(), now)

    def _begin(self, request: Request, source: Address, user: str, body: bytes | None, now: float) -> None:
        self._check_room()
        timer = timer_of_request(request)
        if timer is not None and timer.interval_s < MIN_SE:
            raise Refused(422, items=(("Min-SE", str(MIN_SE)),))
        nearby = is_loopback(source.host) or source.host == self._stack.config.host
        media = MediaSession(self._stack.config.media, self._stack.token, nearby=nearby)
        if body is not None:
            taken(lambda: media.check_offer(body))
        call = Call(self._stack.new_tag(), media, source, Phase.OFFERED, user, offer=body, timer=timer)
        call.digest = self._stack.digest_for(source)
        self._begin_dialog(call, request)
        call.invite = self._stack.transactions.accept(request, source)
        call.invite.call = call.id
        self._stack.answer(call.invite, 100, call.id, now)
        self._stack.begin(call)
        self._stack.timers.start(call, "undecided", now + _UNDECIDED_S, partial(self._undecided, call))
        self._offer(call, request)

    def _undecided(self, call: Call, now: float) -> None:
        self.reject(call, 480, now, "", (), "no_answer")

    def _check_room(self) -> None:
        if self._stack.live >= self._stack.config.max_calls or self._stack.transactions.full:
            raise self.no_room()

    def no_room(self) -> Refused:
        """Return the refusal of a call that there is no room for."""
        status = self._stack.config.full_status
        after = 5 + self._stack.token(1)[0] % 11  # F19: at random, so that they do not all come back at once
        return Refused(status, items=(("Retry-After", str(after)),) if status == 503 else ())

    def turn_away(self, call: Call, now: float) -> None:
        """Refuse the call: there is no room for it."""
        refused = self.no_room()
        self.reject(call, refused.status, now, "", refused.items)

    def _begin_dialog(self, call: Call, request: Request) -> None:
        call.peer_allows = request.headers.tokens("allow")
        try:
            call.dialog = dialog_of_caller(request, call.id, call.source)
            call.dialog.addressed()  # an address that we could never send a BYE to is found out now
        except Malformed as error:
            raise Refused(400, f"Bad Request: {error}") from None

    def _offer(self, call: Call, request: Request) -> None:
        caller, called = request.from_, Uri.parse(request.uri)
        self._stack.actions.append(
            CallOffered(
                call.id,
                call.source,
                printable(caller.uri.user_text),
                printable(caller.display),
                printable(called.user_text),
                call.user,
                request.headers,
            )
        )

    def cancel(self, request: Request, source: Address, now: float) -> None:
        """Take a CANCEL: 200 to it, 487 to the INVITE that it takes back, if that has no final answer yet.

        Raises:
            Refused: 481, there is no such INVITE.
        """
        invite = self._stack.transactions.find(request, "INVITE")
        if invite is None:
            raise Refused(481)
        call = self._stack.calls.get(invite.call)
        own = self._stack.transactions.accept(request, source)
        self._stack.answer(own, 200, invite.tag, now)
        if call is not None and call.phase in _PENDING and call.invite is invite:
            self._stack.answer(invite, 487, call.id, now)
            self._stack.end(call, "cancelled")

    def ack(self, call: Call, request: Request, now: float) -> None:
        """Take the ACK of a 2xx; an answer in it completes a late offer. An ACK is never answered."""
        waiting = call.waiting
        if waiting is None or waiting.number != request.cseq.number:
            return
        self._stop_repeating(call)
        before = call.agreed
        if waiting.late and not self._take_late_answer(call, request, now):
            return
        confirmed = call.move(Did.ACK)
        self._stack.announce(call, before)
        if confirmed:
            self._stack.actions.append(CallConfirmed(call.id))
        if call.hang_up is not None:
            self._in_dialog.hang_up(call, call.hang_up[0], now, call.hang_up[1])

    def _take_late_answer(self, call: Call, request: Request, now: float) -> bool:
        try:
            call.media.take_answer(sdp_of(request.headers, request.body) or b"")
            return True
        except (NotAcceptable, Malformed, Unsupported) as error:
            call.move(Did.ACK)
            self._in_dialog.hang_up(call, "protocol_error", now, text=str(error))
            return False

    # -- from above --------------------------------------------------------------------------------------------------

    def ring(self, call: Call, now: float, local: tuple[str, int] | None) -> None:
        """Say 180, or with a place for early media 183; where the caller requires it, until it has arrived."""
        assert call.invite is not None  # it has an INVITE as long as it is offered
        if not call.move(Did.RING):
            return
        status, body = 180, b""
        items: Items = (*_routes(call.invite.request), ("Contact", self._stack.contact(call.source.transport)))
        if local is not None and call.offer is not None:
            call.media.local = local
            status, body, items = 183, self._sdp(call), (*items, ("Content-Type", SDP))
        if self._provisionals.are_wanted(call):
            self._provisionals.send(call, status, items, body, now)
        else:
            self._stack.answer(call.invite, status, call.id, now, items=items, body=body)

    def accept(self, call: Call, local: tuple[str, int], now: float, items: Items) -> None:
        """Answer the call, and listen there from now on: the caller may speak before his ACK is here."""
        assert call.invite is not None  # as above
        if call.phase not in _PENDING:
            return
        if call.unacknowledged is not None:  # the 200 must not overtake what the caller has still to acknowledge
            call.unacknowledged.then = lambda at: self.accept(call, local, at, items)
            return
        if call.answer is None:
            call.media.local = local
        body = self._sdp(call)
        call.move(Did.ACCEPT)
        self._stack.timers.stop(call, "undecided")
        self.confirm_with(call, call.invite, body, now, late=call.offer is None, items=items)
        if call.offer is not None:
            self._stack.announce(call, None)

    def _sdp(self, call: Call) -> bytes:
        """Return our description: the answer, the same in 183 and 200, or an offer where there was none."""
        if call.offer is None:
            return call.media.make_offer()
        if call.answer is None:
            call.answer = call.media.take_offer(call.offer)
        return call.answer

    def reject(self, call: Call, status: int, now: float, reason: str, items: Items, end: EndReason = "local") -> None:
        """Refuse the call; repeated until the ACK."""
        assert call.invite is not None  # as above
        if call.phase in _PENDING:
            self._stack.answer(call.invite, status, call.id, now, items=items, reason=reason)
            self._stack.end(call, end, status)

    # -- a 2xx until its ACK (section 13.3.1.4) ----------------------------------------------------------------------

    def confirm_with(
        self, call: Call, transaction: ServerTransaction, body: bytes, now: float, *, late: bool, items: Items = ()
    ) -> None:
        """Send a 2xx to an INVITE, the first or a later one, and repeat it until the ACK comes."""
        items = (
            *_routes(transaction.request),
            ("Contact", self._stack.contact(transaction.source.transport, like=transaction.request.uri)),
            *self._stack.capabilities(),
            *timer_items(transaction.request, call.timer),
            *items,
            ("Content-Type", SDP),
        )
        call.waiting = Answered(transaction, transaction.request.cseq.number, T1, late)
        self._stack.answer(transaction, 200, call.id, now, items=items, body=body)
        self._stack.timers.start(call, "repeat", now + T1, partial(self._repeat, call))
        self._stack.timers.start(call, "no_ack", now + LIMIT, partial(self._no_ack, call))
        self._changes.arm(call, now)

    def _repeat(self, call: Call, now: float) -> None:
        assert call.waiting is not None  # the timer stops with it
        self._stack.transactions.repeat(call.waiting.transaction)
        call.waiting.interval_s = min(2 * call.waiting.interval_s, T2)
        self._stack.timers.start(call, "repeat", now + call.waiting.interval_s, partial(self._repeat, call))

    def _no_ack(self, call: Call, now: float) -> None:
        self._stop_repeating(call)
        reason, items = call.hang_up or ("no_ack", ())
        self._in_dialog.hang_up(call, reason, now, items)

    def _stop_repeating(self, call: Call) -> None:
        call.waiting = None
        self._stack.timers.stop(call, "repeat", "no_ack")

    def imply_ack(self, call: Call) -> None:
        """The peer goes on as if it had our 2xx, so it has it."""
        self._stop_repeating(call)
        if call.move(Did.ACK):
            self._stack.actions.append(CallConfirmed(call.id))


def _routes(request: Request) -> Items:
    return tuple(("Record-Route", value) for value in request.headers.get_all("record-route"))
