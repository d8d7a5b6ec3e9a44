"""What a bridge costs over plain PyTorch, as ratios measured in one run: `python benchmarks/speed.py [--rounds 15] [--out FILE]`.

Step: one step of the training engine on a quadratic Bezier curve, and on a surface of nine control points, over one step of a plain loop on
the same module, batch and memory format (forward, backward, SGD with momentum and weight decay). Memory: the largest resident size of a
process that takes three such steps, its models among it, less that of one that takes three plain ones; beside it what the weight
vectors of the training alone come to. Scan: 31 points with BatchNorm recomputed on 2,000 images and error measured on 2,000
(`--scan-images`; with fewer the fixed cost weighs more) over 31 x (a plain pass over the one + a plain pass over the other). The two
sides take turns, the order swaps from round to round, and the ratio is the median over rounds of their paired ratios, with its
quartiles: a shared machine slows both.
"""

import argparse
import platform
import re
from collections.abc import Callable
from copy import deepcopy
from multiprocessing import get_context
from pathlib import Path
from statistics import quantiles
from time import perf_counter

import torch
from lightning_fabric import Fabric
from rich.console import Console
from rich.table import Table
from torch import Tensor, nn

from isthmus import Bridge, Plan, Recalibrate, Samples, bezier, build_model, surface
from isthmus.probes import Clean
from isthmus.scan import grid, scan
from isthmus.training.engine import Engine
from isthmus.training.objective import Supervised

MODELS = ("resnet18:width=16", "vgg16")
BRIDGES: dict[str, tuple[Callable[[list[nn.Module]], Bridge], int]] = {"curve": (bezier, 2), "surface": (surface, 4)}
"""Name -> (what makes it, number of models it joins)."""
STEPS = 3


def images(n: int) -> Samples:
    """Return noise in the shape of CIFAR-10: speed does not depend on what is seen."""
    generator = torch.Generator().manual_seed(0)
    x = torch.randint(0, 256, (n, 3, 32, 32), dtype=torch.uint8, generator=generator)
    return Samples(x, torch.arange(n) % 10, 10, "noise")


def plain_step(module: nn.Module, samples: Samples, batch: int) -> Callable[[], None]:
    """Return one step of the loop anybody would write, in the faster memory format."""
    module = deepcopy(module).train().to(memory_format=torch.channels_last)
    optimizer = torch.optim.SGD(module.parameters(), 0.01, 0.9, weight_decay=5e-4)
    generator = torch.Generator().manual_seed(0)

    def step() -> None:
        index = torch.randint(len(samples), (batch,), generator=generator)
        x = samples.inputs(index).contiguous(memory_format=torch.channels_last)
        optimizer.zero_grad()
        nn.functional.cross_entropy(module(x), samples.y[index]).backward()
        optimizer.step()

    return step


def bridge_step(bridge: Bridge, samples: Samples, batch: int, sharpness: float | None = None) -> Callable[[], None]:
    """Return one step of the engine on a bridge."""
    plan = Plan(steps=10**6, batch_size=batch, learning_rate=0.01, sharpness=sharpness)
    return Engine(bridge, samples, plan, Supervised(), 0, Fabric(accelerator="auto", devices=1)).take_step


def corners(name: str, count: int) -> list[nn.Module]:
    """Return so many models of one architecture."""
    return [build_model(name, num_classes=10, input_shape=(3, 32, 32), seed=seed) for seed in range(count)]


def peak(name: str, kind: str | None, batch: int) -> float:
    """Return the largest resident size of a process, in MiB, after three steps on a bridge of `kind`, or plain ones."""
    torch.set_num_threads(1)
    samples = images(1024)
    step = plain_step(corners(name, 1)[0], samples, batch) if kind is None else _step_of(name, kind, samples, batch)
    for _ in range(STEPS):
        step()
    # Not getrusage: what it calls the largest is at least that of the process that started this one.
    found = re.search(r"VmHWM:\s*(\d+) kB", Path("/proc/self/status").read_text())
    assert found is not None, "memory is measured on Linux"
    return int(found[1]) / 1024


def _step_of(name: str, kind: str, samples: Samples, batch: int) -> Callable[[], None]:
    make, count = BRIDGES[kind]
    return bridge_step(make(corners(name, count)), samples, batch)


def memory(name: str, batch: int) -> list[str]:
    """Return a row for each kind of bridge: MiB over the plain loop, and of the vectors that a bridge with momentum holds."""
    with get_context("spawn").Pool(1, maxtasksperchild=1) as pool:  # a process for each: the size never falls again
        peaks = {kind: pool.apply(peak, (name, kind, batch)) for kind in (None, *BRIDGES)}
    rows: list[str] = []
    for kind, (make, count) in BRIDGES.items():
        bridge = make(corners(name, count))
        # Fixed points; free ones with gradient and momentum; the working copy and its gradient. A plain loop holds three.
        vectors = len(bridge.fixed) + 3 * len(bridge.free) + 2
        size = vectors * bridge.layout.size * 4 / 2**20
        rows.append(f"| {kind}, {name}, batch {batch} | {peaks[kind] - peaks[None]:,.0f} | {vectors} | {size:,.0f} |")
    return rows


