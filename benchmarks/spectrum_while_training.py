"""The top eigenvalue by budget while training goes on: `python benchmarks/spectrum_while_training.py [--out FILE]`.

Does the order of budgets by sharpness depend on how far training has come? One network for each budget, from one start, is trained on few
CIFAR-10 images for many epochs, so that it can come near a minimum; at several moments the top eigenvalue of the Hessian of its own loss
on 500 of these images is measured (adversarial examples by PGD-10, frozen), and the same times the squared length of the weights, which
does not change where a normalised layer is rescaled together with the rest.
"""

import argparse
import platform
from pathlib import Path
from time import perf_counter

import torch

from isthmus import Plan, build_model, load_data
from isthmus.curvature.loss_at import LossAt
from isthmus.curvature.operator import hessian
from isthmus.curvature.spectrum import top_eigenpairs
from isthmus.data import Augment, Samples
from isthmus.evaluate import correct, logits
from isthmus.randomness import stream
from isthmus.training.adversary import Adversary
from isthmus.training.fit import fit_module
from isthmus.training.objective import Supervised
from isthmus.training.posing import posing

MEASURED = 500


def rows(samples: Samples, budget: int, seed: int, epochs: tuple[int, ...], width: int) -> list[str]:
    """Return a line of the table for each moment of one training against `budget` / 255."""
    eps, last = budget / 255, epochs[-1]
    train = None if budget == 0 else Adversary(method="n-fgsm", eps=(eps,)).objective()
    measure = Supervised() if budget == 0 else Adversary(method="pgd", eps=(eps,)).objective()
    plan = Plan(
        steps=last * len(samples) // 64,
        batch_size=64,
        learning_rate=0.1,
        schedule="cosine",
        warmup=0.05,
        resets=tuple(epoch / last for epoch in epochs[:-1]),
        restart_rate=False,
        augment=Augment(),
    )
    model = build_model("resnet18", num_classes=10, input_shape=(3, 32, 32), width=width, seed=seed)
    _, fitted = fit_module(model, samples, plan, seed=seed, objective=train)
    part, found = samples.take(torch.arange(MEASURED)), list[str]()
    for epoch, bridge in zip(epochs, fitted.snapshots, strict=True):
        at = bridge.at(())
        loss = LossAt(at, posing(measure, part, batch_size=MEASURED))
        value = float(top_eigenpairs(hessian(loss), 1, generator=stream(seed, "spectrum")).values[0])
        length = float(loss.theta.double().norm())
        error = 100 * (1 - float(correct(logits(at, part), part.y).double().mean()))
        numbers = f"{loss.value():.3g} | {error:.1f} | {value:.4g} | {length:.4g} | {value * length**2:.4g}"
        found.append(f"| {budget}/255 | {seed} | {epoch} | {numbers} |")
        print(found[-1], flush=True)
    return found


def main() -> None:
    """Measure, print the page, and write it where asked."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--budgets", type=int, nargs="+", default=[0, 4, 8], help="in 255ths")
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--images", type=int, default=1000)
    parser.add_argument("--epochs", type=int, nargs="+", default=[10, 40, 100])
    parser.add_argument("--width", type=int, default=8)
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    torch.set_num_threads(1)
    began = perf_counter()
    samples = load_data("cifar10").train.subset(options.images, generator=stream(0, "images"))
    found = [
        line
        for seed in range(options.seeds)
        for budget in options.budgets
        for line in rows(samples, budget, seed, tuple(options.epochs), options.width)
    ]
    page = "\n".join(
        [
            "# Sharpness by budget while training goes on",
            "",
            f"Made by `python benchmarks/spectrum_while_training.py --seeds {options.seeds} --out FILE`: "
            f"torch {torch.__version__}, {platform.machine()}, 1 thread, {perf_counter() - began:.0f} s.",
            f"resnet18 of width {options.width}, {options.images:,} CIFAR-10 images without augmentation, measured on {MEASURED} of them.",
            "Loss in nat, under attack where there is a budget; error of the images as they are in %; eigenvalue in nat per squared",
            "unit of weight; length of the weights; eigenvalue times squared length in nat.",
            "",
            "| budget | seed | epochs | loss | clean error | eigenvalue | length | scaled eigenvalue |",
            "|---|---:|---:|---:|---:|---:|---:|---:|",
            *found,
            "",
        ]
    )
    print(page)
    if options.out is not None:
        options.out.write_text(page)


if __name__ == "__main__":
    main()
