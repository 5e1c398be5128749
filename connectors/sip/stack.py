"""What the parts of a user agent share: settings, clock, transactions, calls, and what it has to say."""

import hashlib
import hmac
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from fastagent.connectors.sip.actions import (
    Action,
    Address,
    CallAnswered,
    CallEnded,
    EndReason,
    Held,
    MediaChanged,
    Resumed,
    Send,
    Transport,
)
from fastagent.connectors.sip.admission import LOOPBACK, Admission, Network, Trust
from fastagent.connectors.sip.call import Call, Did
from fastagent.connectors.sip.digest import ALGORITHMS, Algorithm, Credentials, DigestClient, DigestServer
from fastagent.connectors.sip.grammar import Malformed
from fastagent.connectors.sip.headers import MAGIC
from fastagent.connectors.sip.media import Capabilities, NegotiatedMedia
from fastagent.connectors.sip.message import Request
from fastagent.connectors.sip.requests import ALLOW, SUPPORTED, Items, response_to
from fastagent.connectors.sip.servers import Servers
from fastagent.connectors.sip.timers import Timers
from fastagent.connectors.sip.transactions import ServerTransaction, Transactions, reply_address
from fastagent.connectors.sip.uri import Uri, sip_uri
from fastagent.connectors.sip.validate import Refused

Token = Callable[[int], bytes]


@dataclass(frozen=True, slots=True)
class AgentConfig:
    """A user agent's settings."""

    host: str
    """The address that others reach us by: it goes into Via and Contact."""
    ports: Mapping[Transport, int]
    user: str = "agent"
    product: str = "FastAgent"
    media: Capabilities = field(default_factory=Capabilities)
    trusted: tuple[Network, ...] = LOOPBACK
    """Whose calls are taken without a password; the packet's source counts, never a header."""
    realm: str = "fastagent"
    users: Mapping[str, str] = field(default_factory=dict, repr=False)
    """Passwords by user. Without any, strangers get 403."""
    algorithms: tuple[Algorithm, ...] = ALGORITHMS
    credentials: Credentials | None = None
    """Who we are at the trunk."""
    anyone: bool = False
    """Take calls from strangers without a password, as a setting that somebody has chosen."""
    challenge_in_dialog: bool = True
    """Ask users for their password again where a request would move the media. BYE and INFO are never challenged: the
    dialog's tags guard them, and a lost one is worse."""
    max_calls: int = 1000
    full_status: int = 503
    ring_s: float = 60.0
    session_expires_s: int = 0
    """The session timer that our own calls ask for; none at zero."""
    per_source: int = 30
    overall: int = 2000


