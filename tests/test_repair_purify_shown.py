"""What purification shows its student: which images carry a trigger, which one, and how strong."""

from dataclasses import dataclass, replace
from math import inf

import pytest
import torch
from scipy.stats import chisquare, kstest
from torch import Tensor

from isthmus.repair import purify
from isthmus.repair.purify import Doubt, Triggered
from isthmus.repair.triggers.families import Family, times
from isthmus.repair.triggers.hunt import Found
from isthmus.tampering import Trigger


@dataclass(frozen=True)
class Paint:
    """A made-up family: every pixel gets the free number, or has strength times the free number added."""

    adds: bool = False
    name: str = "paint"
    rate: float = 0.1

    def start(self, count: int, shape: tuple[int, ...], generator: torch.Generator) -> Tensor:
        return torch.zeros(count, 1)

    def apply(self, free: Tensor, x: Tensor, strength: Tensor | None = None) -> Tensor:
        colour = free.reshape(-1, 1, 1, 1).expand_as(x)
        return x + times(colour, strength) if self.adds else colour

    def size(self, free: Tensor) -> Tensor:
        return free[:, 0]

    def trigger(self, free: Tensor, shape: tuple[int, ...]) -> Trigger:
        return lambda x: self.apply(free[None], x)


def found_of(family: Family, colours: list[float], ratio: float = 1.0) -> Found:
    free = torch.tensor(colours)[:, None]
    targets = tuple(range(len(colours)))
    return Found(family, free, targets, free[:, 0], torch.ones(len(free)), torch.full((len(free),), ratio), 7, 0.0)


def shown(change: Triggered, x: Tensor, seed: int = 0) -> Tensor:
    before = x.clone()
    out = change(x, torch.Generator().manual_seed(seed))
    assert torch.equal(x, before)
    assert out.data_ptr() != x.data_ptr()
    return out


@pytest.mark.parametrize(("share", "count"), [(0.5, 6), (1.0, 13), (0.3, 4), (0.01, 0)])
def test_exactly_the_share_of_a_batch_carries_a_trigger(share: float, count: int) -> None:
    x = torch.rand(13, 2, 4, 4, generator=torch.Generator().manual_seed(1))
    change = Triggered((found_of(Paint(), [0.25]),), torch.ones(1), Doubt(share=share))
    at: list[tuple[bool, ...]] = []
    for seed in range(4):
        out = shown(change, x, seed)
        painted = (out == 0.25).flatten(1).all(1)
        assert int(painted.sum()) == count
        assert torch.equal(out[~painted], x[~painted])
        at.append(tuple(painted.tolist()))
    assert (len(set(at)) == 1) == (count in (0, 13))  # otherwise other images each time


def test_triggers_are_drawn_by_their_weights() -> None:
    colours = [[0.1, 0.2], [0.3], [0.4, 0.5]]
    weights = torch.tensor([0.1, 0.3, 0.05, 0.35, 0.2])
    change = Triggered(tuple(found_of(Paint(), own) for own in colours), weights, Doubt(share=1.0))
    out = shown(change, torch.zeros(6000, 1, 1, 1)).flatten()
    counts = [int((out == torch.tensor(colour)).sum()) for colour in (0.1, 0.2, 0.3, 0.4, 0.5)]
    assert sum(counts) == 6000
    assert chisquare(counts, [6000 * float(weight) for weight in weights]).pvalue > 0.01


def test_each_is_shown_at_a_strength_drawn_from_the_range() -> None:
    pair = (found_of(Paint(), [0.7]), found_of(Paint(adds=True), [0.1]))
    change = Triggered(pair, torch.tensor([0.3, 0.7]), Doubt(share=1.0, spread=(0.5, 2.0)))
    out = shown(change, torch.zeros(4000, 1, 1, 1)).flatten()
    strengths = out[out != torch.tensor(0.7)] / 0.1
    assert 2600 < len(strengths) < 3000
    assert kstest(strengths.numpy(), "uniform", args=(0.5, 1.5)).pvalue > 0.01
    narrow = Triggered(pair, torch.tensor([0.0, 1.0]), Doubt(share=1.0, spread=(3.0, 3.0)))
    assert shown(narrow, torch.zeros(5, 1, 2, 2)).flatten().tolist() == pytest.approx([0.3] * 20)


def test_what_each_trigger_weighs() -> None:
    """By ratio^-power, shared by all that were found of one kind, in the first search, from other starts and in the student."""
    a, b = Paint(name="a"), Paint(name="b")
    first = (rated(found_of(a, [0.1, 0.2]), [0.5, 1.0]), rated(found_of(b, [0.3]), [2.0]))
    again = Found(a, torch.tensor([[0.4], [0.5]]), (0, 0), torch.ones(2), torch.ones(2), torch.ones(2), 7, 0.0)

    def weights(found: tuple[Found, ...], more: tuple[Found, ...], power: float) -> list[float]:
        return purify._weights(found, more, power).tolist()  # pyright: ignore[reportPrivateUsage]

    assert weights(first, (again,), 2.0) == pytest.approx([w / 5.25 for w in (4 / 3, 1, 0.25, 4 / 3, 4 / 3)])
    assert weights(first, (again, again), 0.0) == pytest.approx([w / 3 for w in (0.2, 1, 1, 0.2, 0.2, 0.2, 0.2)])
    assert weights(first, (), 1.0) == pytest.approx([w / 3.5 for w in (2, 1, 0.5)])
    ends = (
        rated(found_of(a, [0.1, 0.2]), [0.0, inf]),
    )  # nothing weighs more than a ratio of 0.03, nor less than one of 10
    assert weights(ends, (), 1.0) == pytest.approx([(1 / 0.03) / (1 / 0.03 + 0.1), 0.1 / (1 / 0.03 + 0.1)])


def rated(found: Found, ratios: list[float]) -> Found:
    return replace(found, ratio=torch.tensor(ratios))
