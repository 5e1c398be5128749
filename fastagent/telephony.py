"""The connectors of the public API."""

from fastagent.gateway.telephony import TwilioConnector

__all__ = ["TwilioConnector"]
