"""SAU: unlearn the adversarial examples that the suspect and its repaired copy share, the triggered images among them (Wei et al. 2023)."""

from collections.abc import Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn
from torch.nn import functional

from isthmus._check import require
from isthmus.losses import cross_entropy, refusal
from isthmus.problem import Posed, Problem
from isthmus.repair.protocol import Clean, Repaired
from isthmus.repair.unlearning import Unlearner, Unlearning
from isthmus.training.plan import Plan
from isthmus.training.session import Session


@dataclass(frozen=True)
class Ball:
    """Where shared examples are looked for: at most `radius` from the image in every coordinate, in units of the input.

    steps of `step`, from the corner at +radius (published: 0.2, 5 steps of 0.2, no box). box: lowest and highest value of an input; None
    lets examples leave it. adversarial: weight of both models' cross-entropy beside the divergence of their outputs.
    """

    radius: float = 0.2
    step: float = 0.2
    steps: int = 5
    box: tuple[float, float] | None = None
    adversarial: float = 0.01

    def __post_init__(self) -> None:
        require(self.radius > 0, "radius", "be above 0", self.radius)
        require(self.step > 0, "step", "be above 0", self.step)
        require(self.steps >= 1, "steps", "be at least 1", self.steps)
        require(self.adversarial >= 0, "adversarial", "be zero or positive", self.adversarial)
        require(self.box is None or self.box[0] < self.box[1], "box", "be a lowest and a higher value", self.box)

    @property
    def cost(self) -> int:
        """Return what a step on the weights takes, in gradients of one batch: two for each of `steps`, and one each at x and x'."""
        return 2 * self.steps + 2

    def place(self, x: Tensor, shift: Tensor) -> Tensor:
        """Return x + shift, inside the box where there is one."""
        moved = x + shift
        return moved if self.box is None else moved.clamp(*self.box)


def shared_examples(ball: Ball, models: tuple[nn.Module, nn.Module], x: Tensor, y: Tensor) -> Tensor:
    """Return for each input (B, ...) one that both `models` are led by to the same wrong label, as far as `ball.steps` sign steps lead.

    A step goes down the gradient of `adversarial` * A + JS. A is minus half the sum of both models' cross-entropies, each where that model
    still says what it said of x; JS is the Jensen-Shannon divergence of their probabilities where not both say the same other label.
    Found ones have no gradient and stay. Wei et al. 2023, as in their code. Models as they are; no random number.
    """
    with torch.no_grad():
        said = [model(x).argmax(1) for model in models]
    shift = torch.full_like(x, ball.radius)
    for _ in range(ball.steps):
        leaf = shift.requires_grad_()
        with torch.enable_grad():
            outputs = [_wide(model(ball.place(x, leaf))) for model in models]
            loss = _apart(outputs, said, y, ball.adversarial)
            (gradient,) = torch.autograd.grad(loss, leaf)
        shift = (leaf.detach() - ball.step * gradient.sign()).clamp(-ball.radius, ball.radius)
    return ball.place(x, shift)


def _wide(logits: Tensor) -> Tensor:
    return logits.to(torch.promote_types(logits.dtype, torch.float32))


def _apart(outputs: Sequence[Tensor], said: Sequence[Tensor], y: Tensor, adversarial: float) -> Tensor:
    """Return the loss that shared examples lower, summed over samples; its sign alone is used, so nobody divides by the batch."""
    labels = [scores.argmax(1) for scores in outputs]
    fooled = [label != before for label, before in zip(labels, said, strict=True)]
    shared = fooled[0] & fooled[1] & (labels[0] == labels[1])
    held = [cross_entropy(scores, y) * ~done for scores, done in zip(outputs, fooled, strict=True)]
    return (js_divergence(*outputs) * ~shared).sum() - adversarial / 2 * (held[0] + held[1]).sum()


def js_divergence(logits: Tensor, others: Tensor) -> Tensor:
    """Return the Jensen-Shannon divergence of softmax(logits) and softmax(others) for each sample, in [0, log 2] nats, (B,).

    (KL(p || m) + KL(q || m)) / 2 with m = (p + q) / 2.

    >>> js_divergence(torch.zeros(1, 3), torch.zeros(1, 3)).item()
    0.0
    """
    p, q = (functional.log_softmax(scores, 1) for scores in (logits, others))
    mean = torch.logaddexp(p, q) - torch.log(torch.tensor(2.0, dtype=p.dtype))
    return (p.exp() * (p - mean) + q.exp() * (q - mean)).sum(1) / 2


@dataclass(frozen=True, eq=False)
class SharedUnlearning:
    """cross-entropy(x, y) + [the original errs at x'] * refusal(x', the original's label there), x' shared examples of now.

    An original errs where its label is neither y nor what it said of x. original: a private copy of the suspect; it moves to the
    device of the batch. Wei et al. 2023, their weights 1, 0 and 1 of clean, adversarial and shared loss.
    """

    original: nn.Module = field(repr=False)
    ball: Ball = Ball()

    def __call__(
        self, model: nn.Module, x: Tensor, y: Tensor, *, generator: torch.Generator, progress: float
    ) -> Problem:
        """Return the problem with x' found now; its logits are those at x."""
        original = self.original.to(x.device)
        moved = shared_examples(self.ball, (model, original), x, y)
        with torch.no_grad():
            wrong, said = original(moved).argmax(1), original(x).argmax(1)
        erring = (wrong != y) & (wrong != said)

        def loss(outputs: Sequence[Tensor], labels: Tensor) -> Tensor:
            clean, scores = outputs
            return cross_entropy(clean, labels) + torch.where(erring, refusal(_wide(scores), wrong), 0.0)

        return Posed(model, (x, moved), y, loss)

    @property
    def crafting(self) -> int:
        """Return all of a step's gradients but one."""
        return self.ball.cost - 1

    def settings(self, progress: float) -> Mapping[str, float]:
        """Return nothing: there is no schedule."""
        return {}


@dataclass(frozen=True)
class SAU:
    """Shared adversarial unlearning (Wei et al. 2023) of the first suspect, in evaluation mode; no BatchNorm is needed.

    The statistics stay the suspect's, in training and afterwards. What is removed is removed together with them: recomputed on clean
    samples afterwards, they bring the backdoor back (on one CIFAR-10 network 7 % attack success became 73 %).
    Raises InputError for a suspect that is not differentiable by its input.
    """

    unlearning: Unlearning
    ball: Ball = Ball()
    name: str = "sau"

    def __call__(self, suspects: Sequence[nn.Module], clean: Clean, *, seed: int, session: Session) -> Repaired:
        """Return the unlearned copy of the first suspect. An evaluation is the gradient of one batch through one model."""

        def prepare(plan: Plan) -> SharedUnlearning:  # noqa: ARG001
            original = deepcopy(suspects[0]).requires_grad_(requires_grad=False)
            for part in original.modules():
                part.training = False
            return SharedUnlearning(original, self.ball)

        return Unlearner(self.name, suspects[0], clean, prepare)(self.unlearning, seed=seed, session=session)
