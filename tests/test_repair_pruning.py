"""Pruning: the right channels go, they stay at zero, and the rest trains as it would under PyTorch's own pruning."""

from dataclasses import replace
from functools import cache
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.utils import prune

from contracts.modules import assert_same_bits, odd_module, seeded, tensors_of, untouched
from fit_example import batches, gradient_plan, inputs, small, toy
from isthmus._check import InputError
from isthmus.models import build_model
from isthmus.probes import Clean as CleanProbe
from isthmus.rates import Rate
from isthmus.repair.masks.pruning import SHARES, FilterPruning, FinePruning, activity, prunable
from isthmus.repair.protocol import Clean, Repaired
from isthmus.repair.strength import strongest_within
from isthmus.settle import Recalibrate
from isthmus.training.plan import Plan
from isthmus.training.session import Session
from repair_example import suspects, trusted

Pruning = FilterPruning | FinePruning
PLAN = Plan(steps=6, batch_size=20, learning_rate=0.01)
EXACT = gradient_plan(steps=5, learning_rate=0.05, momentum=0.9)
CONVOLUTIONS = ("conv1", "conv2", "conv3")


def run(repair: Pruning, *, seed: int = 0) -> Repaired:
    with untouched(*suspects()):
        return repair(suspects()[:1], trusted(), seed=seed, session=Session())


@cache
def clean() -> Clean:
    held = toy(36)
    return Clean(held.take(torch.arange(24)), held.take(torch.arange(24, 36)))


def on_toy(repair: Pruning, module: nn.Module) -> Repaired:
    with untouched(module):
        return repair([module], clean(), seed=4, session=Session())


def gone(module: nn.Module, name: str) -> list[int]:
    """The channels whose filters are zero."""
    weight = module.get_submodule(name).weight
    return (weight.flatten(1) == 0).all(1).nonzero().flatten().tolist()


def smallest(weight: Tensor, count: int) -> list[int]:
    """The filters that PyTorch's own structured pruning by L1 norm takes."""
    layer = nn.Conv2d(weight.shape[1], weight.shape[0], 3, bias=False)
    layer.weight.data = weight.detach().clone()
    prune.ln_structured(layer, "weight", amount=count, n=1, dim=0)
    return (layer.weight_mask.flatten(1) == 0).all(1).nonzero().flatten().tolist()


@pytest.mark.parametrize("share", [0.0, 0.25, 0.5, 1.0])
def test_the_filters_of_least_norm_go_everywhere(share: float) -> None:
    found = run(FilterPruning(PLAN, shares=(share,)))
    for name in CONVOLUTIONS:
        weight = suspects()[0].get_submodule(name).weight
        count = min(round(share * len(weight)), len(weight) - 1)  # one always stays
        assert gone(found.module, name) == (smallest(weight, count) if count else []), name
    assert not (found.module.fc.weight == 0).any()
    assert found.note.startswith(f"{100 * share:g} % of the channels of 3 layer(s) at zero")


@pytest.mark.parametrize("repair", [FilterPruning(PLAN, shares=(0.5,)), FinePruning(PLAN, shares=(0.5,))])
def test_the_scale_and_shift_that_follow_go_too(repair: Pruning) -> None:
    module = run(repair).module
    channels = gone(module, "conv3")
    assert len(channels) == 16
    for tensor in (module.bn3.weight, module.bn3.bias):
        assert (tensor == 0).nonzero().flatten().tolist() == channels
    seen: list[Tensor] = []
    module.bn3.register_forward_hook(lambda *called: seen.append(called[-1]))
    module(trusted().validation.inputs())
    assert not seen[0][:, channels].any()


def rectified() -> nn.Module:
    """Two convolutions, the second one's ReLU a module of its own to be listened to, and a hidden linear layer."""
    with seeded(3):
        return nn.Sequential(
            nn.Conv2d(3, 4, 3, padding=1),
            nn.ReLU(inplace=True),
            nn.Conv2d(4, 8, 3, stride=2),
            nn.BatchNorm2d(8),
            nn.ReLU(inplace=True),
            nn.Flatten(),
            nn.Linear(72, 6),
            nn.ReLU(),
            nn.Linear(6, 5),
        ).eval()


