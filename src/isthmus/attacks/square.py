"""Square: random search with windows, which needs no gradient (Andriushchenko et al. 2020, arXiv:1912.00049)."""

from dataclasses import dataclass

import torch
from torch import Tensor

from isthmus._check import require
from isthmus.attacks.protocol import Attacked, Keep, Memory
from isthmus.attacks.square_tiles import Draws, mosaic, moved_mass, painted, stripes
from isthmus.attacks.threat import Threat
from isthmus.attacks.victim import Victim
from isthmus.evaluate import correct
from isthmus.losses import margin


@dataclass(frozen=True)
class Square:
    """x <- x' where the margin max_{j != y} z_j - z_y rises at x', which differs from x in one random window.

    Linf: the start is columns at the faces of the ball, x' has each channel of the window at one face. L2, L1: the start is a mosaic of
    tiles, x' has a window emptied and a tile in another grown by what that frees (:mod:`isthmus.attacks.square_tiles`); L1 as in Croce
    and Hein 2021 (arXiv:2103.01208). A window covers the share p of the image, halved after 10, 50, 200, 500, ... proposals, whatever
    `queries` is.

    queries: forward passes of a restart, the start among them. p: in (0, 1]. restarts: independent ones.

    Differs from the common implementation: windows reach the last row and column; a window that does not fit an image of unequal sides
    grows along the longer one; an x' equal to x is refused without asking the model, so fewer than `queries` passes may be made; the
    colours of a proposal are the same for all images in every norm, like its place, and so depend on nobody's neighbours.
    Images: (B, c, h, w), or vectors (B, D), which are pictures of one row. Raises InputError for other shapes.
    """

    queries: int = 5000
    p: float = 0.8
    restarts: int = 1

    def __post_init__(self) -> None:
        require(self.queries >= 1, "queries", "be at least 1", self.queries)
        require(0 < self.p <= 1, "p", "be above 0 and at most 1, a share of the image", self.p)
        require(self.restarts >= 1, "restarts", "be at least 1", self.restarts)

    @property
    def name(self) -> str:
        """Return `square`, with the restarts where there are several."""
        return "square" + (f"x{self.restarts}" if self.restarts > 1 else "")

    def __call__(
        self,
        victim: Victim,
        threat: Threat,
        x: Tensor,
        y: Tensor,
        *,
        generator: torch.Generator,
        keep: Keep = "verdict",
    ) -> Attacked:
        """Return what was found around each of x (B, ...) with labels y (B,); `loss` is the margin.

        With keep "last" as with "loss": the last point is the best one.
        """
        shapes = "be images (B, c, h, w) or vectors (B, D)"
        require(x.ndim in (2, 4), "x", shapes, tuple(x.shape), "Reshape it: windows need rows and columns.")
        images = x[:, None, None] if x.ndim == 2 else x
        memory = Memory(x, y, keep)
        for _ in range(self.restarts):
            start = (stripes if threat.norm == "linf" else mosaic)(threat, images, generator)
            draws = Draws.of(self.queries - 1, images, generator)
            at = memory.reopen()
            if len(at):
                self._search(victim, _Rows(at, threat.take(at), images[at], start[at], y[at]), draws, memory)
        return memory.result()

    def _search(self, victim: Victim, rows: "_Rows", draws: Draws, memory: Memory) -> None:
        shape = memory.worst.shape[1:]
        propose = painted if rows.threat.norm == "linf" else moved_mass
        rows.weigh(rows.points.clone(), None, victim.logits(rows.points.reshape(-1, *shape)), memory)
        for k in range(self.queries - 1):
            if not len(rows.at):
                return
            candidate, new = propose(draws, k, self.p)(rows.threat, rows.base, rows.points)
            asked = None if bool(new.all()) else new.nonzero().squeeze(1)
            if asked is None or len(asked):
                seen = candidate if asked is None else candidate[asked]
                rows.weigh(seen, asked, victim.logits(seen.reshape(-1, *shape)), memory)
        rows.leave(torch.ones_like(rows.at, dtype=torch.bool), memory)


class _Rows:
    """The images still attacked: place in the batch (K,), image and best point (K, c, h, w), label and margin there (K,)."""

    def __init__(self, at: Tensor, threat: Threat, base: Tensor, points: Tensor, y: Tensor):
        self.at, self.threat, self.base, self.points, self.y = at, threat, base, points, y
        self.held = torch.full((len(at),), -torch.inf, dtype=base.dtype, device=base.device)

    def weigh(self, seen: Tensor, asked: Tensor | None, logits: Tensor, memory: Memory) -> None:
        """Go to those points `seen` (A, c, h, w) where the margin rises, of the rows `asked` (A,), or of all; record the misclassified."""
        asked = torch.arange(len(self.at), device=self.at.device) if asked is None else asked
        y = self.y[asked]
        values, wrong = margin(logits, y).to(self.held.dtype), ~correct(logits, y)
        better = values > self.held[asked]
        if not bool((better | wrong).any()):
            return
        risen = asked[better]
        self.points[risen], self.held[risen] = seen[better], values[better]
        if not bool(wrong.any()):
            return
        fell = asked[wrong]
        ids = self.at[fell]
        new = ~memory.fooled[ids]
        memory.first[ids[new]] = seen[wrong][new].reshape(-1, *memory.first.shape[1:])
        memory.fooled[ids] = True
        if memory.keep == "verdict":
            leaves = torch.zeros_like(self.at, dtype=torch.bool)
            leaves[fell] = True
            self.leave(leaves, memory)

    def leave(self, rows: Tensor, memory: Memory) -> None:
        """Record the best points of those rows (K,) and go on with the others."""
        ids, held = self.at[rows], self.held[rows]
        higher = held > memory.loss[ids]
        memory.loss[ids[higher]] = held[higher]
        memory.worst[ids[higher]] = self.points[rows][higher].reshape(-1, *memory.worst.shape[1:])
        self.at, self.base, self.points, self.y = (part[~rows] for part in (self.at, self.base, self.points, self.y))
        self.held, self.threat = self.held[~rows], self.threat.take(~rows)
