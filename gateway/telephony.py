"""The connectors of the public API: configuration for the one gateway that they share."""

import logging

from fastagent.gateway.app import Gateway, shared_gateway

_log = logging.getLogger(__name__)


class TwilioConnector:
    """Twilio Programmable Voice.

    Args:
        account_sid, auth_token: of the Twilio account; the token verifies requests, both together allow REST.
        webhook_url: the public URL of the voice webhook, as configured at the number; the media stream and the status
            callbacks are its siblings.
    """

    def __init__(
        self,
        account_sid: str | None = None,
        auth_token: str | None = None,
        webhook_url: str = "/twilio/webhook",
        *,
        gateway: Gateway | None = None,
    ) -> None:
        self._gateway = gateway or shared_gateway()
        config = self._gateway.twilio
        config.account_sid = account_sid or config.account_sid
        config.auth_token = auth_token or config.auth_token
        config.webhook_url = webhook_url

    async def register_agent(self, agent_id: str, phone_number: str) -> None:
        """Let an agent answer the calls to a number; one that does not exist yet is a warning."""
        if agent_id not in self._gateway.agents:
            _log.warning("agent %s does not exist yet: until it does, the default agent answers", agent_id)
        self._gateway.twilio.agents[phone_number] = agent_id

    async def start(self) -> None:
        """Return when the gateway listens; connectors share it."""
        await self._gateway.start()

    async def stop(self) -> None:
        """Stop the gateway."""
        await self._gateway.stop()


class AudiocodesConnector:
    """AudioCodes VoiceAI Connect and Live Hub, in both modes of their Bot API.

    Args:
        webhook_url: the public URL, as configured at the bot's provider: `https` or `wss`, both modes are served there.
        api_key: the token that is configured beside it.
    """

    def __init__(
        self,
        webhook_url: str = "/audiocodes/webhook",
        api_key: str | None = None,
        *,
        gateway: Gateway | None = None,
    ) -> None:
        self._gateway = gateway or shared_gateway()
        config = self._gateway.audiocodes
        config.webhook_url = webhook_url
        config.api_key = api_key or config.api_key

    async def register_agent(self, agent_id: str, phone_number: str) -> None:
        """Let an agent answer the calls to a number, a host, or a bot name; one that does not exist yet is a warning.

        This is routing inside the gateway: which numbers reach it, VoiceAI Connect decides.
        """
        if agent_id not in self._gateway.agents:
            _log.warning("agent %s does not exist yet: until it does, the default agent answers", agent_id)
        self._gateway.audiocodes.agents[phone_number] = agent_id

    async def start(self) -> None:
        """Return when the gateway listens; connectors share it."""
        await self._gateway.start()

    async def stop(self) -> None:
        """Stop the gateway."""
        await self._gateway.stop()


AudioCodesConnector = AudiocodesConnector
"""The same, as the brand spells itself."""
