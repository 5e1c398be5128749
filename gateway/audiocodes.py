"""The AudioCodes connector's configuration, out of the settings."""

from fastagent.connectors.audiocodes.auth import OAuthOptions
from fastagent.connectors.audiocodes.config import AudiocodesConfig
from fastagent.gateway.settings import Settings, secret


def audiocodes_config(settings: Settings) -> AudiocodesConfig:
    """Return the configuration that the environment asks for."""
    return AudiocodesConfig(
        public_base_url=settings.public_base_url,
        api_key=secret(settings.audiocodes_api_key),
        oauth=_oauth(settings),
        barge_in=settings.audiocodes_barge_in,
    )


def _oauth(settings: Settings) -> OAuthOptions | None:
    options = OAuthOptions(
        issuer=settings.audiocodes_oauth_issuer,
        audience=settings.audiocodes_oauth_audience,
        jwks_url=settings.audiocodes_oauth_jwks_url,
        introspection_url=settings.audiocodes_oauth_introspection_url,
        client_id=settings.audiocodes_oauth_client_id,
        client_secret=secret(settings.audiocodes_oauth_client_secret),
    )
    return options if options.jwks_url or options.introspection_url else None
