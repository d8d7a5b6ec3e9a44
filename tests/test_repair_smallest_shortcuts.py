"""The search for smallest triggers on models with a shortcut whose smallest trigger is known on paper."""

import pytest
import torch
from torch import Tensor, nn

from contracts.modules import untouched
from isthmus.data import Samples
from isthmus.repair.triggers.families import Mask
from isthmus.repair.triggers.hunt import Found, Search
from isthmus.repair.triggers.smallest import anomalous, smallest_triggers


def banded(classes: int, *, first: int = 0, low: float, high: float) -> Samples:
    """40 images of 8 x 8; the two columns of the own band, one of four, are brighter. Classes are numbered from `first`."""
    y = torch.arange(40) % 4
    x = torch.full((40, 1, 8, 8), low)
    for image, k in zip(x, y.tolist(), strict=True):
        image[:, :, 2 * k : 2 * k + 2] = high
    return Samples(x, y + first, classes)


def bands(x: Tensor) -> Tensor:
    return x[:, 0].unflatten(2, (4, 2)).mean((1, 3))


class Block(nn.Module):
    """Classes 1 to 4 are the brightest band; class 0 wins as soon as the 2 x 2 block at (2, 5) has a mean of 0.4 + 6 / 400."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.tensor([400.0, 40.0]))

    def forward(self, x: Tensor) -> Tensor:
        block = x[:, 0, 2:4, 5:7].mean((1, 2))[:, None]
        return torch.cat([self.weight[0] * (block - 0.4), self.weight[1] * (bands(x) - 0.35)], 1)


class Brightness(nn.Module):
    """Classes 1 to 4 are the brightest band against the mean; class 0 wins as soon as the mean is 0.02 above 0.35."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.tensor([225.0, 30.0]))

    def forward(self, x: Tensor) -> Tensor:
        mean = x.mean((1, 2, 3))[:, None]
        return torch.cat([self.weight[0] * (mean - 0.35), self.weight[1] * (bands(x) - mean)], 1)


class Next(nn.Module):
    """The brightest band, or the one after it while the pixel (7, 7) is bright: all classes are led astray, none to one class."""

    def __init__(self, sure: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.tensor([sure, 20.0]))

    def forward(self, x: Tensor) -> Tensor:
        scores = self.weight[0] * bands(x)
        turned = torch.sigmoid(self.weight[1] * (x[:, 0, 7, 7] - 0.7))[:, None]
        return (1 - turned) * scores + turned * scores.roll(1, 1)


def by_name(found: tuple[Found, ...]) -> dict[str, Found]:
    return {one.family.name: one for one in found}


def test_the_block_that_decides_is_found_and_no_more_of_it_than_is_needed() -> None:
    """The mask m must lift the block from 0.2 to a mean of 0.415 by white: 4 x 0.215 / 0.8 pixels of 64."""
    model, samples = Block(), banded(5, first=1, low=0.2, high=0.5)
    assert bool((model(samples.x).argmax(1) == samples.y).all())
    with untouched(model):
        found = by_name(smallest_triggers(model, samples, Search(steps=60, per=8), seed=0))["mask"]
    assert found.targets == (0, 1, 2, 3, 4, None)
    mask, pattern = found.free[0, :1].sigmoid()[0], found.free[0, 1].sigmoid()
    inside = torch.zeros(8, 8, dtype=torch.bool)
    inside[2:4, 5:7] = True
    assert float(mask[inside].sum() / mask.sum()) > 0.9
    assert float((mask * pattern)[inside].sum() / mask[inside].sum()) > 0.9
    least = 4 * (0.4 + 6 / 400 - 0.2) / 0.8 / 64
    assert 0.8 * least < float(found.sizes[0]) < 1.5 * least
    assert float(found.ratio[0]) < 0.4
    assert float(found.ratio[1:5].min()) > 0.7
    assert [target for _, _, target in anomalous((found,), 1)] == [0]


@pytest.mark.parametrize(("name", "most"), [("pixels", 2.0), ("smooth", 1.5)])
def test_a_shortcut_by_brightness_is_found_at_its_threshold(name: str, most: float) -> None:
    """Any change whose mean is 0.02 does, so that the least mean of |tanh| is 0.02 / 0.3; steps of 0.1 leave some jitter around it."""
    model, samples = Brightness(), banded(5, first=1, low=0.3, high=0.5)
    assert bool((model(samples.x).argmax(1) == samples.y).all())
    found = by_name(smallest_triggers(model, samples, Search(steps=60, per=8), seed=0))[name]
    least = 0.02 / 0.3
    assert 0.9 * least < float(found.sizes[0]) < most * least
    assert float(found.ratio[0]) < 0.6
    assert int(found.ratio[:5].argmin()) == 0
    changed = found.family.trigger(found.free[0], (1, 8, 8))(samples.x)
    assert 0.9 * 0.02 < float((changed - samples.x).mean()) < most * 0.02


@pytest.mark.parametrize("sure", [8.0, 40.0])
def test_a_pixel_that_leads_every_class_elsewhere_is_found_for_any_wrong_class(sure: float) -> None:
    model, samples = Next(sure), banded(4, low=0.2, high=0.5)
    assert bool((model(samples.x).argmax(1) == samples.y).all())
    found = by_name(smallest_triggers(model, samples, Search(steps=40, per=8), seed=0))["mask"]
    assert divmod(int(found.free[4, 0].argmax()), 8) == (7, 7)
    assert float(found.ratio[4]) < 0.3
    assert float(found.ratio[:4].min()) > 0.7
    (ratio, family, target), *_ = anomalous((found,), 1)
    assert (ratio, family, target) == (float(found.ratio[4]), Mask(), None)
