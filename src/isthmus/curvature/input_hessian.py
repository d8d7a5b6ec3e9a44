"""`input_eigenvalues`: the spectrum of the Hessian of each image's cross-entropy in its pixels."""

from dataclasses import dataclass
from functools import partial
from typing import Literal, get_args

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from isthmus._check import InputError, require, unknown
from isthmus.curvature.lanczos import Product, lanczos, split
from isthmus.curvature.piecewise import frozen, graph_nodes, leaf_like, linear_graph
from isthmus.evaluate import checked_forward
from isthmus.layout import memory_format_for, placement
from isthmus.losses import cross_entropy

Method = Literal["auto", "exact", "lanczos"]
_TWICE = "be twice differentiable in its input"
_JACOBIAN_BYTES = 2**28  # what the Jacobians of one chunk of images may take in float64


@dataclass(frozen=True)
class Effort:
    """What may be spent: images at once, most Hessian-vector products, and when to stop before.

    tolerance: of the residual ||H v - lambda v|| over the largest eigenvalue of the image, in (0, 1).
    """

    batch_size: int = 100
    steps: int = 50
    tolerance: float = 1e-3

    def __post_init__(self) -> None:
        require(self.batch_size >= 1, "batch_size", "be at least 1", self.batch_size)
        require(self.steps >= 1, "steps", "be at least 1", self.steps)
        require(0 < self.tolerance < 1, "tolerance", "lie between 0 and 1", self.tolerance)


@dataclass(frozen=True, eq=False)
class InputSpectrum:
    """The upper end of each image's input Hessian, in float64; curvature in nat per squared unit of the input.

    An image whose loss or spectrum is not finite has NaN throughout.
    """

    eigenvalues: Tensor
    """(B, count) largest eigenvalues, descending; by value, not by magnitude."""
    vector: Tensor
    """(B, ...) unit eigenvector of the largest, in the dtype of x; zero where the Hessian is."""
    loss: Tensor
    """(B,) cross-entropy in nats."""
    gradient_norm: Tensor
    """(B,) L2 norm of its gradient in the input."""
    cosine: Tensor
    """(B,) |cosine| between that gradient and `vector`; NaN where either is zero."""
    residual: Tensor
    """(B,) ||H v - lambda v|| of the largest, by one more product; 0 from the exact method, where rounding alone is left."""
    converged: Tensor
    """(B,) whether all `count` pairs met the tolerance; true from the exact method."""
    method: Literal["exact", "lanczos"]
    reason: str
    """Why that method."""
    products: int
    """Backward passes over an image for its spectrum: vector-Jacobian or Hessian-vector products, the most over the images."""


