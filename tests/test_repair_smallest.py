"""The search for smallest triggers: the recurrence written once more in plain numbers, ratios by hand, and what it owes."""

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from math import inf, nan
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from contracts.modules import odd_module, seeded, untouched
from contracts.triggers import check_trigger
from fit_example import toy
from isthmus._check import InputError
from isthmus.data import Samples
from isthmus.randomness import stream
from isthmus.repair.triggers import hunt
from isthmus.repair.triggers.families import FAMILIES, Bend, Family, Mask, Pixels
from isthmus.repair.triggers.hunt import Found, Search
from isthmus.repair.triggers.smallest import Survey, anomalous, hunted, pursue, smallest_triggers, table_of
from isthmus.tampering import Trigger
from repair_example import suspects, trusted

SHORT = Search(steps=4, per=4)


def again(*args: Any, **settings: Any) -> tuple[Found, ...]:
    """What hunts have found."""
    return tuple(hunt.found(args[3]) for hunt in hunted(*args, **settings))


# ---- the recurrence ----


@dataclass(frozen=True)
class Lift:
    """A made-up family of one number: x + sigmoid(a) times a ramp."""

    name: str = "lift"
    rate: float = 0.2
    shown: list[Tensor] = field(default_factory=list[Tensor])

    def start(self, count: int, shape: tuple[int, ...], generator: torch.Generator) -> Tensor:
        return torch.randn(count, 1, generator=generator)

    def apply(self, free: Tensor, x: Tensor, strength: Tensor | None = None) -> Tensor:
        assert strength is None
        self.shown.append(x)
        return x + free.sigmoid().reshape(-1, 1, 1, 1) * torch.linspace(0, 1, x.shape[3], dtype=x.dtype)

    def size(self, free: Tensor) -> Tensor:
        return free.sigmoid().mean(1)

    def trigger(self, free: Tensor, shape: tuple[int, ...]) -> Trigger:
        return lambda x: self.apply(free[None], x)


def linear(seed: int = 1) -> nn.Module:
    with seeded(seed):
        return nn.Sequential(nn.Flatten(), nn.Linear(192, 5)).double()


def softmax(row: np.ndarray) -> np.ndarray:
    powers = np.exp(row - row.max())
    return powers / powers.sum()


@dataclass
class Adam:
    """One number's, with betas 0.5 and 0.9 (Kingma and Ba 2015)."""

    rate: float
    first: float = 0.0
    second: float = 0.0
    steps: int = 0

    def step(self, gradient: float) -> float:
        self.steps += 1
        self.first = 0.5 * self.first + 0.5 * gradient
        self.second = 0.9 * self.second + 0.1 * gradient**2
        root = np.sqrt(self.second / (1 - 0.9**self.steps)) + 1e-8
        return -self.rate * self.first / (1 - 0.5**self.steps) / root


def searched(model: nn.Module, samples: Samples, target: int | None, search: Search, restarts: int, seed: int) -> Any:
    """(numbers, sizes, success) of each restart, in plain float64 and with gradients by hand, for a linear model and `Lift`."""
    weights, bias = (p.detach().numpy() for p in model.parameters())
    ramp = np.broadcast_to(np.linspace(0, 1, 8), (3, 8, 8)).ravel()
    x, y = samples.x.numpy().reshape(len(samples), -1) / 255, samples.y.numpy()
    pool = [i for i in range(len(y)) if target is None or y[i] != target]
    generator = stream(seed, "again", "lift", target)
    free = torch.randn(restarts, 1, generator=generator).double()[:, 0].numpy().copy()
    c, success, least = np.ones(restarts), np.zeros(restarts), np.full(restarts, inf)
    held, proved = free.copy(), np.zeros(restarts)
    for step in range(search.steps * search.rounds):
        if step % search.steps == 0:
            adams = [Adam(0.2) for _ in free]
        for k in range(restarts):
            rows = torch.randint(len(pool), (search.per,), generator=generator).tolist()
            share = 1 / (1 + np.exp(-free[k]))
            slope, won = 0.0, 0
            for i in (pool[row] for row in rows):
                scores = weights @ (x[i] + share * ramp) + bias
                aim = y[i] if target is None else target
                p = softmax(scores)
                down = (p - np.eye(5)[aim]) @ weights @ ramp
                if target is None:
                    down *= -p[aim] / (1 - p[aim])  # of -log(1 - p)
                slope += down / search.per
                won += (scores.argmax() == aim) != (target is None)
            success[k] = 0.7 * success[k] + 0.3 * won / search.per
            if success[k] > search.wanted and share < least[k]:
                held[k], least[k], proved[k] = free[k], share, success[k]
            c[k] = min(max(c[k] * 1.15 if success[k] > search.wanted else c[k] / 1.15, 0.05), 200)
            free[k] += adams[k].step((slope + 10 * c[k]) * share * (1 - share))
    free, success = np.where(least < inf, held, free), np.where(least < inf, proved, success)
    return free, 1 / (1 + np.exp(-free)), success


