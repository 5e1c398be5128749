"""What the gateway can tell of a session: its transcript, its turns and their waterfalls."""

from collections import deque
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from typing import Any

from fastagent.connectors.leg import CallInfo, HangupReason

_MAX_TURNS = 200
STAGES = ("endpointing", "recognition", "logic", "synthesis")


@dataclass(slots=True)
class Waterfall:
    """A turn's wait from the caller's last sound to our first audio message, in milliseconds; the stages add up."""

    endpointing: float = 0.0
    recognition: float = 0.0
    logic: float = 0.0
    synthesis: float = 0.0

    @property
    def total(self) -> float:
        """The whole wait."""
        return round(self.endpointing + self.recognition + self.logic + self.synthesis, 1)

    def details(self) -> dict[str, float]:
        """Return the stages and their total."""
        return {**asdict(self), "total": self.total}


@dataclass(slots=True)
class TurnRecord:
    """One turn, as it happened."""

    turn: int
    cause: str
    """`opening`, `resumption`, `speech`, `text`, `dtmf`, `no_input`, `timeout`, `apology`, `announcement`, `onward` or
    `closing`."""
    state: str
    user: str = ""
    agent: str = ""
    heard: str = ""
    interrupted: bool = False
    done: bool = False
    """Heard to its end, or interrupted: what is said of it is final."""
    waterfall_ms: Waterfall | None = None
    at: float = 0.0
    """When it began, in seconds since 1970."""


@dataclass(slots=True)
class SessionRecord:
    """One session, from answer to hang-up."""

    session_id: str
    agent_id: str
    call: CallInfo
    started_at: datetime
    current_state: str
    turns: deque[TurnRecord] = field(default_factory=lambda: deque(maxlen=_MAX_TURNS))
    turn_count: int = 0
    barge_ins: dict[str, int] = field(default_factory=dict)
    ended_at: datetime | None = None
    end_reason: HangupReason | None = None
    quality: Mapping[str, Any] | None = None
    """Of the media's way, where the leg knows it."""

    @property
    def duration_s(self) -> float:
        """Seconds from answer to hang-up, or to now."""
        return ((self.ended_at or datetime.now(UTC)) - self.started_at).total_seconds()

    def summary(self) -> dict[str, Any]:
        """Return the documented entry of a session list."""
        return {
            "session_id": self.session_id,
            "start_time": self.started_at.isoformat(timespec="seconds").replace("+00:00", "Z"),
            "current_state": self.current_state,
            "duration_seconds": round(self.duration_s),
            "turn_count": self.turn_count,
            "agent_id": self.agent_id,
            "call_id": self.call.call_id,
            "stream_id": self.call.stream_id,
            "provider": self.call.provider,
        }

    def details(self) -> dict[str, Any]:
        """Return all of it as JSON."""
        turns = []
        for turn in self.turns:
            entry = asdict(turn)
            if turn.waterfall_ms is not None:
                entry["waterfall_ms"] = turn.waterfall_ms.details()
            turns.append(entry)
        return {
            **self.summary(),
            "turns": turns,
            "barge_ins": dict(self.barge_ins),
            "end_reason": self.end_reason.value if self.end_reason else None,
            "quality": dict(self.quality) if self.quality is not None else None,
        }
