"""`X-Twilio-Signature`: the documented vectors, and the library as the judge."""

import base64
import hashlib
import hmac
import random

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from multidict import MultiDict
from twilio.request_validator import RequestValidator

from fastagent.connectors.twilio.signature import algorithm_of, sign, verify

TOKEN = "12345"
URL = "https://example.com/myapp.php?foo=1&bar=2"
FORM = [
    ("CallSid", "CA1234567890ABCDE"),
    ("Caller", "+14158675310"),
    ("Digits", "1234"),
    ("From", "+14158675310"),
    ("To", "+18005551212"),
]
SHA1 = "L/OH5YylLD5NRKLltdqwSvS0BnU="
SHA256 = "qMztBq0IANMH/q0K9sCfKQJLylezvRdRzRS647SAVow="
SHA256_NAMED = "key=webhooks_sharedkey_1,algorithm=HMAC_SHA256"


# -- the vectors of the wire sheet -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("url", "form", "algorithm", "signature"),
    [
        (URL, FORM, "HMAC_SHA1", SHA1),
        (URL, FORM, "HMAC_SHA256", SHA256),
        ("wss://example.com/twilio/media", [], "HMAC_SHA1", "Ko8aymfVk0cCegaxVKH0ZCvSyf4="),
        ("wss://example.com/twilio/media/", [], "HMAC_SHA1", "2FSgdRajF1AcedC3OxeCdxXJk50="),
        ("https://example.com/twilio/voice", [], "HMAC_SHA1", "T9wMHK4uRyJFbHb0gdEps1O/ceE="),
        (
            "https://example.com/myapp?bodySHA256=5ccde7145dfb8f56479710896586cb9d5911809d83afbe34627818790db0aec9",
            [],
            "HMAC_SHA1",
            "hPXmLwIy3Fgqv1i9KPmH/HhQ6zo=",
        ),
    ],
)
def test_the_documented_vectors_come_out(url: str, form: list[tuple[str, str]], algorithm: str, signature: str) -> None:
    assert sign(TOKEN, url, form, algorithm) == signature
    settings = f"key=k,algorithm={algorithm}"
    assert verify(TOKEN, url, form, [signature], settings=settings)
    assert not verify("12346", url, form, [signature], settings=settings)


@pytest.mark.parametrize("at", range(len(SHA1) - 1))
def test_one_character_flipped_fails(at: int) -> None:
    other = "A" if SHA1[at] != "A" else "B"
    assert not verify(TOKEN, URL, FORM, [SHA1[:at] + other + SHA1[at + 1 :]])


def test_one_changed_value_fails() -> None:
    assert verify(TOKEN, URL, FORM, [SHA1])
    for at in range(len(FORM)):
        changed = [(name, value + "0" if at == one else value) for one, (name, value) in enumerate(FORM)]
        assert not verify(TOKEN, URL, changed, [SHA1])
    assert not verify(TOKEN, URL, FORM[1:], [SHA1])
    assert not verify(TOKEN, URL, [*FORM, ("Extra", "")], [SHA1])
    assert not verify(TOKEN, URL + "&baz=3", FORM, [SHA1])


# -- headers -----------------------------------------------------------------------------------------------------------


def test_a_request_carries_exactly_one_signature() -> None:
    assert not verify(TOKEN, URL, FORM, [])
    assert not verify(TOKEN, URL, FORM, [SHA1, SHA1])
    assert not verify(TOKEN, URL, FORM, [SHA1, "other"])
    assert not verify(TOKEN, URL, FORM, [f"{SHA1},{SHA1}"])
    assert not verify(TOKEN, URL, FORM, [""])


@pytest.mark.parametrize("signature", ["\ud800", "é" * 14, "\x00", SHA1 + "\n", " " + SHA1, SHA1.lower(), SHA1 * 1000])
def test_odd_signatures_fail_and_raise_nothing(signature: str) -> None:
    assert not verify(TOKEN, URL, FORM, [signature])


def test_sha256_counts_where_the_settings_name_it_and_nowhere_else() -> None:
    assert verify(TOKEN, URL, FORM, [SHA256], settings=SHA256_NAMED)
    assert not verify(TOKEN, URL, FORM, [SHA1], settings=SHA256_NAMED)
    assert not verify(TOKEN, URL, FORM, [SHA256])


@pytest.mark.parametrize("settings", ["key=k,algorithm=HMAC_MD5", "algorithm=none", "algorithm=HMAC_SHA512"])
def test_an_unknown_algorithm_is_refused_whatever_the_signature(settings: str) -> None:
    assert algorithm_of(settings) is None
    for signature in (SHA1, SHA256, ""):
        assert not verify(TOKEN, URL, FORM, [signature], settings=settings)


@pytest.mark.parametrize(
    ("settings", "algorithm"),
    [
        (None, "HMAC_SHA1"),
        ("", "HMAC_SHA1"),
        ("key=k", "HMAC_SHA1"),
        ("algorithm=HMAC_SHA1", "HMAC_SHA1"),
        ("algorithm=HMAC_SHA256", "HMAC_SHA256"),
        ("key=k, algorithm=HMAC_SHA256", "HMAC_SHA256"),
        ("algorithm=HMAC_SHA256,key=k", "HMAC_SHA256"),
        ("key=algorithm", "HMAC_SHA1"),
        ("key_algorithm=HMAC_SHA256", "HMAC_SHA1"),
    ],
)
def test_the_settings_header_is_read_as_the_library_reads_it(settings: str | None, algorithm: str) -> None:
    from twilio.request_validator import get_signature_algorithm

    assert algorithm_of(settings) == algorithm == get_signature_algorithm(settings)


