"""REPAIR against moments taken by hand, layer by layer, in float64."""

import copy

import pytest
import torch
from torch import Tensor, nn

from contracts.modules import assert_same_bits, odd_module, scaled, seeded, tensors_of, untouched
from isthmus._check import InputError
from isthmus.data import Samples
from isthmus.geometry.build import line, simplex
from isthmus.renormalize import Renormalized, renormalize
from isthmus.settle import Recalibrate


def images(count: int = 24, *, shape: tuple[int, ...] = (3, 8, 8)) -> Samples:
    x = torch.rand(count, *shape, generator=torch.Generator().manual_seed(0))
    return Samples(x, torch.arange(count) % 4, 4, "drawn/train")


def perceptron(seed: int) -> nn.Module:
    with seeded(seed):
        layers = nn.Linear(192, 7), nn.ReLU(inplace=True), nn.Linear(7, 6), nn.Tanh(), nn.Linear(6, 4)
        return nn.Sequential(nn.Flatten(), *layers).double()


def convolutional(seed: int) -> nn.Module:
    with seeded(seed):
        first = nn.Conv2d(3, 6, 3), nn.ReLU(), nn.Conv2d(6, 8, 3, groups=2), nn.ReLU(), nn.Dropout(0.5)
        return nn.Sequential(*first, nn.Flatten(), nn.Linear(128, 5), nn.ReLU(), nn.Linear(5, 4)).double()


def outputs(module: nn.Module, samples: Samples) -> dict[str, Tensor]:
    """Channels (C, R) of each layer by running the parts of a Sequential one after the other."""
    assert isinstance(module, nn.Sequential)
    x, found = samples.inputs().double(), dict[str, Tensor]()
    for name, part in copy.deepcopy(module).eval().named_children():
        x = part(x)
        if isinstance(part, nn.Linear | nn.Conv2d):
            found[name] = x.detach().clone().movedim(1, 0).flatten(1)
    return found


def outcome(made: Renormalized) -> tuple[tuple[str, ...], ...]:
    return made.corrected, made.normalised, made.left


@pytest.mark.parametrize("batch_size", [500, 7])
@pytest.mark.parametrize("make", [perceptron, convolutional])
@pytest.mark.parametrize("weights", [(0.5, 0.5), (0.2, 0.8), (0.2, 0.3, 0.5)])
def test_every_hidden_channel_has_the_mixed_moments(make, weights, batch_size):
    samples, ends = images(), [make(seed) for seed in range(len(weights))]
    mixed = simplex(ends).at(weights[1:])
    with untouched(mixed, *ends):
        made = renormalize(mixed, ends, weights, samples, batch_size=batch_size)
    of_ends, found = [outputs(end, samples) for end in ends], outputs(made.module, samples)
    *hidden, last = found
    assert made.corrected == tuple(hidden)
    assert made.left == (f"{last}: the last layer, which gives the logits",)
    for name in hidden:
        for moment in (Tensor.mean, lambda x, axis: x.std(axis, correction=0)):
            target = sum(w * moment(held[name], 1) for w, held in zip(weights, of_ends, strict=True))
            torch.testing.assert_close(moment(found[name], 1), target, rtol=1e-9, atol=1e-9)
    before = outputs(mixed, samples)
    assert not torch.allclose(before[hidden[-1]].std(1), found[hidden[-1]].std(1), rtol=0.05)
    assert torch.equal(made.module[int(last)].weight, mixed[int(last)].weight)


