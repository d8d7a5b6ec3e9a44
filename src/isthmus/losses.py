"""Losses per sample: `(logits (B, C), labels (B,)) -> (B,)`. Whoever needs a mean takes it, so the scale is never ambiguous."""

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional

from isthmus._check import require

Loss = Callable[[Tensor, Tensor], Tensor]

GUARD = 1e-12
"""Added to the divisor of a ratio of logit differences, as published: equal logits give no division by zero."""
NEGLIGIBLE = 1e-3
"""Of a refusal: below this loss there is no gradient, the label is refused well enough (Wei et al. 2023, their clamp)."""


def cross_entropy(logits: Tensor, labels: Tensor) -> Tensor:
    """Return -log softmax(logits)[label] for each sample, in nats, shape (B,).

    >>> cross_entropy(torch.zeros(1, 4), torch.tensor([2])).item() == torch.tensor(4.0).log().item()
    True
    """
    return functional.cross_entropy(logits, labels, reduction="none")


def margin(logits: Tensor, labels: Tensor) -> Tensor:
    """Return max over j != y of logit_j minus logit_y, shape (B,): positive exactly where the sample is misclassified.

    Carlini and Wagner 2017, the loss f6 without its clip.

    >>> margin(torch.tensor([[3.0, 1.0, 2.0]]), torch.tensor([0])).item()
    -1.0
    """
    own = logits.gather(1, labels[:, None]).squeeze(1)
    others = logits.scatter(1, labels[:, None], -torch.inf).amax(1)
    return others - own


def dlr(logits: Tensor, labels: Tensor) -> Tensor:
    """Return the difference of logits ratio, (max over j != y of z_j - z_y) / (z_(1) - z_(3)), shape (B,).

    z_(k) is the k-th largest logit. Positive exactly where the sample is misclassified, in [-1, 1] where the first two logits are the
    label's and another, and unchanged by z -> a z + b, a > 0. Raises InputError for fewer than 3 classes. Croce and Hein 2020, eq. 5.

    >>> dlr(torch.tensor([[6.0, 5.0, 2.0]]), torch.tensor([0])).item()
    -0.25
    """
    fix = "Use `cross_entropy` or `margin`."
    require(logits.shape[1] >= 3, "logits", "have 3 classes or more for `dlr`", f"{logits.shape[1]} classes", fix)
    top = logits.topk(3).values
    return margin(logits, labels) / (top[:, 0] - top[:, 2] + GUARD)


def targeted_dlr(logits: Tensor, labels: Tensor, targets: Tensor) -> Tensor:
    """Return (z_t - z_y) / (z_(1) - (z_(3) + z_(4)) / 2), shape (B,), for target classes t (B,).

    z_(k) is the k-th largest logit. Positive exactly where the target's logit is above the label's, so that the sample is misclassified,
    and unchanged by z -> a z + b, a > 0. Raises InputError for fewer than 4 classes. Croce and Hein 2020, eq. 6.

    >>> targeted_dlr(torch.tensor([[6.0, 5.0, 2.0, 2.0]]), torch.tensor([0]), torch.tensor([1])).item()
    -0.25
    """
    fix = "Use `dlr`, `cross_entropy` or `margin`."
    classes = f"{logits.shape[1]} classes"
    require(logits.shape[1] >= 4, "logits", "have 4 classes or more for `targeted_dlr`", classes, fix)
    top = logits.topk(4).values
    own, aim = logits.gather(1, torch.stack([labels, targets], 1)).unbind(1)
    return (aim - own) / (top[:, 0] - (top[:, 2] + top[:, 3]) / 2 + GUARD)


def refusal(logits: Tensor, labels: Tensor) -> Tensor:
    """Return -log(1 - softmax(logits)[label]) for each sample, in nats, (B,): small once the model no longer says `label`.

    Computed from the other logits, so that it and its gradient stay finite at probabilities near 1. Without gradient below `NEGLIGIBLE`.

    >>> round(refusal(torch.zeros(1, 2), torch.tensor([0])).exp().item(), 6)
    2.0
    """
    rest = logits.scatter(1, labels[:, None], -torch.inf).logsumexp(1)
    loss = logits.logsumexp(1) - rest
    return torch.where(loss > NEGLIGIBLE, loss, loss.detach())
