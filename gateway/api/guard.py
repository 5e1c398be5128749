"""What a configuration may not ask for when it comes over the network: addresses and secrets of the server's own."""

import re
from collections.abc import Iterator, Mapping
from typing import Any

from yarl import URL

from fastagent.afsm.config import AgentConfig
from fastagent.afsm.errors import Problem
from fastagent.gateway.addresses import Addresses

_SECRET = re.compile(r"FASTAGENT_SECRET_[A-Z0-9_]+")
OPENAI = "https://api.openai.com/v1"


def forbidden(config: AgentConfig, addresses: Addresses, own_base_url: str | None) -> list[Problem]:
    """Return the problems: endpoints outside FASTAGENT_ALLOWED_HOSTS, and variables that hold no secret for agents."""
    found: list[Problem] = []
    # Where the environment names another endpoint, its key is that one's, and OpenAI is an address like any other.
    own = (None, own_base_url or OPENAI)
    for name in ("llm_config", "stt_config", "tts_config"):
        found += _endpoint(name, getattr(config, name), addresses, own)
        fallbacks = getattr(config, name).get("fallbacks", [])
        for at, one in enumerate(fallbacks if isinstance(fallbacks, list) else ()):
            if isinstance(one, Mapping):
                found += _endpoint(f"{name}.fallbacks[{at}]", one, addresses, own)
    return found


def _endpoint(
    path: str, config: Mapping[str, Any], addresses: Addresses, own: tuple[str | None, ...]
) -> Iterator[Problem]:
    base_url, variable = config.get("base_url"), config.get("api_key_env")
    if base_url not in own and not _allowed(base_url, addresses):
        yield Problem("error", f"{path}.base_url", "this address is not in FASTAGENT_ALLOWED_HOSTS")
    elif base_url not in own and not config.get("api_key") and not variable:
        message = "an endpoint of your own needs `api_key` or `api_key_env`: the server's key stays with its endpoint"
        yield Problem("error", f"{path}.base_url", message)
    if variable is not None and not _SECRET.fullmatch(str(variable)):
        yield Problem("error", f"{path}.api_key_env", "only variables named FASTAGENT_SECRET_... may be used")


def _allowed(base_url: object, addresses: Addresses) -> bool:
    try:
        return addresses.allows(URL(str(base_url)))
    except ValueError:
        return False
