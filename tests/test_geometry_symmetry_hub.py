"""Groups of hidden units of timm's and transformers' architectures: as many as on paper, and no change of what is computed."""

from collections.abc import Callable
from copy import deepcopy
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from isthmus.data import Samples
from isthmus.evaluate import running_layers
from isthmus.geometry.permute import permuted, random_permutations
from isthmus.geometry.symmetry import symmetry_of
from isthmus.geometry.units import Symmetry
from isthmus.models import build_model
from isthmus.settle import Recalibrate

CIFAR = (3, 32, 32)
VIT = "hf:vit:hidden_size=24,num_hidden_layers=2,num_attention_heads=3,intermediate_size=48,patch_size=8"

needs_timm = pytest.mark.skipif(find_spec("timm") is None, reason="needs the extra `hub` (timm)")
needs_transformers = pytest.mark.skipif(
    find_spec("transformers") is None, reason="needs the extra `hub` (transformers)"
)

REGNET = ((24, 1, 32), (56, 1, 24), (152, 4, 56), (368, 7, 152))  # width, depth, width before; groups of 8 channels
REGNETX = [32] + [w for w, _, _ in REGNET] + [n for w, d, _ in REGNET for n in [8, 8, w // 8] * d]
GATES = [n for w, d, before in REGNET for n in [before // 4] + [w // 4] * (d - 1)]  # squeeze and excitation of RegNetY
LITE0 = [32, 16, 24, 40, 80, 112, 192, 320, 1280]  # stem, seven stages, head; then what its blocks expand to
LITE0 += [6 * n for n in (16, 24, 24, 40, 40, 80, 80, 80, 112, 112, 112, 192, 192, 192, 192)]
ATTO = [40, 80, 160, 320] + [4 * n for n, depth in ((40, 2), (80, 2), (160, 6), (320, 2)) for _ in range(depth)]
TINY_VIT = [24] + [3, 8, 8, 48] * 2  # tokens; heads, places of queries and keys, of values, the hidden layer
ON_PAPER = {
    "timm:efficientnet_lite0": LITE0,
    "timm:regnetx_002": REGNETX,
    "timm:regnety_002": REGNETX + GATES,
    "timm:convnext_atto": ATTO,
}


def generator(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def drawn(count: int, seed: int) -> Tensor:
    return torch.rand(count, *CIFAR, generator=generator(seed))


def settled(spec: str) -> nn.Module:
    """A model with statistics of images: with those of a fresh deep network nothing would reach the outputs."""
    model = build_model(spec, num_classes=10, input_shape=CIFAR, seed=1).eval()
    if running_layers(model):
        Recalibrate(Samples(drawn(16, 5), torch.arange(16) % 10, 10))(model)
    return model


def change(model: nn.Module, symmetry: Symmetry) -> float:
    """The largest change of an output by random permutations of all groups, as a share of the largest output."""
    before, after = outputs(model, symmetry)
    return float((after - before).abs().max() / before.abs().max())


def rounding(model: nn.Module) -> float:
    """How far the outputs are from those in float64, as a share of the largest: some of these networks are badly conditioned."""
    x = drawn(4, 6)
    with torch.no_grad():
        exact = deepcopy(model).double()(x.double())
        return float((model(x) - exact).abs().max() / exact.abs().max())


def change_of_spread(model: nn.Module, symmetry: Symmetry) -> float:
    """The same in float64, as a share of how far outputs of different images are apart."""
    before, after = outputs(deepcopy(model).double(), symmetry)
    return float((after - before).abs().max() / (before - before.mean(0)).abs().max())


def outputs(model: nn.Module, symmetry: Symmetry) -> tuple[Tensor, Tensor]:
    x = drawn(4, 6).to(next(model.parameters()).dtype)
    with torch.no_grad():
        return model(x), permuted(model, symmetry, random_permutations(symmetry, generator(7)))(x)


def assert_covered(model: nn.Module, symmetry: Symmetry) -> None:
    """All tensors but the biases of the classes move, nothing is left, and one that is forgotten would show."""
    moved = {member.tensor for group in symmetry.groups for member in group.members}
    still = [name for name, p in model.named_parameters() if name not in moved]
    assert symmetry.unpermuted == ()
    assert len(still) == 1
    assert dict(model.named_parameters())[still[0]].shape == (10,)
    assert change(model, symmetry) <= max(1e-5, 3 * rounding(model))
    assert change_of_spread(model, symmetry) <= 1e-9
    first = symmetry.groups[0]
    wrong = replace(symmetry, groups=(replace(first, members=first.members[1:]), *symmetry.groups[1:]))
    assert change_of_spread(model, wrong) > 1e-3


@needs_timm
@pytest.mark.parametrize("spec", ["timm:mobilenetv3_small_050", "timm:test_resnet", "timm:test_vit", *ON_PAPER])
def test_timm_models_keep_their_function(spec: str) -> None:
    model = settled(spec)
    symmetry = symmetry_of(model, drawn(2, 2), generator=generator(3))
    assert_covered(model, symmetry)
    if spec in ON_PAPER:
        assert sorted(group.size for group in symmetry.groups) == sorted(ON_PAPER[spec])


def folder_of(kind: str) -> Callable[[Path], str]:
    def made(place: Path) -> str:
        import transformers

        config = {"resnet": transformers.ResNetConfig, "convnext": transformers.ConvNextConfig}[kind]
        sizes = {"hidden_sizes": [8, 12, 16, 20], "depths": [1, 1, 2, 1]}
        config(**sizes, **({"embedding_size": 8} if kind == "resnet" else {})).save_pretrained(place)
        return f"hf:{place}"

    return made


# ResNet: a stage is tied by its shortcuts, the first to the stem besides; a bottleneck has two layers of a quarter of the width.
RESNET = [8, 12, 16, 20] + [2, 2, 3, 3] + [4, 4] * 2 + [5, 5]
CONVNEXT = [8, 12, 16, 20, 32, 48, 64, 64, 80]


@needs_transformers
@pytest.mark.parametrize(
    ("spec", "sizes"), [(lambda _: VIT, TINY_VIT), (folder_of("resnet"), RESNET), (folder_of("convnext"), CONVNEXT)]
)
def test_transformers_models_keep_their_function(spec: Callable[[Path], str], sizes: list[int], tmp_path: Path) -> None:
    model = settled(spec(tmp_path))
    symmetry = symmetry_of(model, drawn(2, 2), generator=generator(3))
    assert_covered(model, symmetry)
    assert sorted(group.size for group in symmetry.groups) == sorted(sizes)
