"""`LossAt`: the mean loss of a posed set of samples at a model's weights, as a function of the flat weights."""

from collections.abc import Generator, Iterable, Sequence
from contextlib import contextmanager
from copy import copy, deepcopy
from typing import Self

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from isthmus._check import InputError, require, require_finite
from isthmus.curvature.sound import require_sound
from isthmus.layout import Layout, placement
from isthmus.problem import Pose, Posed, Problem


class Subject:
    """A private copy of a model in evaluation mode. Several losses share one: each writes its weights before it measures."""

    def __init__(self, model: nn.Module, dtype: torch.dtype | None):
        self.module = deepcopy(model).to(dtype).eval() if dtype is not None else deepcopy(model).eval()
        self.device, kind = placement(self.module)
        fits = kind in (torch.float32, torch.float64)
        requirement = "compute in float32 or float64 to have its curvature measured"
        require(fits, "model", requirement, str(kind), "Use .float(), or `dtype`.")
        self.layout = Layout.of(self.module)
        self.tensors = dict(self.module.named_parameters())
        places = dict(zip(self.layout.names, self.layout.slices, strict=True))
        self.trained = [(p, places[name]) for name, p in self.tensors.items() if name in places and p.requires_grad]
        for parameter in self.tensors.values():
            parameter.grad = None
        self.theta = self.layout.flatten(self.tensors)

    @property
    def parameters(self) -> list[nn.Parameter]:
        """Return the parameters that are differentiated: those the owner did not freeze."""
        return [parameter for parameter, _ in self.trained]

    def load(self, theta: Tensor) -> None:
        """Write other weights. Autograd is not told: whoever kept a graph writes the weights of that graph before using it."""
        if theta is not self.theta:
            for name, value in self.layout.unflatten(theta).items():
                self.tensors[name].data.copy_(value)
            self.theta = theta

    def pieces(self, v: Tensor) -> list[Tensor]:
        """Return the part of a (D,) vector that belongs to each of `parameters`, in its shape and dtype."""
        return [v[place].reshape(p.shape).to(p) for p, place in self.trained]

    def flat(self, pieces: Iterable[Tensor]) -> Tensor:
        """Return one tensor for each of `parameters` as a (D,) float64 vector, zero where the owner froze."""
        found = torch.zeros(self.layout.size, dtype=torch.float64, device=self.device)
        for (_, place), piece in zip(self.trained, pieces, strict=True):
            found[place] = piece.detach().reshape(-1)
        return found


