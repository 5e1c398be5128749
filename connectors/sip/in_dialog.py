"""Requests that we make in a dialog, and the one that ends it (RFC 3261 sections 12.2.1 and 15)."""

from collections import Counter
from collections.abc import Callable

from fastagent.connectors.sip.actions import EndReason
from fastagent.connectors.sip.call import Call, Phase
from fastagent.connectors.sip.digest import Tries
from fastagent.connectors.sip.message import Response
from fastagent.connectors.sip.requests import Items
from fastagent.connectors.sip.stack import Stack
from fastagent.connectors.sip.transactions import Failure

OnFinal = Callable[[Response | None, float], None]
"""Takes the final answer, or None where there was none."""
_PATIENCE_S = 60.0
"""How long an INVITE within a dialog may stay at 1xx: nobody rings there."""
GONE = (408, 481)
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
