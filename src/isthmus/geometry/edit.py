"""Bridges made from a bridge: same models, other control points."""

from dataclasses import replace

import torch
from torch import Tensor

from isthmus._check import InputError, require
from isthmus.geometry.bases import Basis, Bernstein, Chain, Product
from isthmus.geometry.bridge import Bridge
from isthmus.geometry.flat import Barycentric
from isthmus.geometry.simplexes import Complex, Triangle


def elevate(bridge: Bridge) -> Bridge:
    """Return the same curve or surface with Bezier degrees one higher: theta(u) is unchanged, there is more to train.

    Q_i = i / (d + 1) P_{i-1} + (1 - i / (d + 1)) P_i (Farin 2002, section 6.1), along every coordinate of a surface; on a triangle
    Q_ijk = i / (d + 1) P_{i-1,j,k} + j / (d + 1) P_{i,j-1,k} + k / (d + 1) P_{i,j,k-1} (chapter 17).
    """
    basis, matrix = _elevation(bridge.basis)
    return rebuilt(bridge, basis, matrix)


def _elevation(basis: Basis) -> tuple[Basis, Tensor]:
    if isinstance(basis, Product):
        (first, a), (second, b) = _elevation(basis.first), _elevation(basis.second)
        return Product(first, second), torch.kron(a, b)
    if isinstance(basis, Triangle):
        return _elevated_triangle(basis)
    if not isinstance(basis, Bernstein):
        raise InputError(
            f"`bridge` should have a Bezier basis to be elevated. Found {basis}. Use `insert` for a chain."
        )
    n = basis.num_points
    share = torch.arange(n + 1, dtype=torch.float64) / n
    matrix = torch.zeros(n + 1, n, dtype=torch.float64)
    matrix[torch.arange(1, n + 1), torch.arange(n)] = share[1:]
    matrix[torch.arange(n), torch.arange(n)] = 1 - share[:-1]
    return Bernstein(basis.degree + 1), matrix


def _elevated_triangle(basis: Triangle) -> tuple[Basis, Tensor]:
    higher = Triangle(basis.degree + 1)
    place = {pair: at for at, pair in enumerate(basis.indices)}
    matrix = torch.zeros(higher.num_points, basis.num_points, dtype=torch.float64)
    for row, (i, j) in enumerate(higher.indices):
        for pair, count in (((i - 1, j), i), ((i, j - 1), j), ((i, j), higher.degree - i - j)):
            if count > 0:
                matrix[row, place[pair]] = count / higher.degree
    return higher, matrix


def as_patch(bridge: Bridge) -> Bridge:
    """Return a Bezier triangle as a Bezier surface of the same degree along both coordinates, one edge of which is a single point:

        theta_patch(s, t) = theta(s (1 - t), s t).

    Row r of its net is the curve of degree r through the control points with i + j = r, elevated to the degree of the others; row 0 is
    the first corner, n + 1 times. Raises InputError for another basis.
    """
    basis = bridge.basis
    if not isinstance(basis, Triangle):
        raise InputError(f"`bridge` should be a Bezier triangle. Found {basis}.")
    degree, place = basis.degree, {pair: at for at, pair in enumerate(basis.indices)}
    rows: list[Tensor] = []
    for r in range(degree + 1):
        row = torch.eye(basis.num_points, dtype=torch.float64)[[place[r - j, j] for j in range(r + 1)]]
        for d in range(r, degree):
            row = (_elevation(Bernstein(d))[1] if d else torch.ones(2, 1, dtype=torch.float64)) @ row
        rows.append(row)
    return rebuilt(bridge, Product(Bernstein(degree), Bernstein(degree)), torch.cat(rows))


def insert(bridge: Bridge, t: float) -> Bridge:
    """Return the same chain with one more bend at `t`, a knot of its own: theta(u) is unchanged."""
    basis = bridge.basis
    if not isinstance(basis, Chain):
        raise InputError(
            f"`bridge` should be a chain to take another bend. Found {basis}. Use `elevate` for a Bezier curve."
        )
    inside = 0 < t < 1 and t not in basis.knots
    require(inside, "t", f"lie strictly between 0 and 1 and differ from the knots {basis.knots}", t)
    place = sum(knot < t for knot in basis.knots)
    knots = (*basis.knots[:place], t, *basis.knots[place:])
    eye = torch.eye(basis.points, dtype=torch.float64)
    new = basis(torch.tensor([t], dtype=torch.float64))[None]
    return rebuilt(bridge, Chain(basis.points + 1, knots), torch.cat([eye[:place], new, eye[place:]]))


