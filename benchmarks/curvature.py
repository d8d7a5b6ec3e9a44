"""Top eigenpairs of the Hessian in the weights against hessian-eigenthings and PyHessian: `python benchmarks/curvature.py [--out FILE]`.

    python benchmarks/curvature.py --case LABEL,FILE,ARCH,DATA,N ... [--count 10] [--tolerance 1e-3] [--rounds 3] [--out FILE]

A CASE is for instance `lenet,runs/a/model.safetensors,lenet:width=4,mnist,1000`: weights and the first N test images, taken as one
batch; without any, a `lenet:width=4` is trained on the handwritten digits in a few seconds. All three see the same model, images,
precision and thread, and look for the eigenvalues largest in magnitude. The residual ||H v - lambda v|| of every pair is measured by one
product that belongs to none of them: double backward on a float64 copy. The others stop by other rules than a residual. Before the clock
starts each gets the cheapest setting with which all its residuals meet the tolerance (times the largest eigenvalue): hessian-eigenthings,
whose Lanczos takes a fixed number of steps, the least number from two below ours on; PyHessian, power iteration with deflation, the
largest of 1e-4, 1e-5, 1e-6, 1e-7 for its own tolerance. The order turns round from round to round; a ratio is the median of paired ratios
of seconds. The model comes in training mode; hessian-eigenthings, which leaves the mode to its caller, is given evaluation mode.
"""

import argparse
import platform
import warnings
from collections.abc import Callable
from copy import deepcopy
from dataclasses import dataclass
from functools import partial
from importlib.metadata import version
from pathlib import Path
from statistics import median
from time import perf_counter

import pyhessian
import torch
from hessian_eigenthings.algorithms import lanczos
from hessian_eigenthings.operators import HessianOperator
from torch import Tensor, nn
from torch.nn import functional

from isthmus import build_model
from isthmus.curvature.loss_at import LossAt
from isthmus.curvature.operator import hessian
from isthmus.curvature.spectrum import Search, top_eigenpairs
from isthmus.data import Samples, load_data
from isthmus.evaluate import evaluating
from isthmus.models import load_model
from isthmus.training.objective import Supervised
from isthmus.training.posing import posing

Pairs = tuple[Tensor, Tensor, int]
"""Values (k,), unit vectors (k, D), products."""
Side = Callable[[nn.Module], Pairs]


@dataclass(frozen=True)
class Case:
    """A model, images, and what is asked for."""

    label: str
    model: nn.Module
    samples: Samples
    count: int
    tolerance: float

    @property
    def batch(self) -> tuple[Tensor, Tensor]:
        """Return images in [0, 1] and labels."""
        return self.samples.inputs(), self.samples.y


def loaded(text: str, count: int, tolerance: float) -> Case:
    """Return the case that `text` names."""
    label, file, arch, data, n = text.rsplit(",", 4)
    samples = load_data(data).test.take(torch.arange(int(n)))
    model, _ = load_model(arch, file, num_classes=samples.num_classes, input_shape=samples.input_shape)
    return Case(label, model, samples, count, tolerance)


def trained(count: int, tolerance: float) -> Case:
    """Return a `lenet` after five passes over the training digits, with the test digits."""
    splits = load_data("digits", size=16)
    model = build_model("lenet:width=4", num_classes=10, input_shape=splits.train.input_shape)
    optimizer, generator = torch.optim.Adam(model.parameters(), 1e-3), torch.Generator().manual_seed(0)
    for _ in range(5):
        for index in torch.randperm(len(splits.train), generator=generator).split(64):
            optimizer.zero_grad()
            functional.cross_entropy(model(splits.train.inputs(index)), splits.train.y[index]).backward()
            optimizer.step()
    return Case("lenet:width=4, digits", model, splits.test, count, tolerance)


def ours(case: Case, model: nn.Module) -> Pairs:
    """Return the pairs of this library."""
    loss = LossAt(model, posing(Supervised(), case.samples, batch_size=len(case.samples)))
    search = Search(case.tolerance, order="magnitude")
    found = top_eigenpairs(hessian(loss), case.count, generator=torch.Generator().manual_seed(0), search=search)
    return found.values, found.vectors, found.products


def eigenthings(case: Case, steps: int, model: nn.Module) -> Pairs:
    """Return the pairs of hessian-eigenthings after so many steps of Lanczos."""

    def loss(net: nn.Module, batch: tuple[Tensor, Tensor]) -> Tensor:
        return functional.cross_entropy(net(batch[0]), batch[1])

    with evaluating(model):
        operator = HessianOperator(model, [case.batch], loss)
        found = lanczos(operator, k=case.count, max_iter=steps, reorthogonalize=True, which="LM", seed=0)
    return found.eigenvalues, found.eigenvectors, found.iterations


