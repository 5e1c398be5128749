"""Playout to a leg whose far side buffers: ahead, but not far ahead.

Audio of one answer goes out in chunks of whole frames, never more than `lead_ms` ahead of what the caller can have
heard; a mark follows each chunk, and its echo says how far playout really got. Everything is counted in samples on the
answer's own timeline, which is also the timeline of the heard ledger.

Marks are named `<epoch>:<position>`. A clear begins a new epoch, so the echoes that a clear sets free (Twilio releases
every pending mark at once) are never taken for hearing.

    write() -> [ unsent | sent, not heard | heard ]      tick() moves unsent to sent
                                                         mark_reached() and the clock move sent to heard

A paused answer keeps what was sent but not heard, and resumes from there under a new epoch, with a short fade-in.
"""

from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from fastagent.media.frame import FRAME_MS, AudioFormat
from fastagent.media.heard import HeardLedger
from fastagent.media.level import FLOOR_DB

_FADE_MS = 10
_MAX_POSITION_DIGITS = 12
_START_S = 0.06  # from sending to playing, as long as nothing is known of it
_ECHO_TAIL_S = 0.6  # how long after our sound its echo may still come back


@dataclass(frozen=True, slots=True, eq=False)
class RenderedSpeech:
    """A text as wire audio, made once: payload, and the level of each 20 ms in dBFS."""

    text: str
    payload: bytes
    levels_db: npt.NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class SendAudio:
    """Whole frames of wire audio for the leg."""

    payload: bytes


@dataclass(frozen=True, slots=True)
class SendMark:
    """A mark behind the audio sent so far."""

    name: str


PlayoutAction = SendAudio | SendMark


@dataclass(slots=True)
class PlayoutStats:
    """What one call's playout did."""

    frames_sent: int = 0
    underruns: int = 0
    clears: int = 0
    resumes: int = 0


@dataclass(slots=True)
class _Loudness:
    """Recent outgoing levels, for the echo gate: (heard from, heard until, loudest frame)."""

    stretches: list[tuple[float, float, float]] = field(default_factory=list)

    def add(self, start: float, end: float, level_db: float) -> None:
        self.stretches.append((start, end, level_db))

    def at(self, now: float) -> float:
        self.stretches = [one for one in self.stretches if one[1] + _ECHO_TAIL_S > now]
        return max((level for _, _, level in self.stretches), default=FLOOR_DB)

    def cut(self, now: float) -> None:
        self.stretches = [(start, min(end, now), level) for start, end, level in self.stretches if start <= now]


