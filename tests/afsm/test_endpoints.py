"""The circuit breaker, in its own time."""

from fastagent.afsm.endpoints import Breaker


def test_five_failures_in_half_a_minute_open_it_for_ten_seconds() -> None:
    breaker = Breaker()
    for at in range(5):
        assert breaker.allows(at)
        breaker.failed(at)
    assert breaker.open
    assert not breaker.allows(13.9)
    assert breaker.allows(14.0)  # half open
    assert not breaker.allows(14.1)  # for one request
    breaker.succeeded()
    assert breaker.allows(14.2)
    assert not breaker.open


def test_failures_that_are_far_apart_do_not_open_it() -> None:
    breaker = Breaker()
    for at in range(0, 200, 10):
        breaker.failed(at)
    assert breaker.allows(200)


def test_an_answer_forgets_the_failures_before_it() -> None:
    breaker = Breaker()
    for at in range(4):
        breaker.failed(at)
    breaker.succeeded()
    breaker.failed(5)
    assert not breaker.open
