"""`ClassMeans`: all that the critical budget of a data set depends on."""

from dataclasses import dataclass

import torch
from torch import Tensor

from isthmus._check import require, require_finite
from isthmus.data import Samples

_CHUNK = 1 << 22  # numbers held in float64 at once


@dataclass(frozen=True, eq=False)
class ClassMeans:
    """Means of the inputs of each class, and the share of samples in each.

    means: (K, d) float64; a class without samples has zeros. shares: (K,) float64, sums to 1. n: samples behind them.
    Raises InputError for fewer than two classes, shares that are no shares, NaN and infinity.
    """

    means: Tensor
    shares: Tensor
    n: int | None = None

    def __post_init__(self) -> None:
        shape = str(tuple(self.means.shape))
        require(self.means.ndim == 2 and len(self.means) >= 2, "means", "have shape (K, d) with K >= 2 classes", shape)
        require_finite({"means": self.means, "shares": self.shares}, "class means")
        total = float(self.shares.sum())
        fits = tuple(self.shares.shape) == (len(self.means),) and bool((self.shares >= 0).all())
        found = f"shape {tuple(self.shares.shape)}, sum {total:g}"
        require(fits and abs(total - 1) < 1e-9, "shares", f"be {len(self.means)} shares that sum to 1", found)
        for name in ("means", "shares"):
            object.__setattr__(self, name, getattr(self, name).detach().double())

    @classmethod
    def of(cls, data: Samples) -> "ClassMeans":
        """Return the class means of samples as a model sees them (uint8 divided by 255), each flattened."""
        size = max(1, data.x[0].numel())
        sums = torch.zeros(data.num_classes, size, dtype=torch.float64)
        for index in torch.arange(len(data)).split(max(1, _CHUNK // size)):
            sums.index_add_(0, data.y[index].cpu(), data.inputs(index.to(data.x.device)).flatten(1).double().cpu())
        counts = torch.bincount(data.y.cpu(), minlength=data.num_classes).double()
        return cls(sums / counts.clamp_min(1)[:, None], counts / counts.sum(), len(data))

    @property
    def present(self) -> Tensor:
        """Return (K,), which classes have samples."""
        return self.shares > 0


def means_of(data: "Samples | ClassMeans") -> ClassMeans:
    """Return the class means of samples, or those given."""
    return data if isinstance(data, ClassMeans) else ClassMeans.of(data)
