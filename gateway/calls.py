"""Calls that the gateway makes: who may be called, what became of it, and each asked for once only."""

import logging
import secrets
from collections import OrderedDict
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Literal

from fastagent.connectors.sip.connector import SipConnection
from fastagent.connectors.sip.dial import Dial, Outcome, Progress, Unanswered
from fastagent.gateway.destinations import DestinationPolicy, TooManyError

_log = logging.getLogger(__name__)

_REMEMBERED = 500
_MAX_KEYS = 1000

CallStatus = Literal["dialing", "ringing", "answered", "ended"]


class NoPhoneError(Exception):
    """There is nothing to call with."""


class KeyReusedError(Exception):
    """The same idempotency key, for another call."""


@dataclass(frozen=True, slots=True)
class Order:
    """A call that somebody wants."""

    to: str
    agent_id: str
    caller: str = ""
    metadata: Mapping[str, str] = field(default_factory=dict)
    ring_s: float = 60.0


@dataclass(slots=True)
class CallRecord:
    """What became of it."""

    order: Order
    call_id: str = ""
    session_id: str = field(default_factory=lambda: f"sess_{secrets.token_hex(16)}")
    status: CallStatus = "dialing"
    outcome: Outcome | Literal["answered"] | None = None
    """Why nobody answered, or that somebody did."""
    sip_status: int | None = None
    """What the other side refused it with."""
    created_at: datetime = field(default_factory=lambda: datetime.now(UTC))
    ended_at: datetime | None = None


class OutboundCalls:
    """All of them; the last 500 can be asked about.

    Args:
        phone: what calls are made with; None where there is nothing.
        policy: whom may be called.
        at_once: how many at the same time.
    """

    def __init__(self, phone: Callable[[], SipConnection | None], policy: DestinationPolicy, at_once: int) -> None:
        self._phone, self._policy, self._at_once = phone, policy, at_once
        self._records: OrderedDict[str, CallRecord] = OrderedDict()
        self._by_key: OrderedDict[tuple[str, str], CallRecord] = OrderedDict()

    def records(self) -> Iterable[CallRecord]:
        """All that are known, newest first."""
        return reversed(self._records.values())

    def find(self, call_id: str) -> CallRecord | None:
        """Return a call by its id."""
        return self._records.get(call_id)

    def place(self, order: Order, *, principal: str = "", key: str | None = None) -> CallRecord:
        """Call somebody; with the key of a call that was made, return that one.

        Raises:
            DestinationRefusedError: they may not be called; `TooManyError` where they may later.
            DialError: they cannot; `NoRoomError` where they can later.
            NoPhoneError, KeyReusedError: as they say.
        """
        if key is not None and (known := self._by_key.get((principal, key))) is not None:
            if known.order != order:
                raise KeyReusedError
            return known
        phone = self._phone()
        if phone is None:
            raise NoPhoneError
        if sum(one.status != "ended" for one in self._records.values()) >= self._at_once:
            raise TooManyError("there are too many at once")
        record = CallRecord(order)
        self._dial(phone, record, self._policy.take(order.to))
        if key is not None:
            self._by_key[principal, key] = record
            while len(self._by_key) > _MAX_KEYS:
                self._by_key.popitem(last=False)
        return record

    def _dial(self, phone: SipConnection, record: CallRecord, to: str) -> None:
        order = record.order
        record.call_id = phone.dial(
            Dial(
                to,
                order.agent_id,
                record.session_id,
                caller=order.caller,
                metadata=order.metadata,
                on_progress=lambda progress, why: self._progressed(record, progress, why),
                ring_s=order.ring_s,
            )
        )
        self._records[record.call_id] = record
        while len(self._records) > _REMEMBERED + self._at_once:
            self._records.popitem(last=False)
        _log.info("calling", extra={"call_id": record.call_id, "agent_id": order.agent_id, "called_id": to})

    def _progressed(self, record: CallRecord, progress: Progress, why: Unanswered | None) -> None:
        record.status = progress
        if progress == "answered":
            record.outcome = "answered"
        elif progress == "ended":
            record.ended_at = datetime.now(UTC)
            if record.outcome is None and why is not None:
                record.outcome, record.sip_status = why.outcome, why.status
            extra = {"call_id": record.call_id, "outcome": record.outcome, "sip_status": record.sip_status}
            _log.info("call ended", extra=extra)

    def hang_up(self, record: CallRecord) -> None:
        """Take a call back, or end it."""
        phone = self._phone()
        if phone is not None:
            phone.hang_up(record.call_id)
