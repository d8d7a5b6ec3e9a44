"""Adversarial logistic regression in one dimension: a kink at zero that no step size smooths (Liu et al. 2020, sketches of section 3).

The loss of the point x = 1 with label -1 is log(1 + exp(theta)). An adversary who may move x by eps makes it
log(1 + exp(theta + eps |theta|)): still convex, but its gradient jumps by eps at theta = 0, and above eps = 1 training ends there.
`python examples/adversarial_logistic_sketches.py FIGURE` writes the curves as PDF, PNG or SVG.
"""

import sys

import torch

from isthmus.plots import save_figure
from isthmus.plots.sketches import sketch_figure
from isthmus.table import Column, Table
from isthmus.theory import binary_loss, point_budget
from isthmus.theory.smooth import sketch, sketch_jump

BUDGETS = (0.0, 0.6, 1.2)
theta = torch.arange(-80, 81, dtype=torch.float64) / 20
x, label = torch.ones(1, dtype=torch.float64), -1
rows = list[dict[str, float]]()
for eps in BUDGETS:
    found = sketch(theta, eps)
    columns = zip(theta.tolist(), found.loss.tolist(), found.left.tolist(), found.right.tolist(), strict=True)
    rows += [{"eps": eps, "theta": t, "loss": g, "left": low, "right": high} for t, g, low, high in columns]

    at = sketch(torch.tensor(0.0, dtype=torch.float64), eps)
    best = theta[found.loss.argmin()].item()
    print(f"eps {eps:g}: least on [-4, 4] at theta = {best:g}, gradient at 0 from {at.left:.2f} to {at.right:.2f}")
    # The library's closed form for any number of weights agrees.
    closed = [binary_loss(t[None], x, label, eps).loss for t in theta]
    assert torch.allclose(torch.stack(closed), found.loss)
    # Smoothness is lost by eps = 2 eps L with L = 1/2 the mixed derivative at 0: the constant 2 of the theorem is tight.
    assert abs(float(at.right - at.left) - eps) < 1e-12
    assert abs(sketch_jump(eps) - eps) < 1e-12
    # Convex: slopes never fall from left to right.
    assert (found.right[:-1] <= found.left[1:] + 1e-12).all()
    # The critical budget of this point is |x| = 1. Above it the origin is best, below it every step to the left is better.
    critical = point_budget(x[None]).item()
    assert best == (0.0 if eps > critical else theta[0].item())

names = {"eps": "1", "theta": "1", "loss": "nat", "left": "nat", "right": "nat"}
table = Table.of(rows, [Column(name, unit) for name, unit in names.items()])
figure = sketch_figure(table)
if __name__ == "__main__" and len(sys.argv) > 1:
    save_figure(figure, sys.argv[1])
