"""The shared clock, in virtual time."""

import asyncio
from collections.abc import Callable

import pytest

from fastagent.media.ticker import Ticker
from tests.support.loop import JumpingLoop


def recorder() -> tuple[list[float], Callable[[float], None]]:
    """Ticks in ms since now, and the listener that records them."""
    began = asyncio.get_running_loop().time()
    seen: list[float] = []
    return seen, lambda now: seen.append(round((now - began) * 1000, 3))


def stall(seconds: float) -> None:
    """Keep the loop busy."""
    loop = asyncio.get_running_loop()
    assert isinstance(loop, JumpingLoop)
    loop.now += seconds


async def test_listeners_are_called_every_20_ms_from_the_next_tick_on() -> None:
    ticker = Ticker()
    seen, listener = recorder()
    ticker.add(listener)
    await asyncio.sleep(0.09)
    assert seen == [20, 40, 60, 80]
    ticker.remove(listener)


async def test_all_listeners_share_the_same_ticks_in_the_order_they_came() -> None:
    ticker = Ticker(0.01)
    calls: list[tuple[str, float]] = []

    def first(now: float) -> None:
        calls.append(("first", now))

    def second(now: float) -> None:
        calls.append(("second", now))

    ticker.add(first)
    await asyncio.sleep(0.005)
    ticker.add(second)
    await asyncio.sleep(0.006)
    assert [name for name, _ in calls] == ["first", "second"]
    assert calls[0][1] == calls[1][1]
    ticker.remove(first)
    ticker.remove(second)


async def test_ten_minutes_of_ticks_do_not_drift() -> None:
    ticker = Ticker()
    count, last = 0, 0.0
    began = asyncio.get_running_loop().time()

    def listener(now: float) -> None:
        nonlocal count, last
        count, last = count + 1, now

    ticker.add(listener)
    await asyncio.sleep(600.01)
    assert count == 30000
    assert last - began == pytest.approx(600, abs=1e-6)
    ticker.remove(listener)


async def test_a_tick_that_was_missed_is_not_made_up_and_the_next_ones_keep_the_grid() -> None:
    ticker = Ticker()
    seen, listener = recorder()
    ticker.add(listener)
    await asyncio.sleep(0.05)
    stall(0.085)
    await asyncio.sleep(0.05)
    assert seen == [20, 40, 120, 140, 160, 180]  # the one of 120 came at 135
    ticker.remove(listener)


async def test_the_lag_of_every_tick_is_reported() -> None:
    lags: list[float] = []
    ticker = Ticker(on_lag=lambda lag_s: lags.append(round(lag_s, 6)))
    _, listener = recorder()
    ticker.add(listener)
    await asyncio.sleep(0.05)
    stall(0.085)
    await asyncio.sleep(0.01)
    assert lags == [0, 0, 0.075, 0]
    ticker.remove(listener)


async def test_those_that_send_come_first_whenever_they_were_added() -> None:
    ticker = Ticker()
    calls: list[str] = []

    def late(now: float) -> None:
        calls.append("late")

    def early(now: float) -> None:
        calls.append("early")

    ticker.add(late)
    ticker.add(early, early=True)
    await asyncio.sleep(0.05)
    ticker.remove(early)
    await asyncio.sleep(0.02)
    assert calls == ["early", "late", "early", "late", "late"]
    ticker.remove(late)


async def test_a_removed_listener_is_not_called_again() -> None:
    ticker = Ticker()
    seen, listener = recorder()
    ticker.add(listener)
    await asyncio.sleep(0.05)
    ticker.remove(listener)
    await asyncio.sleep(0.1)
    assert seen == [20, 40]


async def test_removing_a_stranger_is_fine() -> None:
    Ticker().remove(print)


async def test_a_listener_that_is_added_twice_is_called_once() -> None:
    ticker = Ticker()
    seen, listener = recorder()
    ticker.add(listener)
    ticker.add(listener)
    await asyncio.sleep(0.03)
    assert seen == [20]
    ticker.remove(listener)


async def test_the_clock_stops_when_nobody_listens() -> None:
    lags: list[float] = []
    ticker = Ticker(on_lag=lags.append)
    _, listener = recorder()
    ticker.add(listener)
    ticker.remove(listener)
    await asyncio.sleep(1)
    assert len(lags) <= 1


async def test_the_clock_starts_again_for_the_next_listener() -> None:
    ticker = Ticker()
    _, first = recorder()
    ticker.add(first)
    ticker.remove(first)
    await asyncio.sleep(1)
    seen, second = recorder()
    ticker.add(second)
    await asyncio.sleep(0.05)
    assert seen == [20, 40]
    ticker.remove(second)


async def test_a_listener_may_remove_itself() -> None:
    ticker = Ticker()
    seen: list[float] = []

    def once(now: float) -> None:
        seen.append(now)
        ticker.remove(once)

    ticker.add(once)
    await asyncio.sleep(0.1)
    assert len(seen) == 1


async def test_a_listener_may_add_another_for_the_next_tick() -> None:
    ticker = Ticker()
    seen, other = recorder()

    def first(now: float) -> None:
        ticker.remove(first)
        ticker.add(other)

    ticker.add(first)
    await asyncio.sleep(0.05)
    assert seen == [40]
    ticker.remove(other)


async def test_a_listener_that_another_one_removes_is_not_called_in_the_same_tick() -> None:
    ticker = Ticker()
    seen, victim = recorder()

    def first(now: float) -> None:
        ticker.remove(victim)

    ticker.add(first)
    ticker.add(victim)
    await asyncio.sleep(0.05)
    assert seen == []
    ticker.remove(first)


async def test_whoever_added_a_listener_that_fails_is_told_once_and_whatever_he_does_the_clock_goes_on() -> None:
    ticker = Ticker()
    told: list[Exception] = []
    seen, other = recorder()

    def failing(now: float) -> None:
        raise ZeroDivisionError

    def take(error: Exception) -> None:
        told.append(error)
        raise RuntimeError

    ticker.add(failing, failed=take)
    ticker.add(other)
    await asyncio.sleep(0.05)
    assert [type(one) for one in told] == [ZeroDivisionError]
    assert seen == [20, 40]
    ticker.remove(other)
