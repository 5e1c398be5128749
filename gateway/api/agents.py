"""Agents over REST: configurations as immutable revisions."""

from typing import TYPE_CHECKING, Any

from aiohttp import web
from pydantic import BaseModel, ConfigDict, Field

from fastagent.afsm import diagram
from fastagent.afsm.errors import Problem
from fastagent.afsm.proofs import check
from fastagent.gateway.agent import FastAgent
from fastagent.gateway.agent_files import examine_document
from fastagent.gateway.api import models
from fastagent.gateway.api.operations import Answer, ApiError, Call, Operation, body_of
from fastagent.gateway.registry import RegistryFull, Revision

if TYPE_CHECKING:
    from fastagent.gateway.app import Gateway

_SECRETS = frozenset({"api_key", "bearer", "authorization", "password", "token"})


class _ConfigQuery(BaseModel):
    model_config = ConfigDict(extra="forbid")
    strict: bool = Field(False, description="warnings are errors: 422")
    dry_run: bool = Field(False, description="only check")


class _VersionQuery(BaseModel):
    model_config = ConfigDict(extra="forbid")
    version: int | None = Field(None, ge=1, description="the active one, if not given")


class _DiagramQuery(_VersionQuery):
    format: str = Field("svg", pattern="^(svg|mermaid)$", description="`svg` or `mermaid`")


