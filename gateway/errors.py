"""The API's error codes, in one table, and the one shape that they are sent in."""

from typing import Any

from aiohttp import web

STATUS = {
    "invalid_request": 400,
    "authentication_failed": 401,
    "not_authorized": 403,
    "session_not_found": 404,
    "agent_not_found": 404,
    "call_not_found": 404,
    "invalid_state": 409,
    "session_expired": 410,
    "version_conflict": 412,
    "invalid_audio_format": 415,
    "audio_processing_failed": 422,
    "llm_error": 502,
    "rate_limited": 429,
    "capacity_exceeded": 503,
    "timeout": 504,
    "internal_error": 500,
}


def error_response(code: str, message: str, details: Any = None, *, status: int | None = None) -> web.Response:
    """Return the documented body with its status."""
    body = {"code": code, "message": message, "details": details}
    return web.json_response(body, status=status or STATUS[code])
