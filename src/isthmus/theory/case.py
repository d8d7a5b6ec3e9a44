"""`Case`: a linear classifier without bias and labelled points, checked once and held in float64."""

from dataclasses import dataclass

import torch
from torch import Tensor

from isthmus._check import require, require_finite
from isthmus.theory.norms import norm


@dataclass(frozen=True, eq=False)
class Case:
    """Scores W x of N points.

    W: (K, d). x: (N, d). y: (N,) int64. shape: that of the labels given, () or (N,).
    """

    W: Tensor
    x: Tensor
    y: Tensor
    shape: tuple[int, ...]

    @classmethod
    def of(cls, W: Tensor, x: Tensor, y: Tensor | int) -> "Case":
        """Return the case of W (K, d), points x (N, d) or (d,) and labels y (N,) or one.

        Raises InputError for fewer than two classes, sizes that do not fit, labels out of range, NaN and infinity.
        """
        labels = torch.as_tensor(y)
        shape = tuple(labels.shape)
        require(W.ndim == 2 and len(W) >= 2, "W", "have shape (K, d) with K >= 2 classes", str(tuple(W.shape)))
        fits = x.ndim == labels.ndim + 1 <= 2 and x.shape[-1] == W.shape[1] and tuple(x.shape[:-1]) == shape
        sizes = f"x {tuple(x.shape)} and y {shape}"
        require(fits, "x", f"have shape (N, {W.shape[1]}) beside (N,) labels, or one of each", sizes, "Flatten images.")
        whole = not labels.is_floating_point() and labels.dtype != torch.bool
        require(whole, "y", "hold integer labels", str(labels.dtype))
        flat = labels.reshape(-1).long()
        bad = flat[(flat < 0) | (flat >= len(W))]
        require(len(bad) == 0, "y", f"lie from 0 to {len(W) - 1}", f"{int(bad[0]) if len(bad) else ''}")
        require_finite({"W": W, "x": x}, "case")
        held = x.detach().double().reshape(-1, W.shape[1])
        return cls(W.detach().double(), held, flat.to(held.device), shape)

    @property
    def own(self) -> Tensor:
        """Return (N, K), whether the class is the label."""
        return torch.nn.functional.one_hot(self.y, len(self.W)).bool()

    def leads(self) -> Tensor:
        """Return (w_y - w_i).x for each point and class i, (N, K)."""
        scores = self.x @ self.W.T
        return scores.gather(1, self.y[:, None]) - scores

    def gaps(self, q: float) -> Tensor:
        """Return ||w_y - w_i||_q for each point and class i, (N, K)."""
        return distances(self.W, q)[self.y]


def distances(W: Tensor, q: float) -> Tensor:
    """Return ||w_k - w_l||_q for all pairs of rows, (K, K), one row at a time: never K^2 d numbers."""
    return torch.stack([norm(row - W, q) for row in W])