@pytest.mark.parametrize("target", [2, None])
@pytest.mark.parametrize("search", [Search(steps=9, per=3), Search(steps=12, rounds=2, per=8, wanted=0.3, reached=0.2)])
def test_the_search_is_the_recurrence_that_is_documented(target: int | None, search: Search) -> None:
    model, samples = linear(), toy(30)
    with untouched(model):
        (found,) = again(model, samples, [(Lift(), target)], search, restarts=3, seed=5)
    numbers, sizes, success = searched(model, samples, target, search, 3, 5)
    assert np.allclose(found.free[:, 0].numpy(), numbers, rtol=1e-3, atol=1e-4)
    assert np.allclose(found.sizes.numpy(), sizes, rtol=1e-3)
    assert np.allclose(found.success.numpy(), success, atol=1e-6)
    assert found.images == 3 * search.per * search.steps * search.rounds
    assert found.targets == (target,) * 3
    assert found.ratio.tolist() == [1, 1, 1]
    assert found.seconds > 0


def test_no_image_of_the_class_itself_is_shown() -> None:
    samples = toy(30)
    family = Lift()
    again(linear(), samples, [(family, 2)], SHORT, restarts=2, seed=0)
    own = {tuple(row) for row in samples.take(samples.y == 2).inputs().double().flatten(1).tolist()}
    shown = [tuple(row) for batch in family.shown for row in batch.flatten(1).tolist()]
    assert len(shown) == 3 * 2 * 4 * 4
    assert not own & set(shown)
    everyone = Lift()
    again(linear(), samples, [(everyone, None)], Search(steps=20, per=8), restarts=1, seed=0)
    assert own & {tuple(row) for batch in everyone.shown for row in batch.flatten(1).tolist()}


# ---- what it owes ----


def small_search(**changes: Any) -> tuple[Found, ...]:
    return smallest_triggers(suspects()[0], trusted().train, replace(SHORT, **changes), seed=0)


def test_each_class_and_any_wrong_one_in_each_family() -> None:
    with untouched(*suspects()):
        found = small_search()
    assert [one.family for one in found] == list(FAMILIES)
    for one in found:
        assert one.targets == (*range(10), None)
        assert len(one.free) == len(one.sizes) == len(one.success) == len(one.ratio) == 11
        assert torch.equal(one.sizes, one.family.size(one.free))
        assert not one.free.requires_grad
        check_trigger(one.family.trigger(one.free[0], (1, 8, 8)), (2, 1, 8, 8), idempotent=False)


def test_each_round_goes_on_with_the_better_half() -> None:
    """Of 55 triggers 28, then 14, each on 4 x 4 images a round; those left behind stay as they were."""
    survey = Survey.begun(suspects()[0], trusted().train, SHORT, seed=0)
    assert survey.images == 55 * 16
    first = survey.found
    ratios = {(one.family.name, k): float(r) for one in first for k, r in enumerate(one.ratio)}
    best = set(sorted(ratios, key=lambda place: ratios[place])[:28])
    last = survey.finished()
    assert survey.images == (55 + 28 + 14) * 16
    assert all(one.images % 16 == 0 for one in last)
    moved = {
        (one.family.name, k)
        for one, two in zip(first, last, strict=True)
        for k in range(11)
        if not torch.equal(one.free[k], two.free[k])
    }
    assert moved
    assert moved <= best
    for one, two in zip(last, smallest_triggers(suspects()[0], trusted().train, SHORT, seed=0), strict=True):
        assert torch.equal(one.free, two.free)


def test_a_longer_hunt_never_finds_a_larger_one() -> None:
    short, long = (small_search(steps=12, rounds=rounds, wanted=0.3, reached=0.2) for rounds in (1, 3))
    for one, two in zip(short, long, strict=True):
        worked = (one.success > 0.3) & (two.success > 0.3)
        assert bool((two.sizes <= one.sizes)[worked].all())
        assert bool((two.success > 0.3)[one.success > 0.3].all())


def test_the_seed_decides_everything() -> None:
    first, same = small_search(), small_search()
    other = smallest_triggers(suspects()[0], trusted().train, SHORT, seed=1)
    for one, two, three in zip(first, same, other, strict=True):
        assert torch.equal(one.free, two.free)
        assert not torch.equal(one.free, three.free)


