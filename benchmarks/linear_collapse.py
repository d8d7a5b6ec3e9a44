"""Where adversarial training of a linear softmax collapses, predicted and seen: `python benchmarks/linear_collapse.py [--out FILE]`.

Predicted: `isthmus.theory.critical_budget` of the training images. Seen: a linear softmax trained from random weights against an adversary
of that norm, all images at once, no box of valid pixels. Each image keeps its own perturbation, which climbs by projected gradient steps
against weights extrapolated by one step, while the weights descend: the primal-dual method of Chambolle and Pock 2011, which converges
where the plain subgradient method creeps, because the adversary turns round wherever a weight changes its sign.

Verdict on the trained weights: training stands where some multiple of them is certified to have a mean adversarial loss below that of
the best constant classifier, log K or with a bias the entropy of the class shares; the bound is `first_order_bounds`, true for the exact
worst case. Otherwise it has collapsed. The collapse is located by bisection from a bracket drawn for each seed, about 0.8 to 1.2 times the
prediction, so that no bisection looks at the prediction itself.
"""

import argparse
import platform
from dataclasses import dataclass
from itertools import product
from math import inf, log
from pathlib import Path
from statistics import mean
from time import perf_counter

import torch
from torch import Tensor
from torch.nn import functional

from isthmus.data import Samples, load_data
from isthmus.randomness import stream
from isthmus.theory import ClassMeans, critical_budget
from isthmus.theory.logistic import Climb, first_order_bounds

RATIOS = (0.8, 0.9, 0.95, 0.98, 1.02, 1.05, 1.1)
HALVINGS = 5
SCALES = (1.0, 0.5, 0.25, 0.1, 0.03, 0.01, 0.003, 0.001)
START = 0.01  # standard deviation of the weights at the start


@dataclass(frozen=True)
class Setting:
    """One question: on which images, in which norm, with or without a bias, and for how many steps."""

    p: float
    bias: bool
    steps: int
    seed: int


@dataclass(frozen=True)
class Outcome:
    """What training came to: whether it stands; the certified and the attacked loss less the constant one's; |W| over its start."""

    stands: bool
    certified: float
    attacked: float
    length: float


def drawn(data: Samples, n: int, *, skewed: bool, seed: int) -> Samples:
    """Return about n samples, in the shares of `data` or with shares of 1 : 2 : 3 : 4 in turn."""
    generator = stream(seed, "images")
    if not skewed:
        return data.subset(n, generator=generator)
    parts = 1 + torch.arange(data.num_classes) % 4
    counts = (n * parts / parts.sum()).round().long().tolist()
    members = [(data.y == k).nonzero().flatten() for k in range(data.num_classes)]
    chosen = [m[torch.randperm(len(m), generator=generator)[:count]] for m, count in zip(members, counts, strict=True)]
    return data.take(torch.cat(chosen))


def projected(s: Tensor, p: float) -> Tensor:
    """Return the points of the unit ball nearest to s (N, d), p = inf or 2."""
    return s.clamp(-1, 1) if p == inf else s / s.norm(dim=1, keepdim=True).clamp_min(1)


def trained(samples: Samples, eps: float, setting: Setting) -> tuple[Tensor, Tensor]:
    """Return weights (K, d) and bias (K,) after training against perturbations eps s of each image, ||s||_p <= 1."""
    x, own = samples.inputs().flatten(1), functional.one_hot(samples.y, samples.num_classes).float()
    weights = START * torch.randn(samples.num_classes, x.shape[1], generator=stream(setting.seed, "weights"))
    b, s = torch.zeros(samples.num_classes), torch.zeros_like(x)
    reach = eps * (x.shape[1] ** 0.5 if setting.p == inf else 1)
    step = samples.num_classes / float((x.norm(dim=1) + reach).square().mean())  # about 1 / curvature at the origin
    climb = 0.5 / (step * eps * float(own.mean(0).max()))
    for _ in range(setting.steps):
        attacked = x + eps * s
        error = (attacked @ weights.T + b).softmax(1) - own
        change = step * (error.T @ attacked) / len(x)
        ahead = weights - 2 * change
        weights = weights - change
        b = b - error.mean(0) if setting.bias else b
        s = projected(s + climb * ((attacked @ ahead.T + b).softmax(1) - own) @ ahead, setting.p)
    return weights.double(), b.double()


def outcome(samples: Samples, eps: float, setting: Setting) -> Outcome:
    """Return what training at `eps` comes to."""
    W, b = trained(samples, eps, setting)
    x, shares = samples.inputs().double().flatten(1), ClassMeans.of(samples).shares
    constant = float(-(shares * shares.log()).sum()) if setting.bias else log(samples.num_classes)
    prior = shares if setting.bias else None
    bounds = [first_order_bounds(c * W, x, samples.y, eps, setting.p, shares=prior) for c in SCALES]
    certified = min(float(bound.upper.mean()) for bound in bounds) - constant
    worst = Climb(eps, setting.p, 10)(W, x, samples.y, b)
    attacked = float(functional.cross_entropy(worst @ W.T + b, samples.y)) - constant
    length = float((W - W.mean(0)).norm()) / (START * (W.numel() - W.shape[1]) ** 0.5)
    return Outcome(certified < 0, certified, attacked, length)


def located(samples: Samples, radius: float, setting: Setting) -> float:
    """Return the observed collapse over the prediction `radius`, the middle of an interval of width 0.016 at most."""
    drawn_low, drawn_high = torch.rand(2, generator=stream(setting.seed, "bracket", setting.p, setting.bias)).tolist()
    low, high = 0.75 + 0.1 * drawn_low, 1.15 + 0.1 * drawn_high
    for _ in range(HALVINGS):
        middle = (low + high) / 2
        stands = outcome(samples, middle * radius, setting).stands
        low, high = (middle, high) if stands else (low, middle)
    return (low + high) / 2


