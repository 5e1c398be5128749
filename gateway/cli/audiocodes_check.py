"""A bot's URL, checked as VoiceAI Connect and Live Hub check it: over https, and over the WebSocket."""

from typing import Any

_LIMIT_S = 10.0


async def check_bot(url: str, token: str | None) -> list[tuple[str, bool, str]]:
    """Return what was looked at, whether it is right, and what it looks like."""
    import aiohttp

    url = url.replace("wss://", "https://", 1).replace("ws://", "http://", 1)
    headers = {"Authorization": f"Bearer {token}"} if token else {}
    timeout = aiohttp.ClientTimeout(total=_LIMIT_S)
    try:
        async with aiohttp.ClientSession(timeout=timeout) as http:
            return [
                ("AudioCodes GET", *await _get(http, url, headers)),
                ("AudioCodes WebSocket", *await _socket(http, url, headers)),
                ("AudioCodes stranger", *await _stranger(http, url)),
            ]
    except (aiohttp.ClientError, TimeoutError, OSError) as error:
        return [("AudioCodes", False, f"{url} cannot be reached: {type(error).__name__}")]


async def _get(http: Any, url: str, headers: dict[str, str]) -> tuple[bool, str]:
    async with http.get(url, headers=headers, allow_redirects=False) as answer:
        text = await answer.text()
        if answer.status == 401:
            return False, "the token is refused (401): is AUDIOCODES_API_KEY here the gateway's?"
        try:
            body = await answer.json(content_type=None)
        except ValueError:
            body = None
    right = answer.status == 200 and isinstance(body, dict) and body.get("type") == "ac-bot-api" and body.get("success")
    return bool(right), "answers the validation" if right else f"answered {answer.status}: {text[:100]}"


async def _socket(http: Any, url: str, headers: dict[str, str]) -> tuple[bool, str]:
    import aiohttp

    try:
        async with http.ws_connect(url, headers=headers) as socket:
            await socket.send_json({"type": "connection.validate"})
            body = await socket.receive_json(timeout=_LIMIT_S)
    except aiohttp.WSServerHandshakeError as error:
        return False, f"the upgrade was answered {error.status}: does the proxy pass WebSockets?"
    except (TypeError, ValueError):
        return False, "the socket was closed without an answer"
    right = body.get("type") == "connection.validated" and body.get("success") is True
    return right, "answers connection.validate" if right else f"answered {str(body)[:100]}"


async def _stranger(http: Any, url: str) -> tuple[bool, str]:
    """A warning only: from loopback a gateway without a token lets everybody in."""
    async with http.get(url, headers={"Authorization": "Bearer not-the-token"}, allow_redirects=False) as answer:
        refused = answer.status == 401
    return refused, "a wrong token is refused" if refused else f"a wrong token was answered {answer.status}"
