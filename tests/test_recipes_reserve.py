"""The reserve: nested, stratified, and never shared with what a model was trained on."""

from itertools import pairwise

import pytest
import torch

from isthmus._check import InputError
from isthmus.data import Samples, Splits, load_data, require_disjoint
from isthmus.recipes.reserve import reserve


@pytest.fixture(scope="module")
def digits():
    return load_data("digits")


def lopsided():
    """Return splits with classes of 40, 9 and 1 images, one of them twice, one of them also in test."""
    y = torch.tensor([0] * 40 + [1] * 9 + [2] + [0, 0])
    x = torch.arange(len(y) * 4, dtype=torch.float32).reshape(-1, 4)
    x[50] = x[0]
    test = Samples(x[51:52].clone(), torch.tensor([0]), 3, "toy/test")
    return Splits(Samples(x, y, 3, "toy/train"), test, "toy")


@pytest.mark.parametrize("n", [10, 11, 57, 300, 1190])
def test_the_two_parts_are_disjoint_and_whole(digits, n):
    kept, rest = reserve(digits, n)
    assert len(kept) == n
    require_disjoint(kept, rest)
    require_disjoint(kept, digits.test)
    assert sorted(torch.cat([kept.index, rest.index]).tolist()) == digits.train.index.tolist()


def test_smaller_reserves_lie_in_larger_ones(digits):
    held = [set(reserve(digits, n)[0].index.tolist()) for n in range(10, 400, 7)]
    for small, large in pairwise(held):
        assert small < large


def test_shares_follow_the_classes():
    splits = lopsided()
    for n in (3, 5, 10, 25, 40):
        counts = torch.bincount(reserve(splits, n)[0].y, minlength=3)
        assert int(counts.min()) >= 1
        quota = torch.tensor([40, 9, 1]) * n / 50
        assert torch.all((counts - quota).abs() <= 1 + 2 / 3), (n, counts)


def test_equal_images_and_those_of_the_test_split_are_left_out():
    kept, rest = reserve(lopsided(), 10)
    places = sorted(torch.cat([kept.index, rest.index]).tolist())
    assert places == list(range(50))  # neither the second copy (50) nor the test image (51)


def test_the_seed_decides_which(digits):
    first, again, other = (reserve(digits, 50, seed=seed)[0].index.tolist() for seed in (0, 0, 1))
    assert first == again
    assert first != other


def test_too_few_and_too_many(digits):
    with pytest.raises(InputError, match=r"`clean` should be at least 10 images, one of each class of digits. Found 9"):
        reserve(digits, 9)
    with pytest.raises(
        InputError, match=r"`clean` should leave images to train on: at most 1,190 of digits/train. Found 1191"
    ):
        reserve(digits, 1191)
