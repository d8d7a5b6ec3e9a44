"""Groups of hidden units found by watching: those that can be counted on paper, and none that changes the function."""

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from contracts.modules import odd_module, untouched
from isthmus._check import InputError
from isthmus.geometry.permute import permuted, random_permutations
from isthmus.geometry.symmetry import symmetry_of
from isthmus.geometry.units import Group, Symmetry
from isthmus.models import MODELS, build_model
from symmetry_example import (
    Biased,
    Channelled,
    Forked,
    Grouped,
    Hidden,
    Restrided,
    Scaled,
    Sorted,
    Squeezed,
    Written,
    made,
)

# On paper: one group per hidden layer; of residual networks one per stage and one per inner convolution of a block; of the transformer
# one for the stream of tokens and per block the heads, the places within a head, and the hidden layer of the network.
ZOO = {
    "cnn": (4, [4, 8, 16]),
    "lenet": (2, [4, 8, 128]),
    "mlp": (16, [16] * 3),
    "preresnet": (4, [4] * 5 + [8] * 5 + [16] * 5),
    "preresnet:depth=56": (4, [4] + [16] + [4] * 12 + [32] + [8] * 12 + [64] + [16] * 12),
    "resnet18": (4, [4] * 3 + [8] * 3 + [16] * 3 + [32] * 3),
    "resnet20": (4, [4] * 4 + [8] * 4 + [16] * 4),
    "vgg11": (4, [4, 8] + [16] * 2 + [32] * 4),
    "vgg11-bn": (4, [4, 8] + [16] * 2 + [32] * 4),
    "vgg16": (4, [4] * 2 + [8] * 2 + [16] * 3 + [32] * 8),
    "vgg16-bn": (4, [4] * 2 + [8] * 2 + [16] * 3 + [32] * 8),
    "vit": (24, [24] + [3, 8, 96] * 6),
}


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def drawn(*shape: int) -> Tensor:
    return torch.rand(shape, generator=generator(1))


def found(module: nn.Module, *shape: int) -> Symmetry:
    with untouched(module):
        return symmetry_of(module, drawn(*shape), generator=generator())


def axes(group: Group) -> set[tuple[str, int]]:
    return {(member.tensor, member.axis) for member in group.members}


def test_every_architecture_of_the_zoo_is_in_the_table() -> None:
    assert {name.partition(":")[0] for name in ZOO} == set(MODELS)


@pytest.mark.parametrize("name", ZOO)
def test_groups_of_the_zoo_are_those_on_paper_and_leave_the_outputs(name: str) -> None:
    width, sizes = ZOO[name]
    module = build_model(name, num_classes=10, input_shape=(3, 32, 32), width=width).eval()
    symmetry = found(module, 2, 3, 32, 32)
    assert sorted(group.size for group in symmetry.groups) == sorted(sizes)
    assert symmetry.unpermuted == ()
    x = drawn(3, 3, 32, 32)
    copy = permuted(module, symmetry, random_permutations(symmetry, generator(2)))
    moved = [n for n, p in copy.named_parameters() if not torch.equal(p, dict(module.named_parameters())[n])]
    assert len(moved) > len(sizes)
    with torch.no_grad():
        expected, outputs = module(x), copy(x)
    assert float((outputs - expected).abs().max()) <= 1e-5 * max(1.0, float(expected.abs().max()))


def test_a_residual_stage_is_one_group_with_all_that_is_tied_to_it() -> None:
    module = build_model("resnet18", num_classes=10, input_shape=(3, 8, 8), width=4)
    stage = next(g for g in found(module, 2, 3, 8, 8).groups if ("conv1.weight", 0) in axes(g))
    norms = [
        f"{n}.{t}"
        for n in ("bn1", "layer1.0.bn2", "layer1.1.bn2")
        for t in ("weight", "bias", "running_mean", "running_var")
    ]
    written = {("conv1.weight", 0), ("layer1.0.conv2.weight", 0), ("layer1.1.conv2.weight", 0)}
    read = {(f"layer1.{k}.conv1.weight", 1) for k in range(2)} | {("layer2.0.conv1.weight", 1)}
    shortcut = {name for name, p in module.named_parameters() if p.shape == (8, 4, 1, 1)}
    assert axes(stage) == written | read | {(name, 1) for name in shortcut} | {(name, 0) for name in norms}


