"""The network that phones can be given: what it does, it does by the seed."""

import itertools

from hypothesis import given
from hypothesis import strategies as st

from fastagent.media.rtp.network import NONE, Impairments, Network


def arrived(does: Impairments, count: int = 1000) -> list[tuple[float, int]]:
    """Send numbers, one each 20 ms; return what arrived, and when."""
    network: Network[int] = Network(does)
    found: list[tuple[float, int]] = []
    for number in range(count):
        network.push(number, number * 0.02)
    while (at := network.next_at) is not None:
        found += [(at, number) for number in network.due(at)]
    return found


def test_a_good_network_does_nothing() -> None:
    assert not NONE.any
    assert arrived(NONE, 3) == [(0.0, 0), (0.02, 1), (0.04, 2)]


def test_each_impairment_does_what_it_says_about_as_often() -> None:
    numbers = [number for _, number in arrived(Impairments(loss=0.1))]
    assert 850 < len(numbers) < 950
    assert numbers == sorted(numbers)
    numbers = [number for _, number in arrived(Impairments(duplicate=0.2))]
    assert 1150 < len(numbers) < 1250
    numbers = [number for _, number in arrived(Impairments(reorder=0.1))]
    overtaken = sum(one > other for one, other in itertools.pairwise(numbers))
    assert 60 < overtaken < 140
    late = [at - number * 0.02 for at, number in arrived(Impairments(jitter_s=0.04, delay_s=0.1))]
    assert 0.1 <= min(late) < 0.102
    assert 0.138 < max(late) <= 0.1401


def test_jitter_alone_lets_nothing_overtake_unless_it_may() -> None:
    numbers = [number for _, number in arrived(Impairments(jitter_s=0.2))]
    assert numbers == sorted(numbers)
    numbers = [number for _, number in arrived(Impairments(jitter_s=0.2, in_order=False))]
    assert numbers != sorted(numbers)


@given(st.integers(0, 10_000))
def test_the_same_seed_does_the_same(seed: int) -> None:
    does = Impairments(0.1, 0.05, 0.1, 0.1, seed=seed)
    assert arrived(does, 50) == arrived(does, 50)
