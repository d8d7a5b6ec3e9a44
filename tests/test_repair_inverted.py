"""Inversion where the answer is known: a class that one pixel decides, a linear model, and block logits for the margins."""

import math

import pytest
import torch
from scipy.stats import gamma
from torch import Tensor, nn

from contracts.modules import odd_module, untouched
from contracts.triggers import check_trigger
from isthmus._check import InputError
from isthmus.data import Samples
from isthmus.probes import Backdoor
from isthmus.rates import Rate
from isthmus.repair.triggers.candidates import Shift, Stamp, anomaly
from isthmus.repair.triggers.inverted import ChangeSearch, Inversion, MaskSearch, smallest_masks, universal_changes
from isthmus.repair.trust.margins import MarginSearch, class_margins, outlier
from isthmus.tampering import describe
from repair_example import suspects, trusted

SHORT = MaskSearch(steps=20, batch_size=40, interval=5)


class OnePixel(nn.Module):
    """Four classes of 6 x 6 images: pixel (2, 3) alone decides on class 0, the mean of a quarter on the others."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.tensor([30.0, 20.0]))

    def forward(self, x: Tensor) -> Tensor:
        quarters = [x[:, 0, :3, :3], x[:, 0, 3:, :3], x[:, 0, 3:, 3:]]
        others = [self.weight[1] * quarter.mean((1, 2)) for quarter in quarters]
        return torch.stack([self.weight[0] * x[:, 0, 2, 3], *others], 1)


def pool(classes: int, shape: tuple[int, ...], seed: int, low: float = 0.0, high: float = 0.4) -> Samples:
    x = low + (high - low) * torch.rand(40, *shape, generator=torch.Generator().manual_seed(seed))
    return Samples(x, torch.arange(40) % classes, classes)


def masks(search: MaskSearch = SHORT, seed: int = 0) -> Inversion:
    return smallest_masks(suspects()[0], trusted().train, trusted().validation, search, seed=seed)


def test_the_pixel_that_decides_is_found() -> None:
    model, samples, held_out = OnePixel(), pool(4, (1, 6, 6), 0), pool(4, (1, 6, 6), 1)
    with untouched(model):
        found = smallest_masks(model, samples, held_out, MaskSearch(steps=200, batch_size=40), seed=0)
    first = found.candidates[0]
    assert isinstance(first.trigger, Stamp)
    assert divmod(int(first.trigger.mask.argmax()), 6) == (2, 3)
    assert first.trigger.pattern[0, 2, 3] > 0.9
    assert first.size == pytest.approx(float(first.trigger.mask.sum()))
    assert first.size < 2.0
    assert found.suspect is first
    assert found.statistic == found.index[0] == max(found.index)
    assert found.index == anomaly([c.size for c in found.candidates])
    assert first.reached
    x = first.trigger(held_out.x[held_out.y != 0])
    assert first.success == Rate(int((model(x).argmax(1) == 0).sum()), len(x))
    assert first.success.value == 1.0
    assert found.evaluations == 200


def test_a_candidate_is_a_trigger_that_the_probe_takes() -> None:
    found, validation = masks(), trusted().validation
    for candidate in found.candidates[:2]:
        rate = Backdoor(validation, candidate.trigger, candidate.target, split="validation")(suspects()[0])
        assert rate["validation_attack_success"] == pytest.approx(100 * candidate.success.value)
    assert [candidate.target for candidate in found.candidates] == list(range(10))


def test_the_change_of_a_linear_model_is_the_sign_of_its_weights() -> None:
    """Two classes, images far from the box: the loss falls fastest at +-radius along sign(w1 - w0)."""
    model = nn.Sequential(nn.Flatten(), nn.Linear(12, 2))
    samples, held_out = pool(2, (3, 2, 2), 0, 0.4, 0.6), pool(2, (3, 2, 2), 1, 0.4, 0.6)
    found = universal_changes(model, samples, held_out, ChangeSearch(steps=40, batch_size=20, radius=0.1), seed=0)
    weight = model[1].weight.detach()
    for candidate, sign in zip(found.candidates, (-1, 1), strict=True):
        best = sign * 0.1 * (weight[1] - weight[0]).sign().view(3, 2, 2)
        torch.testing.assert_close(candidate.trigger.change, best)
        x = held_out.x[held_out.y != candidate.target]
        loss = -model(x + best).log_softmax(1)[:, candidate.target].mean().item()
        assert candidate.size == pytest.approx(loss, rel=1e-5)
        assert candidate.reached == (candidate.success.value > 0.5)
    assert all(math.isnan(index) for index in found.index)  # two classes: none can stand out
    easiest = min(found.candidates, key=lambda c: c.size)
    assert found.suspect is easiest


@pytest.mark.parametrize("trigger", [Stamp(torch.rand(8, 8), torch.rand(3, 8, 8)), Shift(torch.rand(3, 8, 8) - 0.5)])
def test_found_triggers_keep_the_contract(trigger: Stamp | Shift) -> None:
    check_trigger(trigger, (4, 3, 8, 8), idempotent=False)
    assert describe(trigger) == trigger.spec
    assert trigger.spec.startswith(("inverted-stamp:sha256=", "inverted-shift:sha256="))
    with pytest.raises(InputError, match=r"`x` should be images \(3, 8, 8\) like those it was found on\. Found \(1, 1"):
        trigger(torch.zeros(1, 1, 8, 8))
    with pytest.raises(InputError, match=r"`x` should be images \(B, C, H, W\) for an inverted trigger"):
        trigger(torch.zeros(3, 8, 8))


def test_a_stamp_mixes_by_its_mask_and_a_shift_clips() -> None:
    x = torch.full((1, 1, 1, 3), 0.5)
    stamp = Stamp(torch.tensor([[0.0, 0.5, 1.0]]), torch.tensor([[[1.0, 1.0, 0.2]]]))
    assert stamp(x).flatten().tolist() == pytest.approx([0.5, 0.75, 0.2])
    assert Shift(torch.tensor([[[0.1, 0.9, -0.9]]]))(x).flatten().tolist() == pytest.approx([0.6, 1.0, 0.0])


def test_the_index_counts_deviations_below_the_median() -> None:
    assert anomaly([10.0, 20.0, 30.0, 40.0, 50.0])[0] == pytest.approx(20 / (1.4826 * 10))
    assert anomaly([5.0, 5.0, 5.0, 1.0]) == pytest.approx((0, 0, 0, 4 / 1.2533))  # MAD 0: mean deviation 1
    assert anomaly([5.0, 5.0, 5.0]) == (0.0, 0.0, 0.0)
    assert all(math.isnan(index) for index in anomaly([1.0, 2.0]))


@pytest.mark.parametrize(
    "change",
    [
        {"steps": 25},
        {"batch_size": 60},
        {"learning_rate": 0.05},
        {"weight": 0.3},
        {"least": 0.05},
        {"interval": 4},
        {"patience": 1, "least": 0.05},
    ],
)
def test_every_setting_of_the_masks_matters(change: dict[str, float]) -> None:
    shared = {"steps": 20, "batch_size": 40, "interval": 5, "learning_rate": 0.3}
    base = shared | ({"least": 0.05} if "patience" in change else {})  # patience counts where an aim is met
    other = MaskSearch(**shared | change)
    assert [c.size for c in masks(MaskSearch(**base)).candidates] != [c.size for c in masks(other).candidates]


def test_the_seed_decides_everything() -> None:
    one, again, other = masks(), masks(), masks(seed=1)
    assert [c.size for c in one.candidates] == [c.size for c in again.candidates] != [c.size for c in other.candidates]
    assert [c.trigger.spec for c in one.candidates] == [c.trigger.spec for c in again.candidates]


def test_classes_may_be_named_and_radius_and_steps_matter() -> None:
    def size(search: ChangeSearch) -> float:
        held = trusted()
        found = universal_changes(suspects()[0], held.train, held.validation, search, seed=0, classes=(4,))
        assert [c.target for c in found.candidates] == [4]
        assert float(found.candidates[0].trigger.change.abs().max()) <= search.radius + 1e-8
        return found.candidates[0].size

    base = ChangeSearch(steps=5, batch_size=20)
    sizes = [size(base), size(ChangeSearch(5, 20, 0.1)), size(ChangeSearch(8, 20)), size(ChangeSearch(5, 30))]
    assert len(set(sizes)) == 4


def test_any_module_is_searched_and_left_alone() -> None:
    module, samples = odd_module(0), pool(5, (3, 8, 8), 0)
    with untouched(module):
        smallest_masks(module, samples, samples, MaskSearch(steps=2, batch_size=10, interval=1), seed=0)
        universal_changes(module, samples, samples, ChangeSearch(steps=2, batch_size=10), seed=0)
        found = class_margins(module, (3, 8, 8), 5, MarginSearch(images=2, steps=2), seed=0)
    assert (found.evaluations, found.batch_size) == (2, 10)


def test_margins_of_block_logits_are_the_sums_of_the_blocks() -> None:
    """z_k = a_k * sum of the pixels of row k: the largest margin has row k at 1 and the others at 0."""
    scale = torch.tensor([1.0, 2.0, 8.0, 3.0])

    class Rows(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.scale = nn.Parameter(scale)

        def forward(self, x: Tensor) -> Tensor:
            return self.scale * x[:, 0].sum(2)

    found = class_margins(Rows(), (1, 4, 5), 4, MarginSearch(images=3, steps=400), seed=0)
    assert found.values == pytest.approx((5, 10, 40, 15))
    assert found.suspect == 2
    assert found.statistic == 1 - found.p_value
    short = [
        class_margins(Rows(), (1, 4, 5), 4, s, seed=0).values
        for s in (
            MarginSearch(3, 5),
            MarginSearch(4, 5),
            MarginSearch(3, 6),
            MarginSearch(3, 5, 0.02),
            MarginSearch(3, 5, 0.01, 0.5),
        )
    ]
    assert len(set(short)) == 5
    assert class_margins(Rows(), (1, 4, 5), 4, MarginSearch(3, 5), seed=1).values != short[0]


def test_the_p_value_is_that_of_the_largest_of_k_gamma_variables() -> None:
    values = [9.0, 2.0, 2.5, 3.0, 1.5]
    shape, _, scale = gamma.fit([2.0, 2.5, 3.0, 1.5], floc=0)
    assert outlier(values) == pytest.approx(1 - gamma.cdf(9.0, shape, scale=scale) ** 5, rel=1e-6)
    assert outlier([3.1, 2.0, 2.5, 3.0]) > 0.2
    assert outlier([1.0, 1.0, 1.0]) == 1.0
    assert outlier([2.0, 1.0, 1.0]) == 0.0
    assert outlier([-1.0, -2.0, 0.0]) == 1.0
    assert outlier([1.0, -2.0, 0.0]) == 0.0


@pytest.mark.parametrize(
    ("act", "message"),
    [
        (lambda: MaskSearch(interval=0), r"`interval` should be in 1\.\.300 steps\. Found 0"),
        (lambda: MaskSearch(patience=0), "`patience` should be at least 1 interval"),
        (lambda: MaskSearch(weight=0.0), "`weight` should be above 0"),
        (lambda: MaskSearch(least=1.5), r"`least` should be in \(0, 1\]\. Found 1\.5"),
        (lambda: ChangeSearch(steps=0), "`steps` should be at least 1"),
        (lambda: ChangeSearch(radius=0.0), r"`radius` should be in \(0, 1\]"),
        (lambda: MarginSearch(images=0), "`images` should be at least 1 for each class"),
        (lambda: MarginSearch(steps=0), "`steps` should be at least 1"),
        (lambda: MarginSearch(learning_rate=0.0), "`learning_rate` should be above 0"),
        (lambda: MarginSearch(momentum=1.0), r"`momentum` should be in \[0, 1\)"),
        (lambda: masks(MaskSearch(batch_size=9)), r"`batch_size` should have a place for each of 10 classes\. Found 9"),
        (lambda: class_margins(OnePixel(), (36,), 4, seed=0), r"`input_shape` should be that of images \(C, H, W\)"),
        (lambda: class_margins(OnePixel(), (1, 6, 6), 2, seed=0), "`num_classes` should be at least 3"),
    ],
)
def test_settings_that_cannot_be_are_refused(act, message) -> None:
    with pytest.raises(InputError, match=message):
        act()


def test_samples_that_cannot_be_searched_on_are_refused() -> None:
    flat = Samples(torch.rand(6, 4), torch.arange(6) % 3, 3)
    with pytest.raises(InputError, match=r"`samples` should be images \(C, H, W\) to search for triggers"):
        smallest_masks(nn.Linear(4, 3), flat, flat, seed=0)
    images = pool(4, (1, 6, 6), 0)
    with pytest.raises(InputError, match=r"`classes` should lie in 0\.\.3\. Found \(4,\)"):
        universal_changes(OnePixel(), images, images, seed=0, classes=(4,))
    alone = images.take(images.y == 2)
    with pytest.raises(InputError, match="`samples` should hold some that are not of class 2"):
        universal_changes(OnePixel(), images, alone, seed=0, classes=(2,))
