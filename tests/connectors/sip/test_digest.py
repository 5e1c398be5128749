"""Digest, both sides; the vectors are RFC 7616's own (section 3.9.1)."""

import re
from collections import Counter

import pytest

from fastagent.connectors.sip.actions import CallOffered
from fastagent.connectors.sip.digest import (
    Credentials,
    DigestClient,
    DigestServer,
    Tries,
    is_final,
    parse_digest,
    respond,
)
from fastagent.connectors.sip.message import Request, Response, parse
from tests.connectors.sip.rig import Rig, changed, invite, reply, request, tokens

STRICT = changed(users={"ann": "secret", "bob": "hidden"}, trusted=(), realm="desk")
HOST = "203.0.113.9"
STRANGER = ("203.0.113.9", 5070)


@pytest.mark.parametrize(
    ("algorithm", "expected"),
    [
        ("MD5", "8ca523f5e9506fed4657c9700eebdbec"),
        ("SHA-256", "753927fa0e85d155564e2e272a28d1802ca10daf4496794697cf8db5856cb6c1"),
    ],
)
def test_the_vectors_of_rfc_7616(algorithm: str, expected: str) -> None:
    given = {"qop": "auth", "nc": "00000001", "cnonce": "f2/wE4q74E6zIJEtWaHKaf5wv/H5QzzpXusqGemxURZJ"}
    secret = ("Mufasa", "http-auth@example.org", "Circle of Life")
    nonce = "7ypf/xlj9XXwfDPEoM4URrv/xwf94BcCAzFZH4GiTo0v"
    assert respond(algorithm, secret, "GET", "/dir/index.html", given, nonce) == expected


def test_a_header_is_read_with_quotes_where_they_do_not_belong() -> None:
    text = 'Digest username="a \\"b\\", c",realm = "x", nc="00000001", qop=auth , algorithm="MD5"'
    assert parse_digest(text) == {
        "username": 'a "b", c',
        "realm": "x",
        "nc": "00000001",
        "qop": "auth",
        "algorithm": "MD5",
    }
    assert parse_digest("Basic abc") is None
    assert parse_digest('Digest username="a') is None


class Phone:
    """A phone that knows a password."""

    def __init__(self, user: str = "ann", password: str = "secret", algorithm: str = "") -> None:
        self.client = DigestClient(Credentials(user, password), tokens("phone"))
        self.algorithm = algorithm

    def learn(self, answer: Response) -> bool:
        if self.algorithm:
            kept = [
                (name, value)
                for name, value in answer.headers
                if name != "WWW-Authenticate" or f"algorithm={self.algorithm}" in value
            ]
            answer = Response(answer.status, answer.reason, type(answer.headers)(kept))
        return self.client.take(answer, Counter())

    def proof(self, method: str = "INVITE", uri: str = "sip:desk@192.0.2.1") -> str:
        ((name, value),) = self.client.items(method, uri)
        return f"{name}: {value}"


def challenged(rig: Rig, number: int = 1) -> Response:
    (answer,) = rig.responses(invite(number=number))
    assert answer.status == 401
    return answer


def rig_of(stranger: bool = True) -> Rig:
    return Rig(STRICT, source=STRANGER if stranger else ("127.0.0.1", 5070))


def test_20_without_a_password_there_is_a_challenge_and_nothing_is_remembered() -> None:
    rig = rig_of()
    answer = challenged(rig)
    first, second = answer.headers.get_all("www-authenticate")
    assert first.startswith('Digest realm="desk", nonce="')
    assert first.endswith('algorithm=SHA-256, qop="auth"')
    assert second.endswith('algorithm=MD5, qop="auth"')
    assert (rig.ua.transactions, rig.ua.calls, rig.events) == (0, 0, [])
    assert challenged(rig).to.tag == answer.to.tag  # a repeat is answered alike, without memory
    assert rig.send(request("ACK", 1, to_tag=answer.to.tag, branch="INVITE1")) == []
    assert rig.status(request("CANCEL", 1, branch="INVITE1")) == 481


@pytest.mark.parametrize("algorithm", ["SHA-256", "MD5"])
def test_20_the_right_password(algorithm: str) -> None:
    rig, phone = rig_of(), Phone(algorithm=algorithm)
    assert phone.learn(challenged(rig))
    assert rig.status(invite(number=2, extra=phone.proof())) == 100
    assert rig.event(CallOffered).user == "ann"


def test_20_a_wrong_password_and_an_unknown_user_look_alike() -> None:
    answers = []
    for user, password in (("ann", "wrong"), ("nobody", "secret")):
        rig, phone = rig_of(), Phone(user, password)
        phone.learn(challenged(rig))
        (answer,) = rig.responses(invite(number=2, extra=phone.proof()))
        answers.append(answer)
        assert "stale" not in (answer.headers.get("www-authenticate") or "")
    assert bytes(answers[0]) == bytes(answers[1])


