"""The four transactions, by their tables; and the clock."""

from functools import partial

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fastagent.connectors.sip.timers import Timers
from fastagent.connectors.sip.transaction import (
    CLIENT,
    INVITE_CLIENT,
    INVITE_SERVER,
    LIMIT,
    SERVER,
    TIMERS,
    Do,
    Machine,
    On,
    State,
    Transaction,
)
from tests.connectors.sip.rig import Rig, invite, request

MACHINES = {"INVITE client": INVITE_CLIENT, "client": CLIENT, "INVITE server": INVITE_SERVER, "server": SERVER}


def run(machine: Machine, *steps: On, reliable: bool = False) -> Transaction:
    transaction = Transaction(machine, reliable=reliable)
    for on in steps:
        transaction.step(on)
    return transaction


def test_invite_client_repeats_with_doubling_and_without_a_cap() -> None:
    transaction = Transaction(INVITE_CLIENT, reliable=False)
    intervals = []
    for _ in range(6):
        intervals.append(transaction.intervals[On.A])
        assert transaction.step(On.A) == (Do.SEND,)
    assert intervals == [0.5, 1, 2, 4, 8, 16]
    assert transaction.intervals[On.B] == LIMIT
    assert transaction.step(On.PROVISIONAL) == (Do.TELL,)
    assert transaction.intervals == {}  # a 1xx stops both


def test_other_client_repeats_up_to_4_s_and_at_4_s_flat_after_a_1xx() -> None:
    transaction = Transaction(CLIENT, reliable=False)
    intervals = []
    for _ in range(5):
        intervals.append(transaction.intervals[On.E])
        transaction.step(On.E)
    assert intervals == [0.5, 1, 2, 4, 4]
    transaction = Transaction(CLIENT, reliable=False)
    transaction.step(On.PROVISIONAL)
    assert transaction.intervals == {On.E: 0.5, On.F: 32}  # both go on
    transaction.step(On.E)
    assert transaction.intervals[On.E] == 4


@pytest.mark.parametrize(
    ("machine", "steps", "reliable", "state", "intervals"),
    [
        (INVITE_CLIENT, [], False, State.CALLING, {On.A: 0.5, On.B: 32}),
        (INVITE_CLIENT, [], True, State.CALLING, {On.B: 32}),
        (INVITE_CLIENT, [On.FAILURE], False, State.COMPLETED, {On.D: 32}),
        (INVITE_CLIENT, [On.FAILURE], True, State.COMPLETED, {On.D: 0}),
        (INVITE_CLIENT, [On.SUCCESS], True, State.ACCEPTED, {On.M: 32}),
        (CLIENT, [], True, State.TRYING, {On.F: 32}),
        (CLIENT, [On.SUCCESS], False, State.COMPLETED, {On.K: 5}),
        (CLIENT, [On.SUCCESS], True, State.COMPLETED, {On.K: 0}),
        (INVITE_SERVER, [], False, State.PROCEEDING, {}),
        (INVITE_SERVER, [On.FAILURE], False, State.COMPLETED, {On.G: 0.5, On.H: 32}),
        (INVITE_SERVER, [On.FAILURE], True, State.COMPLETED, {On.H: 32}),
        (INVITE_SERVER, [On.FAILURE, On.ACK], False, State.CONFIRMED, {On.I: 5}),
        (INVITE_SERVER, [On.FAILURE, On.ACK], True, State.CONFIRMED, {On.I: 0}),
        (INVITE_SERVER, [On.SUCCESS], True, State.ACCEPTED, {On.L: 32}),
        (SERVER, [On.SUCCESS], False, State.COMPLETED, {On.J: 32}),
        (SERVER, [On.SUCCESS], True, State.COMPLETED, {On.J: 0}),
    ],
)
def test_timers_by_state(
    machine: Machine, steps: list[On], reliable: bool, state: State, intervals: dict[On, float]
) -> None:
    transaction = run(machine, *steps, reliable=reliable)
    assert (transaction.state, transaction.intervals) == (state, intervals)