class Stack:
    """The shared part."""

    def __init__(self, config: AgentConfig, token: Token, servers: Servers) -> None:
        self.config, self.token, self.servers = config, token, servers
        self.timers = Timers()
        self.actions: list[Action] = []
        self.transactions = Transactions(self.timers, self.actions.append, servers)
        self.trust = Trust(config.trusted)
        self.admission = Admission(self.trust, per_source=config.per_source, overall=config.overall)
        self.digest = DigestServer(config.realm, config.users, token, algorithms=config.algorithms)
        self.calls: dict[str, Call] = {}
        """By our tag; those that are over, too, while a BYE of ours is under way."""
        self.live = 0
        """How many are not over."""
        self.refused: Counter[int] = Counter()
        """Requests refused, by status."""
        self.wrong_passwords = 0
        self._secret = token(32)

    # -- names -----------------------------------------------------------------------------------------------------

    def new_tag(self) -> str:
        """Return 128 random bits."""
        return self.token(16).hex()

    def via(self, to: Address) -> str:
        """Return a Via of a new transaction over a transport."""
        port = self.config.ports.get(to.transport, to.default_port)
        host = f"[{self.config.host}]" if ":" in self.config.host else self.config.host
        return f"SIP/2.0/{to.transport.upper()} {host}:{port};branch={MAGIC}{self.token(12).hex()};rport"

    def uri(self, transport: Transport, user: str | None = None, *, scheme: str = "sip") -> Uri:
        """Return our own address over a transport. Where we do not listen it names no port: what listens on another is
        not meant."""
        params = () if transport == "udp" or scheme == "sips" else (("transport", transport),)
        port = self.config.ports.get(transport)
        return sip_uri(self.config.user if user is None else user, self.config.host, port, params, scheme)

    def contact(self, transport: Transport, *, like: str = "") -> str:
        """Return our Contact; a SIPS address in a dialog that began as one (section 12.1.1)."""
        scheme = "sips" if like[:5].lower() == "sips:" else "sip"
        return f"<{self.uri(transport, scheme=scheme)}>"

    def capabilities(self) -> Items:
        """Return the headers that say what we can do."""
        return ("Allow", ALLOW), ("Supported", SUPPORTED), ("User-Agent", self.config.product)

    # -- answers ---------------------------------------------------------------------------------------------------

    def answer_once(
        self, request: Request, source: Address, status: int, items: Items = (), *, reason: str = ""
    ) -> None:
        """Answer without remembering: the tag is made from the transaction, so that it is the same every time."""
        response = response_to(request, status, self._made_tag(request), items, reason=reason)
        try:
            to = reply_address(request, source)
        except Malformed:
            to = source
        self.actions.append(Send(bytes(response), to))

    def _made_tag(self, request: Request) -> str:
        parts = [request.headers.get(name) or "" for name in ("via", "from", "call-id", "cseq")]
        key = "\0".join(parts).encode("utf-8", "surrogateescape")  # as written: it may be what cannot be read
        return hmac.new(self._secret, key, hashlib.sha256).hexdigest()[:16]

    def answer(
        self,
        transaction: ServerTransaction,
        status: int,
        tag: str,
        now: float,
        *,
        items: Items = (),
        body: bytes = b"",
        reason: str = "",
    ) -> None:
        """Answer within a transaction."""
        transaction.tag = tag
        response = response_to(transaction.request, status, tag, items, body, reason)
        self.transactions.respond(transaction, response, now)

    def refuse(self, request: Request, source: Address, refused: Refused, tag: str, now: float) -> None:
        """Refuse a request of somebody who is known, and remember it: its repeats are answered alike, although its
        number or its proof would be an old one by then."""
        self.refused[refused.status] += 1
        transaction = self.transactions.accept(request, source)
        self.answer(transaction, refused.status, tag, now, items=refused.items, reason=refused.reason)

    def digest_for(self, source: Address) -> DigestClient | None:
        """Return what answers the challenges of a peer that called us: a trunk may ask for our password, too."""
        credentials = self.config.credentials
        if credentials is None or source.host not in self.trust.addresses:
            return None
        return DigestClient(credentials, self.token)

    # -- who ---------------------------------------------------------------------------------------------------------

    def authenticate(self, request: Request, source: Address, now: float) -> str:
        """Return whom a request is from: "" for a trusted peer.

        Raises:
            Refused: 401 with challenges, or 403 where there are no passwords to ask for.
        """
        if self.config.anyone or source.host in self.trust:
            return ""
        if not self.config.users:
            raise Refused(403)
        verdict = self.digest.check(request, source.host, now)
        if verdict.kind == "right":
            return verdict.user
        if verdict.kind == "wrong":
            self.wrong_passwords += 1
            self.admission.failed(source.host, now)
        raise Refused(401, items=self.digest.challenges(source.host, now, stale=verdict.kind == "stale"))

    # -- calls -------------------------------------------------------------------------------------------------------

    def talks_to(self, host: str) -> bool:
        """Whether there is something under way with somebody there, as far as his address or his Contact tells."""
        if self.transactions.hosts[host] > 0 or any(call.source.host == host for call in self.calls.values()):
            return True
        dialogs = (call.dialog for call in self.calls.values() if call.dialog is not None)
        return any(host in one.target or (one.flow is not None and one.flow.host == host) for one in dialogs)

    def places(self) -> set[Address]:
        """Return where the other sides of calls are."""
        flows = (call.dialog.flow for call in self.calls.values() if call.dialog is not None)
        return {call.source for call in self.calls.values()} | {flow for flow in flows if flow is not None}

    def flow_lost(self, to: Address) -> None:
        """A connection is gone: whoever opened it may be reached at his Contact; ours is opened anew, to its name."""
        for call in self.calls.values() if to.reliable else ():
            if call.dialog is not None and call.dialog.flow == to and (call.invite is not None or call.dialog.home):
                call.dialog.flow = call.dialog.home

    def begin(self, call: Call) -> None:
        """Keep a call."""
        self.calls[call.id] = call
        self.live += 1

    def announce(self, call: Call, before: NegotiatedMedia | None) -> None:
        """Tell how the media differs from what it was."""
        after = call.agreed
        if after is None or after == before:
            return
        if before is None:
            self.actions.append(CallAnswered(call.id, after))
        elif before.held != after.held:
            self.actions.append(Held(call.id, after) if after.held else Resumed(call.id, after))
        else:
            self.actions.append(MediaChanged(call.id, after))

    def end(self, call: Call, reason: EndReason, status: int = 0, text: str = "", *, keep: bool = False) -> None:
        """The call is over. `keep` it findable while our BYE is under way, so that a BYE that crosses it gets 200."""
        if call.move(Did.END):
            self.live -= 1
            self.timers.stop(call)
            self.actions.append(CallEnded(call.id, reason, status, text))
        if not keep:
            self.calls.pop(call.id, None)
