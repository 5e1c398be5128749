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


class RegistryFull(Exception):
    """There is no room for another agent."""


@dataclass(frozen=True, slots=True)
class Revision:
    """One state of one agent. `document` is None for an agent made in Python."""

    version: int
    hash: str
    agent: FastAgent
    document: Mapping[str, Any] | None
    created_at: datetime
    label: str | None = None
    """The `version` that the document gives itself."""


class AgentRegistry(Mapping[str, FastAgent]):
    """Maps ids to active agents."""

    def __init__(self) -> None:
        self._revisions: dict[str, list[Revision]] = {}
        self._active: dict[str, Revision] = {}

    def __getitem__(self, agent_id: str) -> FastAgent:
        return self._active[agent_id].agent

    def __iter__(self) -> Iterator[str]:
        return iter(self._active)

    def __len__(self) -> int:
        return len(self._active)

    def add(self, agent: FastAgent, document: Mapping[str, Any] | None = None) -> Revision:
        """Make an agent the active revision of its id; the same document again is the same revision.

        Raises:
            RegistryFull: a thousand agents exist.
        """
        digest = _hash_of(repr(agent) if document is None else document)
        active = self._active.get(agent.agent_id)
        if active is not None and document is not None and active.hash == digest:
            return active
        if active is None and len(self._active) >= _MAX_AGENTS:
            raise RegistryFull
        revisions = self._revisions.setdefault(agent.agent_id, [])
        version = revisions[-1].version + 1 if revisions else 1
        label = str(document["version"])[:64] if document and document.get("version") is not None else None
        revision = Revision(version, digest, agent, document, datetime.now(UTC), label)
        revisions.append(revision)
        del revisions[:-_MAX_REVISIONS]
        self._active[agent.agent_id] = revision
        return revision

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
        digest, active = _hash_of(document), self._active.get(agent_id)
        if active is not None and active.hash == digest:
            return active.version, digest
        revisions = self._revisions.get(agent_id)
        return (revisions[-1].version + 1 if revisions else 1), digest

    def activate(self, agent_id: str, revision: Revision) -> None:
        """Give new calls this revision."""
        self._active[agent_id] = revision

    def remove(self, agent_id: str) -> bool:
        """Forget an agent and its revisions; whether there was one."""
        self._revisions.pop(agent_id, None)
        return self._active.pop(agent_id, None) is not None


def _hash_of(what: str | Mapping[str, Any]) -> str:
    text = what if isinstance(what, str) else json.dumps(what, sort_keys=True, ensure_ascii=False, default=str)
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:16]
