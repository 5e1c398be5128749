"""Activities, both ways, as both modes of the Bot API have them: JSON objects that tell or ask for something.

In: names of events are matched without regard to case, since sources differ in it; what was seen already (by `id`) is
not taken again. Out: each has an id and a time, as the samples do.
"""

import re
import uuid
from collections import Counter, OrderedDict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Literal

from fastagent.connectors.audiocodes import messages
from fastagent.connectors.leg import DtmfReceived, SilenceReported, TextReceived

_DIGITS = frozenset("0123456789*#ABCD")
_MAX_DIGITS = 64
_MAX_DTMF_OUT = 20  # more would be ignored
_MAX_TEXT = 4000
_MAX_ACTIVITIES = 64
_MAX_METADATA = 16 * 1024
_REMEMBERED = 512  # ids
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f]")
_UNUSED = frozenset({"playurlfailed", "voicedetected", "silencedetected", "speechhypothesis", "conversationend"})
_UNUSED |= {"agentconnected", "dialoutinitiated"}

Json = dict[str, Any]


@dataclass(frozen=True, slots=True)
class CallStarted:
    """Who calls whom, as far as it is told."""

    parameters: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class PlayFinished:
    """A play stream was played to its end; None: the last one."""

    stream_id: str | None


@dataclass(frozen=True, slots=True)
class TransferStatus:
    """What became of a transfer: `answered` or `failed`."""

    status: str
    detail: str


ActivityEvent = CallStarted | DtmfReceived | TextReceived | SilenceReported | PlayFinished | TransferStatus


class ActivityReader:
    """One conversation's activities, in."""

    def __init__(self) -> None:
        self.dropped: Counter[str] = Counter()
        """Activities, or parts of them, that were dropped, by reason."""
        self._seen: OrderedDict[str, None] = OrderedDict()

    def read(self, raw: Sequence[Any]) -> list[ActivityEvent]:
        """Return what activities tell."""
        if len(raw) > _MAX_ACTIVITIES:
            self.dropped["activity"] += len(raw) - _MAX_ACTIVITIES
        return [event for one in raw[:_MAX_ACTIVITIES] for event in self._one(messages.activity(one))]

    def _one(self, activity: messages.Activity | None) -> Sequence[ActivityEvent]:
        if activity is None:
            self.dropped["activity"] += 1
            return ()
        if self._repeated(activity.id):
            self.dropped["repeated_activity"] += 1
            return ()
        kind = activity.type.lower()
        if kind == "message":
            return self._message(activity.text)
        if kind == "event":
            return self._event(activity)
        self.dropped["unknown_activity"] += 1
        return ()

    def _repeated(self, id_: str | None) -> bool:
        if not id_:
            return False
        if id_ in self._seen:
            return True
        self._seen[id_[:128]] = None
        if len(self._seen) > _REMEMBERED:
            self._seen.popitem(last=False)
        return False

    @staticmethod
    def _message(text: str | None) -> Sequence[ActivityEvent]:
        said = _CONTROL.sub(" ", text or "").strip()[:_MAX_TEXT]
        return (TextReceived(said),) if said else ()

    def _event(self, activity: messages.Activity) -> Sequence[ActivityEvent]:
        match activity.name.lower():
            case "start":
                return (CallStarted(_texts(activity.parameters or {})),)
            case "dtmf":
                return self._dtmf(activity.value)
            case "nouserinput":
                return (SilenceReported(),)
            case "playfinished":
                return (PlayFinished(_stream_of(activity)),)
            case "transferstatus":
                return self._transfer(activity.value)
            case name if name not in _UNUSED:
                self.dropped["unknown_activity"] += 1
        return ()

    def _dtmf(self, value: Any) -> Sequence[ActivityEvent]:
        keys = str(value).upper() if isinstance(value, str | int) else ""
        good = [key for key in keys[:_MAX_DIGITS] if key in _DIGITS]
        if not keys or len(good) < len(keys):
            self.dropped["digit"] += len(keys) - len(good) or 1
        return tuple(DtmfReceived(key) for key in good)

    def _transfer(self, value: Any) -> Sequence[ActivityEvent]:
        told = value if isinstance(value, dict) else {"status": value}
        status = str(told.get("status") or "").lower()
        if status not in ("answered", "failed"):
            self.dropped["activity"] += 1
            return ()
        why = " ".join(str(told[name]) for name in ("reasonCode", "reason") if told.get(name))
        return (TransferStatus(status, _CONTROL.sub(" ", why)[:200]),)


