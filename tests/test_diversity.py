"""Diversity against loops over pairs, and what averaging must gain."""

import pytest
import torch
from torch import Tensor

from isthmus._check import InputError
from isthmus.diversity import disagreement, diversity
from isthmus.ensemble import Kind, combined


def drawn(members: int, *, scale: float = 1.0, dtype: torch.dtype = torch.float64) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(members)
    scores = scale * torch.randn(members, 40, 5, generator=generator, dtype=torch.float64)
    return scores.to(dtype), torch.randint(5, (40,), generator=generator)


@pytest.mark.parametrize("members", [2, 3, 7])
def test_the_numbers_are_those_of_loops_over_pairs(members: int) -> None:
    scores, y = drawn(members)
    logs, p = scores.log_softmax(2), scores.softmax(2)
    pairs = [(i, j) for i in range(members) for j in range(members) if i != j]
    apart = sum((scores[i].argmax(1) != scores[j].argmax(1)).double().mean() for i, j in pairs) / len(pairs)
    kl = sum((p[i] * (logs[i] - logs[j])).sum(1).mean() for i, j in pairs) / len(pairs)
    error = (scores.argmax(2) != y).double().mean()
    loss = -logs[:, torch.arange(40), y].mean()
    ensemble = -p.mean(0)[torch.arange(40), y].log().mean()
    found = diversity(scores, y)
    assert found.disagreement == pytest.approx(float(apart))
    assert found.normalised == pytest.approx(float(apart / error))
    assert found.divergence == pytest.approx(float(kl))
    assert found.ambiguity == pytest.approx(float(loss - ensemble))


@pytest.mark.parametrize("kind", ["softmax", "logits"])
@pytest.mark.parametrize("scale", [0.0, 1e-8, 1.0, 100.0])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_averaging_never_loses_to_a_member_drawn_at_random(kind: Kind, scale: float, dtype: torch.dtype) -> None:
    for members in (2, 5):
        found = diversity(*drawn(members, scale=scale, dtype=dtype), kind)
        assert found.ambiguity >= 0
        assert found.divergence >= 0


def test_mean_logits_gain_the_mean_divergence_from_the_members() -> None:
    """Heskes 1998: the gain is the mean of KL(q || p_m), q the normalised geometric mean, whatever the labels."""
    scores, y = drawn(4)
    q = combined(scores, "logits").softmax(1)
    expected = torch.stack([(q * (q.log() - one.log_softmax(1))).sum(1).mean() for one in scores]).mean()
    assert diversity(scores, y, "logits").ambiguity == pytest.approx(float(expected))
    assert diversity(scores, (y + 1) % 5, "logits").ambiguity == pytest.approx(float(expected))


def test_equal_members_do_not_differ() -> None:
    one, y = drawn(2)
    found = diversity(one[:1].repeat(3, 1, 1), y)
    assert found.disagreement == 0
    assert found.divergence == pytest.approx(0, abs=1e-12)
    assert found.ambiguity == pytest.approx(0, abs=1e-12)
    perfect = 9 * torch.nn.functional.one_hot(y, 5).double()
    assert diversity(perfect.repeat(2, 1, 1), y).normalised is None


def test_disagreement_counts_pairs() -> None:
    scores = torch.eye(3, dtype=torch.float64)[
        torch.tensor([[0, 0], [0, 1], [2, 2]])
    ]  # votes of three members on two samples
    assert disagreement(scores) == pytest.approx((2 / 3 + 1) / 2)


@pytest.mark.parametrize(
    ("scores", "labels", "message"),
    [
        (torch.zeros(4, 3), 4, r"`scores` should be logits \(M, N, C\). Found \(4, 3\)."),
        (torch.zeros(1, 4, 3), 4, "`scores` should be of at least 2 members. Found 1."),
        (torch.zeros(2, 4, 3), 5, "`scores` should be of the 5 samples. Found 4."),
    ],
)
def test_what_cannot_be_compared(scores: Tensor, labels: int, message: str) -> None:
    with pytest.raises(InputError, match=message):
        diversity(scores, torch.zeros(labels, dtype=torch.int64))
