"""Masks on channels: which there are, what they do to a forward pass, and what is left when they are closed for good."""

from collections.abc import Sequence
from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils import parametrizations

from contracts.modules import assert_same_bits, odd_module, tensors_of, untouched
from isthmus._check import InputError
from isthmus.data import Samples
from isthmus.models import build_model
from isthmus.probes import Clean as CleanProbe
from isthmus.repair.masks.masked import Channels, Knob, Masked, by_share, channels_of, closed, prune
from isthmus.repair.protocol import Clean
from isthmus.settle import Recalibrate
from isthmus.table import Column
from repair_example import fresh, suspects, trusted


def images(*shape: int) -> Samples:
    x = torch.linspace(0, 1, 2 * torch.Size(shape).numel()).view(2, *shape)
    return Samples(x, torch.tensor([0, 1]), 2)


def counts(module: nn.Module, *shape: int) -> dict[str, int]:
    with untouched(module):
        return dict(channels_of(module, images(*shape)).counts)


def built(name: str) -> nn.Module:
    return build_model(name, num_classes=10, input_shape=(3, 16, 16), seed=0, width=4)


def test_the_channels_are_those_of_the_norms() -> None:
    assert counts(fresh(0), 1, 8, 8) == {"bn1": 8, "bn2": 16, "bn3": 32}
    found = counts(built("resnet18"), 3, 16, 16)
    assert all("bn" in name or name.endswith("shortcut.1") for name in found)
    assert len(found) == 20


def test_without_a_norm_they_are_those_of_the_layers_but_for_the_last() -> None:
    assert counts(built("lenet"), 3, 16, 16) == {"conv1": 8, "conv2": 16, "fc1": 256}
    found = counts(built("preresnet:depth=8"), 3, 16, 16)
    # bn2 follows conv1 in a block, and the first bn1 the stem; conv2 and the shortcuts end in a sum
    assert {name.split(".")[-1] for name in found} == {"bn", "bn1", "bn2", "conv2", "0"}
    assert "fc" not in found
    assert "conv1" not in found


def test_tied_weights_count_once_and_what_is_computed_from_others_not_at_all() -> None:
    assert counts(odd_module(0), 3, 8, 8) == {"norm": 12, "inward": 12}
    net = nn.Sequential(nn.Flatten(), parametrizations.spectral_norm(nn.Linear(3, 4)), nn.Linear(4, 5), nn.Linear(5, 2))
    assert counts(net, 3, 1, 1) == {"2": 5}
    bare = nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4, affine=False), nn.Flatten(), nn.Linear(4, 2))
    assert counts(bare, 3, 1, 1) == {"0": 4}  # a norm without weights cannot be closed, the convolution before it can
    last = nn.Sequential(nn.Flatten(), nn.Linear(3, 4), nn.Linear(4, 2), nn.BatchNorm1d(2))
    assert counts(last, 3, 1, 1) == {"1": 4}  # nor may the norm of the logits be


def test_frozen_weights_have_masks_too() -> None:
    assert counts(fresh(0).requires_grad_(False), 1, 8, 8) == counts(fresh(0), 1, 8, 8)


@pytest.mark.parametrize("module", [nn.Sequential(nn.Flatten(), nn.Linear(3, 2)), nn.Flatten()])
def test_nothing_to_close_is_said(module: nn.Module) -> None:
    with pytest.raises(InputError, match=r"`suspects` should have BatchNorm, convolutions or .*Found none in"):
        channels_of(module, images(3, 1, 1))


@pytest.mark.parametrize("name", ["cnn", "lenet", "preresnet:depth=8"])
def test_masks_scale_outputs_less_biases_which_shifts_scale(name: str, generator: torch.Generator) -> None:
    module = built(name).double().train()
    x = torch.rand(4, 3, 16, 16, dtype=torch.float64, generator=generator)
    channels = channels_of(module, images(3, 16, 16))
    scale, shift = torch.rand(2, channels.total, generator=generator, dtype=torch.float64) * 2 - 0.5
    for layer in channels.counts:  # biases that are seen
        part = module.get_submodule(layer)
        if part.bias is not None:
            part.bias.data.uniform_(-1, 1, generator=generator)
    found = Masked(module, channels)(x, scale, shift)
    scales, shifts = channels.split(scale), channels.split(shift)

    def hook(layer: str):
        def change(part: nn.Module, args: object, output: Tensor) -> Tensor:
            shape = (1, -1, *[1] * (output.ndim - 2))
            bias = torch.zeros(output.shape[1]) if part.bias is None else part.bias
            return (output - bias.view(shape)) * scales[layer].view(shape) + (bias * shifts[layer]).view(shape)

        return change

    for layer in channels.counts:
        module.get_submodule(layer).register_forward_hook(hook(layer))
    torch.testing.assert_close(found, module(x))


@pytest.mark.parametrize("make", [fresh, odd_module])
def test_closing_for_good_is_a_mask_of_zeros(make, generator: torch.Generator) -> None:
    module, shape = make(0).eval(), (1, 8, 8) if make is fresh else (3, 8, 8)
    channels = channels_of(module, images(*shape))
    shut = torch.rand(channels.total, generator=generator) < 0.3
    with untouched(module):
        found = closed(module, channels, shut)
    x = torch.rand(3, *shape, generator=generator)
    expected = Masked(make(0).eval(), channels)(x, 1 - shut.float())
    torch.testing.assert_close(found(x), expected)
    assert found.state_dict().keys() == module.state_dict().keys()


