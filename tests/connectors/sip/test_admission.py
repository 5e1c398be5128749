"""The door (S17)."""

import ipaddress

import pytest

from fastagent.connectors.sip.actions import CallOffered
from fastagent.connectors.sip.admission import LOOPBACK, Admission, Trust, is_scanner
from fastagent.connectors.sip.message import Response
from tests.connectors.sip.rig import Rig, changed, invite, request


def test_s17_a_source_has_30_requests_and_then_15_a_second() -> None:
    rig = Rig(changed(anyone=True), source=("203.0.113.9", 5060))
    answers = [rig.status(request("OPTIONS", 1, branch=f"b{n}")) for n in range(40)]
    assert answers == [200] * 30 + [None] * 10
    assert rig.ua.dropped["source_rate"] == 10
    rig.now += 1
    assert [rig.status(request("OPTIONS", 1, branch=f"c{n}")) for n in range(20)] == [200] * 15 + [None] * 5


def test_s17_trusted_peers_have_only_the_global_bucket() -> None:
    rig = Rig(changed(overall=50))
    answers = [rig.status(request("OPTIONS", 1, branch=f"b{n}")) for n in range(60)]
    assert answers == [200] * 50 + [None] * 10
    assert rig.ua.dropped["rate"] == 10


def test_s17_a_live_call_is_heard_in_a_flood() -> None:
    rig = Rig(changed(overall=50))
    _, ok = rig.answered(invite())
    for n in range(100):
        rig.send(request("OPTIONS", 1, branch=f"b{n}", call_id="flood"))
    assert rig.ua.dropped["rate"] > 0
    assert rig.status(request("BYE", 2, to_tag=ok.to.tag)) == 200


def test_a_source_that_is_over_its_rate_or_banned_is_heard_in_its_live_call_and_nowhere_else() -> None:
    rig = Rig(changed(users={"ann": "secret"}, trusted=(), anyone=True), source=("203.0.113.9", 5060))
    _, ok = rig.answered(invite())
    answers = [rig.status(request("OPTIONS", 1, branch=f"b{n}", call_id="other")) for n in range(40)]
    assert answers.count(None) > 8
    for _ in range(10):
        rig.ua._stack.admission.failed("203.0.113.9", rig.now)
    rig.now += 60
    assert rig.status(request("OPTIONS", 1, branch="c", call_id="other")) is None
    assert rig.ua.dropped["banned"] == 1
    assert rig.status(request("BYE", 2, to_tag=ok.to.tag)) == 200


def test_strangers_cannot_empty_the_bucket_of_the_trusted() -> None:
    rig = Rig(changed(overall=50, anyone=True, per_source=1000))
    rig.source = ("203.0.113.9", 5060)
    for n in range(100):
        rig.send(request("OPTIONS", 1, branch=f"b{n}"))
    assert rig.ua.dropped["rate"] == 50
    rig.source = ("127.0.0.1", 5070)
    assert rig.status(invite()) == 100


def test_a_proxy_on_this_machine_is_not_shut_for_all_by_one_of_its_callers() -> None:
    admission = Admission(Trust(()))
    for _ in range(100):
        admission.failed("127.0.0.1", 1.0)
        admission.failed("203.0.113.9", 1.0)
    assert [admission.barred(host, 2.0) for host in ("127.0.0.1", "203.0.113.9")] == ["", "banned"]


def test_a_source_of_ipv6_is_a_network_of_64_bits() -> None:
    admission = Admission(Trust(()))
    for n in range(10):
        admission.failed(f"2001:db8::{n}", 1.0)
    assert [admission.barred(host, 2.0) for host in ("2001:db8::ffff", "2001:db8:0:1::1")] == ["banned", ""]


def test_forged_sources_do_not_fill_the_memory() -> None:
    admission = Admission(Trust(LOOPBACK))
    for n in range(10_500):
        assert admission.barred(str(ipaddress.ip_address(0x0A000000 + n)), 1.0) == ""
    assert len(admission._sources) == 10_000


@pytest.mark.parametrize(
    ("host", "trusted"),
    [
        ("127.0.0.1", True),
        ("127.9.9.9", True),
        ("::1", True),
        ("::ffff:127.0.0.1", True),
        ("10.0.0.1", False),
        ("x", False),
    ],
)
def test_trust_is_by_address(host: str, trusted: bool) -> None:
    assert (host in Trust(LOOPBACK)) is trusted


def test_a_trunks_addresses_are_trusted_as_long_as_its_name_stands_for_them() -> None:
    rig = Rig(changed(trusted=()), source=("203.0.113.9", 5060))
    assert rig.status(invite()) == 403
    rig.ua.trust({"203.0.113.9"})
    assert rig.status(invite(branch="b2", call_id="two")) == 100
    rig.ua.trust(())
    assert rig.status(invite(branch="b3", call_id="three")) == 403


def test_scanners_get_silence() -> None:
    rig = Rig()
    assert rig.status(request("OPTIONS", extra="User-Agent: friendly-scanner")) is None
    assert rig.ua.dropped == {"scanner": 1}
    assert is_scanner("VaxSIPUserAgent/3.0")
    assert not is_scanner("baresip v4")


def test_f19_a_full_gateway_says_when_to_come_back() -> None:
    rig = Rig(changed(max_calls=1))
    rig.send(invite())
    (answer,) = rig.responses(invite(call_id="two", branch="two"))
    assert answer.status == 503
    assert 5 <= int(answer.headers.get("retry-after") or "") <= 15
    assert Rig(changed(max_calls=0, full_status=486)).status(invite()) == 486


@pytest.mark.parametrize(("full_status", "tells_when"), [(503, True), (486, False)])
def test_f19_so_is_a_call_told_for_which_its_owner_has_no_room(full_status: int, tells_when: bool) -> None:
    rig = Rig(changed(full_status=full_status))
    rig.send(invite())
    (answer,) = rig.take(rig.ua.turn_away(rig.event(CallOffered).call, rig.now))
    assert isinstance(answer, Response)
    assert (answer.status, answer.headers.get("retry-after") is not None) == (full_status, tells_when)
