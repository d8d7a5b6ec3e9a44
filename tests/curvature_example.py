"""Small models, samples and objectives whose curvature is known from elsewhere: a dense Hessian of functional calls in float64."""

from collections.abc import Iterable
from copy import deepcopy

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn import functional
from torch.nn.attention import SDPBackend, sdpa_kernel

from contracts.modules import seeded
from isthmus.attacks.pgd import PGD
from isthmus.attacks.threat import Threat
from isthmus.layout import Layout, placement
from isthmus.problem import Pose, Posed, Problem
from isthmus.training.adversarial import Adversarial, Trades
from isthmus.training.budget import Budget
from isthmus.training.objective import Objective, Supervised


class Residual(nn.Module):
    """(B, 2, 6, 6) -> (B, 3): a convolution, a residual block with BatchNorm, a mean."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(2, 4, 3, padding=1)
        self.one, self.norm = nn.Conv2d(4, 4, 3, padding=1, bias=False), nn.BatchNorm2d(4)
        self.head = nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        hidden = functional.gelu(self.first(x))
        hidden = functional.relu(hidden + self.norm(self.one(hidden)))
        return self.head(hidden.mean((2, 3)))


class Attention(nn.Module):
    """(B, 2, 6, 6) -> (B, 3): four patches, attention between tied projections, LayerNorm."""

    def __init__(self) -> None:
        super().__init__()
        self.patches = nn.Conv2d(2, 4, 3, stride=3)
        self.key = nn.Linear(4, 4)
        self.query = nn.Linear(4, 4)
        self.query.weight = self.key.weight
        self.layer = nn.LayerNorm(4)
        self.head = nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        tokens = self.patches(x).flatten(2).transpose(1, 2)
        seen = functional.scaled_dot_product_attention(self.query(tokens), self.key(tokens), tokens)
        return self.head(self.layer(tokens + seen).mean(1))


def convolutional() -> nn.Module:
    """Return a small convolutional network for the same images."""
    return nn.Sequential(
        *(nn.Conv2d(2, 4, 3), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(16, 8), nn.Tanh(), nn.Linear(8, 3))
    )


def models() -> dict[str, nn.Module]:
    """Return one model of each kind, the BatchNorm's statistics moved, all in training mode."""
    with seeded(1):
        found = {"conv": convolutional(), "residual": Residual(), "attention": Attention()}
        for model in found.values():
            for parameter in model.parameters():
                nn.init.normal_(parameter, std=0.6)
            for _ in range(3):
                model(torch.randn(8, 2, 6, 6))
    return found


def samples(n: int = 12) -> tuple[Tensor, Tensor]:
    """Return images (n, 2, 6, 6) in [0, 1] and labels below 3."""
    return torch.rand(n, 2, 6, 6, generator=torch.Generator().manual_seed(5)), torch.arange(n) % 3


ATTACK = PGD(steps=3, step=0.5, start=1.0)
THREAT = Threat("linf", 0.1)


def objectives() -> dict[str, Objective]:
    """Return the project's objectives, the adversarial ones with a clean part and TRADES among them."""
    full = Budget(target=1.0)
    return {
        "clean": Supervised(),
        "adversarial": Adversarial(ATTACK, (THREAT,), full, clean_weight=0.3),
        "trades": Trades(ATTACK, THREAT, full, beta=2.0),
    }


def posing(objective: Objective, x: Tensor, y: Tensor, batch_size: int = 5) -> Pose:
    """Return how the samples are posed, batch by batch, the same at every call."""

    def pose(model: nn.Module) -> Iterable[Problem]:
        device, dtype = placement(model)
        generator = torch.Generator().manual_seed(0)
        return [
            objective(model, part.to(device, dtype), labels.to(device), generator=generator, progress=0.5)
            for part, labels in zip(x.split(batch_size), y.split(batch_size), strict=True)
        ]

    return pose


def flat_loss(model: nn.Module, pose: Pose) -> tuple[Layout, Tensor, "FlatLoss"]:
    """Return layout, flat weights in float64 and the mean loss as a function of them, by functional calls of a copy in evaluation mode."""
    model = deepcopy(model).double().eval()
    layout = Layout.of(model)
    problems = [problem for problem in pose(model) if isinstance(problem, Posed)]
    return layout, layout.flatten(dict(model.named_parameters())), FlatLoss(model, layout, problems)


class FlatLoss:
    """theta (D,) -> mean loss; `outputs` -> the logits of all inputs of all samples."""

    def __init__(self, model: nn.Module, layout: Layout, problems: list[Posed]):
        self.model, self.layout, self.problems = model, layout, problems

    def outputs(self, theta: Tensor) -> list[list[Tensor]]:
        weights = self.layout.unflatten(theta)
        return [[functional_call(self.model, weights, (x,)) for x in problem.inputs] for problem in self.problems]

    def of_outputs(self, outputs: list[list[Tensor]]) -> Tensor:
        losses = [p.loss(out, p.y) for p, out in zip(self.problems, outputs, strict=True)]
        return torch.cat(losses).mean()

    def __call__(self, theta: Tensor) -> Tensor:
        with sdpa_kernel(SDPBackend.MATH):
            return self.of_outputs(self.outputs(theta))


def dense_hessian(model: nn.Module, pose: Pose) -> Tensor:
    """Return the (D, D) Hessian of the mean loss in float64."""
    _, theta, loss = flat_loss(model, pose)
    return torch.autograd.functional.hessian(loss, theta, vectorize=True)
