"""Soups: the mean of equal models is the model, the centroid of a flat patch is the soup of its corners, greed never loses."""

import pytest
import torch
from torch import nn

from contracts.modules import OfThreeKinds, assert_same_bits, odd_module, seeded, tensors_of, untouched
from isthmus._check import InputError
from isthmus.data import Samples
from isthmus.geometry.bases import Bernstein, Product
from isthmus.geometry.build import connect
from isthmus.rates import Rate
from isthmus.settle import Keep, Recalibrate
from isthmus.soup import accuracy_on, greedy_soup, uniform_soup


def images(count: int = 40, seed: int = 0) -> Samples:
    x = torch.rand(count, 3, 8, 8, generator=torch.Generator().manual_seed(seed))
    return Samples(x, torch.arange(count) % 5, 5, "drawn")


def linear(seed: int, dtype: torch.dtype = torch.float32) -> nn.Module:
    with seeded(seed):
        return nn.Sequential(nn.Flatten(), nn.Linear(192, 5)).to(dtype)


@pytest.mark.parametrize("count", [1, 2, 3, 7])
@pytest.mark.parametrize("settle", [Keep(), Recalibrate(images())])
def test_equal_models_give_that_model_bit_for_bit(count, settle):
    model = odd_module(0)
    soup = uniform_soup([model, *(odd_module(0) for _ in range(count - 1))], settle=settle)
    assert_same_bits(tensors_of(soup), tensors_of(model))
    assert soup is not model


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("scale", [1e-8, 1.0, 1e8])
def test_the_weights_are_the_mean(dtype, scale):
    models = [linear(seed, dtype) for seed in range(5)]
    for model in models:
        model[1].weight.data *= scale
    soup = uniform_soup(models, settle=None)
    for name, value in soup.named_parameters():
        expected = torch.stack([dict(model.named_parameters())[name].double() for model in models]).mean(0)
        torch.testing.assert_close(value.double(), expected, rtol=4 * torch.finfo(dtype).eps, atol=1e-15 * scale)


def test_weights_of_three_widths_and_whole_numbers():
    with seeded(0):
        models = [OfThreeKinds() for _ in range(3)]
    soup = uniform_soup(models, settle=Keep())
    assert soup.wide.weight is soup.again.weight
    expected = sum(model.narrow.weight.double() for model in models) / 3
    assert torch.equal(soup.narrow.weight, expected.to(torch.bfloat16))
    odd = [odd_module(seed) for seed in range(2)]
    mixed = uniform_soup(odd, settle=Keep())
    assert torch.equal(mixed.order, odd[0].order)  # a permutation has no mean
    assert torch.equal(mixed.norm.running_mean, odd[0].norm.running_mean)  # Keep says so


def test_statistics_are_those_of_the_mean_weights():
    models, train = [odd_module(seed) for seed in range(2)], images()
    with untouched(*models):
        soup = uniform_soup(models, settle=Recalibrate(train))
    again = uniform_soup(models, settle=Keep())
    Recalibrate(train)(again)
    assert_same_bits(tensors_of(soup), tensors_of(again))
    assert not torch.equal(soup.norm.running_mean, models[0].norm.running_mean)


def test_the_centre_of_a_flat_patch_is_the_soup_of_its_corners():
    models, train = [odd_module(seed) for seed in range(4)], Recalibrate(images())
    patch = connect(models, Product(Bernstein(1), Bernstein(1)))
    centre, soup = patch.at([0.5, 0.5], settle=train), uniform_soup(models, settle=train)
    own = dict(soup.named_parameters())
    for name, value in centre.named_parameters():
        torch.testing.assert_close(value, own[name], rtol=1e-6, atol=1e-7)
    torch.testing.assert_close(centre.norm.running_mean, soup.norm.running_mean, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("seed", range(4))
def test_greed_never_lowers_the_validation_accuracy(seed):
    models, validation = [linear(10 * seed + k) for k in range(6)], images(seed=seed)
    with untouched(*models):
        found = greedy_soup(models, validation, settle=None)
    rates = [accuracy_on(model, validation) for model in models]
    assert found.accuracy == accuracy_on(found.model, validation)
    assert found.accuracy.value >= max(rate.value for rate in rates)
    assert found.members[0] == max(range(6), key=lambda k: (rates[k].value, -k))
    assert sorted(place for place, _, _ in found.tried) == list(range(6))
    assert tuple(place for place, _, kept in found.tried if kept) == found.members
    again = uniform_soup([models[place] for place in found.members], settle=None)
    assert_same_bits(tensors_of(found.model), tensors_of(again))


def test_greed_follows_the_recipe_step_by_step():
    """Wortsman et al. 2022, recipe 1, written with a list of weights."""
    models, validation = [linear(k) for k in range(6)], images()
    rates = [accuracy_on(model, validation).value for model in models]
    kept: list[int] = []
    best = -1.0
    for place in sorted(range(6), key=lambda k: -rates[k]):
        tried = uniform_soup([models[k] for k in (*kept, place)], settle=None)
        if (value := accuracy_on(tried, validation).value) >= best:
            kept.append(place)
            best = value
    assert greedy_soup(models, validation, settle=None).members == tuple(kept)


def test_known_accuracies_are_believed():
    models, validation = [linear(k) for k in range(3)], images()
    found = greedy_soup(models, validation, settle=None, accuracies=[Rate(0, 40), Rate(0, 40), Rate(40, 40)])
    assert found.members == (2,)
    assert_same_bits(tensors_of(found.model), tensors_of(models[2]))


def test_what_has_no_mean():
    train = Recalibrate(images())
    with pytest.raises(InputError, match=r"`models` should hold at least one model. Found none."):
        uniform_soup([], settle=None)
    with pytest.raises(InputError, match=r"`model 1` should have '1.weight' like `model 0`"):
        uniform_soup([linear(0), nn.Sequential(nn.Flatten(), nn.Linear(192, 6))], settle=None)
    with pytest.raises(InputError, match="`settle` should be given for a module with running statistics"):
        uniform_soup([odd_module(0), odd_module(1)], settle=None)
    broken = linear(1)
    broken[1].bias.data[0] = torch.nan
    with pytest.raises(InputError, match=r"`model 1` should hold finite numbers. Found 1 NaN"):
        greedy_soup([linear(0), broken], images(), settle=train)
    with pytest.raises(InputError, match=r"`accuracies` should be 2, one per model. Found 1."):
        greedy_soup([linear(0), linear(1)], images(), settle=None, accuracies=[Rate(1, 2)])
