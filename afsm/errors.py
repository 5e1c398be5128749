"""What can be wrong with a machine, or go wrong in one."""

from dataclasses import dataclass
from typing import Literal


class AfsmError(Exception):
    """Root of this layer's errors."""


class DefinitionError(AfsmError):
    """The states do not make a machine."""


class StateError(AfsmError):
    """A state returned what no state may return."""


class InvalidTransitionError(AfsmError):
    """A state asked for a transition that its table does not allow."""

    def __init__(self, from_state: str, to_state: str, allowed: list[str]) -> None:
        super().__init__(f"{from_state} may not go to {to_state}; allowed: {', '.join(allowed) or 'none'}")
        self.details = {"from_state": from_state, "to_state": to_state, "allowed": allowed}


@dataclass(frozen=True, slots=True)
class Problem:
    """Something wrong with a definition, and where."""

    severity: Literal["error", "warning", "note"]
    path: str
    """Its place in the document, like `states[1].transitions[0].to`."""
    message: str
    rule: str = "config"
    hint: str = ""
    subject: str = ""
    """The name in question, where a rule has one."""

    def __str__(self) -> str:
        return f"{self.severity}: {self.path or 'document'}: {self.message}" + (f" ({self.hint})" if self.hint else "")


class ConfigError(DefinitionError):
    """A document that describes no agent; it has every fault that was found."""

    def __init__(self, problems: list[Problem]) -> None:
        super().__init__("; ".join(str(problem) for problem in problems))
        self.problems = problems