def test_20_a_forged_nonce_and_an_old_one_are_stale() -> None:
    rig, phone = rig_of(), Phone()
    answer = challenged(rig)
    nonce = (parse_digest(answer.headers.get("www-authenticate") or "") or {})["nonce"]
    forged = [(n, v.replace(nonce, "1-2-3")) for n, v in answer.headers]
    phone.client.take(Response(401, "", type(answer.headers)(forged)), Counter())
    (refused,) = rig.responses(invite(number=2, extra=phone.proof()))
    assert "stale=true" in (refused.headers.get("www-authenticate") or "")
    assert phone.learn(refused)
    rig.now += 60.1
    (refused,) = rig.responses(invite(number=3, extra=phone.proof()))
    assert "stale=true" in (refused.headers.get("www-authenticate") or "")
    assert phone.learn(refused)
    assert rig.status(invite(number=4, extra=phone.proof())) == 100


def test_20_a_captured_proof_is_worth_nothing() -> None:
    rig, phone = rig_of(), Phone()
    phone.learn(challenged(rig))
    proof = phone.proof()
    assert rig.status(invite(number=2, extra=proof)) == 100
    assert rig.status(invite(number=3, call_id="thief", branch="thief", extra=proof)) == 401
    assert rig.status(invite(number=2, call_id="second", branch="second", extra=phone.proof())) == 100  # nc 2


def test_20_a_proof_is_for_one_method_and_one_callee() -> None:
    for proof in (("REGISTER", "sip:desk@192.0.2.1"), ("INVITE", "sip:other@192.0.2.1")):
        rig, phone = rig_of(), Phone()
        phone.learn(challenged(rig))
        assert rig.status(invite(number=2, extra=phone.proof(*proof))) == 401


def test_without_qop_a_nonce_is_good_for_one_use() -> None:
    server = DigestServer("desk", {"ann": "secret"}, tokens())
    nonce = (parse_digest(server.challenges(HOST, 5.0)[1][1]) or {})["nonce"]
    response = respond("MD5", ("ann", "desk", "secret"), "INVITE", "sip:desk@192.0.2.1", {}, nonce)
    text = f'Digest username="ann", realm="desk", nonce="{nonce}", uri="sip:desk@192.0.2.1", response="{response}"'
    message = parse(invite(extra=f"Authorization: {text}"))
    assert isinstance(message, Request)
    assert [server.check(message, HOST, 6.0).kind, server.check(message, HOST, 7.0).kind] == ["right", "stale"]


def test_md5_can_be_left_out() -> None:
    rig = Rig(changed(STRICT, algorithms=("SHA-256",)), source=STRANGER)
    assert len(challenged(rig).headers.get_all("www-authenticate")) == 1


def test_strangers_get_403_where_there_are_no_passwords() -> None:
    assert Rig(changed(trusted=()), source=STRANGER).status(invite()) == 403
    assert Rig(source=STRANGER).status(invite()) == 403
    assert Rig(changed(trusted=(), anyone=True), source=STRANGER).status(invite()) == 100
    assert Rig(source=STRANGER).status(request("REGISTER")) == 403


def test_what_would_move_the_media_is_challenged_and_a_bye_is_not() -> None:
    rig, phone = rig_of(), Phone()
    phone.learn(challenged(rig))
    _, ok = rig.answered(invite(number=2, extra=phone.proof()), ack=None)
    rig.send(request("ACK", 2, to_tag=ok.to.tag))
    assert rig.status(invite(number=3, to_tag=ok.to.tag)) == 401
    assert rig.status(invite(number=4, to_tag=ok.to.tag, extra=phone.proof())) == 200
    assert rig.status(request("BYE", 5, to_tag=ok.to.tag)) == 200


def test_ten_wrong_passwords_close_the_door() -> None:
    rig = rig_of()
    for number in range(10):
        phone = Phone(password="guess")
        phone.learn(challenged(rig, 100 + number))
        assert rig.status(invite(number=200 + number, extra=phone.proof())) == 401
        rig.now += 1
    assert rig.status(request("OPTIONS")) is None
    assert rig.ua.dropped["banned"] == 1
    rig.now += 601
    assert rig.status(request("OPTIONS", 2)) == 200


def test_whoever_forges_an_address_shuts_no_door() -> None:
    """The wrong passwords that count have a nonce that was given to their sender."""
    rig = rig_of()
    answer = challenged(rig)
    rig.source = ("198.51.100.7", 5060)
    theirs = challenged(rig, 2)
    rig.source = STRANGER
    for number, challenge in enumerate([theirs, Response(401, "", type(answer.headers)(answer.headers))] * 10):
        phone = Phone(password="guess")
        if challenge is theirs:
            phone.learn(theirs)
        else:
            made = [(name, value.replace('nonce="', 'nonce="9')) for name, value in answer.headers]
            phone.learn(Response(401, "", type(answer.headers)(made)))
        assert rig.status(invite(number=100 + number, extra=phone.proof())) == 401
        rig.now += 0.5
    assert rig.status(request("OPTIONS")) == 200


