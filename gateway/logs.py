"""Logs: one event a line, JSON for machines, readable on a terminal; personal fields are masked unless asked for."""

import hashlib
import logging
import sys
from collections.abc import MutableMapping
from typing import Any, Literal

import structlog

from fastagent.gateway.log_handler import PatientHandler

Event = MutableMapping[str, Any]
Pii = Literal["mask", "full", "hash"]

_PERSONAL = ("caller_id", "called_id")
_KNOWN = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "taskName"}


def mask(number: str, how: Pii) -> str:
    """Return a caller's number as the setting wants it: its last four digits, all of it, or a stable hash."""
    if how == "full" or not number:
        return number
    if how == "hash":
        return hashlib.sha256(number.encode()).hexdigest()[:16]
    return "*" * max(0, len(number) - 4) + number[-4:] if len(number) > 4 else "*" * len(number)


def configure(level: str, form: Literal["json", "console", "auto"], pii: Pii) -> None:
    """Send all logging of this process through one pipeline to standard error."""

    def personal(_: Any, __: str, event: Event) -> Event:
        for name in _PERSONAL:
            if name in event:
                event[name] = mask(str(event[name]), pii)
        return event

    def extras(_: Any, __: str, event: Event) -> Event:
        record = event.get("_record")
        if record is not None:
            event.update({name: value for name, value in vars(record).items() if name not in _KNOWN})
        return event

    def upper(_: Any, __: str, event: Event) -> Event:
        event["level"] = str(event.get("level", "")).upper()
        return event

    json = form == "json" or (form == "auto" and not sys.stderr.isatty())
    tail: list[Any] = (
        [upper, structlog.processors.EventRenamer("message"), structlog.processors.JSONRenderer()]
        if json
        else [
            # The pretty tracebacks would show local variables: callers' words and digits among them.
            structlog.dev.ConsoleRenderer(colors=sys.stderr.isatty(), exception_formatter=structlog.dev.plain_traceback)
        ]
    )
    formatter = structlog.stdlib.ProcessorFormatter(
        foreign_pre_chain=[
            extras,
            structlog.stdlib.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            structlog.processors.format_exc_info if json else lambda _, __, event: event,
        ],
        processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, personal, *tail],
    )
    handler = PatientHandler(sys.stderr)
    handler.setFormatter(formatter)
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(level)
    for chatty in ("aiohttp.access", "twilio.http_client"):
        logging.getLogger(chatty).setLevel("WARNING")
