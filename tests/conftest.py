"""Every async test runs in virtual time, unless it is marked `real`."""

import asyncio
from collections.abc import Callable

import pytest

from tests.support.loop import JumpingLoop


def pytest_asyncio_loop_factories(
    config: pytest.Config, item: pytest.Item
) -> dict[str, Callable[[], asyncio.AbstractEventLoop]]:
    """Choose the loop of a test by its marker."""
    return {"real": asyncio.new_event_loop} if item.get_closest_marker("real") else {"virtual": JumpingLoop}
