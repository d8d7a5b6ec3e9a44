"""Midpoints of pairs of networks before and after alignment: `python benchmarks/alignment.py --out DIR --scale small --table FILE`.

Two pairs of seeds of every network and width are trained, matched by weights and by activations, and measured in the middle of the line
between them as they are, with BatchNorm statistics recomputed, and after REPAIR. All is done by the command line. Below stands the table of
permutation groups of `permutation_groups.py`.

Every cell has a folder or file of its own in `--out`; one that is there is taken up or left as it is. `--only PATTERN` runs some of the
cells (`--list` prints them), `--table FILE` writes what is there as Markdown. The scale `smoke` takes the embedded digits, `small` needs
ISTHMUS_DATA with cifar10.npz.
"""

import argparse
import json
import os
from collections.abc import Callable, Sequence
from contextlib import redirect_stdout
from dataclasses import dataclass
from fnmatch import fnmatch
from functools import partial
from math import isnan
from pathlib import Path
from typing import Any

from permutation_groups import ALL, file_name, groups_table, installed, keep_groups

from isthmus.cli.app import main as isthmus
from isthmus.rates import spread
from isthmus.recipes.cells import WHOLE

BY = ("weights", "activations")
STATISTICS = ("as is", "BatchNorm reset", "REPAIR")


@dataclass(frozen=True)
class Network:
    """An architecture, its widths, and the highest rate it is trained with."""

    arch: str
    widths: tuple[int, ...]
    rate: float


@dataclass(frozen=True)
class Scale:
    """Networks, and how they are trained and measured. pairs: of seeds; n: images for activations and statistics."""

    data: str
    networks: tuple[Network, ...]
    pairs: tuple[tuple[int, int], ...]
    steps: int
    batch: int
    n: int
    test_n: int
    known: tuple[str, ...]


SCALES = {
    "smoke": Scale(
        "digits",
        (Network("resnet20", (4,), 0.1), Network("vgg11", (4,), 0.05)),
        ((0, 1),),
        steps=60,
        batch=64,
        n=100,
        test_n=200,
        known=("cnn", "resnet20", "vit"),
    ),
    "small": Scale(
        "cifar10",
        (
            Network("vgg11", (16, 32), 0.05),
            Network("vgg11-bn", (16, 32), 0.2),
            Network("vgg16-bn", (16,), 0.2),
            Network("resnet20", (8, 16, 32), 0.2),
        ),
        ((0, 1), (2, 3)),
        steps=3000,
        batch=128,
        n=2000,
        test_n=5000,
        known=ALL,
    ),
}

# Test accuracy in % on CIFAR-10 as published with REPAIR (Jordan et al. 2023; their notebooks), matched by activations: ends, middle of
# the plain line, after permuting, and after BatchNorm was reset or REPAIR. By our width; None: their standard one, as theirs is not said.
PUBLISHED: dict[str, dict[int | None, tuple[str, str, str, str]]] = {
    "vgg11": {None: ("89.4 / 89.8", "-", "67.3", "84.9")},
    "vgg11-bn": {None: ("91.7 / 92.2", "10.0", "58.4", "90.74")},
    "resnet20": {32: ("93.1 / 93.0", "-", "15.98", "80.26"), 64: ("95.42 / 95.12", "-", "11.69", "90.31")},
}


def finished(folder: Path) -> bool:
    """Return whether the run in a folder has ended."""
    manifest = folder / "manifest.json"
    return manifest.exists() and json.loads(manifest.read_text())["status"] in WHOLE


def command(folder: Path, *words: object) -> None:
    """Run a command of the library into a folder, unless that is done."""
    if finished(folder):
        return
    more = ("--resume",) if (folder / "recipe.json").exists() else ()
    with redirect_stdout(Path(os.devnull).open("w")):
        code = isthmus([str(word) for word in (*words, "--out", folder, *more)])
    if code != 0:
        raise SystemExit(code)


def cells(scale: Scale, out: Path) -> dict[str, Callable[[], None]]:
    """Return what there is to do, by name, in order."""
    found: dict[str, Callable[[], None]] = {}
    for spec in filter(installed, scale.known):
        found[f"groups-{file_name(spec)}"] = partial(keep_groups, spec, scale.data, out / "groups")
    for network in scale.networks:
        for width in network.widths:
            for seed in (seed for pair in scale.pairs for seed in pair):
                name = f"{network.arch}-w{width}-s{seed}"
                found[name] = partial(_train, scale, network, width, seed, out / name)
            for k, pair in enumerate(scale.pairs):
                for by in BY:
                    ends = [out / f"{network.arch}-w{width}-s{seed}" / "model.safetensors" for seed in pair]
                    name = f"{network.arch}-w{width}-p{k}-{by}"
                    found[name] = partial(_align, scale, ends, by, out / name)
    return found


def _train(scale: Scale, network: Network, width: int, seed: int, folder: Path) -> None:
    rate = ("--learning-rate", network.rate, "--lr-schedule", "triangular", "--set", "warmup=0.25")
    plan = ("--steps", scale.steps, "--batch-size", scale.batch, *rate, "--precision", "bf16-mixed", "--threads", 1)
    arch = ("--arch", network.arch, "--width", width, "--data", scale.data, "--seed", seed)
    command(folder, "train", *arch, *plan, "--set", "nesterov=true")