def collapse_row(name: str, data: Samples, n: int, settings: list[Setting], *, skewed: bool) -> tuple[str, list[float]]:
    """Return the table row of one question over several seeds, and observed over predicted of each."""
    first, found = settings[0], list[tuple[float, float, float]]()
    for setting in settings:
        samples = drawn(data, n, skewed=skewed, seed=setting.seed)
        means = ClassMeans.of(samples)
        radius = critical_budget(means, first.p, bias=first.bias).radius
        found.append((radius, critical_budget(means, first.p, bias=True).radius, located(samples, radius, setting)))
    radii, balls, ratios = (list(column) for column in zip(*found, strict=True))
    cells = (
        f"| {name} | {'1:2:3:4' if skewed else 'as stored'} | {'free' if first.bias else 'none'} | {first.p:g} | {len(settings)} "
        f"| {mean(radii):.4f} | {mean(a * b for a, b in zip(radii, ratios, strict=True)):.4f} "
        f"| {mean(ratios):.3f} | {min(ratios):.3f}-{max(ratios):.3f} | {mean(balls):.4f} |"
    )
    return cells, ratios


def ratio_rows(name: str, data: Samples, n: int, setting: Setting) -> list[str]:
    """Return table rows of training at fixed ratios to the prediction."""
    samples = drawn(data, n, skewed=False, seed=setting.seed)
    radius, rows = critical_budget(samples, setting.p, bias=setting.bias).radius, list[str]()
    for ratio in RATIOS:
        found = outcome(samples, ratio * radius, setting)
        verdict = "stands" if found.stands else "collapsed"
        losses = f"{found.length:.1e} | {found.attacked:+.1e} | {found.certified:+.1e}"
        rows.append(f"| {name} | {ratio:g} | {ratio * radius:.4f} | {losses} | {verdict} |")
    return rows


def whole_rows(name: str, data: Samples) -> list[str]:
    """Return table rows of the critical budgets of all training images."""
    means, rows = ClassMeans.of(data), list[str]()
    for p, bias in product((inf, 2.0, 1.0), (False, True)):
        found = critical_budget(means, p, bias=bias)
        classes = ", ".join(map(str, found.classes))
        cells = f"{len(data):,} | {p:g} | {'free' if bias else 'none'} | {found.radius:.4f} | {found.gap / found.radius:.0e}"
        rows.append(f"| {name} | {cells} | {classes} |")
    return rows


def page(names: list[str], n: int, seeds: int, steps: int) -> str:
    """Return the page of results."""
    began, rows, single, whole, ratios = perf_counter(), list[str](), list[str](), list[str](), list[float]()
    for name in names:
        data = load_data(name).train
        whole += whole_rows(name, data)
        single += ratio_rows(name, data, n, Setting(inf, False, steps, 0))
        for p, (skewed, bias) in product((inf, 2.0), ((False, False), (True, False), (True, True))):
            settings = [Setting(p, bias, steps, seed) for seed in range(seeds)]
            row, found = collapse_row(name, data, n, settings, skewed=skewed)
            rows.append(row)
            ratios += found
            print(row, flush=True)
    return "\n".join(
        [
            "# Where linear adversarial training collapses",
            "",
            f"Made by `python benchmarks/linear_collapse.py --out FILE`: torch {torch.__version__}, {platform.machine()}, 1 thread, "
            f"{perf_counter() - began:.0f} s.",
            f"Each seed draws about {n} training images and the starting weights, and trains for {steps} steps over all of them; the",
            "prediction is for the same images. Budgets in units of the pixels, [0, 1], no box; what is read and why it is certain stands",
            "in [the page on the theory](../linear-theory.md).",
            "",
            f"Observed is the middle of an interval of at most {0.5 / 2**HALVINGS:.3f} times the prediction, found by bisection from a",
            "bracket drawn for each seed, about 0.8 to 1.2; mean, least and greatest over seeds. The last column is the radius of the ball",
            "around the class means, which leaves the shares of the classes out: where there is no bias it is not the prediction.",
            "",
            "| images | shares | bias | p | seeds | predicted | observed | observed / predicted | range | ball of the means |",
            "|---|---|---|---:|---:|---:|---:|---:|---:|---:|",
            *rows,
            "",
            f"Farthest from 1: {max(ratios, key=lambda r: abs(r - 1)):.3f}, of {len(ratios)} runs.",
            "",
            "Training at fixed ratios to the prediction (Linf, no bias, shares as stored, seed 0): length of W over that at the start, and",
            "mean loss less log K in nats, under attack at W, and certified from above at the best multiple of W.",
            "",
            "| images | budget / predicted | budget | length | attacked | certified | verdict |",
            "|---|---:|---:|---:|---:|---:|---|",
            *single,
            "",
            "The critical budgets of all training images, one call of `critical_budget` each; gap: how far the proof from below stays "
            "under the",
            "one from above, as a share; classes: those that decide.",
            "",
            "| images | n | p | bias | critical budget | gap | classes |",
            "|---|---:|---:|---|---:|---:|---|",
            *whole,
            "",
        ]
    )


def main() -> None:
    """Measure, print the page, and write it where asked."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", nargs="+", default=["mnist", "fashion-mnist"])
    parser.add_argument("--images", type=int, default=250)
    parser.add_argument("--seeds", type=int, default=2)
    parser.add_argument("--steps", type=int, default=500)
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    torch.set_num_threads(1)
    found = page(options.data, options.images, options.seeds, options.steps)
    print(found)
    if options.out is not None:
        options.out.write_text(found)


if __name__ == "__main__":
    main()
