"""The table of a call's moves."""

from fastagent.connectors.sip.call import MOVES, Did, Phase


def test_every_phase_is_reached_and_ends() -> None:
    begun = {Phase.OFFERED, Phase.CALLING}
    assert begun | set(MOVES.values()) == set(Phase)
    assert {phase for phase, did in MOVES if did is Did.END} == set(Phase) - {Phase.ENDED}
    assert not [phase for phase, _ in MOVES if phase is Phase.ENDED]


def test_their_calls_and_ours_share_only_the_talking() -> None:
    theirs, ours = {Phase.OFFERED, Phase.RINGING, Phase.ANSWERED}, {Phase.CALLING, Phase.EARLY, Phase.CANCELLING}
    for (phase, _), following in MOVES.items():
        assert not (phase in theirs and following in ours)
        assert not (phase in ours and following in theirs)
