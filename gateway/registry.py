"""The agents that are served: by id, each with its revisions. A revision never changes; live calls keep theirs."""

import hashlib
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from fastagent.gateway.agent import FastAgent

_MAX_REVISIONS = 100
_MAX_AGENTS = 1000
_MAX_BYTES = 64 << 20  # of all documents


class RegistryFull(Exception):
    """There is no room for another agent."""


@dataclass(frozen=True, slots=True, eq=False)
class Revision:
    """One state of one agent. `document` is None for an agent made in Python."""

    version: int
    hash: str
    agent: FastAgent
    document: Mapping[str, Any] | None
    created_at: datetime
    label: str | None = None
    """The `version` that the document gives itself."""
    size: int = 0
    """Bytes of the document."""


class AgentRegistry(Mapping[str, FastAgent]):
    """Maps ids to active agents."""

    def __init__(self) -> None:
        self._revisions: dict[str, list[Revision]] = {}
        self._active: dict[str, Revision] = {}
        self._last: dict[str, int] = {}  # versions: a number is given once, even when its revision is forgotten
        self._bytes = 0

    def __getitem__(self, agent_id: str) -> FastAgent:
        return self._active[agent_id].agent

    def __iter__(self) -> Iterator[str]:
        return iter(self._active)

    def __len__(self) -> int:
        return len(self._active)

    def add(self, agent: FastAgent, document: Mapping[str, Any] | None = None) -> Revision:
        """Make an agent the active revision of its id; the same document again is the same revision.

        Raises:
            RegistryFull: a thousand agents exist, or 64 MiB of documents that new calls get.
        """
        digest, size = _hash_of(repr(agent) if document is None else document)
        active = self._active.get(agent.agent_id)
        if active is not None and document is not None and active.hash == digest:
            return active
        if active is None and len(self._active) >= _MAX_AGENTS:
            raise RegistryFull
        if document is not None:
            self._make_room(agent.agent_id, size)
        revisions = self._revisions.setdefault(agent.agent_id, [])
        version = self._last[agent.agent_id] = self._last.get(agent.agent_id, 0) + 1
        label = str(document["version"])[:64] if document and document.get("version") is not None else None
        revision = Revision(version, digest, agent, document, datetime.now(UTC), label, size if document else 0)
        revisions.append(revision)
        self._bytes += revision.size
        self._active[agent.agent_id] = revision
        while len(revisions) > _MAX_REVISIONS:
            self._bytes -= revisions.pop(0).size
        return revision

    def _make_room(self, agent_id: str, size: int) -> None:
        """Forget the oldest revisions that no new call gets, of whatever agent, until so much more has its place."""
        replaced = self._active.get(agent_id)
        while self._bytes + size > _MAX_BYTES:
            kept = {id(one) for one in self._active.values() if one is not replaced}
            spare = [one for found in self._revisions.values() for one in found if one.size and id(one) not in kept]
            if sum(one.size for one in spare) < self._bytes + size - _MAX_BYTES:
                raise RegistryFull
            oldest = min(spare, key=lambda one: one.created_at)
            for found in self._revisions.values():
                if oldest in found:
                    found.remove(oldest)
            self._bytes -= oldest.size

    def active(self, agent_id: str) -> Revision | None:
        """Return what new calls get."""
        return self._active.get(agent_id)

    def revisions(self, agent_id: str) -> list[Revision]:
        """Return an agent's revisions, oldest first."""
        return list(self._revisions.get(agent_id, ()))

    def revision(self, agent_id: str, version: int) -> Revision | None:
        """Return one of them."""
        return next((one for one in self._revisions.get(agent_id, ()) if one.version == version), None)

    def upcoming(self, agent_id: str, document: Mapping[str, Any]) -> tuple[int, str]:
        """Return the version and the hash that a document would get."""
        (digest, _), active = _hash_of(document), self._active.get(agent_id)
        if active is not None and active.hash == digest:
            return active.version, digest
        return self._last.get(agent_id, 0) + 1, digest

    def activate(self, agent_id: str, revision: Revision) -> None:
        """Give new calls this revision."""
        self._active[agent_id] = revision

    def remove(self, agent_id: str) -> bool:
        """Forget an agent and its revisions; whether there was one."""
        self._last.pop(agent_id, None)
        self._bytes -= sum(one.size for one in self._revisions.pop(agent_id, ()))
        return self._active.pop(agent_id, None) is not None


def _hash_of(what: str | Mapping[str, Any]) -> tuple[str, int]:
    """The hash of a document, or of what an agent made in Python calls itself; and its size."""
    text = what if isinstance(what, str) else json.dumps(what, sort_keys=True, ensure_ascii=False, default=str)
    data = text.encode("utf-8", "surrogatepass")
    return hashlib.sha256(data).hexdigest()[:16], len(data)
