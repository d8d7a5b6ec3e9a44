"""`spectral_density`: how the eigenvalues of a symmetric operator are distributed, from Lanczos processes at random starts."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from math import ceil, pi, sqrt

import torch
from torch import Tensor

from isthmus._check import require
from isthmus.curvature.lanczos import Process, lanczos_process
from isthmus.curvature.operator import Operator, precision_of
from isthmus.curvature.trace import State, random_signs


@dataclass(frozen=True, eq=False)
class Density:
    """One discrete distribution for each of P probes; their mean estimates that of the eigenvalues, their spread its error.

    Methods return an estimate and its standard error between the probes, NaN for a single probe.
    """

    nodes: Tensor
    """(P, S) float64, ascending: Ritz values, in the unit of the eigenvalues."""
    weights: Tensor
    """(P, S) float64: the share of each, at least 0, each row of sum 1; 0 behind the last node of a space that was used up."""
    products: int

    @property
    def probes(self) -> int:
        """Return P."""
        return len(self.nodes)

    @property
    def width(self) -> float:
        """Return the standard deviation with which `smoothed` blurs unless told: a hundredth of the range of the nodes.

        Where all nodes are equal, a hundredth of their magnitude; 0.01 where that is zero too.
        """
        span = float(self.nodes.max() - self.nodes.min())
        return 0.01 * (span or float(self.nodes.abs().max()) or 1.0)

    def cumulative(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Return the estimated share of eigenvalues <= x, for x (G,): (G,) in [0, 1], and its standard error."""
        below = self._sums().gather(1, self._index(x))
        return below.mean(0), _error(below)

    def bracket(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Return bounds (G,), (G,) of what `cumulative` would be after all D steps with the same start vectors.

        With theta_i <= x < theta_{i+1} and c_i = w_1 + ... + w_i they are the means of c_{i-1} and c_{i+1}, by the inequality of
        Chebyshev, Markov and Stieltjes (Szego 1939, section 3.41). What the choice of start vectors adds is the standard error.
        """
        sums, index = self._sums(), self._index(x)
        low = sums.gather(1, (index - 1).clamp_min(0)).mean(0)
        return low, sums.gather(1, (index + 1).clamp_max(self.nodes.shape[1])).mean(0)

    def smoothed(self, grid: Tensor, *, width: float | None = None) -> tuple[Tensor, Tensor]:
        """Return the density (G,) at `grid`, one over the unit of the eigenvalues, blurred by a Gaussian, and its standard error.

        width: its standard deviation, above 0. Integrates to 1 over the line; over :meth:`grid` by the trapezoidal rule to 1e-5.
        """
        width = self._width(width)
        distance = (grid.double()[None, None] - self.nodes[:, :, None]) / width
        bells = distance.square().div(-2).exp() / (width * sqrt(2 * pi))
        found = (bells * self.weights[:, :, None]).sum(1)
        return found.mean(0), _error(found)

    def grid(self, *, width: float | None = None) -> Tensor:
        """Return (G,) evenly spaced points from 5 widths below the lowest node to 5 above the highest, half a width apart or less."""
        width = self._width(width)
        low, high = float(self.nodes.min()) - 5 * width, float(self.nodes.max()) + 5 * width
        return torch.linspace(low, high, ceil(2 * (high - low) / width) + 1, dtype=torch.float64)

    def moment(self, order: int) -> tuple[float, float]:
        """Return the mean of the eigenvalues to the power `order`, tr(A^order) / D, and its standard error.

        Unbiased for orders up to 2 S - 1: so far Gauss quadrature is exact.
        """
        degree = 2 * self.nodes.shape[1] - 1
        require(0 <= order <= degree, "order", f"be between 0 and {degree}, twice the steps less one", order)
        found = (self.weights * self.nodes**order).sum(1)
        return float(found.mean()), float(_error(found))

    def distance(self, eigenvalues: Tensor, *, slack: float = 0.0) -> float:
        """Return the Kolmogorov distance to an exact spectrum (D,): the largest difference of the two cumulative shares, in [0, 1].

        slack: how far, in the unit of the eigenvalues, a node may lie beside an eigenvalue without counting:
        sup_x max(F(x - slack) - G(x), G(x - slack) - F(x)). With 0 a rounding of 1e-16 beside an eigenvalue of many repetitions counts
        in full; a network has most of its eigenvalues at zero, closer than any number of steps tells apart, and `width` says more.
        """
        require(slack >= 0, "slack", "be at least 0", slack)
        require(eigenvalues.ndim == 1 and len(eigenvalues) > 0, "eigenvalues", "be (D,)", str(tuple(eigenvalues.shape)))
        exact, nodes = eigenvalues.double().sort().values, self.nodes.flatten().sort().values

        def share(x: Tensor) -> Tensor:
            return torch.searchsorted(exact, x, right=True).double() / len(exact)

        above = self.cumulative(nodes)[0] - share(nodes + slack)
        below = share(exact) - self.cumulative(exact + slack)[0]
        return max(0.0, float(above.max()), float(below.max()))

    def _sums(self) -> Tensor:
        """Return (P, S + 1): the weights summed, from 0 to 1."""
        return torch.nn.functional.pad(self.weights.cumsum(1), (1, 0))

    def _index(self, x: Tensor) -> Tensor:
        """Return (P, G): how many nodes of each probe are <= x."""
        return torch.searchsorted(self.nodes, x.double().expand(self.probes, -1).contiguous(), right=True)

    def _width(self, width: float | None) -> float:
        width = self.width if width is None else width
        require(width > 0, "width", "be above 0", width)
        return width


def spectral_density(
    operator: Operator,
    *,
    probes: int,
    steps: int,
    generator: torch.Generator,
    state: Mapping[str, Tensor] | None = None,
    watch: Callable[[State], None] | None = None,
) -> Density:
    """Return the distribution of the eigenvalues by stochastic Lanczos quadrature, at most `probes` x `steps` products.

    From a start z / ||z|| of random signs, `steps` Lanczos steps with full re-orthogonalisation give T = U diag(theta) U'; the nodes
    theta_i with the weights U_1i^2 are the Gauss quadrature of the distribution sum_j <q_j, z>^2 / D at the eigenvalues lambda_j, whose
    mean over z is that of the eigenvalues, 1 / D each (Lin et al. 2016, Ubaru et al. 2017, https://doi.org/10.1137/16M1104974; on
    networks Ghorbani et al. 2019, https://arxiv.org/abs/1901.10159). Moments are unbiased up to 2 `steps` - 1; with as many steps as
    distinct eigenvalues the nodes are these. T is solved as the symmetric matrix it is, so no weight is negative or complex.

    Holds `steps` vectors of length D in float64. generator: on the CPU; draws D signs for each probe. watch: called after each probe
    with the state so far, to be saved before it returns. state: to go on from, with the same operator and steps, also to more probes;
    the result is bitwise that of an uninterrupted one.
    Raises InputError for fewer than one probe or step, a state of another estimate, and products that are not finite.
    """
    require(probes >= 1, "probes", "be at least 1", probes)
    require(steps >= 1, "steps", "be at least 1", steps)
    steps = min(steps, operator.size)
    rows = torch.empty(0, 2, steps, dtype=torch.float64)
    counts = torch.empty(0, dtype=torch.int64)
    if state is not None:
        rows, counts = _taken_up(state, probes, steps)
        generator.set_state(state["generator"].cpu())
    while len(rows) < probes:
        row, taken = _probe(operator, steps, generator)
        rows, counts = torch.cat([rows, row[None]]), torch.cat([counts, torch.tensor([taken])])
        if watch is not None:
            watch({"rows": rows, "counts": counts, "generator": generator.get_state()})
    return Density(rows[:, 0].contiguous(), rows[:, 1].contiguous(), int(counts.sum()))


def _taken_up(state: Mapping[str, Tensor], probes: int, steps: int) -> tuple[Tensor, Tensor]:
    found = tuple(state["rows"].shape) if "rows" in state else "no rows"
    fits = "rows" in state and state["rows"].shape[1:] == (2, steps) and len(state["rows"]) <= probes
    fix = "Resume with the operator and steps it was begun with."
    require(fits, "state", f"hold at most {probes} probes of {steps} steps", str(found), fix)
    return state["rows"].clone(), state["counts"].clone()


def _probe(operator: Operator, steps: int, generator: torch.Generator) -> tuple[Tensor, int]:
    """Return nodes and weights (2, steps) of one random start, and the products they took."""
    precision = precision_of(operator)

    def product(v: Tensor) -> Tensor:
        return operator(v[0])[None]

    def used_up(process: Process) -> bool:
        scale = torch.linalg.eigvalsh(process.small).abs().amax(1)
        return bool(process.bad) or bool(process.beta <= 10 * precision * scale)

    start = random_signs(operator.size, generator)[None]
    process = lanczos_process(product, start, steps=steps, precision=precision, generator=generator, stop=used_up)
    finite = not bool(process.bad)
    require(finite, "operator", "have finite products", f"NaN or infinity in product {process.taken} of a probe")
    nodes, vectors = torch.linalg.eigh(process.small[0])
    weights = vectors[0].square() / vectors[0].square().sum()
    left = (0, steps - process.taken)
    padded = torch.nn.functional.pad(nodes, left, value=float(nodes[-1])), torch.nn.functional.pad(weights, left)
    return torch.stack(padded), process.taken


def _error(found: Tensor) -> Tensor:
    """Return the standard error of the mean over rows, NaN for one."""
    return found.std(0) / sqrt(len(found)) if len(found) > 1 else torch.full_like(found[0], torch.nan)