def test_the_client_counts_and_gives_up() -> None:
    client = DigestClient(Credentials("ann", "x"), tokens())
    asked = parse(request("REGISTER"))
    assert isinstance(asked, Request)

    def challenge(extra: str) -> Response:
        message = parse(reply(asked, 401, extra=f'WWW-Authenticate: Digest realm="r", {extra}'))
        assert isinstance(message, Response)
        return message

    tries: Tries = Counter()
    assert client.items("REGISTER", "sip:x") == ()
    assert not client.take(challenge('nonce="n", algorithm=SHA-512-256, qop="auth"'), tries)
    assert not client.take(challenge('nonce="n", qop="auth-int"'), tries)
    assert client.take(challenge('nonce="n1", qop="auth,auth-int", opaque="o"'), tries)
    assert "nc=00000001" in client.items("REGISTER", "sip:x")[0][1]
    second = client.items("REGISTER", "sip:x")[0][1]
    assert "nc=00000002" in second
    assert 'opaque="o"' in second
    assert client.take(challenge('nonce="n2", qop="auth", stale=true'), tries)
    assert client.take(challenge('nonce="n3", qop="auth"'), tries)
    assert not client.take(challenge('nonce="n4", qop="auth"'), tries)
    assert is_final(challenge('nonce="n4", qop="auth"'))
    tries.clear()
    old = challenge('nonce="n5", qop="auth", stale=true')
    assert [client.take(old, tries) for _ in range(5)] == [True] * 4 + [False]
    assert not is_final(old), "of the password that says nothing"
    assert "x" not in repr(client.credentials)


def test_passwords_are_not_in_reprs() -> None:
    assert "secret" not in repr(STRICT)


def test_forgotten_nonces_are_stale_and_never_good_again() -> None:
    server = DigestServer("desk", {"ann": "secret"}, tokens())
    phone = DigestClient(Credentials("ann", "secret"), tokens("phone"))

    def challenge(now: float) -> None:
        found = parse(b"SIP/2.0 401 No\r\n\r\n")
        assert isinstance(found, Response)
        phone.take(Response(401, "", found.headers.plus(*server.challenges(HOST, now))), Counter())

    def ask() -> Request:
        ((name, value),) = phone.items("INVITE", "sip:desk@192.0.2.1")
        message = parse(invite(extra=f"{name}: {value}"))
        assert isinstance(message, Request)
        return message

    challenge(1.0)
    first = ask()
    assert server.check(first, HOST, 2.0).kind == "right"
    challenge(70.0)
    assert server.check(ask(), HOST, 70.0).kind == "right"
    assert len(server._proved) == 1  # the one of before is too old to be worth a place
    assert server.check(first, HOST, 3.0).kind == "stale"  # were time to go back, it still would not do


def test_what_is_no_digest_of_ours_proves_nothing() -> None:
    server = DigestServer("desk", {"ann": "secret"}, tokens(), algorithms=("SHA-256",))
    nonce = (parse_digest(server.challenges(HOST, 0.5)[0][1]) or {})["nonce"]
    ours = f'realm="desk", nonce="{nonce}"'
    for text, kind in [
        ('Digest realm="other", username="ann"', "none"),
        (f'Digest {ours}, username="ann", algorithm=MD5', "wrong"),
        (f'Digest {ours}, username="ann", algorithm=SHA-256, qop=auth-int', "wrong"),
        (f'Digest {ours}, username="ann", algorithm=SHA-256, uri="x", response="\u00e9"', "wrong"),
        ('Digest realm="desk", nonce="1-2-3", username="ann", algorithm=SHA-256', "stale"),
        ('Digest realm="desk', "none"),
    ]:
        message = parse(invite(extra=f"Authorization: {text}"))
        assert isinstance(message, Request)
        assert server.check(message, HOST, 1.0).kind == kind


def test_a_users_refused_call_is_refused_alike_when_it_is_repeated() -> None:
    rig, phone = Rig(changed(STRICT, max_calls=0), source=STRANGER), Phone()
    phone.learn(challenged(rig))
    data = invite(number=2, extra=phone.proof())
    assert [rig.status(data), rig.status(data)] == [503, 503]


def test_a_nonce_that_is_not_ours_tells_nobody_which_password_is_right() -> None:
    rig = rig_of()
    answers = []
    for number, password in enumerate(["guess"] * 20 + ["secret"]):
        phone = Phone(password=password)
        answer = challenged(rig, 100 + number)
        made = [(name, re.sub('nonce="[^"]*"', 'nonce="x"', value)) for name, value in answer.headers]
        phone.learn(Response(401, "", type(answer.headers)(made)))
        (refused,) = rig.responses(invite(number=200 + number, extra=phone.proof()))
        answers.append((refused.status, "stale=true" in (refused.headers.get("www-authenticate") or "")))
        rig.now += 1
    assert set(answers) == {(401, True)}
    assert rig.ua.wrong_passwords == 0
