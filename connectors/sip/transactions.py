"""The transactions of one user agent: matching, repeating, and their clocks (RFC 3261 sections 17 and 18).

A request is matched by branch, sent-by and method (section 17.2.3), one without the magic cookie also by what
RFC 2543 looked at. A merged request, the same one over another path, is told by Call-ID, From-tag and CSeq (8.2.2.2).
"""

from collections import Counter
from collections.abc import Callable
from functools import partial
from typing import Literal

from fastagent.connectors.sip.actions import Action, Address, Send, Unavailable
from fastagent.connectors.sip.headers import MAGIC
from fastagent.connectors.sip.message import Request, Response
from fastagent.connectors.sip.requests import ack_of_refusal
from fastagent.connectors.sip.servers import Servers
from fastagent.connectors.sip.timers import Timers
from fastagent.connectors.sip.transaction import (
    CLIENT,
    INVITE_CLIENT,
    INVITE_SERVER,
    SERVER,
    TIMERS,
    Do,
    On,
    State,
    Transaction,
    on_status,
)

Key = tuple[str, ...]
Failure = Literal["timeout", "transport"]
OnResponse = Callable[[Response, float], None]
OnFailure = Callable[[Failure, float], None]
MAX_SERVER = 20_000
"""Server transactions at most; each is an authenticated request of the last 32 s."""


class ServerTransaction:
    """A request that we answer."""

    def __init__(self, key: Key, request: Request, source: Address) -> None:
        self.key, self.request = key, request
        self.reply_to = reply_address(request, source)
        self.otherwise = sent_by(request, source) if source.reliable else None
        self.source = source
        self.core = Transaction(INVITE_SERVER if request.method == "INVITE" else SERVER, reliable=source.reliable)
        self.last = b""
        self.call = ""
        """Which call an INVITE belongs to: the mark of the core above."""
        self.tag = ""
        """Ours in the answers so far."""

    @property
    def answered(self) -> bool:
        """Whether the final response is out."""
        return self.core.state not in (State.TRYING, State.PROCEEDING)


class ClientTransaction:
    """A request that we make."""

    def __init__(self, request: Request, to: Address, on_response: OnResponse, on_failure: OnFailure) -> None:
        self.request, self.to = request, to
        self.on_response, self.on_failure = on_response, on_failure
        self.core = Transaction(INVITE_CLIENT if request.method == "INVITE" else CLIENT, reliable=to.reliable)
        self.data, self.branch = bytes(request), request.via.branch
        self.ack = b""

    def sending(self, data: bytes) -> Send:
        """Return how a part of it is sent: where the first went. A CANCEL has its INVITE's branch, and goes there."""
        return Send(data, self.to, key=self.branch)

    @property
    def unavailable(self) -> Unavailable:
        """Word that the server which it went to is not to be asked for now."""
        return Unavailable(self.to, self.branch)


