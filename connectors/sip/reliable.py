"""Provisional answers that must arrive (RFC 3262): numbered, repeated until a PRACK comes, and acknowledged by ours.

they call    180/183 with RSeq, repeated --PRACK--> acknowledged; the 200 waits for that
we call      180/183 with RSeq --> PRACK within the early dialog; an answer in it is the call's answer
"""

import re
from functools import partial

from fastagent.connectors.sip.actions import Address
from fastagent.connectors.sip.bodies import SDP
from fastagent.connectors.sip.call import MAX_FORKS, Call, Early, Unacknowledged
from fastagent.connectors.sip.dialog import dialog_of_callee
from fastagent.connectors.sip.grammar import NUMBER, Malformed
from fastagent.connectors.sip.message import Request, Response
from fastagent.connectors.sip.offers import offer_in, taken
from fastagent.connectors.sip.requests import Items
from fastagent.connectors.sip.stack import Stack
from fastagent.connectors.sip.transaction import LIMIT, T1
from fastagent.connectors.sip.transactions import ignored
from fastagent.connectors.sip.validate import Refused

TAG = "100rel"
_RACK = re.compile(r"([0-9]{1,10})[ \t]+([0-9]{1,10})[ \t]+([A-Z]+)")


class Provisionals:
    """Both sides of it."""

    def __init__(self, stack: Stack) -> None:
        self._stack = stack

    # -- they call -------------------------------------------------------------------------------------------------

    @staticmethod
    def are_wanted(call: Call) -> bool:
        """Whether the caller requires it."""
        return call.invite is not None and TAG in call.invite.request.headers.tokens("require")

    def send(self, call: Call, status: int, items: Items, body: bytes, now: float) -> None:
        """Say 180 or 183, and repeat it until its PRACK. While one waits for that, another is left out (section 3)."""
        assert call.invite is not None  # who asks has looked
        if call.unacknowledged is not None:
            return
        call.rseq = call.rseq % 2**31 + 1 if call.rseq else 1 + int.from_bytes(self._stack.token(3), "big")
        items = (*items, ("Require", TAG), ("RSeq", str(call.rseq)))
        call.unacknowledged = Unacknowledged(T1)
        self._stack.answer(call.invite, status, call.id, now, items=items, body=body)
        self._stack.timers.start(call, "provisional", now + T1, partial(self._repeat, call))
        self._stack.timers.start(call, "no_prack", now + LIMIT, partial(self._give_up, call))

    def _repeat(self, call: Call, now: float) -> None:
        assert call.invite is not None and call.unacknowledged is not None  # noqa: PT018  # the timer stops with it
        self._stack.transactions.repeat(call.invite)
        call.unacknowledged.interval_s *= 2
        self._stack.timers.start(call, "provisional", now + call.unacknowledged.interval_s, partial(self._repeat, call))

    def _give_up(self, call: Call, now: float) -> None:
        """No PRACK in 32 s: the call cannot be (section 3)."""
        assert call.invite is not None  # as above
        self._stack.answer(call.invite, 504, call.id, now)
        self._stack.end(call, "no_ack", 504)

    def acknowledged(self, call: Call, request: Request, source: Address, now: float) -> None:
        """Take a PRACK; whoever waits for it goes on.

        Raises:
            Refused: 481, it acknowledges nothing of ours; 488, it brings another offer.
        """
        match = _RACK.fullmatch(request.headers.get("rack") or "")
        waiting = call.unacknowledged
        if waiting is None or call.invite is None or match is None:
            raise Refused(481)
        if (int(match.group(1)), int(match.group(2)), match.group(3)) != (
            call.rseq, call.invite.request.cseq.number, "INVITE",
        ):  # fmt: skip
            raise Refused(481)
        if request.body:
            raise Refused(488)
        self._stack.answer(self._stack.transactions.accept(request, source), 200, call.id, now)
        call.unacknowledged = None
        self._stack.timers.stop(call, "provisional", "no_prack")
        if waiting.then is not None:
            waiting.then(now)

    # -- we call ---------------------------------------------------------------------------------------------------

    def received(self, call: Call, response: Response, now: float) -> bool:
        """Acknowledge a provisional answer that wants it; False where it is a copy, or out of order (section 4)."""
        number = response.headers.get("rseq") or ""
        if TAG not in response.headers.tokens("require") or not NUMBER.fullmatch(number) or len(number) > 10:
            return True
        assert call.outgoing is not None  # it is its answer
        early = call.early.get(response.to.tag)
        if early is None and len(call.early) >= MAX_FORKS:
            return False
        if early is None:
            try:
                place = self._stack.servers.where(call.source, call.outgoing.branch)
                dialog = dialog_of_callee(call.outgoing.request, response, call.source, place)
                dialog.addressed()
            except Malformed:  # it cannot be acknowledged; the final answer will tell
                return True
            early = call.early[response.to.tag] = Early(dialog, int(number) - 1)
        if int(number) != early.number + 1:
            return False
        early.number += 1
        early.answer = response.body or early.answer
        self._acknowledge(call, early, f"{number} {response.cseq}", now)
        return True

    def requested(self, call: Call, early: Early, request: Request, source: Address, now: float) -> None:
        """Take a request in an early dialog: its media may be changed before anybody has answered (RFC 3311, 5.2).

        Raises:
            Refused: 481 for what has no place there, 488 or 500 for a change that cannot be had, or not yet.
        """
        if request.method not in ("UPDATE", "OPTIONS", "INFO"):
            raise Refused(481)
        if early.dialog.remote_seq is not None and request.cseq.number <= early.dialog.remote_seq:
            raise Refused(500, "CSeq is out of order")
        early.dialog.remote_seq = request.cseq.number
        early.dialog.refresh_target(request.headers)
        body = offer_in(request) if request.method == "UPDATE" else None
        answer = self._changed(call, early, body) if body is not None else b""
        items: Items = (("Contact", self._stack.contact(source.transport)), *self._stack.capabilities())
        items = (*items, ("Content-Type", SDP)) if answer else items
        self._stack.answer(
            self._stack.transactions.accept(request, source), 200, call.id, now, items=items, body=answer
        )

    def _changed(self, call: Call, early: Early, body: bytes) -> bytes:
        if not early.answer or len(call.early) > 1:  # our offer is open, or nobody knows yet whose answer will count
            raise Refused(500, items=(("Retry-After", str(self._stack.token(1)[0] % 10)),))
        if not early.changed:
            early.before = call.media.save()
            taken(lambda: call.media.take_answer(early.answer))
            early.changed = True
        return taken(lambda: call.media.take_offer(body))

    def _acknowledge(self, call: Call, early: Early, rack: str, now: float) -> None:
        _, _, to = early.dialog.addressed()
        proof = call.digest.items("PRACK", early.dialog.target) if call.digest else ()
        request = early.dialog.request("PRACK", self._stack.via(to), "", (("RAck", rack), *proof))
        self._stack.transactions.request(request, to, ignored, ignored, now)
