"""An agent's machine as a picture: Mermaid for documents, SVG for everything else; its problems marked in red.

The SVG is laid out in layers: a state stands below those that lead to it, as far as there are no rings, and beside its
peers where the ways cross least (the barycentre method of Sugiyama, Tagawa and Toda, 1981).
"""

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from xml.sax import saxutils

from fastagent.afsm.config import AgentConfig, StateConfig
from fastagent.afsm.errors import Problem

_WIDTH, _HEIGHT, _GAP_X, _GAP_Y, _MARGIN = 168, 44, 40, 76, 24
_LANE = 48  # of a way that passes a layer
_NOT_XML = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\ud800-\udfff\ufffe\uffff]")
_STOP = "\0"
_SWEEPS = 8


@dataclass(frozen=True, slots=True)
class _Way:
    source: str
    target: str
    label: str
    silent: bool


def mermaid(config: AgentConfig, problems: Sequence[Problem] = ()) -> str:
    """Return a `stateDiagram-v2`."""
    ids = {state.name: f"s{at}" for at, state in enumerate(config.states)}
    lines = ["stateDiagram-v2", f"    [*] --> {ids[config.initial_state]}"]
    for state in config.states:
        lines.append(f'    state "{_quoted(state.name)}" as {ids[state.name]}')
        for way in _ways(config, state):
            label = f" : {_quoted(way.label)}" if way.label else ""
            lines.append(f"    {ids[way.source]} --> {ids[way.target]}{label}")
        if state.ending is not None:
            lines.append(f"    {ids[state.name]} --> [*]{_ending(state)}")
    bad = sorted(ids[name] for name in _marked(config, problems))
    if bad:
        lines += ["    classDef problem fill:#fdd,stroke:#c00", f"    class {','.join(bad)} problem"]
    return "\n".join(lines)


def _quoted(text: str) -> str:
    return text.replace('"', "'").replace("\n", " ").replace(":", " ")[:60]


def _ending(state: StateConfig) -> str:
    ending = state.ending
    return f" : {_quoted(ending.action.replace('_', ' '))}" if ending and ending.action != "hang_up" else ""


def _ways(config: AgentConfig, state: StateConfig) -> Iterable[_Way]:
    """The ways out of a state, each once; global ones would hide all others and are left out."""
    names = {one.name for one in config.states}
    labels = {way.to: way.description or (way.when.expression or "" if way.when else "") for way in state.transitions}
    spoken = set(state.ways_out)
    for target in config.targets_of(state):
        if target in names:
            label = labels.get(target, "") or ("" if target in spoken else "silence")
            yield _Way(state.name, target, label, target not in spoken)


def _marked(config: AgentConfig, problems: Iterable[Problem]) -> dict[str, list[str]]:
    """What is wrong with which state; notes are not."""
    found: dict[str, list[str]] = {}
    for problem in problems:
        place = re.match(r"states\[(\d+)\]", problem.path)
        if place and problem.severity != "note":
            found.setdefault(config.states[int(place[1])].name, []).append(problem.message)
    return found


# -- SVG ---------------------------------------------------------------------------------------------------------------

Point = tuple[float, float]


def svg(config: AgentConfig, problems: Sequence[Problem] = ()) -> str:
    """Return a picture that needs nothing else: no scripts, no fonts, no styles from elsewhere."""
    ways = [way for state in config.states for way in _ways(config, state)]
    layers, routes = _layers(config, ways)
    at = _centres(layers)
    wide = max(x for x, _ in at.values()) + _WIDTH / 2 + _GAP_X + _MARGIN + len(layers) * 10
    high = max(y for _, y in at.values()) + _HEIGHT / 2 + _MARGIN
    marked = _marked(config, problems)
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {wide:.0f} {high:.0f}" width="{wide:.0f}" '
        f'height="{high:.0f}" font-family="sans-serif" font-size="13">',
        '<defs><marker id="tip" viewBox="0 0 8 8" refX="8" refY="4" markerWidth="7" markerHeight="7" orient="auto">'
        '<path d="M0 0 8 4 0 8z" fill="#555"/></marker></defs>',
        f'<rect width="{wide:.0f}" height="{high:.0f}" fill="#fff"/>',
        *(_arrow(way, [at[stop] for stop in routes[way]]) for way in ways),
        *(_box(state, at[state.name], marked.get(state.name, []), config.initial_state) for state in config.states),
        "</svg>",
    ]
    return "\n".join(parts)


