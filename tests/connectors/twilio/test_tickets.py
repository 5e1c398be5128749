"""Tickets: one secret for each announced call, good once, for a minute (S4)."""

import re
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fastagent.connectors.twilio.tickets import LIFETIME_S, Announced, TicketBox


class Places:
    """Counts the places that are held."""

    def __init__(self) -> None:
        self.held = 0

    def reserve(self) -> Callable[[], None]:
        self.held += 1
        left = [self]

        def release() -> None:
            if left:
                left.pop().held -= 1

        return release


def call(places: Places, call_sid: str = "CA1") -> Announced:
    return Announced(call_sid, "front_desk", "+1", "+2", "inbound", places.reserve())


@pytest.fixture
def places() -> Places:
    return Places()


@pytest.fixture
def box() -> TicketBox:
    return TicketBox()


def test_a_ticket_is_good_once(box: TicketBox, places: Places) -> None:
    announced = call(places)
    token = box.issue(announced, 100.0)
    assert box.redeem("CA1", token, 101.0) is announced
    assert box.redeem("CA1", token, 101.0) is None
    assert places.held == 1, "the place goes with the ticket"


def test_a_ticket_is_good_for_a_minute_and_no_longer(box: TicketBox, places: Places) -> None:
    token = box.issue(call(places), 100.0)
    assert LIFETIME_S == 60.0
    assert box.pending("CA1", 159.9) == token
    assert box.pending("CA1", 160.0) is None
    assert box.redeem("CA1", token, 160.0) is None
    assert places.held == 0, "nobody came: the place is free again"


def test_an_expired_ticket_is_not_redeemed_even_if_nobody_looked_before(box: TicketBox, places: Places) -> None:
    token = box.issue(call(places), 100.0)
    assert box.redeem("CA1", token, 160.0) is None
    assert places.held == 0


@pytest.mark.parametrize("token", ["", "wrong", "\ud800", "é", "x" * 10_000])
def test_a_wrong_ticket_is_refused_and_uses_nothing_up(box: TicketBox, places: Places, token: str) -> None:
    right = box.issue(call(places), 100.0)
    assert box.redeem("CA1", token, 101.0) is None
    assert box.redeem("CA1", right[:-1], 101.0) is None
    assert box.redeem("CA1", right, 101.0) is not None


def test_a_ticket_is_bound_to_its_call(box: TicketBox, places: Places) -> None:
    one, two = box.issue(call(places, "CA1"), 100.0), box.issue(call(places, "CA2"), 100.0)
    assert box.redeem("CA1", two, 101.0) is None
    assert box.redeem("CA2", one, 101.0) is None
    assert box.redeem("CA3", one, 101.0) is None
    assert box.redeem("CA1", one, 101.0) is not None
    assert box.redeem("CA2", two, 101.0) is not None


def test_a_repeated_webhook_finds_the_same_ticket_until_it_is_used(box: TicketBox, places: Places) -> None:
    assert box.pending("CA1", 100.0) is None
    token = box.issue(call(places), 100.0)
    assert box.pending("CA1", 101.0) == box.pending("CA1", 102.0) == token
    box.redeem("CA1", token, 103.0)
    assert box.pending("CA1", 104.0) is None
    assert box.issue(call(places), 104.0) != token


def test_a_call_that_ended_before_its_stream_gives_its_place_back(box: TicketBox, places: Places) -> None:
    token = box.issue(call(places), 100.0)
    box.cancel("CA1")
    box.cancel("CA1")
    box.cancel("CA2")
    assert places.held == 0
    assert len(box) == 0
    assert box.redeem("CA1", token, 101.0) is None


def test_tickets_are_long_and_never_the_same(box: TicketBox, places: Places) -> None:
    tokens = [box.issue(call(places, f"CA{at}"), 100.0) for at in range(500)]
    assert len(set(tokens)) == 500
    assert all(len(token) >= 22 for token in tokens), "128 bits in base64"
    assert all(re.fullmatch(r"[A-Za-z0-9_-]+", token) for token in tokens)


def test_only_what_is_late_expires(box: TicketBox, places: Places) -> None:
    box.issue(call(places, "CA1"), 100.0)
    box.issue(call(places, "CA2"), 130.0)
    box.expire(170.0)
    assert len(box) == places.held == 1
    assert box.pending("CA2", 170.0) is not None


@given(
    st.lists(st.tuples(st.sampled_from(["issue", "redeem", "wrong", "cancel", "wait"]), st.integers(0, 3)), max_size=40)
)
def test_places_are_held_by_waiting_tickets_and_redeemed_calls_only(steps: list[tuple[str, int]]) -> None:
    places, box = Places(), TicketBox()
    now, tokens, redeemed = 100.0, dict[str, str](), list[Announced]()
    for step, number in steps:
        call_sid = f"CA{number}"
        if step == "issue" and box.pending(call_sid, now) is None:
            tokens[call_sid] = box.issue(call(places, call_sid), now)
        elif step == "redeem":
            found = box.redeem(call_sid, tokens.get(call_sid, ""), now)
            redeemed += [found] if found else []
        elif step == "wrong":
            assert box.redeem(call_sid, "no", now) is None
        elif step == "cancel":
            box.cancel(call_sid)
        elif step == "wait":
            now += 25.0
        box.expire(now)
        assert places.held == len(box) + len(redeemed)
    for one in redeemed:
        one.release()
    box.expire(now + LIFETIME_S)
    assert places.held == 0
