"""Losses per sample against NumPy by hand."""

import numpy as np
import pytest
import torch
from torch import Tensor

from isthmus._check import InputError
from isthmus.losses import cross_entropy, dlr, margin, targeted_dlr

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


def ratio(row: np.ndarray, y: int, target: int | None) -> float:
    """The ratio of one sample by sorting, with a target or without."""
    ordered = sorted(row, reverse=True)
    if target is not None:
        return (row[target] - row[y]) / (ordered[0] - (ordered[2] + ordered[3]) / 2)
    return (max(v for j, v in enumerate(row) if j != y) - row[y]) / (ordered[0] - ordered[2])


def case(
    classes: int, dtype: torch.dtype, generator: torch.Generator, scale: float = 1.0
) -> tuple[Tensor, Tensor, Tensor]:
    """Return logits, labels and targets other than the labels, 60 of each."""
    logits = scale * torch.randn(60, classes, dtype=dtype, generator=generator)
    labels = torch.randint(classes, (60,), generator=generator)
    shift = torch.randint(1, classes, (60,), generator=generator)
    return logits, labels, (labels + shift) % classes


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("scale", [1e-3, 1.0, 1e8])
@pytest.mark.parametrize("classes", [3, 4, 5, 30])
def test_dlr_is_the_margin_over_the_distance_from_first_to_third(
    classes: int, dtype: torch.dtype, scale: float, generator: torch.Generator
) -> None:
    logits, labels, targets = case(classes, dtype, generator, scale)
    rows = logits.double().numpy()
    tolerance = {"rtol": 1e-4, "atol": 1e-5} if dtype == torch.float32 else {"rtol": 1e-7, "atol": 1e-9}
    found = dlr(logits, labels)
    assert found.dtype == dtype
    expected = [ratio(row, int(y), None) for row, y in zip(rows, labels, strict=True)]
    np.testing.assert_allclose(found, expected, **tolerance)
    assert torch.equal(found > 0, logits.argmax(1) != labels)
    if classes >= 4:
        found = targeted_dlr(logits, labels, targets)
        assert found.dtype == dtype
        expected = [ratio(row, int(y), int(t)) for row, y, t in zip(rows, labels, targets, strict=True)]
        np.testing.assert_allclose(found, expected, **tolerance)
        above = logits.gather(1, targets[:, None]) > logits.gather(1, labels[:, None])
        assert torch.equal(found > 0, above[:, 0])
        assert (logits.argmax(1) != labels)[found > 0].all()


@pytest.mark.parametrize(("scale", "shift"), [(1e-3, 0.0), (1e4, 0.0), (1.0, 1e4), (1.0, -1e4), (7.0, 3.0)])
def test_dlr_knows_neither_shift_nor_positive_scale(scale: float, shift: float, generator: torch.Generator) -> None:
    logits, labels, targets = case(6, torch.float64, generator)
    moved = scale * logits + shift
    torch.testing.assert_close(dlr(moved, labels), dlr(logits, labels), rtol=1e-7, atol=1e-9)
    torch.testing.assert_close(
        targeted_dlr(moved, labels, targets), targeted_dlr(logits, labels, targets), rtol=1e-7, atol=1e-9
    )
    negative = dlr(-logits, labels)
    assert not torch.allclose(negative, dlr(logits, labels))


def test_gradients_of_dlr_are_those_of_finite_differences(generator: torch.Generator) -> None:
    logits, labels, targets = case(5, torch.float64, generator)
    logits = logits[:6].requires_grad_()
    assert torch.autograd.gradcheck(lambda z: dlr(z, labels[:6]), logits)
    assert torch.autograd.gradcheck(lambda z: targeted_dlr(z, labels[:6], targets[:6]), logits)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_dlr_of_equal_logits_is_zero_with_a_finite_gradient(dtype: torch.dtype) -> None:
    logits = torch.zeros(2, 4, dtype=dtype, requires_grad=True)
    labels = torch.tensor([0, 3])
    for found in (dlr(logits, labels), targeted_dlr(logits, labels, (labels + 1) % 4)):
        assert found.tolist() == [0, 0]
        (gradient,) = torch.autograd.grad(found.sum(), logits)
        assert torch.isfinite(gradient).all()


def test_dlr_of_too_few_classes_is_refused() -> None:
    labels = torch.tensor([0, 1])
    message = r"`logits` should have 3 classes or more for `dlr`\. Found 2 classes\. Use `cross_entropy` or `margin`\."
    with pytest.raises(InputError, match=message):
        dlr(torch.zeros(2, 2), labels)
    message = r"`logits` should have 4 classes or more for `targeted_dlr`\. Found 3 classes\. Use `dlr`"
    with pytest.raises(InputError, match=message):
        targeted_dlr(torch.zeros(2, 3), labels, 1 - labels)


def test_inputs_are_left_alone() -> None:
    logits, labels, targets = torch.tensor([[3.0, 1.0, 2.0, 5.0]]), torch.tensor([0]), torch.tensor([2])
    margin(logits, labels)
    cross_entropy(logits, labels)
    dlr(logits, labels)
    targeted_dlr(logits, labels, targets)
    assert logits.tolist() == [[3.0, 1.0, 2.0, 5.0]]
    assert (labels.tolist(), targets.tolist()) == ([0], [2])
