"""What can go wrong with the other side of a leg."""


class ConnectorError(Exception):
    """Root of this layer's errors."""


class PeerError(ConnectorError):
    """The other side broke its protocol; `kind` is a fixed word for counters."""

    def __init__(self, kind: str, message: str) -> None:
        super().__init__(message)
        self.kind = kind
