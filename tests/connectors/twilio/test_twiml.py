"""TwiML: what Twilio is told to do, as XML that parses back."""

from xml.etree import ElementTree

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fastagent.connectors.twilio import twiml

STREAM = "wss://gw.example.com/twilio/media"
STATUS = "https://gw.example.com/twilio/stream-status"


def parameters(text: str) -> dict[str, str]:
    return {
        one.attrib["name"]: one.attrib["value"]
        for one in ElementTree.fromstring(text).findall("./Connect/Stream/Parameter")
    }


def test_a_call_is_connected_to_one_bidirectional_stream_and_then_hung_up() -> None:
    text = twiml.connect(STREAM, STATUS, {"token": "f3c1"})
    assert text.startswith('<?xml version="1.0" encoding="UTF-8"?>')
    root = ElementTree.fromstring(text)
    assert root.tag == "Response"
    assert [verb.tag for verb in root] == ["Connect", "Hangup"]
    (stream,) = root.findall("./Connect/*")
    assert stream.tag == "Stream"
    assert stream.attrib == {"url": STREAM, "statusCallback": STATUS, "statusCallbackMethod": "POST"}
    assert "track" not in stream.attrib, "any track but the default one is error 31941"
    assert parameters(text) == {"token": "f3c1"}


def test_a_refused_caller_hears_busy_as_the_first_verb() -> None:
    root = ElementTree.fromstring(twiml.reject())
    assert [(verb.tag, verb.attrib) for verb in root] == [("Reject", {"reason": "busy"})]


def test_markup_in_values_is_escaped() -> None:
    values = {"a": "a & b", "b": "<Hangup/>", "c": '"/><Dial>1</Dial>', "d": "it's", "e": "línea\nzwei\t", "f": "&amp;"}
    text = twiml.connect(STREAM, STATUS, values)
    assert parameters(text) == values
    root = ElementTree.fromstring(text)
    assert [verb.tag for verb in root] == ["Connect", "Hangup"]
    assert root.find(".//Dial") is None


@pytest.mark.parametrize(("name", "value", "kept"), [(4, 495, True), (4, 496, False), (499, 0, True), (500, 0, False)])
def test_a_parameter_of_500_characters_or_more_is_left_out(name: int, value: int, kept: bool) -> None:
    given = {"token": "f3c1", "n" * name: "v" * value}
    text = twiml.connect(STREAM, STATUS, given)
    assert parameters(text) == (given if kept else {"token": "f3c1"})


_XML_TEXT = st.text(
    st.characters(exclude_categories=("Cs", "Cc"), exclude_characters="\ufffe\uffff") | st.sampled_from("\t\n\r&<>\"'"),
    max_size=520,
)


@given(st.dictionaries(_XML_TEXT, _XML_TEXT, max_size=4))
def test_whatever_the_values_the_document_parses_back_and_keeps_its_limits(given: dict[str, str]) -> None:
    text = twiml.connect(STREAM, STATUS, given)
    assert parameters(text) == {name: value for name, value in given.items() if len(name) + len(value) < 500}
    assert len(text.encode()) < 65536


@pytest.mark.parametrize(("destination", "noun"), [("+15550100", "Number"), ("sip:a@b.example.com?X-A=1&B=<", "Sip")])
def test_a_transfer_dials_and_then_hangs_up(destination: str, noun: str) -> None:
    dial, hangup = ElementTree.fromstring(twiml.dial(destination, '"><Evil/>'))
    assert (dial.tag, dial.attrib, hangup.tag) == ("Dial", {"callerId": '"><Evil/>'}, "Hangup")
    assert [(one.tag, one.text) for one in dial] == [(noun, destination)]
    assert "callerId" not in twiml.dial(destination, "")