def paired(first: Callable[[], None], second: Callable[[], None], rounds: int) -> dict[str, float]:
    """Return median and quartiles of seconds(first) / seconds(second) over rounds in alternating order."""
    first(), second()
    ratios: list[float] = []
    seconds: list[list[float]] = [[], []]
    for k in range(rounds):
        took = [0.0, 0.0]
        for side in (0, 1) if k % 2 == 0 else (1, 0):
            began = perf_counter()
            (first, second)[side]()
            took[side] = perf_counter() - began
            seconds[side].append(took[side])
        ratios.append(took[0] / took[1])
    low, middle, high = quantiles(ratios, n=4)
    # The least time of each side is what is left when nothing else ran.
    return {"ratio": middle, "low": low, "high": high, "ratio_of_least": min(seconds[0]) / min(seconds[1]), "n": rounds}


def scans(rounds: int, count: int) -> dict[str, float]:
    """Return the paired ratio of a 31-point scan over the plain passes that it cannot do without."""
    samples, clean = images(count), images(count)
    models = corners(MODELS[0], 2)
    bridge = bezier(models)
    plain = deepcopy(models[0]).to(memory_format=torch.channels_last)
    batches = [x.contiguous(memory_format=torch.channels_last) for x in samples.inputs().split(500)]

    def one_pass(x: list[Tensor], training: bool) -> None:
        plain.train(training)
        with torch.no_grad():
            for batch in x:
                plain(batch)

    def passes() -> None:
        for _ in range(31):
            one_pass(batches, True)
            one_pass(batches, False)

    def whole() -> None:
        scan(bridge, grid(bridge.basis, 31), [Clean(samples)], settle=Recalibrate(clean))

    return paired(whole, passes, rounds)


def markdown(rows: dict[str, dict[str, float]], held: list[str], threads: int) -> str:
    """Return ratios and memory as a page."""
    lines = [
        "# Cost over plain PyTorch",
        "",
        f"Made by `python benchmarks/speed.py --out FILE`: torch {torch.__version__}, {platform.machine()}, {threads} thread(s).",
        "Ratios of seconds, the two sides in turn in one run: median and quartiles over the rounds, and the ratio of the least times.",
        "",
        "| measured | ratio | quartiles | of least times | rounds |",
        "|---|---:|---:|---:|---:|",
    ]
    for name, row in rows.items():
        cells = f"{row['ratio']:.3f} | {row['low']:.3f}-{row['high']:.3f} | {row['ratio_of_least']:.3f} | {row['n']}"
        lines.append(f"| {name} | {cells} |")
    lines += [
        "",
        "| memory | MiB over a plain loop | weight vectors held | MiB of them (a plain loop holds three) |",
        "|---|---:|---:|---:|",
        *held,
    ]
    return "\n".join(lines) + "\n"


def steps(rounds: int) -> dict[str, dict[str, float]]:
    """Return the paired ratios of a step of the engine over a plain one."""
    rows: dict[str, dict[str, float]] = {}
    samples = images(1024)
    for name in MODELS:
        models = corners(name, 4)
        for batch in (64, 128):
            plain = plain_step(models[0], samples, batch)
            for kind, (make, count) in BRIDGES.items():
                step = bridge_step(make(models[:count]), samples, batch)
                rows[f"{kind}, {name}, batch {batch}"] = paired(step, plain, rounds)
        sharp = bridge_step(bezier(models[:2]), samples, 128, 2.0)
        rows[f"curve, {name}, batch 128, sharpness-aware"] = paired(sharp, plain, rounds)
    return rows


def main() -> None:
    """Measure, print the table, and write it where asked."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--scan-rounds", type=int, default=2)
    parser.add_argument("--scan-images", type=int, default=2000)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    rows = steps(options.rounds)
    if options.scan_rounds >= 2:
        name = f"scan of 31 points, {options.scan_images:,} + {options.scan_images:,} images, resnet18:width=16"
        rows[name] = scans(options.scan_rounds, options.scan_images)
    table = Table("measured over plain PyTorch", "ratio", "quartiles", "of least times", "rounds")
    for name, row in rows.items():
        quartiles = f"{row['low']:.3f}-{row['high']:.3f}"
        table.add_row(name, f"{row['ratio']:.3f}", quartiles, f"{row['ratio_of_least']:.3f}", str(row["n"]))
    Console().print(table)
    if options.out is not None:
        held = [row for name in MODELS for row in memory(name, 128)]
        options.out.write_text(markdown(rows, held, options.threads))


if __name__ == "__main__":
    main()
