"""Requests that we make in a dialog: BYE, INFO, and our own changes of the media (RFC 3261 sections 14 and 15)."""

from collections import Counter
from collections.abc import Callable
from functools import partial

from fastagent.connectors.sip.actions import ChangeRefused, EndReason, Send
from fastagent.connectors.sip.bodies import SDP
from fastagent.connectors.sip.call import Call, Phase
from fastagent.connectors.sip.dialog import SessionTimer, asked_interval, timer_of_response
from fastagent.connectors.sip.digest import Tries
from fastagent.connectors.sip.grammar import Malformed
from fastagent.connectors.sip.message import Response
from fastagent.connectors.sip.offer_answer import NotAcceptable
from fastagent.connectors.sip.requests import Items
from fastagent.connectors.sip.stack import Stack
from fastagent.connectors.sip.transactions import Failure

OnFinal = Callable[[Response | None, float], None]
"""Takes the final answer, or None where there was none."""
_PATIENCE_S = 60.0
"""How long an INVITE within a dialog may stay at 1xx: nobody rings there."""
_GONE = (408, 481)
"""Answers that mean that the dialog is no more (RFC 5057 section 5.1)."""


class InDialog:
    """Our requests in dialogs."""

    def __init__(self, stack: Stack) -> None:
        self._stack = stack

    def send(
        self,
        call: Call,
        method: str,
        now: float,
        on_final: OnFinal,
        *,
        items: Items = (),
        body: bytes = b"",
        tries: Tries | None = None,
    ) -> None:
        """Send a request; a challenge is answered once or twice, where we have a password."""
        tries = Counter() if tries is None else tries
        assert call.dialog is not None  # there is one wherever this is called
        _, _, to = call.dialog.addressed()
        proof = call.digest.items(method, call.dialog.target) if call.digest else ()
        contact = self._stack.contact(to.transport) if method in ("INVITE", "UPDATE", "REFER") else ""
        request = call.dialog.request(method, self._stack.via(to), contact, (*items, *proof), body)

        def on_response(response: Response, at: float) -> None:
            if response.status < 200:
                return
            if response.status in (401, 407) and call.digest is not None and call.digest.take(response, tries):
                self.send(call, method, at, on_final, items=items, body=body, tries=tries)
                return
            on_final(response, at)

        def on_failure(failure: Failure, at: float) -> None:
            on_final(None, at)

        self._stack.transactions.request(request, to, on_response, on_failure, now, patience_s=_PATIENCE_S)

    # -- BYE -------------------------------------------------------------------------------------------------------

    def hang_up(self, call: Call, reason: EndReason, now: float, items: Items = (), text: str = "") -> None:
        """End a confirmed call. It is over for us at once; the BYE is repeated until it is answered, or for 32 s."""
        if call.phase is Phase.ENDED:
            return
        self._stack.end(call, reason, text=text, keep=True)
        self.send(call, "BYE", now, lambda response, at: self._forget(call), items=items)

    def _forget(self, call: Call) -> None:
        self._stack.calls.pop(call.id, None)

    # -- changes ---------------------------------------------------------------------------------------------------

    def change(self, call: Call, now: float) -> None:
        """Offer our media anew: another address, a hold, or the same again."""
        call.changing = True
        body = call.media.make_offer()
        items: Items = (*self._timer_items(call), *self._stack.capabilities(), ("Content-Type", SDP))
        self.send(call, "INVITE", now, partial(self._changed, call), items=items, body=body)

    def _changed(self, call: Call, response: Response | None, now: float) -> None:
        if response is not None and response.status < 300:
            self._acknowledge(call, response)  # whatever is in it, and each copy of it
        if call.phase is not Phase.CONFIRMED or not call.changing:
            return
        call.changing = False
        if response is None or response.status >= 300:
            self._change_refused(call, response.status if response else 408, now)
            return
        before = call.agreed
        try:
            call.media.take_answer(response.body)
        except (NotAcceptable, Malformed) as error:
            self.hang_up(call, "protocol_error", now, text=str(error))
            return
        self._refreshed(call, response, now)
        self._stack.announce(call, before)

    def _acknowledge(self, call: Call, response: Response) -> None:
        assert call.dialog is not None  # it carried the INVITE
        if call.phase is Phase.CONFIRMED:
            call.dialog.refresh_target(response.headers)
        _, _, to = call.dialog.addressed()
        ack = call.dialog.ack(response.cseq.number, self._stack.via(to))
        self._stack.actions.append(Send(bytes(ack), to))

    def _change_refused(self, call: Call, status: int, now: float) -> None:
        """Nothing has changed (section 14.1). After 491 both sides try again, at different times."""
        wished = call.media.withdraw()
        if status in _GONE:
            self.hang_up(call, "timeout", now)
        elif status == 491:
            spread = int.from_bytes(self._stack.token(1), "big") / 255
            owner = call.invite is None  # whoever began the call waits longer
            delay = 2.1 + 1.9 * spread if owner else 2.0 * spread
            self._stack.timers.start(call, "change", now + delay, partial(self._again, call, wished))
        else:
            self._stack.actions.append(ChangeRefused(call.id, status))

    def _again(self, call: Call, wished: tuple[tuple[str, int] | None, bool], now: float) -> None:
        if call.phase is Phase.CONFIRMED and not call.changing and call.waiting is None:
            call.media.wish(*wished)
            self.change(call, now)

    # -- the session timer (RFC 4028) --------------------------------------------------------------------------------

    def arm(self, call: Call, now: float) -> None:
        """Start the session timer anew."""
        if call.timer is not None:
            self._stack.timers.start(call, "session", now + call.timer.due_s, partial(self._session_due, call))

    def _session_due(self, call: Call, now: float) -> None:
        assert call.timer is not None  # it has just run out
        if call.timer.refresher == "them":
            self.hang_up(call, "timeout", now, text="the session was not refreshed")
            return
        rest = call.timer.interval_s / 2 - min(32.0, call.timer.interval_s / 3)
        self._stack.timers.start(call, "session", now + max(rest, 0.0), partial(self._unrefreshed, call))
        if call.changing or call.waiting is not None:
            return  # that will refresh it
        if "update" in call.peer_allows:
            items = (*self._timer_items(call), *self._stack.capabilities())
            self.send(call, "UPDATE", now, partial(self._updated, call), items=items)
        else:
            self.change(call, now)

    def _unrefreshed(self, call: Call, now: float) -> None:
        self.hang_up(call, "timeout", now, text="no refresh was answered")

    def _updated(self, call: Call, response: Response | None, now: float) -> None:
        if call.phase is not Phase.CONFIRMED:
            return
        status = response.status if response else 408
        if status in _GONE:
            self.hang_up(call, "timeout", now, text="a refresh found no dialog")
        elif response is not None and status < 300:
            self._refreshed(call, response, now)

    def _refreshed(self, call: Call, response: Response, now: float) -> None:
        if asked_interval(response.headers) is not None or call.timer is None:
            call.timer = timer_of_response(response)
        self.arm(call, now)

    def _timer_items(self, call: Call) -> Items:
        timer: SessionTimer | None = call.timer
        if timer is None:
            return ()
        return (("Session-Expires", f"{timer.interval_s};refresher={'uac' if timer.refresher == 'us' else 'uas'}"),)
