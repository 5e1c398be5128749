"""Every async test runs in virtual time, unless it is marked `real`; property tests draw the same in every run.

`pytest --hypothesis-profile=default` draws anew, to look for more.
"""

import asyncio
from collections.abc import Callable

import pytest
from hypothesis import settings

from tests.support.loop import JumpingLoop

settings.register_profile("fixed", derandomize=True, deadline=None)
settings.load_profile("fixed")


def pytest_asyncio_loop_factories(
    config: pytest.Config, item: pytest.Item
) -> dict[str, Callable[[], asyncio.AbstractEventLoop]]:
    """Choose the loop of a test by its marker."""
    return {"real": asyncio.new_event_loop} if item.get_closest_marker("real") else {"virtual": JumpingLoop}