class Transactions:
    """All of them; what is to be sent goes to `out`."""

    def __init__(self, timers: Timers, out: Callable[[Action], None], servers: Servers) -> None:
        self._timers, self._out, self._servers = timers, out, servers
        self._server: dict[Key, ServerTransaction] = {}
        self._merged: dict[Key, Key] = {}
        self._client: dict[Key, ClientTransaction] = {}
        self.hosts: Counter[str] = Counter()
        """Where the requests that we answer have come from."""

    def __len__(self) -> int:
        return len(self._server) + len(self._client)

    @property
    def unanswered(self) -> int:
        """Requests of ours without a final answer."""
        waiting = (State.CALLING, State.TRYING, State.PROCEEDING)
        return sum(one.core.state in waiting for one in self._client.values())

    # -- requests to us --------------------------------------------------------------------------------------------

    def find(self, request: Request, method: str | None = None) -> ServerTransaction | None:
        """Return the transaction that a request belongs to: its own, or that of another method, an INVITE's for one."""
        return self._server.get(server_key(request, method or request.method))

    def absorb(self, request: Request, now: float) -> bool:
        """Repeat the last answer to a request that was seen before. An ACK to a 2xx is for the core above: False."""
        transaction = self.find(request, "INVITE" if request.method == "ACK" else None)
        if transaction is None:
            return False
        done = self._serve(transaction, On.ACK if request.method == "ACK" else On.REQUEST, now)
        return Do.TELL not in done

    def is_merged(self, request: Request) -> bool:
        """Whether a request is here already, over another path."""
        return merged_key(request) in self._merged

    @property
    def full(self) -> bool:
        """Whether there is no room for another."""
        return len(self._server) >= MAX_SERVER

    def accept(self, request: Request, source: Address) -> ServerTransaction:
        """Begin a transaction for a request that matched none."""
        transaction = ServerTransaction(server_key(request, request.method), request, source)
        self._server[transaction.key] = transaction
        self.hosts[source.host] += 1
        self._merged[merged_key(request)] = transaction.key
        return transaction

    def respond(self, transaction: ServerTransaction, response: Response, now: float) -> None:
        """Send a response; the final one decides what is repeated from now on."""
        if not transaction.answered or on_status(response.status) is On.SUCCESS:
            transaction.last = bytes(response)
            self._serve(transaction, on_status(response.status), now)

    def repeat(self, transaction: ServerTransaction) -> None:
        """Send the last response again: the core above repeats a 2xx until its ACK."""
        self._out(Send(transaction.last, transaction.reply_to, otherwise=transaction.otherwise))

    def _serve(self, transaction: ServerTransaction, on: On, now: float) -> tuple[Do, ...]:
        done = transaction.core.step(on)
        if Do.SEND in done and transaction.last:
            self._out(Send(transaction.last, transaction.reply_to, otherwise=transaction.otherwise))
        if transaction.core.state is State.TERMINATED:
            self._forget(transaction)
        self._clock(transaction, transaction.core, on, now, partial(self._serve, transaction))
        return done

    def _forget(self, transaction: ServerTransaction) -> None:
        if self._server.pop(transaction.key, None) is None:
            return
        host = transaction.source.host
        self.hosts[host] -= 1
        if not self.hosts[host]:
            del self.hosts[host]
        merged = merged_key(transaction.request)
        if self._merged.get(merged) == transaction.key:
            del self._merged[merged]

    # -- requests by us --------------------------------------------------------------------------------------------

    def request(
        self,
        request: Request,
        to: Address,
        on_response: OnResponse,
        on_failure: OnFailure,
        now: float,
        *,
        patience_s: float | None = None,
    ) -> ClientTransaction:
        """Send a request and repeat it until there is an answer.

        Args:
            request: ours, with a Via of its own.
            to: the next hop.
            on_response: told of each response that is no copy of a refusal.
            on_failure: told, once, that none will come.
            now: the time.
            patience_s: how long an INVITE waits for its final answer after a 1xx; None: until it is taken back.
        """
        transaction = ClientTransaction(request, to, on_response, on_failure)
        self._client[request.via.branch, request.method] = transaction
        self._out(transaction.sending(transaction.data))
        self._clock_client(transaction, None, now)
        if patience_s is not None:
            self._timers.start(transaction, "patience", now + patience_s, partial(self._lose_patience, transaction))
        return transaction

    def receive_response(self, response: Response, now: float) -> bool:
        """Take a response; False where it answers nothing of ours (section 18.1.2): drop it.

        Raises:
            Malformed: its Via or CSeq cannot be read.
        """
        transaction = self._client.get((response.via.branch, response.cseq.method))
        if transaction is None or response.via.sent_by != transaction.request.via.sent_by:
            return False
        if len(response.headers.get_all("via")) > 1 or "," in (response.headers.get("via") or ""):
            return False  # we are the first hop: a second Via was put there by somebody else (section 8.1.3.3)
        self._ask(transaction, on_status(response.status), now, response)
        return True

    def abandon(self, transaction: ClientTransaction) -> None:
        """Forget a transaction: it has ended, or is an INVITE that was taken back and never answered."""
        self._timers.stop(transaction)
        self._client.pop((transaction.request.via.branch, transaction.request.method), None)

    def _lose_patience(self, transaction: ClientTransaction, now: float) -> None:
        if transaction.core.state is State.PROCEEDING:
            self.abandon(transaction)
            transaction.on_failure("timeout", now)

    def broken(self, to: Address, now: float) -> None:
        """The transport cannot reach a place: what went there has failed."""
        for transaction in [one for one in self._client.values() if self._servers.where(one.to, one.branch) == to]:
            self._ask(transaction, On.BROKEN, now)

    def _ask(self, transaction: ClientTransaction, on: On, now: float, response: Response | None = None) -> None:
        todo = transaction.core.step(on)
        self._clock_client(transaction, on, now)  # first: whoever is told may find that he cannot read it
        for do in todo:
            match do:
                case Do.SEND:
                    self._out(transaction.sending(transaction.data))
                case Do.ACK:
                    if response is not None:
                        transaction.ack = transaction.ack or bytes(ack_of_refusal(transaction.request, response))
                    self._out(transaction.sending(transaction.ack))
                case Do.TELL:
                    assert response is not None  # only responses are told
                    if response.status == 503:
                        self._out(transaction.unavailable)
                    transaction.on_response(response, now)
                case Do.FAIL:
                    self._out(transaction.unavailable)
                    transaction.on_failure("transport" if on is On.BROKEN else "timeout", now)

    def _clock_client(self, transaction: ClientTransaction, on: On | None, now: float) -> None:
        if transaction.core.state is State.TERMINATED:
            self.abandon(transaction)
        self._clock(transaction, transaction.core, on, now, partial(self._ask, transaction))

    def _clock(
        self, owner: object, core: Transaction, on: On | None, now: float, due: Callable[[On, float], object]
    ) -> None:
        """Bring the clock in line: stop what does not run any more, start what is new or has just run out."""
        for timer in TIMERS:
            name = timer.value
            if timer not in core.intervals:
                if self._timers.running(owner, name):
                    self._timers.stop(owner, name)
            elif timer is on or not self._timers.running(owner, name):
                self._timers.start(owner, name, now + core.intervals[timer], partial(due, timer))


def ignored(answer: object, now: float) -> None:
    """For requests whose answers change nothing: a PRACK, a CANCEL, the BYE of a fork."""


def server_key(request: Request, method: str) -> Key:
    """Return what a request is matched by. A branch of nothing but the cookie names nothing (RFC 4475, 3.2.1)."""
    via = request.via
    if via.branch.startswith(MAGIC) and len(via.branch) > len(MAGIC):
        return via.branch, via.sent_by, method
    number = str(request.cseq.number)
    return str(via), request.uri, request.from_.tag, request.call_id, number, method


def merged_key(request: Request) -> Key:
    """Return what is the same in all copies of a request, whatever way they took."""
    return request.call_id, request.from_.tag, str(request.cseq.number), request.method


def reply_address(request: Request, source: Address) -> Address:
    """Return where the answer goes (RFC 3261 section 18.2.2, RFC 3581): to the source address always.

    `maddr` is not followed: it would have us send wherever a datagram says.
    """
    if source.reliable:
        return source
    if any(name == "rport" for name, _ in request.via.params):
        return source
    return sent_by(request, source)


def sent_by(request: Request, source: Address) -> Address:
    """Return the port that a sender says it listens on, at the address that it sent from."""
    return Address(source.host, request.via.port or source.default_port, source.transport)
