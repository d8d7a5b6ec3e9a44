"""`LandscapeRecipe`: which slice of weight space is measured, and what is measured there."""

from re import fullmatch
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

from isthmus._check import InputError, require, unknown
from isthmus.attacks.threat import Norm
from isthmus.geometry.slices import Normalise
from isthmus.table import Split
from isthmus.training.adversary import Radius

DIRECTIONS = {
    "eigen": "top eigenvectors of the Hessian of the loss at the model",
    "random": "Gaussian directions, scaled to the model's filters (Li et al. 2018)",
    "plane": "the plane through three models (Garipov et al. 2018)",
    "tangent": "the tangent of a bridge at --at",
    "trajectory": "principal components of the weights in --trajectory (Li et al. 2018)",
}
MARGINS = ("plane", "trajectory")  # whose range is a margin around what is shown
MOVING = (
    "plane",
    "tangent",
)  # whose points are no changes of one model: statistics are recomputed there unless told otherwise


class LandscapeRecipe(BaseModel):
    """Which slice, what is measured there, on which images.

    models: one weight file, three of them for `plane`, or a bridge (file or folder) with `at`, the model at these coordinates.
    directions: one of :data:`DIRECTIONS`. dim: 1 or 2 axes; None for 2, and for 1 along the tangent of a curve. grid: `21` points along
    each axis, or `21x31`. range: coordinates run over -range..range, in units of the directions' lengths; for `plane` and `trajectory` the
    margin around what is shown, as a share of its extent. None for 1, and 0.25 as a margin.
    adversary: `pgd` measures the loss under attack as well (norm, eps, attack_steps, attack_step in radii), examples crafted anew at each
    point, or with `frozen` once at the centre. n: at most so many images of `split`, a stratified choice; None for all.
    settle: BatchNorm statistics of the points: `keep` those of the centre, or `recalibrate` on at most `settle_n` training images at
    every point; None for `recalibrate` in a plane or a tangent, `keep` elsewhere. normalise, orthogonal: of `random`.
    vectors: a file of eigenvectors for `eigen`; without it they are computed on at most `hessian_n` images of `split`, for the loss
    under attack with an adversary, at examples frozen at the centre. trajectory: weight files, or folders with
    snapshots, that are projected into the slice.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    models: tuple[str, ...] = Field(min_length=1)
    directions: str = "eigen"
    data: str | None = None
    arch: str | None = None
    width: int | None = Field(default=None, ge=1)
    size: int | None = Field(default=None, ge=1)
    dim: Literal[1, 2] | None = None
    grid: str = "21"
    range: float | None = None
    adversary: Literal["none", "pgd"] = "none"
    norm: Norm = "linf"
    eps: Radius = 8 / 255
    attack_steps: int = Field(default=10, ge=1)
    attack_step: float = Field(default=0.25, gt=0)
    frozen: bool = False
    n: int | None = Field(default=1000, ge=1)
    split: Split = "test"
    settle: Literal["keep", "recalibrate"] | None = None
    settle_n: int = Field(default=2000, ge=2)
    normalise: Normalise = "filter"
    orthogonal: bool = False
    vectors: str | None = None
    hessian_n: int = Field(default=500, ge=1)
    at: tuple[float, ...] | None = None
    trajectory: tuple[str, ...] = ()
    seed: int = 0

    def require_usable(self) -> None:
        """Raise InputError where settings do not fit each other, before anything is read."""
        if self.directions not in DIRECTIONS:
            raise unknown("directions", self.directions, DIRECTIONS)
        wanted, many = (3, "three models") if self.directions == "plane" else (1, "one model")
        hint = "Three models span a plane: --directions plane." if len(self.models) == 3 else ""
        require(len(self.models) == wanted, "models", f"be {many} for {self.directions}", len(self.models), hint)
        require(self.range is None or 0 < self.range < float("inf"), "range", "be above 0", self.range)
        require(self.split != "validation", "split", "be train or test", self.split)
        for name, given, needs in (
            ("vectors", self.vectors is not None, "eigen"),
            ("orthogonal", self.orthogonal, "random"),
        ):
            require(not given or self.directions == needs, name, f"come with --directions {needs}", self.directions)
        require(not self.frozen or self.adversary != "none", "frozen", "come with --adversary", "none")
        if self.directions == "trajectory" and not self.trajectory:
            raise InputError(
                "`trajectory` should name the weight files whose components are the directions. Found none."
            )

    @property
    def recalibrates(self) -> bool:
        """Return whether BatchNorm statistics are recomputed at each point."""
        return self.settle == "recalibrate" or (self.settle is None and self.directions in MOVING)

    @property
    def extent(self) -> float:
        """Return the range, in units of the directions or as a margin."""
        return (0.25 if self.directions in MARGINS else 1.0) if self.range is None else self.range

    def counts(self, dim: int) -> tuple[int, ...]:
        """Return the points along each of `dim` axes. Raises InputError for what is no such numbers, too few, or without a centre."""
        found = fullmatch(r"(\d+)(?:x(\d+))?", self.grid)
        require(found is not None, "grid", "be a number of points such as 21, or 21x31", self.grid)
        parts = [int(part) for part in self.grid.split("x")]
        parts = parts * dim if len(parts) == 1 else parts
        require(len(parts) == dim, "grid", f"name points for {dim} axis(es)", self.grid)
        require(min(parts) >= 3, "grid", "have at least 3 points along each axis", self.grid)
        centred = self.directions in MARGINS or all(part % 2 for part in parts)
        require(centred, "grid", "have an odd number of points, so that the model is one of them", self.grid)
        return tuple(parts)
