"""Following a call's session through the gateway's own API, as far as it lets us: the wire carries no text."""

import asyncio
from collections.abc import Callable
from typing import Any
from urllib.parse import urlsplit, urlunsplit

import aiohttp

_POLL_S = 0.25


class Watcher:
    """Polls the session of one call and reports each turn once it is complete."""

    def __init__(self, webhook: str, call_sid: str, on_turn: Callable[[dict[str, Any]], None]) -> None:
        at = urlsplit(webhook)
        self._base = urlunsplit((at.scheme, at.netloc, "", "", ""))
        self._call_sid, self._on_turn = call_sid, on_turn
        self._session_id: str | None = None
        self._reported = 0
        self._details: dict[str, Any] | None = None

    async def __aenter__(self) -> "Watcher":
        self._http = aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=2))
        self._task = asyncio.create_task(self._poll())
        return self

    async def __aexit__(self, *_: object) -> None:
        self._task.cancel()
        await asyncio.gather(self._task, return_exceptions=True)
        await self._http.close()

    async def _poll(self) -> None:
        while True:
            await self.look()
            await asyncio.sleep(_POLL_S)

    async def look(self) -> None:
        """Ask now, and report the turns that are complete."""
        try:
            if self._session_id is None:
                found = await self._get(f"/sessions?call_id={self._call_sid}")
                if found is None or not found["active_sessions"]:
                    return
                self._session_id = found["active_sessions"][-1]["session_id"]
            self._details = await self._get(f"/sessions/{self._session_id}") or self._details
        except (aiohttp.ClientError, TimeoutError, KeyError, ValueError):
            return
        self._report()

    async def _get(self, path: str) -> dict[str, Any] | None:
        async with self._http.get(self._base + path) as answer:
            return await answer.json() if answer.status == 200 else None

    def _report(self) -> None:
        turns = [turn for turn in (self._details or {}).get("turns", []) if turn["done"]]
        for turn in turns[self._reported :]:
            self._on_turn(turn)
        self._reported = max(self._reported, len(turns))

    async def final(self) -> dict[str, Any] | None:
        """Return the session as it ended; None where the gateway does not show it to us."""
        for _ in range(20):
            await self.look()
            if self._details is None or self._details["end_reason"]:
                break
            await asyncio.sleep(0.1)
        self._report()
        return self._details
