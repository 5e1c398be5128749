"""A conversation of the chat mode as a call leg: words in, words out, over requests that VoiceAI Connect makes.

What the agent says is the answer to the request that made it speak: a request waits until it is the caller's turn
again. With the asynchronous channel (a WebSocket that VoiceAI Connect opens if it wants to) words go out as they come,
and requests are answered at once, with nothing.

Requests are taken one at a time. An activity that comes again, since its answer was slow, is answered from memory.
"""

import asyncio
from collections import OrderedDict
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from dataclasses import replace
from itertools import groupby
from typing import Any

from fastagent.connectors import notices
from fastagent.connectors.audiocodes.activities import (
    ActivityEvent,
    ActivityReader,
    ActivityWriter,
    CallStarted,
    Json,
    PlayFinished,
    TransferStatus,
)
from fastagent.connectors.audiocodes.departure import Departure, LegOptions
from fastagent.connectors.audiocodes.protocol import encoded
from fastagent.connectors.leg import (
    CallInfo,
    Capability,
    DtmfReceived,
    HangupReason,
    InboundSink,
    LegEnded,
    LegError,
    LegEvent,
    MarkReached,
    NoHold,
)
from fastagent.connectors.outbox import Outbox

_LATE = 1.5  # of the time that was promised: the other side's timer may be late, too
_REMEMBERED = 256  # answers
_DRAIN_S = 1.0

Send = Callable[[str], Awaitable[None]]
Started = Callable[["ChatLeg", Mapping[str, str]], None]


