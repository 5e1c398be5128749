"""Messages in the log, for whoever looks for a fault at the wire: only if asked for, and without what others could use.

Numbers and names are in them, since that is mostly what is looked for. Passwords' digests, the keys of media and the
caller's keys are not.
"""

import logging
import re

from fastagent.connectors.sip.actions import Transport
from fastagent.connectors.sip.admission import Bucket

_log = logging.getLogger(__name__)

_MAX_TEXT = 8192
_LINES_A_SECOND = 200.0
_CALL_ID = re.compile(r"^    (?:Call-ID|i)[ \t]*:[ \t]*(\S+)", re.IGNORECASE | re.MULTILINE)
_SECRETS = re.compile(
    r"^((?:Proxy-)?Authorization[ \t]*:|a=crypto:(?:\d+ [A-Z0-9_]+)?|k=)[^\n]*(?:\n[ \t][^\n]*)*",
    re.IGNORECASE | re.MULTILINE,
)
_CONTROL = re.compile(r"[^\t\n\x20-\x7e\xa0-\ud7ff\ue000-\uffff]")


class Trace:
    """Writes what comes and goes; of a flood 200 messages a second, and how many were left out."""

    def __init__(self) -> None:
        self._bucket = Bucket(_LINES_A_SECOND, _LINES_A_SECOND, _LINES_A_SECOND, 0.0)
        self._left_out = 0

    def received(self, data: bytes, source: tuple[str, int], transport: Transport, now: float) -> None:
        """Somebody has sent this."""
        self._write("received from", data, f"{transport}:{source[0]}:{source[1]}", now)

    def sent(self, data: bytes, to: object, now: float) -> None:
        """We send this."""
        self._write("sent to", data, str(to), now)

    def _write(self, what: str, data: bytes, peer: str, now: float) -> None:
        if not data.strip(b"\r\n"):
            return  # a keep-alive
        if not self._bucket.take(now):
            self._left_out += 1
            return
        text = shown(data)
        call_id = _CALL_ID.search(text)
        extra: dict[str, object] = {"call_id": call_id[1] if call_id else ""}
        if self._left_out:
            extra["left_out"], self._left_out = self._left_out, 0
        _log.info("SIP %s %s\n%s", what, peer, text, extra=extra)


def shown(data: bytes) -> str:
    """Return a message as it may be shown: indented, so that none of its lines passes for one of the log."""
    text = data[:_MAX_TEXT].decode(errors="replace").replace("\r\n", "\n")
    if "application/dtmf" in text.lower():
        text = text.partition("\n\n")[0] + "\n\n***"
    text = _SECRETS.sub(r"\1 ***", _CONTROL.sub("?", text))
    return "\n".join(f"    {line}" for line in text.rstrip("\n").split("\n"))
