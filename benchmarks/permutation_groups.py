"""Hidden units that may change places, in every architecture: `python benchmarks/permutation_groups.py --out DIR --table FILE`.

Of each architecture of the library, and of some of timm and transformers where the extra `hub` is installed, with fresh weights: groups
found without a word about the architecture, the share of parameters they cover, the largest change of an output by a random permutation
of all of them, and what is left as it is. One file for each in `--out`; those that are there are left. `--data cifar10` needs ISTHMUS_DATA.
"""

import argparse
import json
from collections import Counter
from copy import deepcopy
from dataclasses import asdict, dataclass
from functools import cache
from importlib.util import find_spec
from pathlib import Path

import torch
from torch import nn

from isthmus.data import Samples, load_data
from isthmus.evaluate import running_layers
from isthmus.geometry.permute import permuted, random_permutations
from isthmus.geometry.symmetry import symmetry_of
from isthmus.models import MODELS, build_model
from isthmus.randomness import stream
from isthmus.settle import Recalibrate

SIZE = 32
KEPT = 1e-5
HUB = (
    *(f"timm:{n}" for n in ("mobilenetv3_small_050", "ghostnet_050", "efficientnet_lite0", "efficientnet_b0")),
    *(f"timm:{n}" for n in ("regnetx_002", "regnety_002", "convnext_atto", "resnet18", "densenet121")),
    *(f"timm:{n}" for n in ("eca_nfnet_l0", "vit_tiny_patch16_224")),
    "hf:vit:hidden_size=96,num_hidden_layers=4,num_attention_heads=3,intermediate_size=384,patch_size=4",
    "hf:deit:hidden_size=96,num_hidden_layers=4,num_attention_heads=3,intermediate_size=384,patch_size=4",
    *(f"hf:{n}" for n in ("resnet", "convnext", "mobilenet_v2")),
)
ALL = (*MODELS, *HUB)


@dataclass(frozen=True)
class Groups:
    """What was found in an architecture with fresh weights, and what a random permutation of all groups changes.

    share: of the parameters, those in tensors that move. change: largest change of an output as a share of the largest output, in
    float32; exact: in float64; rounding: how far the outputs in float32 are from those in float64, without any permutation.
    """

    name: str
    parameters: int
    groups: int
    units: int
    share: float
    change: float
    exact: float
    rounding: float
    unpermuted: tuple[str, ...]


@cache
def images_of(data: str) -> tuple[Samples, Samples]:
    """Return 64 images for the statistics and 20 to compare outputs on."""
    splits = load_data(data, size=SIZE)
    return splits.train.subset(64, generator=stream(0, "settle")), splits.test.subset(20, generator=stream(0, "test"))


def groups_of(spec: str, data: str) -> Groups:
    """Return the groups of an architecture for images of `data` scaled to 32 pixels; BatchNorm has the statistics of 64 of them."""
    settle, images = images_of(data)
    model = build_model(spec, num_classes=settle.num_classes, input_shape=settle.input_shape, seed=0).eval()
    if running_layers(model):  # with those of a fresh deep network nothing would reach the outputs
        Recalibrate(settle)(model)
    found = symmetry_of(model, images.inputs(torch.arange(2)), generator=stream(0, "symmetry"))
    copy = permuted(model, found, random_permutations(found, stream(0, "permutation")))
    moved = {member.tensor for group in found.groups for member in group.members}
    sizes = {name: p.numel() for name, p in model.named_parameters()}
    return Groups(
        name=spec,
        parameters=sum(sizes.values()),
        groups=len(found.groups),
        units=sum(group.size for group in found.groups),
        share=sum(n for name, n in sizes.items() if name in moved) / sum(sizes.values()),
        change=apart(model, copy, images),
        exact=apart(deepcopy(model).double(), deepcopy(copy).double(), images),
        rounding=apart(deepcopy(model).double(), model, images),
        unpermuted=found.unpermuted,
    )


def apart(one: nn.Module, two: nn.Module, images: Samples) -> float:
    """Return the largest difference of an output of the two, as a share of the largest of the first."""
    dtypes = [next(model.parameters()).dtype for model in (one, two)]
    with torch.no_grad():
        x = images.inputs(torch.arange(len(images)))
        before, after = (m(x.to(dtype)).double() for m, dtype in zip((one, two), dtypes, strict=True))
    return float((after - before).abs().max() / before.abs().max())


def installed(spec: str) -> bool:
    """Return whether the package that an architecture comes from is there."""
    return find_spec({"timm": "timm", "hf": "transformers"}.get(spec.partition(":")[0], "isthmus")) is not None


def file_name(spec: str) -> str:
    """Return the architecture's name without characters that a folder may not have."""
    return spec.replace(":", "-").replace(",", "-")


def keep_groups(spec: str, data: str, folder: Path) -> None:
    """Write what is found in an architecture, unless that is done."""
    place = folder / f"{file_name(spec)}.json"
    if not place.exists():
        folder.mkdir(parents=True, exist_ok=True)
        part = place.with_suffix(".part")
        part.write_text(json.dumps(asdict(groups_of(spec, data))))
        part.rename(place)


def groups_table(folder: Path) -> list[str]:
    """Return what is there as lines of Markdown."""
    places = [folder / f"{file_name(spec)}.json" for spec in ALL]
    found = [Groups(**json.loads(place.read_text())) for place in places if place.exists()]
    rough = [one.rounding for one in found if one.change > KEPT]
    others = (
        f" The others are badly conditioned: float32 alone is off by {min(rough):.0e} to {max(rough):.0e}."
        if rough
        else ""
    )
    return [
        f"Found in one forward pass of fresh weights, for images of {SIZE} x {SIZE}. Covered: parameters in tensors that move. Change: of",
        "an output by a random permutation of all groups, as a share of the largest; rounding: that of float32 without one; exact: the",
        f"change in float64. {len(found) - len(rough)} of {len(found)} keep their outputs to {KEPT:g} in float32.{others}",
        "",
        "| architecture | parameters | groups | units | covered (%) | change | rounding | exact | axes left as they are |",
        "|---|---:|---:|---:|---:|---:|---:|---:|---|",
        *map(_row, found),
    ]


def _row(found: Groups) -> str:
    reasons = Counter(told.partition(": ")[2] for told in found.unpermuted)
    left = ", ".join(f"{count} {why}" for why, count in reasons.items()) or "-"
    counts = f"{found.parameters:,} | {found.groups} | {found.units:,} | {100 * found.share:.2f}"
    return f"| {found.name} | {counts} | {found.change:.1e} | {found.rounding:.1e} | {found.exact:.1e} | {left} |"


def main() -> None:
    """Look into what is not there yet, then print or write the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="folder of the files")
    parser.add_argument("--data", default="cifar10")
    parser.add_argument("--table", type=Path, help="write the Markdown page here")
    given = parser.parse_args()
    for spec in filter(installed, ALL):
        print(spec, flush=True)
        keep_groups(spec, given.data, given.out)
    about = f"Made by `python benchmarks/permutation_groups.py --data {given.data} --out DIR --table FILE`."
    text = "\n".join(["# Permutation groups", "", about, *groups_table(given.out)]) + "\n"
    if given.table is None:
        print(text)
    else:
        given.table.write_text(text)


if __name__ == "__main__":
    main()
