"""The connectors of the public API."""

from fastagent.gateway.telephony import AudioCodesConnector, AudiocodesConnector, TwilioConnector

__all__ = ["AudioCodesConnector", "AudiocodesConnector", "TwilioConnector"]
