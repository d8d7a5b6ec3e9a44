"""`Distance`: how far a model's weights are from given ones."""

from collections.abc import Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from isthmus._check import require
from isthmus.layout import Layout, require_same_architecture
from isthmus.table import Column


@dataclass(frozen=True, eq=False)
class Distance:
    """L2 distance of the weights to `reference`, and the same over the norm of the reference.

    reference: a module of the same architecture, copied now, or a flat (D,) vector in the order of `Layout.of(model)`.
    Columns `distance_NAME` and `relative_distance_NAME`; buffers do not count.
    """

    reference: nn.Module | Tensor
    name: str = "reference"
    _vector: Tensor = field(init=False, repr=False)

    def __post_init__(self) -> None:
        reference = self.reference
        if isinstance(reference, nn.Module):
            vector = Layout.of(reference).flatten(dict(reference.named_parameters()))
        else:
            require(reference.ndim == 1, "reference", "be a flat vector (D,) or a module", tuple(reference.shape))
            vector = reference.detach().clone()
        vector = vector.double()
        require(bool(vector.any()), "reference", "have a weight that is not zero", "zeros only")
        object.__setattr__(self, "_vector", vector)

    @property
    def columns(self) -> tuple[Column, ...]:
        """Return the distance and the relative distance column."""
        return (
            Column(f"distance_{self.name}", "1", None, None, None, f"L2 distance of the weights to {self.name}"),
            Column(
                f"relative_distance_{self.name}", "1", None, None, None, f"that distance over the norm of {self.name}"
            ),
        )

    def __call__(self, model: nn.Module, *, generator: torch.Generator | None = None) -> Mapping[str, float]:
        """Return both distances. Raises InputError where the architectures differ; draws nothing."""
        if isinstance(self.reference, nn.Module):
            require_same_architecture(self.reference, model, ("reference", "model"))
        own = Layout.of(model).flatten(dict(model.named_parameters())).double()
        require(
            own.shape == self._vector.shape, "model", f"have {len(self._vector)} weights, like `reference`", len(own)
        )
        reference = self._vector.to(own.device)
        distance = float((own - reference).square().sum().sqrt())
        relative = distance / float(reference.square().sum().sqrt())
        return {f"distance_{self.name}": distance, f"relative_distance_{self.name}": relative}
