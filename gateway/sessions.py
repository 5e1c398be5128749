"""The registry: which sessions run, how many may, and what became of those that ended."""

import asyncio
from collections import OrderedDict
from collections.abc import Iterable

from fastagent.connectors.leg import HangupReason
from fastagent.gateway.record import SessionRecord
from fastagent.gateway.session import Session

_REMEMBERED = 500  # ended sessions that can still be asked about


class Sessions:
    """All sessions of a gateway. A place is taken when a call is announced, so the limit holds at the door."""

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self._places: set[object] = set()
        self._live: dict[str, Session] = {}
        self._ended: OrderedDict[str, SessionRecord] = OrderedDict()
        self._empty = asyncio.Event()
        self._empty.set()
        self._removed = asyncio.Event()

    def __len__(self) -> int:
        return len(self._live)

    def reserve(self) -> object | None:
        """Return a place, or None when all are taken."""
        if len(self._places) >= self.limit:
            return None
        place = object()
        self._places.add(place)
        return place

    def release(self, place: object) -> None:
        """Give a place back; twice is fine."""
        self._places.discard(place)

    def add(self, session: Session) -> None:
        """A session begins."""
        self._live[session.id] = session
        self._ended.pop(session.id, None)  # its client has taken an id that was there before
        self._empty.clear()

    def remove(self, session: Session) -> None:
        """A session ended; its record is kept for a while."""
        if self._live.get(session.id) is session:
            del self._live[session.id]
        self._ended.pop(session.id, None)
        self._ended[session.id] = session.record
        while len(self._ended) > _REMEMBERED:
            self._ended.popitem(last=False)
        self._removed.set()
        if not self._live:
            self._empty.set()

    def records(self) -> Iterable[SessionRecord]:
        """The records of the live sessions, then of the ended ones, newest last."""
        return [*(session.record for session in self._live.values()), *self._ended.values()]

    def active(self) -> list[SessionRecord]:
        """The records of the live sessions."""
        return [session.record for session in self._live.values()]

    def find(self, session_id: str) -> SessionRecord | None:
        """Return a record by its id."""
        session = self._live.get(session_id)
        return session.record if session else self._ended.get(session_id)

    def live(self, session_id: str) -> Session | None:
        """Return a session that runs."""
        return self._live.get(session_id)

    async def ended(self, session: Session, patience_s: float = 20.0) -> None:
        """Return when a session is over; its own deadlines see to that."""
        try:
            async with asyncio.timeout(patience_s):
                while self._live.get(session.id) is session:
                    self._removed.clear()
                    await self._removed.wait()
        except TimeoutError:
            pass

    async def drain(self, seconds: float) -> None:
        """Let live sessions end by themselves for so long, then say goodbye to the rest."""
        try:
            async with asyncio.timeout(seconds):
                await self._empty.wait()
        except TimeoutError:
            pass
        for session in tuple(self._live.values()):
            session.close(HangupReason.SHUTDOWN)
        try:
            async with asyncio.timeout(15.0):
                await self._empty.wait()
        except TimeoutError:
            pass
