"""The API document's customer service agent, in Python and in YAML."""

from fastagent.examples.customer_service.agent import customer_service

__all__ = ["customer_service"]
