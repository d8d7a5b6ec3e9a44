"""Run by `test_training_processes.py` in each of two processes: trains, and writes what this process saw and ended with."""

import sys
from pathlib import Path

import torch
from lightning_fabric import Fabric
from torch import Tensor, nn
from torch.nn import functional

from fit_example import gradient_plan, small, toy
from isthmus.cli.session import leave_group
from isthmus.geometry.build import connect, parse_geometry, single
from isthmus.training.fit import fit
from isthmus.training.objective import Own
from isthmus.training.plan import Plan
from isthmus.training.session import Session

SEED = 11
STEP = gradient_plan(batch_size=10, num_points=2, accumulate=2)
RUN = Plan(steps=4, batch_size=7, learning_rate=0.05)  # seven: the two shares of a batch differ


class Recording:
    """The plain objective; keeps the weights and the batch of each call."""

    def __init__(self) -> None:
        self.calls: list[dict[str, Tensor]] = []

    def __call__(self, model: nn.Module, x: Tensor, y: Tensor, *, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        theta = torch.cat([p.detach().flatten() for p in model.parameters()])
        self.calls.append({"theta": theta, "x": x.clone(), "y": y.clone()})
        logits = model(x)
        return functional.cross_entropy(logits, y, reduction="none"), logits


def curve(*, norm: bool = False):
    return connect([small(seed, norm=norm) for seed in range(2)], parse_geometry("bezier:3", 2))


def main(folder: Path) -> None:
    fabric = Fabric(accelerator="cpu", devices=2, strategy="ddp")
    fabric.launch()
    session, seen = Session(fabric=fabric), Recording()
    step = fit(curve(), toy(), STEP, seed=SEED, session=session, objective=Own(seen))
    longer = fit(curve(norm=True), toy(), RUN, seed=SEED, session=session)
    model = fit(single(small(0)), toy(), RUN, seed=SEED, session=session)
    normed = fit(single(small(0, norm=True)), toy(), RUN, seed=SEED, session=session)
    found = {
        "calls": seen.calls,
        "step": step.bridge.free,
        "longer": longer.bridge.free,
        "model": model.bridge.free,
        "loss": torch.tensor(model.history.frame["loss"].tolist(), dtype=torch.float64),
        "normed": normed.bridge.free,
        "buffers": dict(normed.bridge.states[0]),
    }
    torch.save(found, folder / f"rank-{fabric.global_rank}.pt")
    fabric.barrier()
    leave_group()


if __name__ == "__main__":
    torch.set_num_threads(1)
    main(Path(sys.argv[1]))
