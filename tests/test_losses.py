"""Losses per sample against NumPy by hand."""

import numpy as np
import pytest
import torch

from isthmus.losses import cross_entropy, margin

SHIFTS = [0.0, 1e4, -1e4]


@pytest.mark.parametrize("scale", [0.0, 1e-8, 1.0, 30.0, 1e8])
@pytest.mark.parametrize("shift", SHIFTS)
def test_cross_entropy_is_minus_log_softmax(scale: float, shift: float, generator: torch.Generator) -> None:
    logits = scale * torch.randn(9, 4, dtype=torch.float64, generator=generator) + shift
    labels = torch.arange(9) % 4
    z = logits.numpy() - logits.numpy().max(1, keepdims=True)
    expected = np.log(np.exp(z).sum(1)) - z[np.arange(9), labels.numpy()]
    found = cross_entropy(logits, labels)
    assert found.shape == (9,)
    np.testing.assert_allclose(found, expected, rtol=1e-11, atol=1e-11)


def test_cross_entropy_gradient_is_softmax_minus_one_hot(generator: torch.Generator) -> None:
    logits = torch.randn(5, 3, dtype=torch.float64, generator=generator, requires_grad=True)
    labels = torch.tensor([0, 1, 2, 0, 1])
    cross_entropy(logits, labels).sum().backward()
    expected = logits.detach().softmax(1) - torch.eye(3, dtype=torch.float64)[labels]
    torch.testing.assert_close(logits.grad, expected)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("scale", [1e-8, 1.0, 1e8])
def test_margin_is_the_best_other_logit_minus_the_own(
    dtype: torch.dtype, scale: float, generator: torch.Generator
) -> None:
    logits = scale * torch.randn(50, 5, dtype=dtype, generator=generator)
    labels = torch.randint(5, (50,), generator=generator)
    found = margin(logits, labels)
    expected = [
        max(v for j, v in enumerate(row) if j != y) - row[y] for row, y in zip(logits.numpy(), labels, strict=True)
    ]
    np.testing.assert_array_equal(found, np.array(expected))
    assert torch.equal(found > 0, logits.argmax(1) != labels)


def test_margin_of_equal_logits_is_zero_and_of_one_class_minus_infinity() -> None:
    assert margin(torch.zeros(2, 3), torch.tensor([0, 2])).tolist() == [0, 0]
    assert margin(torch.zeros(1, 1), torch.tensor([0])).tolist() == [-torch.inf]


def test_inputs_are_left_alone() -> None:
    logits, labels = torch.tensor([[3.0, 1.0]]), torch.tensor([0])
    margin(logits, labels)
    cross_entropy(logits, labels)
    assert logits.tolist() == [[3.0, 1.0]]
    assert labels.tolist() == [0]
