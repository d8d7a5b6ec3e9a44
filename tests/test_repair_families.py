"""Families of triggers against formulas written in NumPy, cubic convolution by hand and SciPy's resampling."""

from collections.abc import Callable

import numpy as np
import pytest
import torch
from scipy.ndimage import map_coordinates
from torch import Tensor

from contracts.triggers import assert_refused, check_trigger
from isthmus._check import InputError
from isthmus.repair.triggers.candidates import Shift, Stamp
from isthmus.repair.triggers.families import FAMILIES, Bend, Bent, Family, Mask, Pixels, Smooth, Waves, bent
from isthmus.tampering import describe
from isthmus.tampering.overlays import Sinusoid

SHAPE = (3, 7, 9)
EVERY = (*FAMILIES, Pixels(reach=0.9), Waves(reach=0.2), Smooth(reach=0.2, grid=3), Bend(reach=0.4, grid=6))
NAMES = [repr(family) for family in EVERY]


def free_of(family: Family, count: int, shape: tuple[int, ...] = SHAPE, seed: int = 0) -> Tensor:
    """Free numbers large enough to matter."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(family.start(count, shape, generator).shape, generator=generator, dtype=torch.float64)


def images(count: int, shape: tuple[int, ...] = SHAPE) -> Tensor:
    return torch.rand(count, *shape, generator=torch.Generator().manual_seed(5), dtype=torch.float64)


def kernel(distance: float) -> float:
    """Cubic convolution with a = -0.75 (Keys 1981)."""
    a, d = -0.75, abs(distance)
    if d <= 1:
        return (a + 2) * d**3 - (a + 3) * d**2 + 1
    return a * d**3 - 5 * a * d**2 + 8 * a * d - 4 * a if d < 2 else 0.0


def along(points: int, wanted: int) -> np.ndarray:
    """The (wanted, points) weights of cubic convolution between the ends of a line, which keep their places; borders repeat."""
    weights = np.zeros((wanted, points))
    for row in range(wanted):
        place = row * (points - 1) / (wanted - 1)
        for near in range(int(np.floor(place)) - 1, int(np.floor(place)) + 3):
            weights[row, min(max(near, 0), points - 1)] += kernel(place - near)
    return weights


def cubic(grid: np.ndarray, height: int, width: int) -> np.ndarray:
    return along(grid.shape[-2], height) @ grid @ along(grid.shape[-1], width).T


def waves(amplitudes: np.ndarray, side: int) -> np.ndarray:
    """Sums (C, side) of cosines and sines of 1, 2, ... periods with amplitudes (C, F, 2), below half the side."""
    total, places = np.zeros((len(amplitudes), side)), np.arange(side) / side
    for channel, row in enumerate(amplitudes):
        for f, (cosine, sine) in enumerate(row, start=1):
            if f == 1 or f < side // 2:
                total[channel] += cosine * np.cos(2 * np.pi * f * places) + sine * np.sin(2 * np.pi * f * places)
    return total


def sigmoid(values: np.ndarray) -> np.ndarray:
    return 1 / (1 + np.exp(-values))


def expected(family: Family, free: np.ndarray, x: np.ndarray, strength: float = 1.0) -> np.ndarray:
    """One image (C, H, W) with the trigger of one row of free numbers."""
    height, width = x.shape[1:]
    match family:
        case Pixels(reach=reach):
            return np.clip(x + strength * reach * np.tanh(free), 0, 1)
        case Smooth(reach=reach):
            return np.clip(x + strength * reach * np.tanh(cubic(free, height, width)), 0, 1)
        case Waves(reach=reach):
            down, across = (waves(free[axis], side) for axis, side in ((0, height), (1, width)))
            return np.clip(x + strength * reach * np.tanh(down[:, :, None] + across[:, None, :]), 0, 1)
        case Mask():
            mask = np.minimum(strength * sigmoid(free[:1]), 1)
            return x - mask * x + mask * sigmoid(free[1:])
        case Bend(reach=reach):
            across, down = cubic(np.tanh(free), height, width) * reach * strength
            rows = np.clip(np.arange(height)[:, None] + down * (height - 1), 0, height - 1)
            columns = np.clip(np.arange(width)[None] + across * (width - 1), 0, width - 1)
            return np.stack([map_coordinates(plane, [rows, columns], order=1, mode="nearest") for plane in x])
        case _:
            raise AssertionError(family)


@pytest.mark.parametrize("family", EVERY, ids=NAMES)
@pytest.mark.parametrize("shape", [SHAPE, (1, 8, 8), (2, 3, 12)])
def test_a_batch_gets_each_trigger_by_its_formula(family: Family, shape: tuple[int, ...]) -> None:
    free, x = free_of(family, 4, shape), images(4, shape)
    found = family.apply(free, x).numpy()
    for row in range(4):
        assert np.allclose(found[row], expected(family, free[row].numpy(), x[row].numpy()), atol=1e-10), row


@pytest.mark.parametrize("family", EVERY, ids=NAMES)
def test_strength_is_that_of_the_change_the_mask_or_the_move(family: Family) -> None:
    free, x, strength = free_of(family, 4), images(4), torch.tensor([0.0, 0.5, 1.0, 3.0], dtype=torch.float64)
    found = family.apply(free, x, strength).numpy()
    for row in range(4):
        wanted = expected(family, free[row].numpy(), x[row].numpy(), float(strength[row]))
        assert np.allclose(found[row], wanted, atol=1e-10), row
    assert np.allclose(found[0], x[0], atol=1e-12)


@pytest.mark.parametrize("family", EVERY, ids=NAMES)
def test_one_trigger_is_the_family_at_one_row(family: Family) -> None:
    free, x = free_of(family, 1), images(5)
    trigger = family.trigger(free[0], SHAPE)
    torch.testing.assert_close(trigger(x), family.apply(free.expand(5, *free.shape[1:]), x), rtol=0, atol=1e-12)
    kinds = {"pixels": Shift, "smooth": Shift, "waves": Shift, "mask": Stamp, "bend": Bent}
    assert isinstance(trigger, kinds[family.name])


@pytest.mark.parametrize("family", EVERY, ids=NAMES)
def test_one_trigger_keeps_the_contract(family: Family) -> None:
    for shape in ((1, 1, 8, 8), (3, 3, 7, 9)):
        free = free_of(family, 1, shape[1:]).requires_grad_()
        trigger = family.trigger(free[0], shape[1:])
        check_trigger(trigger, shape, idempotent=False)
        assert not trigger(torch.rand(shape)).requires_grad
        assert describe(trigger).startswith("inverted-")


def moved(family: Family, row: np.ndarray) -> float:
    """The size of one row of free numbers."""
    if isinstance(family, Waves):  # (axis, channel, frequency, phase)
        return sum(np.sqrt((row[axis, :, f] ** 2).sum(-1).mean()) for axis in (0, 1) for f in range(row.shape[2])) / 3
    return float(sigmoid(row[0]).mean() if isinstance(family, Mask) else np.abs(np.tanh(row)).mean())


@pytest.mark.parametrize("family", EVERY, ids=NAMES)
def test_sizes_are_means_of_what_is_moved(family: Family) -> None:
    free = free_of(family, 3).requires_grad_()
    values = free.detach().numpy()
    means = [moved(family, row) for row in values]
    sizes = family.size(free)
    assert np.allclose(sizes.detach().numpy(), means)
    (gradient,) = torch.autograd.grad(sizes.sum(), free)
    used = gradient[:, :1] if isinstance(family, Mask) else gradient
    assert bool((used != 0).all())
    assert float(gradient.abs().sum()) == pytest.approx(float(used.abs().sum()))


def test_a_size_of_one_is_the_largest_trigger() -> None:
    """At the ends of the free numbers every family is at its reach, and at zero it does nothing."""
    x = torch.full((1, 1, 6, 6), 0.5)
    for family in (Pixels(), Smooth()):
        free = torch.full(family.start(1, (1, 6, 6), torch.Generator()).shape, 30.0)
        assert float(family.size(free)) == pytest.approx(1)
        torch.testing.assert_close(family.apply(free, x), torch.full_like(x, 0.8))
        assert torch.equal(family.apply(0 * free, x), x)
    mask = torch.full((1, 2, 6, 6), 30.0)
    mask[:, 1] = -30
    assert float(Mask().size(mask)) == pytest.approx(1)
    assert float(Mask().apply(mask, x).abs().max()) < 1e-9
    mask[:, 0] = -30
    torch.testing.assert_close(Mask().apply(mask, x), x)


# ---- the warp ----


@pytest.mark.parametrize(("amplitude", "frequency"), [(40 / 255, 6), (0.1, 2)])
def test_a_published_sinusoid_is_a_wave(amplitude: float, frequency: int) -> None:
    x = 0.3 + 0.4 * images(2, (3, 32, 32))
    free = torch.zeros(1, 2, 3, 15, 2, dtype=torch.float64)
    free[:, 1, :, frequency - 1, 1] = 1e-3 * amplitude / 0.3  # tanh is the identity there
    found = (Waves().apply(free.expand(2, -1, -1, -1, -1), x) - x) * 1e3
    expected = Sinusoid(amplitude=amplitude, frequency=frequency)(x) - x
    torch.testing.assert_close(found, expected, atol=1e-6, rtol=0)


def test_no_move_is_the_identity() -> None:
    x = images(2)
    torch.testing.assert_close(Bend().apply(torch.zeros(2, 2, 4, 4, dtype=torch.float64), x), x)


@pytest.mark.parametrize(("down", "across"), [(0, 2), (0, -3), (1, 0), (-2, 4)])
def test_an_equal_move_everywhere_is_a_shift_with_the_border_repeated(down: int, across: int) -> None:
    x = images(2)
    moves = torch.tensor([2 * across / 8, 2 * down / 6], dtype=torch.float64).view(1, 2, 1, 1).expand(2, 2, 4, 4)
    rows = (torch.arange(7) + down).clamp(0, 6)
    columns = (torch.arange(9) + across).clamp(0, 8)
    torch.testing.assert_close(bent(x, moves), x[:, :, rows][:, :, :, columns])


def test_reach_is_a_share_of_the_side() -> None:
    """Free numbers that are all large move every pixel by reach of the side: here half of it, 3 of the 6 steps between 7 rows."""
    x = images(1)
    free = torch.stack([torch.zeros(4, 4), torch.full((4, 4), 30.0)])[None].double()
    found = Bend(reach=0.5).apply(free, x)
    torch.testing.assert_close(found, x[:, :, (torch.arange(7) + 3).clamp(max=6)])


# ---- starts, names, refusals ----


@pytest.mark.parametrize("family", FAMILIES, ids=[family.name for family in FAMILIES])
def test_starts_are_small_and_the_generators_own(family: Family) -> None:
    first, again, other = (family.start(50, SHAPE, torch.Generator().manual_seed(seed)) for seed in (0, 0, 1))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    assert not torch.equal(first[0], first[1])
    sizes = family.size(first)
    least, most = (0.11, 0.13) if isinstance(family, Mask) else (0.03, 0.15)
    assert least < float(sizes.min()) <= float(sizes.max()) < most


def test_what_families_are_called() -> None:
    assert [family.name for family in FAMILIES] == ["pixels", "smooth", "waves", "mask", "bend"]
    assert all(family.rate > 0 for family in FAMILIES)


def test_a_bend_is_named_by_its_content() -> None:
    moves = [torch.zeros(2, 4, 4), torch.zeros(2, 4, 4), torch.full((2, 4, 4), 0.1)]
    first, same, other = (Bent(move).spec for move in moves)
    assert first == same != other
    assert first.startswith("inverted-bend:sha256=")
    assert_refused(
        Bent(moves[0]), torch.zeros(3, 8, 8), r"`x` should be images \(B, C, H, W\) for a warp. Found \(3, 8, 8\)"
    )


@pytest.mark.parametrize("family", [Smooth, Bend])
def test_a_finer_grid_has_more_numbers(family: Callable[..., Family]) -> None:
    start = family(grid=7).start(2, SHAPE, torch.Generator())
    assert start.shape[2:] == (7, 7)


@pytest.mark.parametrize(
    ("make", "text"),
    [
        (lambda: Pixels(reach=0.0), r"`reach` should be in \(0, 1\], the largest change of a pixel. Found 0.0."),
        (lambda: Smooth(reach=1.5), r"`reach` should be in \(0, 1\], the largest change of a pixel. Found 1.5."),
        (lambda: Smooth(grid=1), "`grid` should be at least 2 points along each side. Found 1."),
        (
            lambda: Bend(reach=-0.1),
            r"`reach` should be in \(0, 1\], the largest move as a share of the side. Found -0.1.",
        ),
        (lambda: Waves(reach=2.0), r"`reach` should be in \(0, 1\], the largest change of a pixel. Found 2.0."),
        (lambda: Bend(grid=1), "`grid` should be at least 2 points along each side. Found 1."),
    ],
)
def test_settings_that_cannot_be_are_refused(make: Callable[[], object], text: str) -> None:
    with pytest.raises(InputError, match=text):
        make()
