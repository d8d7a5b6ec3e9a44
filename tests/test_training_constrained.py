"""Objectives under a constraint: after every step each free point is carried back to what is allowed."""

from collections.abc import Mapping
from dataclasses import dataclass

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from contracts.modules import untouched
from fit_example import batches, gradient_plan, inputs, small, toy
from isthmus.geometry.build import bezier
from isthmus.losses import margin
from isthmus.training.fit import fit, fit_module
from isthmus.training.guide import Guided, Projected
from isthmus.training.objective import Supervised

SEED, HEAD = 2, "6.weight"
PLAN = gradient_plan(steps=6, learning_rate=0.1, momentum=0.9, weight_decay=1e-2)


def on_sphere(weights: Mapping[str, Tensor]) -> None:
    weights[HEAD].mul_(3 / weights[HEAD].norm())


def test_it_is_projected_gradient_descent() -> None:
    """PyTorch's own SGD with the momentum left alone, and the head scaled after every step."""
    model, samples = small(0), toy()
    with untouched(model):
        found, fitted = fit_module(
            model, samples, PLAN, seed=SEED, objective=Guided(Supervised(), Projected(on_sphere))
        )
    optimizer = torch.optim.SGD(model.parameters(), 0.1, 0.9, weight_decay=1e-2)
    for index in batches(samples, PLAN, SEED):
        optimizer.zero_grad()
        functional.cross_entropy(model(inputs(samples, index)), samples.y[index]).backward()
        optimizer.step()
        model[6].weight.data *= 3 / torch.norm(model[6].weight.data)
    for p, q in zip(found.parameters(), model.parameters(), strict=True):
        torch.testing.assert_close(p, q, rtol=1e-9, atol=1e-12)
    assert found[6].weight.norm().item() == pytest.approx(3)
    assert fitted.evaluations == 6


def test_what_its_owner_froze_stays_where_it_was() -> None:
    model = small(0)
    model[6].weight.requires_grad_(False)
    found, _ = fit_module(model, toy(), PLAN, seed=SEED, objective=Guided(Supervised(), Projected(on_sphere)))
    assert torch.equal(found[6].weight, model[6].weight)


def test_every_free_point_of_a_bridge_is_projected_and_no_fixed_one() -> None:
    bridge = bezier([small(0), small(1)], 3)
    found = fit(bridge, toy(), PLAN, seed=SEED, objective=Guided(Supervised(), Projected(on_sphere))).bridge
    norms = [found.layout.unflatten(point)[HEAD].norm().item() for point in found.free]
    assert norms == pytest.approx([3, 3])
    assert torch.equal(found.fixed, bridge.fixed)


@dataclass(frozen=True)
class Scheduled(Supervised):
    """Costs three passes to pose, and has a schedule."""

    @property
    def crafting(self) -> int:
        return 3

    def settings(self, progress: float) -> Mapping[str, float]:
        return {"radius": progress}


def test_the_rest_is_the_objectives_own() -> None:
    found, fitted = fit_module(
        small(0), toy(), PLAN, seed=SEED, objective=Guided(Scheduled(margin), Projected(on_sphere))
    )
    other, _ = fit_module(small(0), toy(), PLAN, seed=SEED, objective=Guided(Supervised(), Projected(on_sphere)))
    assert fitted.evaluations == 24
    assert fitted.history.frame["radius"].iloc[-1] == pytest.approx(5 / 6)
    assert not torch.equal(found[0].weight, other[0].weight)
