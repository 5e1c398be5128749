"""The real engine is loaded once for all tests of this folder."""

import pytest

from fastagent.media.vad.silero import SileroVad


@pytest.fixture(scope="package")
def silero() -> SileroVad:
    return SileroVad()
