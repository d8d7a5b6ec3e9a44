"""`--points`: which points of a bridge, as a word, a grid or coordinates."""

from re import fullmatch

import torch
from torch import Tensor

from isthmus._check import InputError, require
from isthmus.geometry.bases import Basis
from isthmus.geometry.domain import domain, inside, lattice_size
from isthmus.geometry.sampling import sample
from isthmus.scan import grid

WANTED = "be `corners`, a grid such as 5 or 3x3, random:25, or coordinates such as 0,0.5,1 (on a surface 0,0;0.5,1)"
_RANDOM = r"random:([1-9]\d*)"


def points_of(basis: Basis, text: str, *, generator: torch.Generator) -> Tensor:
    """Return the coordinates (N, d), float64, that `points` names: `corners`, a grid, `random:N`, or the coordinates themselves.

    Raises InputError for another text, another number of coordinates, and coordinates outside the bridge.
    """
    if text == "corners":
        return torch.tensor([u for u, _ in basis.corners], dtype=torch.float64).view(-1, basis.dim)
    if (drawn := fullmatch(_RANDOM, text)) is not None:
        return sample(basis, int(drawn[1]), generator=generator)
    if (counts := grid_counts(basis, text)) is not None:
        fits = len(counts) == basis.dim and all(count >= 2 for count in counts)
        require(fits, "points", f"name at least 2 points for each of {basis.dim} coordinate(s)", text)
        return grid(basis, text)
    parts = text.replace(",", ";").split(";") if basis.dim == 1 else text.split(";")
    try:
        rows = [[float(value) for value in part.split(",")] for part in parts]
    except ValueError:
        raise InputError(f"`points` should {WANTED}. Found {text!r}.") from None
    for row in rows:
        shown = ",".join(f"{value:g}" for value in row)
        require(len(row) == basis.dim, "points", f"have {basis.dim} coordinate(s) each", shown, "Part them by `;`.")
        require(inside(basis, row), "points", f"lie on the bridge, {domain(basis)}", shown)
    return torch.tensor(rows, dtype=torch.float64)


def grid_counts(basis: Basis, text: str) -> list[int] | None:
    """Return the points along each coordinate where `text` is a grid."""
    if fullmatch(r"\d+(x\d+)*", text) is None:
        return None
    counts = [int(part) for part in text.split("x")]
    return counts * basis.dim if len(counts) == 1 else counts


def count_of(basis: Basis, text: str) -> int | None:
    """Return how many points a grid or `random:N` has, without making them; None for anything else."""
    if (drawn := fullmatch(_RANDOM, text)) is not None:
        return int(drawn[1])
    counts = grid_counts(basis, text)
    return None if counts is None else lattice_size(basis, counts)
