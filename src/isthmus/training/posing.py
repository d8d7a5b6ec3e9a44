"""`posing`: a fixed set of samples under an objective, posed batch by batch at any model, the same at every call."""

from collections.abc import Iterator
from math import nextafter

import torch
from torch import nn

from isthmus._check import require
from isthmus.data.samples import Samples
from isthmus.layout import placement
from isthmus.problem import Pose, Problem
from isthmus.randomness import stream
from isthmus.tampering.poison import Target, attacker_labels, eligible, require_target
from isthmus.tampering.triggers import Trigger, apply_trigger
from isthmus.training.objective import Objective

AT_THE_END = nextafter(1.0, 0.0)  # progress is below 1; there every schedule has its full budget


def posing(
    objective: Objective, samples: Samples, *, batch_size: int = 500, seed: int = 0, progress: float = AT_THE_END
) -> Pose:
    """Return what poses all `samples` at a model, in stored order, with the inputs in the model's dtype and on its device.

    Batch b draws from a generator of its own, named by the seed and b, so that equal weights always get equal adversarial examples,
    and other weights the same random starts. progress: of the objective's schedule, in [0, 1); at the end unless given.
    Raises InputError for an empty batch and for a progress outside [0, 1).

    >>> from isthmus.training.objective import Supervised
    >>> samples = Samples(torch.rand(5, 3), torch.zeros(5, dtype=torch.int64), 2)
    >>> [len(problem()[0]) for problem in posing(Supervised(), samples, batch_size=2)(nn.Linear(3, 2))]
    [2, 2, 1]
    """
    require(batch_size >= 1, "batch_size", "be at least 1", batch_size)
    require(0 <= progress < 1, "progress", "lie in [0, 1)", progress)

    def pose(model: nn.Module) -> Iterator[Problem]:
        device, dtype = placement(model)
        places = torch.arange(len(samples), device=samples.x.device)
        for batch, index in enumerate(places.split(batch_size)):
            x, y = samples.inputs(index).to(device, dtype), samples.y[index].to(device)
            yield objective(model, x, y, generator=stream(seed, "pose", batch), progress=progress)

    return pose


def triggered(samples: Samples, trigger: Trigger, target: Target) -> Samples:
    """Return the samples that a backdoor changes, with the trigger in them and the attacker's labels: their loss is the backdoor's.

    Samples of the target class are left out, as everywhere (all-to-all keeps all). Raises InputError where none is left.
    """
    require_target(target, samples.num_classes)
    kept = eligible(samples.y, target)
    require(bool(kept.any()), "samples", f"hold some that are not of the target class {target}", "none")
    chosen = samples.take(kept)
    x = torch.cat([apply_trigger(trigger, chosen.inputs(i)) for i in torch.arange(len(chosen)).split(1000)])
    return chosen.replaced(x=x, y=attacker_labels(chosen.y, target, chosen.num_classes))