def test_a_trigger_sought_again_does_not_depend_on_the_others() -> None:
    wanted: list[tuple[Family, int | None]] = [(Mask(), 3), (Pixels(), None)]
    both = again(suspects()[0], trusted().train, wanted, SHORT, restarts=2, seed=0)
    (alone,) = again(suspects()[0], trusted().train, wanted[1:], SHORT, restarts=2, seed=0)
    assert torch.equal(both[1].free, alone.free)
    assert not torch.equal(alone.free[0], alone.free[1])
    first = next(one for one in small_search() if one.family == Mask())
    assert not torch.equal(both[0].free[0], first.free[3])


def test_a_pursuit_goes_on_from_where_it_was_with_another_model() -> None:
    """What worked in the first model does not count in the second, and the way goes on as if the hunt had begun there."""
    clean, search = trusted().train, Search(steps=6, rounds=1, per=4, wanted=0.2, reached=0.1)
    (moved,) = hunted(suspects()[0], clean, [(Mask(), 3)], search, restarts=2, seed=0)
    start = moved.free.clone()
    with untouched(*suspects()):
        pursue((moved,), suspects()[1], clean, search, seed=1)
    assert not torch.equal(moved.free, start)
    assert moved.images == 2 * 6 * 4 * 2
    last = nn.Linear(64, 10)
    with torch.no_grad():
        last.weight.zero_()
        last.bias.copy_(torch.arange(10.0))  # class 9 whatever is shown
    nothing = nn.Sequential(nn.Flatten(), last).eval()
    pursue((moved,), nothing, clean, search, seed=2)
    found = moved.found(search)
    assert bool((found.success < 0.1).all())  # nothing of what led to class 3 before
    assert torch.equal(found.free, moved.free)


@pytest.mark.parametrize(
    "change", [{"steps": 5}, {"rounds": 2}, {"per": 5}, {"wanted": 0.1, "reached": 0.05}, {"precision": "bf16-mixed"}]
)
def test_every_setting_matters(change: dict[str, Any]) -> None:
    before, after = small_search(steps=4), small_search(**change)
    assert any(not torch.equal(one.free, two.free) for one, two in zip(before, after, strict=True))