class LossAt:
    """The mean over samples of the losses that `pose` poses, in nats, as a function of the weights of a private copy of `model`.

    The copy is in evaluation mode: dropout is off and BatchNorm uses its running statistics, as everywhere where a model is measured.
    The samples are posed once, at the copy; adversarial examples found then stay as they are, so that derivatives are those of the loss
    at *frozen* examples and not of the maximum over the ball. Sums over batches are in float64.

    pose: gives each batch as a problem; inputs in the device and dtype of the module it is given (`isthmus.layout.placement`), which is
    the converted copy. dtype: torch.float64 measures in double precision, None in the model's own.
    Raises InputError for no samples, and for a model in half precision.
    """

    def __init__(self, model: nn.Module, pose: Pose, *, dtype: torch.dtype | None = None):
        self.subject = Subject(model, dtype)
        self.theta = self.subject.theta
        self._pose = pose
        self._examined = False
        self._settle()

    def _settle(self) -> None:
        with self.measured():
            self.problems: Sequence[Problem] = tuple(self._pose(self.subject.module))
            with torch.no_grad():
                self.sizes = tuple(len(p.y) if isinstance(p, Posed) else len(losses_of(p)) for p in self.problems)
        require(sum(self.sizes) > 0, "pose", "give at least one sample", "none")

    @property
    def layout(self) -> Layout:
        """Return names, shapes and places of the weights in the flat vector; the owner's frozen ones are among them."""
        return self.subject.layout

    @property
    def size(self) -> int:
        """Return D, the number of weights."""
        return self.layout.size

    @property
    def num_samples(self) -> int:
        """Return over how many samples the mean is taken."""
        return sum(self.sizes)

    @property
    def precision(self) -> float:
        """Return the relative rounding error of the coarsest weights' dtype: 1.2e-7 for float32, 2.2e-16 for float64."""
        return max(torch.finfo(dtype).eps for dtype in self.layout.dtypes)

    @contextmanager
    def measured(self) -> Generator[None]:
        """Return a context with the weights in place and gradients on, without autocast or fused attention.

        The fused kernels of attention have no second derivative. The global random stream is afterwards as it was.
        """
        self.subject.load(self.theta)
        device = self.subject.device
        drawn = [device] if device.type == "cuda" else []
        with (
            torch.random.fork_rng(devices=drawn),
            torch.enable_grad(),
            torch.autocast(device.type, enabled=False),
            sdpa_kernel(SDPBackend.MATH),
        ):
            yield

    def value(self) -> float:
        """Return the mean loss in nats."""
        with self.measured(), torch.no_grad():
            return float(sum(losses_of(problem).sum() for problem in self.problems)) / self.num_samples

    def gradient(self) -> Tensor:
        """Return its gradient (D,) in float64; zero for weights that the owner froze."""
        total = torch.zeros(self.size, dtype=torch.float64, device=self.subject.device)
        with self.measured():
            for problem in self.problems:
                total += self.subject.flat(gradient_of(losses_of(problem).sum(), self.subject.parameters))
        return total / self.num_samples

    def moved(self, theta: Tensor, *, repose: bool = False) -> Self:
        """Return the loss at other weights (D,): of the same problems, or of the samples posed anew there.

        Reposed, adversarial examples are crafted anew, from the same draws: a value of the true adversarial loss.
        """
        require(tuple(theta.shape) == (self.size,), "theta", f"have shape ({self.size},)", str(tuple(theta.shape)))
        other = copy(self)
        other.theta = theta.detach().to(self.theta, copy=True)
        other._examined = False
        if repose:
            other._settle()
        return other

    def check(self) -> None:
        """Find that the loss is finite, deterministic and twice differentiable; a second call costs nothing.

        Determinism: loss and gradient of the first batch, twice, but for rounding. Losses of all batches are looked at once.
        Raises InputError that names the reason: weights that are not finite, layers that draw random numbers, operations without a
        (second) derivative, nothing to differentiate by.
        """
        if self._examined:
            return
        require_finite(self.layout.unflatten(self.theta), "model")
        frozen = f"{len(self.layout.names)} frozen tensors"
        fix = "Set `requires_grad_()` on those to be differentiated."
        require(bool(self.subject.trained), "model", "have parameters that require a gradient", frozen, fix)
        first = next(problem for problem, size in zip(self.problems, self.sizes, strict=True) if size > 0)
        with self.measured():
            require_sound(lambda: losses_of(first).sum(), self.subject.module, self.subject.parameters)
        value = self.value()
        require(abs(value) < float("inf"), "model", "have a finite loss on the samples", f"{value:g}")
        self._examined = True


def losses_of(problem: Problem) -> Tensor:
    """Return the losses (B,) of a batch in float64. Raises InputError where the model refuses its inputs, or for another shape."""
    try:
        losses = problem()[0]
    except (torch.OutOfMemoryError, InputError):
        raise
    except (RuntimeError, ValueError) as error:
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        fix = "Give them the dtype and device of `placement(model)`."
        raise InputError(f"`model` should take the inputs that `pose` gives. Found: {reason}. {fix}") from error
    single = losses.ndim == 1 and losses.is_floating_point()
    fix = "Reduce over classes and not over samples."
    require(single, "pose", "give one loss for each sample, (B,)", f"{losses.dtype} {tuple(losses.shape)}", fix)
    return losses.double()


def gradient_of(total: Tensor, parameters: Sequence[Tensor]) -> tuple[Tensor, ...]:
    """Return the gradient in each parameter, zeros where it has no part or nothing is to be differentiated."""
    if not total.requires_grad:
        return tuple(torch.zeros_like(p) for p in parameters)
    return torch.autograd.grad(total, parameters, materialize_grads=True)
