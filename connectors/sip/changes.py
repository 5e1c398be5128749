"""Our own changes of the media, and refreshes of the session (RFC 3261 section 14.1, RFC 4028 section 10).

A change that was asked for has one end, which is told: `ChangeDone`. One that meets a change of the other side's (491)
is tried again, at most three times. What changes of the media by it is told by events of its own.
"""

from dataclasses import replace
from functools import partial

from fastagent.connectors.sip.actions import ChangeDone, Send
from fastagent.connectors.sip.bodies import SDP
from fastagent.connectors.sip.call import Call, Change, Phase
from fastagent.connectors.sip.dialog import MAX_LONGER, SessionTimer, asked_interval, longer_interval, timer_of_response
from fastagent.connectors.sip.grammar import Malformed
from fastagent.connectors.sip.in_dialog import GONE, InDialog
from fastagent.connectors.sip.message import Response
from fastagent.connectors.sip.offer_answer import NotAcceptable
from fastagent.connectors.sip.requests import Items
from fastagent.connectors.sip.stack import Stack

_TRIES = 4
_BUSY_S = 0.5  # until a change of theirs is through
_MAX_WAITS = 80
_REFRESH_AGAIN_S = 10.0
_NOT_BY_UPDATE = (405, 415, 420, 488, 501)


