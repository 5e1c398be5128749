"""A shop whose model uses two tools."""

from fastagent.examples.shop.agent import shop

__all__ = ["shop"]