def test_concatenation_depthwise_convolution_and_group_norm() -> None:
    symmetry = found(made(Forked), 2, 3, 8, 8)
    assert sorted(group.size for group in symmetry.groups) == [2, 4, 4, 6]
    six = next(group for group in symmetry.groups if group.size == 6)
    after = {"depthwise.weight", "depthwise.bias", "norm.weight", "norm.bias", "norm.running_mean", "norm.running_var"}
    assert axes(six) == {("left.weight", 0), ("left.bias", 0), ("mix.weight", 1)} | {(name, 0) for name in after}
    four = next(group for group in symmetry.groups if ("right.weight", 0) in axes(group))
    places = {member.tensor: member.places for member in four.members}
    assert places["right.weight"].flatten().tolist() == [0, 1, 2, 3]
    assert places["norm.weight"].flatten().tolist() == [6, 7, 8, 9]  # behind the six of the other branch
    pairs = next(group for group in symmetry.groups if group.size == 4 and group is not four)
    assert {m.tensor: m.places for m in pairs.members}["mix.weight"].tolist() == [[0, 1], [2, 3], [4, 5], [6, 7]]
    head = {m.tensor: m.places for m in pairs.members}["head.weight"]
    assert head[1].tolist() == list(range(32, 64))  # channels 2 and 3, sixteen places each


def test_groups_of_a_convolution_move_whole_and_its_channels_alike_in_each() -> None:
    symmetry = found(made(Grouped), 2, 2, 4, 4)
    # groups; channels in, within a group; channels out, within a group; the layer after
    assert sorted(group.size for group in symmetry.groups) == [2, 3, 4, 5]
    inner = next(group for group in symmetry.groups if group.size == 3)
    assert axes(inner) == {("inward.weight", 0), ("inward.bias", 0), ("grouped.weight", 1)}
    assert {m.tensor: m.places for m in inner.members}["inward.weight"].tolist() == [[0, 3], [1, 4], [2, 5]]
    shuffled = next(group for group in symmetry.groups if group.size == 4)
    # after the shuffle a group's channel k stands at places 2 k and 2 k + 1
    assert {m.tensor: m.places for m in shuffled.members}["outward.weight"].tolist() == [[0, 1], [2, 3], [4, 5], [6, 7]]


def test_tied_weights_attention_and_indexed_tokens() -> None:
    symmetry = found(odd_module(0), 2, 3, 8, 8)
    assert sorted(group.size for group in symmetry.groups) == [2, 6, 12]  # heads, places in a head, the stream
    assert {("inward.weight", 0), ("inward.weight", 1)} < axes(next(g for g in symmetry.groups if g.size == 12))


def test_what_has_no_rule_stays_and_is_named() -> None:
    symmetry = found(made(Sorted), 2, 6)
    assert [group.size for group in symmetry.groups] == [4]
    told = {"first.weight[0]: topk", "first.bias[0]: topk", "second.weight[1]: topk"}
    assert set(symmetry.unpermuted) <= told
    assert len(symmetry.unpermuted) >= 2


def test_a_group_that_changes_the_outputs_is_left_out_and_named() -> None:
    symmetry = found(made(Hidden), 2, 6)
    assert [sorted(axes(group)) for group in symmetry.groups] == [
        [("head.weight", 1), ("second.bias", 0), ("second.weight", 0)]
    ]
    assert set(symmetry.unpermuted) == {
        "first.weight[0]: a permutation changes the outputs",
        "first.bias[0]: a permutation changes the outputs",
    }


