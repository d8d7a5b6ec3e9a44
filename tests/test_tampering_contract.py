"""The trigger contract sees each way of breaking it."""

import pytest
import torch
from torch import Tensor

from contracts.triggers import check_trigger
from isthmus.tampering import Patch, Trigger


def mutating(x: Tensor) -> Tensor:
    x[:, :, 0, 0] = 1
    return x.clone()


class Counting:
    def __init__(self) -> None:
        self.calls = 0

    def __call__(self, x: Tensor) -> Tensor:
        self.calls += 1
        return x * 0 + 1 / self.calls


@pytest.mark.parametrize(
    ("trigger", "message"),
    [
        (mutating, "the input was written"),
        (lambda x: x, "shares the input's memory"),
        (lambda x: x * 0 + 1.5, "leaves the box"),
        (lambda x: x * 0 - 0.5, "leaves the box"),
        (lambda x: x / 2, "not idempotent"),
        (lambda x: x.mean(0, keepdim=True).expand_as(x).clone(), "samples see each other"),
        (Counting(), "not deterministic"),
        (Patch(2, at=(0, 0)), "other pixels were written"),
    ],
)
def test_a_broken_trigger_fails(trigger: Trigger, message: str) -> None:
    nowhere = torch.zeros(4, 4, dtype=torch.bool)
    with pytest.raises(AssertionError, match=message):
        check_trigger(trigger, (3, 2, 4, 4), written=nowhere)
