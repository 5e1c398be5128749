"""Whether a peer is there: OPTIONS at an interval (RFC 3261 section 11). Most answers say that it is."""

from dataclasses import dataclass
from functools import partial

from fastagent.connectors.sip.actions import Address, PeerProbed
from fastagent.connectors.sip.bodies import SDP
from fastagent.connectors.sip.headers import Headers
from fastagent.connectors.sip.message import Request, Response
from fastagent.connectors.sip.requests import Items
from fastagent.connectors.sip.stack import Stack
from fastagent.connectors.sip.transactions import ClientTransaction, Failure
from fastagent.connectors.sip.uri import Uri

_RETRY_S = 10.0  # after a failure, where the interval is longer


@dataclass(slots=True, eq=False)
class _Probe:
    id: str
    uri: Uri
    hop: Address
    every_s: float
    call_id: str
    number: int = 0
    outgoing: ClientTransaction | None = None


class Probes:
    """All of ours."""

    def __init__(self, stack: Stack) -> None:
        self._stack = stack
        self._all: dict[str, _Probe] = {}

    def start(self, uri: Uri, hop: Address, every_s: float, now: float) -> str:
        """Ask a peer now, and every so many seconds; `PeerProbed` tells what it said. Return our name for it."""
        probe = _Probe(self._stack.new_tag(), uri, hop, every_s, self._stack.new_tag())
        self._all[probe.id] = probe
        self._ask(probe, now)
        return probe.id

    def stop(self, id_: str) -> None:
        """Ask no more."""
        probe = self._all.pop(id_, None)
        if probe is not None:
            self._stack.timers.stop(probe)
            if probe.outgoing is not None:
                self._stack.transactions.abandon(probe.outgoing)

    def hops(self) -> set[Address]:
        """Return where the peers are."""
        return {probe.hop for probe in self._all.values()}

    def _ask(self, probe: _Probe, now: float) -> None:
        probe.number += 1
        probe.outgoing = self._stack.transactions.request(
            self._request(probe), probe.hop, partial(self._answered, probe), partial(self._failed, probe), now
        )

    def _request(self, probe: _Probe) -> Request:
        transport = probe.hop.transport
        items: Items = (
            ("Via", self._stack.via(probe.hop)),
            ("Max-Forwards", "70"),
            ("From", f"<{self._stack.uri(transport)}>;tag={probe.id}"),
            ("To", f"<{probe.uri.without()}>"),
            ("Call-ID", probe.call_id),
            ("CSeq", f"{probe.number} OPTIONS"),
            ("Contact", self._stack.contact(transport, like=str(probe.uri))),
            ("Accept", SDP),
            *self._stack.capabilities(),
        )
        return Request("OPTIONS", str(probe.uri), Headers(items))

    def _answered(self, probe: _Probe, response: Response, now: float) -> None:
        if response.status < 200:
            return
        event = PeerProbed(probe.id, response.status)
        if not event.ok and response.status != 503 and probe.outgoing is not None:
            self._stack.actions.append(probe.outgoing.unavailable)  # as 503 is told by the transaction
        self._found(probe, event, now)

    def _failed(self, probe: _Probe, failure: Failure, now: float) -> None:
        self._found(probe, PeerProbed(probe.id, 0), now)

    def _found(self, probe: _Probe, event: PeerProbed, now: float) -> None:
        self._stack.actions.append(event)
        pause = probe.every_s if event.ok else min(probe.every_s, _RETRY_S)
        self._stack.timers.start(probe, "ask", now + pause, partial(self._ask, probe))
