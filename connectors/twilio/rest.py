"""Twilio's REST API, as far as a call needs it: hanging up."""

from typing import Any

_OVER = {20404, 21220}  # the call is gone, or no longer in progress: both are what we wanted
_TIMEOUT_S = 5.0


class TwilioRest:
    """The account's REST client, loaded at the first use since the library is slow to import.

    Args:
        base_url: another origin in place of Twilio's own, for tests and regional proxies.
    """

    def __init__(self, account_sid: str, auth_token: str, *, base_url: str | None = None) -> None:
        self._account_sid, self._auth_token, self._base_url = account_sid, auth_token, base_url
        self._client: Any = None
        self._http: Any = None

    async def hang_up(self, call_sid: str) -> None:
        """End a call; one that is already over counts as ended.

        Raises:
            ConnectionError: Twilio refused, or could not be reached.
        """
        from aiohttp import ClientError
        from twilio.base.exceptions import TwilioException, TwilioRestException

        try:
            await self._open().calls(call_sid).update_async(status="completed")
        except TwilioRestException as error:
            if error.code not in _OVER and error.status != 404:
                raise ConnectionError(f"hang-up refused: {error.status}, code {error.code}") from error
        except (TwilioException, ClientError, TimeoutError, OSError) as error:
            raise ConnectionError(f"hang-up failed: {type(error).__name__}") from error

    def _open(self) -> Any:
        if self._client is None:
            from twilio.http.async_http_client import AsyncTwilioHttpClient
            from twilio.rest import Client

            base_url = self._base_url

            class HttpClient(AsyncTwilioHttpClient):  # type: ignore[misc]
                async def request(self, method: str, url: str, *args: Any, **kwargs: Any) -> Any:
                    if base_url is not None:
                        url = base_url + url.removeprefix("https://api.twilio.com")
                    return await super().request(method, url, *args, **kwargs)

            self._http = HttpClient(timeout=_TIMEOUT_S)
            self._client = Client(self._account_sid, self._auth_token, http_client=self._http)
        return self._client

    async def aclose(self) -> None:
        """Close the connections; may be called twice."""
        if self._http is not None:
            await self._http.close()
            self._http = self._client = None
