"""Messages in the log, for whoever looks for a fault at the wire: only if asked for, and without what others could use.

Numbers and names are in them, whatever the log does with them elsewhere, since that is mostly what is looked for. What
proves who somebody is, the keys of media, and bodies that may hold a caller's digits are not. Each is one event, whose
text is the message, so that it can be read on a terminal, too: indented, so that no line passes for another event.
"""

import logging
import re

from fastagent.connectors.sip.actions import Address
from fastagent.connectors.sip.admission import Bucket

_log = logging.getLogger(__name__)

_MAX_TEXT = 8192
_A_SECOND = 200.0
_SHOWN = ("application/sdp", "message/sipfrag")
_FOLD = re.compile(r"\n[ \t]+")
_CALL_ID = re.compile(r"^(?:Call-ID|i)[ \t]*:[ \t]*(\S+)", re.IGNORECASE | re.MULTILINE)
_CONTENT_TYPE = re.compile(r"^(?:Content-Type|c)[ \t]*:([^;\n]*)", re.IGNORECASE | re.MULTILINE)
_PROOFS = re.compile(r"^((?:Proxy-)?(?:Authorization|Authentication-Info)[ \t]*:)[^\n]*", re.IGNORECASE | re.MULTILINE)
_PASSWORDS = re.compile(r"(sips?:[^:@\s>]{1,128}):[^@\s>]{0,128}@", re.IGNORECASE)
_KEYS = re.compile(r"^(a=crypto:(?:\d+ [A-Z0-9_]+)?|a=key-mgmt:|k=)[^\n]*", re.IGNORECASE | re.MULTILINE)
_ODD = re.compile(r"[^\t\n\x20-\x7e]")


class Trace:
    """Writes what comes and goes; of a flood 200 messages a second, and how many were left out."""

    def __init__(self) -> None:
        self._bucket = Bucket(_A_SECOND, _A_SECOND, _A_SECOND, 0.0)
        self._left_out = 0

    def received(self, data: bytes, source: Address, now: float) -> None:
        """This came from there."""
        self._write("received from", data, source, now)

    def sent(self, data: bytes, to: Address, now: float) -> None:
        """This went there."""
        self._write("sent to", data, to, now)

    def _write(self, what: str, data: bytes, peer: Address, now: float) -> None:
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
        _log.info("SIP %s %s\n    %s", what, peer, text.replace("\n", "\n    "), extra=extra)


def shown(data: bytes) -> str:
    """Return a message as it may be shown: headers unfolded, secrets and what cannot be printed left out."""
    text = data.lstrip(b"\r\n")[:_MAX_TEXT].decode(errors="replace").replace("\r\n", "\n")
    text = _ODD.sub(lambda one: one[0] if one[0].isprintable() else "?", text)
    head, _, body = text.partition("\n\n")
    head = _FOLD.sub(" ", head)
    kind = _CONTENT_TYPE.search(head)
    if body and (kind is None or "".join(kind[1].split()).lower() not in _SHOWN):
        body = "***"
    text = f"{head}\n\n{_FOLD.sub(' ', body)}".rstrip("\n")
    text = _PASSWORDS.sub(r"\1:***@", _PROOFS.sub(r"\1 ***", _KEYS.sub(r"\1 ***", text)))  # a body may be a message
    return text if len(data) <= _MAX_TEXT else f"{text}\n(cut)"