class ChatLeg(NoHold):
    """One conversation.

    Args:
        started: told who calls whom, once; lets the session begin.
        expires_s: without any request for half as long again the conversation is over.
        answer_s: the longest that a request may wait for its answer.
    """

    def __init__(
        self, info: CallInfo, options: LegOptions, started: Started, *, expires_s: float, answer_s: float
    ) -> None:
        self._private = dict(info.private)
        self.info = replace(info, private=self._private)
        self.frames_dropped = 0
        self.capabilities: frozenset[Capability] = frozenset({"transfer", "dtmf"})
        self.write = ActivityWriter()
        self.reader = ActivityReader()
        self._options, self._started = options, started
        self._departure = Departure(options)
        self._expires_s, self._answer_s = expires_s, answer_s
        self._begun = False
        self.ready, self.gone = asyncio.Event(), asyncio.Event()
        """It can be conversed, or is over already; everything is released."""
        self._out: list[Json] = []
        self._listening = asyncio.Event()
        self._lock = asyncio.Lock()
        self._answers: OrderedDict[str, list[Json]] = OrderedDict()
        self._channel: Outbox[str] | None = None
        self._expiry: asyncio.TimerHandle | None = None
        self.touch()

    # -- requests --------------------------------------------------------------------------------------------------

    def touch(self) -> None:
        """A request has come: the conversation lives."""
        if self._expiry is not None:
            self._expiry.cancel()
        lost = LegEnded(HangupReason.CONNECTION_LOST)
        loop = asyncio.get_running_loop()
        self._expiry = None if self.over else loop.call_later(self._expires_s * _LATE, self.happened, lost)

    @property
    def over(self) -> bool:
        """Whether the conversation has ended."""
        return self._departure.over

    async def answer(self, raw: Sequence[Any]) -> list[Json]:
        """Take the activities of a request; return those that answer it."""
        async with self._lock:
            remembered: list[list[Json]] = []
            fresh: list[Any] = []
            for one in raw:
                known = self._answers.get(_id(one))
                if known is None:
                    fresh.append(one)
                elif not any(known is other for other in remembered):
                    remembered.append(known)
            said = await self._converse(fresh) if fresh else []
            for one in fresh:
                self._remember(_id(one), said)
            return [activity for answer in (*remembered, said) for activity in answer]

    def _remember(self, id_: str, answer: list[Json]) -> None:
        if id_:
            self._answers[id_] = answer
            while len(self._answers) > _REMEMBERED:
                self._answers.popitem(last=False)

    async def _converse(self, raw: Sequence[Any]) -> list[Json]:
        """One thing after the other: what the caller said first is answered first; keys belong together."""
        for kind, events in groupby(self.reader.read(raw), type):
            for together in [list(events)] if kind is DtmfReceived else [[event] for event in events]:
                await self._take(together)
        return self._taken()

    async def _take(self, events: Sequence[ActivityEvent]) -> None:
        if not self._begun:
            first = events[0]
            self.begin(first.parameters if isinstance(first, CallStarted) else {})
            await self._quiet()
        for event in events:
            if isinstance(event, TransferStatus):
                if self._departure.told_status(event) and event.status == "failed":
                    self._listening.clear()  # the agent has the call back, and something to say
            elif not isinstance(event, CallStarted | PlayFinished):
                self._listening.clear()
                self.happened(event)
        await self._quiet()

    def begin(self, parameters: Mapping[str, str]) -> None:
        """Let the session begin."""
        self._begun = True
        self._started(self, parameters)
        self.ready.set()

    async def _quiet(self) -> None:
        """Return when it is the caller's turn, or there is no time left; with the channel nobody waits."""
        if self._channel is not None or self.over:
            return
        try:
            async with asyncio.timeout(self._answer_s):
                await self._listening.wait()
        except TimeoutError:
            pass

    def _taken(self) -> list[Json]:
        out, self._out = self._out, []
        return out

    def called(self, from_: str, to: str, metadata: Mapping[str, str]) -> None:
        """It is known who calls whom; before the session begins."""
        self._private |= {"from": from_, "to": to}
        self.info = replace(self.info, from_=from_, to=to, metadata=metadata)

    def ended(self, reason_code: str) -> None:
        """VoiceAI Connect has disconnected."""
        self._departure.told_end(reason_code)
        self._listening.set()
        self.ready.set()

    # -- the asynchronous channel ----------------------------------------------------------------------------------

    def connect(self, send: Send) -> "Outbox[str]":
        """Words go there from now on; what waited goes first."""
        channel = self._channel = Outbox(send, max_audio=0, dropped=lambda size: None, failed=self._channel_failed)
        self._listening.set()  # whoever waits for words need not any more
        if self._out:
            self._push(self._taken())
        return channel

    def disconnect(self, channel: "Outbox[str]") -> None:
        """The channel is gone: answers go with the requests again."""
        if self._channel is channel:
            self._channel = None

    def _channel_failed(self, reason: HangupReason) -> None:
        self._channel = None

    def _push(self, activities: Sequence[Json]) -> None:
        assert self._channel is not None
        self._channel.put(encoded({"conversation": self.info.call_id, "activities": list(activities)}))

    # -- the leg ---------------------------------------------------------------------------------------------------

    def tell(self, *activities: Json) -> None:
        """Send activities: with the channel now, else with the answer."""
        if self._channel is not None:
            self._push(activities)
        else:
            self._out += activities

    def attach(self, inbound: InboundSink) -> None:
        """There is no audio."""

    def happened(self, event: LegEvent) -> None:
        """Something happened."""
        self._departure.happened(event)
        if self.over:
            self._listening.set()
            self.ready.set()

    def events(self) -> AsyncIterator[LegEvent]:
        """Yield what happens, up to and including `LegEnded`."""
        return aiter(self._departure.events)

    def send_audio(self, payload: bytes) -> None:
        """There is no audio."""

    def send_mark(self, name: str) -> None:
        """What is not played is over at once."""
        self.happened(MarkReached(name))

    def quality(self) -> None:
        """There is no audio."""

    def flush(self) -> None:
        """There is no audio."""

    def clear(self) -> None:
        """What was said was said."""

    def notify(self, notice: notices.Notice) -> None:
        """Say the words, and know whose turn it is."""
        match notice:
            case notices.Transcribed(role="agent", final=False) if notice.text.strip():
                self.tell(self.write.message(notice.text))
            case notices.Listening(now):
                self._listening.set() if now else self._listening.clear()

    async def send_dtmf(self, digits: str) -> None:
        """Let the other side send keys."""
        try:
            self.tell(*self.write.send_dtmf(digits))
        except ValueError as error:
            raise LegError(str(error)) from error

    async def transfer(self, destination: str) -> None:
        """Have somebody else dialled."""
        self._departure.transferring()
        self.tell(self.write.transfer(destination, notifications=self._options.notified))
        self._listening.set()  # the request must not wait for what it brings about
        await self._departure.transferred()

    async def hang_up(self, reason: HangupReason) -> None:
        """Ask VoiceAI Connect to end the call, and wait for its word."""
        if self._departure.leaving is None:
            self._departure.leaving = reason
            if not self.over and reason is not HangupReason.CONNECTION_LOST:
                self.tell(self.write.hangup(reason.value))
                self._listening.set()
                await self._departure.confirmed()
        self.happened(LegEnded(reason))

    async def aclose(self, reason: HangupReason) -> None:
        """Release everything; may be called twice."""
        self.happened(LegEnded(reason))
        if self._expiry is not None:
            self._expiry.cancel()
        if self._channel is not None:
            await self._channel.drained(_DRAIN_S)
        self.gone.set()


def _id(activity: Any) -> str:
    found = activity.get("id") if isinstance(activity, dict) else None
    return found[:128] if isinstance(found, str) else ""