def _escape(text: str) -> str:
    """Return a text as XML, without what XML cannot hold."""
    return saxutils.escape(_NOT_XML.sub("", text))


def _layers(config: AgentConfig, ways: Sequence[_Way]) -> tuple[list[list[str]], dict[_Way, list[str]]]:
    """States by their longest way from the initial one, and the stops of every way.

    A way over several layers has a place of its own in each, so that it passes beside the states and not behind them.
    What is never reached stands in the last layer.
    """
    order, forward = _forward(config.initial_state, ways)
    depth = {config.initial_state: 0}
    for name in order:
        for target in forward.get(name, ()):
            depth[target] = max(depth.get(target, 0), depth[name] + 1)
    last = max(depth.values()) + 1
    layers: list[list[str]] = [[] for _ in range(last + 1)]
    for state in config.states:
        layers[depth.setdefault(state.name, last)].append(state.name)
    routes: dict[_Way, list[str]] = {}
    for at, way in enumerate(ways):
        between = range(depth[way.source] + 1, depth[way.target])
        stops = [f"{_STOP}{at}.{layer}" for layer in between]
        for layer, stop in zip(between, stops, strict=True):
            layers[layer].append(stop)
        routes[way] = [way.source, *stops, way.target]
    layers = [layer for layer in layers if layer]
    neighbours: dict[str, list[str]] = {}
    for one, other in (pair for route in routes.values() for pair in pairwise(route)):
        neighbours.setdefault(one, []).append(other)
        neighbours.setdefault(other, []).append(one)
    for sweep in range(_SWEEPS):
        ordered = layers if sweep % 2 == 0 else layers[::-1]
        for before, after in pairwise(ordered):
            _uncross(before, after, neighbours)
    return layers, routes


def _forward(initial: str, ways: Sequence[_Way]) -> tuple[list[str], dict[str, list[str]]]:
    """The reached states in topological order, and their ways without those that close a ring."""
    targets: dict[str, list[str]] = {}
    for way in ways:
        targets.setdefault(way.source, []).append(way.target)
    order: list[str] = []
    forward: dict[str, list[str]] = {}
    open_, seen = {initial}, {initial}
    path = [(initial, iter(targets.get(initial, ())))]
    while path:
        name, left = path[-1]
        target = next(left, None)
        if target is None:
            path.pop()
            open_.discard(name)
            order.append(name)
        elif target not in open_:
            forward.setdefault(name, []).append(target)
            if target not in seen:
                seen.add(target)
                open_.add(target)
                path.append((target, iter(targets.get(target, ()))))
    return order[::-1], forward


def _uncross(before: list[str], layer: list[str], neighbours: Mapping[str, list[str]]) -> None:
    """Order a layer by where its neighbours of the layer before stand."""
    place = {name: at for at, name in enumerate(before)}
    ends = {name: [place[one] for one in neighbours.get(name, ()) if one in place] for name in layer}
    weights = {name: sum(found) / len(found) if found else at for at, (name, found) in enumerate(ends.items())}
    layer.sort(key=weights.__getitem__)


