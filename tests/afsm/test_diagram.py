"""Pictures of machines: whole, safe, and with their problems marked."""

import xml.etree.ElementTree as ET
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from fastagent.afsm.config import load
from fastagent.afsm.diagram import mermaid, svg
from fastagent.afsm.errors import Problem

SVG = "{http://www.w3.org/2000/svg}"


def machine(ways: dict[str, list[str]], **of: Any) -> dict[str, Any]:
    states = [{"name": name, "allowed_transitions": to, **of.get(name, {})} for name, to in ways.items()]
    return {"initial_state": next(iter(ways)), "states": states}


def drawn(document: dict[str, Any], problems: list[Problem] | None = None) -> ET.Element:
    return ET.fromstring(svg(load(document)[0], problems or []))


def names(picture: ET.Element) -> list[str]:
    return [group.find(f"{SVG}text").text or "" for group in picture.iter(f"{SVG}g")]  # type: ignore[union-attr]


def arrows(picture: ET.Element) -> list[ET.Element]:
    return list(picture.findall(f"{SVG}path"))


def test_every_state_has_a_box_and_every_way_an_arrow() -> None:
    picture = drawn(machine({"a": ["b", "c"], "b": ["d"], "c": ["d", "a"], "d": [], "island": []}))
    assert names(picture) == ["a", "b", "c", "d", "island"]
    assert len(arrows(picture)) == 5


def test_boxes_do_not_overlap_and_states_follow_those_that_lead_to_them() -> None:
    picture = drawn(machine({"a": ["b", "c", "d"], "b": ["d"], "c": ["d"], "d": []}))
    at = {
        name: (float(box.get("x", 0)), float(box.get("y", 0)))
        for name, group in zip(names(picture), picture.iter(f"{SVG}g"), strict=True)
        for box in group.findall(f"{SVG}rect")[:1]
    }
    assert at["a"][1] < at["b"][1] == at["c"][1] < at["d"][1]
    assert abs(at["b"][0] - at["c"][0]) >= 168


def test_names_and_texts_from_a_document_are_text_and_no_markup() -> None:
    document = machine({'<script>"&': ["b"], "b": []}, b={"description": "]]><g onload='x'>"})
    picture = drawn(document)
    assert names(picture)[0] == '<script>"&'
    assert {child.tag.removeprefix(SVG) for child in picture.iter()} <= {
        "svg", "defs", "marker", "path", "rect", "g", "text", "title",
    }  # fmt: skip


def test_problems_are_red_and_told_and_notes_are_neither() -> None:
    problems = [Problem("error", "states[1].x", "very wrong"), Problem("note", "states[0]", "by the way")]
    text = svg(load(machine({"a": ["b"], "b": []}))[0], problems)
    assert text.count("#fdd") == 1
    assert "very wrong" in text
    assert "by the way" not in text
    assert mermaid(load(machine({"a": ["b"], "b": []}))[0], problems).endswith("class s1 problem")


def test_an_ending_says_what_it_does() -> None:
    document = machine({"a": ["b"], "b": []}, b={"terminal": {"action": "transfer", "to": "+1555"}})
    assert "--> [*] : transfer" in mermaid(load(document)[0])
    assert "transfer" in [text.text for text in drawn(document).iter(f"{SVG}text")]


@given(st.lists(st.lists(st.integers(0, 11), max_size=5), min_size=1, max_size=12))
def test_any_machine_can_be_drawn(ways: list[list[int]]) -> None:
    count = len(ways)
    document = machine({f"s{at}": [f"s{to % count}" for to in targets] for at, targets in enumerate(ways)})
    picture = drawn(document)
    assert names(picture) == [f"s{at}" for at in range(count)]
    assert len(arrows(picture)) == sum(len({to % count for to in targets}) for targets in ways)
