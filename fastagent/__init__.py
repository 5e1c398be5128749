"""FastAgent: a telephony-first media gateway for voice agents.

The public names load lazily (PEP 562): importing `fastagent.media.g711` loads neither the gateway nor torch.
"""

from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

if not (Path(__file__).parent / "media").is_dir():
    # A checkout keeps the subpackages beside this folder; a wheel has them inside it.
    __path__.append(str(Path(__file__).parents[1]))

if TYPE_CHECKING:
    from fastagent.afsm import AFSMState, ConversationContext, StateResult
    from fastagent.gateway.agent import FastAgent

__version__ = "0.1.0"

__all__ = ["AFSMState", "ConversationContext", "FastAgent", "StateResult"]

_HOMES = {
    "AFSMState": "fastagent.afsm",
    "ConversationContext": "fastagent.afsm",
    "FastAgent": "fastagent.gateway.agent",
    "StateResult": "fastagent.afsm",
}


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(import_module(_HOMES[name]), name)
    raise AttributeError(f"module 'fastagent' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