def reverse(bridge: Bridge, axis: int = 0) -> Bridge:
    """Return the bridge run backwards along coordinate `axis`: theta_new(..., u, ...) = theta(..., 1 - u, ...)."""
    require(0 <= axis < bridge.basis.dim, "axis", f"be a coordinate of the bridge, below {bridge.basis.dim}", axis)
    basis, matrix = _reversal(bridge.basis, axis)
    return rebuilt(bridge, basis, matrix)


def _reversal(basis: Basis, axis: int) -> tuple[Basis, Tensor]:
    eye = torch.eye(basis.num_points, dtype=torch.float64)
    if isinstance(basis, Product):
        inner = axis < basis.first.dim
        part, matrix = _reversal(basis.first, axis) if inner else _reversal(basis.second, axis - basis.first.dim)
        other = torch.eye((basis.second if inner else basis.first).num_points, dtype=torch.float64)
        if inner:
            return Product(part, basis.second), torch.kron(matrix, other)
        return Product(basis.first, part), torch.kron(other, matrix)
    if isinstance(basis, Bernstein):
        return basis, eye.flip(0)
    if isinstance(basis, Chain):
        return Chain(basis.points, tuple(1 - knot for knot in reversed(basis.knots))), eye.flip(0)
    raise InputError(f"`bridge` should run along a Bezier curve or a chain to be reversed. Found {basis}.")


def edges(bridge: Bridge) -> dict[str, Bridge]:
    """Return the border curves by name, each a bridge of its own between two corners.

    A surface over (u, v) has edges "u=0", "u=1" (running along v) and "v=0", "v=1" (along u); a simplex one straight edge "i-j" for
    each pair of vertices, a complex for each pair that shares a simplex; a triangle one Bezier curve for each pair of corners.
    """
    basis = bridge.basis
    if isinstance(basis, Barycentric | Complex):
        pairs = [(i, j) for i in range(basis.num_points) for j in range(i + 1, basis.num_points)]
        given = basis.models if isinstance(basis, Complex) else 0  # no two of these share a simplex
        return {f"{i}-{j}": _selected(bridge, Bernstein(1), [i, j]) for i, j in pairs if j >= given}
    if isinstance(basis, Triangle):
        n, place = basis.degree, {pair: at for at, pair in enumerate(basis.indices)}
        sides = {
            "0-1": [place[i, 0] for i in range(n + 1)],
            "0-2": [place[0, j] for j in range(n + 1)],
            "1-2": [place[n - j, j] for j in range(n + 1)],
        }
        return {name: _selected(bridge, Bernstein(n), keep) for name, keep in sides.items()}
    if not (isinstance(basis, Product) and basis.first.dim == basis.second.dim == 1):
        raise InputError(f"`bridge` should be a surface, a simplex or a triangle to have edges. Found {basis}.")
    rows, columns = basis.first.num_points, basis.second.num_points
    return {
        "u=0": _selected(bridge, basis.second, list(range(columns))),
        "u=1": _selected(bridge, basis.second, [(rows - 1) * columns + j for j in range(columns)]),
        "v=0": _selected(bridge, basis.first, [i * columns for i in range(rows)]),
        "v=1": _selected(bridge, basis.first, [i * columns + columns - 1 for i in range(rows)]),
    }


def _selected(bridge: Bridge, basis: Basis, keep: list[int]) -> Bridge:
    matrix = torch.eye(bridge.basis.num_points, dtype=torch.float64)[keep]
    return rebuilt(bridge, basis, matrix)


def rebuilt(bridge: Bridge, basis: Basis, matrix: Tensor) -> Bridge:
    """Return the bridge over `basis` with control points matrix @ points; one-hot rows are copied bitwise and keep their role."""
    old = bridge.points
    origin = [int(row.argmax()) if row.count_nonzero() == 1 and float(row.max()) == 1.0 else None for row in matrix]
    points = torch.stack(
        [old[k] if k is not None else row.to(old) @ old for k, row in zip(origin, matrix, strict=True)]
    )
    fixed = tuple(i for i, k in enumerate(origin) if k in bridge.fixed_index)
    free = [i for i in range(len(origin)) if i not in fixed]
    states = {i: bridge.states[k] for i, k in enumerate(origin) if k is not None and k in bridge.states}
    order = dict(zip(bridge.fixed_index, bridge.names, strict=False))
    names = tuple(order[k] for i in fixed if (k := origin[i]) is not None and k in order)
    return replace(
        bridge, basis=basis, fixed=points[list(fixed)], free=points[free], fixed_index=fixed, states=states, names=names
    )
