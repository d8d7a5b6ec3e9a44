"""The stages of `curvature`: both ends of spectra, density, trace, differences of gradients; each done once and resumed."""

import json
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from math import isfinite
from typing import Any, cast

import torch
from torch import Tensor

from isthmus._check import InputError, require
from isthmus.curvature.density import Density, spectral_density
from isthmus.curvature.finite_difference import difference
from isthmus.curvature.gauss_newton import gauss_newton
from isthmus.curvature.lanczos import fresh_direction
from isthmus.curvature.loss_at import LossAt
from isthmus.curvature.memory import plan_memory
from isthmus.curvature.operator import BatchOperator, Operator, hessian, precision_of
from isthmus.curvature.spectrum import Order, Search, top_eigenpairs
from isthmus.curvature.subspace import Projected, Restricted
from isthmus.curvature.trace import CONFIDENCE, trace
from isthmus.randomness import stream
from isthmus.recipes.curvature_parts import CurvatureRecipe, Follow, Stages

TOP = 20  # eigenvalues unless told, as in Liu et al. 2020


@dataclass(eq=False)
class Measurement:
    """Everything that is measured of one loss. tangent: orthonormal rows (d, D) of the subspace, None for all weights."""

    recipe: CurvatureRecipe
    loss: LossAt
    tangent: Tensor | None
    stages: Stages
    vectors: Tensor = field(default_factory=lambda: torch.empty(0, 0))
    warnings: list[str] = field(default_factory=list[str])

    @property
    def dimension(self) -> int:
        """Return the dimensions of the space that is looked at; those of a normal space count without the tangent's."""
        if self.tangent is None:
            return self.loss.size
        return len(self.tangent) if self.recipe.subspace == "tangent" else self.loss.size - len(self.tangent)

    def check(self) -> int:
        """Return how many eigenvalues are wanted. Raises InputError where they, the loss or the memory cannot be had."""
        top, size, recipe = self.recipe.top, self.dimension, self.recipe
        require(top is None or top <= size, "top", f"be at most the {size:,} dimensions of what is looked at", top)
        count = min(TOP, size) if top is None else top
        require(
            count <= recipe.max_products, "max_products", f"be at least the {count} eigenvalues", recipe.max_products
        )
        self.loss.check()
        return count

    def measure(self) -> dict[str, object]:
        """Return the measured fields of the document."""
        recipe, count = self.recipe, self.check()
        matrix = self.operator(hessian)
        found, spectrum = self.pairs("eigenvalues", matrix, count, "value")
        self.vectors = spectrum["vectors"]
        found["negative"] = self.pairs("lower-end", matrix, count, "lowest")[0] if recipe.negative else None
        found["density"] = self.density(matrix) if recipe.density else None
        found["trace"] = self.trace(matrix) if recipe.trace else None
        del matrix  # and the graphs it keeps
        found["gauss_newton"] = None
        if recipe.gauss_newton:
            found["gauss_newton"] = self.pairs("gauss-newton", self.operator(gauss_newton), count, "value")[0]
        found["finite_difference"] = self.differences() if recipe.recraft else []
        return found

    def operator(self, kind: Callable[..., BatchOperator]) -> Operator:
        """Return the matrix, seen within the subspace that was asked for."""
        recipe = self.recipe
        vectors = max(recipe.max_products, recipe.steps if recipe.density else 0)
        whole = self.whole(kind, min(vectors, self.dimension))
        if self.tangent is None:
            return whole
        return (Restricted if recipe.subspace == "tangent" else Projected)(whole, self.tangent)

    def whole(self, kind: Callable[..., BatchOperator], vectors: int) -> BatchOperator:
        """Return the matrix in all weights, planned for a basis of so many vectors within the memory that may be used."""
        memory = self.recipe.memory
        budget = None if memory is None else int(memory * 2**30)
        try:
            plan = plan_memory(self.loss, steps=vectors, budget=budget)
        except InputError as error:
            plan_memory(self.loss, budget=budget)  # which says so where not even a batch fits
            raise InputError(
                f"`max_products` should leave memory for a vector each. Found {vectors}. {error}"
            ) from error
        return kind(self.loss, plan=plan)

    def pairs(self, name: str, matrix: Operator, count: int, order: Order) -> tuple[dict[str, object], dict[str, Any]]:
        """Return one end of a spectrum as JSON values, and as tensors."""
        recipe = self.recipe
        search = Search(recipe.tolerance, min(recipe.max_products, matrix.size), order)

        def work(follow: Follow) -> dict[str, Any]:
            generator = stream(recipe.seed, name)
            found = top_eigenpairs(matrix, count, generator=generator, search=search, state=follow.begun, watch=follow)
            rows = found.vectors
            if recipe.subspace == "tangent" and self.tangent is not None:
                rows = rows @ self.tangent
            # The bound of Lanczos knows nothing of the rounding of the products, which a page should not hide.
            residuals = found.residuals.clamp_min(precision_of(matrix) * float(found.values.abs().max()))
            held = {"values": found.values, "vectors": rows, "residuals": residuals, "converged": found.converged}
            return {**held, "products": found.products}

        held = self.stages(name, search.steps, work)
        missed = int((~held["converged"]).sum())
        if missed:
            self.warnings.append(
                f"{missed} of {count} pairs ({name.replace('-', ' ')}) did not meet the tolerance {recipe.tolerance:g} in "
                f"{held['products']} products; their residuals say how far off they may be. Allow more: --max-products."
            )
        names = {"eigenvalues": "values", "residuals": "residuals", "converged": "converged"}
        told: dict[str, object] = {key: held[own].tolist() for key, own in names.items()}
        return told | {"products": held["products"]}, held

    def density(self, matrix: Operator) -> dict[str, object]:
        """Return the density on a grid, with its band, and the quadrature it is made of."""
        recipe = self.recipe

        def work(follow: Follow) -> dict[str, Any]:
            found = spectral_density(
                matrix,
                probes=recipe.probes,
                steps=recipe.steps,
                generator=stream(recipe.seed, "density"),
                state=follow.begun,
                watch=follow,
            )
            return {"nodes": found.nodes, "weights": found.weights, "products": found.products}

        held = self.stages("density", recipe.probes, work)
        return density_entry(Density(held["nodes"], held["weights"], held["products"]))

    def trace(self, matrix: Operator) -> dict[str, object]:
        """Return the trace with its error."""
        recipe = self.recipe

        def work(follow: Follow) -> dict[str, Any]:
            found = trace(
                matrix,
                products=recipe.trace_products,
                generator=stream(recipe.seed, "trace"),
                method=recipe.trace_method,
                state=follow.begun,
                watch=follow,
            )
            assert found.error is not None
            return {"value": found.value, "error": found.error, "products": found.products}

        held = self.stages("trace", recipe.trace_products, work)
        finite = isfinite(held["value"]) and isfinite(held["error"])
        require(finite, "model", "have finite products with its Hessian", f"a trace of {held['value']}")
        return {**held, "confidence": CONFIDENCE, "method": recipe.trace_method}

    def differences(self) -> list[dict[str, object]]:
        """Return the curvature along the top eigenvector and a random direction, by differences of gradients at several steps."""
        recipe = self.recipe
        directions = {"top eigenvector": self.vectors[0], "random": self._drawn()}

        def work(follow: Follow) -> dict[str, Any]:
            rows: list[dict[str, object]] = []
            matrix = self.whole(hessian, 0)
            for name, v in directions.items():
                frozen = float(v @ matrix(v))
                for step in recipe.recraft_steps:
                    rows.append({"direction": name, **asdict(difference(self.loss, v, step)), "frozen": frozen})
                    follow({})
            return {"rows": json.dumps(rows)}

        held = self.stages("crafting-anew", 2 * len(recipe.recraft_steps), work)
        return cast(list[dict[str, object]], json.loads(held["rows"]))

    def _drawn(self) -> Tensor:
        """Return a random unit vector (D,) of the space that is looked at."""
        nothing = torch.empty(1, 0, self.loss.size, dtype=torch.float64)
        drawn = fresh_direction(nothing, stream(self.recipe.seed, "direction"))[0]
        if self.tangent is not None:
            inside = (self.tangent @ drawn) @ self.tangent
            drawn = inside if self.recipe.subspace == "tangent" else drawn - inside
        return drawn / drawn.norm()


def density_entry(density: Density) -> dict[str, object]:
    """Return a density as JSON values: smoothed on its grid, with Student's 99 % interval over the probes, and its quadrature."""
    from scipy.special import stdtrit  # a quarter of a second to import

    grid = density.grid()
    values, error = density.smoothed(grid)
    half = float(stdtrit(density.probes - 1, (1 + CONFIDENCE) / 2)) * error
    return {
        "points": grid.tolist(),
        "values": values.tolist(),
        "low": (values - half).clamp_min(0).tolist(),
        "high": (values + half).tolist(),
        "confidence": CONFIDENCE,
        "width": density.width,
        "probes": density.probes,
        "steps": density.nodes.shape[1],
        "products": density.products,
        "nodes": density.nodes.tolist(),
        "weights": density.weights.tolist(),
    }
