"""Whose packets are played, by passing time."""

from fastagent.connectors.rtp.source import SourceRules

PHONE, NAT, THIEF = ("192.0.2.1", 4000), ("198.51.100.7", 40001), ("203.0.113.9", 5)


def test_the_announced_address_is_heard_at_its_first_packet() -> None:
    rules = SourceRules(PHONE, 0.0)
    assert not rules.latched
    assert rules.destination == PHONE
    assert rules.admits(PHONE, 1, 0.1)
    assert rules.latched


def test_a_phone_behind_nat_is_heard_at_its_third_packet_and_answered_there() -> None:
    rules = SourceRules(PHONE, 0.0)
    assert [rules.admits(NAT, 1, 0.1 + at * 0.02) for at in range(4)] == [False, False, True, True]
    assert rules.destination == NAT
    assert rules.strangers == 2


def test_a_strangers_packets_are_counted_and_never_played_while_the_phone_is_alive() -> None:
    rules = SourceRules(PHONE, 0.0)
    for at in range(200):
        assert rules.admits(PHONE, 1, at * 0.02)
        assert not rules.admits(THIEF, 1, at * 0.02 + 0.01)
    assert rules.strangers == 200
    assert rules.destination == PHONE


def test_after_the_call_has_settled_nobody_takes_it_over() -> None:
    rules = SourceRules(PHONE, 0.0)
    assert rules.admits(PHONE, 1, 0.1)
    assert not any(rules.admits(THIEF, 2, 10 + at * 0.02) for at in range(50))
    assert rules.strangers == 50


def test_packets_of_several_sources_are_not_several_in_a_row() -> None:
    rules = SourceRules(PHONE, 0.0)
    assert not any(rules.admits(NAT, at, 0.1 + at * 0.02) for at in range(20))
    assert not any(rules.admits((f"203.0.113.{at}", 5), 1, 0.1 + at * 0.02) for at in range(20))


def test_a_change_of_the_call_lets_another_address_in() -> None:
    rules = SourceRules(PHONE, 0.0)
    assert rules.admits(PHONE, 1, 0.1)
    rules.renegotiated(NAT, 60.0)
    assert rules.destination == NAT
    assert rules.admits(NAT, 1, 60.1)
    assert not rules.admits(PHONE, 1, 60.2)


def test_a_phone_that_moves_is_followed_after_a_change_when_its_old_place_is_silent() -> None:
    rules = SourceRules(PHONE, 0.0)
    assert rules.admits(PHONE, 1, 0.1)
    rules.renegotiated(PHONE, 60.0)
    assert [rules.admits(NAT, 1, 61 + at * 0.02) for at in range(3)] == [False, False, True]


def test_the_announced_address_wins_over_whoever_was_first_and_keeps_its_place() -> None:
    rules = SourceRules(PHONE, 0.0)
    assert [rules.admits(THIEF, 9, 0.1 + at * 0.02) for at in range(3)] == [False, False, True]
    for at in range(200):
        now = 0.2 + at * 0.02
        assert rules.admits(PHONE, 1, now)
        assert rules.destination == PHONE
        assert not rules.admits(THIEF, 9, now + 0.01)
    assert rules.strangers == 202


def test_a_phone_behind_nat_that_speaks_late_is_heard() -> None:
    rules = SourceRules(PHONE, 0.0)
    assert not rules.admits(NAT, 1, 0.3)
    assert [rules.admits(NAT, 1, 60 + at * 0.02) for at in range(2)] == [False, True]
    assert rules.destination == NAT


def test_after_a_rebinding_the_same_source_is_followed_and_no_other() -> None:
    rules, rebound = SourceRules(PHONE, 0.0), (NAT[0], NAT[1] + 1)
    assert [rules.admits(NAT, 1, at * 0.02) for at in range(3)][-1]
    assert not any(rules.admits(THIEF, 2, 60 + at * 0.02) for at in range(10))
    admitted = []
    for at in range(4):  # the thief goes on, between the phone's packets
        admitted.append(rules.admits(rebound, 1, 61 + at * 0.02))
        assert not rules.admits(THIEF, 2, 61.01 + at * 0.02)
    assert admitted == [False, False, True, True]
    assert rules.destination == rebound


def test_who_knows_the_source_is_not_heard_while_the_latched_one_is_alive() -> None:
    rules = SourceRules(PHONE, 0.0)
    for at in range(100):
        assert rules.admits(PHONE, 1, 60 + at * 0.02)
        assert not rules.admits(THIEF, 1, 60.01 + at * 0.02, proven=True)


def test_who_is_proven_is_followed_whatever_the_source() -> None:
    rules = SourceRules(PHONE, 0.0)
    assert rules.admits(PHONE, 1, 0.1, proven=True)
    assert [rules.admits(NAT, 2, 60 + at * 0.02, proven=True) for at in range(3)] == [False, False, True]
