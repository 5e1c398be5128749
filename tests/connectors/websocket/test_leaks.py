"""A thousand connections leave nothing behind: no task, no descriptor, no session, no held leg, no memory."""

import asyncio
import gc
import os
from itertools import count

import psutil  # type: ignore[import-untyped]
import pytest

from fastagent.connectors.websocket.connector import SocketConnection
from tests.connectors.websocket.client import Client, Clients, calling, eventually

pytestmark = [pytest.mark.real, pytest.mark.timeout(120)]

_WARM_UP = 600  # more than there are ended sessions that are remembered
_CONNECTS = 1000
_AT_ONCE = 20


async def drop(client: Client) -> None:
    await client.send("start_session")
    await client.next("audio_response")
    client.drop()


async def end(client: Client) -> None:
    await client.send("start_session")
    await client.next("audio_response")
    await client.send("end_session")
    await client.next("session_ended")


async def nothing(client: Client) -> None:
    await asyncio.sleep(0)


async def connects(clients: Clients, number: int) -> None:
    """Make so many connections, some at once; each kind in turn."""
    turns = iter(range(number))
    kinds = count()

    async def one_after_the_other() -> None:
        for _ in turns:
            async with clients.connect() as client:
                await (drop, end, nothing)[next(kinds) % 3](client)

    await asyncio.gather(*(one_after_the_other() for _ in range(_AT_ONCE)))


def descriptors() -> int:
    return len(os.listdir("/proc/self/fd"))


async def quiet(clients: Clients) -> None:
    """Return when nothing of any connection is left."""
    (connection,) = (one for one in clients.gateway._connections if isinstance(one, SocketConnection))
    await eventually(lambda: not connection._live and not connection._sessions and not connection._lines, 10.0)
    names = {"outbox", "websocket-ping", "websocket-session"}
    await eventually(lambda: not any(task.get_name() in names for task in asyncio.all_tasks()), 10.0)
    assert len(clients.gateway.sessions) == 0
    assert not clients.gateway.sessions._places
    gc.collect()


@pytest.mark.parametrize("hold", [0.0, 0.2])
async def test_a_thousand_connections_leave_nothing_behind(hold: float) -> None:
    number, warm_up = (_CONNECTS, _WARM_UP) if not hold else (150, 50)
    async with calling(FASTAGENT_WS_HOLD_SECONDS=hold, MAX_SESSIONS=200) as clients:
        process, standing = psutil.Process(), len(asyncio.all_tasks())
        await connects(clients, warm_up)
        await quiet(clients)
        await eventually(lambda: len(asyncio.all_tasks()) <= standing)
        tasks, open_files, memory = len(asyncio.all_tasks()), descriptors(), process.memory_info().rss
        await connects(clients, number)
        await quiet(clients)
        await eventually(lambda: len(asyncio.all_tasks()) <= tasks)
        await eventually(lambda: descriptors() <= open_files)
        assert process.memory_info().rss <= memory * 1.05