def test_silent_channels_of_the_last_convolution_go_first() -> None:
    model, seen = rectified(), list[Tensor]()
    model[3].bias.data = torch.linspace(-1, 1, 8)[torch.randperm(8, generator=torch.Generator().manual_seed(0))]
    handle = model[5].register_forward_pre_hook(lambda _, args: seen.append(args[0].detach()))
    model(clean().train.inputs())
    handle.remove()
    total = seen[0].mean((0, 2, 3))
    layer = prunable(model, clean().train)[-1]
    torch.testing.assert_close(activity(model, layer, clean().train), total.double(), rtol=1e-5, atol=1e-7)
    found = on_toy(FinePruning(EXACT, shares=(0.5,)), model).module
    assert gone(found, "2") == sorted(total.argsort()[:4].tolist())
    assert gone(found, "0") == []


def test_activity_does_not_depend_on_how_samples_are_batched(monkeypatch: pytest.MonkeyPatch) -> None:
    model = rectified()
    layer = prunable(model, clean().train)[-1]
    once = activity(model, layer, clean().train)
    monkeypatch.setattr("isthmus.repair.masks.pruning._BATCH", 7)
    torch.testing.assert_close(activity(model, layer, clean().train), once, rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize("repair", [FilterPruning(EXACT, shares=(0.5,)), FinePruning(EXACT, shares=(0.5,))])
def test_the_rest_trains_as_under_pytorchs_own_pruning(repair: Pruning) -> None:
    """Masks on weight and bias, trained by PyTorch's SGD. tanh has a gradient at zero: nothing would stay there by itself."""
    found, model = on_toy(repair, small(0)).module, small(0)
    channels = gone(found, "0")
    assert len(channels) == 2
    keep = torch.ones(4, dtype=torch.float64)
    keep[channels] = 0
    prune.custom_from_mask(model[0], "weight", keep.view(4, 1, 1, 1).expand_as(model[0].weight))
    prune.custom_from_mask(model[0], "bias", keep)
    optimizer = torch.optim.SGD(model.parameters(), EXACT.learning_rate, EXACT.momentum)
    for index in batches(clean().train, EXACT, 4):
        optimizer.zero_grad()
        functional.cross_entropy(model(inputs(clean().train, index)), clean().train.y[index]).backward()
        optimizer.step()
    x = inputs(clean().train, torch.arange(24))
    torch.testing.assert_close(found(x), model(x), rtol=1e-9, atol=1e-11)
    torch.testing.assert_close(found[0].weight, model[0].weight_orig * model[0].weight_mask, rtol=1e-9, atol=1e-11)
    assert not found[0].bias[channels].any()


def test_the_share_is_the_largest_within_the_margin() -> None:
    validation = trusted().validation
    rates: list[Rate] = []
    for share in SHARES:
        model = build_model("cnn", num_classes=10, input_shape=(1, 8, 8), width=8, seed=0).eval()
        model.load_state_dict(suspects()[0].state_dict())
        for number in (1, 2, 3):
            layer, norm = model.get_submodule(f"conv{number}"), model.get_submodule(f"bn{number}")
            count = min(round(share * len(layer.weight)), len(layer.weight) - 1)
            channels = smallest(layer.weight, count) if count else []
            for tensor in (layer.weight, norm.weight, norm.bias):
                tensor.data[channels] = 0
        Recalibrate(trusted().train)(model)
        error = CleanProbe(validation, split="validation")(model)["validation_error"]
        rates.append(Rate(round((1 - error / 100) * 40), 40))
    shares = set()
    for margin in (0.0, 0.2, 1.0):
        share = SHARES[strongest_within(SHARES, rates, margin=margin)]
        found = run(FilterPruning(PLAN, margin=margin))
        assert found.note.startswith(
            f"{100 * share:g} % of the channels of 3 layer(s) at zero; validation accuracy before training "
        )
        assert (
            f"{100 * rates[SHARES.index(share)].value:.1f} %, at best {100 * max(r.value for r in rates):.1f} %"
            in found.note
        )
        shares.add(share)
    assert 0.95 in shares
    assert len(shares) > 1


@pytest.mark.parametrize("repair", [FilterPruning(PLAN, shares=(0.3,)), FinePruning(PLAN, shares=(0.3,))])
def test_what_is_returned_is_what_is_said(repair: Pruning) -> None:
    found = run(repair)
    assert (found.name, found.evaluations, found.choice) == (repair.name, 6, None)
    assert found.history is not None
    assert found.history.frame["step"].iloc[-1] == 6
    assert not found.module.training
    again = run(repair)
    assert_same_bits(tensors_of(again.module), tensors_of(found.module))
    Recalibrate(trusted().train)(again.module)
    torch.testing.assert_close(again.module.bn1.running_mean, found.module.bn1.running_mean)
    assert not torch.equal(run(repair, seed=1).module.fc.weight, found.module.fc.weight)
    assert run(replace(repair, name="other")).name == "other"


class Bottlenecked(nn.Module):
    """A stem used twice, a shortcut, and a convolution for a head."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.mix = nn.Conv2d(3, 3, 3, padding=1), nn.Conv2d(3, 3, 1)
        self.one, self.two, self.last = nn.BatchNorm2d(3), nn.BatchNorm2d(3), nn.Conv2d(3, 5, 1)

    def forward(self, x: Tensor) -> Tensor:
        h = torch.relu(self.one(self.stem(x)))
        h = torch.relu(self.two(self.stem(h)))
        return self.last(h + self.mix(h)).mean((2, 3))


@pytest.mark.parametrize(
    ("make", "names"),
    [
        (lambda: small(0), ["0.weight"]),
        (lambda: nn.Sequential(nn.Flatten(), nn.Linear(192, 6), nn.ReLU(), nn.Linear(6, 5)), ["1.weight"]),
        (rectified, ["0.weight", "2.weight"]),
        (Bottlenecked, ["stem.weight", "mix.weight"]),
        (lambda: odd_module(0), ["patches.weight"]),
    ],
    ids=["small", "linear", "rectified", "bottlenecked", "odd"],
)
def test_convolutions_may_be_pruned_or_else_hidden_units_but_no_head(make, names: list[str]) -> None:
    with seeded(0):
        model = make()
    with untouched(model):
        assert [layer.weight for layer in prunable(model, toy())] == names


def test_a_layer_used_twice_goes_with_both_of_its_normalisations() -> None:
    with seeded(0):
        stem = prunable(Bottlenecked(), toy())[0]
    assert set(stem.norms) == {"one.weight", "one.bias", "two.weight", "two.bias"}


def test_a_network_of_linear_layers_loses_units() -> None:
    with seeded(0):
        model = nn.Sequential(nn.Flatten(), nn.Linear(192, 6), nn.LayerNorm(6), nn.GELU(), nn.Linear(6, 5))
    found = on_toy(FilterPruning(EXACT, shares=(0.5,)), model).module
    assert gone(found, "1") == sorted(model[1].weight.detach().abs().sum(1).argsort()[:3].tolist())
    for tensor in (found[1].bias, found[2].weight, found[2].bias):
        assert (tensor == 0).nonzero().flatten().tolist() == gone(found, "1")
    silent = on_toy(FinePruning(EXACT, shares=(0.5,)), model).module
    unit = model[3](model[2](model[1](model[0](clean().train.inputs())))).abs().mean(0)
    assert gone(silent, "1") == sorted(unit.argsort()[:3].tolist())


@pytest.mark.parametrize("remedy", [FilterPruning, FinePruning])
def test_a_head_alone_has_nothing_to_prune(remedy: type[FilterPruning | FinePruning]) -> None:
    model = nn.Sequential(nn.Flatten(), nn.Linear(192, 5))
    with pytest.raises(
        InputError, match=r"`model` should have a convolution or a linear layer .* Found 1 layer\(s\) in all"
    ):
        on_toy(remedy(EXACT), model)


@pytest.mark.parametrize("remedy", [FilterPruning, FinePruning])
@pytest.mark.parametrize("shares", [(), (-0.1, 0.5), (0.5, 1.5)])
def test_shares_are_checked(remedy: type[FilterPruning | FinePruning], shares: tuple[float, ...]) -> None:
    with pytest.raises(InputError, match=r"`shares` should be one or more shares in \[0, 1\]\. Found \("):
        remedy(PLAN, shares=shares)


@pytest.mark.parametrize("repair", [FilterPruning(PLAN, shares=(0.3,)), FinePruning(PLAN, shares=(0.3,))])
def test_a_run_that_was_killed_ends_as_it_would_have(repair: Pruning, tmp_path: Path) -> None:
    session = Session(checkpoint=tmp_path / "checkpoint.pt")
    first, again = (repair(suspects()[:1], trusted(), seed=0, session=session) for _ in range(2))
    assert_same_bits(tensors_of(again.module), tensors_of(first.module))
    assert_same_bits(tensors_of(first.module), tensors_of(run(repair).module))
    with pytest.raises(InputError, match=r"`checkpoint` should belong to this run"):
        repair(suspects()[1:], trusted(), seed=0, session=session)