def _centres(layers: list[list[str]]) -> dict[str, Point]:
    """Where everything stands, layers centred."""

    def width(name: str) -> float:
        return _LANE if name.startswith(_STOP) else _WIDTH + _GAP_X

    widest = max(sum(map(width, layer)) for layer in layers)
    found: dict[str, Point] = {}
    for row, layer in enumerate(layers):
        x = _MARGIN + (widest - sum(map(width, layer))) / 2
        for name in layer:
            found[name] = (x + width(name) / 2, _MARGIN + _HEIGHT / 2 + row * (_HEIGHT + _GAP_Y))
            x += width(name)
    return found


def _arrow(way: _Way, stops: list[Point]) -> str:
    """A curve from a state to the next one: down from its foot and past its stops, else back round its side."""
    (x1, y1), (x2, y2) = stops[0], stops[-1]
    if y2 > y1:
        points = [(x1, y1 + _HEIGHT / 2), *stops[1:-1], (x2, y2 - _HEIGHT / 2)]
        path = f"M{x1:.1f} {points[0][1]:.1f}"
        for (ax, ay), (bx, by) in pairwise(points):
            half = (by - ay) / 2
            path += f"C{ax:.1f} {ay + half:.1f} {bx:.1f} {by - half:.1f} {bx:.1f} {by:.1f}"
        (ax, ay), (bx, by) = points[0], points[1]
        label = ((ax + bx) / 2, (ay + by) / 2 + 3)
    else:
        ax, ay, bx, by = x1 + _WIDTH / 2, y1 + 6, x2 + _WIDTH / 2, y2 + 8
        reach = max(ax, bx) + _GAP_X + (y1 - y2) / 12
        path = f"M{ax:.1f} {ay:.1f}C{reach:.1f} {ay:.1f} {reach:.1f} {by:.1f} {bx:.1f} {by:.1f}"
        label = ((ax + bx) / 8 + reach * 0.75, (ay + by) / 2)
    style = ' stroke-dasharray="4 4"' if way.silent else ""
    line = f'<path d="{path}" fill="none" stroke="#777"{style} marker-end="url(#tip)"/>'
    if not way.label:
        return line
    return (
        f'{line}<text x="{label[0]:.1f}" y="{label[1]:.1f}" font-size="10" fill="#444" text-anchor="middle" '
        f'stroke="#fff" stroke-width="3" paint-order="stroke">{_escape(_clipped(way.label, 26))}'
        f"<title>{_escape(way.label)}</title></text>"
    )


def _box(state: StateConfig, centre: Point, faults: list[str], initial: str) -> str:
    x, y = centre[0] - _WIDTH / 2, centre[1] - _HEIGHT / 2
    fill, stroke = ("#fdd", "#c00") if faults else ("#eef4ff", "#47a")
    width = 2.5 if state.name == initial else 1
    second = (
        f'<rect x="{x + 3}" y="{y + 3}" width="{_WIDTH - 6}" height="{_HEIGHT - 6}" rx="8" fill="none" '
        f'stroke="{stroke}"/>'
        if state.ending is not None
        else ""
    )
    about = "\n".join(text for text in (state.description, *faults) if text)
    below = state.ending.action.replace("_", " ") if state.ending and state.ending.action != "hang_up" else ""
    lift = 2 if below else -5
    note = (
        f'<text x="{x + _WIDTH / 2}" y="{y + _HEIGHT - 9}" font-size="10" fill="#555" text-anchor="middle">'
        f"{_escape(below)}</text>"
        if below
        else ""
    )
    return (
        f'<g><rect x="{x}" y="{y}" width="{_WIDTH}" height="{_HEIGHT}" rx="10" fill="{fill}" stroke="{stroke}" '
        f'stroke-width="{width}"/>{second}<text x="{x + _WIDTH / 2}" y="{y + _HEIGHT / 2 - lift}" '
        f'text-anchor="middle">{_escape(_clipped(state.name, 22))}</text>{note}<title>{_escape(about)}</title></g>'
    )


def _clipped(text: str, length: int) -> str:
    return text if len(text) <= length else f"{text[: length - 1]}…"
