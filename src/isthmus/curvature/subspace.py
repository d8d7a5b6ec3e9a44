"""`Restricted` and `Projected`: an operator seen within a subspace, or within what is orthogonal to it."""

import torch
from torch import Tensor

from isthmus._check import require
from isthmus.curvature.operator import Operator, device_of, precision_of


def orthonormal_rows(directions: Tensor, *, tolerance: float = 1e-8) -> Tensor:
    """Return orthonormal rows (r, D) in float64 with the span of `directions` (k, D); r < k where some depend on the others.

    The tangent of a bridge at u is the span of `basis.derivative(u) @ points`. Rows are scaled to length 1 first, so that no short one is
    taken for dependent; r counts the singular values above `tolerance` times the largest, in [0, 1).

    Raises InputError for anything but finite rows of which one is not zero.
    """
    require(directions.ndim == 2, "directions", "be a matrix (k, D)", f"shape {tuple(directions.shape)}")
    require(bool(directions.isfinite().all()), "directions", "be finite", "NaN or infinite entries")
    require(0 <= tolerance < 1, "tolerance", "be in [0, 1)", tolerance)
    rows = directions.double()
    largest = rows.abs().amax(1, keepdim=True)
    require(bool((largest > 0).any()), "directions", "hold a direction", f"{len(rows)} rows of zeros")
    rows = rows / largest.where(largest > 0, 1)  # squares of tiny numbers would vanish
    rows = rows / rows.norm(dim=1, keepdim=True).clamp_min(1e-300)
    _, singular, right = torch.linalg.svd(rows, full_matrices=False)
    return right[singular > tolerance * singular[0]]


class Restricted:
    """Q A Q', (k, k), for orthonormal rows Q (k, D): the curvature along a subspace, such as the tangent of a bridge.

    Its eigenvalues interlace with those of A (Cauchy): the largest is at most the largest of A.
    Raises InputError for rows that are not orthonormal.
    """

    def __init__(self, operator: Operator, rows: Tensor):
        self._operator, self.rows = operator, _required(operator, rows)

    @property
    def size(self) -> int:
        """Return k."""
        return len(self.rows)

    @property
    def precision(self) -> float:
        """Return that of the operator."""
        return precision_of(self._operator)

    @property
    def device(self) -> torch.device:
        """Return that of the operator."""
        return device_of(self._operator)

    def __call__(self, v: Tensor) -> Tensor:
        """Return Q A Q' v, (k,)."""
        require(tuple(v.shape) == (self.size,), "v", f"have shape ({self.size},)", str(tuple(v.shape)))
        return self.rows @ self._operator(v @ self.rows)


class Projected:
    """P A P, (D, D), with P = I - Q' Q: the curvature in the directions normal to a subspace; zero along the rows Q (k, D) themselves.

    Raises InputError for rows that are not orthonormal.
    """

    def __init__(self, operator: Operator, rows: Tensor):
        self._operator, self.rows = operator, _required(operator, rows)

    @property
    def size(self) -> int:
        """Return D."""
        return self._operator.size

    @property
    def precision(self) -> float:
        """Return that of the operator."""
        return precision_of(self._operator)

    @property
    def device(self) -> torch.device:
        """Return that of the operator."""
        return device_of(self._operator)

    def __call__(self, v: Tensor) -> Tensor:
        """Return P A P v, (D,)."""
        return self._normal(self._operator(self._normal(v)))

    def _normal(self, v: Tensor) -> Tensor:
        return v - (self.rows @ v) @ self.rows


def _required(operator: Operator, rows: Tensor) -> Tensor:
    shape, size = tuple(rows.shape), operator.size
    require(rows.ndim == 2 and shape[1] == size, "rows", f"be a matrix (k, {size})", f"shape {shape}")
    rows = rows.double()
    off = float((rows @ rows.T - torch.eye(len(rows), dtype=rows.dtype, device=rows.device)).abs().max())
    require(off < 1e-6, "rows", "be orthonormal", f"an inner product off by {off:.1g}", "Use `orthonormal_rows`.")
    return rows