class Changes:
    """All of ours."""

    def __init__(self, stack: Stack, in_dialog: InDialog) -> None:
        self._stack, self._in_dialog = stack, in_dialog

    # -- changes -----------------------------------------------------------------------------------------------------

    def begin(self, call: Call, change: Change, now: float) -> None:
        """Change the media: another address, a hold, or its end."""
        call.change = change
        self._try(call, now)

    def _try(self, call: Call, now: float) -> None:
        change = call.change
        if change is None or call.phase is not Phase.CONFIRMED:
            return
        if not call.changing and call.waiting is None:
            call.media.wish(change.local, change.hold)
            self._offer(call, change, now)
        elif change.waits < _MAX_WAITS:
            change.waits += 1
            self._stack.timers.start(call, "change", now + _BUSY_S, partial(self._try, call))
        else:
            self._done(call, 491)

    def _offer(self, call: Call, change: Change | None, now: float) -> None:
        """Offer our media anew, with a change or as it is."""
        self._stack.timers.stop(call, "change")  # nothing waits for its turn any more, but for the answer
        call.changing = True
        body = call.media.make_offer()
        items: Items = (*_timer_items(call), *self._stack.capabilities(), ("Content-Type", SDP))
        self._in_dialog.send(call, "INVITE", now, partial(self._answered, call, change), items=items, body=body)

    def _answered(self, call: Call, change: Change | None, response: Response | None, now: float) -> None:
        if response is not None and response.status < 300:
            self._acknowledge(call, response)  # whatever is in it, and each copy of it
        if call.phase is not Phase.CONFIRMED or not call.changing:
            return
        call.changing = False
        if response is None or response.status >= 300:
            self._refused(call, change, response, now)
            return
        before = call.agreed
        try:
            call.media.take_answer(response.body)
        except (NotAcceptable, Malformed) as error:
            self._in_dialog.hang_up(call, "protocol_error", now, text=str(error))
            return
        self._refreshed(call, response, now)
        self._stack.announce(call, before)
        self._over(call, change, response.status, now)

    def _acknowledge(self, call: Call, response: Response) -> None:
        assert call.dialog is not None  # it carried the INVITE
        if call.phase is Phase.CONFIRMED:
            call.dialog.refresh_target(response.headers)
        _, _, to = call.dialog.addressed()
        ack = call.dialog.ack(response.cseq.number, self._stack.via(to))
        self._stack.actions.append(Send(bytes(ack), to))

    def _refused(self, call: Call, change: Change | None, response: Response | None, now: float) -> None:
        """Nothing has changed. After 491 both sides try again, at different times (section 14.1)."""
        call.media.withdraw()
        status = response.status if response is not None else 408
        if status in GONE:
            self._in_dialog.hang_up(call, "timeout", now)
        elif response is not None and status == 422 and self._longer(call, response):
            self._try(call, now)
        elif status == 491 and change is not None and change.tries + 1 < _TRIES:
            change.tries += 1
            spread = int.from_bytes(self._stack.token(1), "big") / 255
            owner = call.invite is None  # whoever began the call waits longer
            delay = 2.1 + 1.9 * spread if owner else 2.0 * spread
            self._stack.timers.start(call, "change", now + delay, partial(self._try, call))
        else:
            self._over(call, change, status, now)

    def _over(self, call: Call, change: Change | None, status: int, now: float) -> None:
        """An offer has had its answer: of the change that it was for, or of a refresh that one may have waited for."""
        if change is None:
            self._try(call, now)
        else:
            self._done(call, status)

    def _done(self, call: Call, status: int) -> None:
        if call.change is not None:
            call.change = None
            self._stack.actions.append(ChangeDone(call.id, status))

    # -- the session timer -------------------------------------------------------------------------------------------

    def arm(self, call: Call, now: float) -> None:
        """Start the session timer anew."""
        self._stack.timers.stop(call, "refresh", "session")
        if call.timer is not None:
            self._stack.timers.start(call, "session", now + call.timer.due_s, partial(self._session_due, call))

    def _session_due(self, call: Call, now: float) -> None:
        assert call.timer is not None  # it has just run out
        if call.timer.refresher == "them":
            self._in_dialog.hang_up(call, "timeout", now, text="the session was not refreshed")
            return
        rest = call.timer.interval_s / 2 - min(32.0, call.timer.interval_s / 3)
        self._stack.timers.start(call, "session", now + max(rest, 0.0), partial(self._unrefreshed, call))
        self._refresh(call, now)

    def _unrefreshed(self, call: Call, now: float) -> None:
        self._in_dialog.hang_up(call, "timeout", now, text="no refresh was answered")

    def _refresh(self, call: Call, now: float) -> None:
        """Refresh, again and again until it is done or the session's time is up: one refusal says little."""
        self._stack.timers.start(call, "refresh", now + _REFRESH_AGAIN_S, partial(self._refresh, call))
        if call.phase is not Phase.CONFIRMED or call.changing or call.refreshing or call.waiting is not None:
            return  # a change refreshes it, too
        if "update" not in call.peer_allows:
            self._offer(call, None, now)
            return
        call.refreshing = True
        items = (*_timer_items(call), *self._stack.capabilities())
        self._in_dialog.send(call, "UPDATE", now, partial(self._updated, call), items=items)

    def _updated(self, call: Call, response: Response | None, now: float) -> None:
        call.refreshing = False
        if call.phase is not Phase.CONFIRMED:
            return
        status = response.status if response is not None else 408
        if response is None or status in GONE:
            self._in_dialog.hang_up(call, "timeout", now, text="a refresh found no dialog")
        elif status < 300:
            self._refreshed(call, response, now)
        elif status == 422 and self._longer(call, response):
            self._refresh(call, now)
        elif status in _NOT_BY_UPDATE:
            call.peer_allows -= {"update"}
            self._refresh(call, now)

    def _longer(self, call: Call, response: Response) -> bool:
        interval = longer_interval(response, call.timer.interval_s) if call.timer is not None else None
        call.lengthened += 1
        if call.timer is None or interval is None or call.lengthened > MAX_LONGER:
            return False
        call.timer = replace(call.timer, interval_s=interval)
        return True

    def _refreshed(self, call: Call, response: Response, now: float) -> None:
        if asked_interval(response.headers) is not None or call.timer is None:
            call.timer = timer_of_response(response)
        self.arm(call, now)


def _timer_items(call: Call) -> Items:
    timer: SessionTimer | None = call.timer
    if timer is None:
        return ()
    return (("Session-Expires", f"{timer.interval_s};refresher={'uac' if timer.refresher == 'us' else 'uas'}"),)
