"""Pairs of CIFAR-10 networks joined by every path there is: `python benchmarks/hard_pairs.py --out DIR --scale small --table FILE`.

An easy pair, and two on which a curve of few gradients fails: narrow networks without BatchNorm, of equal and of different weight decay.
Between the models of each lie the straight line, a Bezier curve, a chain of one bend, AutoNEB's pivots and the layer-wise walk, of equally
many gradients; the curve and the walk again of four times as many; the walk with a loss at which a tick ends, and where the decays
differ the walk that goes towards the origin first. All is trained by the command line. On each path the loss on training images, error
on test images and BatchNorm statistics are found at evenly spaced points, of a chain at every bend and between each two as well.

Every cell has a folder of its own in `--out`; one that is there is taken up or left as it is. `--only PATTERN` runs some of the cells
(`--list` prints them), `--table FILE` writes what is there as Markdown. `--ends resnet18-0=A,B` takes finished models. The scale `smoke`
takes the embedded digits, `small` needs ISTHMUS_DATA with cifar10.npz.
"""

import argparse
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from fnmatch import fnmatch
from functools import partial
from pathlib import Path
from time import process_time

import torch
from alignment import command
from hard_pairs_cases import APPROACH, PATHS, PIVOTS, SCALES, SLOWER, Measured, Pair, Scale, Way, page

from isthmus.barrier import barriers
from isthmus.data import Splits, load_data
from isthmus.evaluate import running_layers
from isthmus.files import write_json
from isthmus.geometry.bases import Chain
from isthmus.models import build_model
from isthmus.probes import Clean
from isthmus.randomness import stream
from isthmus.recipes.reserve import kept_apart
from isthmus.scan import grid, scan
from isthmus.settle import Recalibrate
from isthmus.store import load_bridge
from isthmus.training.fit import fit_module
from isthmus.training.layerwise import looked_at
from isthmus.training.plan import Plan


def cells(scale: Scale, out: Path, given: Mapping[str, tuple[Path, Path]]) -> dict[str, Callable[[], None]]:
    """Return what there is to do, by name, in order: the first repeat of every pair before the second of any."""
    found: dict[str, Callable[[], None]] = {}
    for repeat in range(max(pair.repeats for pair in scale.pairs)):
        for pair in (one for one in scale.pairs if repeat < one.repeats):
            name = f"{pair.name}-{repeat}"
            ends = given.get(name) or tuple(out / f"{name}-{k}" / "model.safetensors" for k in range(2))
            for k in range(2 if name not in given else 0):
                found[f"{name}-{k}"] = partial(_train, scale, pair, repeat, k, out / f"{name}-{k}")
            for way in pair.paths:
                found[cell(pair, repeat, way)] = partial(_join, scale, pair, repeat, way, ends, out)
    return found


def cell(pair: Pair, repeat: int, way: Way) -> str:
    """Return the name of a cell."""
    return f"{pair.name}-{repeat}-{way.name.replace(',', '').replace(' ', '-')}"


def _common(scale: Scale) -> tuple[object, ...]:
    shared = ("--validation", scale.validation, "--batch-size", scale.batch, "--precision", "bf16-mixed")
    return ("--data", scale.data, *shared, "--lr-schedule", "triangular", "--set", "warmup=0.1", "--threads", 1)


def _train(scale: Scale, pair: Pair, repeat: int, k: int, folder: Path) -> None:
    arch = ("--arch", pair.arch, "--width", pair.width, "--seed", 2 * repeat + k, "--steps", scale.steps)
    command(folder, "train", *arch, "--learning-rate", pair.rates[0], "--weight-decay", pair.decays[k], *_common(scale))


def _join(scale: Scale, pair: Pair, repeat: int, way: Way, ends: Sequence[Path], out: Path) -> None:
    folder = out / cell(pair, repeat, way)
    if (folder / "measured.json").exists():
        return
    geometry = way.geometry.format(ticks=scale.ticks[0], more=scale.ticks[1])
    walked, steps = geometry.startswith("llpf"), way.times * scale.gradients
    rate = pair.rates[1] / (SLOWER if walked else 1)
    words: list[object] = ["--geometry", geometry, "--learning-rate", rate, "--seed", repeat]
    words += ["--steps", max(16, round(steps / PIVOTS)) if geometry.startswith("neb") else steps]
    words += ["--walk", "inward-first"] if way.inward else []
    if way.until:
        _join(scale, pair, repeat, PATHS[0], ends, out)
        line = json.loads((out / cell(pair, repeat, PATHS[0]) / "measured.json").read_text())
        words += ["--set", f"until={APPROACH * line['ends']}"]
    command(folder, "connect", *ends, *words, *_common(scale))
    write_json(folder / "measured.json", asdict(measure(scale, pair, repeat, way, folder)))