class Playout:
    """What one call says."""

    def __init__(self, audio: AudioFormat, *, lead_ms: int = 400, chunk_ms: int = 200) -> None:
        if not FRAME_MS <= chunk_ms <= lead_ms:
            raise ValueError(f"playout: {FRAME_MS} <= chunk_ms <= lead_ms is not so")
        self._format = audio
        self._rate = audio.rate_hz
        self._lead = lead_ms * self._rate // 1000
        self._chunk = chunk_ms // FRAME_MS * audio.frame_samples
        self._epoch = 0
        self._loudness = _Loudness()
        self.stats = PlayoutStats()
        self._reset()

    def _reset(self) -> None:
        self._payload = bytearray()
        self._levels: list[npt.NDArray[np.float32]] = []
        self.ledger = HeardLedger()
        self._sent = self._marked = 0
        self._base, self._since = 0, 0.0  # playout was at `_base` at time `_since`
        self._flushed = self.paused = self._started = False

    # -- the answer ------------------------------------------------------------------------------------------------

    def begin(self) -> None:
        """Start the timeline of a new answer; what is left of the last one is forgotten."""
        self._epoch += 1
        self._reset()

    def write(self, speech: RenderedSpeech) -> None:
        """Append a sentence to the answer."""
        self._payload += speech.payload
        self._levels.append(speech.levels_db)
        self.ledger.add(speech.text, len(speech.payload) // self._format.sample_bytes)
        self._pad()

    def flush(self) -> None:
        """No more will be written to this answer."""
        self._flushed = True

    def _pad(self) -> None:
        """Keep sentences on whole frames, so that each chunk is a multiple of 20 ms."""
        missing = -len(self._payload) % self._format.frame_bytes
        if missing:
            samples = missing // self._format.sample_bytes
            self._payload += self._format.silence(samples)
            self.ledger.add("", samples)

    @property
    def _written(self) -> int:
        return len(self._payload) // self._format.sample_bytes

    @property
    def speaking(self) -> bool:
        """Whether something of this answer is still to be heard, and playout is not paused."""
        return not self.paused and self._marked < self._written

    @property
    def finished(self) -> bool:
        """Whether the whole answer is written and heard."""
        return self._flushed and not self.paused and self._marked >= self._written

    @property
    def all_sent(self) -> bool:
        """Whether the answer is complete and all of it was given to the leg."""
        return self._flushed and not self.paused and self._sent >= self._written

    @property
    def waiting_ms(self) -> int:
        """Audio written but not yet sent: what makes a synthesiser wait."""
        return (self._written - self._sent) * 1000 // self._rate

    # -- time ------------------------------------------------------------------------------------------------------

    def _played(self, now: float) -> int:
        """Where the far side's playout is by the clock, if it plays all that it was sent."""
        return min(self._sent, self._base + max(0, int((now - self._since) * self._rate)))

    def position(self, now: float) -> int:
        """How much was heard: the last mark, and what the clock allows since, at most one chunk more."""
        return min(max(self._played(now), self._marked), self._marked + self._chunk)

    def left_s(self, now: float) -> float:
        """How much of a complete answer is still to be heard; endless while more may be written."""
        return (self._written - self._played(now)) / self._rate if self._flushed else float("inf")

    def level_db(self, now: float) -> float:
        """The loudest outgoing level that may now come back as echo."""
        return self._loudness.at(now)

    def overdue_s(self, now: float) -> float:
        """How long all that was sent should have been heard by the clock, with its mark still missing."""
        if self._marked >= self._sent:
            return 0.0
        return now - (self._since + (self._sent - self._base) / self._rate)

    def tick(self, now: float) -> list[PlayoutAction]:
        """Return what is to be sent now; call it every 20 ms, and after a write for an immediate start."""
        if self.paused or self._sent >= self._written:
            return []
        played = self._played(now)
        if played >= self._sent:  # this is the first chunk, or the far side has run dry
            self.stats.underruns += self._started
            self._started = True
            # Until a mark returns, count on the way there and the far side's own frames: the lead stays a true bound.
            self._base, self._since, played = self._sent, now + _START_S, self._sent
        actions: list[PlayoutAction] = []
        while (ready := self._written - self._sent) > 0:
            count = min(ready, self._chunk)
            # The last chunk of what is written so far may be short; nothing else goes out in crumbs.
            if self._sent + count - played > self._lead:
                break
            actions.append(SendAudio(self._take(count)))
            actions.append(SendMark(f"{self._epoch}:{self._sent}"))
        return actions

    def _take(self, count: int) -> bytes:
        size, start = self._format.sample_bytes, self._sent
        payload = bytes(self._payload[start * size : (start + count) * size])
        heard_from = self._since + (start - self._base) / self._rate
        frames = self._frame_levels(start, count)
        self._loudness.add(heard_from, heard_from + count / self._rate, float(frames.max(initial=FLOOR_DB)))
        self._sent += count
        self.stats.frames_sent += count // self._format.frame_samples
        return payload

    def _frame_levels(self, start: int, count: int) -> npt.NDArray[np.float32]:
        if len(self._levels) > 1:
            self._levels = [np.concatenate(self._levels)]
        frame = self._format.frame_samples
        return self._levels[0][start // frame : (start + count) // frame]

    # -- what the leg reports --------------------------------------------------------------------------------------

    def mark_reached(self, name: str, now: float) -> bool:
        """Take the echo of a mark; return whether it proves hearing (marks of a cleared epoch do not)."""
        epoch, _, position = name.partition(":")
        if epoch != str(self._epoch) or not position.isdecimal() or len(position) > _MAX_POSITION_DIGITS:
            return False
        if not self._marked < int(position) <= self._sent:
            return False
        self._marked = int(position)
        # The echo is late by the way back: from here the clock is behind the far side, and the lead stays a true bound.
        self._base, self._since = self._marked, now
        return True

    def assume_heard(self) -> None:
        """Marks are overdue: let the clock's word stand for all that was sent."""
        self._marked = self._sent

    # -- interruption ----------------------------------------------------------------------------------------------

    def pause(self, now: float) -> int:
        """Stop; the caller of this clears the leg. Return the position heard, where `resume` goes on."""
        position = self.position(now) // self._format.frame_samples * self._format.frame_samples
        self._epoch += 1
        self._sent = self._marked = position
        self._base, self._since = position, now
        self.paused, self._started = True, False
        self._loudness.cut(now)
        self.stats.clears += 1
        return position

    def resume(self, now: float) -> None:
        """Go on from where it was heard; nothing if it was not paused."""
        if not self.paused:
            return
        self.paused = False
        self._base, self._since = self._sent, now
        self.stats.resumes += 1
        self._fade_in(self._sent)

    def _fade_in(self, start: int) -> None:
        """Ramp the first 10 ms up, so that the middle of a word does not begin with a click."""
        size = self._format.sample_bytes
        count = min(_FADE_MS * self._rate // 1000, self._written - start)
        stretch = slice(start * size, (start + count) * size)
        samples = self._format.decode(bytes(self._payload[stretch]))
        ramp = np.linspace(0, 1, count, endpoint=False, dtype=np.float32)
        self._payload[stretch] = self._format.encode((samples * ramp).astype(np.int16))