@pytest.mark.parametrize("machine", MACHINES.values(), ids=MACHINES)
def test_every_state_can_be_left_and_every_timer_is_awaited(machine: Machine) -> None:
    states = {machine.start} | {move[0] for move in machine.moves.values()}
    for state in states - {State.TERMINATED}:
        assert any(source is state for source, _ in machine.moves)
    for state, timers in machine.timers.items():
        for timer in timers:
            assert (state, timer) in machine.moves
    assert not any(source is State.TERMINATED for source, _ in machine.moves)


@given(st.sampled_from(list(MACHINES.values())), st.booleans(), st.lists(st.sampled_from(On), max_size=30))
def test_any_order_of_events_stays_in_the_table(machine: Machine, reliable: bool, events: list[On]) -> None:
    transaction = Transaction(machine, reliable=reliable)
    for on in events:
        if on in TIMERS and on not in transaction.intervals:
            continue  # a timer that does not run cannot run out
        before = transaction.state
        done = transaction.step(on)
        assert (transaction.state, done) == machine.moves.get((before, on), (before, ()))
        assert set(transaction.intervals) <= set(machine.timers.get(transaction.state, ()))


def test_rfc_6026_a_second_2xx_reaches_the_core_and_a_first_refusal_after_it_does_not() -> None:
    transaction = run(INVITE_CLIENT, On.SUCCESS)
    assert transaction.step(On.SUCCESS) == (Do.TELL,)
    assert transaction.step(On.FAILURE) == ()
    assert transaction.state is State.ACCEPTED


# -- matching --------------------------------------------------------------------------------------------------------


def test_the_same_branch_from_another_sender_is_another_transaction() -> None:
    rig = Rig()
    assert rig.status(request("REGISTER", branch="x")) == 200
    assert rig.status(request("REGISTER", branch="x", via="SIP/2.0/UDP 127.0.0.1:5071", call_id="c2")) == 200
    assert rig.ua.transactions == 2


def test_without_the_cookie_call_id_tag_and_number_count() -> None:
    rig = Rig()
    old = invite().replace(b";branch=z9hG4bKINVITE1", b"")
    assert [rig.status(old), rig.status(old)] == [100, 100]
    assert rig.ua.calls == 1
    assert rig.status(old.replace(b"call-1", b"call-2")) == 100
    assert rig.ua.calls == 2
    cancel = old.split(b"\r\nContent-Type")[0].replace(b"INVITE", b"CANCEL") + b"\r\n\r\n"
    assert [one.status for one in rig.responses(cancel)] == [200, 487]


def test_a_response_to_nothing_of_ours_is_dropped() -> None:
    rig = Rig()
    stray = (
        b"SIP/2.0 200 OK\r\nVia: SIP/2.0/UDP 192.0.2.1:5060;branch=z9hG4bKx\r\nFrom: <sip:a@b>;tag=1\r\n"
        b"To: <sip:c@d>;tag=2\r\nCall-ID: 1\r\nCSeq: 1 INVITE\r\n\r\n"
    )
    assert rig.send(stray) == []
    assert rig.ua.dropped == {"stray_response": 1}


# -- timers ----------------------------------------------------------------------------------------------------------


def test_timers_run_in_order_and_are_renewed_and_stopped() -> None:
    timers = Timers()
    ran: list[tuple[str, float]] = []
    for name, at in (("a", 3.0), ("b", 1.0), ("c", 2.0), ("b", 2.5)):
        timers.start("owner", name, at, partial(lambda name, now: ran.append((name, now)), name))
    timers.stop("owner", "c")
    assert timers.next_timeout() == 2.5
    timers.run_due(10.0)
    assert ran == [("b", 10.0), ("a", 10.0)]
    assert timers.next_timeout() is None


def test_renewing_a_timer_for_ever_takes_no_memory() -> None:
    timers = Timers()
    for at in range(10_000):
        timers.start("owner", "session", float(at), print)
    assert len(timers._heap) < 100
    timers.stop("owner")
    assert timers.next_timeout() is None