def test_squeeze_and_excitation_in_an_inverted_residual_block() -> None:
    symmetry = found(made(Squeezed), 2, 3, 8, 8)
    assert symmetry.unpermuted == ()
    groups = {group.size: axes(group) for group in symmetry.groups}
    norm = {(f"norm.{name}", 0) for name in ("weight", "bias", "running_mean", "running_var")}
    assert groups == {
        6: {("stem.weight", 0), ("expand.weight", 1), ("project.weight", 0), ("head.weight", 1)},
        12: norm
        | {("expand.weight", 0), ("depthwise.weight", 0), ("reduce.weight", 1), ("project.weight", 1)}
        | {("widen.weight", 0), ("widen.bias", 0)},
        5: {("reduce.weight", 0), ("reduce.bias", 0), ("widen.weight", 1)},
    }


def test_channels_last_norm_and_layer_scale() -> None:
    symmetry = found(made(Scaled), 2, 3, 8, 8)
    assert symmetry.unpermuted == ()
    groups = {group.size: axes(group) for group in symmetry.groups}
    stream = {("stem.weight", 0), ("stem.bias", 0), ("depthwise.weight", 0), ("depthwise.bias", 0), ("gamma", 0)}
    inside = {("norm.weight", 0), ("norm.bias", 0), ("wide.weight", 1), ("back.weight", 0), ("back.bias", 0)}
    assert groups == {
        6: stream | inside | {("head.weight", 1)},
        24: {("wide.weight", 0), ("wide.bias", 0), ("back.weight", 1)},
    }


def test_heads_of_fused_attention_move_with_their_learned_biases() -> None:
    symmetry = found(made(Biased), 2, 6)
    assert sorted(group.size for group in symmetry.groups) == [2, 4, 8]
    heads = next(group for group in symmetry.groups if group.size == 2)
    assert axes(heads) == {("qkv.weight", 0), ("qkv.bias", 0), ("bias", 0), ("project.weight", 1)}
    places = {m.tensor: m.places for m in heads.members}
    assert places["qkv.bias"].tolist() == [
        [*range(4), *range(8, 12), *range(16, 20)],
        [*range(4, 8), *range(12, 16), *range(20, 24)],
    ]
    assert symmetry.unpermuted == ("bias[1]: taken by place",)


def test_channels_that_are_convolved_over_stay_and_are_named_as_unused_tensors_are() -> None:
    symmetry = found(made(Channelled), 2, 3, 4, 4)
    assert [axes(group) for group in symmetry.groups] == [
        {("hidden.weight", 0), ("hidden.bias", 0), ("head.weight", 1)}
    ]
    over = {f"{name}: convolved over" for name in ("stem.weight[0]", "stem.bias[0]", "hidden.weight[1]")}
    assert set(symmetry.unpermuted) == over | {"spare: not used"}


@pytest.mark.parametrize(("kind", "units"), [("places", 5), ("truth", 0)])
def test_an_index_of_two_axes_replaces_one_axis_or_picks_from_two(kind: str, units: int) -> None:
    index = torch.tensor([[0, 1], [2, 3]]) if kind == "places" else torch.ones(5, 4, dtype=torch.bool)

    class Indexed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.head = nn.Linear(4, 5), nn.Linear(20, 2)

        def forward(self, x: Tensor) -> Tensor:
            table = self.first(x[:, None].expand(-1, 4, -1)).mT  # (B, 5, 4)
            return self.head(table[:, :, index].flatten(1) if kind == "places" else table[:, index])

    symmetry = found(made(Indexed), 2, 4)
    assert [group.size for group in symmetry.groups] == [units] * (units > 0)
    assert symmetry.unpermuted == () if units else "first.weight[0]: taken by place" in symmetry.unpermuted


def test_units_written_into_a_tensor_are_followed() -> None:
    symmetry = found(made(Written), 2, 6)
    places = [{(m.tensor, m.axis): m.places.flatten().tolist() for m in group.members} for group in symmetry.groups]
    assert [held["head.weight", 1] for held in places] == [[0, 1, 2, 3], [4, 5, 6]]


