"""`scan`: a bridge x coordinates x probes -> one table."""

from collections.abc import Callable, Sequence
from copy import deepcopy
from dataclasses import dataclass
from re import fullmatch

import torch
from torch import Tensor, nn

from isthmus._check import InputError, require
from isthmus.geometry.bases import Basis
from isthmus.geometry.bridge import Bridge, Settle, settles, write
from isthmus.geometry.domain import lattice
from isthmus.probes import Probe
from isthmus.randomness import stream
from isthmus.settle import require_policy
from isthmus.table import Column, Table, with_bounds

Row = dict[str, float]


@dataclass(frozen=True)
class Watch:
    """Follows a scan: `on_row` is told each new row; rows in `done`, of an interrupted scan, are taken over."""

    on_row: Callable[[Row], None]
    done: Sequence[Row] = ()


def coordinate_names(dim: int) -> tuple[str, ...]:
    """Return the column names of a bridge's coordinates: t for a curve, u and v for a surface, u1, u2, ... beyond."""
    return {1: ("t",), 2: ("u", "v")}.get(dim, tuple(f"u{i + 1}" for i in range(dim)))


def grid(basis: Basis, size: str | int) -> Tensor:
    """Return (N, d) float64 coordinates evenly spaced over the domain, ends included: `31` for a curve, `5x5` for a surface.

    On a simplex, a triangle or a complex one number is the number of values per coordinate and only points inside are kept.
    """
    found = fullmatch(r"\d+(x\d+)*", str(size))
    require(found is not None, "grid", "be numbers of points such as 31 or 5x5", str(size))
    counts = [int(part) for part in str(size).split("x")]
    counts = counts * basis.dim if len(counts) == 1 else counts
    fits = len(counts) == basis.dim and all(count >= 2 for count in counts)
    require(fits, "grid", f"name at least 2 points for each of {basis.dim} coordinate(s)", str(size))
    return lattice(basis, counts)


def scan(
    bridge: Bridge,
    coordinates: Tensor | Sequence[float] | Sequence[Sequence[float]],
    probes: Sequence[Probe],
    *,
    settle: Settle | None,
    seed: int = 0,
    watch: Watch | None = None,
) -> Table:
    """Return one row per coordinate: its coordinates, then every probe's values, rates with their Wilson bounds.

    settle: the BatchNorm policy for points that are not a given model; an error names the choices where the module needs one and None
    is given. Corners keep their own statistics, unless the policy is for every point. Each point's randomness derives from the seed, its
    coordinates and the probe, so a scan of N points equals N scans of one; `watch` takes up an interrupted one and follows it.
    """
    require_policy(bridge.template, settle)
    names = coordinate_names(bridge.basis.dim)
    columns = [Column(name, "1", None, None, None, "coordinate on the bridge") for name in names]
    columns += [column for probe in probes for column in probe.columns]
    repeated = {c.name for c in columns if [d.name for d in columns].count(c.name) > 1}
    if repeated:
        raise InputError(f"`probes` should have columns with different names. Found {sorted(repeated)} more than once.")
    points = _points(coordinates, bridge.basis.dim)
    module = deepcopy(bridge.template)
    module.requires_grad_(False)
    known = {tuple(row[name] for name in names): row for row in (watch.done if watch else ())}
    rows: list[Row] = []

    def measured(u: tuple[float, ...], asked: Sequence[Probe]) -> Row:
        point = torch.tensor(u, dtype=torch.float64)
        write(bridge, module, point)
        subject = _settled(module, bridge, point, settle)
        row: Row = dict(zip(names, u, strict=True))
        for probe in asked:
            row |= probe(subject, generator=stream(seed, "scan", type(probe).__name__, *u))
        return row

    taken: tuple[float, ...] | None = None
    for point in points:
        u = tuple(point.tolist())
        if u in known:
            rows.append(dict(known[u]))
            taken = u
            continue
        if taken is not None and (chained := [probe for probe in probes if getattr(probe, "chained", False)]):
            measured(taken, chained)  # their memory of the point before
        taken = None
        row = measured(u, probes)
        rows.append(row)
        if watch is not None:
            watch.on_row(row)
    meta: dict[str, object] = {"seed": seed, "settle": type(settle).__name__ if settle is not None else None}
    return with_bounds(Table.of(rows, columns, meta))


def _settled(module: nn.Module, bridge: Bridge, point: Tensor, settle: Settle | None) -> nn.Module:
    """Return the module, which holds the point, with its statistics in order."""
    if settle is None or not settles(bridge, point, settle):
        return module
    # A policy that takes statistics away does so to a copy: the next point is written into the module again.
    subject = deepcopy(module) if getattr(settle, "everywhere", False) else module
    settle(subject)
    return subject


def _points(coordinates: Tensor | Sequence[float] | Sequence[Sequence[float]], dim: int) -> Tensor:
    """Return (N, dim) float64 coordinates; a flat sequence is N points of a curve, or one point of a surface."""
    points = torch.as_tensor(coordinates, dtype=torch.float64)
    points = points[:, None] if points.ndim == 1 and dim == 1 else torch.atleast_2d(points)
    require(points.ndim == 2 and points.shape[1] == dim, "coordinates", f"have shape (N, {dim})", tuple(points.shape))
    return points
