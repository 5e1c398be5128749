"""The shell of voice activity detection: windows of all calls in, one forward pass at a time, results back.

A pass runs in a thread. Windows that become ready while it runs, or within `interval_s` of its start, form the next
batch: a lone call waits for nothing (its windows are 32 ms apart), a full process amortises. A call has at most one
window in a pass, since the state of one is the input of the next; while one has fallen behind (a client may send a
whole utterance at once), passes follow each other without a pause.

A pass that misses `deadline_s` is not waited for: its windows are judged by level, so that a busy machine hears worse
but never stops hearing.
"""

import asyncio
import logging
from collections import deque
from collections.abc import Callable
from concurrent.futures import Executor
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from fastagent.media.frame import AudioFormat
from fastagent.media.level import levels_db
from fastagent.media.vad.engine import Float32Array, VadEngine, energy_verdict

_log = logging.getLogger(__name__)

_BEHIND = 3  # windows of one call that wait: more is no jitter of arrival but a burst


class VadWindow(NamedTuple):
    """The verdict on one window."""

    end: int  # sample count of the stream at the window's end
    speech: float  # probability
    level_db: float


@dataclass(slots=True, eq=False)
class _Group:
    """All streams of one format: they share batches and an array of states."""

    audio: AudioFormat
    states: Float32Array
    free: list[int]
    ready: list["VadStream"]


class VadStream:
    """One call's place in the batches."""

    __slots__ = (
        "_closed",
        "_group",
        "_max_waiting",
        "_on_window",
        "_row",
        "_service",
        "_windows",
        "dropped",
        "window_bytes",
    )

    def __init__(
        self,
        service: "VadService",
        group: _Group,
        row: int,
        on_window: Callable[[VadWindow], None],
        max_waiting: int,
    ) -> None:
        self._service, self._group, self._row, self._on_window = service, group, row, on_window
        self._max_waiting = max_waiting
        self._windows: deque[tuple[int, bytes]] = deque()
        self._closed = False
        self.dropped = 0
        audio = group.audio
        self.window_bytes = service.engine.window_samples(audio.rate_hz) * audio.sample_bytes

    def push(self, end: int, payload: bytes) -> None:
        """Queue one window of wire audio (`window_bytes` long) that ends at sample `end`."""
        if len(self._windows) >= self._max_waiting:
            self._windows.popleft()
            self.dropped += 1
        self._windows.append((end, payload))
        if len(self._windows) == 1:
            self._group.ready.append(self)
            self._service._wake()

    def close(self) -> None:
        """Give the row back; results still under way are discarded."""
        if not self._closed:
            self._closed = True
            self._windows.clear()
            self._group.free.append(self._row)


