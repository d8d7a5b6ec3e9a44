"""The largest eigenvalue of each image's input Hessian, exact against power iteration: `python benchmarks/input_hessian.py [--out FILE]`.

Both sides see the same model, images, frozen parameters and memory format. Exact: `input_eigenvalues`, from C - 1 vector-Jacobian
products over one graph. Power iteration: 20 steps of double backward for the whole batch over one retained graph, the estimate its last
Rayleigh quotient. They take turns, the order swaps from round to round, and the ratio is the median of the paired ratios of seconds.
Errors are relative to the largest eigenvalue of the dense Hessian of a float64 copy, the greatest over the images: on the images
themselves for `cnn`, on images of 3x8x8 for `resnet18`, whose 3,072 pixels at 3x32x32 would make one Hessian take minutes.
"""

import argparse
import platform
from copy import deepcopy
from pathlib import Path
from statistics import quantiles
from time import perf_counter

import torch
from sklearn.datasets import load_digits
from torch import Tensor, nn
from torch.nn import functional

from isthmus import build_model
from isthmus.curvature.input_hessian import input_eigenvalues

STEPS = 20


def digits() -> tuple[Tensor, Tensor]:
    """Return the 1,797 handwritten digits (N, 1, 8, 8) in [0, 1] and their labels."""
    found = load_digits()
    return torch.from_numpy(found.images).float()[:, None] / 16, torch.from_numpy(found.target).long()


def trained(x: Tensor, y: Tensor) -> nn.Module:
    """Return a `cnn` after three passes over the images."""
    model = build_model("cnn", num_classes=10, input_shape=(1, 8, 8))
    optimizer = torch.optim.Adam(model.parameters(), 3e-3)
    generator = torch.Generator().manual_seed(0)
    for _ in range(3):
        for index in torch.randperm(len(x), generator=generator).split(64):
            optimizer.zero_grad()
            functional.cross_entropy(model(x[index]), y[index]).backward()
            optimizer.step()
    return model


def noise(side: int, n: int) -> tuple[Tensor, Tensor]:
    """Return uniform colour images and labels."""
    return torch.rand(n, 3, side, side, generator=torch.Generator().manual_seed(0)), torch.arange(n) % 10


def exact(model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
    """Return the largest eigenvalues (B,) of this library."""
    return input_eigenvalues(model, x, y, method="exact").eigenvalues[:, 0]


def power(model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
    """Return the estimates (B,) of power iteration on a frozen model in evaluation mode."""
    leaf = x.clone(memory_format=torch.channels_last).requires_grad_()
    loss = functional.cross_entropy(model(leaf), y, reduction="sum")
    (gradient,) = torch.autograd.grad(loss, leaf, create_graph=True)
    v = torch.randn(x.shape, generator=torch.Generator().manual_seed(0))
    estimate = torch.empty(0)
    for _ in range(STEPS):
        v = v / v.flatten(1).norm(dim=1).view(-1, 1, 1, 1)
        (image,) = torch.autograd.grad(gradient, leaf, v, retain_graph=True)
        estimate, v = (image * v).flatten(1).sum(1), image
    return estimate


def dense(model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
    """Return the largest eigenvalues (B,) of the dense Hessians of a float64 copy, all rows of one by one double backward."""
    copy, largest = deepcopy(model).double(), list[Tensor]()
    for image, label in zip(x.double(), y, strict=True):
        size = image.numel()
        leaf = image.expand(size, *image.shape).clone().requires_grad_()
        loss = functional.cross_entropy(copy(leaf), label.expand(size), reduction="sum")
        (gradient,) = torch.autograd.grad(loss, leaf, create_graph=True)
        rows = torch.eye(size, dtype=torch.float64).reshape(leaf.shape)
        (hessian,) = torch.autograd.grad(gradient, leaf, rows)
        largest.append(torch.linalg.eigvalsh(hessian.flatten(1))[-1])
    return torch.stack(largest)


def seconds(model: nn.Module, x: Tensor, y: Tensor, rounds: int) -> dict[str, float]:
    """Return median and quartiles of seconds(power) / seconds(exact), and the least seconds of each."""
    sides = (exact, power)
    took: list[list[float]] = [[], []]
    for k in range(rounds + 1):  # the first round warms up
        for side in (0, 1) if k % 2 == 0 else (1, 0):
            began = perf_counter()
            sides[side](model, x, y)
            took[side].append(perf_counter() - began)
    low, ratio, high = quantiles([b / a for a, b in zip(took[0][1:], took[1][1:], strict=True)], n=4)
    return {"ratio": ratio, "low": low, "high": high, "exact": min(took[0]), "power": min(took[1])}


def measured(model: nn.Module, images: tuple[Tensor, Tensor], small: tuple[Tensor, Tensor], rounds: int) -> str:
    """Return the cells of one row: seconds on `images`, errors on `small`."""
    model.eval().requires_grad_(False)
    truth = dense(model, *small)
    errors = [float(((side(model, *small) - truth) / truth).abs().max()) for side in (exact, power)]
    found = seconds(model, *images, rounds)
    times = (
        f"{found['exact']:.3f} | {found['power']:.3f} | {found['ratio']:.1f} | {found['low']:.1f}-{found['high']:.1f}"
    )
    return f"{len(images[0])} | {times} | {errors[0]:.1e} | {errors[1]:.1e}"


def main() -> None:
    """Measure, print the table, and write it where asked."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--images", type=int, default=100, help="digits; of the larger images half as many")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    x, y = digits()
    n, resnet = options.images, build_model("resnet18", num_classes=10, input_shape=(3, 32, 32), width=8)
    rows = {
        "cnn, digits 1x8x8": measured(trained(x, y), (x[:n], y[:n]), (x[:16], y[:16]), options.rounds),
        "resnet18:width=8, noise 3x32x32": measured(resnet, noise(32, n // 2), noise(8, 4), options.rounds),
    }
    lines = [
        "# Largest eigenvalue of the input Hessian",
        "",
        f"Made by `python benchmarks/input_hessian.py --out FILE`: torch {torch.__version__}, {platform.machine()}, "
        f"{options.threads} thread(s), {options.rounds} rounds.",
        f"Seconds (least) of the exact method and of {STEPS} steps of power iteration by double backward, in turn in one run; median and",
        "quartiles of their paired ratios; greatest relative error against the dense float64 Hessian.",
        "",
        "| model, images | n | exact (s) | power (s) | ratio | quartiles | error, exact | error, power |",
        "|---|---:|---:|---:|---:|---:|---:|---:|",
        *(f"| {name} | {cells} |" for name, cells in rows.items()),
    ]
    page = "\n".join(lines) + "\n"
    print(page)
    if options.out is not None:
        options.out.write_text(page)


if __name__ == "__main__":
    main()
