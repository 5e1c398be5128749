"""What can be wrong with a machine, or go wrong in one."""


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
