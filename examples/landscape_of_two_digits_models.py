"""What a landscape shows and what it does not: scale, frozen examples, and the steep direction that random ones miss (Li et al. 2018)."""

from copy import deepcopy

import torch

from isthmus import Plan, build_model, fit_module, load_data
from isthmus.attacks import PGD, Threat
from isthmus.curvature.loss_at import LossAt
from isthmus.curvature.operator import hessian
from isthmus.curvature.spectrum import top_eigenpairs
from isthmus.geometry.slices import random_directions, slice_bridge
from isthmus.probes import Clean, Probe, Robust
from isthmus.probes.frozen import Frozen, freeze
from isthmus.randomness import stream
from isthmus.scan import scan
from isthmus.training.adversary import Adversary
from isthmus.training.objective import Supervised
from isthmus.training.posing import posing

EPS = 0.15
data = load_data("digits")
images, threat, attack = data.test.take(torch.arange(200)), Threat("linf", EPS), PGD(5, 0.4)


def trained(adversary: Adversary | None) -> torch.nn.Module:
    """Return a small network, trained on clean or adversarial digits."""
    fresh = build_model("mlp:depth=1", num_classes=10, input_shape=data.input_shape, width=32)
    objective = None if adversary is None else adversary.objective()
    return fit_module(fresh, data.train, Plan(steps=250, batch_size=64), seed=0, objective=objective)[0]


def along(model: torch.nn.Module, direction: torch.Tensor, *probes: Probe) -> list[dict]:
    """Return what the probes measure from one length of `direction` before the model to one behind it."""
    places = [i / 3 for i in range(-3, 4)]
    return scan(slice_bridge(model, direction[None]), places, probes, settle=None).rows()


plain, robust = trained(None), trained(Adversary(method="pgd", eps=(EPS,), steps=3, step=0.5))

# 1. The same function with other weights: a unit ten times larger, and its outputs taken at a tenth.
scaled = deepcopy(plain)
first, last = (layer for layer in scaled.modules() if isinstance(layer, torch.nn.Linear))
with torch.no_grad():
    first.weight.mul_(10)
    first.bias.mul_(10)
    last.weight.div_(10)
rise = {}
for name in ("filter", "global"):
    for title, model in (("as trained", plain), ("rescaled", scaled)):
        direction = random_directions(model, 1, generator=stream(0, "direction"), normalise=name)[0]
        losses = [row["test_loss"] for row in along(model, direction, Clean(images))]
        rise[name, title] = max(losses) - losses[3]
        print(f"{name}-normalised direction, {title}: the loss rises by {rise[name, title]:.3f} nat")

# 2. The loss under attack is steepest along the top eigenvector; a random direction of the same length hardly shows it.
objective = Adversary(method="pgd", eps=(EPS,), steps=5, step=0.4).objective()
steep = {}
for title, model, posed in (("plain", plain, Supervised()), ("robust", robust, objective)):
    pairs = top_eigenpairs(hessian(LossAt(model, posing(posed, images))), 1, generator=stream(0, "eigen"))
    crafted = freeze(model, images, threat, attack, generator=stream(0, "scan", "Robust", 0.0))
    probes = (Clean(images), Robust(images, threat, attack), Frozen(crafted, "crafted at the centre"))
    rows = along(model, pairs.vectors[0], *probes)
    chance = along(model, random_directions(model, 1, generator=stream(1), normalise="global")[0], *probes)
    steep[title] = [max(r["robust_loss"] for r in held) - held[3]["robust_loss"] for held in (rows, chance)]
    print(
        f"{title}: robust loss rises by {steep[title][0]:.3f} nat along the eigenvector, {steep[title][1]:.3f} at random"
    )
    # 3. Frozen examples are the worst case at the centre, and only there.
    assert abs(rows[3]["frozen_loss"] - rows[3]["robust_loss"]) < 1e-6, rows[3]
    assert all(row["frozen_loss"] <= row["robust_loss"] for row in rows), rows

assert abs(rise["filter", "as trained"] - rise["filter", "rescaled"]) < 1e-3 * rise["filter", "as trained"], rise
assert rise["global", "rescaled"] > 3 * rise["global", "as trained"], rise
assert all(eigen > 10 * chance for eigen, chance in steep.values()), steep
