"""How much the members of an ensemble differ, from their logits on the same samples, and what the ensemble gains by it."""

from dataclasses import dataclass

import torch
from torch import Tensor

from isthmus._check import require
from isthmus.ensemble import Kind, combined
from isthmus.evaluate import correct
from isthmus.losses import cross_entropy


@dataclass(frozen=True)
class Diversity:
    """What :func:`diversity` found: shares in [0, 1], the other numbers at least 0; `normalised` is None where no member errs."""

    disagreement: float
    normalised: float | None
    divergence: float
    ambiguity: float


def diversity(scores: Tensor, y: Tensor, kind: Kind = "softmax") -> Diversity:
    """Return the diversity of M >= 2 members from their logits (M, N, C) on samples with labels (N,).

    All means are over samples and members, in float64.

    - disagreement: share of samples on which two members name different classes, mean over pairs of members.
    - normalised: that divided by the members' mean error: a member that errs at random disagrees more, which is no merit (Fort et al.
      2019, section 4, who divide by the error of one member).
    - divergence: mean of KL(p_i || p_j) in nat over ordered pairs i != j.
    - ambiguity: mean cross-entropy of the members less that of the ensemble, in nat: what averaging gains over drawing a member. Krogh
      and Vedelsby 1995 (eq. 6) for squared errors; for probabilities Heskes 1998. Never negative: for "softmax" by Jensen's inequality,
      for "logits" because it is the mean of KL(q || p_m), q the ensemble.

    Raises InputError for fewer than 2 members, and for labels of another number.

    >>> found = diversity(torch.tensor([[[9.0, 0.0]], [[0.0, 9.0]]]), torch.tensor([0]))
    >>> found.disagreement, found.normalised
    (1.0, 2.0)
    """
    require(scores.ndim == 3, "scores", "be logits (M, N, C)", tuple(scores.shape))
    require(len(scores) >= 2, "scores", "be of at least 2 members", len(scores))
    require(scores.shape[1] == len(y), "scores", f"be of the {len(y):,} samples", scores.shape[1])
    wide = scores.double()
    error = 1 - torch.stack([correct(one, y) for one in wide]).double().mean().item()
    apart = disagreement(wide)
    losses = torch.stack([cross_entropy(one, y) for one in wide])
    gain = losses.mean().item() - cross_entropy(combined(wide, kind), y).mean().item()
    return Diversity(
        disagreement=apart,
        normalised=apart / error if error > 0 else None,
        divergence=_divergence(wide.log_softmax(2)),
        # Rounding alone leads below 0; NaN stays NaN.
        ambiguity=0.0 if -1e-9 < gain < 0 else gain,
    )


def disagreement(scores: Tensor) -> float:
    """Return the share of samples on which two members name different classes, mean over pairs; logits (M, N, C), M >= 2.

    1 - sum_c n_c (n_c - 1) / (M (M - 1)), n_c the members that name class c: no pair is formed.
    """
    votes = torch.nn.functional.one_hot(scores.argmax(2), scores.shape[2]).sum(0).double()
    pairs = len(scores) * (len(scores) - 1)
    return 1 - ((votes * (votes - 1)).sum(1) / pairs).mean().item()


def _divergence(logs: Tensor) -> float:
    """Return the mean KL (nat) over ordered pairs from log-probabilities (M, N, C); the M terms of a member with itself are 0."""
    count, p = len(logs), logs.exp()
    own = count * (p * logs).sum((0, 2))
    cross = (p.sum(0) * logs.sum(0)).sum(1)
    return max(0.0, ((own - cross) / (count * (count - 1))).mean().item())
