"""`Ensemble`: several classifiers as one, to be measured and attacked end to end."""

from collections.abc import Sequence
from typing import Literal, get_args

import torch
from torch import Tensor, nn

from isthmus._check import require, unknown
from isthmus.evaluate import checked_forward
from isthmus.layout import placement

Kind = Literal["softmax", "logits"]


class Ensemble(nn.Module):
    """The average of M classifiers as one module: a probe or an attack sees one model, gradients reach every member.

    softmax: log of the mean of the members' probabilities, log(1/M sum_m softmax(f_m(x))), so that cross-entropy of the output is
    -log of the mean probability of the label, the loss Liu et al. 2020 attack. logits: the mean of the members' logits.

    The members are held, not copied: `.to()` and `.eval()` reach them, and later training of a member is seen.
    Raises InputError for no members, and for members on several devices or of several dtypes.

    >>> pair = Ensemble([nn.Identity(), nn.Identity()])
    >>> pair(torch.zeros(1, 4)).exp().tolist()
    [[0.25, 0.25, 0.25, 0.25]]
    """

    def __init__(self, models: Sequence[nn.Module], kind: Kind = "softmax"):
        super().__init__()
        if kind not in get_args(Kind):
            raise unknown("kind", str(kind), get_args(Kind))
        require(len(models) >= 1, "models", "hold at least one model", "none")
        places = [placement(model) for model in models if any(True for _ in (*model.parameters(), *model.buffers()))]
        for requirement, found in zip(("be on one device", "have one dtype"), zip(*places, strict=True), strict=False):
            require(len(set(found)) == 1, "models", requirement, ", ".join(map(str, found)))
        self.kind: Kind = kind
        self.models = nn.ModuleList(models)
        # As its members are: a new module is in training mode, and `.train()` here would change theirs.
        self.training = self.models.training = any(model.training for model in models)

    def forward(self, x: Tensor) -> Tensor:
        """Return the combined logits (B, C), at least in float32. Raises InputError where members differ in C."""
        scores = [checked_forward(model, x, 1) for model in self.models]
        sizes = [out.shape[1] for out in scores]
        require(len(set(sizes)) == 1, "models", "have the same number of classes", ", ".join(map(str, sizes)))
        wide = [out.to(torch.promote_types(out.dtype, torch.float32)) for out in scores]
        return combined(torch.stack(wide), self.kind)


def combined(scores: Tensor, kind: Kind = "softmax") -> Tensor:
    """Return the logits (B, C) of the ensemble from those of its M members (M, B, C): see :class:`Ensemble`.

    >>> combined(torch.tensor([[[0.0, 2.0]], [[2.0, 0.0]]]), "logits").tolist()
    [[1.0, 1.0]]
    """
    if kind not in get_args(Kind):
        raise unknown("kind", str(kind), get_args(Kind))
    require(scores.ndim == 3 and len(scores) >= 1, "scores", "be logits (M, B, C), M >= 1", tuple(scores.shape))
    if kind == "logits":
        return scores.mean(0)
    # A sum of logarithms of probabilities: no probability is formed, so none underflows.
    count = torch.tensor(float(len(scores)), dtype=scores.dtype, device=scores.device)
    return scores.log_softmax(2).logsumexp(0) - count.log()