@pytest.mark.parametrize("end", [0, 1])
def test_at_an_end_it_is_the_end(end):
    ends = [convolutional(seed) for seed in range(2)]
    made = renormalize(ends[end], ends, (1.0 - end, float(end)), images())
    x = images().inputs().double()
    torch.testing.assert_close(made.module.eval()(x), ends[end].eval()(x), rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_channels_without_spread_get_their_mean_alone(dtype):
    """A unit that is dead in the mixture but not at the ends, and one that is dead at the ends but not in the mixture."""
    ends = [perceptron(seed).to(dtype) for seed in range(2)]
    mixed = line(ends).at(0.5)
    with torch.no_grad():
        mixed[1].weight[2] = 0
        for model in ends:
            model[1].weight[3] = 0
    made = renormalize(mixed, ends, (0.5, 0.5), images()).module
    targets = [outputs(end.double(), images())["1"] for end in ends]
    found = outputs(made.double(), images())["1"]
    torch.testing.assert_close(found.mean(1), (targets[0].mean(1) + targets[1].mean(1)) / 2, rtol=1e-4, atol=1e-6)
    assert torch.equal(made[1].weight[2], torch.zeros(192).double())
    assert float(found[3].std()) < 1e-6
    assert all(bool(p.isfinite().all()) for p in made.parameters())


@pytest.mark.parametrize("scale", [0.0, 1e-8, 1e8])
def test_any_scale(scale):
    ends = [scaled(convolutional(seed), scale) for seed in range(2)]
    made = renormalize(line(ends).at(0.5), ends, (0.5, 0.5), images())
    found, of_ends = outputs(made.module, images()), [outputs(end, images()) for end in ends]
    for name in made.corrected:
        target = sum(held[name].std(1) for held in of_ends) / 2
        torch.testing.assert_close(found[name].std(1), target, rtol=1e-6, atol=1e-12)


class Mixed(nn.Module):
    """(B, 3, 8, 8) -> (B, 4): a convolution that BatchNorm follows, one before a ReLU in place and BatchNorm, one without a bias."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, 4, 3, bias=False)
        self.norm = nn.BatchNorm2d(4)
        self.second = nn.Conv2d(4, 5, 3)
        self.relu = nn.ReLU(inplace=True)
        self.late = nn.BatchNorm2d(5)
        self.bare = nn.Linear(5, 6, bias=False)
        self.hidden = nn.Linear(6, 5)
        self.final = nn.BatchNorm1d(5)
        self.head = nn.Linear(5, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = self.late(self.relu(self.second(torch.relu(self.norm(self.first(x))))))
        x = torch.relu(self.hidden(torch.relu(self.bare(x.mean((2, 3))))))
        return self.head(self.final(x))


def of_two_kinds(seed: int) -> nn.Module:
    with seeded(seed):
        module = Mixed().double()
    Recalibrate(images())(module)
    return module


def seen(module: nn.Module, name: str, samples: Samples) -> Tensor:
    held: list[Tensor] = []
    module = copy.deepcopy(module).eval()
    module.get_submodule(name).register_forward_hook(lambda _layer, _given, out: held.append(out.detach().clone()))
    with torch.no_grad():
        module(samples.inputs().double())
    return held[0].movedim(1, 0).flatten(1)


def test_batch_norm_is_recomputed_on_the_way():
    samples, ends = images(), [of_two_kinds(seed) for seed in range(2)]
    made = renormalize(line(ends).at(0.5), ends, (0.5, 0.5), samples)
    assert outcome(made) == (
        ("second", "hidden"),
        ("first",),
        ("bare: has no bias to take the shift", "head: the last layer, which gives the logits"),
    )
    for name in made.corrected:
        target = [
            (one + two) / 2 for one, two in zip(*(moments(seen(end, name, samples)) for end in ends), strict=True)
        ]
        torch.testing.assert_close(moments(seen(made.module, name, samples)), tuple(target))
    again = copy.deepcopy(made.module)
    Recalibrate(samples)(again)
    assert_same_bits(tensors_of(again), tensors_of(made.module))  # no statistics are left of before a correction
    one, two = (seen(end, "norm", samples).mean(1) for end in ends)
    torch.testing.assert_close(seen(made.module, "norm", samples).mean(1), (one + two) / 2, rtol=1e-4, atol=1e-4)


def moments(values: Tensor) -> tuple[Tensor, Tensor]:
    return values.mean(1), values.std(1, correction=0)


class Own(nn.Linear):
    """Standardises its weights, so that scaling them does nothing."""

    def forward(self, x: Tensor) -> Tensor:
        return nn.functional.linear(x, self.weight / self.weight.norm(), self.bias)


class Odd(nn.Module):
    """(B, 3, 8, 8) -> (B, 4) by layers that cannot be corrected."""

    def __init__(self) -> None:
        super().__init__()
        self.up = nn.ConvTranspose2d(3, 3, 2)
        self.twice = nn.Conv2d(3, 3, 1)
        self.own = Own(3, 5)
        self.one, self.two = nn.Linear(5, 5), nn.Linear(5, 5)
        self.two.weight = self.one.weight
        self.computed = nn.utils.parametrizations.weight_norm(nn.Linear(5, 5))
        self.never = nn.Linear(2, 2)
        self.head = nn.Linear(5, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = self.own(self.twice(torch.relu(self.twice(self.up(x)))).mean((2, 3)))
        return self.head(torch.relu(self.computed(self.two(torch.relu(self.one(x))))))


def test_what_cannot_be_corrected_is_left_and_said():
    with seeded(0):
        ends = [Odd(), Odd()]
    made = renormalize(ends[0], ends, (0.5, 0.5), images())
    assert outcome(made) == (
        (),
        (),
        (
            "up: ConvTranspose2d is not handled",
            "twice: called 2 times in a forward pass",
            "own: Own has a forward of its own",
            "one: shares its weight or bias with another",
            "two: shares its weight or bias with another",
            "computed: its weight or bias is computed from others",
            "never: never called by the forward pass",
            "head: the last layer, which gives the logits",
        ),
    )
    assert_same_bits(tensors_of(made.module), tensors_of(ends[0]))


def test_any_module_and_nothing_of_the_callers_changes():
    ends = [odd_module(seed) for seed in range(2)]
    mixed = line(ends).at(0.5)
    with untouched(mixed, *ends):
        made = renormalize(mixed, ends, (0.5, 0.5), images())
    assert made.normalised == ("patches",)
    assert made.corrected == ()
    assert {text.split(":")[0] for text in made.left} == {"inward", "outward", "attention.out_proj", "head"}


class Wandering(nn.Module):
    """Calls its layer once or twice, by its weights."""

    def __init__(self, times: int) -> None:
        super().__init__()
        self.layer, self.head = nn.Linear(4, 4), nn.Linear(4, 4)
        self.register_buffer("times", torch.tensor(times))

    def forward(self, x: Tensor) -> Tensor:
        for _ in range(int(self.times)):
            x = self.layer(x)
        return self.head(x)


def test_errors():
    samples, ends = images(), [perceptron(seed) for seed in range(2)]
    for weights in [(0.5,), (0.5, 0.6), (-0.5, 1.5), (float("nan"), 1.0)]:
        with pytest.raises(
            InputError, match=r"`weights` should be 2 numbers, one per end, at least 0 and of sum 1\. Found \("
        ):
            renormalize(ends[0], ends, weights, samples)
    with pytest.raises(InputError, match=r"`samples` should hold at least 2 images to measure a spread\. Found 1\."):
        renormalize(ends[0], ends, (0.5, 0.5), images(1))
    with pytest.raises(InputError, match=r"`ends\[1\]` should have"):
        renormalize(ends[0], [ends[0], convolutional(0)], (0.5, 0.5), samples)
    with torch.no_grad():
        ends[1][1].bias[0] = torch.inf
    with pytest.raises(
        InputError, match=r"`module` should have finite activations, at the ends too, in '1'\. Found NaN or infinity\."
    ):
        renormalize(ends[0], ends, (0.5, 0.5), samples)
    ways = [Wandering(1), Wandering(2)]
    with pytest.raises(
        InputError, match=r"`ends` should call 'layer' once .*, like the mixture\. Found 2 calls in 1 passes\."
    ):
        renormalize(ways[0], ways, (0.5, 0.5), images(shape=(4,)))
