"""Bridges between given models: each starts flat, with its free control points on the straight interpolation of the fixed ones."""

from collections.abc import Sequence
from copy import deepcopy
from re import fullmatch

import torch
from torch import Tensor, nn

from isthmus._check import InputError, require, require_finite, unknown
from isthmus.geometry.bases import Basis, Bernstein, Chain, Product
from isthmus.geometry.bridge import Bridge
from isthmus.geometry.flat import Affine, Barycentric
from isthmus.geometry.simplexes import Complex, Triangle
from isthmus.layout import Layout, buffers_of, require_same_architecture

GEOMETRIES = {
    "line": "straight segment between two models",
    "bezier": "Bezier curve between two models, `bezier:DEGREE` (default 2)",
    "chain": "polygonal chain between two models, `chain:BENDS` (default 1 bend)",
    "neb": "chain of pivots relaxed across itself, more where the loss rises (AutoNEB), `neb:PIVOTS` (default 3 to begin with)",
    "llpf": "chain from one model to another layer by layer, retrained on the way, `llpf:TICKS` (default 40)",
    "surface": "Bezier surface between four models, `surface:DEGREExDEGREE` (default 2x2)",
    "triangle": "Bezier triangle between three models, `triangle:DEGREE` (default 2)",
    "simplex": "flat simplex over two or more models; `simplex:VERTICES` grows one from a single model, vertex by vertex",
    "complex": "simplexes over each of the models and shared vertices grown one by one, `complex:CONNECTORS` (default 2)",
    "star": "straight lines from one trained point to every model",
    "plane": "the unbounded plane through two or more models",
}

NUMBERED = ("bezier", "chain", "neb", "llpf", "triangle", "simplex", "complex")


def single(model: nn.Module) -> Bridge:
    """Return the bridge with one point, free to train: a plain model in the shape everything else has."""
    layout = Layout.of(model)
    point = layout.flatten(dict(model.named_parameters()))
    return Bridge(
        deepcopy(model), layout, Affine(1), point.new_empty(0, layout.size), point[None], (), {0: buffers_of(model)}
    )


def connect(models: Sequence[nn.Module], basis: Basis, *, names: Sequence[str] = ()) -> Bridge:
    """Return the bridge over `basis` whose corners are `models`, in the order of `basis.corners`; other points are free.

    The free points start on the multilinear interpolation of the corners at their own sites, so a Bezier curve starts as the exact
    straight segment and a surface as the bilinear patch; connectors of a complex start at the mean of the models. Raises InputError for
    another number of models, an architecture that differs (first differing tensor named) or weights that are not finite (tensor named).
    """
    corners = [index for _, index in basis.corners]
    require(len(models) == len(corners), "models", f"be {len(corners)}, one per corner of the basis", len(models))
    labels = tuple(names) or tuple(f"model {i}" for i in range(len(models)))
    require(len(labels) == len(models), "names", f"be {len(models)}, one per model", labels)
    for label, model in zip(labels, models, strict=True):
        require_same_architecture(models[0], model, (labels[0], label))
        # Buffers that no file holds, a mask of -inf for instance, may be infinite; extra state need not be tensors.
        require_finite({n: v for n, v in model.state_dict().items() if isinstance(v, Tensor)}, label)
    layout = Layout.of(models[0])
    fixed = torch.stack([layout.flatten(dict(model.named_parameters())) for model in models])
    free_index = [i for i in range(basis.num_points) if i not in corners]
    free = _flat_weights(basis, free_index).to(fixed) @ fixed
    states = {index: buffers_of(model) for index, model in zip(corners, models, strict=True)}
    return Bridge(deepcopy(models[0]), layout, basis, fixed, free, tuple(corners), states, labels)


def _flat_weights(basis: Basis, free_index: Sequence[int]) -> Tensor:
    """Return the corners' weights (m, k) in the flat bridge at the sites of the free points."""
    if isinstance(basis, Complex):
        return torch.full((len(free_index), basis.models), 1 / basis.models, dtype=torch.float64)
    sites = torch.tensor([basis.sites[i] for i in free_index], dtype=torch.float64).view(len(free_index), basis.dim)
    return _flat(basis)(sites)