def input_eigenvalues(
    model: nn.Module, x: Tensor, y: Tensor, *, count: int = 1, method: Method = "auto", effort: Effort | None = None
) -> InputSpectrum:
    """Return the largest eigenvalues of d^2 l(x_i, y_i) / dx_i^2 for each image, l the cross-entropy, the model in evaluation mode.

    exact: where the logits are piecewise linear in x, H = J' (diag p - p p') J with p the softmax and J (C, d) the Jacobian of the
    logits, away from the kinks. C - 1 vector-Jacobian products for the whole batch give J up to the row of the largest logit, which H
    does not see; the spectrum is that of a (C - 1, C - 1) matrix in float64. H is positive semidefinite, of rank below C, and does not
    depend on y. The small probabilities enter by themselves and never as 1 - p, so a saturated softmax costs no digits.
    lanczos: any twice differentiable model; Hessian-vector products by double backward, one Lanczos process (Lanczos 1950) per image,
    all in step, fully re-orthogonalised, from one fixed start vector so that no result depends on its neighbours in the batch.
    auto: exact where :func:`~isthmus.curvature.piecewise.piecewise_linear` holds, else lanczos.

    x: (B, ...) floating point; y: (B,) labels. The model is left as it was, and nothing is drawn from a caller's generator.
    Raises InputError for inputs that do not fit, for `exact` on a model that is not piecewise linear, for a model that mixes the
    images of a batch, and for one that cannot be differentiated twice.
    """
    effort = Effort() if effort is None else effort
    if method not in get_args(Method):
        raise unknown("method", str(method), get_args(Method))
    num_classes = require_batch(x, y)
    size = x[0].numel()
    require(1 <= count <= size, "count", f"be between 1 and the {size} numbers of one input", count)
    with frozen(model):
        channels = memory_format_for(model, x[:1].to(*placement(model)))
        linear, reason, classes = _examined(model, leaf_like(model, x[:2], channels), num_classes)
        if method == "exact":
            require(linear, "method", "be 'auto' or 'lanczos' for this model", f"'exact', but {reason}")
        kind: Literal["exact", "lanczos"] = "exact" if linear and method != "lanczos" else "lanczos"
        enough = kind == "exact" or count <= effort.steps
        require(enough, "count", f"be at most the {effort.steps} steps of Lanczos", count, "Allow more steps.")
        fit = max(1, _JACOBIAN_BYTES // (8 * size * (classes - 1))) if kind == "exact" else len(x)
        batches = zip(*(tensor.split(min(fit, effort.batch_size)) for tensor in (x, y)), strict=True)
        solve = _exact if kind == "exact" else partial(_lanczos, effort=effort)
        parts = [solve(model, leaf_like(model, part, channels), labels, count) for part, labels in batches]
    held = {name: torch.cat([part[0][name] for part in parts]).to(x.device) for name in parts[0][0]}
    held["vector"] = held["vector"].to(x.dtype).reshape(x.shape)
    asked = f"asked for; {reason}" if method == "lanczos" else reason
    return InputSpectrum(**held, method=kind, reason=asked, products=max(part[1] for part in parts))


def require_batch(x: Tensor, y: Tensor) -> int:
    """Return the least number of classes that the labels need, at least 2. Raises InputError unless x and y are a labelled batch."""
    require(x.is_floating_point(), "x", "be floating point", str(x.dtype), "Divide uint8 images by 255.")
    require(x.ndim >= 2 and len(x) > 0, "x", "hold at least one input (B, ...)", f"shape {tuple(x.shape)}")
    require(tuple(y.shape) == (len(x),), "y", f"have shape ({len(x)},)", str(tuple(y.shape)))
    whole = not y.is_floating_point() and y.dtype != torch.bool
    require(whole and bool((y >= 0).all()), "y", "hold integer labels from 0 on", f"{y.dtype}, least {y.min().item()}")
    return max(2, int(y.max()) + 1)


def _examined(model: nn.Module, leaf: Tensor, num_classes: int) -> tuple[bool, str, int]:
    """Return what `piecewise_linear` does and the number of classes, having found that two images do not mix."""
    out = checked_forward(model, leaf, num_classes)
    if len(leaf) == 2 and out.requires_grad:
        weights = torch.arange(
            1, out.shape[1] + 1, device=out.device, dtype=out.dtype
        )  # a plain sum of softmax is constant
        (found,) = torch.autograd.grad(out[0] @ weights, leaf, retain_graph=True, materialize_grads=True)
        mixed = bool((found[1].isfinite() & (found[1] != 0)).any())  # NaN weights make every gradient NaN
        fix = "Give its BatchNorm running statistics."
        require(not mixed, "model", "score each image by itself in evaluation mode", "images of a batch that mix", fix)
    return *linear_graph(out), out.shape[1]


def _exact(model: nn.Module, leaf: Tensor, y: Tensor, count: int) -> tuple[dict[str, Tensor], int]:
    """Return the fields of a spectrum by the Gauss-Newton identity, and the number of vector-Jacobian products."""
    out = checked_forward(model, leaf, 2)
    log_p = out.detach().double().log_softmax(1)
    order = log_p.nan_to_num(-torch.inf).argsort(1, descending=True)
    top, others, labels = order[:, :1], order[:, 1:], y.to(out.device)[:, None]
    rows = [_row(out, leaf, top, others[:, k : k + 1]) for k in range(others.shape[1])]
    jacobian = torch.stack(rows, 1).double()  # (B, C - 1, d): gradients of logit_k - logit_top
    p = log_p.gather(1, others).exp()
    # A A' = diag p - p p' over the other classes; the row and column of the largest are minus the sum of the rest.
    share = 1 / (1 + log_p.gather(1, top)[:, :, None].mul(0.5).exp())
    factor = p.sqrt().diag_embed() - share * p[:, :, None] * p.sqrt()[:, None, :]
    inner = factor.mT @ (jacobian @ jacobian.mT) @ factor
    bad = ~inner.isfinite().all(-1).all(-1) | log_p.isnan().any(1)
    values, vectors = torch.linalg.eigh(inner.masked_fill(bad[:, None, None], 0))
    values = values.flip(-1).clamp_min(0)
    vector, _ = split(((factor @ vectors[:, :, -1:]).mT @ jacobian).squeeze(1))
    vector = vector.masked_fill(values[:, :1] == 0, 0)
    pull = p - (others == labels).double()  # the gradient is J' (p - e_y)
    direction, slope = split((pull[:, None, :] @ jacobian).squeeze(1))
    found = {
        "eigenvalues": torch.nn.functional.pad(values, (0, max(0, count - values.shape[1])))[:, :count],
        "vector": vector,
        "loss": -log_p.gather(1, labels).squeeze(1),
        "gradient_norm": slope,
        "cosine": _cosine(direction, vector),
        "residual": torch.zeros_like(slope),
    }
    return _finished(found, bad) | {"converged": ~bad}, len(rows)


def _row(out: Tensor, leaf: Tensor, top: Tensor, other: Tensor) -> Tensor:
    """Return d (logit_other - logit_top) / dx for each image, (B, d)."""
    if not out.requires_grad:
        return torch.zeros_like(leaf).flatten(1).detach()
    one = torch.ones_like(other, dtype=out.dtype)
    seed = torch.zeros_like(out).scatter_(1, other, one).scatter_(1, top, -one)
    (row,) = torch.autograd.grad(out, leaf, seed, retain_graph=True, materialize_grads=True)
    return row.flatten(1)


def _lanczos(model: nn.Module, leaf: Tensor, y: Tensor, count: int, effort: Effort) -> tuple[dict[str, Tensor], int]:
    """Return the fields of a spectrum by Lanczos on Hessian-vector products, and their number."""
    loss, gradient, product = _hessian_products(model, leaf, y)
    precision = torch.finfo(leaf.dtype).eps
    steps, tolerance = effort.steps, effort.tolerance
    ritz = lanczos(product, gradient, count=count, steps=steps, tolerance=tolerance, precision=precision)
    direction, slope = split(gradient)
    found = {
        "eigenvalues": ritz.values,
        "vector": ritz.vector,
        "loss": loss,
        "gradient_norm": slope,
        "cosine": _cosine(direction, ritz.vector),
        "residual": (product(ritz.vector) - ritz.values[:, :1] * ritz.vector).norm(dim=1),
    }
    bad = ritz.values[:, 0].isnan() | ~(loss + slope).isfinite()
    return _finished(found, bad) | {"converged": ritz.converged & ~bad}, ritz.products + 1


def _hessian_products(model: nn.Module, leaf: Tensor, y: Tensor) -> tuple[Tensor, Tensor, Product]:
    """Return the losses (B,), their gradients (B, d) and v -> H v, all in float64, over one graph of a frozen model.

    Double backward, never reverse mode over forward mode: that is silently wrong through LayerNorm.
    """
    with sdpa_kernel(SDPBackend.MATH):  # the fused kernels of attention have no second derivative
        out = checked_forward(model, leaf, 2)
        loss = cross_entropy(out.double(), y.to(out.device))
        if not out.requires_grad:
            return loss, torch.zeros_like(leaf, dtype=torch.float64).flatten(1).detach(), torch.zeros_like
        (gradient,) = torch.autograd.grad(loss.sum(), leaf, create_graph=True)
    # Autograd leaves such an operation's second derivative out, without a word, where it is not the only way to the input.
    once = any(node.name().endswith("autograd::Error") for node in graph_nodes(gradient))
    require(not once, "model", _TWICE, "an operation that can be differentiated once")

    def product(v: Tensor) -> Tensor:
        try:
            (found,) = torch.autograd.grad(
                gradient, leaf, v.to(gradient.dtype).reshape(gradient.shape), retain_graph=True
            )
        except torch.OutOfMemoryError:
            raise
        except RuntimeError as error:
            raise InputError(f"`model` should {_TWICE}. Found: {str(error).strip().splitlines()[0]}") from error
        return found.detach().flatten(1).double()

    return loss.detach(), gradient.detach().flatten(1).double(), product


def _cosine(direction: Tensor, vector: Tensor) -> Tensor:
    """Return |<a, b>| for unit rows, NaN where one is zero."""
    undefined = (direction == 0).all(1) | (vector == 0).all(1)
    return (direction * vector).sum(1).abs().clamp(max=1).masked_fill(undefined, torch.nan)


def _finished(found: dict[str, Tensor], bad: Tensor) -> dict[str, Tensor]:
    """Return the fields with NaN for images whose numbers are not finite."""
    return {name: v.masked_fill(bad.reshape(-1, *[1] * (v.ndim - 1)), torch.nan) for name, v in found.items()}


def official_statistic(
    model: nn.Module, x: Tensor, y: Tensor, *, generator: torch.Generator, effort: Effort | None = None
) -> float:
    """Return what the code published with Zhao et al. 2020 calls the largest eigenvalue of the input Hessian, for comparison only.

    That code takes a batch of B inputs for one vector and adds H v over different batches, so that with n batches it returns
    1/B max_j |lambda|_max(1/n sum_b H(x_bj)), j the place within a batch: neither the largest nor the mean of the eigenvalues of the
    images, about B times smaller, and dependent on the order of the images. At most `steps` power iterations (10) from a random vector,
    stopped where two estimates differ by less than `tolerance` (0.01), which may be far from converged.
    effort: those three, B = 200 unless given. Raises InputError unless B divides the number of images.
    """
    effort = Effort(200, 10, 1e-2) if effort is None else effort
    num_classes, batch = require_batch(x, y), effort.batch_size
    require(len(x) % batch == 0, "x", f"hold whole batches of {batch}", f"{len(x):,} images", "Change `batch_size`.")
    pairs = list(zip(x.split(batch), y.split(batch), strict=True))
    size, device = x[0].numel(), placement(model)[0]
    v, estimate = torch.randn(batch, size, generator=generator, dtype=torch.float64).to(device), torch.nan
    with frozen(model):
        _examined(model, leaf_like(model, x[:2]), num_classes)
        for _ in range(effort.steps):
            v = v / v.norm().clamp_min(torch.finfo(v.dtype).tiny)
            image = torch.zeros_like(v)
            for part, labels in pairs:
                image += _hessian_products(model, leaf_like(model, part), labels)[2](v) / len(x)
            before, estimate = estimate, float((v * image).sum())
            if abs(estimate - before) < effort.tolerance:
                break
            v = image
    return estimate
