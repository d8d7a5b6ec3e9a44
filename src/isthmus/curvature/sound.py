"""`require_sound`: can a loss be differentiated twice, and is it the same when it is evaluated twice?"""

from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from isthmus._check import InputError, require
from isthmus.curvature.piecewise import graph_nodes

ROUNDINGS = 1000  # by which two evaluations may differ, relative to the largest entry
_ONCE = "be differentiable in its weights"
_TWICE = "be twice differentiable in its weights"


def require_sound(evaluate: Callable[[], Tensor], module: nn.Module, parameters: Sequence[Tensor]) -> None:
    """Raise InputError unless a loss (scalar) is differentiable twice in `parameters`, and the same when evaluated twice.

    The same but for a thousand roundings: sums may be in another order each time on a GPU, and on any device a gradient that keeps its
    graph may come from other kernels than one that does not (that of SiLU, for one).
    module: to be searched for layers that draw random numbers; hooks are put on it meanwhile.
    """
    total = evaluate()
    _require_once(total, module)
    found = torch.autograd.grad(total, parameters, create_graph=True, allow_unused=True)
    gradient = [g for g in found if g is not None]
    require(bool(gradient), "model", _ONCE, "a loss that depends on no parameter that requires a gradient")
    _require_twice(gradient, parameters)
    _require_same(evaluate, (total, gradient), module, parameters)


def _require_once(total: Tensor, module: nn.Module) -> None:
    fix = "Take argmax, rounding, `.detach()`, `.data` and `torch.no_grad()` out of the way from weights to loss."
    require(total.requires_grad, "model", _ONCE, f"a loss without a gradient from {type(module).__name__}", fix)


def _require_twice(gradient: Sequence[Tensor], parameters: Sequence[Tensor]) -> None:
    curved = [g for g in gradient if g.requires_grad]
    if not curved:
        return  # linear in the weights: its second derivative is zero
    # Autograd leaves such an operation's second derivative out, without a word, where it is not the only way to the weights.
    nodes = graph_nodes(torch.stack([g.sum() for g in curved]).sum())
    once = any(node.name().endswith("autograd::Error") for node in nodes)
    require(not once, "model", _TWICE, "an operation that can be differentiated once")
    try:
        torch.autograd.grad(curved, parameters, curved, retain_graph=True, allow_unused=True)
    except torch.OutOfMemoryError:
        raise
    except RuntimeError as error:
        raise InputError(f"`model` should {_TWICE}. Found: {str(error).strip().splitlines()[0]}") from error


def _require_same(
    evaluate: Callable[[], Tensor],
    first: tuple[Tensor, Sequence[Tensor]],
    module: nn.Module,
    parameters: Sequence[Tensor],
) -> None:
    with _drawing(module) as names:
        total = evaluate()
    gradient = [g for g in torch.autograd.grad(total, parameters, allow_unused=True) if g is not None]
    one, two = first[0].detach(), total.detach()
    pairs = [(one, two), *zip(first[1], gradient, strict=True)]
    if all(_same(a.detach(), b) for a, b in pairs):
        return
    found = f"random numbers drawn in {', '.join(map(repr, names))}" if names else "no layer that draws random numbers"
    shown = f"{float(one):.9g}, then {float(two):.9g} over the first batch; {found}"
    fix = "Make it deterministic in evaluation mode, for instance by `dropout(..., training=self.training)`."
    require(False, "model", "have the same loss and gradient at each evaluation", shown, fix)


def _same(first: Tensor, second: Tensor) -> bool:
    allowed = ROUNDINGS * torch.finfo(first.dtype).eps * first.abs().max()
    return bool(((first - second.detach()).abs() <= allowed).all() | first.isnan().any())


@contextmanager
def _drawing(module: nn.Module) -> Generator[list[str]]:
    """Return a context that fills a list with the innermost modules during whose forward the global random stream moved."""
    names, entered, handles = list[str](), list[tuple[Tensor, int]](), list[RemovableHandle]()

    def before(*_: object) -> None:
        entered.append((torch.get_rng_state(), len(names)))

    def after(name: str) -> Callable[..., None]:
        def hook(*_: object) -> None:
            state, known = entered.pop()
            if len(names) == known and not torch.equal(state, torch.get_rng_state()):
                names.append(name or type(module).__name__)

        return hook

    try:
        for name, part in module.named_modules():
            handles += [part.register_forward_pre_hook(before), part.register_forward_hook(after(name))]
        yield names
    finally:
        for handle in handles:
            handle.remove()
