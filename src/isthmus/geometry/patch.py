"""Surfaces put together from their edges, and parts of surfaces as surfaces of their own."""

from collections.abc import Mapping, Sequence
from dataclasses import replace

import torch
from torch import Tensor

from isthmus._check import InputError, require
from isthmus.geometry.bases import Basis, Bernstein, Product
from isthmus.geometry.bridge import Bridge
from isthmus.geometry.edit import rebuilt

SIDES = ("u=0", "u=1", "v=0", "v=1")


def patch(edges: Mapping[str, Bridge]) -> Bridge:
    """Return the Bezier surface with these four edges, which stay as they are; only its inner control points are free.

    edges: by the names that :func:`isthmus.geometry.edit.edges` gives, "u=0" and "u=1" running along v, "v=0" and "v=1" along u, each a
    Bezier curve; opposite ones have one degree. The inner points start on the discrete Coons patch (Farin 2002, section 22.3)

        P_ij = (1 - i/n) P_0j + (i/n) P_nj + (1 - j/m) P_i0 + (j/m) P_im - B_ij,

    B the bilinear blend of the corners: straight edges give the bilinear patch. Raises InputError for missing or other edges, other
    bases, degrees that differ, and corners at which two edges do not meet bitwise.
    """
    require(set(edges) == set(SIDES), "edges", f"be named {', '.join(SIDES)}", ", ".join(map(str, edges)) or "none")
    first, second = _degree(edges, "v=0", "v=1"), _degree(edges, "u=0", "u=1")
    _require_closed(edges)
    basis = Product(Bernstein(first), Bernstein(second))
    wide = second + 1
    border: dict[int, Tensor] = {}
    states: dict[int, Mapping[str, Tensor]] = {}
    for name, places in _border(first, second).items():
        curve = edges[name]
        for own, place in enumerate(places):
            border[place] = curve.row(own)
            if own in curve.states:
                states[place] = curve.states[own]
    inside = [i * wide + j for i in range(1, first) for j in range(1, second)]
    start = edges["u=0"]
    free = [_coons(border, divmod(k, wide), (first, second)) for k in inside]
    kept = sorted(border)
    return replace(
        start,
        basis=basis,
        fixed=torch.stack([border[k] for k in kept]),
        free=torch.stack(free) if free else start.fixed.new_empty(0, start.layout.size),
        fixed_index=tuple(kept),
        states=states,
        names=_names(edges, kept, first, second),
    )


def part(bridge: Bridge, low: Sequence[float], high: Sequence[float]) -> Bridge:
    """Return the piece of a Bezier curve or surface between the coordinates `low` and `high`, over [0, 1] again.

    theta_part(s) = theta(low + s (high - low)) for all s: the control points are the blossoms of the old ones (Farin 2002, section 6.3),
    one matrix for each coordinate. Ends of the piece that are no corners are points of their own, free like the rest. `low` above `high`
    runs backwards. Raises InputError for another basis, another number of coordinates, and a piece without extent.
    """
    basis = bridge.basis
    factors = _factors(basis)
    for name, ends in (("low", low), ("high", high)):
        require(len(ends) == len(factors), name, f"have {len(factors)} coordinate(s), like the bridge", list(ends))
    matrix = torch.ones(1, 1, dtype=torch.float64)
    for factor, (a, b) in zip(factors, zip(low, high, strict=True), strict=True):
        require(a != b, "high", "differ from `low` along every coordinate", f"{a} and {b}")
        matrix = torch.kron(matrix, _blossoms(factor.degree, float(a), float(b)))
    return rebuilt(bridge, basis, matrix)


def _degree(edges: Mapping[str, Bridge], one: str, two: str) -> int:
    """Return the degree that two opposite edges share."""
    degrees: list[int] = []
    for name in (one, two):
        basis = edges[name].basis
        if not isinstance(basis, Bernstein):
            raise InputError(f"`edges` should be Bezier curves. Found {basis} for {name!r}.")
        degrees.append(basis.degree)
    require(
        degrees[0] == degrees[1],
        "edges",
        f"have one degree on opposite sides, as {one!r} and {two!r}",
        f"{degrees[0]} and {degrees[1]}",
        "Elevate the lower one.",
    )
    return degrees[0]


def _require_closed(edges: Mapping[str, Bridge]) -> None:
    """Raise InputError unless the edges meet at the corners, bit for bit."""
    for u, v in ((0, 0), (0, 1), (1, 0), (1, 1)):
        along, across = edges[f"u={u}"], edges[f"v={v}"]
        one, two = along.row(v * (along.basis.num_points - 1)), across.row(u * (across.basis.num_points - 1))
        same = along.layout == across.layout and torch.equal(one, two)
        require(same, "edges", f"meet at the corner ({u}, {v})", f"other weights at the ends of 'u={u}' and 'v={v}'")


def _border(first: int, second: int) -> dict[str, list[int]]:
    """Return for each edge the places of its control points in the net."""
    wide = second + 1
    return {
        "u=0": list(range(wide)),
        "u=1": [first * wide + j for j in range(wide)],
        "v=0": [i * wide for i in range(first + 1)],
        "v=1": [i * wide + second for i in range(first + 1)],
    }


def _coons(border: Mapping[int, Tensor], at: tuple[int, int], degrees: tuple[int, int]) -> Tensor:
    (i, j), (n, m) = at, degrees
    wide, s, t = m + 1, i / n, j / m
    ruled = (1 - s) * border[j] + s * border[n * wide + j] + (1 - t) * border[i * wide] + t * border[i * wide + m]
    bilinear = (1 - s) * ((1 - t) * border[0] + t * border[m]) + s * (
        (1 - t) * border[n * wide] + t * border[n * wide + m]
    )
    return ruled - bilinear


def _names(edges: Mapping[str, Bridge], kept: Sequence[int], first: int, second: int) -> tuple[str, ...]:
    """Return a name for each kept point: the model's at the corners, where the edges know it, and of the edge between them."""
    known: dict[int, str] = {}
    for name, places in _border(first, second).items():
        curve = edges[name]
        known |= {place: f"{name} point {own}" for own, place in enumerate(places) if place not in known}
        known |= {places[own]: label for own, label in zip(curve.fixed_index, curve.names, strict=False)}
    return tuple(known[k] for k in kept)


def _factors(basis: Basis) -> list[Bernstein]:
    if isinstance(basis, Product):
        return _factors(basis.first) + _factors(basis.second)
    if not isinstance(basis, Bernstein):
        raise InputError(f"`bridge` should have a Bezier basis for a part of it to have one. Found {basis}.")
    return [basis]


def _blossoms(degree: int, low: float, high: float) -> Tensor:
    """Return (degree + 1, degree + 1): row k the weights of the blossom at degree - k times `low` and k times `high`."""
    rows = torch.zeros(degree + 1, degree + 1, dtype=torch.float64)
    for k in range(degree + 1):
        weights = torch.ones(1, dtype=torch.float64)
        for t in [low] * (degree - k) + [high] * k:  # de Casteljau, one argument at a time
            none = weights.new_zeros(1)
            weights = torch.cat([(1 - t) * weights, none]) + torch.cat([none, t * weights])
        rows[k] = weights
    return rows