# -- forms -------------------------------------------------------------------------------------------------------------


def test_repeated_parameters_count_once_per_value_in_order() -> None:
    signature = sign(TOKEN, URL, [("a", "1"), ("a", "2"), ("b", "3")])
    assert verify(TOKEN, URL, [("b", "3"), ("a", "2"), ("a", "1"), ("a", "2")], [signature])
    assert not verify(TOKEN, URL, [("a", "2"), ("b", "3")], [signature])


def test_names_are_sorted_by_case_and_values_are_not_trimmed() -> None:
    text = URL + "B1" + "a  x " + "b"
    digest = hmac.new(TOKEN.encode(), text.encode(), hashlib.sha1).digest()
    signature = base64.b64encode(digest).decode()
    assert verify(TOKEN, URL, [("b", ""), ("a", "  x "), ("B", "1")], [signature])
    assert not verify(TOKEN, URL, [("b", ""), ("a", "x"), ("B", "1")], [signature])


# -- ports and slashes -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("ours", "theirs", "good"),
    [
        ("https://h/p", "https://h/p", True),
        ("https://h/p", "https://h:443/p", True),
        ("https://h:443/p", "https://h/p", True),
        ("https://h:443/p", "https://h:443/p", True),
        ("https://h/p", "https://h:80/p", False),
        ("https://h/p", "https://h:8443/p", False),
        ("https://h:8443/p", "https://h:8443/p", True),
        ("https://h:8443/p", "https://h/p", True),
        ("https://h:8443/p", "https://h:443/p", False),
        ("http://h/p", "http://h:80/p", True),
        ("http://h:80/p", "http://h/p", True),
        ("http://h:8000/p", "http://h:8000/p", True),
        ("http://h:8000/p", "http://h/p", False),
        ("wss://h/p", "wss://h:443/p", True),
        ("wss://h:443/p", "wss://h/p", True),
        ("wss://h/p", "wss://h:80/p", False),
        ("wss://h:8443/p", "wss://h/p", True),
        ("ws://h/p", "ws://h:80/p", True),
        ("https://[::1]/p", "https://[::1]:443/p", True),
        ("https://[::1]:8443/p", "https://[::1]:8443/p", True),
        ("https://user:secret@h/p", "https://h/p", True),
        ("https://user:secret@h:8443/p", "https://h:8443/p", True),
        ("https://h/p#rc=2", "https://h/p", True),
        ("https://h/p?q=a%20b&c=", "https://h/p?q=a%20b&c=", True),
        ("https://h/p?q=a%20b", "https://h/p?q=a b", False),
        ("https://h/p", "https://h/p/", False),
        ("https://h/p/", "https://h/p", False),
        ("https://h/p", "http://h/p", False),
        ("https://h/p", "https://H/p", False),
    ],
)
def test_a_url_counts_with_and_without_the_port_that_it_implies(ours: str, theirs: str, good: bool) -> None:
    assert verify(TOKEN, ours, FORM, [sign(TOKEN, theirs, FORM)]) is good


@pytest.mark.parametrize("theirs", ["wss://h/p", "wss://h/p/", "wss://h:443/p", "wss://h:443/p/"])
def test_a_handshake_counts_with_a_trailing_slash_too(theirs: str) -> None:
    signature = [sign(TOKEN, theirs)]
    assert verify(TOKEN, "wss://h/p", [], signature, slash=True)
    assert verify(TOKEN, "wss://h/p", [], signature) is not theirs.endswith("/")


def test_a_handshake_signed_over_another_scheme_or_path_fails() -> None:
    for theirs in ("https://h/p", "ws://h/p", "wss://h/p//", "wss://h/", "wss://h/p?", "wss://i/p"):
        assert not verify(TOKEN, "wss://h/p", [], [sign(TOKEN, theirs)], slash=True)


# -- the library -------------------------------------------------------------------------------------------------------

_TEXT = st.text(max_size=12)
_FORMS = st.lists(st.tuples(_TEXT, _TEXT), max_size=8)
_TOKENS = st.text(min_size=1, max_size=40)


@given(_TOKENS, _FORMS, st.sampled_from(["HMAC_SHA1", "HMAC_SHA256"]), st.integers())
@example("12345", [("a", "é"), ("a", "\U0001f600"), ("A", ""), ("", "x")], "HMAC_SHA1", 0)
def test_random_forms_are_signed_as_the_library_signs_them(
    token: str, form: list[tuple[str, str]], algorithm: str, seed: int
) -> None:
    url = "https://gw.example.com/twilio/webhook?agent_id=a%20b"
    theirs = RequestValidator(token).compute_signature(url, MultiDict(form), algorithm)
    assert sign(token, url, form, algorithm) == theirs
    random.Random(seed).shuffle(form)
    assert verify(token, url, form, [theirs], settings=f"key=k,algorithm={algorithm}")


@given(
    _FORMS,
    st.sampled_from(["https://h", "https://h:443", "https://h:8443", "http://h", "http://h:80"]),
    st.sampled_from(["https://h", "https://h:443", "https://h:8443", "http://h", "http://h:80", "http://h:443"]),
    st.sampled_from(["", "/", "/a", "/a/", "/a?b=c", "/a?b=c&b=%00"]),
)
def test_a_port_is_judged_as_the_library_judges_it(
    form: list[tuple[str, str]], ours: str, theirs: str, path: str
) -> None:
    signature = sign(TOKEN, theirs + path, form)
    library = RequestValidator(TOKEN).validate(ours + path, MultiDict(form), signature)
    assert verify(TOKEN, ours + path, form, [signature]) is library