def _stream_of(activity: messages.Activity) -> str | None:
    """Where the id is, is not documented: on the activity, in its parameters, or in its value."""
    for place in (activity.parameters, activity.value):
        if isinstance(place, dict) and isinstance(place.get("streamId"), str):
            return str(place["streamId"])
    return activity.stream_id or (activity.value if isinstance(activity.value, str) else None)


def _texts(parameters: Mapping[str, Any]) -> dict[str, str]:
    """Parameters as texts without control characters; as many as fit into 16 KiB."""
    found, size = {}, 0
    for name, value in parameters.items():
        text = value if isinstance(value, str) else "" if value is None else messages.encode(value).decode()
        key, text = _CONTROL.sub(" ", name)[:64], _CONTROL.sub(" ", text)
        size += len(key) + len(text)
        if size > _MAX_METADATA:
            break
        found[key] = text
    return found


def _wall() -> float:
    return datetime.now(UTC).timestamp()


def _uuid() -> str:
    return str(uuid.uuid4())


class ActivityWriter:
    """Activities, out.

    Args:
        new_id, wall: where ids and times (seconds since 1970) come from.
    """

    def __init__(self, new_id: Callable[[], str] = _uuid, wall: Callable[[], float] = _wall) -> None:
        self._new_id, self._wall = new_id, wall

    def _made(self, type_: str, **fields: Any) -> Json:
        at = datetime.fromtimestamp(self._wall(), UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
        return {"type": type_, "id": self._new_id(), "timestamp": at, **fields}

    def message(self, text: str) -> Json:
        """Words that are spoken by the other side's synthesis, or shown."""
        return self._made("message", text=text)

    def event(self, name: str, activity_params: Json | None = None, session_params: Json | None = None) -> Json:
        """An event with what it asks for."""
        fields = {"activityParams": activity_params, "sessionParams": session_params}
        return self._made("event", name=name, **{key: value for key, value in fields.items() if value})

    def config(self, session_params: Mapping[str, Any]) -> Json:
        """Other settings for the rest of the call."""
        return self.event("config", session_params=dict(session_params))

    def hangup(self, reason: str) -> Json:
        """The end of the call; the reason is free text."""
        return self.event("hangup", {"hangupReason": reason})

    def transfer(self, destination: str, *, notifications: bool) -> Json:
        """Let somebody else be dialled: a `sip:` address, or a number as a `tel:` URI."""
        target = destination if ":" in destination else f"tel:{destination}"
        asked: Json = {"transferTarget": target}
        if notifications:
            asked["transferNotifications"] = True
        return self.event("transfer", asked)

    def send_dtmf(self, digits: str) -> list[Json]:
        """Keys towards the caller's side, 20 an activity.

        Raises:
            ValueError: something else among them, for which they would be ignored.
        """
        if not digits or set(digits) - set("0123456789*#"):
            raise ValueError("only 0-9, * and # can be sent")
        parts = [digits[at : at + _MAX_DTMF_OUT] for at in range(0, len(digits), _MAX_DTMF_OUT)]
        return [self.event("sendDtmf", {"dtmfDigits": part}) for part in parts]

    def play_url(self, url: str, media_format: str) -> Json:
        """Let the other side fetch audio and play it."""
        return self.event("playUrl", {"playUrlUrl": url, "playUrlMediaFormat": media_format})

    def recording(self, action: Literal["start", "stop", "pause", "resume"]) -> Json:
        """Control the other side's recorder."""
        return self.event(f"{action}CallRecording")

    def metadata(self, value: Any) -> Json:
        """Data for whoever takes it at the other side; its place in the activity is a guess of ours."""
        return self._made("event", name="sendMetaData", value=value)

    def abort_prompts(self) -> Json:
        """Silence what the other side plays by itself."""
        return self.event("abortPrompts")