def test_all_but_the_closed_rows_keep_their_bits() -> None:
    module = suspects()[0]
    channels = Channels({"bn1": 8, "bn3": 32})
    shut = torch.zeros(40, dtype=torch.bool)
    shut[[2, 8, 39]] = True
    for tensors, changed in ((("weight",), {"weight"}), (("weight", "bias"), {"weight", "bias"})):
        expected = {name: tensor.clone() for name, tensor in tensors_of(module).items()}
        for name in changed:
            expected[f"bn1.{name}"][2] = 0
            expected[f"bn3.{name}"][[0, 31]] = 0
        assert_same_bits(tensors_of(closed(module, channels, shut, tensors=tensors)), expected)


def test_the_lowest_masks_are_closed_first_and_ties_by_their_mean() -> None:
    masks, means = torch.tensor([0.0, 0.3, 0.0, 1.0, 0.5]), torch.tensor([0.2, 0.1, 0.1, 0.0, 0.9])
    knob = by_share(masks, means, (0.2, 0.4, 0.7, 0.8, 1.0))
    closed = [set(shut.nonzero().flatten().tolist()) for shut in knob.shut]
    assert closed == [
        set(),
        {2},
        {2, 0},
        {2, 0, 1, 4},
        {2, 0, 1, 4},
        {2, 0, 1, 4},
    ]  # never a mask of 1; 0.7 of 5 rounds to 4
    assert list(knob.values) == [None, 0.2, 0.4, 0.7, 0.8, 1.0]


@pytest.mark.parametrize("shares", [(), (0.0, 0.5), (0.5, 0.2), (0.5, 1.2)])
def test_shares_that_do_not_rise_are_refused(shares: tuple[float, ...]) -> None:
    with pytest.raises(InputError, match=r"`shares` should rise within \(0, 1\]. Found \("):
        by_share(torch.ones(3), torch.ones(3), shares)


def one_hot(per_class: Sequence[int], shift: float) -> Samples:
    y = torch.arange(len(per_class)).repeat_interleave(torch.tensor(per_class))
    x = nn.functional.one_hot(y, len(per_class)).float() + shift * torch.arange(1, len(y) + 1)[:, None]
    return Samples(x, y, len(per_class))


def identity(classes: int) -> nn.Module:
    """Hidden unit k stands for class k; with it closed, images of class k > 0 look like class 0."""
    net = nn.Sequential(*(nn.Linear(classes, classes, bias=False) for _ in range(2)))
    for layer in net:
        nn.init.eye_(layer.weight)
    return net.eval()


# Of 200 validation images 100, 90, 8 and 2 are of the classes; the units close from the last to the first.
@pytest.mark.parametrize(("margin", "expected"), [(0.0, 0), (0.01, 1), (0.04, 1), (0.05, 2), (0.49, 2), (0.5, 3)])
def test_the_strongest_that_validation_allows_is_taken(margin: float, expected: int) -> None:
    module, channels = identity(4), Channels({"0": 4})
    clean = Clean(one_hot([1, 1, 1, 1], 0.3), one_hot([100, 90, 8, 2], 1e-4))
    shut = [torch.arange(4) > 3 - k for k in range(4)]
    knob = Knob(Column("k"), (None, 1.0, 2.0, 3.0), shut)
    with untouched(module):
        found = prune(module, channels, knob, clean, margin=margin)
    assert found.table.values("closed") == [0, 1, 2, 3]
    assert found.table.values("validation_error") == pytest.approx([0, 1, 5, 50])
    assert found.table.column("validation_error").n == 200
    assert found.note.startswith(f"{expected} of 4 channels closed (k {'none' if expected == 0 else expected}): val")
    assert f"{100 - [0, 1, 5, 50][expected]:.1f} % (" in found.note
    assert_same_bits(tensors_of(found.module), tensors_of(closed(module, channels, shut[expected])))


def test_settings_that_close_as_many_are_measured_once() -> None:
    clean, calls = trusted(), list[int]()
    module = fresh(0).eval()
    module.register_forward_hook(lambda *_: calls.append(1))
    channels = channels_of(module, clean.train)
    calls.clear()
    masks = torch.ones(channels.total)
    masks[0] = 0.2
    found = prune(module, channels, by_share(masks, masks, (0.001, 0.002, 0.02, 0.5)), clean, margin=1.0)
    assert len(calls) - 2 in (0, 2)  # two measurements; the layout of the input may be tried before each
    assert found.table.values("closed") == [0, 0, 0, 1, 1]


def test_statistics_are_settled_where_channels_are_closed() -> None:
    module, clean = suspects()[0], trusted()
    channels, settle = channels_of(module, clean.train), Recalibrate(clean.train)
    masks = torch.linspace(0, 1, channels.total)
    knob = by_share(masks, masks, (0.1,))
    expected = closed(module, channels, knob.shut[1])
    settle(expected)
    found = prune(module, channels, knob, clean, margin=1.0, settle=settle)
    assert_same_bits(tensors_of(found.module), tensors_of(expected))
    error = CleanProbe(clean.validation, split="validation")(expected)["validation_error"]
    assert found.table.values("validation_error")[1] == error
    nothing = replace(knob, values=(None,), shut=knob.shut[:1])
    kept = prune(module, channels, nothing, clean, margin=1.0, settle=settle)
    assert_same_bits(tensors_of(kept.module), tensors_of(module))
