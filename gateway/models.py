"""Language models for agents: a chain of endpoints from `llm_config` and the environment."""

import asyncio
import logging
import os
from collections.abc import Callable, Iterable
from importlib import import_module
from typing import Any

from fastagent.afsm.endpoints import EndpointChain
from fastagent.afsm.errors import DefinitionError
from fastagent.afsm.llm import FaultKind, Llm
from fastagent.afsm.openai_llm import OpenAiConfig, OpenAiLlm
from fastagent.gateway.options import LlmOptions, options

_OWN = {"api_key_env", "timeout", "fallbacks"}


_log = logging.getLogger(__name__)


class Models:
    """Makes one model per configuration, and closes them all."""

    def __init__(
        self,
        *,
        api_key: str | None,
        base_url: str | None,
        on_fault: Callable[[str, FaultKind], None] = lambda name, kind: None,
    ) -> None:
        self._api_key, self._base_url, self._on_fault = api_key, base_url, on_fault
        self._made: dict[str, Llm] = {}
        self._endpoints: list[OpenAiLlm] = []
        self._looking: asyncio.Task[None] | None = None

    def model_for(self, llm_config: dict[str, Any]) -> Llm | None:
        """Return the model of an agent; None where neither it nor the environment names an endpoint.

        Raises:
            DefinitionError: an unknown key, or a value of the wrong kind.
        """
        configs = [llm_config, *llm_config.get("fallbacks", [])]
        endpoints = [one for one in map(self._config, configs) if one.api_key or one.base_url]
        if not endpoints:
            return None
        key = repr(endpoints)
        if key not in self._made:
            models = [OpenAiLlm(one) for one in endpoints]
            self._endpoints += models
            self._made[key] = EndpointChain(models, on_fault=self._on_fault)
        return self._made[key]

    def check(self, llm_config: dict[str, Any]) -> None:
        """Raise `DefinitionError`, `TypeError` or `ValueError` where `model_for` would."""
        self._config(llm_config)  # with its fallbacks

    def _config(self, given: dict[str, Any]) -> OpenAiConfig:
        found = options(LlmOptions, "llm_config", given)
        made = {name: value for name, value in found.items() if name not in _OWN}
        if "timeout" in found:
            made["first_token_s"] = found["timeout"]
        named = found.get("api_key_env")
        made.setdefault("api_key", os.environ.get(named) if named else self._api_key)
        made.setdefault("base_url", self._base_url)
        return OpenAiConfig(**made)

    async def warm_up(self, llm_configs: Iterable[dict[str, Any]]) -> None:
        """Load the client library in a thread, if any agent has a model: it takes a second."""
        try:
            wanted = any([self.model_for(one) for one in llm_configs])
        except (DefinitionError, TypeError, ValueError):
            return  # told when the agent is called
        if wanted:
            await asyncio.to_thread(import_module, "openai")
            self._looking = asyncio.create_task(self._look_at_keys(), name="model-keys")

    async def _look_at_keys(self) -> None:
        """A key that is refused is to be known before the first call (F9); anything else will show by itself."""
        for endpoint in tuple(self._endpoints):
            if await endpoint.refuses_key():
                _log.error("the key of a model's endpoint is refused", extra={"model": endpoint.name})
                self._on_fault(endpoint.name, "auth")

    async def aclose(self) -> None:
        """Close every connection."""
        if self._looking is not None:
            self._looking.cancel()
            await asyncio.gather(self._looking, return_exceptions=True)
        for endpoint in self._endpoints:
            await endpoint.aclose()
        self._endpoints.clear()
        self._made.clear()
