"""Calls by us: INVITE with its forks, challenges and refusals, and CANCEL (RFC 3261 sections 9.1 and 13.2).

Where a server does not answer, or cannot (503), and its name has another, the call is tried there (RFC 3263, 4.3).
"""

from collections import Counter
from dataclasses import dataclass, field, replace
from functools import partial

from fastagent.connectors.sip.actions import Address, CallProgress, EndReason, Send
from fastagent.connectors.sip.admission import is_loopback
from fastagent.connectors.sip.bodies import SDP, Unsupported, sdp_of
from fastagent.connectors.sip.call import MAX_FORKS, Call, Did, Phase
from fastagent.connectors.sip.changes import Changes
from fastagent.connectors.sip.dialog import MAX_LONGER, Dialog, dialog_of_callee, longer_interval, timer_of_response
from fastagent.connectors.sip.digest import Credentials, DigestClient, Tries
from fastagent.connectors.sip.grammar import Malformed, printable
from fastagent.connectors.sip.headers import Headers, NameAddr
from fastagent.connectors.sip.in_dialog import InDialog
from fastagent.connectors.sip.message import Request, Response
from fastagent.connectors.sip.offer_answer import MediaSession, NotAcceptable
from fastagent.connectors.sip.reliable import Provisionals
from fastagent.connectors.sip.requests import Items, cancel_of, credentials_in
from fastagent.connectors.sip.stack import Stack
from fastagent.connectors.sip.transaction import LIMIT
from fastagent.connectors.sip.transactions import Failure, ignored
from fastagent.connectors.sip.uri import Uri, is_numeric

_MAX_MOVES = 4


@dataclass(frozen=True, slots=True)
class Destination:
    """Whom to call, and how; `destination` makes one from text."""

    uri: Uri
    from_: NameAddr
    """Who is shown as the caller."""
    hop: Address
    """Where the INVITE goes: the callee, a trunk or an outbound proxy."""
    route: tuple[str, ...] = ()
    credentials: Credentials | None = None
    items: Items = ()
    """More headers; a line break in one is a ValueError."""
    ring_s: float | None = None
    """So long it may ring, if not as long as the settings say."""


@dataclass(slots=True)
class _Attempt:
    """An INVITE that has no final answer yet, and what its next one would have."""

    destination: Destination
    call_id: str
    offer: bytes
    number: int
    interval_s: int
    tries: Tries = field(default_factory=Counter)
    lengthened: int = 0
    moved: int = 0


