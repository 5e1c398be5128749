"""Twilio's side of a media stream, as a core: what it sends, and a playback buffer that keeps its promises.

Used by `fastagent call`, by the tests and by the benchmark. It plays 20 ms at each `play`, echoes a mark when the audio
before it has been played (at once if nothing is buffered), and on `clear` empties the buffer and releases every mark.
It also judges: whatever the gateway must not send is in `violations`.
"""

import json
from base64 import b64decode, b64encode
from binascii import Error as Base64Error
from collections import deque
from typing import Any

from fastagent.media.frame import PCMU_8K

FRAME = PCMU_8K.frame_bytes
_SILENCE = PCMU_8K.silence(FRAME)
_FIELDS = {
    "media": {"event", "streamSid", "media"},
    "mark": {"event", "streamSid", "mark"},
    "clear": {"event", "streamSid"},
}


class StreamEmulator:
    """One stream."""

    def __init__(self, *, call_sid: str, stream_sid: str, account_sid: str = "AC" + "0" * 32) -> None:
        self.call_sid, self.stream_sid, self.account_sid = call_sid, stream_sid, account_sid
        self.violations: list[str] = []
        self.received_bytes = self.clears = self.marks = 0
        self.max_buffered = 0
        self._sequence = self._chunk = self._media_ms = 0
        self._buffer: deque[bytes | str] = deque()  # audio, and the names of marks
        self._buffered = 0

    # -- what Twilio sends -----------------------------------------------------------------------------------------

    def opening(self, parameters: dict[str, str]) -> list[str]:
        """Return `connected` and `start`."""
        start = {
            "streamSid": self.stream_sid,
            "accountSid": self.account_sid,
            "callSid": self.call_sid,
            "tracks": ["inbound"],
            "mediaFormat": {"encoding": "audio/x-mulaw", "sampleRate": 8000, "channels": 1},
            "customParameters": parameters,
        }
        connected = json.dumps({"event": "connected", "protocol": "Call", "version": "1.0.0"})
        return [connected, self._message("start", start=start)]

    def media(self, payload: bytes) -> str:
        """Return a `media` message with the caller's next audio."""
        self._chunk += 1
        media = {
            "track": "inbound",
            "chunk": str(self._chunk),
            "timestamp": str(self._media_ms),
            "payload": b64encode(payload).decode(),
        }
        self._media_ms += len(payload) // 8
        return self._message("media", media=media)

    def dtmf(self, digit: str) -> str:
        """Return a `dtmf` message."""
        return self._message("dtmf", dtmf={"track": "inbound_track", "digit": digit})

    def stop(self) -> str:
        """Return the `stop` message."""
        return self._message("stop", stop={"accountSid": self.account_sid, "callSid": self.call_sid})

    def _mark(self, name: str) -> str:
        return self._message("mark", mark={"name": name})

    def _message(self, event: str, **fields: object) -> str:
        self._sequence += 1
        return json.dumps(
            {"event": event, "sequenceNumber": str(self._sequence), "streamSid": self.stream_sid, **fields}
        )

    # -- what the gateway sends ------------------------------------------------------------------------------------

    @property
    def buffered_ms(self) -> int:
        """Audio still to be played."""
        return self._buffered // 8

    def receive(self, text: str) -> tuple[str, list[str]]:
        """Take a message; return its event, and the messages that answer it at once."""
        try:
            message = json.loads(text)
            event = message["event"]
        except (ValueError, KeyError, TypeError):
            self.violations.append("not JSON with an event")
            return "", []
        if not self._well_formed(message):
            self.violations.append(f"{event}: unknown, or wrong fields or streamSid")
            return event, []
        if event == "media":
            self._take(message["media"])
            return event, []
        if event == "mark":
            self.marks += 1
            self._buffer.append(message["mark"]["name"])
            return event, [] if self._buffered else self._release()
        self.clears += 1
        names = [item for item in self._buffer if isinstance(item, str)]
        self._buffer.clear()
        self._buffered = 0
        return event, [self._mark(name) for name in names]

    def _well_formed(self, message: dict[str, Any]) -> bool:
        event = message["event"]
        if not isinstance(event, str) or set(message) != _FIELDS.get(event) or message["streamSid"] != self.stream_sid:
            return False
        if event != "mark":
            return True
        mark = message["mark"]
        return isinstance(mark, dict) and set(mark) == {"name"} and isinstance(mark["name"], str)

    def _take(self, media: dict[str, str]) -> None:
        try:
            payload = b64decode(media["payload"], validate=True)
        except (Base64Error, KeyError, TypeError, ValueError):
            self.violations.append("media: no base64 payload")
            return
        if set(media) != {"payload"} or not payload or len(payload) % FRAME or payload.startswith(b"RIFF"):
            self.violations.append(f"media: {len(payload)} bytes are not whole frames of raw mu-law")
        self.received_bytes += len(payload)
        self._buffer.append(payload)
        self._buffered += len(payload)
        self.max_buffered = max(self.max_buffered, self._buffered)

    def _release(self) -> list[str]:
        """Return the echoes of all marks that nothing is left before."""
        echoes = []
        while self._buffer and isinstance(self._buffer[0], str):
            echoes.append(self._mark(str(self._buffer.popleft())))
        return echoes

    def play(self) -> tuple[bytes, list[str]]:
        """Play 20 ms: return what the caller hears (silence if there is nothing), and the marks reached."""
        heard = b""
        marks: list[str] = []
        while len(heard) < FRAME and self._buffer:
            item = self._buffer.popleft()
            if isinstance(item, str):
                marks.append(self._mark(item))
                continue
            rest = item[FRAME - len(heard) :]
            heard += item[: FRAME - len(heard)]
            if rest:
                self._buffer.appendleft(rest)
        self._buffered -= len(heard)
        return heard + _SILENCE[len(heard) :], marks + self._release()
