"""`Augment` against a loop that tries every shift and flip by hand."""

from itertools import product

import pytest
import torch

from isthmus._check import InputError
from isthmus.data import DATASETS, Augment, default_augment


def moved(image, down, right, flip):
    """Return (C, H, W) shifted pixel by pixel, zeros moving in, then mirrored."""
    out = torch.zeros_like(image)
    _, height, width = image.shape
    for row, column in product(range(height), range(width)):
        if 0 <= row - down < height and 0 <= column - right < width:
            out[:, row, column] = image[:, row - down, column - right]
    return out.flip(2) if flip else out


def found_moves(augment, x, out):
    """Return, for each image, the one move that made it."""
    reach = range(-augment.shift, augment.shift + 1)
    moves = []
    for before, after in zip(x, out, strict=True):
        fits = [m for m in product(reach, reach, (False, True)) if torch.equal(moved(before, *m), after)]
        assert len(fits) == 1
        moves.append(fits[0])
    return moves


@pytest.mark.parametrize("shape", [(6, 1, 5, 5), (6, 3, 4, 7), (6, 5, 7, 4)])
@pytest.mark.parametrize("augment", [Augment(1), Augment(2, flip=True), Augment(0, flip=True)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.uint8])
@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
def test_every_image_is_a_permitted_move_of_itself(shape, augment, dtype, memory_format):
    x = torch.randint(1, 256, shape, generator=torch.Generator().manual_seed(1)).to(dtype)
    x = x.to(memory_format=memory_format)
    kept = x.clone()
    out = augment(x, generator=torch.Generator().manual_seed(2))
    assert (out.dtype, out.shape) == (x.dtype, x.shape)
    assert out.stride() == x.stride()
    moves = found_moves(augment, x, out)
    assert augment.flip or not any(flip for *_, flip in moves)
    assert torch.equal(x, kept)


def test_all_moves_occur_equally_often():
    augment = Augment(1, flip=True)
    x = torch.randint(1, 256, (1, 1, 3, 3), generator=torch.Generator().manual_seed(0)).float()
    moves = {m: moved(x[0], *m) for m in product((-1, 0, 1), (-1, 0, 1), (False, True))}
    out = augment(x.expand(3600, -1, -1, -1), generator=torch.Generator().manual_seed(0))
    counts = torch.tensor([int((out == image).all((1, 2, 3)).sum()) for image in moves.values()])
    assert counts.sum() == 3600
    # chi-squared with 17 degrees of freedom: 40.8 is its 99.9 % point
    assert ((counts - 200.0) ** 2 / 200).sum() < 40.8


def test_the_generator_decides_and_nothing_else():
    x = torch.rand(16, 3, 8, 8)
    augment = Augment(3, flip=True)
    before = torch.get_rng_state()
    one, again, other = (augment(x, generator=torch.Generator().manual_seed(seed)) for seed in (5, 5, 6))
    assert torch.equal(one, again)
    assert not torch.equal(one, other)
    assert torch.equal(before, torch.get_rng_state())


def test_nothing_to_do_returns_the_batch_itself():
    features = torch.rand(4, 3)
    assert Augment()(features, generator=torch.Generator()) is features


def test_refusals():
    draw = torch.Generator()
    with pytest.raises(InputError, match=r"`shift` should be zero or positive\. Found -1"):
        Augment(-1)
    with pytest.raises(InputError, match=r"`augment` should be given images .* Found shape \(4, 3\)"):
        Augment(1)(torch.rand(4, 3), generator=draw)
    with pytest.raises(InputError, match=r"`shift` should be less than the side of 8x4 images\. Found 4"):
        Augment(4)(torch.rand(1, 1, 8, 4), generator=draw)


@pytest.mark.parametrize(
    ("name", "shape", "expected"),
    [
        ("digits/train", (1, 8, 8), Augment(1)),
        ("mnist", (1, 28, 28), Augment(2)),
        ("fashion-mnist", (1, 28, 28), Augment(2, flip=True)),
        ("cifar10", (3, 32, 32), Augment(4, flip=True)),
        ("cifar10", (3, 64, 64), Augment(8, flip=True)),
        ("svhn (no test split)", (3, 32, 32), Augment(4)),
        ("tiny-imagenet/test", (3, 64, 64), Augment(8, flip=True)),
        ("holiday", (3, 40, 24), Augment(3)),
        ("holiday", (17,), Augment()),
    ],
)
def test_default_augment(name, shape, expected):
    assert default_augment(name, shape) == expected


def test_every_named_set_has_a_policy_for_its_own_shape():
    for source in DATASETS.values():
        assert default_augment(source.name, source.shape) == source.augment


def test_text_of_an_augmentation():
    assert str(Augment()) == "none"
    assert str(Augment(4, flip=True)) == "shift up to 4 pixels, horizontal flip"