class Outbound:
    """Calls by us."""

    def __init__(self, stack: Stack, in_dialog: InDialog, changes: Changes, provisionals: Provisionals) -> None:
        self._stack, self._in_dialog, self._changes, self._provisionals = stack, in_dialog, changes, provisionals
        self._attempts: dict[str, _Attempt] = {}

    def call(self, destination: Destination, local: tuple[str, int], now: float) -> tuple[str, str]:
        """Call somebody; the offer says that we listen at `local`. Return our name for the call, and its Call-ID."""
        stack = self._stack
        host = destination.hop.host
        media = MediaSession(stack.config.media, stack.token, nearby=is_loopback(host) or not is_numeric(host))
        media.local = local
        call = Call(stack.new_tag(), media, destination.hop, Phase.CALLING)
        if destination.credentials is not None:
            call.digest = DigestClient(destination.credentials, stack.token)
        attempt = _Attempt(destination, stack.new_tag(), media.make_offer(), 1, stack.config.session_expires_s)
        stack.begin(call)
        self._attempts[call.id] = attempt
        self._send(call, attempt, now)
        self._let_ring(call, attempt, now)
        return call.id, attempt.call_id

    def _let_ring(self, call: Call, attempt: _Attempt, now: float) -> None:
        ring_s = attempt.destination.ring_s or self._stack.config.ring_s
        self._stack.timers.start(call, "ring", now + ring_s, partial(self._unanswered, call))

    def _send(self, call: Call, attempt: _Attempt, now: float) -> None:
        """Send the INVITE, the first or the next: same Call-ID and tag, a new branch."""
        call.provisional = False
        request = self._invite(call, attempt)
        call.outgoing = self._stack.transactions.request(
            request, call.source, partial(self._answered, call), partial(self._failed, call), now
        )

    def _invite(self, call: Call, attempt: _Attempt) -> Request:
        to = attempt.destination
        uri = str(to.uri)
        timer: Items = (("Session-Expires", str(attempt.interval_s)),) if attempt.interval_s else ()
        items: Items = (
            ("Via", self._stack.via(to.hop)),
            *(("Route", value) for value in to.route),
            ("Max-Forwards", "70"),
            ("From", str(to.from_.with_param("tag", call.id))),
            ("To", f"<{to.uri.without()}>"),
            ("Call-ID", attempt.call_id),
            ("CSeq", f"{attempt.number} INVITE"),
            ("Contact", self._stack.contact(to.hop.transport, like=uri)),
            *self._stack.capabilities(),
            *timer,
            *(call.digest.items("INVITE", uri) if call.digest else ()),
            *to.items,
            ("Content-Type", SDP),
        )
        return Request("INVITE", uri, Headers(items), attempt.offer)

    # -- answers -----------------------------------------------------------------------------------------------------

    def _answered(self, call: Call, response: Response, now: float) -> None:
        if response.status < 200:
            self._progress(call, response, now)
        elif response.status < 300:
            self._accepted(call, response, now)
        elif not self._retried(call, response, now):
            self._refused(call, response)

    def _progress(self, call: Call, response: Response, now: float) -> None:
        call.provisional = True
        if call.phase is Phase.CANCELLING:
            self._send_cancel(call, now)
        elif response.status == 100 or not self._provisionals.received(call, response, now):
            return
        elif call.move(Did.PROGRESS):
            self._stack.actions.append(CallProgress(call.id, response.status))

    def _accepted(self, call: Call, response: Response, now: float) -> None:
        """Take a 2xx. Each is acknowledged: a copy as before, and one of a fork, or too late, is hung up at once."""
        assert call.outgoing is not None  # it is its answer
        try:
            tag = response.to.tag
            if tag in call.acks:
                self._stack.actions.append(call.acks[tag])
                return
            if len(call.acks) >= MAX_FORKS:
                return
            place = self._stack.servers.where(call.source, call.outgoing.branch)
            dialog = dialog_of_callee(call.outgoing.request, response, call.source, place)
            if tag in call.early:  # our PRACKs have numbers, too
                dialog.local_seq = call.early[tag].dialog.local_seq
            self._acknowledge(call, dialog, tag, response.cseq.number)
        except Malformed as error:  # a route that cannot be followed: not even an ACK can be sent
            self._give_up(call, "protocol_error", text=str(error))
            return
        if call.phase not in (Phase.CALLING, Phase.EARLY):
            self._leave(call, dialog, now)
            return
        self._stack.timers.stop(call, "ring")
        call.dialog = dialog
        call.peer_allows = response.headers.tokens("allow")
        call.timer = timer_of_response(response)
        self._settle(call, response, now)

    def _settle(self, call: Call, response: Response, now: float) -> None:
        call.move(Did.ANSWERED)
        self._attempts.pop(call.id, None)
        early = call.early.get(response.to.tag)
        for other in call.early.values():
            if other.changed and other is not early:  # what was agreed with a fork that has not answered
                call.media.restore(other.before)
        try:
            if early is None or not early.changed:
                call.media.take_answer(sdp_of(response.headers, response.body) or (early.answer if early else b""))
        except (NotAcceptable, Malformed, Unsupported) as error:
            self._in_dialog.hang_up(call, "protocol_error", now, text=str(error))
            return
        self._changes.arm(call, now)
        self._stack.announce(call, None)

    def _acknowledge(self, call: Call, dialog: Dialog, tag: str, number: int) -> None:
        _, _, to = dialog.addressed()
        assert call.outgoing is not None  # it is the answer to it
        proof = credentials_in(call.outgoing.request)  # section 22.1: an ACK has those of its INVITE
        ack = Send(bytes(dialog.ack(number, self._stack.via(to), proof)), to)
        call.acks[tag] = ack
        self._stack.actions.append(ack)

    def _leave(self, call: Call, dialog: Dialog, now: float) -> None:
        """Hang up on a fork, or on who answered what we had taken back already."""
        fork = Call(self._stack.new_tag(), call.media, call.source, Phase.ENDED, dialog=dialog, digest=call.digest)
        self._in_dialog.send(fork, "BYE", now, ignored)
        if call.phase is Phase.CANCELLING:
            self._give_up(call, "cancelled")

    def _retried(self, call: Call, response: Response, now: float) -> bool:
        """Try again after a challenge or a session timer that is too short, or elsewhere."""
        attempt = self._attempts.get(call.id)
        if attempt is None or call.phase not in (Phase.CALLING, Phase.EARLY):
            return False
        if response.status in (401, 407):
            if call.digest is None or not call.digest.take(response, attempt.tries):
                return False
        elif response.status == 503:
            return self._tried_elsewhere(call, now)
        elif response.status != 422 or not self._longer(attempt, response):
            return False
        attempt.number += 1
        self._send(call, attempt, now)
        return True

    def _tried_elsewhere(self, call: Call, now: float) -> bool:
        """Send the same INVITE to the next server, but for its branch, as if nothing had been."""
        attempt = self._attempts.get(call.id)
        assert call.outgoing is not None  # it has failed
        another = self._stack.servers.has_another(call.source, call.outgoing.branch)
        if attempt is None or attempt.moved >= _MAX_MOVES or not another:
            return False
        attempt.moved += 1
        attempt.tries.clear()  # another server has challenges of its own
        self._forget_early(call)
        self._send(call, attempt, now)
        self._let_ring(call, attempt, now)
        return True

    def _forget_early(self, call: Call) -> None:
        for early in call.early.values():
            if early.changed:
                call.media.restore(early.before)
        call.early.clear()

    def _longer(self, attempt: _Attempt, response: Response) -> bool:
        interval = longer_interval(response, attempt.interval_s)
        attempt.lengthened += 1
        if attempt.lengthened > MAX_LONGER:
            return False
        attempt.interval_s = interval or attempt.interval_s
        return interval is not None

    def _refused(self, call: Call, response: Response) -> None:
        cancelled = call.phase is Phase.CANCELLING
        self._give_up(call, "cancelled" if cancelled else "refused", response.status, printable(response.reason))

    def _failed(self, call: Call, failure: Failure, now: float) -> None:
        waits = call.phase in (Phase.CALLING, Phase.EARLY) and not call.provisional  # it may ring there, once it is
        if waits and self._tried_elsewhere(call, now):
            return
        reason: EndReason = "transport" if failure == "transport" else "timeout"
        self._give_up(call, "cancelled" if call.phase is Phase.CANCELLING else reason, 408)

    def _give_up(self, call: Call, reason: EndReason, status: int = 0, text: str = "") -> None:
        self._attempts.pop(call.id, None)
        if call.hang_up is not None and reason == "cancelled":
            reason = call.hang_up[0]
        if call.phase is not Phase.CONFIRMED:
            self._stack.end(call, reason, status, text)

    # -- CANCEL ------------------------------------------------------------------------------------------------------

    def cancel(self, call: Call, reason: EndReason, now: float) -> None:
        """Take the call back; whoever answers all the same is hung up on."""
        if not call.move(Did.CANCEL):
            return
        call.hang_up = (reason, ())
        self._stack.timers.stop(call, "ring")
        self._stack.timers.start(call, "cancelled", now + LIMIT, partial(self._forget, call))
        if call.provisional:
            self._send_cancel(call, now)

    def _send_cancel(self, call: Call, now: float) -> None:
        assert call.outgoing is not None  # it was sent before anything came back
        if call.hang_up is None or self._stack.timers.running(call, "cancel_sent"):
            return
        self._stack.timers.start(call, "cancel_sent", now + LIMIT, _do_nothing)
        self._stack.transactions.request(cancel_of(call.outgoing.request), call.source, ignored, ignored, now)

    def _forget(self, call: Call, now: float) -> None:
        """Nobody said 487 (section 9.1): the INVITE is not waited for any longer."""
        if call.outgoing is not None:
            self._stack.transactions.abandon(call.outgoing)
        self._give_up(call, "cancelled", 408)

    def _unanswered(self, call: Call, now: float) -> None:
        self.cancel(call, "no_answer", now)


def _do_nothing(now: float) -> None:
    """A timer that is only there to be seen running."""


def destination(
    to: str,
    caller: NameAddr,
    hop: Address,
    *,
    route: tuple[str, ...] = (),
    credentials: Credentials | None = None,
    items: Items = (),
    ring_s: float | None = None,
) -> Destination:
    """Return a destination from text.

    Raises:
        Malformed: an address cannot be read.
    """
    for value in route:
        NameAddr.parse(value)
    return Destination(Uri.parse(to), replace(caller, params=()), hop, route, credentials, items, ring_s)
