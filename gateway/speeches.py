"""Speech for agents: the one of this process, an OpenAI-compatible one over it, and what an agent itself asks for."""

import logging
import os
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from fastagent.afsm.errors import DefinitionError
from fastagent.gateway.agent import FastAgent
from fastagent.gateway.options import SttOptions, TtsOptions, options
from fastagent.media.frame import PCMU_8K
from fastagent.media.speech.contracts import Speech, Stt, Tts
from fastagent.media.speech.fallback import FallbackStt, FallbackTts
from fastagent.media.speech.openai_config import OpenAiSttConfig, OpenAiTtsConfig
from fastagent.media.speech.rendering import Renderer

_log = logging.getLogger(__name__)

_STT_TIMEOUT_S = 5.0  # leaves the second recogniser its time within a recognition's ten seconds
_OWN = frozenset({"api_key_env", "timeout", "provider"})
_ENDPOINT = frozenset({"api_key", "api_key_env", "base_url"})


class Speeches:
    """Makes each speech once.

    Args:
        base: the speech that needs no network; the fallback of every other one.
        api_key, base_url: of the environment.
        by_default: whether agents that say nothing get the OpenAI-compatible speech.
    """

    def __init__(
        self,
        base: Speech,
        *,
        api_key: str | None,
        base_url: str | None,
        by_default: bool,
        on_fault: Callable[[str, str], None] = lambda name, kind: None,
    ) -> None:
        self._base, self._on_fault = base, on_fault
        self._api_key, self._base_url, self._by_default = api_key, base_url, by_default
        self._stts: dict[str, Stt] = {}
        self._ttses: dict[str, Tts] = {}
        self._own = Renderer(base.tts)
        self._renderers = {"": self._own}
        self._phrases: list[str] = []
        self._closing: list[Any] = []

    def stt(self, config: Mapping[str, Any]) -> Stt:
        """Return the recogniser for a configuration.

        Raises:
            DefinitionError: an unknown key, or a value of the wrong kind.
        """
        made = stt_config(config, self._api_key, self._base_url) if self._wants(config) else None
        if made is None:
            return self._base.stt
        key = f"{made!r} {made.api_key}"
        if key not in self._stts:
            self._stts[key] = FallbackStt(self._network_stt(made), self._base.stt, on_fault=self._on_fault)
        return self._stts[key]

    def _network_stt(self, config: OpenAiSttConfig) -> Stt:
        made: Any
        if config.realtime:
            from fastagent.media.speech.openai_realtime import OpenAiRealtimeStt

            made = OpenAiRealtimeStt(config)
        else:
            from fastagent.media.speech.openai_stt import OpenAiStt

            made = OpenAiStt(config)
        self._closing.append(made)
        return made  # type: ignore[no-any-return]

    def renderer(self, config: Mapping[str, Any]) -> Renderer:
        """Return the renderer for a configuration; raises as `stt`."""
        made = tts_config(config, self._api_key, self._base_url) if self._wants(config) else None
        key = "" if made is None else f"{made!r} {made.api_key}"
        if made is not None and key not in self._renderers:
            self._renderers[key] = Renderer(self._network_tts(made), emergency=self._own)
            self._renderers[key].want(self._phrases)
        return self._renderers[key]

    async def keep(self, texts: Iterable[str]) -> None:
        """Render phrases by the speech that needs no network, so that they are there whatever happens to it; voices
        over the network keep them from the first time that they say them."""
        phrases = list(texts)
        self._phrases += phrases
        for renderer in self._renderers.values():
            renderer.want(phrases)
        await self._own.keep(phrases, PCMU_8K)

    def _network_tts(self, config: OpenAiTtsConfig) -> Tts:
        from fastagent.media.speech.openai_tts import OpenAiTts

        made = OpenAiTts(config)
        self._closing.append(made)
        return FallbackTts(made, self._base.tts, on_fault=self._on_fault)

    def _wants(self, config: Mapping[str, Any]) -> bool:
        provider = config.get("provider")
        if provider not in (None, "openai", "embedded"):
            raise DefinitionError(f"unknown provider {provider!r}; there are openai and embedded")
        if provider is not None:
            return bool(provider == "openai")
        if self._by_default or set(config) & _ENDPOINT:
            return True
        # A voice or a language alone is no endpoint: without one, nobody's words leave the house.
        return bool(set(config) - _OWN) and bool(self._api_key or self._base_url)

    def of(self, agent: FastAgent) -> tuple[Stt, Renderer] | None:
        """Return the speech of an agent; what is wrong with its configuration is logged, and it gets the usual one."""
        try:
            return self.stt(agent.stt_config), self.renderer(agent.tts_config)
        except (DefinitionError, TypeError, ValueError) as error:
            _log.error("agent %s has no speech of its own: %s", agent.agent_id, error)
            return None

    async def aclose(self) -> None:
        """Close every connection."""
        for one in self._closing:
            await one.aclose()


def stt_config(given: Mapping[str, Any], api_key: str | None = None, base_url: str | None = None) -> OpenAiSttConfig:
    """Return a recogniser's configuration.

    Raises:
        DefinitionError: an unknown key, or a value of the wrong kind; `ConfigError` with the places, if they are known.
    """
    made = _with_endpoint(options(SttOptions, "stt_config", given), "timeout_s", api_key, base_url)
    made.setdefault("timeout_s", _STT_TIMEOUT_S)
    return OpenAiSttConfig(**made)


def tts_config(given: Mapping[str, Any], api_key: str | None = None, base_url: str | None = None) -> OpenAiTtsConfig:
    """Return a synthesiser's configuration; raises as `stt_config`."""
    return OpenAiTtsConfig(
        **_with_endpoint(options(TtsOptions, "tts_config", given), "first_byte_s", api_key, base_url)
    )


def _with_endpoint(found: dict[str, Any], timeout: str, api_key: str | None, base_url: str | None) -> dict[str, Any]:
    """Return the dataclass's options: `timeout` under its own name, key and address of the environment by default."""
    made = {key: value for key, value in found.items() if key not in _OWN}
    if "timeout" in found:
        made[timeout] = found["timeout"]
    named = found.get("api_key_env")
    token = os.environ.get(named) if named else api_key
    if token:
        made.setdefault("api_key", token)
    if base_url:
        made.setdefault("base_url", base_url)
    return made
