"""Transfers: we ask the peer to call somebody else (RFC 3515, RFC 5589), and are told how that goes."""

from functools import partial
from urllib.parse import quote as percent

from fastagent.connectors.sip.actions import TransferProgress
from fastagent.connectors.sip.bodies import sipfrag_status
from fastagent.connectors.sip.call import Call
from fastagent.connectors.sip.grammar import Malformed
from fastagent.connectors.sip.in_dialog import InDialog
from fastagent.connectors.sip.message import Request, Response
from fastagent.connectors.sip.requests import Items
from fastagent.connectors.sip.stack import Stack
from fastagent.connectors.sip.uri import Uri, sip_uri

_PATIENCE_S = 90.0
"""How long the new call may take until somebody tells us of its end."""


class Transfers:
    """Our REFERs."""

    def __init__(self, stack: Stack, in_dialog: InDialog) -> None:
        self._stack, self._in_dialog = stack, in_dialog

    def refer(self, call: Call, target: Uri, now: float, other: Call | None = None) -> None:
        """Ask the peer to call a target; with `other`, to take that call's place there (attended transfer)."""
        call.transferring = True
        refer_to = f"<{target}>" if other is None else f"<{_replacing(target, other)}>"
        items: Items = (("Refer-To", refer_to), ("Referred-By", self._stack.contact(call.source.transport)))
        self._stack.timers.start(call, "transfer", now + _PATIENCE_S, lambda at: self._tell(call, 408, final=True))
        self._in_dialog.send(call, "REFER", now, partial(self._answered, call), items=items)

    def _answered(self, call: Call, response: Response | None, now: float) -> None:
        status = response.status if response else 408
        if call.transferring:
            self._tell(call, status, final=status >= 300)

    def notified(self, call: Call, request: Request) -> None:
        """Take a NOTIFY: the new call's status line, and whether it is the last."""
        if not call.transferring:
            return
        status = sipfrag_status(request.headers, request.body)
        over = (request.headers.get("subscription-state") or "").strip().lower().startswith("terminated")
        if status is not None or over:
            self._tell(call, status or 408, final=over or (status or 0) >= 200)

    def _tell(self, call: Call, status: int, *, final: bool) -> None:
        if final:
            call.transferring = False
            self._stack.timers.stop(call, "transfer")
        self._stack.actions.append(TransferProgress(call.id, status, final))


def target_of(call: Call, text: str) -> Uri:
    """Return whom a text names: an address, or a number or name where the peer is.

    Raises:
        Malformed: it is no address of a phone.
    """
    if ":" in text:
        uri = Uri.parse(text)
        if uri.scheme not in ("sip", "sips", "tel"):
            raise Malformed("only SIP and tel addresses can be called")
        return uri
    assert call.dialog is not None  # a call that can be transferred has one
    peer = Uri.parse(call.dialog.target)
    transport = tuple(one for one in peer.params if one[0] == "transport")
    return sip_uri(text, peer.host, peer.port, transport, peer.scheme)


def _replacing(target: Uri, other: Call) -> str:
    """Return the target's address with the dialog to replace, as its own side names it (RFC 3891 section 3)."""
    assert other.dialog is not None  # a call that can be transferred has one
    dialog = other.dialog
    replaces = f"{dialog.call_id};to-tag={dialog.remote_tag};from-tag={dialog.local_tag}"
    return f"{target.without()}?Replaces={percent(replaces, safe='')}"
