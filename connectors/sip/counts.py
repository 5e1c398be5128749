"""What was dropped and refused: counted for the operator, and told in the log for whoever looks for it."""

import logging

from fastagent.connectors.host import LegHost
from fastagent.connectors.sip.admission import Bucket
from fastagent.connectors.sip.user_agent import UserAgent

_log = logging.getLogger(__name__)

_LINES_A_SECOND = 10  # in the log: not every one of a flood
_CHALLENGES = (401, 407)  # are no refusals


class Counts:
    """Passes on what the core has counted; `surface` is what the operator knows it by."""

    def __init__(self, agent: UserAgent, host: LegHost, surface: str) -> None:
        self._agent, self._host, self._surface = agent, host, surface
        self._told: dict[str, int] = {}
        self._sum = 0
        self._lines = Bucket(_LINES_A_SECOND, _LINES_A_SECOND, _LINES_A_SECOND, 0.0)

    def look(self, source: str, now: float) -> None:
        """Tell what is new since the last message, which came from there."""
        agent = self._agent
        total = agent.dropped.total() + agent.refused.total() + agent.wrong_passwords
        if total == self._sum:
            return
        self._sum = total
        counts = {**agent.dropped, "password": agent.wrong_passwords}
        counts |= {f"refused_{status}": count for status, count in agent.refused.items() if status not in _CHALLENGES}
        for kind, count in counts.items():
            if (more := count - self._told.get(kind, 0)) > 0:
                self._told[kind] = count
                self._tell(kind, more, source, now)

    def _tell(self, kind: str, more: int, source: str, now: float) -> None:
        if kind == "password":
            self._host.auth_failed(self._surface)
        else:
            self._host.protocol_error(self._surface, kind, more)
        if kind.startswith(("password", "refused_")) and self._lines.take(now):
            _log.warning("a SIP request is refused", extra={"why": kind, "source": source})
