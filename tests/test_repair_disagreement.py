"""Disagreement of models that read their answer off the image: every count is known."""

import math

import pytest
import torch
from torch import Tensor, nn

from contracts.modules import odd_module, untouched
from isthmus._check import InputError
from isthmus.data import Samples
from isthmus.rates import Rate
from isthmus.repair.trust.disagreement import disagreements
from isthmus.tampering import Patch


class Reader(nn.Module):
    """Logits of three classes: the first three pixels of row `row`, times `gain`."""

    def __init__(self, row: int, gain: float = 4.0) -> None:
        super().__init__()
        self.gain, self.row = nn.Parameter(torch.tensor(gain)), row

    def forward(self, x: Tensor) -> Tensor:
        return self.gain * x[:, 0, self.row]


ROW = {0: (1.0, 0.0, 0.0), 1: (0.0, 1.0, 0.0), 2: (0.0, 0.0, 1.0), 3: (0.0, 0.6, 0.5)}
FIRST, SECOND, TRUE = (0, 0, 0, 1, 2, 0), (0, 1, 1, 1, 0, 3), (0, 0, 1, 1, 2, 1)


def images() -> Samples:
    x = torch.tensor([[[ROW[a], ROW[b], ROW[0]]] for a, b in zip(FIRST, SECOND, strict=True)])
    return Samples(x, torch.tensor(TRUE), 3)


def test_every_pair_is_counted_and_the_images_named() -> None:
    one, two = Reader(0), Reader(1)
    with untouched(one, two):
        (found,) = disagreements(one, two, images())
    assert found.shown == "clean"
    assert found.counts.tolist() == [[1, 3, 0], [0, 1, 0], [1, 0, 0]]
    assert found.pairs == ((0, 1, 3), (2, 0, 1))
    assert found.examples == {(0, 1): (1, 2, 5), (2, 0): (4,)}  # image 5 is the least certain of the three
    assert found.agreement == Rate(2, 6)
    assert (found.paired.only_first, found.paired.only_second) == (2, 2)


def test_the_distance_orders_the_examples() -> None:
    """Total variation between softmax outputs: e^4, 1, 1 against 1, e^4, 1 and against 1, e^2.4, e^2, over their sums."""
    (found,) = disagreements(Reader(0), Reader(1), images(), examples=2)
    assert found.examples[0, 1] == (1, 2)
    a = math.e**4 / (math.e**4 + 2) - 1 / (math.e**4 + 2)
    b = math.e**4 / (math.e**4 + 2) - 1 / (1 + math.e**2.4 + math.e**2)
    assert a > b
    assert disagreements(Reader(0), Reader(1), images(), examples=0)[0].examples == {(0, 1): (), (2, 0): ()}


def test_triggers_are_shown_after_the_images_as_they_are() -> None:
    white = Patch((1, 3), at=(1, 0), colour=1.0)  # the second model then sees equal logits: class 0
    clean, shown = disagreements(Reader(0), Reader(1), images(), triggers={"white": white})
    assert (clean.shown, shown.shown) == ("clean", "white")
    assert shown.counts.tolist() == [[4, 0, 0], [1, 0, 0], [1, 0, 0]]
    assert shown.pairs == ((1, 0, 1), (2, 0, 1))


def test_equal_models_agree_everywhere() -> None:
    module = odd_module(0)
    samples = Samples(torch.rand(12, 3, 8, 8, generator=torch.Generator().manual_seed(0)), torch.arange(12) % 5, 5)
    with untouched(module):
        (found,) = disagreements(module, module, samples)
    assert found.agreement == Rate(12, 12)
    assert found.pairs == ()
    assert found.paired.p_value == 1.0


def test_models_with_more_logits_than_classes_are_compared_on_all() -> None:
    wide = nn.Sequential(nn.Flatten(), nn.Linear(9, 4))
    with torch.no_grad():
        wide[1].weight.zero_()
        wide[1].bias.copy_(torch.tensor([0.0, 0.0, 0.0, 9.0]))
    (found,) = disagreements(Reader(0), wide, images())
    assert found.counts.shape == (4, 4)
    assert found.counts[:3, 3].tolist() == [4, 1, 1]


def test_what_cannot_be_compared_is_refused() -> None:
    flat = Samples(torch.rand(6, 4), torch.arange(6) % 3, 3)
    model = nn.Linear(4, 3)
    assert disagreements(model, model, flat)[0].agreement == Rate(6, 6)  # any inputs do without triggers
    with pytest.raises(InputError, match=r"`samples` should be images \(C, H, W\) to show triggers"):
        disagreements(model, model, flat, triggers={"patch": Patch()})
    with pytest.raises(InputError, match="`triggers` should have other names than 'clean'"):
        disagreements(Reader(0), Reader(1), images(), triggers={"clean": Patch()})
    with pytest.raises(InputError, match=r"`examples` should be at least 0\. Found -1"):
        disagreements(Reader(0), Reader(1), images(), examples=-1)
