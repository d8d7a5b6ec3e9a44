"""`Operator`: a symmetric matrix known by its products alone."""

from typing import Protocol

import torch
from torch import Tensor


class Operator(Protocol):
    """A symmetric (D, D) matrix A: `operator(v)` is A v, (D,) float64 -> (D,) float64; `size` is D."""

    @property
    def size(self) -> int:
        """Return D."""
        ...

    def __call__(self, v: Tensor) -> Tensor:
        """Return A v; the argument is left as it is."""
        ...


def dense(operator: Operator) -> Tensor:
    """Return the (D, D) float64 matrix, from D products with unit vectors: for small D and for tests."""
    return torch.stack([operator(unit) for unit in torch.eye(operator.size, dtype=torch.float64)], 1)