class VadService:
    """One per process."""

    def __init__(
        self,
        engine: VadEngine,
        *,
        executor: Executor,
        interval_s: float = 0.02,
        deadline_s: float = 0.1,
        on_batch: Callable[[int], None] = lambda size: None,
        on_deadline_missed: Callable[[int], None] = lambda windows: None,
    ) -> None:
        self.engine = engine
        self._executor = executor
        self._interval_s, self._deadline_s = interval_s, deadline_s
        self._on_batch, self._on_deadline_missed = on_batch, on_deadline_missed
        self._groups: dict[AudioFormat, _Group] = {}
        self._running = False
        self._next_at = 0.0
        self._timer: asyncio.TimerHandle | None = None
        self._deadline: asyncio.TimerHandle | None = None

    def open(
        self, audio: AudioFormat, on_window: Callable[[VadWindow], None], *, max_waiting_s: float = 3.0
    ) -> VadStream:
        """Give a call a row of state; `on_window` is called on the event loop, in order."""
        group = self._groups.get(audio)
        if group is None:
            size = self.engine.state_size(audio.rate_hz)
            group = self._groups[audio] = _Group(audio, np.zeros((0, size), np.float32), [], [])
        if not group.free:
            rows = len(group.states)
            more = max(16, rows)
            group.states = np.concatenate((group.states, np.zeros((more, group.states.shape[1]), np.float32)))
            group.free.extend(range(rows + more - 1, rows - 1, -1))
        row = group.free.pop()
        group.states[row] = 0
        windows = round(max_waiting_s * audio.rate_hz / self.engine.window_samples(audio.rate_hz))
        return VadStream(self, group, row, on_window, windows)

    def _wake(self) -> None:
        if self._running or self._timer is not None:
            return
        loop = asyncio.get_running_loop()
        wait = self._next_at - loop.time()
        if wait <= 0 or self._someone_is_behind():
            self._start()
        else:
            self._timer = loop.call_later(wait, self._start)

    def _someone_is_behind(self) -> bool:
        return any(len(stream._windows) > _BEHIND for group in self._groups.values() for stream in group.ready)

    def _start(self) -> None:
        self._timer = None
        batches = self._take()
        if not batches:
            return
        loop = asyncio.get_running_loop()
        self._running = True
        self._next_at = loop.time() + self._interval_s
        self._on_batch(sum(len(batch.streams) for batch in batches))
        self._deadline = loop.call_later(self._deadline_s, self._missed, batches)
        future = loop.run_in_executor(self._executor, _infer_all, batches, self.engine)
        future.add_done_callback(lambda done: self._done(batches, done))

    def _take(self) -> list["_Batch"]:
        """The first waiting window of every call, by format."""
        batches = [_Batch(group) for group in self._groups.values() if group.ready]
        return [batch for batch in batches if batch.streams]

    def _missed(self, batches: list["_Batch"]) -> None:
        """The pass is late, or failed: judge its windows by level, and all that waits behind it."""
        for batch in batches:
            if not batch.judged:
                self._judge(batch)
            batch.queue_again()
        while waiting := self._take():
            for batch in waiting:
                self._judge(batch)
                batch.queue_again()
        if self._running:
            self._deadline = asyncio.get_running_loop().call_later(self._deadline_s, self._missed, batches)

    def _judge(self, batch: "_Batch") -> None:
        batch.judged = True
        self._on_deadline_missed(len(batch.streams))
        batch.deliver([energy_verdict(level) for level in batch.levels_now()])

    def _done(self, batches: list["_Batch"], future: "asyncio.Future[None]") -> None:
        if self._deadline is not None:
            self._deadline.cancel()
        self._running = False
        if future.cancelled():
            return
        error = future.exception()
        if error is not None:  # a broken engine must not make the gateway deaf
            _log.error("the VAD failed", exc_info=error)
            self._missed(batches)
            return
        for batch in batches:
            batch.store()
            if not batch.judged:
                batch.deliver(batch.verdicts)
        for batch in batches:
            batch.queue_again()
        if any(group.ready for group in self._groups.values()):
            self._wake()


def _infer_all(batches: list["_Batch"], engine: VadEngine) -> None:
    for batch in batches:
        batch.infer(engine)


class _Batch:
    """One group's share of a forward pass: what goes in, and what comes out."""

    __slots__ = ("_fresh", "_levels", "_rows", "_states", "group", "judged", "streams", "verdicts", "windows")

    def __init__(self, group: _Group) -> None:
        """Take the first waiting window of each stream that is ready."""
        self.group = group
        self.streams = [stream for stream in group.ready if stream._windows]
        self.windows = [stream._windows.popleft() for stream in self.streams]
        group.ready.clear()
        self._rows = [stream._row for stream in self.streams]
        self._states = group.states[self._rows]
        self._fresh: Float32Array = self._states
        self._levels: npt.NDArray[np.float32] | None = None
        self.verdicts: list[float] = []
        self.judged = False

    def infer(self, engine: VadEngine) -> None:
        """Runs in the thread; touches nothing but this batch."""
        samples = self._samples()
        self._levels = levels_db(samples)
        floats = samples.astype(np.float32) * np.float32(1 / 32768)
        verdicts, self._fresh = engine.infer(floats, self._states, self.group.audio.rate_hz)
        self.verdicts = verdicts.tolist()

    def _samples(self) -> npt.NDArray[np.int16]:
        payload = b"".join([window for _, window in self.windows])
        return self.group.audio.decode(payload).reshape(len(self.windows), -1)

    def levels_now(self) -> list[float]:
        """The levels, wherever the pass is."""
        levels = self._levels if self._levels is not None else levels_db(self._samples())
        return [float(level) for level in levels]

    def queue_again(self) -> None:
        """Put the calls of this batch that have more windows behind the others."""
        ready = set(self.group.ready)
        self.group.ready.extend(one for one in self.streams if one._windows and one not in ready)

    def store(self) -> None:
        """Keep the new states of the calls that still exist."""
        for row, stream in enumerate(self.streams):
            if not stream._closed:
                self.group.states[self._rows[row]] = self._fresh[row]

    def deliver(self, verdicts: list[float]) -> None:
        """Hand each call its window."""
        levels = self.levels_now()
        for at, stream in enumerate(self.streams):
            if not stream._closed:
                try:
                    stream._on_window(VadWindow(self.windows[at][0], verdicts[at], levels[at]))
                except Exception:  # one call's failure is not the others'
                    _log.exception("a call failed at its verdict")
