"""The VAD service: windows of all calls in, one forward pass at a time, results back."""

import asyncio
from collections.abc import Callable
from concurrent.futures import Executor

import numpy as np
import pytest

from fastagent.media.frame import PCMU_8K, AudioFormat
from fastagent.media.speech.scripted import prepared_speech
from fastagent.media.vad.engine import EnergyVad, Float32Array, VadEngine
from fastagent.media.vad.service import VadService, VadStream, VadWindow
from fastagent.media.vad.silero import SileroVad
from tests.support.audio import speech, tone, ulaw_tone
from tests.support.loop import DelayedExecutor, InlineExecutor

L16 = AudioFormat("L16", 16000)
W = 256
LOUD = ulaw_tone(0.032)
QUIET = PCMU_8K.silence(W)


class CountingVad(EnergyVad):
    """Remembers each pass; its verdict tells how many windows a call's state has seen, in hundredths."""

    def __init__(self) -> None:
        self.passes: list[int] = []
        self.fails = False

    def state_size(self, rate_hz: int) -> int:
        return 1

    def infer(self, windows: Float32Array, states: Float32Array, rate_hz: int) -> tuple[Float32Array, Float32Array]:
        self.passes.append(len(windows))
        if self.fails:
            raise RuntimeError("broken")
        fresh = states + 1
        return np.asarray(fresh[:, 0] / 100, np.float32), fresh


class World:
    """A service, and everything that its calls are told: `(milliseconds, call, end in windows, verdict)`."""

    def __init__(
        self,
        engine: VadEngine | None = None,
        *,
        executor: Executor | None = None,
        deadline_s: float = 0.1,
    ) -> None:
        self.counting = CountingVad()
        self.loop = asyncio.get_running_loop()
        self.began = self.loop.time()
        self.batches: list[tuple[int, int]] = []
        self.missed: list[tuple[int, int]] = []
        self.told: list[tuple[int, str, int, float]] = []
        self.service = VadService(
            engine or self.counting,
            executor=executor or InlineExecutor(),
            deadline_s=deadline_s,
            on_batch=lambda size: self.batches.append((self.ms, size)),
            on_deadline_missed=lambda size: self.missed.append((self.ms, size)),
        )

    @property
    def ms(self) -> int:
        return round((self.loop.time() - self.began) * 1000)

    def open(self, name: str, audio: AudioFormat = PCMU_8K) -> "Call":
        return Call(self, name, audio)

    def verdicts(self, name: str) -> list[float]:
        return [verdict for _, call, _, verdict in self.told if call == name]

    def ends(self, name: str) -> list[int]:
        return [end for _, call, end, _ in self.told if call == name]