class AgentsApi:
    """The handlers."""

    def __init__(self, gateway: "Gateway") -> None:
        self._gateway = gateway

    def operations(self) -> list[Operation]:
        """The table."""
        m, config = models, "/agents/{agent_id}/config"
        found = ("agent_not_found",)
        return [
            Operation("GET", "/agents", "listAgents", "List agents", self._list, "agents", {200: m.AgentList}),
            Operation(
                "POST", config, "postConfig", "Make a new revision and activate it", self._post, "agents",
                {200: m.ConfigAccepted, 201: m.ConfigAccepted, 422: m.Error},
                query=_ConfigQuery, errors=("version_conflict", "capacity_exceeded"),
            ),
            Operation(
                "GET", config, "getConfig", "Show a configuration", self._get, "agents", {200: m.ConfigDocument},
                query=_VersionQuery, errors=found,
            ),
            Operation(
                "GET", "/agents/{agent_id}/versions", "listVersions", "List an agent's revisions", self._versions,
                "agents", {200: m.RevisionList}, errors=found,
            ),
            Operation(
                "POST", "/agents/{agent_id}/rollback", "rollback", "Give new calls an older revision", self._rollback,
                "agents", {200: m.ConfigAccepted}, body=m.Rollback, errors=found,
            ),
            Operation(
                "GET", "/agents/{agent_id}/diagram", "getDiagram", "Draw the machine", self._diagram, "agents",
                {200: "image/svg+xml"}, query=_DiagramQuery, errors=found,
            ),
            Operation(
                "DELETE", "/agents/{agent_id}", "deleteAgent", "Forget an agent; its live calls go on", self._delete,
                "agents", {200: m.Done}, errors=(*found, "invalid_state"),
            ),
        ]  # fmt: skip

    async def _list(self, call: Call) -> Answer:
        registry = self._gateway.agents
        entries = []
        for agent_id in sorted(registry):
            revision = registry.active(agent_id)
            assert revision is not None
            entries.append(
                models.AgentEntry(
                    agent_id=agent_id,
                    version=revision.version,
                    hash=revision.hash,
                    source=_source(revision),
                    states=len(revision.agent.afsm.states),
                    initial_state=revision.agent.afsm.initial_state,
                    default=agent_id == self._gateway.default_agent,
                )
            )
        return Answer(models.AgentList(agents=entries, total_count=len(entries)))

    async def _post(self, call: Call) -> Answer:
        agent_id, registry = _agent_id(call), self._gateway.agents
        document = await body_of(call.request)
        agent, warnings = self._examined(agent_id, document, strict=call.query.strict)
        active = registry.active(agent_id)
        wanted = call.request.headers.get("If-Match")
        if wanted is not None and (active is None or wanted.strip().strip('"') not in ("*", active.hash)):
            now = active.hash if active else None
            raise ApiError("version_conflict", "the active revision is another one", {"hash": now})
        if call.query.dry_run:
            version = active.version + 1 if active else 1
            shown = models.ConfigAccepted(agent_id=agent_id, version=version, hash="", warnings=warnings, dry_run=True)
            return Answer(shown)
        try:
            revision = registry.add(agent, document)
        except RegistryFull:
            raise ApiError("capacity_exceeded", "there are too many agents") from None
        accepted = models.ConfigAccepted(
            agent_id=agent_id, version=revision.version, hash=revision.hash, warnings=warnings
        )
        return Answer(accepted, 200 if revision is active else 201, {"ETag": f'"{revision.hash}"'})

    def _examined(self, agent_id: str, document: Any, *, strict: bool) -> tuple[FastAgent, list[str]]:
        """Return the agent that a document describes; nothing of a wrong one is taken."""
        config, problems = examine_document(document)
        if config is not None:
            problems = [*self._gateway.guard(config), *problems]
        wrong = [one for one in problems if one.severity == "error" and one.rule != "undefined-target"]
        if config is None or any(not _of_proofs(one) for one in wrong):
            raise ApiError("invalid_request", "the configuration is wrong", _shown(wrong))
        warnings = [one for one in problems if one.severity != "note"]
        if strict and warnings:
            raise ApiError("invalid_request", "strict: the configuration has problems", _shown(warnings), status=422)
        return FastAgent.from_config(agent_id, config), [str(one) for one in warnings]

    def _revision(self, call: Call, version: int | None) -> Revision:
        registry, agent_id = self._gateway.agents, _agent_id(call)
        found = registry.active(agent_id) if version is None else registry.revision(agent_id, version)
        if found is None:
            if version is None or agent_id not in registry:
                raise ApiError("agent_not_found", f"There is no agent {agent_id!r}")
            raise ApiError("agent_not_found", f"{agent_id!r} has no version {version}")
        return found

    async def _get(self, call: Call) -> Answer:
        revision = self._revision(call, call.query.version)
        if revision.document is None:
            raise ApiError("agent_not_found", "this agent was made in Python and has no document")
        shown = models.ConfigDocument(
            agent_id=_agent_id(call),
            version=revision.version,
            hash=revision.hash,
            config=_masked(dict(revision.document)),
        )
        return Answer(shown, headers={"ETag": f'"{revision.hash}"'})

    async def _versions(self, call: Call) -> Answer:
        agent_id, active = _agent_id(call), self._revision(call, None)
        entries = [
            models.RevisionEntry(
                version=one.version,
                hash=one.hash,
                label=one.label,
                created_at=one.created_at,
                active=one is active,
                source=_source(one),
            )
            for one in self._gateway.agents.revisions(agent_id)
        ]
        return Answer(models.RevisionList(agent_id=agent_id, versions=entries))

    async def _rollback(self, call: Call) -> Answer:
        agent_id, revision = _agent_id(call), self._revision(call, call.body.version)
        self._gateway.agents.activate(agent_id, revision)
        return Answer(
            models.ConfigAccepted(agent_id=agent_id, version=revision.version, hash=revision.hash, warnings=[])
        )

    async def _diagram(self, call: Call) -> web.StreamResponse:
        revision = self._revision(call, call.query.version)
        if revision.document is None:
            raise ApiError("agent_not_found", "this agent was made in Python and has no document")
        config, _ = examine_document(dict(revision.document))
        assert config is not None
        problems = check(config)
        if call.query.format == "mermaid":
            return web.Response(text=diagram.mermaid(config, problems), content_type="text/plain")
        return web.Response(
            text=diagram.svg(config, problems),
            content_type="image/svg+xml",
            headers={"Content-Security-Policy": "default-src 'none'; style-src 'unsafe-inline'"},
        )

    async def _delete(self, call: Call) -> Answer:
        agent_id = _agent_id(call)
        if agent_id == self._gateway.default_agent:
            raise ApiError("invalid_state", "the default agent cannot be deleted")
        if not self._gateway.agents.remove(agent_id):
            raise ApiError("agent_not_found", f"There is no agent {agent_id!r}")
        return Answer(models.Done(success=True, message="Agent deleted"))


def _agent_id(call: Call) -> str:
    return call.path("agent_id")


def _source(revision: Revision) -> Any:
    return "python" if revision.document is None else "document"


def _of_proofs(problem: Problem) -> bool:
    """Whether a problem is one of the machine, which runs all the same, and not of the document."""
    return bool(problem.rule)


def _shown(problems: list[Problem]) -> list[dict[str, Any]]:
    return [
        {"path": one.path, "message": one.message, "severity": one.severity, "rule": one.rule, "hint": one.hint}
        for one in problems[:100]
    ]


def _masked(value: Any) -> Any:
    """A document without its secrets."""
    if isinstance(value, dict):
        return {
            name: "***" if name.lower() in _SECRETS and isinstance(one, str) else _masked(one)
            for name, one in value.items()
        }
    return [_masked(one) for one in value] if isinstance(value, list) else value
