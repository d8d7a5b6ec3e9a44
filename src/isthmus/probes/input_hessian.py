"""`InputHessian`: how sharply the loss curves in the input."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import get_args

import torch
from torch import nn

from isthmus._check import require, unknown
from isthmus.curvature.input_hessian import Effort, Method, input_eigenvalues
from isthmus.data.samples import Samples
from isthmus.table import Column, Split

UNIT = "nat/input²"
_HOW = {
    "exact": "from the Jacobian (model piecewise linear in its input)",
    "lanczos": "by Lanczos",
    "auto": "from the Jacobian where the model is piecewise linear in its input, else by Lanczos",
}


@dataclass(frozen=True, eq=False)
class InputHessian:
    """Largest eigenvalue of the Hessian of each sample's cross-entropy in its input, in nat per squared unit of the input.

    input_eigenvalue: the mean over samples; _median, _q90 (quantile 0.9) and _max beside it, as a few samples may carry the mean.
    input_cosine: mean |cosine| between a sample's gradient and its top eigenvector, over the samples that have both: near 1 the
    eigenvalue tells the robustness loss (Zhao et al. 2020, proposition). input_residual: mean ||H v - lambda v|| over
    |input_eigenvalue|, which bounds its relative error; 0 from the exact method. Columns of another split than test carry its name:
    `validation_input_eigenvalue`. A sample whose numbers are not finite makes every value NaN.
    """

    samples: Samples
    method: Method = "auto"
    batch_size: int = 100
    split: Split = "test"

    def __post_init__(self) -> None:
        if self.method not in get_args(Method):
            raise unknown("method", str(self.method), get_args(Method))
        require(self.batch_size >= 1, "batch_size", "be at least 1", self.batch_size)

    @property
    def _prefix(self) -> str:
        return "" if self.split == "test" else f"{self.split}_"

    @property
    def columns(self) -> tuple[Column, ...]:
        """Return four columns of the eigenvalue, the cosine and the residual."""
        n, what = len(self.samples), f"largest eigenvalue of the input Hessian on {self.samples.name}"
        columns = (
            Column("input_eigenvalue", UNIT, "lower", self.split, n, f"mean {what}, {_HOW[self.method]}"),
            Column("input_eigenvalue_median", UNIT, "lower", self.split, n, f"median of the {what}"),
            Column("input_eigenvalue_q90", UNIT, "lower", self.split, n, f"quantile 0.9 of the {what}"),
            Column("input_eigenvalue_max", UNIT, "lower", self.split, n, f"maximum of the {what}"),
            Column("input_cosine", "1", None, self.split, n, "mean |cosine| of input gradient and top eigenvector"),
            Column(
                "input_residual",
                "1",
                "lower",
                self.split,
                n,
                "relative residual of the mean eigenvalue; 0: exact method",
            ),
        )
        return tuple(replace(column, name=f"{self._prefix}{column.name}") for column in columns)

    def __call__(self, model: nn.Module, *, generator: torch.Generator | None = None) -> Mapping[str, float]:
        """Return the six values; draws nothing."""
        data, effort = self.samples, Effort(batch_size=self.batch_size)
        places = torch.arange(len(data), device=data.x.device).split(self.batch_size)
        found = [input_eigenvalues(model, data.inputs(i), data.y[i], method=self.method, effort=effort) for i in places]
        top = torch.cat([part.eigenvalues[:, 0] for part in found])
        residual, mean = float(torch.cat([part.residual for part in found]).mean()), float(top.mean())
        median, high = top.quantile(top.new_tensor([0.5, 0.9])).tolist()
        cosine = torch.cat([part.cosine for part in found])
        cosine = cosine.mean() if bool(top.isnan().any()) else cosine.nanmean()
        relative = residual / abs(mean) if residual and mean else residual
        values = (mean, median, high, float(top.max()), float(cosine), relative)
        return {column.name: value for column, value in zip(self.columns, values, strict=True)}
