"""A small convolutional network on scikit-learn's digits, adversarially trained for seconds, so that some images survive an attack."""

from functools import cache

import torch
from sklearn.datasets import load_digits
from torch import Tensor, nn
from torch.nn import functional

from contracts.modules import seeded
from isthmus.attacks.threat import Norm
from isthmus.evaluate import correct

DIGITS_EPS: dict[Norm, float] = {"linf": 0.15, "l2": 0.6, "l1": 1.5}
"""Radii at which about half of the images survive."""


class Counted(nn.Module):
    """Counts the images passed forward."""

    def __init__(self, model: nn.Module):
        super().__init__()
        self.model, self.forwards = model, 0

    def forward(self, x: Tensor) -> Tensor:
        self.forwards += len(x)
        return self.model(x)


@cache
def hard_digits() -> tuple[nn.Module, Tensor, Tensor]:
    """The network in evaluation mode, with 120 test images (120, 1, 8, 8) that it classifies correctly and their labels."""
    images, classes = load_digits(return_X_y=True)
    x = torch.tensor(images / 16, dtype=torch.float32).reshape(-1, 1, 8, 8)
    y = torch.tensor(classes)
    with seeded(0):
        model = nn.Sequential(
            nn.Conv2d(1, 8, 3, padding=1),
            nn.ReLU(),
            nn.Conv2d(8, 16, 3, stride=2),
            nn.ReLU(),
            nn.Flatten(),
            nn.Linear(144, 10),
        )
        optimizer = torch.optim.Adam(model.parameters(), 5e-3)
        for _ in range(8):
            for rows in torch.randperm(1500).split(50):
                start = (x[rows] + torch.empty_like(x[rows]).uniform_(-0.15, 0.15)).requires_grad_()
                ascent = torch.autograd.grad(functional.cross_entropy(model(start), y[rows]), start)[0].sign()
                crafted = (start.detach() + 0.15 * ascent).clamp(x[rows] - 0.15, x[rows] + 0.15).clamp(0, 1)
                optimizer.zero_grad()
                functional.cross_entropy(model(crafted), y[rows]).backward()
                optimizer.step()
    model.eval().requires_grad_(False)
    good = correct(model(x[1500:]), y[1500:])
    return model, x[1500:][good][:120], y[1500:][good][:120]