def power(case: Case, tolerance: float, model: nn.Module) -> Pairs:
    """Return the pairs of PyHessian at a tolerance of its own, at most 1,000 power iterations for each; its products are counted."""
    taken = 0

    def count(_: object) -> None:
        nonlocal taken
        taken += 1

    torch.manual_seed(0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch warns of the cycle that `backward(create_graph=True)` leaves
        found = pyhessian.hessian(model, functional.cross_entropy, data=case.batch, cuda=False)
    found.gradsH[-1].register_hook(count)  # runs once in each product
    values, vectors = found.eigenvalues(maxIter=1000, tol=tolerance, top_n=case.count)
    flat = torch.stack([torch.cat([part.reshape(-1) for part in v]) for v in vectors])
    return torch.tensor(values), flat.detach(), taken


def true_residuals(case: Case, pairs: Pairs) -> Tensor:
    """Return ||H v - lambda v|| / |lambda_1| of each pair (k,), by double backward on a float64 copy in evaluation mode."""
    model, (x, y) = deepcopy(case.model).double().eval(), case.batch
    parameters = list(model.parameters())
    total = functional.cross_entropy(model(x.double()), y)
    gradient = torch.autograd.grad(total, parameters, create_graph=True)
    flat = torch.cat([g.reshape(-1) for g in gradient])
    left: list[Tensor] = []
    for value, vector in zip(pairs[0].double(), pairs[1].double(), strict=True):
        unit = vector / vector.norm()
        image = torch.autograd.grad(flat, parameters, unit, retain_graph=True)
        left.append((torch.cat([part.reshape(-1) for part in image]) - value * unit).norm())
    return torch.stack(left) / pairs[0][0].abs()


def first_that_fits(case: Case, sides: dict[str, Side]) -> str:
    """Return the name of the first side all of whose residuals meet the tolerance, or of the last."""
    for name, side in sides.items():
        if float(true_residuals(case, side(deepcopy(case.model))).max()) <= case.tolerance:
            return name
    return list(sides)[-1]


def contenders(case: Case) -> dict[str, Side]:
    """Return the three sides, the others at their cheapest setting."""
    start = max(case.count, ours(case, deepcopy(case.model))[2] - 2)
    steps: dict[str, Side] = {str(k): partial(eigenthings, case, k) for k in range(start, 10 * start)}
    rules: dict[str, Side] = {f"{t:g}": partial(power, case, t) for t in (1e-4, 1e-5, 1e-6, 1e-7)}
    fewest, loosest = first_that_fits(case, steps), first_that_fits(case, rules)
    return {
        "isthmus": partial(ours, case),
        f"hessian-eigenthings {version('hessian-eigenthings')}, {fewest} steps": steps[fewest],
        f"PyHessian {version('pyhessian')}, tol {loosest}": rules[loosest],
    }


def changes(model: nn.Module, before: nn.Module) -> str:
    """Return what of a model in training mode is otherwise than before."""
    found = [] if model.training == before.training else ["mode"]
    if any(p.grad is not None for p in model.parameters()):
        found.append("`.grad`")
    pairs = zip(model.state_dict().values(), before.state_dict().values(), strict=True)
    return ", ".join(found + ([] if all(torch.equal(a, b) for a, b in pairs) else ["weights"])) or "nothing"


def rows(case: Case, rounds: int) -> list[str]:
    """Return one row for each side."""
    sides = contenders(case)
    pairs, seconds, changed = dict[str, Pairs](), {name: list[float]() for name in sides}, dict[str, str]()
    for k in range(rounds):
        for name in sides if k % 2 == 0 else reversed(sides):
            model = deepcopy(case.model).train()
            began = perf_counter()
            pairs[name] = sides[name](model)
            seconds[name].append(perf_counter() - began)
            changed[name] = changes(model, case.model.train())
    truth, base = pairs["isthmus"][0].double(), seconds["isthmus"]
    found: list[str] = []
    for name, (values, _, products) in pairs.items():
        off = float(((values.double() - truth) / truth[0]).abs().max())
        ratio = median(b / a for a, b in zip(base, seconds[name], strict=True))
        times = f"{median(seconds[name]):.1f} ({min(seconds[name]):.1f}-{max(seconds[name]):.1f}) | {ratio:.2f}"
        worst = f"{float(true_residuals(case, pairs[name]).max()):.1e}"
        n, size = len(case.samples), sum(p.numel() for p in case.model.parameters())
        found.append(
            f"| {case.label} | {size:,} | {n} | {name} | {values[0]:.4g} | {values[-1]:.4g} | {off:.1e} | {worst} | {products} | {times} | "
            f"{changed[name]} |"
        )
    return found


def main() -> None:
    """Measure, print the table, and write it where asked."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--case", action="append", default=[])
    parser.add_argument("--count", type=int, default=10)
    parser.add_argument("--tolerance", type=float, default=1e-3)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    wanted = (options.count, options.tolerance)
    cases = [loaded(text, *wanted) for text in options.case] or [trained(*wanted)]
    lines = [
        f"# The {options.count} eigenvalues of the Hessian that are largest in magnitude",
        "",
        f"Made by `python benchmarks/curvature.py`: torch {torch.__version__}, {platform.machine()}, {options.threads} thread(s), "
        f"{options.rounds} rounds, float32; equal residual: at most {options.tolerance:g} of the largest eigenvalue for every pair.",
        "Seconds: median (least-greatest); ratio: seconds over those of isthmus, median of the paired ratios. difference: greatest of the",
        "values from those of isthmus, residual: greatest of the pairs, both relative to the largest eigenvalue.",
        "",
        "| model | D | images | library | largest | last | difference | residual | products | seconds | ratio | changed in the model |",
        "|---|---:|---:|---|---:|---:|---:|---:|---:|---:|---:|---|",
        *(row for case in cases for row in rows(case, options.rounds)),
    ]
    page = "\n".join(lines) + "\n"
    print(page)
    if options.out is not None:
        options.out.write_text(page)


if __name__ == "__main__":
    main()