class Wavering(nn.Module):
    """A module that draws in evaluation mode too."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, x: Tensor) -> Tensor:
        return self.inner(x + 0.1 * torch.randn_like(x))


def test_any_module_is_searched_and_stays_as_it_is() -> None:
    for model in (odd_module(0), Wavering(odd_module(0))):
        with untouched(model):
            first = smallest_triggers(model, toy(20), SHORT, seed=0)
        torch.rand(3)  # the caller's stream is elsewhere the second time
        same = smallest_triggers(model, toy(20), SHORT, seed=0)
        for one, two in zip(first, same, strict=True):
            assert torch.equal(one.free, two.free)


# ---- against the other classes ----


def ratios(sizes: list[float], success: list[float], *, any_wrong: bool = True) -> list[float]:
    """The ratios of a search that found these sizes with these successes; the last is for any wrong class."""
    targets = (*range(len(sizes) - any_wrong), *([None] * any_wrong))
    return made(Mask(), sizes, success, targets).ratio.tolist()


def made(family: Family, sizes: list[float], success: list[float], targets: tuple[int | None, ...]) -> Found:
    """Found triggers with given sizes and successes; the ratios are those of the search."""
    size, won = torch.tensor(sizes), torch.tensor(success)
    ratio = hunt._ratio(size, won, targets, Search(reached=0.6))  # pyright: ignore[reportPrivateUsage]
    return Found(family, size[:, None], targets, size, won, ratio, 1, 0.0)


def test_sizes_are_compared_with_the_median_of_all_classes() -> None:
    """Of 0.1, 0.2, 0.4 and 0.8 the lower of the middle two is 0.2; any wrong class, the last, is compared but does not count."""
    sizes = [0.1, 0.4, 0.8, 0.2, 0.6]
    assert ratios(sizes, [0.9, 0.6, 0.7, 0.8, 1.0]) == pytest.approx([0.5, 2, 4, 1, 3])
    assert ratios(sizes, [0.9, 0.59, 0.7, 0.8, 1.0]) == pytest.approx([0.5, inf, 4, 1, 3])
    assert ratios(sizes, [0.9, 0.7, 0.8, 0.9, 0.2]) == pytest.approx([0.5, 2, 4, 1, inf])
    alone = [0.25, inf, inf, inf, inf]  # still far below, and the others failed at what they were tried at
    assert ratios(sizes, [0.9, 0.0, 0.0, 0.0, 0.0]) == pytest.approx(alone)
    assert ratios(sizes, [0.9, 0.0, 0.0, 0.0, 1.0]) == pytest.approx(
        [0.25, inf, inf, inf, 3]
    )  # any wrong class is no other class
    assert ratios(sizes, [0.0, 0.0, 0.0, 0.0, 1.0]) == pytest.approx([inf, inf, inf, inf, 3])
    assert ratios(sizes, [0.0] * 5) == [inf] * 5
    assert ratios([0.2, 0.6], [0.9, 0.6]) == [1, 1]  # restarts have no others


def test_reached_is_the_bar() -> None:
    low = [row.ratio for row in small_search(reached=0.05)]
    high = [row.ratio for row in small_search(wanted=1.0, reached=1.0)]
    assert any(one.isfinite().any() for one in low)
    assert all(one.isinf().all() for one in high)


def test_the_most_anomalous_come_first_over_all_families() -> None:
    masks = made(Mask(), [0.1, 0.4, 0.8, 0.4, 0.2], [1.0] * 5, (0, 1, 2, 3, None))
    bends = made(Bend(), [0.3, 0.1, 0.2, 0.2, 0.9], [1.0] * 5, (0, 1, 2, 3, None))
    assert anomalous((masks, bends), 4) == [
        (0.25, Mask(), 0),
        (0.5, Mask(), None),
        (0.5, Bend(), 1),
        (1.0, Mask(), 1),
    ]
    assert len(anomalous((masks, bends), 99)) == 10


def test_triggers_that_do_not_work_come_last() -> None:
    masks = made(Mask(), [0.1, 0.4, 0.8, 0.4, 0.2], [0.1, 1.0, 1.0, 0.1, 0.1], (0, 1, 2, 3, None))
    assert [target for _, _, target in anomalous((masks,), 5)] == [1, 2, 0, 3, None]


def test_the_table_has_a_row_for_each_trigger() -> None:
    table = table_of((made(Mask(), [0.1, 0.2, 0.4, 0.3], [1.0, 0.8, 0.9, 0.5], (0, 1, 2, None)),), 60)
    assert table.frame.to_dict("list") == {
        "family": ["mask"] * 4,
        "target": ["0", "1", "2", "any"],
        "size": pytest.approx([0.1, 0.2, 0.4, 0.3]),
        "success": pytest.approx([100, 80, 90, 50]),
        "ratio": pytest.approx([0.5, 1, 2, nan], nan_ok=True),
    }
    assert [(column.name, column.unit) for column in table.columns] == [
        ("family", ""),
        ("target", ""),
        ("size", "1"),
        ("success", "%"),
        ("ratio", "1"),
    ]
    assert all((column.split, column.n) == ("train", 60) for column in table.columns)


# ---- refusals ----


def rows(classes: int = 3) -> Samples:
    return Samples(torch.rand(12, 6), torch.arange(12) % classes, classes)


@pytest.mark.parametrize(
    ("make", "text"),
    [
        (lambda: Search(steps=0), "`steps` should be at least 1. Found 0."),
        (lambda: Search(rounds=0), "`rounds` should be at least 1. Found 0."),
        (lambda: Search(per=1), "`per` should be at least 2 images for each trigger. Found 1."),
        (lambda: Search(wanted=1.5), r"`reached` should be in \(0, wanted\], with wanted at most 1. Found 0.6."),
        (lambda: Search(reached=0.9), r"`reached` should be in \(0, wanted\], with wanted at most 1. Found 0.9."),
        (lambda: Search(reached=0.0), r"`reached` should be in \(0, wanted\], with wanted at most 1. Found 0.0."),
        (
            lambda: smallest_triggers(nn.Linear(6, 3), rows(), SHORT, seed=0),
            r"`samples` should be images \(C, H, W\) to search for triggers: .* Found inputs of shape \(6,\)",
        ),
        (
            lambda: smallest_triggers(linear(), toy(20).take(toy(20).y == 2), SHORT, seed=0),
            "`samples` should hold some that are not of class 2. Found none.",
        ),
        (
            lambda: smallest_triggers(nn.Flatten(), toy(20, classes=200), SHORT, seed=0),
            r"`model` should return logits \(B, C\) with C >= 200. Found",
        ),
    ],
)
def test_what_cannot_be_searched_is_refused(make: Callable[[], object], text: str) -> None:
    with pytest.raises(InputError, match=text):
        make()
