"""Twilio's REST API, as far as a call needs it: hanging up, and other TwiML."""

import asyncio
from typing import Any

_ORIGIN = "https://api.twilio.com"
_OVER = {20404, 21220}  # the call is gone, or no longer in progress: both are what we wanted
_TIMEOUT_S = 5.0


class TwilioRest:
    """The account's REST client, loaded at the first use since the library is slow to import.

    Args:
        base_url: another origin in place of Twilio's own, for tests and regional proxies.
    """

    def __init__(self, account_sid: str, auth_token: str, *, base_url: str | None = None) -> None:
        self._account_sid, self._auth_token, self._base_url = account_sid, auth_token, base_url or _ORIGIN
        self._client: Any = None
        self._http: Any = None

    async def hang_up(self, call_sid: str) -> None:
        """End a call; one that is already over counts as ended.

        Raises:
            ConnectionError: Twilio refused, could not be reached, or took too long.
        """
        await self._update(call_sid, "hang-up", gone_is_fine=True, status="completed")

    async def redirect(self, call_sid: str, twiml: str) -> None:
        """Give a call other TwiML, at most 4000 characters.

        Raises:
            ConnectionError: Twilio refused, could not be reached, or took too long.
        """
        await self._update(call_sid, "redirect", gone_is_fine=False, twiml=twiml)

    async def _update(self, call_sid: str, what: str, *, gone_is_fine: bool, **changes: str) -> None:
        from aiohttp import ClientError
        from twilio.base.exceptions import TwilioException

        client = self._open()
        try:
            async with asyncio.timeout(_TIMEOUT_S):  # the library's own timeout does not reach its async client
                await client.calls(call_sid).update_async(**changes)
        except TwilioException as error:
            status, code = getattr(error, "status", None), getattr(error, "code", None)
            if not gone_is_fine or (code not in _OVER and status != 404):
                raise ConnectionError(f"{what} refused: {status}, code {code}") from error
        except (ClientError, TimeoutError, OSError) as error:
            raise ConnectionError(f"{what} failed: {type(error).__name__}") from error
        except (ValueError, AttributeError) as error:  # a body that the library cannot read
            if not 200 <= self._http.status < 300:
                raise ConnectionError(f"{what} refused: {self._http.status}") from error

    def _open(self) -> Any:
        if self._client is None:
            from aiohttp import encode_basic_auth
            from twilio.http.async_http_client import AsyncTwilioHttpClient
            from twilio.rest import Client

            base_url = self._base_url

            class HttpClient(AsyncTwilioHttpClient):  # type: ignore[misc]
                """Twilio's own, at another origin; with a header where it uses what aiohttp has deprecated."""

                status = 0

                async def request(
                    self, method: str, url: str, params: Any = None, data: Any = None, headers: Any = None,
                    auth: Any = None, **kwargs: Any,
                ) -> Any:  # fmt: skip
                    headers = {**(headers or {}), **({"Authorization": encode_basic_auth(*auth)} if auth else {})}
                    url = base_url + url.removeprefix(_ORIGIN)
                    answer = await super().request(method, url, params=params, data=data, headers=headers, **kwargs)
                    self.status = answer.status_code
                    return answer

            self._http = HttpClient()
            self._client = Client(self._account_sid, self._auth_token, http_client=self._http)
        return self._client

    async def aclose(self) -> None:
        """Close the connections; may be called twice."""
        if self._http is not None:
            http, self._http, self._client = self._http, None, None
            await http.close()