def measure(scale: Scale, pair: Pair, repeat: int, way: Way, folder: Path) -> Measured:
    """Return what is found on the path in a folder."""
    splits = load_data(scale.data)
    train = kept_apart(splits.train, scale.validation, test=splits.test)[1]
    bridge = load_bridge(folder / "bridge.safetensors", build(pair, splits))
    pieces = bridge.basis.num_points - 1
    evenly = grid(bridge.basis, scale.points)
    places = looked_at(bridge, max(1, scale.points // pieces)) if isinstance(bridge.basis, Chain) else evenly
    probes = (
        Clean(train.subset(min(scale.n, len(train)), generator=stream(0, "train")), "train"),
        Clean(splits.test.subset(min(scale.n, len(splits.test)), generator=stream(0, "test")), "test"),
    )
    settle = Recalibrate(train.subset(scale.settle_n, generator=stream(0, "settle")))
    table = scan(bridge, places, probes, settle=settle)
    held, error = barriers(table, value="train_loss"), barriers(table, value="test_error")
    record = json.loads((folder / "connect.json").read_text())
    training = record["training"] or {"gradient_evaluations": 0, "seconds": 0.0}
    return Measured(
        pair.name,
        repeat,
        way.name,
        gradients=training["gradient_evaluations"],
        seconds=training["seconds"],
        bends=bridge.free.shape[0],
        points=len(places),
        loss=held["draxler_max"].value,
        ends=held["draxler_max"].value - held["draxler_rise"].value,
        entezari=held["entezari"].value,
        error=error["draxler_max"].value,
        end_error=error["draxler_max"].value - error["draxler_rise"].value,
        ratio=record["geometry"]["ratio"],
    )


def build(pair: Pair, splits: Splits) -> torch.nn.Module:
    """Return a fresh network of a pair."""
    shape, classes = splits.input_shape, splits.num_classes
    return build_model(pair.arch, num_classes=classes, input_shape=shape, width=pair.width, seed=0)


def minutes(scale: Scale) -> float:
    """Return about how long everything takes on this machine: gradients timed, a look at a point of a path as a third of one an image."""
    splits = load_data(scale.data)
    few = splits.train.subset(min(1000, len(splits.train)), generator=stream(0, "few"))
    whole = 0.0
    for pair in scale.pairs:
        model, seconds = build(pair, splits), list[float]()
        for steps in (1, 5):
            began = process_time()
            plan = Plan(steps=steps, batch_size=scale.batch, learning_rate=1e-3, precision="bf16-mixed")
            fit_module(model, few, plan, seed=0)
            seconds.append(process_time() - began)
        gradient = (seconds[1] - seconds[0]) / 4
        gradients = 2 * scale.steps + scale.gradients * sum(one.times for one in pair.paths[1:])
        looks = len(pair.paths) * scale.points * 2 + 1000 + 12 * sum(scale.ticks[one.times > 1] for one in pair.paths)
        images = looks * (1000 + scale.settle_n * bool(running_layers(model)))
        whole += pair.repeats * gradient * (gradients + images / scale.batch / 3)
    return whole / 60


def ends_given(text: str) -> tuple[str, tuple[Path, Path]]:
    """Return the name and the files in `NAME=A,B`."""
    name, _, files = text.partition("=")
    first, _, second = files.partition(",")
    if not (name and first and second):
        raise argparse.ArgumentTypeError(f"should be NAME=A,B. Found {text!r}.")
    return name, (Path(first), Path(second))


def main() -> None:
    """Run what is not there yet, then print or write the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="folder of the runs")
    parser.add_argument("--scale", choices=sorted(SCALES), default="small")
    parser.add_argument(
        "--only", action="append", metavar="PATTERN", help="cells to run, as 'vgg11-0-*'; may be repeated"
    )
    parser.add_argument(
        "--ends", action="append", default=[], type=ends_given, metavar="NAME=A,B", help="finished models"
    )
    parser.add_argument("--list", action="store_true", help="print the names of the cells and end")
    parser.add_argument("--table", type=Path, help="write the Markdown page here")
    given = parser.parse_args()
    torch.set_num_threads(1)
    todo = cells(SCALES[given.scale], given.out, dict(given.ends))
    todo = {name: run for name, run in todo.items() if given.only is None or any(fnmatch(name, p) for p in given.only)}
    if not given.list and not given.table:
        print(f"about {minutes(SCALES[given.scale]):.0f} minutes of one free core for all cells", flush=True)
    for name, run in todo.items():
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