def test_a_view_by_strides_that_is_a_transposition_is_found_out() -> None:
    symmetry = found(made(Restrided), 2, 6)
    assert symmetry.groups == ()
    assert any(told == "first.weight[0]: a permutation changes the outputs" for told in symmetry.unpermuted)


@pytest.mark.parametrize(
    ("layer", "units"),
    [
        (nn.PReLU(8), 8),
        (nn.Hardswish(), 8),
        (nn.SiLU(inplace=True), 8),
        (nn.GLU(1), 4),
        (nn.InstanceNorm2d(8, affine=True), 8),
        (nn.BatchNorm2d(8, track_running_stats=False), 8),
        (nn.LayerNorm([8, 6, 6]), 8),
        (nn.Softmax2d(), 8),
        (nn.AdaptiveAvgPool2d(2), 8),
        (nn.LPPool2d(2, 2), 8),
        (nn.Upsample(scale_factor=2), 8),
        (nn.ZeroPad2d(1), 8),
        (nn.ConvTranspose2d(8, 8, 2, stride=2), 8),
        (nn.LocalResponseNorm(2), 0),
        (nn.PixelShuffle(2), 0),
    ],
)
def test_layers_between_a_convolution_and_a_head(layer: nn.Module, units: int) -> None:
    features = layer(torch.rand(1, 8, 6, 6)).numel()
    module = nn.Sequential(nn.Conv2d(3, 8, 3), layer, nn.Flatten(), nn.Linear(features, 4)).eval()
    symmetry = found(module, 2, 3, 8, 8)
    first = [g.size for g in symmetry.groups if ("0.weight", 0) in axes(g)]
    assert first == [units] * (units > 0)
    assert any(told.startswith("0.weight[0]: ") for told in symmetry.unpermuted) == (units == 0)


class Padded(nn.Module):
    """A shortcut that pads channels with zeros: only the channels that were there before may move."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.two, self.head = nn.Conv2d(2, 3, 1), nn.Conv2d(3, 7, 1), nn.Linear(7, 2)

    def forward(self, x: Tensor) -> Tensor:
        x = self.one(x)
        x = self.two(torch.relu(x)) + functional.pad(x, (0, 0, 0, 0, 2, 2))
        return self.head(torch.relu(x)[:, :, ::2].mean((2, 3)))


def test_a_padded_shortcut_leaves_the_new_channels_where_they_are() -> None:
    symmetry = found(made(Padded), 2, 2, 4, 4)
    assert [group.size for group in symmetry.groups] == [3]
    places = {(m.tensor, m.axis): m.places.flatten().tolist() for m in symmetry.groups[0].members}
    assert places["two.weight", 0] == places["head.weight", 1] == [2, 3, 4]
    assert places["two.weight", 1] == places["one.weight", 0] == [0, 1, 2]


def test_units_that_are_taken_apart_by_slices_are_groups_of_their_own() -> None:
    class Sliced(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.left, self.right = nn.Linear(3, 7), nn.Linear(4, 2), nn.Linear(3, 2)

        def forward(self, x: Tensor) -> Tensor:
            hidden = torch.relu(self.first(x))
            return self.left(hidden[:, :4]) * self.right(hidden[:, 4:])

    symmetry = found(made(Sliced), 2, 3)
    assert sorted((group.size, len(group.members)) for group in symmetry.groups) == [(3, 3), (4, 3)]


def test_the_module_must_be_one_and_the_inputs_two() -> None:
    net = nn.Sequential(nn.Linear(3, 5), nn.Linear(5, 2))
    with pytest.raises(InputError, match=r"`x` should be at least 2 inputs \(B, ...\). Found \(1, 3\)."):
        symmetry_of(net, torch.rand(1, 3), generator=generator())
    with pytest.raises(InputError, match=r"`model` should take inputs of shape \(B, 4\)."):
        symmetry_of(net, torch.rand(2, 4), generator=generator())