def _flat(basis: Basis) -> Basis:
    """Return the basis over the corners alone whose bridge is the flat one."""
    if isinstance(basis, Product):
        return Product(_flat(basis.first), _flat(basis.second))
    if isinstance(basis, Triangle):
        return Barycentric(3)
    return Bernstein(1) if isinstance(basis, Bernstein | Chain) else basis


def line(models: Sequence[nn.Module]) -> Bridge:
    """Return the straight segment between two models."""
    return connect(models, Bernstein(1))


def bezier(models: Sequence[nn.Module], degree: int = 2) -> Bridge:
    """Return the Bezier curve of `degree` between two models, with degree - 1 free control points."""
    return connect(models, Bernstein(degree))


def chain(models: Sequence[nn.Module], bends: int = 1) -> Bridge:
    """Return the polygonal chain between two models, with `bends` free control points."""
    return connect(models, Chain(bends + 2))


def surface(models: Sequence[nn.Module], degrees: tuple[int, int] = (2, 2)) -> Bridge:
    """Return the Bezier surface between four models, which sit at (0, 0), (0, 1), (1, 0), (1, 1) (Ren et al. 2025, eq. 5)."""
    return connect(models, Product(Bernstein(degrees[0]), Bernstein(degrees[1])))


def simplex(models: Sequence[nn.Module]) -> Bridge:
    """Return the flat simplex over the models (Benton et al. 2021)."""
    return connect(models, Barycentric(len(models)))


def plane(models: Sequence[nn.Module]) -> Bridge:
    """Return the plane through the models, coordinates relative to the first; two models give a line without ends."""
    return connect(models, Affine(len(models)))


def parse_geometry(text: str, num_models: int) -> Basis:
    """Return the basis that a text such as `bezier:2`, `chain:3`, `surface:2x2`, `simplex` or `line` names for that many models."""
    kind, _, argument = text.partition(":")
    if kind not in GEOMETRIES:
        raise unknown("geometry", kind, GEOMETRIES)
    number = fullmatch(r"\d+", argument)
    pair = fullmatch(r"(\d+)x(\d+)", argument)
    if argument and not (pair if kind == "surface" else number if kind in NUMBERED else None):
        raise InputError(f"`geometry` should be {GEOMETRIES[kind]}. Found {text!r}.")
    basis: Basis
    match kind:
        case "line":
            basis = Bernstein(1)
        case "bezier":
            basis = Bernstein(int(argument or 2))
        case "chain":
            basis = Chain(int(argument or 1) + 2)
        case "neb":
            require(int(argument or 3) >= 1, "geometry", "name 1 pivot or more", text)
            basis = Chain(int(argument or 3) + 2)
        case "llpf":
            basis = Chain(2)
        case "surface":
            first, second = (int(pair[1]), int(pair[2])) if pair else (2, 2)
            basis = Product(Bernstein(first), Bernstein(second))
        case "triangle":
            basis = Triangle(int(argument or 2))
        case "simplex" if argument:
            least = "name 2 vertices or more"
            require(int(argument) >= 2, "geometry", least, text)
            basis = Complex(1, int(argument) - 1)
        case "simplex":
            require(num_models >= 2, "geometry", "name how many vertices to grow from one model: `simplex:4`", text)
            basis = Barycentric(num_models)
        case "complex" | "star":
            require(num_models >= 2, "geometry", f"join two models or more: {text!r} does", num_models)
            basis = Complex(num_models, int(argument or 2) if kind == "complex" else 1)
        case _:
            require(num_models >= 2, "geometry", "join two models or more: a plane does", num_models)
            basis = Affine(num_models)
    need = len(basis.corners)
    fix = "For several models take `complex:CONNECTORS`." if need == 1 else ""
    require(need == num_models, "geometry", f"fit the number of models: {text!r} joins {need}", num_models, fix)
    return basis