class Call:
    """One call's stream."""

    def __init__(self, world: World, name: str, audio: AudioFormat) -> None:
        self.size = world.service.engine.window_samples(audio.rate_hz)
        self.pushed = 0

        def on_window(window: VadWindow) -> None:
            world.told.append((world.ms, name, window.end // self.size, round(window.speech, 4)))

        self.stream: VadStream = world.service.open(audio, on_window)

    def push(self, payload: bytes = LOUD, count: int = 1) -> None:
        for _ in range(count):
            self.pushed += self.size
            self.stream.push(self.pushed, payload)


# -- batches ---------------------------------------------------------------------------------------------------------


async def test_a_lone_window_waits_for_nothing() -> None:
    world = World()
    world.open("a").push()
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    assert world.told == [(0, "a", 1, 0.01)]


async def test_windows_that_come_within_the_interval_share_the_next_pass() -> None:
    world = World()
    calls = [world.open(name) for name in "abcd"]
    calls[0].push()
    for call in calls[1:]:
        await asyncio.sleep(0.005)
        call.push()
    await asyncio.sleep(0.1)
    assert world.batches == [(0, 1), (20, 3)]
    assert world.counting.passes == [1, 3]
    assert [(ms, name) for ms, name, _, _ in world.told] == [(0, "a"), (20, "b"), (20, "c"), (20, "d")]


async def test_windows_that_come_during_a_pass_share_the_next_one() -> None:
    world = World(executor=DelayedExecutor(0.03))
    a, b, c = (world.open(name) for name in "abc")
    a.push()
    await asyncio.sleep(0.01)
    b.push()
    await asyncio.sleep(0.015)
    c.push()
    await asyncio.sleep(0.1)
    assert world.batches == [(0, 1), (30, 2)]


async def test_a_call_has_one_window_in_a_pass() -> None:
    world = World()
    a, b = world.open("a"), world.open("b")
    a.push(count=3)
    b.push()
    await asyncio.sleep(0.2)
    assert [size for _, size in world.batches] == [1, 2, 1]
    assert world.ends("a") == [1, 2, 3]
    assert world.verdicts("a") == [0.01, 0.02, 0.03]
    assert world.verdicts("b") == [0.01]


async def test_a_hundred_calls_make_one_pass_every_32_ms() -> None:
    world = World()
    calls = [world.open(str(at)) for at in range(100)]
    for window in range(10):
        for call in calls:
            call.push()
            await asyncio.sleep(0.032 / 100)
        assert window < 10
    await asyncio.sleep(0.1)
    assert len(world.told) == 1000
    assert len(world.batches) <= 0.42 / 0.02
    for at in range(100):
        assert world.ends(str(at)) == list(range(1, 11))


async def test_calls_of_different_formats_are_judged_at_their_own_rates_in_the_same_pass() -> None:
    world = World()
    rates: list[tuple[int, int]] = []
    infer = world.counting.infer

    def recording(windows: Float32Array, states: Float32Array, rate_hz: int) -> tuple[Float32Array, Float32Array]:
        rates.append((rate_hz, windows.shape[1]))
        return infer(windows, states, rate_hz)

    world.counting.infer = recording  # type: ignore[method-assign]
    narrow, wide = world.open("narrow"), world.open("wide", L16)
    narrow.push()
    wide.push(L16.encode(tone(0.032, rate_hz=16000)))
    narrow.push()
    await asyncio.sleep(0.1)
    assert sorted(rates) == [(8000, 256), (8000, 256), (16000, 512)]
    assert world.ends("wide") == [1]
    assert world.ends("narrow") == [1, 2]
    assert len(world.batches) == 2


async def test_the_level_of_each_window_is_told_in_dbfs() -> None:
    levels: list[float] = []
    service = VadService(EnergyVad(), executor=InlineExecutor())
    stream = service.open(PCMU_8K, lambda window: levels.append(window.level_db))
    for payload in (bytes((0x80, 0x00)) * 128, QUIET):
        stream.push(0, payload)
        await asyncio.sleep(0.1)
    assert levels == pytest.approx([-0.17, -96.0], abs=0.01)


async def test_a_call_whose_windows_pile_up_loses_the_oldest_beyond_three_seconds() -> None:
    world = World(executor=DelayedExecutor(100.0), deadline_s=99.0)
    first, call = world.open("first"), world.open("a")
    first.push()
    call.push(count=100)
    assert call.stream.dropped == 6
    await asyncio.sleep(200)
    assert world.ends("a")[:3] == [7, 8, 9]


# -- states ----------------------------------------------------------------------------------------------------------


async def test_every_call_begins_with_a_state_of_its_own() -> None:
    world = World()
    a = world.open("a")
    a.push(count=5)
    await asyncio.sleep(0.3)
    world.open("b").push()
    a.push()
    await asyncio.sleep(0.3)
    assert world.verdicts("a")[-1] == 0.06
    assert world.verdicts("b") == [0.01]


async def test_the_row_of_a_closed_call_is_given_to_the_next_one_clean() -> None:
    world = World()
    for name in "abc":
        call = world.open(name)
        call.push(count=3)
        await asyncio.sleep(0.3)
        call.stream.close()
    assert world.verdicts("c") == [0.01, 0.02, 0.03]


async def test_states_survive_when_more_calls_come_than_there_were_rows() -> None:
    world = World()
    first = world.open("first")
    first.push(count=2)
    await asyncio.sleep(0.1)
    calls = [world.open(str(at)) for at in range(200)]
    for call in (first, *calls):
        call.push()
    await asyncio.sleep(0.1)
    assert world.verdicts("first") == [0.01, 0.02, 0.03]
    assert all(world.verdicts(str(at)) == [0.01] for at in range(200))


async def test_a_call_that_opens_during_a_pass_grows_the_rows_without_loss() -> None:
    world = World(executor=DelayedExecutor(0.03))
    calls = [world.open(str(at)) for at in range(16)]
    for call in calls:
        call.push()
    await asyncio.sleep(0.01)
    late = world.open("late")
    late.push()
    await asyncio.sleep(0.1)
    for call in calls:
        call.push()
    await asyncio.sleep(0.1)
    assert world.verdicts("late") == [0.01]
    assert all(world.verdicts(str(at)) == [0.01, 0.02] for at in range(16))


def windows_of(payload: bytes) -> list[bytes]:
    return [payload[at : at + W] for at in range(0, len(payload) // W * W, W)]


async def heard(engine: VadEngine, streams: dict[str, list[bytes]], *, step: Callable[[int, str], float]) -> World:
    """Let calls push their windows; `step` is the wait after each."""
    world = World(engine)
    calls = {name: world.open(name) for name in streams}
    for at in range(max(map(len, streams.values()))):
        for name, windows in streams.items():
            if at < len(windows):
                calls[name].push(windows[at])
                await asyncio.sleep(step(at, name))
    await asyncio.sleep(1)
    return world


async def test_two_interleaved_calls_get_the_probabilities_that_each_gets_alone(silero: SileroVad) -> None:
    loud = windows_of(speech(2.0))
    late = windows_of(PCMU_8K.silence(8 * W) + PCMU_8K.encode(prepared_speech().samples[4000:12000]))
    both = await heard(silero, {"a": loud, "b": late}, step=lambda at, name: 0.001 if name == "a" else 0.031)
    for name, windows in (("a", loud), ("b", late)):
        alone = await heard(silero, {name: windows}, step=lambda at, name: 0.032)
        assert both.verdicts(name) == pytest.approx(alone.verdicts(name), abs=1e-4)
        assert len(alone.verdicts(name)) == len(windows)
        assert max(alone.verdicts(name)) > 0.9


async def test_a_call_on_a_used_row_gets_the_probabilities_of_a_first_call(silero: SileroVad) -> None:
    windows = windows_of(speech(1.0))
    first = await heard(silero, {"a": windows}, step=lambda at, name: 0.032)
    world = World(silero)
    used = world.open("used")
    used.push(ulaw_tone(0.032), count=20)
    await asyncio.sleep(1)
    used.stream.close()
    again = world.open("again")
    for window in windows:
        again.push(window)
        await asyncio.sleep(0.032)
    assert world.verdicts("again") == first.verdicts("a")


# -- the deadline ----------------------------------------------------------------------------------------------------


async def test_a_pass_within_its_deadline_is_waited_for() -> None:
    world = World(executor=DelayedExecutor(0.099))
    world.open("a").push()
    await asyncio.sleep(1)
    assert world.told == [(99, "a", 1, 0.01)]
    assert world.missed == []


async def test_a_pass_that_misses_its_deadline_is_judged_by_level_and_counted() -> None:
    world = World(executor=DelayedExecutor(5.0))
    a, b = world.open("a"), world.open("b")
    a.push(LOUD)
    await asyncio.sleep(10)
    a.push(LOUD)
    b.push(QUIET)
    await asyncio.sleep(0.2)
    assert world.told[0] == (100, "a", 1, 1.0)
    assert world.missed[0] == (100, 1)


async def test_loud_and_quiet_windows_of_a_late_pass_are_told_apart() -> None:
    world = World(executor=DelayedExecutor(5.0))
    a, b = world.open("a"), world.open("b")
    a.push(LOUD)
    await asyncio.sleep(0.01)
    a.push(LOUD)
    b.push(QUIET)
    await asyncio.sleep(0.3)
    assert world.told == [(100, "a", 1, 1.0), (100, "a", 2, 1.0), (100, "b", 1, 0.0)]


async def test_a_window_that_was_judged_by_level_is_not_told_again_when_the_pass_returns() -> None:
    world = World(executor=DelayedExecutor(0.5))
    a = world.open("a")
    a.push(QUIET)
    await asyncio.sleep(0.6)
    a.push(QUIET)
    await asyncio.sleep(1)
    assert world.ends("a") == [1, 2]
    assert [ms for ms, _, _, _ in world.told] == [100, 700]


async def test_what_waits_behind_a_late_pass_is_judged_by_level_until_it_returns() -> None:
    world = World(executor=DelayedExecutor(1.0))
    a, b = world.open("a"), world.open("b")
    a.push()
    for _ in range(20):
        await asyncio.sleep(0.032)
        a.push()
        b.push()
    await asyncio.sleep(5)
    assert world.ends("a") == list(range(1, 22))
    assert world.ends("b") == list(range(1, 21))
    # Each waited for no more than the deadline and its repetition.
    assert all(ms - (end - 1) * 32 <= 101 for ms, name, end, _ in world.told if name == "a" and end < 20)


async def test_a_call_with_a_backlog_is_heard_on_while_a_pass_hangs() -> None:
    # Three windows at once, as after a filled gap: the first is in the second pass, the others wait behind it.
    executor = DelayedExecutor(0.001)
    world = World(executor=executor)
    world.open("first").push()
    executor.delay_s = 30.0
    a = world.open("a")
    a.push(count=3)
    for _ in range(10):
        await asyncio.sleep(0.1)
        a.push()
    await asyncio.sleep(0.2)
    assert world.ends("a") == list(range(1, 14))


async def test_when_a_late_pass_returns_the_engine_judges_again() -> None:
    executor = DelayedExecutor(0.3)
    world = World(executor=executor)
    a = world.open("a")
    a.push(QUIET)
    await asyncio.sleep(0.4)
    executor.delay_s = 0.001
    a.push(QUIET)
    await asyncio.sleep(0.4)
    assert world.verdicts("a") == [0.0, 0.02]  # the state of the late pass was kept


# -- faults ----------------------------------------------------------------------------------------------------------


async def test_an_engine_that_fails_is_replaced_by_the_level() -> None:
    world = World()
    world.counting.fails = True
    a, b = world.open("a"), world.open("b")
    a.push(LOUD)
    b.push(QUIET)
    await asyncio.sleep(0.1)
    assert (world.verdicts("a"), world.verdicts("b")) == ([1.0], [0.0])
    assert sum(size for _, size in world.missed) == 2


async def test_an_engine_that_recovers_judges_again() -> None:
    world = World()
    a = world.open("a")
    for fails in (False, True, False):
        world.counting.fails = fails
        a.push(QUIET)
        await asyncio.sleep(0.1)
    assert world.verdicts("a") == [0.01, 0.0, 0.02]


async def test_a_call_with_a_backlog_is_heard_on_after_a_failed_pass() -> None:
    world = World()
    world.open("first").push()
    a = world.open("a")
    world.counting.fails = True
    a.push(count=3)
    await asyncio.sleep(0.2)
    world.counting.fails = False
    a.push()
    await asyncio.sleep(1)
    assert world.ends("a") == [1, 2, 3, 4]


async def test_what_waits_while_a_failing_pass_runs_is_judged_by_level_too() -> None:
    world = World(executor=DelayedExecutor(0.05))
    world.counting.fails = True
    a, b = world.open("a"), world.open("b")
    a.push(LOUD)
    await asyncio.sleep(0.01)
    b.push(LOUD)
    await asyncio.sleep(0.045)
    assert world.told == [(50, "a", 1, 1.0), (50, "b", 1, 1.0)]


async def test_a_call_that_raises_keeps_no_other_from_being_heard() -> None:
    # F23: an exception in one call leaves the others untouched.
    world = World()
    world.open("first").push()

    def raises(window: VadWindow) -> None:
        raise LookupError("broken")

    asyncio.get_running_loop().set_exception_handler(lambda loop, context: None)
    broken = world.service.open(PCMU_8K, raises)
    a = world.open("a")
    broken.push(W, QUIET)
    for _ in range(3):
        broken.push(W, QUIET)
        a.push(QUIET, count=2)
        await asyncio.sleep(0.2)
    assert world.ends("a") == [1, 2, 3, 4, 5, 6]


# -- the end of a call -----------------------------------------------------------------------------------------------


async def test_a_closed_call_is_told_nothing_more() -> None:
    world = World()
    a, b = world.open("a"), world.open("b")
    b.push()
    a.push(count=3)
    a.stream.close()
    await asyncio.sleep(0.2)
    assert (world.ends("a"), world.ends("b")) == ([], [1])


async def test_a_call_may_be_closed_twice_and_gives_its_row_back_once() -> None:
    world = World()
    a = world.open("a")
    a.stream.close()
    a.stream.close()
    b, c = world.open("b"), world.open("c")
    b.push(count=2)
    await asyncio.sleep(0.1)
    c.push()
    await asyncio.sleep(0.1)
    assert (world.verdicts("b"), world.verdicts("c")) == ([0.01, 0.02], [0.01])


async def test_a_call_that_closes_during_a_pass_is_not_told_its_result() -> None:
    world = World(executor=DelayedExecutor(0.05))
    a, b = world.open("a"), world.open("b")
    b.push()
    a.push()
    await asyncio.sleep(0.06)
    a.stream.close()
    await asyncio.sleep(0.2)
    assert (world.ends("a"), world.ends("b")) == ([], [1])


async def test_the_row_of_a_call_that_closes_during_a_pass_is_not_written_by_it_later() -> None:
    world = World(executor=DelayedExecutor(0.05))
    a = world.open("a")
    a.push()
    await asyncio.sleep(0.01)
    a.stream.close()
    b = world.open("b")
    b.push()
    await asyncio.sleep(0.2)
    c = world.open("c")
    c.push()
    await asyncio.sleep(0.2)
    assert (world.verdicts("a"), world.verdicts("b"), world.verdicts("c")) == ([], [0.01], [0.01])


async def test_a_call_that_closes_while_it_waits_behind_a_late_pass_keeps_no_other_from_being_heard() -> None:
    world = World(executor=DelayedExecutor(30.0))
    a, b = world.open("a"), world.open("b")
    a.push()
    await asyncio.sleep(0.05)
    b.push()
    b.stream.close()
    await asyncio.sleep(0.1)
    a.push()
    await asyncio.sleep(0.5)
    assert world.ends("a") == [1, 2]


async def test_a_call_that_closes_with_a_window_waiting_leaves_calls_of_another_format_to_the_engine() -> None:
    world = World()
    wide, narrow = world.open("wide", L16), world.open("narrow")
    narrow.push(QUIET)
    wide.push(bytes(1024))
    narrow.push(QUIET)
    wide.stream.close()
    await asyncio.sleep(0.2)
    assert world.verdicts("narrow") == [0.01, 0.02]
    assert world.missed == []


async def test_a_call_that_another_one_closes_in_the_same_batch_is_told_nothing() -> None:
    world = World()
    victim = world.open("victim")
    closer = world.service.open(PCMU_8K, lambda window: victim.stream.close())
    world.open("first").push()
    closer.push(W, QUIET)
    victim.push()
    await asyncio.sleep(0.2)
    assert world.ends("victim") == []


async def test_windows_pushed_after_the_end_of_a_call_are_harmless() -> None:
    world = World()
    a = world.open("a")
    a.stream.close()
    a.push()
    b = world.open("b")
    b.push(count=2)
    await asyncio.sleep(0.2)
    assert (world.ends("a"), world.verdicts("b")) == ([], [0.01, 0.02])
