"""Two small suspects on the digits and a few trusted images, made once for all tests of remedies."""

from functools import cache

from torch import nn

from isthmus.data import Splits, load_data, split_roles
from isthmus.models import build_model
from isthmus.repair.protocol import Clean
from isthmus.training.fit import fit_module
from isthmus.training.plan import Plan


@cache
def digits() -> Splits:
    return load_data("digits")


def fresh(seed: int) -> nn.Module:
    """An untrained network with BatchNorm."""
    return build_model("cnn", num_classes=10, input_shape=(1, 8, 8), width=8, seed=seed)


@cache
def suspects() -> tuple[nn.Module, nn.Module]:
    """Two networks trained from different weights. Shared by all tests: nobody may change them."""
    plan = Plan(steps=60, batch_size=32)
    first, second = (fit_module(fresh(seed), digits().train, plan, seed=seed)[0].eval() for seed in range(2))
    return first, second


@cache
def trusted(train: int = 60, validation: int = 40) -> Clean:
    """Trusted images of the digits in their two roles."""
    roles = split_roles(digits().train, {"train": train, "validation": validation}, seed=0, avoid=digits().test)
    return Clean(roles["train"], roles["validation"])
