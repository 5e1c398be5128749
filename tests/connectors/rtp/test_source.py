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
    assert not any(rules.admits(THIEF, 1, 10 + at * 0.02) for at in range(50))


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