def _align(scale: Scale, ends: Sequence[Path], by: str, folder: Path) -> None:
    measured = ("--n", scale.n, "--test-n", scale.test_n, "--points", 3, "--threads", 1)
    command(folder, "align", *ends, "--by", by, *measured)


def shown(values: Sequence[float]) -> str:
    """Return the mean with its spread over the pairs."""
    if not values:
        return "-"
    mean, deviation = spread(values)
    return f"{mean:.1f}" if isnan(deviation) else f"{mean:.1f} ± {deviation:.1f}"


def middles(scale: Scale, out: Path) -> list[str]:
    """Return the rows of accuracies in the middle of the lines."""
    rows: list[str] = []
    for network in scale.networks:
        for width in network.widths:
            name = f"{network.arch}-w{width}"
            runs = {by: _read(out, [f"{name}-p{k}-{by}" for k in range(len(scale.pairs))]) for by in BY}
            seeds = [seed for pair in scale.pairs for seed in pair]
            ends = [_accuracy(run) for run in _read(out, [f"{name}-s{seed}" for seed in seeds], "metrics.json")]
            for by, weights in (("-", "plain"), *((by, "permuted") for by in BY)):
                held = runs["weights" if weights == "plain" else by]
                values = [
                    shown([_middle(run, weights, kind) for run in held if _has(run, kind)]) for kind in STATISTICS
                ]
                cell = [network.arch, f"{width}", shown(ends), by, *values]
                rows.append(f"| {' | '.join([*cell, *_published(network.arch, width, weights, by)])} |")
    return rows


def _read(out: Path, names: Sequence[str], file: str = "align.json") -> list[dict[str, Any]]:
    return [json.loads((out / name / file).read_text()) for name in names if finished(out / name)]


def _accuracy(run: dict[str, Any]) -> float:
    return 100 * run["clean_accuracy"]["value"]


def _has(run: dict[str, Any], kind: str) -> bool:
    return any(row["statistics"] == kind for row in run["midpoints"]["rows"])


def _middle(run: dict[str, Any], weights: str, kind: str) -> float:
    rows = run["midpoints"]["rows"]
    return next(r["test_accuracy"] for r in rows if (r["weights"], r["statistics"]) == (weights, kind))


def _published(arch: str, width: int, weights: str, by: str) -> tuple[str, str, str]:
    """Return published ends, middle and corrected middle where they are of this width, or of no stated one."""
    known = PUBLISHED.get(arch, {})
    ends, plain, matched, corrected = known.get(width) or known.get(None) or ("-",) * 4
    if weights == "plain":
        return ends, plain, "-"
    return (ends, matched, corrected) if by == "activations" else ("-", "-", "-")


def page(name: str, out: Path) -> str:
    """Return what is there as Markdown."""
    scale = SCALES[name]
    manifests = [json.loads(place.read_text()) for place in out.glob("*/manifest.json")]
    seconds = sum(held["seconds"] for held in manifests if held["status"] in WHOLE)
    pairs = f"{len(scale.pairs)} pair{'s' if len(scale.pairs) > 1 else ''} of seeds"
    return "\n".join(
        [
            "# Alignment",
            "",
            f"Made by `python benchmarks/alignment.py --scale {name} --out DIR --table FILE`. {scale.data}, {pairs}, {scale.steps:,} steps",
            f"of {scale.batch} images; {scale.n:,} training images for activations and statistics, {scale.test_n:,} test images. Training",
            f"and measuring took {seconds:,.0f} s.",
            "",
            "## In the middle of the line",
            "",
            "Test accuracy in %, mean and standard deviation over pairs; ends over their models. Beside it what was published with REPAIR",
            "(Jordan et al. 2023), of fully trained networks: ResNet20 of the same width, VGG11 of a width that is not said.",
            "",
            f"| network | width | ends | matched by | {' | '.join(STATISTICS)} | published ends | as is | reset or REPAIR |",
            "|---|---:|---:|---|---:|---:|---:|---:|---:|---:|",
            *middles(scale, out),
            "",
            "## Permutation groups",
            "",
            *groups_table(out / "groups"),
            "",
        ]
    )


def main() -> None:
    """Run what is not there yet, then print or write the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="folder of the runs")
    parser.add_argument("--scale", choices=sorted(SCALES), default="small")
    parser.add_argument(
        "--only", action="append", metavar="PATTERN", help="cells to run, as 'groups-*'; may be repeated"
    )
    parser.add_argument("--list", action="store_true", help="print the names of the cells and end")
    parser.add_argument("--table", type=Path, help="write the Markdown page here")
    given = parser.parse_args()
    for name, run in cells(SCALES[given.scale], given.out).items():
        if given.only is None or any(fnmatch(name, pattern) for pattern in given.only):
            print(name, flush=True)
            if not given.list:
                run()
    if given.list:
        return
    text = page(given.scale, given.out)
    if given.table is None:
        print(text)
    else:
        given.table.write_text(text)


if __name__ == "__main__":
    main()
