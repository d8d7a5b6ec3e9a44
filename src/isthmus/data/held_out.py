"""A fixed test split for sources that have none."""

import torch

from isthmus._check import require
from isthmus.data.samples import Samples, Splits
from isthmus.data.strata import evenly_spaced


def cut(samples: Samples, num_test: int, name: str, note: str = "") -> Splits:
    """Return `samples` with `num_test` of them held out as test, stratified, evenly spaced in stored order: the same on any machine."""
    test = torch.zeros(len(samples), dtype=torch.bool)
    test[evenly_spaced(samples.y, samples.num_classes, num_test)] = True
    require(
        bool(test.any()),
        name,
        "hold at least two samples of some class, to hold one out as test",
        f"{len(samples)} samples",
    )
    train, held = samples.take(~test), samples.take(test)
    return Splits(_named(train, f"{name}/train"), _named(held, f"{name}/test"), name + note)


def held_out(samples: Samples, name: str) -> Splits:
    """Return `samples` with a third held out as test; the name of the splits says so."""
    return cut(samples, len(samples) // 3, name, note=" (no test split: a third of the samples held out as test)")


def _named(samples: Samples, name: str) -> Samples:
    return Samples(samples.x, samples.y, samples.num_classes, name, samples.index)
