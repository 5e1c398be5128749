"""Which of a name's servers things went to: the core speaks of names, and the shell, which asks the DNS, knows."""

from typing import Protocol

from fastagent.connectors.sip.actions import Address


class Servers(Protocol):
    """What the core asks."""

    def where(self, to: Address, branch: str) -> Address:
        """Return the place that a transaction to an address went to; the address itself, where that is not known."""
        ...

    def has_another(self, to: Address, branch: str) -> bool:
        """Whether there is a server beside that one which may be tried."""
        ...


class NoNames:
    """Every address is a place."""

    def where(self, to: Address, branch: str) -> Address:
        """Return the address."""
        return to

    def has_another(self, to: Address, branch: str) -> bool:
        """There is none."""
        return False
