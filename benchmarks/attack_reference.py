"""The published AutoAttack (package `pyautoattack`) on one model, as a JSON record: which images stay robust, how long it took.

Run by `benchmarks/attacks.py`, one process for each case, so that a case that was measured before is not measured again.
"""

import json
from pathlib import Path
from time import perf_counter

import torch
from pyautoattack import AutoAttack
from torch import Tensor, nn

NORMS = {"linf": "Linf", "l2": "L2", "l1": "L1"}


def reference(model: nn.Module, x: Tensor, y: Tensor, *, norm: str, eps: float, seed: int = 0) -> dict[str, object]:
    """Return {"robust": [0 or 1 for each image], "seconds", "queries"}; images still classified right at the points it returns count.

    The verdict is taken on the points it returns, in float32, like ours: a point outside the ball or the box does not count.
    """
    model.eval()
    passes = 0

    def forward(inputs: Tensor) -> Tensor:
        nonlocal passes
        passes += len(inputs)
        return model(inputs)

    attack = AutoAttack(forward, norm=NORMS[norm], eps=eps, seed=seed, version="standard", device="cpu")
    attack.verbose = False
    began = perf_counter()
    found = attack.run_standard_evaluation(x, y, batch_size=250)
    seconds = perf_counter() - began
    points = found[0] if isinstance(found, tuple) else found
    with torch.no_grad():
        robust = torch.cat([model(part) for part in points.split(250)]).argmax(1) == y
    return {"robust": robust.int().tolist(), "seconds": seconds, "queries": passes}


def cached(path: Path, model: nn.Module, batch: tuple[Tensor, Tensor], *, norm: str, eps: float) -> dict[str, object]:
    """Return the record in `path`, measured and written there if it is not there yet."""
    if not path.is_file():
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(reference(model, *batch, norm=norm, eps=eps)))
    return json.loads(path.read_text())
