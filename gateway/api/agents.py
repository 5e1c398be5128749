"""Agents over REST: configurations as immutable revisions."""

import asyncio
import re
from typing import TYPE_CHECKING, Any

from aiohttp import web
from pydantic import BaseModel, ConfigDict, Field

from fastagent.afsm import diagram
from fastagent.afsm.config import AgentConfig
from fastagent.afsm.errors import Problem
from fastagent.afsm.proofs import check
from fastagent.gateway.agent import FastAgent
from fastagent.gateway.agent_files import examine_document
from fastagent.gateway.api import models
from fastagent.gateway.api.operations import Answer, ApiError, Call, Operation, body_of
from fastagent.gateway.registry import RegistryFull, Revision

if TYPE_CHECKING:
    from fastagent.gateway.app import Gateway

_SECRET = re.compile(r"api[_-]?key|authorization|bearer|cookie|credential|passw|secret|signature|token", re.IGNORECASE)
_NO_SECRET = re.compile(r".*_env|max_(completion_)?tokens|(first|between)_tokens?_s", re.IGNORECASE)
_PLAIN_HEADERS = frozenset({"accept", "accept-language", "content-type", "user-agent", "idempotency-key"})
_IN_QUERY = re.compile(r"([?&][^=&#]*(?:key|auth|passw|secret|sig|token)[^=&#]*=)[^&#]*", re.IGNORECASE)
_USER_IN_URL = re.compile(r"(^[a-z]+://)[^/?#@]*@", re.IGNORECASE)
_MASK = "***"
_FATAL = frozenset(
    {"config", "template", "expression"}
)  # errors of the other rules are the machine's: it runs with them
_MAX_SHOWN = 100
_MAX_DRAWN = 1000  # ways in a picture: laying them out takes the square of them


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
        self._examining = asyncio.Lock()

    def operations(self) -> list[Operation]:
        """The table."""
        m, config = models, "/agents/{agent_id}/config"
        found = ("agent_not_found",)
        return [
            Operation("GET", "/agents", "listAgents", "List agents", self._list, "agents", {200: m.AgentList}),
            Operation(
                "POST", config, "postConfig", "Make a new revision and activate it", self._post, "agents",
                {200: m.ConfigAccepted, 201: m.ConfigAccepted, 422: m.Error},
                query=_ConfigQuery, document=AgentConfig, errors=("version_conflict", "capacity_exceeded"),
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
                {200: ("image/svg+xml", "text/plain")}, query=_DiagramQuery, errors=found,
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
        # Proofs on two hundred states take their time, which live calls shall not wait for: one at a time, in a thread.
        async with self._examining:
            agent, warnings = await asyncio.to_thread(self._examined, agent_id, document, strict=call.query.strict)
        active = registry.active(agent_id)
        wanted = call.request.headers.getall("If-Match", [])
        if wanted and (active is None or not _matches(",".join(wanted), active.hash)):
            now = active.hash if active else None
            raise ApiError("version_conflict", "the active revision is another one", {"hash": now})
        if call.query.dry_run:
            version, digest = registry.upcoming(agent_id, document)
            shown = models.ConfigAccepted(
                agent_id=agent_id, version=version, hash=digest, warnings=warnings, dry_run=True
            )
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
            problems = [*self._gateway.guard(config), *_still_masked(document, ""), *problems]
        wrong = [one for one in problems if one.severity == "error"]
        if config is None or any(one.rule in _FATAL for one in wrong):
            raise ApiError("invalid_request", "the configuration is wrong", _shown(wrong))
        warnings = [one for one in problems if one.severity != "note"]
        if strict and warnings:
            raise ApiError("invalid_request", "strict: the configuration has problems", _shown(warnings), status=422)
        shown = [str(one)[:500] for one in warnings[:_MAX_SHOWN]]
        if len(warnings) > _MAX_SHOWN:
            shown.append(f"and {len(warnings) - _MAX_SHOWN} more")
        return FastAgent.from_config(agent_id, config), shown

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
        accepted = models.ConfigAccepted(agent_id=agent_id, version=revision.version, hash=revision.hash, warnings=[])
        return Answer(accepted, headers={"ETag": f'"{revision.hash}"'})

    async def _diagram(self, call: Call) -> web.StreamResponse:
        revision = self._revision(call, call.query.version)
        if revision.document is None:
            raise ApiError("agent_not_found", "this agent was made in Python and has no document")
        config = AgentConfig.model_validate(dict(revision.document))
        if call.query.format == "svg" and sum(len(config.targets_of(state)) for state in config.states) > _MAX_DRAWN:
            raise ApiError("invalid_request", "there are too many transitions for a picture; format=mermaid has them")
        text = await asyncio.to_thread(_drawn, config, call.query.format)
        if call.query.format == "mermaid":
            return web.Response(text=text, content_type="text/plain")
        return web.Response(
            text=text,
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


def _matches(wanted: str, digest: str) -> bool:
    """Whether `If-Match` has a revision's entity tag (RFC 9110, 13.1.1), quoted or not."""
    return any(one.strip().strip('"') in ("*", digest) for one in wanted.split(","))


def _drawn(config: AgentConfig, form: str) -> str:
    problems = check(config)
    return diagram.mermaid(config, problems) if form == "mermaid" else diagram.svg(config, problems)


def _shown(problems: list[Problem]) -> list[dict[str, Any]]:
    """What is echoed is short."""
    return [
        {
            "path": one.path[:200],
            "message": one.message[:500],
            "severity": one.severity,
            "rule": one.rule,
            "hint": one.hint[:500],
        }
        for one in problems[:_MAX_SHOWN]
    ]


def _masked(value: Any, within: str = "") -> Any:
    """A document without its secrets: whatever is named like one, every header but the plainest, keys in addresses."""
    if isinstance(value, dict):
        return {
            name: _MASK if isinstance(one, str) and one and _is_secret(name, within) else _masked(one, name)
            for name, one in value.items()
        }
    if isinstance(value, list):
        return [_masked(one, within) for one in value]
    if isinstance(value, str) and within.endswith("url"):
        return _USER_IN_URL.sub(rf"\g<1>{_MASK}@", _IN_QUERY.sub(rf"\g<1>{_MASK}", value))
    return value


def _is_secret(name: str, within: str) -> bool:
    if within.lower() in ("headers", "extra_headers"):
        return name.lower() not in _PLAIN_HEADERS
    return bool(_SECRET.search(name)) and not _NO_SECRET.fullmatch(name)


def _still_masked(value: Any, path: str, name: str = "", within: str = "") -> list[Problem]:
    """What was shown masked and comes back as it was shown: nobody knows the secret any more."""
    if isinstance(value, dict):
        inner = [(f"{path}.{key}" if path else key, key, name, one) for key, one in value.items()]
    elif isinstance(value, list):
        inner = [(f"{path}[{at}]", name, within, one) for at, one in enumerate(value)]
    else:
        if value != _MASK or not _is_secret(name, within):
            return []
        return [Problem("error", path, "this is a masked secret: give it again, or name its variable in api_key_env")]
    return [problem for where, key, around, one in inner for problem in _still_masked(one, where, key, around)]
